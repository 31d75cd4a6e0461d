#!/bin/bash
# The kernel target: what it reads, what it writes and where, what it refuses, and that it ends well. Dynamic VHD of
# qemu-img lie in pieces on a disk; qemu-img reads what was written.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need qemu-img dmsetup mkfs.ext4 e2fsck perl
share=/mnt/share
lay=$top/tests/lib/vhdlay.pl

# --- in the machine ---

# table NAME FEATURES...: the table line of an image that was laid out on the disk
table() {
	local name=$1 sectors bytes disk
	shift
	read -r sectors bytes disk <"$share/$name.size"
	echo "0 $sectors vdisk vhd $(($# + 2)) file_bytes $bytes $* 1 $disk $(wc -w <"$share/$name.extents") $(cat "$share/$name.extents")" | tr -s ' '
}

create() {
	local device=$1 name=$2
	shift 2
	dmsetup create "$device" --table "$(table "$name" "$@")"
}

field() {
	dmsetup status "$1" | cut -d' ' -f$(($2 + 3))
}

# The kernel's messages since the last call.
said() {
	dmesg -c | sed 's/^[^]]*\] //'
}

same() {
	cmp "$1" "$share/$2.raw"
}

random_write() {
	dd if="$share/noise" of="$1" bs=64k seek="$2" count="$3" oflag=direct conv=notrunc status=none
}

random_there() {
	dd if="$1" bs=64k skip="$2" count="$3" iflag=direct status=none | cmp - <(head -c $(($3 * 65536)) "$share/noise")
}

# refuses NAME MESSAGE ARGUMENTS
refuses() {
	said >/dev/null
	run dmsetup create bad --table "0 131072 vdisk $3"
	is "$status" 1 "constructor: $1"
	like "$(said)" "$2" "  and says why"
}

constructor() {
	local e='1 /dev/vda 1 0:2048+8192'
	refuses "no arguments" 'Too few arguments' ''
	refuses "another format" 'Unknown format' "qcow9 0 $e"
	refuses "raw" 'use the linear target' "raw 0 $e"
	refuses "no number of features" 'number of feature arguments' "vhd x $e"
	refuses "more features than arguments" 'fewer feature arguments' "vhd 20 $e"
	refuses "an unknown feature" 'no such feature: fast' "vhd 1 fast $e"
	refuses "a feature without its value" 'lacks its value' "vhd 1 cache_kib 64 $e"
	refuses "a cache of nothing" 'cache_kib.* is not between' "vhd 2 cache_kib 3 $e"
	refuses "a cache of no number" 'cache_kib.* is not between' "vhd 2 cache_kib 64k $e"
	refuses "file_bytes past the extents" 'does not end in the last extent' "vhd 2 file_bytes 4194305 $e"
	refuses "file_bytes before the last extent" 'does not end in the last extent' \
		"vhd 2 file_bytes 512 1 /dev/vda 2 0:0+8 0:16+8"
	refuses "a data device" "Feature 'data'" "vhd 2 data /dev/vdb $e"
	refuses "a parent that is not there" "Cannot open .*'parent'" "vhd 2 parent /dev/nothing $e"
	refuses "a parent that can be written" 'is not read-only' "vhd 2 parent /dev/vdb $e"
	refuses "no device" 'Invalid number of devices' 'vhd 0 0 1 0:2048+8192 x'
	refuses "two devices" 'only one is supported' 'vhd 0 2 /dev/vda /dev/vdb 1 0:2048+8192'
	refuses "a device that is not there" 'Cannot open the device' 'vhd 0 1 /dev/nothing 1 0:2048+8192'
	refuses "fewer extents than said" 'number of extents is not' 'vhd 0 1 /dev/vda 2 0:2048+8192'
	refuses "an extent in other words" 'extent 2048\+8 .*INDEX|is not 0:FIRST' 'vhd 0 1 /dev/vda 1 2048+8'
	refuses "an extent on the second device" 'is not 0:FIRST' 'vhd 0 1 /dev/vda 1 1:2048+8'
	refuses "a number that does not fit" 'is not 0:FIRST' 'vhd 0 1 /dev/vda 1 0:18446744073709551624+8'
	refuses "an empty extent" 'empty or not inside' 'vhd 0 1 /dev/vda 1 0:2048+0'
	refuses "an extent past the device" 'empty or not inside' 'vhd 0 1 /dev/vda 1 0:2048+80000000'
	refuses "an extent that ends past 64 bits" 'empty or not inside' 'vhd 0 1 /dev/vda 1 0:2048+18446744073709551615'
	refuses "extents that overlap" 'extents at sectors 2048 and 2055 .* overlap' 'vhd 0 1 /dev/vda 2 0:2055+8 0:2048+8'
	refuses "an extent that is not aligned" 'not aligned' 'vhd 0 1 /dev/vdb 1 0:2049+8'
	refuses "a small cache on large blocks" 'less than 64 blocks' 'vhd 2 cache_kib 64 1 /dev/vdb 1 0:2048+8'
	is "$(dmsetup ls)" 'No devices found' "nothing of these was made"
}

