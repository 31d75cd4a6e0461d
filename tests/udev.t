#!/bin/bash
# Our rules beside the system's own, where no systemd runs: a volume that appears, its named image comes up; links and
# properties; a volume that goes. And what keeps Linux from hibernating.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/plug.sh
. "$top/tests/lib/plug.sh"
need perl logger

if ! in_machine; then
	make_plug
	guest_tests -d "$T/disk" -s "$T/root/mnt/share" -t 580
	done_testing
	exit
fi

# --- in the machine ---
is_open() {
	[ -e "/sys/class/block/$(basename "$(realpath "/dev/mapper/$1")")/dm" ]
}

is_closed() {
	! dmsetup info "$1"
}

helper_ends() {
	! grep -qsz udev-helper /proc/[0-9]*/cmdline
}

# What udev would run for an event of the partition.
would_run() {
	udevadm test --action="$1" /sys/class/block/vda1 2>&1 |
		grep -o 'udev-helper [a-z]* [/a-z]*[0-9]*:[0-9]*' | sort -u
}

claimed() {
	is "$(property /dev/vda1 UDISKS_IGNORE)" "$1" "$2"
}

set_up() {
	set_up_plug
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "/dev/log") or die "no /dev/log";
		open(my $log, ">", "/run/log.txt"); $log->autoflush;
		while (defined $s->recv(my $line, 8192)) { print $log "$line\n"; }' &
	until_so test -e /dev/log
}

nothing_named() {
	unplug
	plug
	is "$(would_run add)" '' "no ntfsmaptab: nothing is run for a volume"
	cat >/etc/ntfsmaptab <<-END
		disk UUID=$serial:/disk.raw
		later UUID=$serial:/later.raw noauto
	END
}

comes_up() {
	unplug
	plug
	until_so is_open disk
	until_so helper_ends
	udevadm settle
	is "$(ntfsmap list | awk 'NR > 1 { print $1 }')" disk "a volume appears: what is named on it is open, and no more"
	is "$(realpath /dev/ntfsmap/disk)" "$(realpath /dev/mapper/disk)" "  /dev/ntfsmap/disk is a link to it"
	is "$(realpath "/dev/disk/by-uuid/$disk_uuid")" "$(realpath /dev/mapper/disk)" \
		"  and so is the UUID of what is in it"
	is "$(property /dev/mapper/disk ID_FS_TYPE)" ext4 "  udev knows what that is"
	claimed 1 "  the partition is not for desktops"
}

stays_closed() {
	ntfsmap close disk
	udevadm settle
	claimed '' "closed: the partition is anybody's"
	ok "  no link is left" test ! -e /dev/ntfsmap/disk
	udevadm trigger --action=change /dev/vda1
	udevadm settle
	is "$(would_run change)" '' "  another event does not open it again"
	like "$(would_run add)" '^udev-helper up /dev/block/[0-9]+:[0-9]+$' "  only a volume that appears does"
}

by_hand() {
	dmsetup create table --table "$(ntfsmap -q /dev/vda1:/disk.raw)"
	udevadm settle
	claimed '' "another's table over it: udev was not told"
	udevadm trigger --action=change /dev/vda1
	udevadm settle
	claimed 1 "  but sees it at the next event"
	dmsetup remove --retry table
	udevadm trigger --action=change /dev/vda1
	udevadm settle
	claimed '' "  and its end"
}

# links_of NAME: does udev link the UUID of the volume to it?
links_of() {
	property "/dev/mapper/$1" DEVLINKS | grep -c by-uuid
}

copies() {
	local kind
	dmsetup create other -u OTHER-1 --table "0 98304 linear /dev/vda1 0"
	udevadm settle
	is "$(links_of other)" 1 "a copy of the volume has its UUID"
	dmsetup remove --retry other
	for kind in HOST BASE DATA REPAIR ORIGIN COW; do
		dmsetup create copy -u "NTFSMAP-$kind-1-copy" --table "0 98304 linear /dev/vda1 0"
		udevadm settle
		is "$(links_of copy):$(property /dev/mapper/copy UDISKS_IGNORE)" 0:1 "  not so NTFSMAP-$kind"
		dmsetup remove --retry copy
	done
	udevadm settle
	is "$(realpath /dev/disk/by-uuid/"$serial")" /dev/vda1 "  the link leads to the volume"
}

view() {
	ntfsmap host /dev/vda1 win >/dev/null
	udevadm settle
	is "$(realpath /dev/ntfsmap/win)" "$(realpath /dev/mapper/win)" "a view has a link"
	claimed 1 "  and claims the partition"
	udevadm trigger --action=add "$(realpath /dev/mapper/win)"
	udevadm settle
	is "$(property /dev/mapper/win SYSTEMD_READY)" 1 "  it stays ready for mounts at a second \"add\""
	ntfsmap close win
}

