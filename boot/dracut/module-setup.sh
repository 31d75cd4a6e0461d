#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Called by dracut(8), installed as /usr/lib/dracut/modules.d/90ntfsmap/module-setup.sh: what opens the image that the
# root file system lies in goes into the initramfs. Always, also where dracut makes one for this machine only: whether
# this machine needs it tells nothing about the one that is started next.

ntfsmap=@BINDIR@/ntfsmap
ntfsmap_lib=@BOOTDIR@

check() {
	[[ -x $ntfsmap ]]
}

# dm: its rules keep what udev knows about the devices until the system itself runs.
depends() {
	echo dm rootfs-block
}

installkernel() {
	# shellcheck disable=SC2046 # a list of words
	hostonly='' instmods $(sed 's/#.*//' "$ntfsmap_lib/modules")
}

install() {
	# dracut has no other way to end without an image.
	# shellcheck disable=SC2154
	"$ntfsmap_lib/vdisk-check" "$kernel" || {
		dfatal "no initramfs was made for $kernel"
		exit 1
	}
	inst "$ntfsmap" /usr/sbin/ntfsmap
	inst_multiple blkid dmsetup modprobe sed grep cat sleep mkdir rm mv
	inst_simple "$ntfsmap_lib/runtime.sh" /usr/lib/ntfsmap/runtime.sh
	if grep -qs '^[[:blank:]]*[^#[:blank:]].*x-initrd\.attach' /etc/ntfsmaptab; then
		inst_simple /etc/ntfsmaptab
	fi
	# inst_rules would bring what they start in the system: here only the hooks open something.
	inst_multiple -o /usr/lib/udev/rules.d/{11-dm-ntfsmap,62-ntfsmap}.rules
	# shellcheck disable=SC2154
	inst_hook initqueue/settled 20 "$moddir/ntfsmap-up.sh"
	inst_hook cleanup 20 "$moddir/ntfsmap-stop.sh"
	# Before dm's own, number 25, which takes away everything by force.
	inst_hook shutdown 24 "$moddir/ntfsmap-shutdown.sh"
	dracut_need_initqueue
}
