#!/usr/bin/env bash
# Builds dm-vdisk.ko for the kernel that the test machine boots (kernel.sh) and prints its path. The headers are the
# running system's for its own kernel, or what the modules' folder links to as `build`; else Debian's packages,
# downloaded and unpacked into the cache. Nothing is installed. The sources are copied to build/module/VERSION,
# because kbuild leaves its objects beside them.
# NTFSMAP_KO names a module that was built elsewhere, for a kernel whose headers' programs do not run here.
# Exit status: 77 when there are no headers, compiler or kernel; 125 when it does not build.
set -euo pipefail
shopt -s nullglob
here=$(realpath "$(dirname "$0")")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

top=$(realpath "$here/../..")
sources=("$top"/Kbuild "$top"/dm-vdisk/*.[ch] "$top"/libvdisk/*.[ch])

# The packages with the headers of $version: for the architecture, common ones, and the programs that build.
header_packages() {
	echo "linux-headers-$version"
	apt-cache depends "linux-headers-$version" 2>/dev/null |
		awk '$1 == "Depends:" && $2 ~ /^linux-(headers|kbuild)-/ { print $2 }'
}

download() {
	local packages
	mapfile -t packages < <(header_packages)
	# As root apt-get warns that its own user cannot write here; only errors matter.
	(cd "$work" && apt-get -q download "${packages[@]}" >apt.log 2>&1) || {
		cat "$work/apt.log" >&2
		return 1
	}
}

# The packages name each other as /usr/src/...: make that where they will be.
unpack() {
	local package
	for package in "$work"/*.deb; do
		dpkg-deb -x "$package" "$work/tree"
	done
	sed -i "s|/usr/src/|$headers/usr/src/|g" "$work/tree/usr/src/linux-headers-$version/Makefile"
}

fetch() {
	[ ! -d "$headers" ] || return 0
	echo "vm: downloading the headers of $version into $cache (they are not installed)" >&2
	workspace
	download || skip "cannot download the headers of $version"
	unpack
	mv -T "$work/tree" "$headers"
}

# Sets $build to the folder that make -C takes.
find_headers() {
	build=$modules/build
	[ ! -e "$build/Makefile" ] || return 0
	headers=$cache/linux-headers-$version
	build=$headers/usr/src/linux-headers-$version
	[ ! -e "$build/Makefile" ] || return 0
	[ "${INSTALL:-yes}" != no ] || skip "no headers of $version in $cache, and INSTALL=no forbids to download them"
	command -v apt-get >/dev/null || skip "no headers of $version: install them"
	locked headers fetch
}

# What an up-to-date module was made from and with, without reading the headers.
recipe() {
	echo "$build ${CI:-}"
	cat "${sources[@]}" | sha256sum
}

# The tree in $out may be of older sources: files that are gone there must not be linked.
copy_sources() {
	local file to
	for file in "$out"/{dm-vdisk,libvdisk}/*.[ch]; do
		[ -e "$top/${file#"$out/"}" ] || rm -f "$file"
	done
	mkdir -p "$out/dm-vdisk" "$out/libvdisk"
	for file in "${sources[@]}"; do
		to=$out/${file#"$top/"}
		cmp -s "$file" "$to" || cp "$file" "$to"
	done
}

make_module() {
	local now
	now=$(recipe)
	[ ! -e "$out/dm-vdisk.ko" ] || [ "$(cat "$out/recipe" 2>/dev/null)" != "$now" ] || return 0
	copy_sources
	rm -f "$out/recipe"
	make -C "$build" M="$out" CI="${CI:-}" modules >"$out/log" 2>&1 || {
		cat "$out/log" >&2
		broken "dm-vdisk does not build for $version"
	}
	grep -E 'warning:' "$out/log" >&2 || true
	echo "$now" >"$out/recipe"
}

for tool in make gcc; do
	type -P "$tool" >/dev/null || skip "$tool is not installed"
done
found=$("$here/kernel.sh")
mapfile -t found <<<"$found"
modules=${found[1]}
version=${modules##*/}
if [ -n "${NTFSMAP_KO:-}" ]; then
	[ "$(modinfo -F vermagic "$NTFSMAP_KO" | cut -d' ' -f1)" = "$version" ] || broken "$NTFSMAP_KO is not for $version"
	realpath "$NTFSMAP_KO"
	exit
fi
find_headers
out=$top/build/module/$version
mkdir -p "$out"
exec {lock}>"$out/lock"
flock "$lock"
make_module
echo "$out/dm-vdisk.ko"
