#!/usr/bin/env bash
# Which kernel the test machine boots: prints the path of its image and of its lib/modules/VERSION, a line each.
# The first of: $NTFSMAP_KERNEL with $NTFSMAP_MODULES; the running system's; the one in the cache; Debian's
# package, downloaded and unpacked into the cache. Nothing is ever installed.
# Exit status: 77 when there is none.
set -euo pipefail
shopt -s nullglob
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

# What a machine needs to come up (see image.sh) and be of use.
needed=(virtio_pci virtio_blk 9p 9pnet_virtio overlay dm-mod)

# Can the test machine boot this image with these modules?
usable() {
	local image=${1:-} modules=${2:-} module
	[ -r "$image" ] && [ -r "$modules/modules.dep" ] || return 1
	for module in "${needed[@]}"; do
		grep -qs "/$module\.ko" "$modules/modules.dep" "$modules/modules.builtin" || return 1
	done
}

# Succeeds, and prints them, when they can be used.
offer() {
	usable "$@" && printf '%s\n' "$@"
}

cached() {
	local folder
	while read -r folder; do
		offer "$folder"/boot/vmlinuz-* "$folder"/lib/modules/* && return
	done < <(find "$cache" -maxdepth 1 -name 'linux-image-*' 2>/dev/null | sort -rV)
	return 1
}

# The package behind Debian's linux-image-ARCH, which always means the newest.
newest_package() {
	apt-cache depends "linux-image-$(dpkg --print-architecture)" 2>/dev/null |
		awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { name = $2 } END { print name }'
}

download() {
	# As root apt-get warns that its own user cannot write here; only errors matter.
	(cd "$work" && apt-get -q download "$(newest_package)" >apt.log 2>&1) || {
		cat "$work/apt.log" >&2
		return 1
	}
}

has_lists() {
	compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}

# Package lists may be missing, or older than what the server still has; only root can mend that.
refresh_lists() {
	if [ "$(id -u)" = 0 ]; then
		apt-get -q update >&2
	else
		sudo -n apt-get -q update >&2
	fi
}

unpack() {
	local modules
	dpkg-deb -x "$work"/*.deb "$work/tree"
	cd "$work/tree"
	# lib/modules or usr/lib/modules, by the release: have both, so that any depmod finds it.
	[ -d lib ] || mv usr/lib lib
	rm -rf usr
	mkdir usr
	ln -s ../lib usr/lib
	modules=(lib/modules/*)
	[ -e "${modules[0]}/modules.dep" ] || PATH=$PATH:/usr/sbin:/sbin depmod -b . "${modules[0]##*/}"
}

fetch() {
	local name target
	cached && return
	echo "vm: downloading a kernel package into $cache (it is not installed)" >&2
	has_lists || refresh_lists || true
	[ -n "$(newest_package)" ] || skip "apt-get knows no kernel package of Debian's: set NTFSMAP_KERNEL and NTFSMAP_MODULES"
	workspace
	download || { refresh_lists && download; } || skip "cannot download a kernel package"
	(unpack)
	name=$(basename "$work"/*.deb)
	target=$cache/${name%%_*}
	rm -rf "$target" # there only when it is damaged
	mv -T "$work/tree" "$target"
	cached || broken "the kernel in $target lacks one of: ${needed[*]}"
}

main() {
	local release
	if [ -n "${NTFSMAP_KERNEL:-}${NTFSMAP_MODULES:-}" ]; then
		offer "${NTFSMAP_KERNEL:-}" "${NTFSMAP_MODULES:-}" ||
			broken "NTFSMAP_KERNEL and NTFSMAP_MODULES must name a kernel and its modules, with: ${needed[*]}"
		return
	fi
	release=$(uname -r)
	offer "/boot/vmlinuz-$release" "/lib/modules/$release" && return
	cached && return
	[ "${INSTALL:-yes}" != no ] || skip "no kernel in $cache, and INSTALL=no forbids to download one"
	command -v apt-get >/dev/null || skip "no kernel for the test machine: set NTFSMAP_KERNEL and NTFSMAP_MODULES"
	locked kernel fetch
}

main
