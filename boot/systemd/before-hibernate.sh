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

[ -n "$open" ] || exit 0
echo "<3>ntfsmap: Linux must not hibernate while images on NTFS volumes are open that can be written (Windows may" \
	"move them meanwhile):$open. End what uses them, then ntfsmap close$open; or shut down." \
	"ntfsmap-generator(8) says more" >&2
exit 1
