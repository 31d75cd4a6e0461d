#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# vdisk-check KERNEL: fails when this system will not start from an initramfs for this kernel, because its root lies in
# an image that needs the module dm-vdisk, and there is none for this kernel. The hooks call it while they build one.
set -u
PATH=$PATH:/usr/sbin:/sbin
kernel=$1
tab=${NTFSMAPTAB:-/etc/ntfsmaptab}

# The dm devices under a block device, itself included, by the kernel's names.
below() {
	[ ! -e "/sys/class/block/$1/dm" ] || echo "$1"
	for slave in "/sys/class/block/$1/slaves"/*; do
		[ ! -e "$slave" ] || (below "${slave##*/}")
	done
}

# Has the device, or one below it, a table with the target?
uses_vdisk() {
	below "$1" | while read -r dm; do
		dmsetup table "/dev/$dm" 2>/dev/null
	done | grep -q '^[0-9]* [0-9]* vdisk '
}

# block_device PATH: the kernel's name for it.
block_device() {
	node=$(readlink -f "$1") && [ -b "$node" ] && echo "${node##*/}"
}

# would_use_vdisk NAME SOURCE OPTION...: 0 yes, 1 no, 2 nobody can tell
would_use_vdisk() {
	if device=$(block_device "/dev/mapper/$1"); then
		uses_vdisk "$device"
		return
	fi
	source=$2
	shift 2
	for option; do
		shift
		option=$(unescape "$option")
		case $option in
		static) return 1 ;;
		ro) set -- "$@" --readonly ;;
		parent=* | data=* | format=* | snapshot=* | allow=*) set -- "$@" "--$option" ;;
		esac
	done
	table=$(ntfsmap table --concise "$@" x "$source" 2>/dev/null) || return 2
	case $table in
	*" vdisk "*) return 0 ;;
	esac
	return 1
}

# In the tab \040 is a blank, and so on; a backslash without three octal digits is one.
unescape() {
	printf %b "$(printf '%s\n' "$1" | sed 's/\\/\\\\/g; s/\\\\\([0-3][0-7][0-7]\)/\\0\1/g')"
}

# complain WHAT: what needs the module that is not there
complain() {
	echo "ntfsmap: $1 lies in an image that needs the kernel module dm-vdisk, and there is none for $kernel:" \
		"build and install it for this kernel first (dkms autoinstall -k $kernel, or in its sources make" \
		"modules_install KVER=$kernel), then make the initramfs again" >&2
	exit 1
}

# look_at LINE-OF-THE-TAB
look_at() {
	# A field has no blanks, and a * is none for the shell.
	set -f
	# shellcheck disable=SC2086
	set -- $1
	name=$(unescape "$1") source=$(unescape "$2")
	IFS=,
	# shellcheck disable=SC2086
	set -- ${3-}
	unset IFS
	would_use_vdisk "$name" "$source" "$@"
	case $? in
	0) complain "$name of $tab" ;;
	2)
		echo "ntfsmap: $source of $tab cannot be read now, so it is not known whether it needs the module" \
			"dm-vdisk, which $kernel does not have" >&2
		;;
	esac
}

! modinfo -k "$kernel" dm_vdisk >/dev/null 2>&1 || exit 0

root=$(findmnt --noheadings --nofsroot --output SOURCE / 2>/dev/null)
if device=$(block_device "$root") && uses_vdisk "$device"; then
	complain "the root file system"
fi
grep -s '^[[:blank:]]*[^#[:blank:]].*x-initrd\.attach' "$tab" | while read -r line; do
	(look_at "$line") || exit
done
