#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Called by 62-ntfsmap.rules, installed as /usr/lib/ntfsmap/udev-helper:
#
#   up DEVICE, down MAJOR:MINOR      a volume came or went, and no systemd is there to run ntfsmap
#   claimed DM DEVICE...             the device-mapper device DM (dm-3) lies on these (sda3) now
#   released DM DEVICE...            it did, and is being removed
#
# udev waits for what it runs, and ends it when it takes too long; ntfsmap waits for udev. So up and down go on in a
# session of their own, and return at once.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Only those that can have an NTFS volume on them: not what ntfsmap itself made.
is_volume() {
	case $(cat "/sys/class/block/$1/dm/uuid" 2>/dev/null) in
	NTFSMAP-* | part*-NTFSMAP-*) return 1 ;;
	esac
	[ -e "/sys/class/block/$1/uevent" ]
}

# The kernel says "remove" a moment before it lets the device below go.
wait_for_release() {
	tries=0
	while [ -e "/sys/class/block/$2/holders/$1" ] && [ "$tries" -lt 40 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
}

# to_syslog UP-OR-DOWN DEVICE: what went wrong is one line of the log for each line of ntfsmap.
to_syslog() {
	ntfsmap "$1" --device "$2" 2>&1 >/dev/null | logger -t ntfsmap -p daemon.notice
}

verb=${1-}
case $verb in
up | down)
	setsid "$0" "detached-$verb" "$2" </dev/null >/dev/null 2>&1 &
	;;
detached-up | detached-down)
	to_syslog "${verb#detached-}" "$2"
	;;
claimed | released)
	dm=$2
	shift 2
	for device; do
		is_volume "$device" || continue
		[ "$verb" = claimed ] || wait_for_release "$dm" "$device"
		echo change >"/sys/class/block/$device/uevent"
	done
	;;
*)
	echo "usage: $0 up|down|claimed|released DEVICE..., by udev" >&2
	exit 1
	;;
esac