# resumes_as_failed NAME MESSAGE TABLE: the image is not what the table says
resumes_as_failed() {
	said >/dev/null
	ok "$1: the device is made" dmsetup create bad --table "$3"
	like "$(said)" "$2" "  the log says why"
	is "$(field bad 1)" fail "  its mode is fail"
	run dd if=/dev/mapper/bad of=/dev/null bs=4096 count=1 iflag=direct
	is "$status" 1 "  it cannot be read"
	run dmsetup message bad 0 flush
	is "$status" 1 "  nor flushed"
	dmsetup remove bad
}

wrong_images() {
	resumes_as_failed "another length" 'disk of 131072 sectors, but the table says 131064' \
		"$(table disk | sed 's/ 131072 / 131064 /')"
	resumes_as_failed "no image at all" 'offset [0-9]+: footer' "0 131072 vdisk vhd 0 1 /dev/vda 1 0:0+2048"
	resumes_as_failed "a parent that is not needed" 'the image has none' "$(table disk parent /dev/vdc)"
	resumes_as_failed "a parent that is missing" "needs feature 'parent'" "$(table child)"
	resumes_as_failed "a fixed VHD" 'use the linear target' "$(table fixed)"
}

reading() {
	ok "create" create v disk
	ok "reads equal qemu's" same /dev/mapper/v disk
	is "$(dmsetup table v)" "$(table disk | sed 's|/dev/vda|254:0|')" "the table is what was given"
	like "$(dmsetup status v)" '^0 131072 vdisk rw -/32 - 1/16384 [0-9]+ [0-9]+ 0$' "status: room is not known yet"
	ok "drop_cache" dmsetup message v 0 drop_cache
	is "$(field v 4)" 0/16384 "  the cache is empty"
	ok "reads are the same then" same /dev/mapper/v disk
	run dmsetup message v 0 nonsense
	is "$status" 1 "an unknown message"
	run rmmod dm-vdisk
	is "$status" 1 "the module stays while it is in use"
	ok "remove" dmsetup remove v
	ok "read-only by the feature" create v disk read_only
	is "$(field v 1)" ro "  mode ro"
	run random_write /dev/mapper/v 0 1
	is "$status" 1 "  cannot be written"
	ok "  reads are right" same /dev/mapper/v disk
	dmsetup remove v
	ok "read-only by the table" dmsetup create -r v --table "$(table disk)"
	is "$(field v 1)" ro "  mode ro"
	dmsetup remove v
}

writing() {
	create v disk
	ok "write where there is nothing" random_write /dev/mapper/v 100 8
	ok "  it is there" random_there /dev/mapper/v 100 8
	ok "  not in the tables yet, but flush brings it there" dmsetup message v 0 flush
	is "$(field v 7)" 1 "  one commit"
	ok "  and there without the cache" eval 'dmsetup message v 0 drop_cache && random_there /dev/mapper/v 100 8'
	ok "FUA write of a new block" dd if="$share/noise" of=/dev/mapper/v bs=4k seek=2000 count=1 oflag=direct,dsync status=none
	ok "write zeros over something" blkdiscard -z -o 8388608 -l 1048576 /dev/mapper/v
	ok "  they are read" cmp -n 1048576 -i 8388608:0 /dev/mapper/v /dev/zero
	ok "discard everything behind it" blkdiscard -o 16777216 -l 4194304 /dev/mapper/v
	ok "write across blocks" random_write /dev/mapper/v 330 12
	ok "suspend and resume" eval 'dmsetup suspend v && dmsetup resume v'
	like "$(dmsetup status v)" ' rw -/32 - ' "  opened anew"
	ok "  nothing is lost" random_there /dev/mapper/v 330 12
	ok "load the table again" eval 'dmsetup load v --table "$(table disk no_grow)" && dmsetup resume v'
	ok "  nothing is lost" random_there /dev/mapper/v 330 12
	is "$(dmsetup status v | cut -d' ' -f6)" 0 "  no room with no_grow"
	ok "  written again where it is" random_write /dev/mapper/v 330 12
	ok "and back" eval 'dmsetup load v --table "$(table disk)" && dmsetup resume v'
	dmsetup remove v
}

