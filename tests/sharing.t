#!/bin/bash
# Living beside others: mounts of the volume, views, other people's device-mapper tables, loop devices, and the pipe
# into the real dmsetup that a refusal must break.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup ntfs-3g losetup mkfs.ext4

refused_pipe() {
	exits 1 "$1: dmsetup fails" bash -c "set -o pipefail; ntfsmap $2 | dmsetup create piped"
	is "$(dmsetup ls | grep -c piped)" 0 "  and makes no device"
}

pipes() {
	refused_pipe "a file that is not there" /dev/vda:/none
	refused_pipe "a sparse file" /dev/vda:/sparse
	refused_pipe "a wrong option" '--nonsense /dev/vda:/f1'
	refused_pipe "a missing argument" ''
	refused_pipe "no such device" /dev/nodev:/f1
	ok "the pipe works for a good file" bash -c 'set -o pipefail; ntfsmap /dev/vda:/f1 | dmsetup create piped'
	refused_pipe_busy=$(ntfsmap /dev/vda:/f1 2>&1 >/dev/null)
	like "$refused_pipe_busy" '/dev/mapper/piped already maps' "a device that dmsetup made is seen"
	dmsetup remove piped
	modprobe dm-zero
	ok "--concise" bash -c 'ntfsmap table --concise conc /dev/vda:/f1 | dmsetup create --concise'
	like "$(ntfsmap list)" 'conc +/dev/vda:/f1 +raw +rw' "  and it is one of ours: list knows it"
	exits 0 "  verify too" ntfsmap verify conc
	exits 0 "  close too" ntfsmap close conc
	ok "--readonly --concise" bash -c 'ntfsmap table --readonly --concise conc /dev/vda:/f1 | dmsetup create --concise'
	is "$(blockdev --getro /dev/mapper/conc)" 1 "  is read-only"
	ntfsmap close conc
}

# overlaps NAME: f1 is taken by what was made before
overlaps() {
	exits 2 "$1: open refuses" ntfsmap open /dev/vda:/f1 mine
	like "$err" "$2" "  names it"
	exits 0 "$1: read-only is possible" ntfsmap open -q --readonly /dev/vda:/f1 mine
	ntfsmap close mine
	exits 0 "$1: another file is free" ntfsmap open -q /dev/vda:/f2 mine
	ntfsmap close mine
}

overlap() {
	local sector
	sector=$(ntfsmap -q /dev/vda:/f1 | awk 'NR == 2 { print $5 }')

	dmsetup create other --table "0 8 linear /dev/vda $sector"
	overlaps "one cluster in somebody's linear table" /dev/mapper/other
	dmsetup create stacked --table '0 8 linear /dev/mapper/other 0'
	overlaps "  the same through two devices" /dev/mapper/
	dmsetup remove stacked
	dmsetup remove other

	dmsetup create other --readonly --table "0 8 linear /dev/vda $sector"
	exits 0 "a read-only table is no objection" ntfsmap open -q /dev/vda:/f1 mine
	ntfsmap close mine
	dmsetup remove other

	dmsetup create other --table "0 8 linear /dev/vda $((sector - 8))
8 8 linear /dev/vda 0"
	exits 0 "a table that only touches it is no objection" ntfsmap open -q /dev/vda:/f1 mine
	ntfsmap close mine
	dmsetup remove other

	losetup /dev/loop7 /dev/vda
	dmsetup create other --table "0 8 linear /dev/loop7 $sector"
	overlaps "through a loop device" /dev/mapper/other
	dmsetup remove other
	losetup -d /dev/loop7

	# a target that is not followed claims the whole device
	modprobe dm-snapshot
	dmsetup create other --table '0 64 linear /dev/vda 0'
	dmsetup create opaque --table "0 64 snapshot-origin /dev/vda"
	exits 2 "a target that is not understood" ntfsmap open /dev/vda:/f1 mine
	dmsetup remove opaque
	dmsetup remove other

	# a partition of a disk, and the disk itself
	is "$(ntfsmap -q /dev/vdb1:/p | wc -l)" 2 "a volume in a partition"
	sector=$(($(ntfsmap -q /dev/vdb1:/p | awk 'NR == 1 { print $5 }') + 22528))
	dmsetup create other --table "0 8 linear /dev/vdb $sector"
	# the disk is claimed now, so only table can be asked, which refuses first
	exits 2 "through the whole disk" ntfsmap table /dev/vdb1:/p
	like "$err" /dev/mapper/other "  names it"
	dmsetup remove other
}

