#!/usr/bin/env bash
# open --overlay, merge and revert: the image's file does not change until it is told to, the store survives closing and
# power cuts, also in the middle of a merge, and no cluster but those of the two files changes. What the overlay shows
# is compared with a model, and what is merged is read by ntfscat and qemu-img.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/images.sh
. "$top/tests/lib/images.sh"
need mkntfs ntfscat ntfscluster dmsetup losetup mkfs.ext4 e2fsck sfdisk perl qemu-img strace
d=/mnt/share
disk=/dev/vda:/disk.raw store=/dev/vda:/store.raw

# --- in the machine ---

# put FILE SECTOR: onto the overlay d and onto the model of what it shows.
put() {
	dd if="$1" of=/dev/mapper/d bs=512 seek="$2" oflag=direct conv=notrunc,nocreat status=none
	dd if="$1" of="$d/model.raw" bs=512 seek="$2" conv=notrunc status=none
}

open_d() {
	exits 0 "open: $*" ntfsmap open "$@" d
}

field() {
	ntfsmap status --json d | json "$1"
}

first() {
	open_d --overlay "$store" "$disk"
	like "$err" 'store.raw: a new store' '  says that the store is new'
	is "$(devices)" 'd d-cow d-origin' '  three devices'
	is "$(dmsetup table d | awk '{ print $3, $6 }')" 'snapshot PO' '  a persistent snapshot'
	is "$(blockdev --getro /dev/mapper/d /dev/mapper/d-origin | xargs)" '0 1' '  over a read-only device'
	is "$(blockdev --getsize64 /dev/mapper/d)" 16777216 '  of the size of the image'
	device_reads d model '  shows the image'
	is "$(compgen -G '/dev/disk/by-id/*d-[co][or]*')" '' '  udev makes links for NAME alone'
	ok '  and one for that' test -e /dev/disk/by-id/dm-name-d
	like "$(ntfsmap list)" "d-origin +$disk +raw +ro .* 1  below an overlay, used by /dev/mapper/d" '  list: the image'
	like "$(ntfsmap list)" "d-cow +$store +raw +rw .* 1  store of an overlay, used by /dev/mapper/d" '  list: the store'
	like "$(ntfsmap status d)" "overlay:  $store, good, 64.0 KiB of 7.9 MiB used" '  status'
	put "$d/noise" 100
	put "$d/small" 32767
	put "$d/small" 0
	device_reads d model 'what is written shows'
	device_reads d-origin before '  and not in the image'
	is "$(field '{overlay}{used}')" "$(dmsetup status d | awk -F'[ /]' '{ print $4 * 512 }')" '  status: what dmsetup says'
	exits 0 'verify of all' ntfsmap verify
	is "$(wc -l <<<"$out")" 3 '  has the three'
	exits 0 'verify of one' ntfsmap verify d
	exits 2 'the image is not opened for writing meanwhile' ntfsmap open "$disk" e
	like "$err" 'd-origin' '  which device has it'
	exits 2 'nor is the store' ntfsmap open "$store" e
	exits 2 'nor as the store of another' ntfsmap open --overlay "$store" /dev/vda:/other.raw e
	exits 2 'reload is refused' ntfsmap reload d
	exits 2 '  of its parts too' ntfsmap reload d-cow
	exits 2 'the device below is no SOURCE to write to' ntfsmap open /dev/mapper/d-cow e
	exits 0 'close' ntfsmap close d
	is "$(devices)" '' '  takes all three'
	ok 'the image can be opened by itself' ntfsmap open -q --readonly "$disk" e
	device_reads e before '  and is as it was'
	ntfsmap close e
	open_d --overlay "$store" "$disk"
	like "$err" 'going on with' '  says that the store has something'
	device_reads d model '  which is there'
	exec 5</dev/mapper/d
	exits 5 'close in use' ntfsmap close d
	exits 5 'merge in use' ntfsmap merge d
	exits 5 'revert in use' ntfsmap revert d
	exits 0 'close --deferred' ntfsmap close --deferred d
	exec 5<&-
	is "$(devices)" '' '  takes all three'
}

