#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Called by systemd-sleep(8), installed as /usr/lib/systemd/system-sleep/ntfsmap: "pre" or "post", and how Linux sleeps.
#
# While Linux was hibernated, Windows may have run and moved, replaced or deleted a file that is mapped. The kernel that
# wakes up has the old table, and would write to clusters that belong to something else now. So every open mapping is
# compared with the volume, and one that is not where the volume says gets a table whose I/O fails: writers get an
# error at once, and dirty pages stay in memory. Its users then have to be ended, and it can be closed.
#
# The table is replaced with --noflush and --nolockfs: otherwise the kernel freezes the file system above it first, and
# that writes all of its dirty pages to the very places that must not be written. (On the kernels
# that were tried --noflush alone does; --nolockfs says what is meant.)
#
# What this cannot do:
# - The kernel thaws all tasks before systemd runs this. What is written until the table is replaced, a fraction of a
#   second for each mapping, goes where the file was.
# - It looks at where the file lies and at what Windows may still do to it, not at what is in it: if Windows wrote to
#   the image, a file system that was mounted from it has old contents in memory and destroys new ones, and nothing
#   tells.
# - It sees only what ntfsmap itself opened: what dmsetup made from a table that ntfsmap printed has no UUID of ours, and
#   nothing tells which file it was.
# - It is no help where systemd does not put the machine to sleep, nor if it lies on the mapping that it has to end.
# So close what can be written before hibernating Linux: ntfsmap(8), WHEN LINUX HIBERNATES TOO.
set -u
PATH=$PATH:/usr/local/sbin

case ${1-}/${2-} in
post/hibernate | post/hybrid-sleep | post/suspend-then-hibernate) ;;
*) exit 0 ;;
esac

# To the journal, or else to syslog. No program is needed for the former, which may have lain on a mapping.
say() {
	if [ -n "${JOURNAL_STREAM-}" ]; then
		echo "<2>ntfsmap: $*" >&2
	else
		echo "ntfsmap: $*" >&2
		logger -t ntfsmap -p daemon.crit -- "$*" 2>/dev/null
	fi
}

# fence NAME WHY
fence() {
	dmsetup message "$1" 0 fail 2>/dev/null # the target vdisk would commit once more; others know no such message
	if why_not=$(dmsetup wipe_table --noflush --nolockfs "$1" 2>&1); then
		say "/dev/mapper/$1 is not what it was before hibernation, and all of its I/O fails from now on: $2." \
			"End what uses it, unmount it (ntfsmap status $1 shows its users), ntfsmap close $1, then" \
			"ntfsmap check its SOURCE and open it again"
	else
		say "/dev/mapper/$1 is not what it was before hibernation, and could not be stopped ($why_not):" \
			"switch the machine off, what is written there destroys other files: $2"
	fi
}

# examine NAME ATTRIBUTES UUID: these as dmsetup-info(8) has them. A UUID is NTFSMAP-[KIND-]FORMAT-PLACE-...-NAME, and a
# name may be anything.
examine() {
	difference=$(ntfsmap verify --quiet "$1" 2>&1 >/dev/null)
	code=$?
	place=${3#NTFSMAP-}
	case $place in
	BASE-* | DATA-* | REPAIR-* | ORIGIN-* | COW-*) place=${place#*-} ;;
	esac
	place=${place#*-}
	case $code/$2/$place in
	0/*) ;;
	6/*) fence "$1" "$difference" ;;
	*/*/FILE-* | */*/DEVICE-* | */*r/*)
		# It lies on no NTFS volume, or cannot write.
		say "/dev/mapper/$1 could not be compared with what it was before hibernation: $difference"
		;;
	*) fence "$1" "nobody knows whether its file has moved: $difference" ;;
	esac
}

# A device without a live table ("-" in front) maps nothing. Those that can write go first.
if ! all=$(dmsetup info -c --noheadings --separator ' ' -o name,attr,uuid 2>&1); then
	cat /sys/class/block/dm-*/dm/uuid 2>/dev/null | grep -q '^NTFSMAP-' &&
		say "what is open could not be compared with what it was before hibernation, as dmsetup failed ($all):" \
			"run ntfsmap verify, and end what writes to what differs"
	exit 0
fi
for mode in w r; do
	echo "$all" | grep ' L[^ ]* NTFSMAP-' | while read -r name attributes uuid; do
		case $attributes in
		*$mode) examine "$name" "$attributes" "$uuid" ;;
		esac
	done
done
exit 0