second_writer() {
	create v disk
	said >/dev/null
	create w disk
	like "$(said)" 'open for writing already, by 253:0' "a second writer of the file is refused"
	is "$(field w 1)" fail "  and fails"
	dmsetup remove w
	ok "a reader is not" create w disk read_only
	is "$(field w 1)" ro "  it is read-only"
	dmsetup remove w
	dmsetup remove v
}

file_system() {
	create v fs
	ok "mkfs.ext4" mkfs.ext4 -q /dev/mapper/v
	mkdir -p /mnt/fs
	ok "mount" mount -o discard /dev/mapper/v /mnt/fs
	cp "$top/LICENSE" /mnt/fs/one
	head -c 3000000 "$share/noise" >/mnt/fs/two
	cp -r "$top/libvdisk" /mnt/fs/three
	(for _ in 1 2 3 4 5; do dmsetup suspend v && dmsetup resume v; done)
	ok "files are the same after suspends" diff -r "$top/libvdisk" /mnt/fs/three
	rm -r /mnt/fs/three
	ok "fstrim" fstrim /mnt/fs
	ok "umount" umount /mnt/fs
	ok "e2fsck" e2fsck -fn /dev/mapper/v
	ok "remove" dmsetup remove v
}

load() {
	type -P fio >/dev/null || return 0
	create v load cache_kib 64
	suspending v 2>/dev/null &
	ok "four writers of fio find what they wrote, beside suspends" fio --name=w --filename=/dev/mapper/v --rw=randwrite \
		--bsrange=512-128k --size=6m --offset_increment=7m --numjobs=4 --direct=1 --ioengine=libaio --iodepth=8 \
		--fsync=16 --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse
	touch "$T/enough"
	wait $! 2>/dev/null
	dmsetup remove v
	# 400 blocks of the table do not fit into the cache
	create v wide cache_kib 64
	ok "random reads of a wide disk in a small cache" fio --name=r --filename=/dev/mapper/v --rw=randread --bs=4k \
		--norandommap --number_ios=3000 --numjobs=2 --direct=1 --ioengine=libaio --iodepth=16 --output-format=terse
	ok "writes over all of it" fio --name=w --filename=/dev/mapper/v --rw=randwrite --bs=4k --size=100g \
		--norandommap --number_ios=20 --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --output-format=terse
	ok "  the cache keeps its bound" [ "$(field v 4 | cut -d/ -f1)" -le 64 ]
	is "$(field v 1)" rw "  mode rw"
	dmsetup remove v
}

no_room() {
	local events
	create v tight
	ok "fill the room" random_write /dev/mapper/v 0 64
	events=$(dmsetup info -c --noheadings -o events v)
	said >/dev/null
	run random_write /dev/mapper/v 500 500
	is "$status" 1 "a write finds no room"
	like "$err" 'No space left' "  and says so"
	is "$(field v 1)" out_of_space "  mode out_of_space"
	is "$(field v 3)" 0 "  no room is left"
	like "$(said)" 'mode out_of_space' "  the log has it"
	ok "  an event tells it" [ "$(dmsetup info -c --noheadings -o events v)" -gt "$events" ]
	ok "what there is can be read" random_there /dev/mapper/v 0 64
	ok "  and be written" random_write /dev/mapper/v 0 64
	ok "  flushed" dmsetup message v 0 flush
	dmsetup remove v
}