refused() {
	exits 2 'a store that holds something' ntfsmap open --overlay /dev/vda:/other.raw "$disk" d
	like "$err" 'holds something else.*first MiB with zeros' '  what to do'
	exits 2 'a store of 1 MiB' ntfsmap open --overlay /dev/vda:/small.raw "$disk" d
	exits 2 'the image itself' ntfsmap open --overlay "$disk" "$disk" d
	exits 2 'the store of another image' ntfsmap open --overlay "$store" /dev/vda:/other.raw d
	like "$err" 'written over another image' '  says so'
	exits 2 'the store of an image of another size' ntfsmap open --overlay "$store" --format raw /dev/vda:/size.vhd d
	ok '(an overlay of it)' ntfsmap open -q --overlay /dev/vda:/sizestore.raw /dev/vda:/size.vhd d
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	ntfsmap close d
	exits 2 'the same file as an image of another size' \
		ntfsmap open --overlay /dev/vda:/sizestore.raw --format raw /dev/vda:/size.vhd d
	like "$err" 'a disk of 1048576 bytes' '  says the sizes'
	exits 2 'a store that cannot be written' ntfsmap open --overlay /dev/vda:/sparse "$disk" d
	like "$err" 'sparse' '  says why'
	exits 4 'a store that is not there' ntfsmap open --overlay /dev/vda:/nosuch "$disk" d
	mkfs.ext4 -q /dev/vdb
	exits 2 'a device with a file system' ntfsmap open --overlay /dev/vdb "$disk" d
	like "$err" '/dev/vdb holds something else: ext4' '  which one'
	wipefs -qa /dev/vdb
	dd if=/dev/zero of=/dev/vdb bs=1M count=1 oflag=direct status=none
	exits 0 '--test makes nothing' ntfsmap open --test --overlay "$store" "$disk" d
	is "$(devices)" '' 'no device is left'
	ntfsmap open -q "$disk" d >/dev/null
	exits 2 'merge of what has no overlay' ntfsmap merge d
	exits 2 'revert of it' ntfsmap revert d
	exits 5 'no overlay over what is open for writing' ntfsmap open --overlay "$store" "$disk" e
	ntfsmap close d
	exits 4 'merge of what is not open' ntfsmap merge d
	dmsetup create d-cow --table '0 8 linear /dev/vdb 0'
	exits 5 'a name that is taken' ntfsmap open -q --overlay "$store" "$disk" d
	is "$(devices)" d-cow '  leaves nothing'
	dmsetup remove d-cow
}

# Each place that a store's contents are looked at.
damaged() {
	local at
	ntfsmap open -q --overlay /dev/vdb "$disk" d >/dev/null
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	ntfsmap close d
	dd if=/dev/vdb of=/tmp/good bs=1M count=1 iflag=direct status=none
	for at in 20 40 65536 65544 65548; do
		dd if=/tmp/good of=/dev/vdb bs=1M oflag=direct status=none
		printf '\x55' | dd of=/dev/vdb bs=1 seek="$at" conv=notrunc status=none
		sync /dev/vdb
		run ntfsmap open --overlay /dev/vdb "$disk" d
		is "$status" 6 "a store that is damaged at byte $at" || diag "$err"
	done
	dd if=/tmp/good of=/dev/vdb bs=1M oflag=direct status=none
	printf '\0\0\0\0' | dd of=/dev/vdb bs=1 seek=65540 conv=notrunc status=none
	exits 6 'a store that the kernel gave up' ntfsmap open --overlay /dev/vdb "$disk" d
	like "$err" 'given the store up' '  says so'
	is "$(devices)" '' 'no device is left'
	dd if=/tmp/good of=/dev/vdb bs=1M oflag=direct status=none
	exits 0 'it is good again' ntfsmap open --overlay /dev/vdb "$disk" d
	exits 0 'revert' ntfsmap revert d
	ntfsmap close d
	exits 0 'an empty store may be given to another image' ntfsmap open --overlay /dev/vdb /dev/vda:/other.raw d
	ntfsmap close d
}