partitions() {
	ntfsmap open -q /dev/vda1:/disk.raw disk >/dev/null
	dmsetup create disk-part1 -u "part1-$(cat "/sys/class/block/$(basename "$(realpath /dev/mapper/disk)")/dm/uuid")" \
		--table "0 2048 linear /dev/mapper/disk 0"
	udevadm settle
	is "$(realpath /dev/ntfsmap/disk-part1)" "$(realpath /dev/mapper/disk-part1)" "a partition has a link"
	dmsetup remove --retry disk-part1
	ntfsmap close disk
}

hibernation() {
	local check=/mnt/share/libexec/before-hibernate
	exits 0 "hibernation: nothing is open" "$check"
	is "$out$err" '' "  nothing is said"
	ntfsmap open -q --readonly /dev/vda1:/disk.raw reader >/dev/null
	ntfsmap open -q /mnt/share/ext4 plain >/dev/null
	ntfsmap host -q /dev/vda1 win >/dev/null
	exits 0 "  read-only, a view, and one that is on no NTFS volume" "$check"
	ntfsmap open -q /dev/vda1:/later.raw one >/dev/null
	exits 1 "  one that can be written" "$check"
	like "$err" 'must not hibernate .*: one\. .* ntfsmap close one; or shut down' "  its name is said, and what to do"
	dmsetup create over-cow -u NTFSMAP-COW-RAW-1-2-3-0-over --table "0 8 linear /dev/vda1 0"
	dmsetup create tmp-cow -u NTFSMAP-COW-TMPFS-tmp --table "0 8 linear /dev/vda1 0"
	exits 1 "  the store of an overlay" "$check"
	like "$err" ': (one over|over one)\. ' "  stands for it, but not one in memory"
	dmsetup remove --retry over-cow
	dmsetup remove --retry tmp-cow
	ntfsmap close reader plain win one
	dmsetup create foreign --table "0 8 linear /dev/vda1 8"
	dmsetup create lvm -u LVM-x --table "0 8 linear /dev/mapper/foreign 0"
	exits 1 "  one that dmsetup made on the volume" "$check"
	like "$err" ': foreign\. .*, then dmsetup remove foreign; or shut down' "  is named, but not what lies on that" ||
		diag "$err"
	dmsetup remove --retry lvm
	dmsetup remove --retry foreign
	dmsetup create foreign --readonly --table "0 8 linear /dev/vda1 0"
	exits 0 "  read-only, it does not matter" "$check"
	dmsetup remove --retry foreign
	exits 0 "  closed" "$check"
}

under_systemd() {
	local number
	number=$(printf '%d:%d' "0x$(stat -c %t /dev/vda1)" "0x$(stat -c %T /dev/vda1)")
	mkdir -p /run/systemd/system
	is "$(would_run add)" '' "with systemd: udev runs nothing"
	udevadm trigger --action=add /dev/vda1
	udevadm settle
	is "$(property /dev/vda1 SYSTEMD_WANTS)" "ntfsmap-up@$number.service" "  a unit for the volume is wanted"
	is "$(property /dev/vda1 SYSTEMD_ALIAS)" "/dev/block/$number" "  which is bound to that name"
	like "$(property /dev/vda1 TAGS)" ':systemd:' "  systemd is told of it"
	rmdir /run/systemd/system
	is_open disk && ntfsmap close disk
}

goes() {
	udevadm trigger --action=add /dev/vda1
	until_so is_open disk
	mkdir -p /mnt/x
	mount /dev/ntfsmap/disk /mnt/x || bail "no file system in the image"
	echo words >/mnt/x/file
	sync
	: >/run/log.txt
	unplug
	until_so grep -q ntfsmap: /run/log.txt
	until_so helper_ends
	is "$(grep -c 'ntfsmap: .*disk' /run/log.txt)" 1 "a volume goes under a mounted image: one line in the log"
	is "$(dmsetup info -c --noheadings -o name disk)" disk "  it stays as long as it is used"
	umount /mnt/x
	until_so is_closed disk
	udevadm settle
	ok "  and goes then" test ! -e /dev/mapper/disk
	plug
	until_so is_open disk
	ok "the volume is back: so is the image" mount -o ro /dev/ntfsmap/disk /mnt/x
	is "$(cat /mnt/x/file)" words "  with what was written"
	umount /mnt/x
	ntfsmap close disk
}

set_up
nothing_named
comes_up
stays_closed
by_hand
copies
view
partitions
hibernation
under_systemd
goes
done_testing
