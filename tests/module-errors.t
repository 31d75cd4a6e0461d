#!/usr/bin/env bash
# The kernel target over a disk that fails: reads, writes and flushes of data and of tables. What fails is that I/O
# alone, or, where the tables can no longer be trusted to become durable, all writes; never what was flushed before.
# Nothing hangs. Between vdisk and the disk lies a device whose table changes: pieces of `error`, or of `flakey`, which
# takes a flush for the whole device and fails it.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img dmsetup perl
seed=${TEST_SEED:-20261121}
block=65536 blocks=128

# --- in the machine ---

fact() {
	sed -n "s/^$2=//p" "$share/$1.facts"
}

# Sector of the disk of a byte of an image in one piece.
on_disk() {
	local first
	first=$(sed 's/0:\([0-9]*\)+.*/\1/' "$share/$1.extents")
	echo $((first + $2 / 512))
}

# segment KIND FIRST COUNT
segment() {
	[ "$3" -gt 0 ] || return 0
	case $1 in
	linear) echo "$2 $3 linear $real $2" ;;
	error) echo "$2 $3 error" ;;
	no_flush) echo "$2 $3 flakey $real $2 0 1000000 1 error_writes" ;;
	esac
}

# lower DEVICE REAL [KIND FIRST COUNT]...: the device gets a new table; the pieces in order
lower() {
	local device=$1 real=$2 at=0 table='' how=() end
	shift 2
	end=$(blockdev --getsz "$real")
	while [ $# -gt 0 ]; do
		table+=$(segment linear "$at" $(($2 - at)))$'\n'$(segment "$1" "$2" "$3")$'\n'
		at=$(($2 + $3))
		shift 3
	done
	table+=$(segment linear "$at" $((end - at)))
	[ "$device" != parent ] || how=(-r)
	if dmsetup info "$device" >/dev/null 2>&1; then
		dmsetup load "${how[@]}" "$device" <<<"$table" && dmsetup suspend --noflush --nolockfs "$device" &&
			dmsetup resume "$device"
	else
		dmsetup create "${how[@]}" "$device" <<<"$table" && dmsetup mknodes "$device"
	fi || bail "no table for $device: $table"
}

fails_at() {
	lower low /dev/vda error "$(on_disk "$1" "$2")" $(($3 / 512))
}

fails_to_flush() {
	lower low /dev/vda no_flush $(($(blockdev --getsz /dev/vda) - 8)) 8
}

works() {
	lower low /dev/vda
}

create() {
	local name=$1
	shift
	within 60 dmsetup create v --table "$(table "$name" /dev/mapper/low "$@")" && dmsetup mknodes v
}

# put BLOCK [SECTORS]: writes noise there, and where that is expected, if it went well
put() {
	within 60 dd if="$share/noise" of=/dev/mapper/v bs=512 seek=$(($1 * block / 512)) count="${2:-$((block / 512))}" \
		oflag=direct conv=notrunc status=none || return
	dd if="$share/noise" of="$T/expected" bs=512 seek=$(($1 * block / 512)) count="${2:-$((block / 512))}" \
		conv=notrunc status=none
}

get() {
	within 60 dd if=/dev/mapper/v of="$T/got" bs=$block skip="$1" count=1 iflag=direct status=none &&
		cmp "$T/got" <(dd if="$T/expected" bs=$block skip="$1" count=1 status=none)
}

# Everything is as expected, to a device that is made anew.
all_there() {
	works && create "$1" "${@:2}" && cmp /dev/mapper/v "$T/expected"
}

# refused NAME COMMAND...: it fails, and in time
refused() {
	local why=$1
	shift
	run within 60 "$@"
	[ "$status" != 0 ] && [ "$status" != 124 ]
	result $? "$why" || diag "status $status: $out$err"
}

flush_v() {
	dmsetup message v 0 flush
}

message_in_time() {
	ok "$1" within 60 dmsetup "${@:2}"
}

# Sets $full and $free: indexes of blocks that the image has, and has not.
sort_blocks() {
	local i have
	have=,$(fact "$1" blocks)
	full=() free=()
	for ((i = 0; i < blocks; i++)); do
		if [[ $have == *",$i:"* ]]; then full+=("$i"); else free+=("$i"); fi
	done
}

# Where the first new block of an image will lie, its data on a boundary of 4096.
first_room() {
	local place end=0 at
	for place in $(fact "$1" blocks | tr , ' '); do
		at=$((${place#*:} + $(fact "$1" bitmap_bytes) + block))
		[ "$at" -le "$end" ] || end=$at
	done
	echo $(((end + $(fact "$1" bitmap_bytes) + 4095) / 4096 * 4096))
}

place_of() {
	fact "$1" blocks | tr , '\n' | sed -n "s/^$2://p"
}

# mode NAME: of v, which must hold on when all is suspended too
failed_for_good() {
	is "$(field v 1)" fail "  mode fail"
	refused "  no write is taken, not even where there is a place" put "${full[0]}"
	refused "  nor FUA" dd if=/dev/zero of=/dev/mapper/v bs=4096 seek=$((full[0] * block / 4096)) count=1 oflag=direct,dsync
	refused "  nor zeros" blkdiscard -z -o 0 -l $block /dev/mapper/v
	refused "  nor a flush" flush_v
	ok "  reads live on" get "${full[1]}"
	message_in_time "  suspend" suspend v
	message_in_time "  resume" resume v
	is "$(field v 1)" fail "  mode fail still"
	message_in_time "  remove" remove v
}

reading_tables() {
	create dynamic
	fails_at dynamic "$(fact dynamic table_at)" 512
	refused "a table that cannot be read: the read fails" get "${full[0]}"
	refused "  and a write" put "${full[0]}"
	is "$(field v 1)" rw "  mode rw"
	works
	ok "  when it can be read again, all is well" cmp /dev/mapper/v "$T/expected"
	ok "  and can be written" put "${free[0]}"
	ok "  and flushed" flush_v
	dmsetup remove v
	ok "  and is there" all_there dynamic
	dmsetup remove v
}

writing_data() {
	create dynamic
	fails_at dynamic $(($(place_of dynamic "${full[0]}") + 512)) 4096
	refused "data that cannot be written: the write fails" put "${full[0]}" 8
	is "$(field v 1)" rw "  mode rw"
	ok "  other places can be" put "${full[1]}"
	ok "  and be flushed" flush_v
	ok "  and be read" get "${full[2]}"
	refused "  this one cannot be read" get "${full[0]}"
	works
	ok "  until the disk works again" get "${full[0]}"
	fails_at dynamic "$(first_room dynamic)" $((4 << 20))
	refused "data of a new block that cannot be written: the write fails" put "${free[1]}"
	is "$(field v 1)" rw "  mode rw"
	ok "  flush" flush_v
	ok "  what was there is read" get "${free[1]}"
	works
	ok "  the next write finds room" put "${free[1]}"
	ok "  flush" flush_v
	dmsetup remove v
	ok "  and all is there" all_there dynamic
	dmsetup remove v
}

flushing() {
	local before
	create dynamic
	fails_to_flush
	refused "a flush that fails, with nothing to commit" flush_v
	is "$(field v 1)" rw "  mode rw"
	works
	ok "  flush" flush_v
	ok "a block that is flushed" put "${free[2]}"
	ok "  flush" flush_v
	before=$(events v)
	fails_to_flush
	cp "$T/expected" "$T/flushed"
	ok "a block that cannot be flushed is taken" put "${free[3]}"
	refused "  the flush fails" flush_v
	ok "  it is read" get "${free[3]}"
	ok "  an event tells" [ "$(events v)" -gt "$before" ]
	like "$(dmesg | tail -n 20)" 'vdisk: .*mode fail' "  so does the log"
	failed_for_good
	cp "$T/flushed" "$T/expected"
	ok "  what was flushed before is there" all_there dynamic
	is "$(field v 1)" rw "  mode rw"
	dmsetup remove v
}

# writing_tables WHAT IMAGE OFFSET LENGTH FEATURES...: where the disk fails, once the tables are in the cache
writing_tables() {
	local what=$1 image=$2 offset=$3 length=$4 before
	shift 4
	create "$image" "$@"
	ok "$what: the block before is flushed" eval 'put "${free[0]}" && flush_v && cat /dev/mapper/v >/dev/null'
	before=$(events v)
	cp "$T/expected" "$T/flushed"
	fails_at "$image" "$offset" "$length"
	ok "  a block is taken" put "${free[4]}" 8
	refused "  the flush fails" flush_v
	ok "  the block is read" get "${free[4]}"
	ok "  an event tells" [ "$(events v)" -gt "$before" ]
	failed_for_good
	cp "$T/flushed" "$T/expected"
	ok "  what was flushed before is there" all_there "$image" "$@"
	dmsetup remove v
}

# The first room of a device made anew is not that of the image: blocks were added.
next_room() {
	local place
	put "$1" && flush_v || return
	place=$(table_entry "$2" "$1")
	echo $((place * 512 + $(fact "$2" bitmap_bytes) + block))
}

# table_entry IMAGE BLOCK: as it is on the disk
table_entry() {
	blockdev --flushbufs /dev/vda
	dd if=/dev/vda bs=512 skip="$(on_disk "$1" "$(fact "$1" table_at)")" count=$((blocks * 4 / 512)) iflag=direct status=none |
		perl -e 'local $/; print unpack(sprintf("x%d N", 4 * shift), <STDIN>)' "$2"
}

tables() {
	local data
	writing_tables "a table that cannot be written" dynamic "$(fact dynamic table_at)" 512
	create dynamic
	data=$(($(next_room "${free[5]}" dynamic)))
	data=$(((data + 512 + 4095) / 4096 * 4096))
	dmsetup remove v
	# The first 8 sectors are the guest's, the rest is to be zeroed.
	writing_tables "a new block that cannot be filled" dynamic $((data + 32768)) 4096
	writing_tables "a new bitmap that cannot be written" dynamic $((data - 512)) 512
}

differencing() {
	sort_blocks child
	cp "$share/child.model" "$T/expected"
	lower parent /dev/vdb
	ok "a bitmap that cannot be read" create child parent /dev/mapper/parent
	fails_at child "$(place_of child "${full[0]}")" 512
	refused "  the read fails" get "${full[0]}"
	ok "  others do not" get "${full[1]}"
	is "$(field v 1)" rw "  mode rw"
	works
	ok "  when it can be read again, all is well" cmp /dev/mapper/v "$T/expected"
	lower parent /dev/vdb error $((free[0] * block / 512)) 8
	refused "a parent that cannot be read: the read fails" get "${free[0]}"
	ok "  others do not" get "${free[1]}"
	ok "  writes neither" put "${free[0]}" 8
	ok "  flush" flush_v
	ok "  these sectors are the child's now" get "${free[0]}"
	is "$(field v 1)" rw "  mode rw"
	lower parent /dev/vdb
	dmsetup remove v
	ok "  all is there" all_there child parent /dev/mapper/parent
	dmsetup remove v
	writing_tables "a bitmap that cannot be changed" child "$(fact child table_at)" 512 parent /dev/mapper/parent
}

all_gone() {
	sort_blocks dynamic
	cp "$share/dynamic.now" "$T/expected"
	create dynamic
	ok "the disk is gone with something flushed" eval 'put "${free[6]}" && flush_v'
	cp "$T/expected" "$T/flushed"
	put "${free[7]}" 1
	fails_at dynamic 0 "$(fact dynamic bytes)"
	refused "  no data can be read" get "${full[0]}"
	message_in_time "  suspend" suspend v
	message_in_time "  resume" resume v
	run within 60 dmsetup message v 0 drop_cache
	is "$status" 0 "  drop_cache"
	run within 60 sync
	is "$status" 0 "  sync"
	message_in_time "  status" status v
	message_in_time "  remove" remove v
	message_in_time "a device over a disk that is gone is made" create v --table "$(table dynamic /dev/mapper/low)"
	dmsetup mknodes v
	is "$(field v 1)" fail "  mode fail"
	refused "  it cannot be read" get "${full[0]}"
	works
	ok "  when the disk is back, a reload helps" eval \
		'dmsetup load v --table "$(table dynamic /dev/mapper/low)" && within 60 dmsetup suspend v && within 60 dmsetup resume v'
	is "$(field v 1)" rw "  mode rw"
	cp "$T/flushed" "$T/expected"
	ok "  what was flushed is there" get "${free[6]}"
	ok "  all the rest too" eval 'put "${free[7]}" && cmp /dev/mapper/v $T/expected'
	ok "  for later" cp "$T/expected" "$share/dynamic.now"
	dmsetup remove v
}

disk_sum() {
	dd if=/dev/vda bs=1M iflag=direct status=none | sha256sum
}

# Somebody knows that the image is not there any more: nothing may be written where it was.
given_up() {
	local sum
	works
	create dynamic
	put "${free[8]}"
	message_in_time "fail: an image is given up" message v 0 fail
	sum=$(disk_sum)
	is "$(field v 1)" fail "  mode fail"
	refused "  nothing can be written where nothing was" put "${free[9]}"
	refused "  nor where something was" put "${full[0]}"
	refused "  nor flushed" flush_v
	refused "  nor by a device flush" dd if=/dev/zero of=/dev/mapper/v bs=512 count=1 oflag=direct conv=fsync,notrunc status=none
	ok "  what was there can be read" get "${full[0]}"
	message_in_time "  suspend" suspend v
	message_in_time "  resume" resume v
	is "$(field v 1)" fail "  mode fail"
	refused "  nothing can be written now either" put "${full[0]}"
	message_in_time "  remove" remove v
	is "$(disk_sum)" "$sum" "  and nothing was written"
	create dynamic
	is "$(field v 1)" rw "  a device that is made anew: mode rw"
	ok "  all is there" eval 'put "${free[8]}" && cmp /dev/mapper/v $T/expected'
	ok "  for later" cp "$T/expected" "$share/dynamic.now"
	dmsetup remove v
}

if in_machine; then
	modprobe dm-flakey || skip_all "the kernel has no dm-flakey"
	ok "insmod" insmod "$TEST_MODULE"
	works
	sort_blocks dynamic
	cp "$share/dynamic.model" "$T/expected"
	reading_tables
	writing_data
	flushing
	tables
	cp "$T/expected" "$share/dynamic.now"
	differencing
	all_gone
	given_up
	dmsetup remove parent
	dmsetup remove low
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

image() {
	local name=$1
	shift
	"$makevhd" "$T/$name.vhd" "$share/$name.model" size=$((blocks * block)) block=$block footer=good layout=plain \
		"$@" >"$share/$name.facts" || bail "cannot make $name"
	lay "$name" $((blocks * block / 512)) 1
}

build_module
echo "# seed $seed"
head -c $block /dev/urandom >"$share/noise"
image parent seed="$seed" allocate=70
image dynamic seed=$((seed + 1)) allocate=40 room=$((8 << 20)) bitmaps=ones
image child seed=$((seed + 2)) allocate=40 room=$((8 << 20)) bitmaps=bits parent="$T/parent.vhd" \
	parent_model="$share/parent.model"
cp "$share/parent.model" "$T/parent.raw"
truncate -s +1M "$disk"
before=$(outside)

# No udev: it reads what it likes when it likes, and so does the cache then.
guest_tests -n -t 900 -d "$disk" -d "$T/parent.raw,ro" -s "$share"

is "$(outside)" "$before" "every byte outside the images is unchanged"
back dynamic
ok "qemu-img reads what was flushed" eval \
	'qemu-img convert -f vpc -O raw "$T/dynamic.after" "$T/out.raw" && cmp "$T/out.raw" "$share/dynamic.now"'
for image in dynamic child; do
	back "$image"
	run "$ntfsmap" check "$T/$image.after"
	is "$status" 0 "$image: ntfsmap check" || diag "$out$err"
done
done_testing
