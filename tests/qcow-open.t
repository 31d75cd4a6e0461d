#!/bin/bash
# open, list, reload, verify and close of qcow2 and qcow on an NTFS volume, with the kernel target: chains of all
# formats, data files, snapshots, --static; what was written is what qemu reads, and qemu-img finds no fault.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/images.sh
. "$top/tests/lib/images.sh"
need mkntfs dmsetup perl qemu-img qemu-io mkfs.ext4 ntfscat e2fsck debugfs
d=/mnt/share

# Compressed clusters, zero clusters and what has no place are all in it.
plain() {
	exits 0 'open a qcow2' ntfsmap open /dev/vda:/plain.qcow2 q
	like "$err" 'have a place in the file, and there is room for [0-9.]+ MiB more' '  says how much room is left'
	device_reads q plain '  its contents are right'
	like "$(dmsetup table q)" '^0 65536 vdisk qcow2 ' '  by one line of the target'
	like "$(ntfsmap list)" 'q +/dev/vda:/plain.qcow2 +qcow2 +rw +32.0 MiB +[0-9.]+ MiB +0' '  list, with the room'
	is "$(ntfsmap status --json q | json '{mode}')" rw '  status: mode'
	ok '  status: room' test "$(ntfsmap status --json q | json '{room}')" -gt 20000000
	like "$(ntfsmap status --json q | json '{uuid}')" '^NTFSMAP-QCOW2-[0-9A-F]{16}-' '  status: UUID'
	exits 0 '  verify' ntfsmap verify q
	exits 0 '  reload' ntfsmap reload q
	like "$err" 'nothing has changed' '  has nothing to do'
	exits 2 '  a second writer is refused' ntfsmap open /dev/vda:/plain.qcow2 e
	exits 0 '  close' ntfsmap close q
	exits 0 'open a qcow (version 1)' ntfsmap open -q /dev/vda:/one.qcow q
	device_reads q one '  its contents are right'
	is "$(ntfsmap status --json q | json '{format}')" qcow '  status: format'
	ntfsmap close q
	exits 6 'an image that is marked dirty' ntfsmap open /dev/vda:/dirty.qcow2 q
	like "$err" 'ntfsmap check --repair .*--readonly' '  says what to do'
	exits 0 '  --readonly' ntfsmap open --readonly /dev/vda:/dirty.qcow2 q
	device_reads q plain '  reads it'
	is "$(ntfsmap status --json q | json '{mode}')" ro '  mode ro'
	ntfsmap close q
	exits 0 'an image with bitmaps' ntfsmap open /dev/vda:/bitmaps.qcow2 q
	like "$err" '1 bitmap of backup programs will be invalid' '  says what becomes of them'
	ntfsmap close q
	is "$(devices)" '' '  nothing is left'
}

writes() {
	local name
	for name in plain.qcow2 one.qcow data.qcow2 top.qcow2; do
		exits 0 "write to $name" ntfsmap open -q "/dev/vda:/$name" q
		ok '  mkfs.ext4' mkfs.ext4 -q /dev/mapper/q
		mount /dev/mapper/q /mnt/m
		cp "$top/LICENSE" /mnt/m/one
		umount /mnt/m
		is "$(ntfsmap status --json q | json '{mode}')" rw '  mode rw'
		cp --sparse=always /dev/mapper/q "$T/seen"
		exits 0 '  close' ntfsmap close q
		cmp -s "$T/seen" <(ntfsmap cat -q "/dev/vda:/$name")
		result $? '  cat reads the same'
		exits 0 '  check' ntfsmap check "/dev/vda:/$name"
		unlike "$out" 'leaks' '  finds no leaks' || diag "$out"
		hash_of "$T/seen" >"$d/$name.hash"
	done
}