full() {
	open_d --overlay /dev/vda:/tiny.raw "$disk"
	ok 'more is written than fits' bash -c '! dd if=/dev/urandom of=/dev/mapper/d bs=32k count=128 oflag=direct status=none'
	is "$(field '{mode}') $(field '{overlay}{state}')" 'out_of_space full' '  status says that it is full'
	is "$(field '{room}')" 0 '  no room'
	like "$(ntfsmap list)" 'd +.* out_of_space ' '  list too'
	ok '  it is still read' dd if=/dev/mapper/d of=/tmp/seen bs=1M iflag=direct status=none
	cmp -s /tmp/seen "$d/before.raw"
	is $? 1 '  with what did fit'
	ntfsmap close d
	ok '  after it was opened again' ntfsmap open -q --overlay /dev/vda:/tiny.raw "$disk" d
	ok '  it shows the same' cmp /tmp/seen <(read_direct /dev/mapper/d)
	exits 0 'revert' ntfsmap revert d
	device_reads d before '  shows the image again'
	is "$(field '{overlay}{state}')" good '  with room'
	ntfsmap close d
}

merged() {
	open_d --overlay "$store" "$disk"
	device_reads d model 'before the merge'
	mkdir -p /mnt/m
	exits 0 'merge' ntfsmap merge d
	like "$err" 'the image has it all' '  says so'
	device_reads d model '  the overlay shows the same'
	device_reads d-origin model '  and the image has it'
	is "$(dmsetup table d | awk '{ print $3 }')" snapshot '  it is an overlay again'
	is "$(blockdev --getro /dev/mapper/d /dev/mapper/d-origin | xargs)" '0 1' '  over a read-only device'
	is "$(field '{overlay}{used}')" 65536 '  that is empty'
	exits 0 '  a merge of nothing' ntfsmap merge d
	cp "$d/model.raw" "$d/merged.raw"
	put "$d/noise" 7000
	device_reads d model 'it is written to again'
	exits 0 'revert' ntfsmap revert d
	device_reads d merged '  drops what was written since'
	cp "$d/merged.raw" "$d/model.raw"
	ntfsmap close d
	open_d --overlay "$store" "$disk"
	like "$err" 'a new store' '  is empty after revert'
	put "$d/noise" 9001
	ntfsmap close d
}

mounted() {
	ntfsmap open -q --overlay /dev/vdb /dev/vda:/fs.raw d >/dev/null
	ok 'a file system on it' mkfs.ext4 -q /dev/mapper/d
	mount /dev/mapper/d /mnt/m
	cp "$top/LICENSE" /mnt/m/one
	exits 5 'merge while it is mounted' ntfsmap merge d
	like "$err" 'mounted on /mnt/m' '  says where'
	umount /mnt/m
	exits 0 'merge' ntfsmap merge d
	ntfsmap close d
	ntfsmap open -q --overlay /dev/vdb /dev/vda:/readonly.raw d >/dev/null
	exits 2 'merge into a file that is marked read-only' ntfsmap merge d
	like "$err" '--allow=readonly-file' '  names the word that lifts it'
	is "$(dmsetup table d | awk '{ print $3 }')" snapshot '  nothing has changed'
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	exits 0 '  with it' ntfsmap merge --allow=readonly-file d
	ok '  it has it' cmp -n 512 "$d/small" /dev/mapper/d-origin
	ntfsmap close d
}

# Image and store are regular files, through loop devices.
files() {
	cp "$d/before.raw" /tmp/plain.raw
	head -c 8M /dev/zero >/tmp/plainstore
	open_d --overlay /tmp/plainstore /tmp/plain.raw
	dd if="$d/noise" of=/dev/mapper/d bs=512 seek=64 oflag=direct conv=notrunc status=none
	cp "$d/before.raw" /tmp/want
	dd if="$d/noise" of=/tmp/want bs=512 seek=64 conv=notrunc status=none
	ok 'written to' cmp /tmp/want <(read_direct /dev/mapper/d)
	ok '  the file is not' cmp /tmp/plain.raw "$d/before.raw"
	ntfsmap close d
	open_d --overlay /tmp/plainstore /tmp/plain.raw
	unlike "$err" 'was changed' '  the file is the same'
	exits 0 'merge' ntfsmap merge d
	ntfsmap close d
	ok '  is in the file' cmp /tmp/want /tmp/plain.raw
	ntfsmap open -q --overlay /tmp/plainstore /tmp/plain.raw d >/dev/null
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	ntfsmap close d
	touch -d 2001-01-01 /tmp/plain.raw
	open_d --overlay /tmp/plainstore /tmp/plain.raw
	like "$err" 'plain.raw was changed after the overlay' '  a change of the file is told'
	ntfsmap close d
	cp /tmp/plain.raw /tmp/copy.raw
	exits 2 'a copy is another image' ntfsmap open --overlay /tmp/plainstore /tmp/copy.raw d
	is "$(losetup -a)" '' 'no loop device is left'
}

