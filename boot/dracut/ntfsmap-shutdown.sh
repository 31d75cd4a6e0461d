#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by dracut at shutdown, back in the initramfs, when the old root is unmounted: closes what is open. It is
# called until it succeeds, while others take away what lies on top.

# udevd is gone, and what it left behind must not make libdevmapper wait for it.
rm -rf /run/udev

# Parents, data files and what is below an overlay go with the image that they belong to.
ntfsmap_left=0
for ntfsmap_dm in /sys/class/block/dm-*/dm; do
	[ -e "$ntfsmap_dm/uuid" ] || continue
	case $(cat "$ntfsmap_dm/uuid") in
	NTFSMAP-BASE-* | NTFSMAP-DATA-* | NTFSMAP-ORIGIN-* | NTFSMAP-COW-*) ;;
	NTFSMAP-*) ntfsmap close "$(cat "$ntfsmap_dm/name")" || ntfsmap_left=1 ;;
	esac
done
[ "$ntfsmap_left" = 0 ]