chain() {
	local name
	exits 0 'open a chain: qcow2 on qcow on VHD' ntfsmap open /dev/vda:/top.qcow2 q
	device_reads q top '  its contents are right'
	is "$(devices)" 'q q-base1 q-base2' '  with a device for each parent'
	is "$(dmsetup table q-base1 | cut -d' ' -f4)$(dmsetup table q-base2 | cut -d' ' -f4)" qcowvhd '  of their formats'
	is "$(blockdev --getro /dev/mapper/q /dev/mapper/q-base1 /dev/mapper/q-base2 | xargs)" '0 1 1' '  read-only'
	exits 0 '  verify' ntfsmap verify q
	exits 0 '  reload' ntfsmap reload q
	exits 2 '  a parent cannot be opened for writing' ntfsmap open --test /dev/vda:/mid.qcow e
	like "$err" 'the parent of an open image' '  says why'
	for name in q-base1 q-base2; do
		exits 2 "  nor by its device, $name" ntfsmap open --format raw "/dev/mapper/$name" e
		like "$err" 'belongs to an open image' '  says why'
	done
	dmsetup create -u "" e --table "0 $(blockdev --getsz /dev/mapper/q-base1) linear /dev/mapper/q-base1 0"
	exits 2 '  nor through somebody else'"'"'s device over it' ntfsmap open --test --format raw /dev/mapper/e r
	like "$err" 'the parent of an open image \(/dev/mapper/q\)' '  says whose'
	dmsetup remove e
	exits 0 '  close' ntfsmap close q
	exits 0 'open a qcow2 on a raw image' ntfsmap open -q /dev/vda:/onraw.qcow2 q
	device_reads q onraw '  its contents are right'
	is "$(dmsetup table q-base1 | awk '{ print $3 }' | sort -u)" linear '  whose base is linear'
	ntfsmap close q
	is "$(devices)" '' '  nothing is left'
	blockdev --setro /dev/vda
	exits 2 'a disk that is read-only' ntfsmap open /dev/vda:/top.qcow2 q
	like "$err" '/dev/vda is read-only' '  says so'
	exits 0 '  --readonly' ntfsmap open -q --readonly /dev/vda:/top.qcow2 q
	ntfsmap close q
	blockdev --setrw /dev/vda
	exits 0 'table --concise' bash -c 'set -o pipefail; ntfsmap table -q --concise q /dev/vda:/top.qcow2 | dmsetup create --concise'
	device_reads q top '  makes the same'
	exits 0 '  verify' ntfsmap verify q
	ntfsmap close q
	is "$(devices)" '' '  and goes as well'
}

data_file() {
	exits 0 'open an image with a data file' ntfsmap open /dev/vda:/data.qcow2 q
	device_reads q data '  its contents are right'
	is "$(devices)" 'q q-data' '  with a device for it'
	is "$(blockdev --getro /dev/mapper/q-data)" 0 '  which can be written'
	like "$(ntfsmap list)" 'q-data +/dev/vda:/data.raw +raw +rw .* 1  data file, used by /dev/mapper/q' '  list'
	like "$(ntfsmap status --json q-data | json '{uuid}')" '^NTFSMAP-DATA-RAW-' '  UUID'
	exits 0 '  verify' ntfsmap verify q
	exits 0 '  reload' ntfsmap reload q
	exits 5 '  it stays while it is used' ntfsmap close q-data
	exits 2 '  nobody else may write to it' ntfsmap open --test /dev/vda:/data.raw e
	like "$err" '/dev/mapper/q-data already maps' '  says who does'
	exits 2 '  nor by its device' ntfsmap open --format raw /dev/mapper/q-data e
	dmsetup create e --table "0 $(blockdev --getsz /dev/mapper/q-data) linear /dev/mapper/q-data 0"
	exits 2 '  nor through another one over it' ntfsmap open --test --format raw /dev/mapper/e r
	like "$err" '/dev/mapper/q already maps' '  says who does'
	dmsetup remove e
	exits 0 '  close' ntfsmap close q
	is "$(devices)" '' '  it goes with the image'
	ntfsmap open -q /dev/vda:/data.raw e >/dev/null
	exits 2 'a data file that is open for writing' ntfsmap open /dev/vda:/data.qcow2 q
	like "$err" 'data.raw: /dev/mapper/e already maps' '  says so'
	ntfsmap close e
	exits 0 'open --readonly' ntfsmap open -q --readonly /dev/vda:/data.qcow2 q
	is "$(blockdev --getro /dev/mapper/q /dev/mapper/q-data | xargs)" '1 1' '  both are read-only'
	ntfsmap close q
	exits 0 'as a parent' ntfsmap open -q /dev/vda:/ondata.qcow2 q
	device_reads q ondata '  the contents are right'
	is "$(devices)" 'q q-base1 q-base1-data' '  with its device'
	is "$(blockdev --getro /dev/mapper/q-base1-data)" 1 '  read-only'
	exits 0 '  a second child' ntfsmap open /dev/vda:/ondata2.qcow2 e
	like "$err" 'data.raw is open already as q-base1-data, which is shared' '  shares it'
	is "$(devices)" 'e q q-base1 q-base1-data' '  and the base'
	exits 2 '  it cannot be opened for writing' ntfsmap open --test /dev/vda:/data.raw r
	exits 0 '  close the first' ntfsmap close q
	device_reads e ondata '  the second reads on'
	ntfsmap close e
	is "$(devices)" '' '  all go with the last'
	exits 0 'table --concise' bash -c 'set -o pipefail; ntfsmap table -q --concise q /dev/vda:/ondata.qcow2 | dmsetup create --concise'
	device_reads q ondata '  makes the same'
	exec 5</dev/mapper/q
	exits 0 'close --deferred' ntfsmap close --deferred q
	exec 5<&-
	for _ in $(seq 50); do [ -n "$(devices)" ] || break; sleep 0.1; done
	is "$(devices)" '' '  all go with the last user'
	ntfsmap open -q /dev/vda:/data.qcow2 q >/dev/null
	dmsetup remove q
	exits 0 'a data file that was left over' ntfsmap open /dev/vda:/plain.qcow2 q
	like "$err" 'removing q-data, a data file that no open image uses' '  is taken away'
	ntfsmap close q
}