memory() {
	local before table
	before=$(sha256sum </dev/vda)
	open_d --overlay tmpfs "$disk"
	like "$err" 'goes to memory, at most 16\.2 MiB' '  says how much'
	dd if=/dev/urandom of=/dev/mapper/d bs=1M oflag=direct status=none 2>/dev/null
	is "$(field '{overlay}{state}')" good '  there is room to write all of it'
	is "$(field '{overlay}{store}')" tmpfs '  status'
	exits 0 '  verify' ntfsmap verify
	exits 2 'merge of a store in memory' ntfsmap merge d
	like "$err" 'in memory only.*copy /dev/mapper/d ' '  what to do'
	is "$(dmsetup table d | awk '{ print $3 }')" snapshot '  nothing has changed'
	exits 0 'revert' ntfsmap revert d
	device_reads d-origin before '  the image is as it was'
	device_reads d before '  and shows'
	ntfsmap close d
	ok 'an overlay in memory' ntfsmap open -q --overlay tmpfs /dev/vda:/fs.raw d
	mkfs.ext4 -q /dev/mapper/d
	mount /dev/mapper/d /mnt/m
	ok '  a file system is mounted and written to' cp "$top/README.md" /mnt/m/two
	umount /mnt/m
	ntfsmap close d
	udevadm settle
	is "$(devices) $(losetup -a)" ' ' 'nothing is left'
	ntfsmap open -q --overlay tmpfs "$disk" d >/dev/null
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	table=$(dmsetup table d)
	dmsetup wipe_table d
	exits 0 'another open while NAME has the table error' ntfsmap open -q --overlay tmpfs /dev/vda:/fs.raw e
	is "$(devices)" 'd d-cow d-origin e e-cow e-origin' '  takes none of the devices below for a ruin'
	dmsetup load d --table "$table" && dmsetup resume d
	ok '  what it held is there' cmp -n 512 "$d/small" /dev/mapper/d
	dmsetup wipe_table d
	udevadm settle
	exits 0 'close of one that is fenced' ntfsmap close d e
	udevadm settle
	is "$(devices) $(losetup -a)" ' ' '  takes all three'
	is "$(sha256sum </dev/vda)" "$before" 'and not a byte of the volume has changed'
}

# kills WHAT COMMAND...: all processes of the command are killed at the n-th ioctl, for every eleventh n. Whatever is
# left can be closed and opened again, and shows the model.
kills() {
	local what=$1 n status=137 bad='' runs=0
	shift
	for n in $(seq 1 11 400); do
		strace -qq -f -o /dev/null -e trace=ioctl -e inject=ioctl:signal=KILL:when="$n" "$@" >/dev/null 2>&1
		status=$?
		udevadm settle
		ntfsmap close -q d 2>/dev/null
		ntfsmap open -q --overlay "$store" "$disk" d >/dev/null 2>&1 || bad+=" $n:open"
		cmp -s "$d/model.raw" <(read_direct /dev/mapper/d) || bad+=" $n:contents"
		[ "$(devices)" = 'd d-cow d-origin' ] || bad+=" $n:$(devices)"
		runs=$n
		[ "$status" != 0 ] || break
		[ "$what" != open ] || ntfsmap close -q d
	done
	is "$bad" '' "$what killed at every eleventh of its ioctls (the last is $runs): nothing is lost"
	ok "  it was killed at several" test "$runs" -gt 12
	is "$status" 0 '  until a run got through'
}

