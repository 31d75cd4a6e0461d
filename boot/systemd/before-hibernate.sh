#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Called before Linux hibernates, installed as /usr/lib/ntfsmap/before-hibernate: fails while an image on an NTFS volume
# is open that can be written.
#
# A Linux that wakes up goes on with its old tables, and with what its file systems have in memory. If Windows ran in
# between and moved, changed or deleted the file, that destroys other files, or what Windows wrote. Nothing that runs
# before the resume can know what the sleeping kernel has mapped, and the first program after it comes too late. So this
# is refused.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Nobody can have opened anything without the driver.
grep -q ' device-mapper$' /proc/devices || exit 0

if ! all=$(dmsetup info -c --noheadings --separator ' ' -o name,attr,uuid 2>&1); then
	echo "<3>ntfsmap: Linux must not hibernate while images on NTFS volumes are open, and what is open cannot be" \
		"seen, as dmsetup failed: $all" >&2
	exit 1
fi

# A UUID is NTFSMAP-[KIND-]FORMAT-PLACE-...-NAME; what does not lie on NTFS has FILE or DEVICE for a place. The fourth
# letter of the attributes is "w" or "r". What stands behind an image is closed with it, by its name.
open=
while read -r name attributes uuid; do
	case $attributes/$uuid in
	*w/NTFSMAP-COW-TMPFS-*) continue ;;
	*w/NTFSMAP-*) ;;
	*) continue ;;
	esac
	place=${uuid#NTFSMAP-}
	case $place in
	BASE-* | REPAIR-* | ORIGIN-*) place=${place#*-} ;;
	DATA-*) place=${place#*-} name=${name%-data} ;;
	COW-*) place=${place#*-} name=${name%-cow} ;;
	esac
	case ${place#*-} in
	FILE-* | DEVICE-*) continue ;;
	esac
	case " $open " in
	*" $name "*) ;;
	*) open="$open $name" ;;
	esac
done <<END
$all
END

# What dmsetup made, of a table that `ntfsmap SOURCE` printed or of any other, has no UUID of ours. It shows by lying on
# an NTFS partition, or on a loop device over one; what lies on our own devices goes with those.
is_ntfs_volume() {
	case $(cat "/sys/class/block/$1/dm/uuid" 2>/dev/null) in
	NTFSMAP-* | part*-NTFSMAP-*) return 1 ;;
	esac
	case $(cat "/sys/class/block/$1/loop/backing_file" 2>/dev/null) in
	"" | /dev/*) ;;
	*) return 1 ;;
	esac
	[ "$(dd if="/dev/$1" bs=1 skip=3 count=8 2>/dev/null | tr -d '\0')" = 'NTFS    ' ]
}

others=
for dm in /sys/class/block/dm-*; do
	[ "$(cat "$dm/ro" 2>/dev/null)" = 0 ] || continue
	case $(cat "$dm/dm/uuid") in
	NTFSMAP-* | part*-NTFSMAP-*) continue ;;
	esac
	for slave in "$dm"/slaves/*; do
		is_ntfs_volume "${slave##*/}" || continue
		others="$others $(cat "$dm/dm/name")"
		break
	done
done

[ -n "$open$others" ] || exit 0
do=
[ -z "$open" ] || do=" ntfsmap close$open;"
[ -z "$others" ] || do="$do dmsetup remove$others;"
echo "<3>ntfsmap: Linux must not hibernate while images on NTFS volumes are open that can be written (Windows may" \
	"move them meanwhile):$open$others. End what uses them, then$do or shut down. ntfsmap-generator(8) says more" >&2
exit 1