disk_links() {
	udevadm settle
	find /dev/disk/by-uuid /dev/disk/by-label -type l -printf '%f %l\n' | sort
}

# An image that holds an NTFS volume itself: paths in it mean that volume, not the one around it.
nested() {
	exits 0 "open an image that is an NTFS volume, as a disk" ntfsmap open -q --format raw /dev/vda:/inner.img big
	exits 0 "open a file on the volume inside" ntfsmap open -q /dev/mapper/big:/f1 mine
	like "$(dmsetup table mine)" "linear $(dmsetup info -c --noheadings -o major,minor big) " "  is in the image, not around it"
	like "$(ntfsmap list)" 'mine +/dev/mapper/big:/f1 ' "  list says so"
	exits 0 "  verify" ntfsmap verify mine
	ntfsmap close mine
	ntfs-3g -o ro /dev/mapper/big /mnt/view
	like "$(ntfsmap info /mnt/view/f1)" 'source: +/dev/mapper/big:/f1' "a path below its mount is in it, too"
	umount /mnt/view
	ntfsmap close big
}

# Another partition of the same disk is mounted, as in every dual boot.
neighbours() {
	mkfs.ext4 -q /dev/vdb2
	mkdir -p /mnt/linux
	mount /dev/vdb2 /mnt/linux
	mkfs.ext4 -q /dev/vdb3
	dmsetup create crypt --table "0 64 striped 2 8 /dev/vdb3 0 /dev/vdb3 64"
	exits 0 "a mounted partition before it is no objection" ntfsmap open -q /dev/vdb1:/p mine
	ntfsmap close mine
	dmsetup create crypt2 --table "0 64 striped 2 8 /dev/vdb1 0 /dev/vdb1 64"
	exits 2 "but a target that is not followed, over it, is" ntfsmap open -q /dev/vdb1:/p mine
	dmsetup remove crypt2
	dmsetup remove crypt
	umount /mnt/linux
}

# A table that is loaded, but not resumed yet.
waiting() {
	dmsetup create half --notable
	ntfsmap -q /dev/vda:/f1 | dmsetup load half
	exits 2 "a table that waits for its resume is seen" ntfsmap open -q /dev/vda:/f1 mine
	dmsetup remove half
}

# The mount that a path lies in is the one that is seen there.
hidden_mount() {
	ntfsmap host -q /dev/vda view >/dev/null
	mkdir -p /mnt/w/win
	mount -t tmpfs tmpfs /mnt/w
	mkdir /mnt/w/win
	ntfs-3g -o ro /dev/mapper/view /mnt/w/win
	mount -t tmpfs tmpfs /mnt/w
	mkdir /mnt/w/win
	truncate -s 1M /mnt/w/win/f1
	like "$(ntfsmap info /mnt/w/win/f1)" 'source: +/mnt/w/win/f1' "a mount that another one hides does not count"
	umount /mnt/w
	umount /mnt/w/win
	umount /mnt/w
	ntfsmap close view
}

# A disk that cannot be read is not called damaged.
failing_disk() {
	dmsetup create bad --table "0 64 error
64 $(($(blockdev --getsz /dev/vda) - 64)) linear /dev/vda 64"
	exits 7 "a boot sector that cannot be read" ntfsmap info /dev/mapper/bad:/f1
	unlike "$err" 'chkdsk' "  chkdsk is not what it needs"
	dmsetup remove bad
}

