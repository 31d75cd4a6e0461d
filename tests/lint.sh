#!/bin/bash
# make lint: the style of C by clang-format, mistakes by cppcheck and the compiler, shell by shellcheck. Other versions
# of clang-format break some lines elsewhere, so this is not part of `make check`.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0

c_files() {
	git ls-files '*.c' '*.h' 2>/dev/null || find libvdisk ntfsmap tests -name '*.[ch]'
}

shell_files() {
	local file
	git ls-files '*.sh' '*.t' '*.bash' tests/vm/run tests/vm/init .ci/run \
		boot/initramfs-tools boot/mkinitcpio/install boot/mkinitcpio/hook | while read -r file; do
		head -1 "$file" | grep -q perl || echo "$file"
	done
}

attempt() {
	echo "$1"
	shift
	"$@" || failed=1
}

mapfile -t c < <(c_files)
mapfile -t sh < <(shell_files)
attempt "clang-format" clang-format --dry-run --Werror "${c[@]}"
attempt "cppcheck" cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
	--inline-suppr --suppress=missingIncludeSystem -D_GNU_SOURCE '-DVERSION=""' '-DUNITDIR=""' boot libvdisk ntfsmap
attempt "warnings as errors" make --no-print-directory --silent CI=true B=build/lint all
attempt "shellcheck" shellcheck --severity=warning "${sh[@]}"
[ "$failed" = 0 ] && echo "lint: nothing found"
exit "$failed"
