#!/bin/bash
# Opening, listing, closing, reloading: in the machine, with and without udev.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup perl

json() {
	perl -MJSON::PP -e 'local $/; my $j = decode_json(<STDIN>); print eval "\$j->$ARGV[0]" // "null"' "$1"
}

basics() {
	is "$(ntfsmap list)" '' "list: nothing is open"
	exits 4 "status of nothing" ntfsmap status one
	exits 4 "close of nothing" ntfsmap close one
	exits 0 "open --test" ntfsmap open --test /dev/vda:/f1 one
	is "$(dmsetup ls)" 'No devices found' "  makes no device"
	exits 0 "open" ntfsmap open /dev/vda:/f1 one
	is "$out" /dev/mapper/one "  prints the node"
	ok "  the node is there at once" test -b /dev/mapper/one
	exits 5 "open the same name again" ntfsmap open /dev/vda:/f2 one
	exits 2 "open the same file again" ntfsmap open /dev/vda:/f1 two
	exits 0 "open the same file read-only" ntfsmap open --readonly /dev/vda:/f1 two
	is "$(blockdev --getro /dev/mapper/two)" 1 "  is read-only"
	exits 0 "close several, one by its node" ntfsmap close /dev/mapper/one two
	ok "  the node is gone" test ! -e /dev/mapper/one
	is "$(dmsetup ls)" 'No devices found' "  and the devices"
	is "$(dmsetup udevcookies | tail -n +2)" '' "  no cookie is left over"
}

# Where no udev runs, a node must not outlive its device and name the next one.
without_udev() {
	[ ! -e /run/udev/control ] || return 0
	ntfsmap open -q /dev/vda:/f1 one >/dev/null
	exec 5</dev/mapper/one
	exits 0 "without udev: close --deferred" ntfsmap close --deferred one
	exec 5<&-
	while dmsetup info one >/dev/null 2>&1; do :; done
	ntfsmap open -q /dev/vda:/f2 two >/dev/null
	ok "  its node does not name the next device" test ! -e /dev/mapper/one
	ntfsmap close two
}

details() {
	ntfsmap open /dev/vda:/f1 one >/dev/null 2>&1
	ntfsmap open --readonly '/dev/vda:/f2:alt' two >/dev/null 2>&1
	ntfsmap list --json >/tmp/list
	is "$(json '[0]{source}' </tmp/list)" /dev/vda:/f1 "list: the source is found again on the volume"
	is "$(json '[1]{source}' </tmp/list)" /dev/vda:/f2:alt "list: a stream too"
	is "$(json '[1]{mode}' </tmp/list)" ro "list: mode"
	is "$(json '[0]{format}' </tmp/list)" raw "list: format"
	is "$(json '[0]{size}' </tmp/list)" 1048576 "list: size"
	like "$(ntfsmap list)" "one +/dev/vda:/f1 +raw +rw +1.0 MiB +- +0" "list for people"
	like "$(ntfsmap status one)" 'extents: +4' "status: extents"
	like "$(dmsetup info -c --noheadings -o uuid one)" '^NTFSMAP-RAW-[0-9A-F]{16}-[0-9a-f]+-[0-9a-f]+-0-one$' "the UUID"
	dmsetup rename one uno
	is "$(ntfsmap list --json | json '[1]{source}')" /dev/vda:/f1 "a device renamed by dmsetup is still ours"
	exits 0 "close it by its new name" ntfsmap close uno
	ntfsmap close two
	dmsetup create foreign --table '0 8 linear /dev/vda 0'
	exits 2 "close refuses what is not ours" ntfsmap close foreign
	is "$(ntfsmap list)" '' "and list does not show it"
	dmsetup remove foreign
	exits 4 "a name that is wrong in one place does not stop the others" bash -c \
		'ntfsmap open /dev/vda:/f1 one >/dev/null; ntfsmap close nosuch one'
	is "$(dmsetup ls)" 'No devices found' "  the other one was closed"
}

in_use() {
	ntfsmap open /dev/vda:/f1 one >/dev/null 2>&1
	mkfs.ext4 -q /dev/mapper/one
	mkdir -p /mnt/m
	mount /dev/mapper/one /mnt/m
	exits 5 "close while mounted" ntfsmap close one
	like "$err" 'mounted on /mnt/m' "  says where"
	ok "  and it still works" touch /mnt/m/file
	exits 0 "close --deferred" ntfsmap close --deferred one
	ok "  is there while mounted" test -b /dev/mapper/one
	umount /mnt/m
	udevadm settle 2>/dev/null
	is "$(dmsetup ls)" 'No devices found' "  and gone after umount"
	ntfsmap open /dev/vda:/f1 one >/dev/null 2>&1
	dmsetup create above --table '0 8 linear /dev/mapper/one 0'
	exits 5 "close while another device uses it" ntfsmap close one
	like "$err" 'used by /dev/mapper/above' "  says which"
	dmsetup remove above
	ntfsmap close one
}