mounted() {
	mkdir -p /mnt/win /mnt/view /mnt/img
	ok "ntfs-3g mounts it read-write" ntfs-3g /dev/vda /mnt/win
	exits 2 "mounted read-write: table" ntfsmap /dev/vda:/f1
	exits 2 "mounted read-write: open" ntfsmap open /dev/vda:/f1 mine
	like "$err" 'read-write on /mnt/win' "  says where"
	exits 2 "a path below the mount is refused for the same reason" ntfsmap open /mnt/win/f1 mine
	exits 2 "the mount is seen from another disk name too" ntfsmap check /dev/block/254:0:/f1
	umount /mnt/win

	ok "ntfs-3g mounts it read-only" ntfs-3g -o ro /dev/vda /mnt/win
	exits 5 "mounted read-only: table" ntfsmap /mnt/win/f1
	like "$err" 'ntfsmap host' "  gives advice"
	exits 0 "mounted read-only: open goes through a loop device" ntfsmap open /mnt/win/f1 mine
	like "$err" 'loop device.*twice|ntfsmap host' "  and says so"
	like "$(ntfsmap list)" 'mine +/dev/vda:/f1' "  list shows the volume, not the loop device"
	exits 0 "  verify" ntfsmap verify mine
	ok "  it takes a file system" mkfs.ext4 -q /dev/mapper/mine
	exits 2 "  the overlap is seen through it" ntfsmap open /mnt/win/f1 second
	ok "  and a second file opens" ntfsmap open -q /mnt/win/f2 second
	exits 0 "  close" ntfsmap close mine second
	is "$(losetup -a | grep -v snap)" '' "  no loop device is left"
	exits 5 "host cannot take a mounted volume" ntfsmap host /dev/vda view
	umount /mnt/win

	links=$(disk_links)
	like "$links" 'ABCDEF' "udev has linked the volumes by UUID"
	ok "host makes a view" ntfsmap host /dev/vda view
	is "$(disk_links)" "$links" "  no link of the volume's UUID or label moves to it"
	ok "which mounts" ntfs-3g -o ro /dev/mapper/view /mnt/view
	exits 0 "a path below the view: table" bash -c 'set -o pipefail; ntfsmap /mnt/view/f1 | dmsetup create mine'
	like "$(dmsetup table mine)" ' linear 254:0 ' "  goes to the partition itself"
	ok "the image mounts beside the view" mount /dev/mapper/mine /mnt/img
	ok "and takes a file" cp "$top/LICENSE" /mnt/img/
	ok "the view is still readable" cmp /mnt/view/folder/text <(echo contents)
	umount /mnt/img
	dmsetup remove mine
	exits 0 "the view's own name is a volume too" ntfsmap open -q /dev/mapper/view:/f1 mine
	exits 5 "the view is in use" ntfsmap close view
	ntfsmap close mine
	umount /mnt/view
	exits 0 "close the view" ntfsmap close view
}

held() {
	# somebody who holds it exclusively and is neither mount nor device-mapper
	perl -e 'use Fcntl; sysopen(F, "/dev/vda", O_RDONLY | O_EXCL) or die; print "held\n"; $| = 1; close STDOUT; sleep 60' &
	local holder=$!
	while ntfsmap check /dev/vda:/f1 >/dev/null 2>&1; do :; done
	exits 5 "a program that holds the volume" ntfsmap check /dev/vda:/f1
	kill $holder
}

sources() {
	local serial uuid
	serial=$(ntfsmap info --json /dev/vda:/f1 | sed -n 's/.*"serial": "\(.*\)".*/\1/p')
	for uuid in "$serial" "${serial,,}" "0x$serial" "${serial:8:8}" "${serial:8:4}-${serial:12:4}"; do
		is "$(ntfsmap -q "UUID=$uuid:/f1")" "$(ntfsmap -q /dev/vda:/f1)" "UUID=$uuid"
	done
	is "$(ntfsmap -q LABEL=My:Disk:/f1)" "$(ntfsmap -q /dev/vda:/f1)" "LABEL= with a colon in it"
	is "$(ntfsmap -q PARTUUID=11111111-2222-3333-4444-555555555555:/p)" "$(ntfsmap -q /dev/vdb1:/p)" "PARTUUID="
	is "$(ntfsmap -q PARTLABEL=part:/p)" "$(ntfsmap -q /dev/vdb1:/p)" "PARTLABEL="
	exits 2 "LABEL= of two volumes is refused" ntfsmap LABEL=twice:/x
	like "$err" '/dev/vdc.*/dev/vdd|/dev/vdd.*/dev/vdc' "  and both are named"
	ntfsmap open -q /dev/vda:/f1 mine >/dev/null
	# put a copy of the volume's beginning into the mapping: the same UUID again, in one of ours
	dd if=/dev/vda of=/dev/mapper/mine bs=64k count=1 oflag=direct status=none
	exits 0 "UUID= skips our own devices" ntfsmap -q "UUID=$serial:/f2"
	ntfsmap close mine
	exits 4 "a drive letter" ntfsmap 'D:\folder\text'
	like "$err" "UUID=$serial:/folder/text" "  names the volume that has such a path"
	exits 4 "a drive letter with a path that nobody has" ntfsmap 'C:/no/such'
	exits 2 "a device with NTFS on it is no image" ntfsmap /dev/vda
	like "$err" 'name a file on it' "  says what is meant"
	is "$(ntfsmap check /dev/vda | grep -c '^ok  *volume ')" 1 "check DEVICE looks at the volume"
}