damage() {
	create v damaged
	said >/dev/null
	run dd if=/dev/mapper/v of=/dev/null bs=4096 skip=512 count=1 iflag=direct
	is "$status" 1 "a table entry that points outside"
	like "$(said)" "table entry at offset $(cat "$share/damaged.entry") " "  the log names the entry"
	is "$(field v 1)" needs_check "  mode needs_check"
	ok "  the rest can be read" dd if=/dev/mapper/v of=/dev/null bs=1M count=2 iflag=direct status=none
	run random_write /dev/mapper/v 600 1
	is "$status" 1 "  no room is taken any more"
	ok "  suspend and resume" eval 'dmsetup suspend v && dmsetup resume v'
	is "$(field v 1)" needs_check "  do not heal it"
	dmsetup remove v
	sleep 6 # such messages are limited to ten in five seconds, and udev reads the entry too
	create v damaged
	said >/dev/null
	run random_write /dev/mapper/v 600 1
	is "$status" 1 "the search for room comes across it"
	like "$(said)" "table entry at offset $(cat "$share/damaged.entry") of the file cannot point to [1-9][0-9]{0,15}:" \
		"  the log names it and what it says"
	is "$(field v 1)" needs_check "  mode needs_check"
	dmsetup remove v
}

# The disk below is a device of its own, so that it can break and mend.
lower() {
	local sectors
	sectors=$(blockdev --getsz /dev/vda)
	dmsetup load low --table "0 $sectors $1" && dmsetup suspend --noflush --nolockfs low && dmsetup resume low
}

# Only where the image's headers and BAT are: guest data can be written, the commit fails.
break_tables() {
	local sectors first
	sectors=$(blockdev --getsz /dev/vda)
	first=$(sed 's/^0:\([0-9]*\)+.*/\1/' "$share/broken.extents")
	printf '%s\n' "0 $first linear /dev/vda 0" "$first 8 flakey /dev/vda $first 0 100 1 error_writes" \
		"$((first + 8)) $((sectors - first - 8)) linear /dev/vda $((first + 8))" | dmsetup load low
	dmsetup suspend --noflush --nolockfs low
	dmsetup resume low
}

broken_disk() {
	modprobe dm-flakey
	dmsetup create low --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
	ok "over a disk that breaks" dmsetup create v --table "$(table broken | sed 's|/dev/vda|/dev/mapper/low|')"
	ok "  write and flush" eval 'random_write /dev/mapper/v 100 8 && dmsetup message v 0 flush'

	lower "flakey /dev/vda 0 0 100 1 error_writes"
	run random_write /dev/mapper/v 200 1
	is "$status" 1 "  a write to a new block that the disk refuses"
	is "$(field v 1)" rw "  is that write's own matter"
	lower "linear /dev/vda 0"
	ok "  and succeeds when the disk does" random_write /dev/mapper/v 200 1

	# now, or the timer would commit this one when the tables cannot be written, before the next write
	ok "  flushed" dmsetup message v 0 flush
	said >/dev/null
	break_tables
	random_write /dev/mapper/v 400 1
	run dmsetup message v 0 flush
	is "$status" 1 "  a commit that the disk refuses"
	is "$(field v 1)" fail "  mode fail"
	like "$(said)" 'mode fail' "  the log has it"
	lower "linear /dev/vda 0"
	run random_write /dev/mapper/v 100 1
	is "$status" 1 "  no writes any more"
	ok "  reads go on, of what was flushed" random_there /dev/mapper/v 100 8
	ok "  and of what was not" random_there /dev/mapper/v 400 1
	ok "  suspend and resume" eval 'timeout 30 dmsetup suspend v && dmsetup resume v'
	is "$(field v 1)" fail "  do not heal it"
	ok "  loading the table again does" eval 'dmsetup load v --table "$(dmsetup table v)" && dmsetup resume v'
	is "$(field v 1)" rw "  mode rw"
	ok "  what was flushed is there" random_there /dev/mapper/v 100 8

	dmsetup message v 0 drop_cache
	lower error
	run dd if=/dev/mapper/v of=/dev/null bs=4096 count=1 iflag=direct
	is "$status" 1 "  a table that cannot be read"
	ok "  suspends" eval 'timeout 30 dmsetup suspend v && dmsetup resume v'
	is "$(field v 1)" fail "  a resume that cannot read the headers fails the device, not itself"
	lower "linear /dev/vda 0"
	ok "  the next" eval 'dmsetup suspend v && dmsetup resume v'
	is "$(field v 1)" rw "  mends it"
	ok "  and all is there" random_there /dev/mapper/v 100 8
	dmsetup remove v
	dmsetup remove low
}