killed() {
	kills open ntfsmap open --overlay "$store" "$disk" d
	kills merge ntfsmap merge d
	ntfsmap close d
	ntfsmap open -q --readonly "$disk" e >/dev/null
	device_reads e model 'and the merge is done'
	ntfsmap close e
}

power_cut() {
	echo b >/proc/sysrq-trigger
	sleep 60
}

# Records that are durable are told outside, until the power goes.
writes_until_cut() {
	local i
	modprobe dm-snapshot
	ntfsmap open -q --overlay "$store" "$disk" d >/dev/null || return
	{
		for i in $(seq 1 10000); do
			printf '%-512s' "record $i" | dd of=/dev/mapper/d bs=512 seek=$((i * 37 % 16000)) conv=notrunc,fdatasync status=none &&
				echo "$i" >>"$d/told"
		done
	} &
	while [ "$(wc -l <"$d/told")" -lt 60 ]; do :; done
	power_cut
}

after_cut() {
	local i bad=0 last
	last=$(tail -n 1 "$d/told")
	open_d --overlay "$store" "$disk"
	for i in $(seq 1 "$last"); do
		[ "$(dd if=/dev/mapper/d bs=512 count=1 skip=$((i * 37 % 16000)) status=none)" = "$(printf '%-512s' "record $i")" ] ||
			bad=$((bad + 1))
	done
	is "$bad" 0 "power cut while it is written to: all $last records that were flushed are there"
	device_reads d-origin model '  and the image is as it was'
	exits 0 'revert' ntfsmap revert d
	ntfsmap close d
}

# merging_below SECTORS: d is being merged, and has less than that left.
merging_below() {
	[[ $(dmsetup status d) =~ snapshot-merge\ ([0-9]+)/ ]] && [ "${BASH_REMATCH[1]}" -lt "$1" ]
}

# Alternating chunks on a disk that needs 0.4 s for a write: the merge takes minutes, a chunk at a time.
merge_until_cut() {
	local i before
	modprobe dm-snapshot
	modprobe dm-delay
	ntfsmap open -q --overlay "$store" "$disk" d >/dev/null
	for i in $(seq 1 60); do put "$d/small" $((i * 128)); done
	ntfsmap close d
	dmsetup create slow --table "0 $(blockdev --getsz /dev/vda) delay /dev/vda 0 0 /dev/vda 0 400"
	ntfsmap open -q --overlay /dev/mapper/slow:/store.raw /dev/mapper/slow:/disk.raw d >/dev/null || return
	before=$(dmsetup status d | awk -F'[ /]' '{ print $4 }')
	ntfsmap -q merge d &
	while ! merging_below $((before - 128)); do sleep 0.1; done
	field '{mode}' >"$d/mode"
	dmsetup status d >"$d/cut"
	power_cut
}

after_merge_cut() {
	like "$(cat "$d/cut")" 'snapshot-merge [0-9]+/[0-9]+ ' "power cut in a merge ($(cat "$d/cut"))"
	is "$(cat "$d/mode")" merging '  its mode was'
	open_d --overlay "$store" "$disk"
	like "$err" 'a merge of .* was interrupted' '  says so'
	is "$(field '{overlay}{used} > 65536')" 1 '  some of it is not merged'
	device_reads d model '  it shows what it did'
	! cmp -s "$d/model.raw" <(read_direct /dev/mapper/d-origin)
	is $? 0 '  the image alone does not'
	exits 2 '  revert is refused' ntfsmap revert d
	put "$d/small" 200
	device_reads d model '  it can be written to'
	ntfsmap -q merge d &
	exits 0 '  merge goes on' ntfsmap merge d
	wait $!
	is $? 0 '  also by two at once'
	device_reads d-origin model '  to the end'
	ntfsmap close d
}