plain_files() {
	head -c 1M /dev/urandom >/tmp/plain.raw
	exits 0 "a regular file opens through a loop device" ntfsmap open /tmp/plain.raw plain
	cmp -s /tmp/plain.raw <(read_direct /dev/mapper/plain)
	result $? "  reads the same"
	exits 2 "  a second writer is refused" ntfsmap open /tmp/plain.raw plain2
	like "$(ntfsmap list)" 'plain +/tmp/plain.raw +raw' "  list names the file"
	head -c 1M /dev/urandom >>/tmp/plain.raw
	exits 0 "  the file grew: reload" ntfsmap reload plain
	is "$(blockdev --getsz /dev/mapper/plain)" 4096 "  and so does the device"
	exits 0 "  close" ntfsmap close plain
	is "$(losetup -a)" '' "  no loop device is left"
	exits 0 "table of a regular file is for looking at" ntfsmap /tmp/plain.raw
	like "$out" '^0 4096 linear /tmp/plain.raw 0$' "  names the file"
	cp /mnt/share/disk.vhd /tmp/disk.vhd
	exits 0 "a VHD in a regular file" ntfsmap open /tmp/disk.vhd vhd
	is "$(blockdev --getsize64 /dev/mapper/vhd)" $((4 << 20)) "  without its footer"
	ntfsmap close vhd
	cp /tmp/plain.raw /mnt/share/x 2>/dev/null
	dd if=/tmp/disk.vhd of=/dev/vdd bs=1M conv=fsync status=none
	truncate -s 0 /tmp/disk.vhd
	exits 6 "a file named .vhd that is none" ntfsmap open /tmp/disk.vhd vhd
	head -c 1M /dev/zero >$'/tmp/x\ny.img'
	exits 0 "a file with a line feed in its name" ntfsmap open -q $'/tmp/x\ny.img' lf
	exits 2 "  is still opened only once" ntfsmap open -q $'/tmp/x\ny.img' lf2
	ntfsmap close lf
	head -c 1M /dev/zero >$'/tmp/x\377.img'
	exits 0 "a file whose name is not UTF-8" ntfsmap open -q $'/tmp/x\377.img' bytes
	like "$(ntfsmap list)" 'bytes +/tmp/x\?.img' "  is listed"
	ntfsmap close bytes
	# a whole NTFS volume in a file: open puts a loop device under it
	cp --sparse=always /mnt/share/small.img /tmp/small.img
	exits 0 "a volume in a regular file" ntfsmap open -q /tmp/small.img:/s small
	exits 0 "  two files of it at once" ntfsmap open -q /tmp/small.img:/t small2
	exits 2 "  but no file twice" ntfsmap open -q /tmp/small.img:/s small3
	like "$(ntfsmap list)" 'small +/tmp/small.img:/s' "  list names it"
	ntfsmap close small small2
}

if in_machine; then
	udevadm settle
	pipes
	sources
	overlap
	waiting
	neighbours
	failing_disk
	mounted
	nested
	hidden_mount
	held
	plain_files
	done_testing
	exit
fi

need sfdisk qemu-img
mkdir "$T/share"
volume 32M
f file /s 256K runs=2 fill=zero
f file /t 256K runs=2 fill=zero
mv "$img" "$T/share/small.img"
qemu-img create -q -f vpc -o subformat=fixed,force_size "$T/share/disk.vhd" 4M
for copy in 3 4; do
	volume 16M -L twice
	mv "$img" "$T/disk$copy.img"
done
volume 32M
f file /p 256K runs=2 fill=zero
{ truncate -s 11M "$T/disk2.img" && cat "$img" && truncate -s 1M "$T/tail" && cat "$T/tail"; } >>"$T/disk2.img"
truncate -s 80M "$T/disk2.img"
printf 'label: gpt\nstart=22528, size=65536, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, uuid=11111111-2222-3333-4444-555555555555, name=part\nstart=2048, size=20480\nstart=90112, size=20480\n' |
	sfdisk -q "$T/disk2.img" || bail "sfdisk failed"
volume 16M
f file /f1 1M from=1000 runs=2 fill=zero
mv "$img" "$T/inner.img"
volume 96M -L My:Disk
f file /inner.img 16M runs=9 order=shuffle seed=3 fill=stdin <"$T/inner.img"
f file /f1 1M runs=4 fill=zero
f file /f2 1M runs=3 fill=zero
f sparse /sparse 1M
f mkdir /folder
echo contents | f file /folder/text 9 fill=stdin
guest_tests -t 1200 -s "$T/share" -d "$img" -d "$T/disk2.img" -d "$T/disk3.img" -d "$T/disk4.img"
done_testing
