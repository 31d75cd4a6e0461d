#!/usr/bin/env bash
# Installs what packages.txt lists and this system lacks: tests/deps.sh [GROUP...], without a group all.
# INSTALL=no only names what is missing. Never a kernel, a boot loader, or at the price of a removal.
set -euo pipefail

list=$(dirname "$0")/../packages.txt

# "PACKAGE[|ALTERNATIVE]...<tab>reason" for each line of the groups asked for.
wanted() {
	awk -v groups=" $* " '
		/^[[:space:]]*(#|$)/ { next }
		groups ~ /^ +$/ || index(groups, " " $1 " ") {
			reason = $0; sub(/^[^#]*# */, "", reason); print $2 "\t" reason
		}' "$list"
}

check_groups() {
	local group
	for group; do
		grep -q "^$group " "$list" || { echo "deps.sh: packages.txt has no group '$group'" >&2; exit 1; }
	done
}

# "PACKAGE<tab>reason" for each wanted line of which no alternative is installed.
missing() {
	local installed names reason
	# dpkg-query fails when it does not know a package, and still answers for the others.
	# shellcheck disable=SC2046 # a list of names
	installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $(wanted "$@" | cut -f1 | tr '|' ' ') \
		2>/dev/null || true)
	wanted "$@" | while IFS=$'\t' read -r names reason; do
		grep -qxF "installed ${names//|/$'\n'installed }" <<<"$installed" ||
			printf '%s\t%s\n' "${names%%|*}" "$reason"
	done
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "deps.sh: installing needs root or sudo" >&2
		exit 1
	fi
}

# Package lists may be missing (a fresh container) or stale (a package has moved on): both end with an update.
apt_update() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update
}

apt_install() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends --no-remove install "$@"
}

# Kernels and boot loaders that installing these packages would bring along. GRUB's tools and modules are none: they
# lie in /usr until somebody calls grub-install.
boot_packages() {
	apt-get -s --no-install-recommends install "$@" 2>/dev/null |
		sed -nE -e '/^Inst (grub2?-common|grub-[^ ]*-bin) /d' -e 's/^Inst ((linux-image|linux-modules|grub|shim|systemd-boot|syslinux|extlinux|lilo|refind)[^ ]*).*/\1/p'
}

install_missing() {
	local boot
	apt-cache show "$@" >/dev/null 2>&1 || apt_update || true
	boot=$(boot_packages "$@" | xargs)
	if [ -n "$boot" ]; then
		echo "deps.sh: not installing anything: apt-get would add $boot too" >&2
		exit 1
	fi
	apt_install "$@" || { apt_update && apt_install "$@"; }
}

main() {
	local lines packages
	check_groups "$@"
	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		echo "deps.sh: no apt-get here; these are the Debian names of what is needed: $(wanted "$@" | cut -f1 | xargs)"
		exit 0
	fi
	lines=$(missing "$@")
	[ -n "$lines" ] || exit 0
	mapfile -t packages < <(cut -f1 <<<"$lines")
	if [ "${INSTALL:-yes}" = no ]; then
		echo "deps.sh: missing, and not installed because of INSTALL=no: ${packages[*]}"
		exit 0
	fi
	echo "Installing with apt-get, as packages.txt asks:"
	awk -F'\t' '{ printf "  %-18s %s\n", $1, $2 }' <<<"$lines"
	install_missing "${packages[@]}"
}

main "$@"