# Partitions lie on the overlay, and are nothing that a merge or a revert can change below.
partitioned() {
	local open=(--overlay /dev/vda:/partstore.raw --partitions /dev/vda:/parts.raw) number
	dmsetup create d-part2 --table '0 8 zero'
	exits 5 'the name of a partition is taken' ntfsmap open -q "${open[@]}" d
	is "$(devices)" d-part2 '  leaves nothing'
	dmsetup remove d-part2
	open_d "${open[@]}"
	is "$(devices)" 'd d-cow d-origin d-part1 d-part2' '  the partitions are there'
	number=$(dmsetup info -c --noheadings --separator : -o major,minor d)
	is "$(dmsetup table d-part1; dmsetup table d-part2)" \
		"0 16384 linear $number 2048"$'\n'"0 8192 linear $number 20480" '  as sfdisk made them, on the overlay'
	is "$(field '{partitions}[1]{name}') $(field '{overlay}{state}') $(field '{users}')" 'd-part2 good 0' '  status'
	ok 'a file system in one' mkfs.ext4 -q /dev/mapper/d-part1
	mount /dev/mapper/d-part1 /mnt/m
	cp "$top/LICENSE" /mnt/m/one
	exits 5 'close while it is mounted' ntfsmap close d
	like "$err" 'd-part1 is mounted on /mnt/m' '  says where'
	umount /mnt/m
	exits 5 'merge with partitions' ntfsmap merge d
	like "$err" 'close it, and open it without' '  what to do'
	exits 5 'revert with partitions' ntfsmap revert d
	exits 2 'reload' ntfsmap reload d
	exits 0 'verify' ntfsmap verify
	is "$(wc -l <<<"$out")" 3 '  is about the three'
	mount /dev/mapper/d-part1 /mnt/m
	exits 0 'close --deferred while it is mounted' ntfsmap close --deferred d
	is "$(devices)" 'd d-cow d-origin d-part1' '  leaves what it needs'
	umount /mnt/m
	udevadm settle
	is "$(devices)" '' '  until it is not'
	open_d --overlay /dev/vda:/partstore.raw /dev/vda:/parts.raw
	is "$(devices)" 'd d-cow d-origin' '  without --partitions: none'
	exits 0 'merge' ntfsmap merge d
	ntfsmap close d
	ntfsmap open -q --readonly --partitions /dev/vda:/parts.raw e >/dev/null
	mount -o ro /dev/mapper/e-part1 /mnt/m
	ok '  the image has it' cmp "$top/LICENSE" /mnt/m/one
	umount /mnt/m
	ntfsmap close e
	is "$(devices)" '' 'nothing is left'
}

images() {
	insmod "$TEST_MODULE"
	for i in dyn.vhd new.qcow2; do
		open_d --overlay /dev/vda:/imgstore.raw "/dev/vda:/$i"
		dd if="$d/noise" of=/dev/mapper/d bs=512 seek=640 oflag=direct conv=notrunc status=none
		exits 0 "  merge into $i" ntfsmap merge d
		exits 0 '  verify' ntfsmap verify
		ntfsmap close d
	done
	open_d --overlay /dev/vda:/imgstore.raw /dev/vda:/noroom.vhd
	dd if="$d/noise" of=/dev/mapper/d bs=512 seek=640 oflag=direct conv=notrunc status=none
	exits 2 'no merge of what has no room in the image' ntfsmap merge d
	like "$err" 'room for 0 more: .*ntfsmap reserve' '  says what to do'
	is "$(dmsetup table d | awk '{ print $3 }')" snapshot '  nothing has changed'
	ntfsmap revert -q d
	ntfsmap close d
	open_d --overlay /dev/vda:/imgstore.raw --static /dev/vda:/dyn.vhd
	dd if="$d/small" of=/dev/mapper/d oflag=direct status=none
	exits 2 'no merge where it was opened with --static' ntfsmap merge d
	like "$err" 'static' '  says so'
	exits 0 'but a revert' ntfsmap revert d
	ntfsmap close d
	is "$(devices)" '' 'nothing is left'
}

if in_machine; then
	modprobe dm-snapshot || skip_all 'the kernel has no dm-snapshot'
	mkdir -p /mnt/m
	for i in $TEST_STEP; do "$i"; done
	done_testing
	exit
fi

# --- outside ---

# steps FUNCTION...: in one machine.
steps() {
	export TEST_STEP=$*
	guest_tests -t 1200 -s "$T/share" -d "$img" -d "$T/second.img"
}

# The machine goes down in the middle of it.
cut_in() {
	TEST_STEP=$1 in_vm -t 300 -s "$T/share" -d "$img" -d "$T/second.img" -- bash "$0" >/dev/null 2>&1
}