# The two numbers of a device's inflight file, one sum.
under_way() {
	awk '{ print $1 + $2 }' "/sys/block/$(basename "$(readlink -f "/dev/mapper/$1")")/inflight"
}

# A read of the table is slow in its first block, and quick in the second, which it reads ahead. Meanwhile that one is
# changed, written and dropped: what the read brings is old, and must not be used.
slow_table() {
	local first sectors try unit commits
	modprobe dm-delay
	first=$(($(sed 's/^0:\([0-9]*\)+.*/\1/' "$share/slow.extents") + 3))
	sectors=$(blockdev --getsz /dev/vda)
	printf '%s\n' "0 $first linear /dev/vda 0" "$first 1 delay /dev/vda $first 3000 /dev/vda $first 0" \
		"$((first + 1)) $((sectors - first - 1)) linear /dev/vda $((first + 1))" | dmsetup create low
	ok "over a slow disk" dmsetup create v --table "$(table slow | sed 's|/dev/vda|/dev/mapper/low|')"
	ok "  room is found" eval 'random_write /dev/mapper/v 4100 1 && dmsetup message v 0 flush'
	for try in 1 2 3 4 5 6 7; do
		unit=$((4100 + 32 * try))
		random_write /dev/mapper/v $unit 1
		dmsetup message v 0 drop_cache
		commits=$(field v 7)
		dd if=/dev/mapper/v of=/dev/null bs=4096 count=1 iflag=direct status=none &
		until [ "$(under_way v)" -gt 0 ]; do sleep 0.01; done
		[ "$(field v 7)" != "$commits" ] || break
		wait # the timer's commit came first: once more
	done
	ok "  a commit beside a read of the table" dmsetup message v 0 flush
	dmsetup message v 0 drop_cache
	ok "  which has not ended" test "$(under_way v)" -gt 0
	wait
	ok "  what was committed is there" random_there /dev/mapper/v "$unit" 1
	dmsetup remove v
	dmsetup remove low
}