many() {
	local i bad=0
	for i in $(seq 1 200); do
		ntfsmap open -q "/dev/vda:/many/$i" "many$i" >/dev/null || bad=$((bad + 1))
	done
	is "$bad" 0 "200 mappings are opened"
	is "$(ntfsmap list --json | json '[0]{name}' | cut -c1-4)" many "and listed"
	is "$(ntfsmap list | tail -n +2 | wc -l)" 200 "all of them"
	for i in $(seq 1 200); do
		printf 'mapping %d.' "$i" | dd of="/dev/mapper/many$i" bs=512 conv=sync oflag=direct status=none
	done
	ok "one of them is closed" ntfsmap close many77
	bad=0
	for i in $(seq 1 200); do
		[ "$i" = 77 ] || [[ $(dd if="/dev/mapper/many$i" bs=512 count=1 iflag=direct status=none | tr -d '\0') == "mapping $i." ]] ||
			bad=$((bad + 1))
	done
	is "$bad" 0 "the others hold what was written to each"
	# shellcheck disable=SC2046
	ok "all are closed in one command" ntfsmap close $(dmsetup ls | awk '{ print $1 }')
	is "$(dmsetup ls)" 'No devices found' "none is left"
}

# Another volume in the place of the first, behind the page cache: what Windows does while Linux is hibernated.
swapped() {
	ntfsmap open -q /dev/vda:/f2 one >/dev/null
	cat /dev/vda >/dev/null # all of it is cached now
	# below the volume's own cache: through a second name of the disk
	dmsetup create raw --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
	dd if=/mnt/share/other.img of=/dev/mapper/raw bs=1M oflag=direct conv=notrunc status=none
	dmsetup remove raw
	exits 6 "verify sees what was written beneath the cache" ntfsmap verify one
	like "$err" 'another volume' "  says what"
	exits 6 "reload refuses another volume" ntfsmap reload one
	ntfsmap close one
}

# What Windows does between two looks, done by the forge.
changed() {
	local forge=$top/build/tests/ntfsforge
	ntfsmap open /dev/vda:/f1 one >/dev/null 2>&1
	exits 0 "verify: nothing has changed" ntfsmap verify one
	is "$(ntfsmap verify --json one | json '{same}')" 1 "verify --json"
	exits 0 "reload: nothing has changed" ntfsmap reload one
	"$forge" /dev/vda remove /f1
	"$forge" /dev/vda file /f1 1M from=40000 runs=2 fill=zero
	exits 6 "verify: the file was replaced" ntfsmap verify one
	like "$err" 'gone|replaced' "  says so"
	exits 6 "reload refuses a file that was replaced" ntfsmap reload one
	ok "close it" ntfsmap close one

	ntfsmap open /dev/vda:/f2 two >/dev/null 2>&1
	"$forge" /dev/vda slack /f2 100
	exits 0 "verify: allocated more, the data are where they were" ntfsmap verify two
	"$forge" /dev/vda sizes /f2 data=1310720 init=1310720
	exits 6 "verify: the file has grown" ntfsmap verify two
	like "$err" 'sector 2048 .*ends there' "  says where"
	is "$(ntfsmap verify --json two | json '{same}')" 0 "verify --json says so"
	exits 0 "reload follows" ntfsmap reload two
	is "$(blockdev --getsize64 /dev/mapper/two)" 1310720 "  the device has the new size"
	exits 0 "  verify is content" ntfsmap verify two
	"$forge" /dev/vda sizes /f2 data=65536 init=65536
	exits 2 "reload refuses to make a device smaller" ntfsmap reload two
	ntfsmap close two
}

view() {
	exits 0 "host makes a view" ntfsmap host /dev/vda view
	is "$(blockdev --getro /dev/mapper/view)" 1 "  read-only"
	is "$(blockdev --getsz /dev/mapper/view)" "$(blockdev --getsz /dev/vda)" "  of the whole volume"
	exits 2 "reload has nothing to do with it" ntfsmap reload view
	exits 0 "verify neither" ntfsmap verify view
	like "$(ntfsmap list)" 'view +/dev/vda +host +ro' "list shows it"
	exits 0 "close" ntfsmap close view
}

if in_machine; then
	basics
	without_udev
	if [ -e /run/udev/control ]; then
		details
		in_use
		view
		many
		changed
		swapped
	fi
	done_testing
	exit
fi

mkdir "$T/share"
volume 192M
f file /f1 1M runs=5 fill=zero
f file /f2 1M runs=3 fill=zero
mv "$img" "$T/share/other.img"
volume 192M
f file /f1 1M runs=4 fill=zero
f file /f2 1M runs=3 fill=zero
f stream /f2 alt 64K runs=2 fill=zero
f mkdir /many
for i in $(seq 1 200); do
	f file "/many/$i" 64K runs=3 order=shuffle seed="$i" fill=zero
done
guest_tests -t 1200 -s "$T/share" -d "$img"
diag() { :; }
guest_tests -t 1200 -n -s "$T/share" -d "$img"
done_testing