snapshots() {
	exits 0 'open --snapshot=ID' ntfsmap open -q --snapshot=1 /dev/vda:/snap.qcow2 q
	device_reads q snap1 '  reads the first'
	is "$(blockdev --getro /dev/mapper/q)$(ntfsmap status --json q | json '{mode}')" 1ro '  is read-only'
	is "$(ntfsmap status --json q | json '{snapshot}')" 1 '  status knows it'
	exits 0 '  verify' ntfsmap verify q
	exits 0 '  reload' ntfsmap reload q
	ntfsmap close q
	exits 0 'open --snapshot=NAME' ntfsmap open -q --snapshot='the second' /dev/vda:/snap.qcow2 q
	device_reads q snap2 '  reads the second, of another size'
	ntfsmap close q
	exits 0 'open what it is now' ntfsmap open -q /dev/vda:/snap.qcow2 q
	device_reads q snap '  reads that'
	ntfsmap close q
	exits 0 'open --static --snapshot' ntfsmap open -q --static --snapshot=1 /dev/vda:/snap.qcow2 q
	device_reads q snap1 '  reads the first'
	like "$(ntfsmap list)" 'q +/dev/vda:/snap.qcow2 +qcow2 +ro' '  list'
	exits 2 '  verify cannot know which it was' ntfsmap verify q
	like "$err" 'from a snapshot' '  says so'
	ntfsmap close q
}

static_devices() {
	local name
	for name in top data ondata onraw snap; do
		exits 0 "open --static $name.qcow2" ntfsmap open -q --static "/dev/vda:/$name.qcow2" q
		device_reads q "$name" '  its contents are right'
		is "$(dmsetup table q | awk '{ print $3 }' | sort -u | tr -d '\n' | sed 's/zero//')$(blockdev --getro /dev/mapper/q)" linear1 \
			'  stock targets, read-only'
		exits 0 '  verify' ntfsmap verify q
		[ "$name" != ondata ] || exits 2 '  its data file cannot be written' ntfsmap open --test /dev/vda:/data.raw e
		ntfsmap close q
	done
	exits 2 'open --static of an image with compressed clusters' ntfsmap open --static /dev/vda:/plain.qcow2 q
	like "$err" 'byte 8388608 of the disk is in a compressed cluster.*qemu-img convert' '  names the first, and what to do'
}

if in_machine; then
	ok 'the module loads' insmod "$TEST_MODULE"
	mkdir -p /mnt/m
	modprobe -a loop dm-zero
	plain
	chain
	data_file
	snapshots
	static_devices
	writes
	is "$(devices)" '' 'nothing is left'
	done_testing
	exit
fi

TEST_MODULE=$("$top/tests/vm/module.sh") || {
	[ $? != 77 ] || skip_all "no headers for the machine's kernel"
	bail "the module does not build"
}
export TEST_MODULE
mkdir "$T/share"
d=$T/share
start=$PWD
cd "$d" || bail "no $d"

# fill FILE COMMAND...: by qemu-io
fill() {
	local file=$1 command args=()
	shift
	for command; do args+=(-c "$command"); done
	qemu-io "${args[@]}" "$file" >"$T/log" 2>&1 || bail "qemu-io: $(<"$T/log")"
}
image() {
	qemu-img create -q "$@" >"$T/log" 2>&1 || bail "qemu-img create $*: $(<"$T/log")"
}
# model FILE NAME [OPTION...]
model() {
	qemu-img convert "${@:3}" -O raw "$1" "$2.raw" || bail "qemu-img convert $1"
}