differencing() {
	ok "differencing over a parent" create c child parent /dev/vdc
	ok "  reads are the child's and the parent's" same /dev/mapper/c child
	ok "  writes into sectors of the parent" random_write /dev/mapper/c 0 40
	ok "  they are there" random_there /dev/mapper/c 0 40
	ok "  into a block that is the parent's" dd if="$share/noise" of=/dev/mapper/c bs=512 seek=5001 count=3 oflag=direct conv=notrunc status=none
	ok "  flush" dmsetup message c 0 flush
	dmsetup message c 0 drop_cache
	{
		head -c $((40 * 65536)) "$share/noise"
		tail -c +$((40 * 65536 + 1)) "$share/child.raw"
	} >/tmp/expected
	dd if="$share/noise" of=/tmp/expected bs=512 seek=5001 count=3 conv=notrunc status=none
	ok "  and all the rest is as it was" cmp /dev/mapper/c /tmp/expected
	ok "  after a resume too" eval 'dmsetup suspend c && dmsetup resume c && cmp /dev/mapper/c /tmp/expected'
	rm /tmp/expected
	dmsetup remove c
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	like "$(dmsetup targets)" 'vdisk +v1\.0\.0' "the target is there"
	constructor
	wrong_images
	reading
	writing
	second_writer
	file_system
	load
	no_room
	damage
	broken_disk
	slow_table
	differencing
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

TEST_MODULE=$("$top/tests/vm/module.sh") || { [ $? != 77 ] || skip_all "no headers for the machine's kernel"; bail "the module does not build"; }
export TEST_MODULE
mkdir "$T/share"
share=$T/share
disk=$T/disk.img
next=2048

# lay NAME PIECES ROOM-BYTES: puts $T/NAME.vhd on the disk, and says where
lay() {
	local bytes
	[ "$3" = 0 ] || "$lay" room "$T/$1.vhd" "$3"
	bytes=$(stat -c %s "$T/$1.vhd")
	"$lay" place "$T/$1.vhd" "$disk" "$next" "$2" >"$share/$1.extents"
	echo "$sectors $bytes /dev/vda" >"$share/$1.size"
	next=$((next + bytes / 512 + $2 * 16 + 2048))
	next=$((next - next % 8))
}

# back NAME: the image as it is on the disk now
back() {
	# shellcheck disable=SC2046 # a list
	"$lay" take "$disk" "$(cut -d' ' -f2 "$share/$1.size")" $(cat "$share/$1.extents") >"$T/$1.after"
}

dynamic() {
	qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$T/$1.raw" "$T/$2.vhd"
}

head -c 700M /dev/zero | tr '\0' '\245' >"$disk"
sectors=131072
truncate -s 64M "$T/disk.raw"
for i in 0 2 5 8 9 21 30; do
	dd if=/dev/urandom of="$T/disk.raw" bs=64k seek=$((i * 33)) count=19 conv=notrunc status=none
done
truncate -s 64M "$T/empty.raw"
dd if=/dev/urandom of="$T/empty.raw" bs=1M count=4 conv=notrunc status=none
head -c 64M /dev/urandom >"$share/noise"
dynamic disk disk
dynamic empty fs
dynamic empty load
dynamic empty tight
dynamic empty damaged
dynamic empty broken
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/wide.vhd" 100G
qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on "$T/empty.raw" "$T/fixed.vhd"
"$lay" child "$T/disk.raw" "$T/child.vhd" "$share/child.raw" 3
"$lay" entry "$T/damaged.vhd" 1 $((1 << 30)) >"$share/damaged.entry"
cp "$T/disk.raw" "$share/disk.raw"
cp "$T/disk.raw" "$T/parent.img"
lay disk 7 $((24 << 20))
lay fs 40 $((70 << 20))
lay load 11 $((70 << 20))
lay tight 1 $((3 << 20))
lay damaged 2 $((8 << 20))
lay broken 3 $((16 << 20))
lay child 9 $((20 << 20))
lay fixed 1 0
sectors=$((100 << 21))
lay wide 5 $((200 << 20))
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/slow.vhd" 2G
sectors=$((2 << 21))
lay slow 1 $((24 << 20))
truncate -s 16M "$T/4k.img"
ours=$(cat "$share"/*.extents)
# shellcheck disable=SC2086 # a list
before=$("$lay" outside "$disk" $ours)

guest_tests -t 900 -m 2048 -d "$disk" -d "$T/4k.img,bs=4096" -d "$T/parent.img,ro" -s "$share"

# shellcheck disable=SC2086
is "$("$lay" outside "$disk" $ours)" "$before" "every byte outside the images is unchanged"
for name in disk fs load tight broken wide; do
	back "$name"
	ok "qemu-img takes $name" qemu-img info -f vpc "$T/$name.after"
	is "$(tail -c 512 "$T/$name.after" | sha256sum)" "$(tail -c 512 "$T/$name.vhd" | sha256sum)" "  its footer is untouched"
done
for name in disk fs tight; do
	qemu-img convert -f vpc -O raw "$T/$name.after" "$T/$name.out"
done
is "$(tail -c +$((100 * 65536 + 1)) "$T/disk.out" | head -c $((8 * 65536)) | sha256sum)" \
	"$(head -c $((8 * 65536)) "$share/noise" | sha256sum)" "qemu-img reads what was written"
is "$(tail -c +$((330 * 65536 + 1)) "$T/disk.out" | head -c $((12 * 65536)) | sha256sum)" \
	"$(head -c $((12 * 65536)) "$share/noise" | sha256sum)" "  across blocks too"
is "$(tail -c +$((48 << 20)) "$T/disk.out" | sha256sum)" "$(tail -c +$((48 << 20)) "$T/disk.raw" | sha256sum)" "  the end is as it was"
is "$(head -c 4M "$T/tight.out" | sha256sum)" "$(head -c 4M "$share/noise" | sha256sum)" "  what found room is there"
ok "e2fsck finds the file system clean" e2fsck -fn "$T/fs.out"
is "$(debugfs -R 'cat /one' "$T/fs.out" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/LICENSE")" "a file in it is what was written"
done_testing