contents_is() {
	is "$(ntfscat "$img" /disk.raw | sha256sum)" "$(sha256sum <"$T/share/$1.raw")" "$2"
}

TEST_MODULE=$("$top/tests/vm/module.sh") || TEST_MODULE=''
export TEST_MODULE
mkdir "$T/share"
truncate -s 16M "$T/second.img"
volume 192M
for i in disk other; do f file "/$i.raw" 16M runs=9 order=shuffle fill=pattern; done
f file /store.raw 8M runs=7 order=shuffle fill=zero
f file /tiny.raw 2M runs=3 fill=zero
f file /small.raw 1M fill=zero
f file /fs.raw 16M runs=3 fill=zero
f file /readonly.raw 2M fill=zero
f attrs /readonly.raw 21
f file /sizestore.raw 2M fill=zero
f file /imgstore.raw 4M runs=5 order=shuffle fill=zero
f file /partstore.raw 4M runs=3 fill=zero
truncate -s 16M "$T/parts.raw"
sfdisk -q "$T/parts.raw" <<<$'start=2048, size=16384\nstart=20480, size=8192'
f file /parts.raw 16M runs=5 order=shuffle fill=stdin <"$T/parts.raw"
f sparse /sparse 8M
qemu-img create -q -f vpc -o subformat=fixed,force_size=on "$T/size.vhd" 1M
f file /size.vhd "$(stat -c %s "$T/size.vhd")" fill=stdin <"$T/size.vhd"
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/dyn.vhd" 8M
f file /noroom.vhd "$(stat -c %s "$T/dyn.vhd")" fill=stdin <"$T/dyn.vhd"
"$ntfsmap" reserve -q "$T/dyn.vhd" all
f file /dyn.vhd "$(stat -c %s "$T/dyn.vhd")" runs=4 order=shuffle fill=stdin <"$T/dyn.vhd"
qemu-img create -q -f qcow2 "$T/new.qcow2" 8M
"$ntfsmap" reserve -q "$T/new.qcow2" all
f file /new.qcow2 "$(stat -c %s "$T/new.qcow2")" runs=4 order=shuffle fill=stdin <"$T/new.qcow2"
f hiberfil hibr
ntfscat "$img" /disk.raw >"$T/share/before.raw"
cp "$T/share/before.raw" "$T/share/model.raw"
head -c 2000K /dev/urandom >"$T/share/noise"
head -c 512 /dev/urandom >"$T/share/small"
: >"$T/share/told"
for i in disk fs readonly store tiny sizestore imgstore parts partstore; do oracle_table "/$i.raw" 99999999; done >"$T/table"
for i in dyn.vhd new.qcow2; do oracle_table "/$i" 99999999; done >>"$T/table"
before=$(hash_outside "$T/table" "$img")

steps memory first
contents_is before 'the file of the image has not changed'
steps refused damaged full
contents_is before 'nor has it since'
steps merged
contents_is merged 'what was merged is in the file, and nothing that was written since'
steps killed
contents_is model 'the file has the second merge'
cut_in writes_until_cut
steps after_cut
cut_in merge_until_cut
steps after_merge_cut
contents_is model 'and what was merged after the power cut'
steps mounted files partitioned
ntfscat "$img" /fs.raw >"$T/fs.raw"
ok 'e2fsck finds nothing in the merged file system' e2fsck -fn "$T/fs.raw"
if [ -n "$TEST_MODULE" ]; then
	steps images
	truncate -s 8M "$T/want"
	dd if="$T/share/noise" of="$T/want" bs=512 seek=640 conv=notrunc status=none
	for i in dyn.vhd:vpc new.qcow2:qcow2; do
		ntfscat "$img" "/${i%:*}" >"$T/${i%:*}"
		ok "qemu reads what was merged into ${i%:*}" qemu-img compare -q -f "${i#*:}" -F raw "$T/${i%:*}" "$T/want"
	done
	ok 'qemu-img check' qemu-img check -q -f qcow2 "$T/new.qcow2"
fi
is "$(hash_outside "$T/table" "$img")" "$before" 'not a byte outside of these files has changed'
done_testing