image -f qcow2 plain.qcow2 32M
fill plain.qcow2 'write -P 1 1M 3M' 'write -z 2M 1M' 'write -c -P 2 8M 1M' 'discard 3M 64k'
model plain.qcow2 plain
cp plain.qcow2 dirty.qcow2
printf '\1' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc status=none # the dirty bit
cp plain.qcow2 bitmaps.qcow2
qemu-img bitmap --add bitmaps.qcow2 one
image -f qcow one.qcow 24M
fill one.qcow 'write -P 3 1M 2M' 'write -P 4 20M 100k'
model one.qcow one
image -f vpc -o force_size base.vhd 8M
fill base.vhd 'write -P 5 1M 3M'
image -f qcow -b base.vhd -F vpc mid.qcow 16M
fill mid.qcow 'write -P 6 2M 512k' 'write -P 7 10M 512k'
image -f qcow2 -b mid.qcow -F qcow top.qcow2 24M
fill top.qcow2 'write -P 8 2200k 300k' 'write -z 10200k 100k' 'write -P 9 20M 64k'
model top.qcow2 top
head -c 5M /dev/urandom >rawbase
image -f qcow2 -o extended_l2=on -b rawbase -F raw onraw.qcow2 8M
fill onraw.qcow2 'write -P 10 1000k 300k'
model onraw.qcow2 onraw
image -f qcow2 -o data_file=data.raw,data_file_raw=on data.qcow2 16M
fill data.qcow2 'write -P 11 1M 1M' 'write -P 12 9M 1M'
cp --sparse=never data.raw full.raw && mv full.raw data.raw
for name in ondata ondata2; do
	image -f qcow2 -b data.qcow2 -F qcow2 $name.qcow2 16M
	fill $name.qcow2 'write -P 13 1500k 1M'
done
model ondata.qcow2 ondata
image -f qcow2 snap.qcow2 8M
fill snap.qcow2 'write -P 14 0 2M'
qemu-img snapshot -c first snap.qcow2
qemu-img resize -q snap.qcow2 12M
fill snap.qcow2 'write -P 15 1M 2M'
qemu-img snapshot -c 'the second' snap.qcow2
fill snap.qcow2 'write -P 16 1500k 1M' 'discard 0 512k'
model snap.qcow2 snap
model snap.qcow2 snap1 -l first
model snap.qcow2 snap2 -l 'the second'
head -c 8M snap1.raw >x && mv x snap1.raw
"$ntfsmap" reserve -q plain.qcow2 all 2>/dev/null
"$ntfsmap" reserve -q bitmaps.qcow2 1M 2>/dev/null
"$ntfsmap" reserve -q one.qcow all 2>/dev/null
"$ntfsmap" reserve -q top.qcow2 all 2>/dev/null

volume 256M
for name in plain.qcow2 dirty.qcow2 bitmaps.qcow2 one.qcow base.vhd mid.qcow top.qcow2 rawbase onraw.qcow2 data.qcow2 data.raw \
	ondata.qcow2 ondata2.qcow2 snap.qcow2; do
	f file "/$name" "$(stat -c %s "$name")" runs=3 order=shuffle seed=7 fill=stdin <"$name"
done
cd "$start" || bail "no $start"
guest_tests -t 900 -s "$T/share" -d "$img" -M ext4

mkdir "$T/after" && cd "$T/after" || bail "no $T/after"
for name in plain.qcow2 one.qcow top.qcow2 mid.qcow base.vhd data.qcow2 data.raw; do
	ntfscat "$img" "/$name" >"$name"
done
for name in plain.qcow2 one.qcow top.qcow2 data.qcow2; do
	case $name in
	*.qcow2) run qemu-img check "$name" && is "$status" 0 "qemu-img finds neither errors nor leaks in $name" || diag "$out$err" ;;
	esac
	qemu-img convert -O raw "$name" "$name.raw"
	is "$(hash_of "$name.raw")" "$(cat "$d/$name.hash")" "  qemu reads $name as the device did"
	ok '  e2fsck finds the file system clean' e2fsck -fn "$name.raw"
	is "$(debugfs -R 'cat /one' "$name.raw" 2>/dev/null | hash_of /dev/stdin)" "$(hash_of "$top/LICENSE")" '  a file in it is what was copied'
done
for name in base.vhd mid.qcow rawbase dirty.qcow2 snap.qcow2; do
	ntfscat "$img" "/$name" | cmp -s - "$d/$name"
	result $? "$name, which was only read, has not changed"
done
done_testing
