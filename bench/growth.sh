#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What a 4 KiB read and opening cost as the image, its number of fragments, the chain or the number of devices grows, and
# how much memory a device takes. All in the test machine, whose clock counts instructions, on a RAM disk.
# Usage: make bench-growth, or bench/growth.sh [size|fragments|depth|devices|cache|memory]... after `make tools bench-tools`.
# shellcheck source-path=SCRIPTDIR source=figures.sh
. "$(dirname "$0")/figures.sh"
parts=(size fragments depth devices cache memory)
sizes=(qcow2:1 qcow2:64 qcow2:1024 qcow2:8192 qcow2:65536 vhd:1 vhd:64 vhd:2040) # GiB
fragments=(1 10 100 1000 10000 100000)
depths=(1 2 5 10 20)
devices=(1 10 100 1000)
places=512 # that are read, each in a cluster of its own
rounds=5   # the first is cold
limits=(1024 4096)       # cache_kib
caches=(80 820 16384)    # cache_kib: 1 %, 10 % and all of the tables
many=16                  # devices that are weighed together
area=$((400 << 20))      # bytes of the disk that lies in fragments

# --- in the machine ---

# A RAM disk without what was on the last one; and each thing once, so that only what differs is measured
fresh_ram() {
	! lsmod | grep -q '^brd ' || modprobe -r brd
	modprobe brd rd_nr=1 rd_size=$((512 << 20)) max_part=1
	dmsetup create warm --table "0 8 linear $ram 0"
	dmsetup mknodes
	dmsetup remove warm
}

# put IMAGE...: on the RAM disk, where the host laid them
put() {
	local image
	for image; do
		unpack "$ram" <"$share/$image.packed"
	done
}

# line IMAGE [FEATURES]: its table line
line() {
	local sectors format bytes
	read -r sectors format bytes <"$share/$1.size"
	# shellcheck disable=SC2046 # a list
	vdisk_line "$sectors" "$format" "$bytes" "$ram" "${2:-}" $(cat "$share/$1.extents")
}

# make NAME FIGURE TABLE: a device of that name; how long dmsetup takes for it
make() {
	spent "$2, open" dmsetup create --readonly "$1" "$3" | grep wall
	dmsetup mknodes
}

# reads FIGURE PLACES DEVICE...: the cold round and the least of the others
reads() {
	local name=$1 all
	shift
	all=$(readcost "$rounds" "$@")
	figure "$name, first reads" "$(head -n 1 <<<"$all")" instructions
	# shellcheck disable=SC2046 # numbers
	figure "$name, read" "$(percentile 0 $(tail -n +2 <<<"$all"))" instructions
}

guest_size() {
	local size name
	for size in "${sizes[@]}"; do
		name="size ${size/:/ } GiB"
		fresh_ram
		put "$size"
		line "$size" read_only >"$work/table"
		make d "$name" "$work/table"
		reads "$name" "$share/$size.places" /dev/mapper/d
		dmsetup remove d
	done
}

guest_fragments() {
	local n
	for n in "${fragments[@]}"; do
		fresh_ram
		put "fragments$n"
		make d "fragments linear $n" "$share/fragments$n.linear"
		reads "fragments linear $n" "$share/fragments.places" /dev/mapper/d
		dmsetup remove d
		line "fragments$n" read_only >"$work/table"
		make d "fragments qcow2 $n" "$work/table"
		reads "fragments qcow2 $n" "$share/fragments.places" /dev/mapper/d
		dmsetup remove d
	done
}

guest_depth() {
	local depth n parent
	for depth in "${depths[@]}"; do
		fresh_ram
		parent=''
		for ((n = 1; n <= depth; n++)); do
			put "depth$n"
			line "depth$n" "read_only$parent" >"$work/table"
			make "d$n" "depth qcow2 $depth" "$work/table" >"$work/made"
			parent=" parent /dev/mapper/d$n"
		done
		cat "$work/made"
		reads "depth qcow2 $depth" "$share/depth1.places" "/dev/mapper/d$depth"
		for ((n = depth; n > 0; n--)); do
			dmsetup remove "d$n"
		done
	done
}

# several N TABLE: devices d1, d2, … with the same table, in one call of dmsetup
several() {
	local n table
	table=$(cat "$2")
	for ((n = 1; n <= $1; n++)); do
		printf 'd%d,,,ro,%s;' "$n" "$table"
	done >"$work/concise"
	dmsetup create --concise "$(cat "$work/concise")"
	dmsetup mknodes
}

guest_devices() {
	local n
	fresh_ram
	put size
	cat "$share/size.places" "$share/size.places" >"$work/places"
	echo "0 $(cut -d' ' -f1 "$share/size.size") linear $ram 0" >"$work/linear"
	line size read_only >"$work/qcow2"
	for kind in linear qcow2; do
		for n in "${devices[@]}"; do
			several "$n" "$work/$kind"
			# shellcheck disable=SC2046 # names
			reads "devices $kind $n" "$work/places" $(seq -f /dev/mapper/d%.0f "$n")
			dmsetup remove_all
		done
	done
}

guest_cache() {
	local limit
	for limit in "${caches[@]}"; do
		fresh_ram
		put cache
		line cache "read_only cache_kib $limit" >"$work/table"
		make d "cache_kib $limit" "$work/table"
		reads "cache_kib $limit" "$share/cache.places" /dev/mapper/d
		dmsetup remove d
	done
}

# Nothing but what the kernel itself holds is in use: no page cache, nothing that waits for a grace period
free_kib() {
	sync
	echo 1 >/proc/sys/vm/drop_caches
	sleep 0.3
	cat /proc/sys/vm/stat_refresh # the counters of the processors go into that of the machine
	awk '$1 == "MemFree:" { print $2 }' /proc/meminfo
}

# weigh NAME COMMAND...: of $many devices d1, … that the command makes and uses; sets $each to the KiB of one,
# and $cached to the most that the cache of one holds
weigh() {
	local name=$1 before
	shift
	before=$(free_kib)
	"$@" >"$work/weighed"
	each=$(((before - $(free_kib)) / many))
	cached=$(dmsetup status --target vdisk |
		awk '{ split($8, kib, "/"); if (kib[1] > most) most = kib[1] } END { print most + 0 }')
	figure "memory $name" "$each" KiB
	[ "$cached" = 0 ] || figure "memory $name, cached" "$cached" KiB
	dmsetup remove_all
}

# beyond NAME: what one of them needs that is neither its cache nor what a device of dm-linear needs, too
beyond() {
	figure "memory $1, beyond cache and dm-linear" $((each - cached - linear)) KiB
}

# used TABLE PLACES: several devices, and all the places read from each
used() {
	local n
	several "$many" "$1"
	for ((n = 1; n <= many; n++)); do
		readcost 1 "$2" "/dev/mapper/d$n"
	done
}

# written: devices of their own images, all over which is written
written() {
	local n
	for ((n = 1; n <= many; n++)); do
		line "written$n" "cache_kib ${limits[0]}" >"$work/table"
		dmsetup create "d$n" "$work/table"
	done
	dmsetup mknodes
	for ((n = 1; n <= many; n++)); do
		dd if=/dev/zero bs=4096 count=256 2>/dev/null | tr '\0' x |
			dd of="/dev/mapper/d$n" bs=4096 oflag=direct,sync status=none
	done
}

guest_memory() {
	local limit linear name
	# No more than 1 MiB of free pages is kept aside for the processor, where MemFree does not count it.
	echo 1000000 >/proc/sys/vm/percpu_pagelist_high_fraction
	fresh_ram
	put tables
	echo "0 $(cut -d' ' -f1 "$share/tables.size") linear $ram 0" >"$work/table"
	weigh "linear" used "$work/table" "$share/size.places" >"$work/log" # the first is not to be counted
	weigh "linear" used "$work/table" "$share/size.places"
	linear=$each
	for limit in "${limits[@]}"; do
		line tables "read_only cache_kib $limit" >"$work/table"
		name="qcow2, cache_kib $limit"
		weigh "$name" used "$work/table" "$share/tables.places"
		beyond "$name"
	done
	fresh_ram
	# Writes shall not need memory of the RAM disk.
	dd if=/dev/zero of="$ram" bs=1M count=64 oflag=direct status=none
	put "${many_written[@]}"
	name="qcow2 that is written, cache_kib ${limits[0]}"
	weigh "$name" written
	beyond "$name"
	fresh_ram
	put zlib zstd
	for kind in zlib zstd; do
		line "$kind" "read_only cache_kib ${limits[0]}" >"$work/table"
		name="qcow2 compressed with $kind, cache_kib ${limits[0]}"
		weigh "$name" used "$work/table" "$share/zlib.places"
		beyond "$name"
	done
}

[ $# = 0 ] || parts=("$@")
mapfile -t many_written < <(seq -f 'written%.0f' "$many")
if [ -n "${VM_GUEST:-}" ]; then
	insmod "$TEST_MODULE"
	"guest_$TEST_PART"
	exit
fi

# --- outside ---

# spread IMAGE SIZE UNIT [N]: N places in as many parts of a disk, each the beginning of a 4 KiB block in another unit of
# it; the same in each run
spread() {
	perl -e 'my ($size, $unit, $n) = @ARGV;
		srand 1;
		my $part = $size / $n;
		my @all = map $unit * int(($_ * $part + rand($part - $unit)) / $unit) + 4096 * int(rand($unit / 4096)),
			0 .. $n - 1;
		for my $i (reverse 1 .. $#all) { my $j = int rand $i + 1; @all[$i, $j] = @all[$j, $i] }
		printf "%.0f\n", $_ for @all;' "$2" "$3" "${4:-$places}" >"$share/$1.places"
}

# filled IMAGE FORMAT: its places are written
filled() {
	sed 's/.*/write -P 1 & 4096/' "$share/$1.places" | qemu-io -t unsafe -f "$2" "$work/$1" >/dev/null
}

# lay IMAGE FORMAT FIRST [N]: describe it and its N pieces from a sector of the disk on, which lie there in any order; sets
# $next to the sector behind
lay() {
	local bytes
	bytes=$(stat -c %s "$work/$1")
	perl -e 'my ($units, $at, $n) = @ARGV;
		srand 1;
		my @length = map int(($_ + 1) * $units / $n) - int($_ * $units / $n), 0 .. $n - 1;
		my @order = 0 .. $n - 1;
		for my $i (reverse 1 .. $#order) { my $j = int rand $i + 1; @order[$i, $j] = @order[$j, $i] }
		my @first;
		for (@order) { $first[$_] = $at; $at += 8 * $length[$_] + 8 }
		print map "$first[$_]+" . 8 * $length[$_] . "\n", 0 .. $n - 1;' \
		$(((bytes + 4095) / 4096)) "$3" "${4:-1}" >"$share/$1.extents"
	packed "$work/$1" "$share/$1.extents" >"$share/$1.packed"
	echo "$(qemu-img info -f "${2/vhd/vpc}" --output=json "$work/$1" |
		sed -n '1,/"virtual-size"/s/.*"virtual-size": \([0-9]*\),.*/\1/p' | awk '{ printf "%.0f", $1 / 512 }') $2 $bytes" \
		>"$share/$1.size"
	next=$(($3 + bytes / 512 + 16 * ${4:-1} + 2048))
	next=$((next - next % 8))
	rm "$work/$1"
}

# create IMAGE FORMAT GIB [OPTION...]
create() {
	local image=$1 format=$2 size=$3
	shift 3
	[ "$format" = qcow2 ] || set -- -o subformat=dynamic,force_size=on
	qemu-img create -q -f "${format/vhd/vpc}" "$@" "$work/$image" "$size"
}

host_size() {
	local size unit
	for size in "${sizes[@]}"; do
		unit=$((64 << 10))
		[[ $size = qcow2:* ]] || unit=$((2 << 20))
		create "$size" "${size%:*}" "${size#*:}G"
		spread "$size" $((${size#*:} * gib)) "$unit"
		filled "$size" "$(sed 's/vhd/vpc/' <<<"${size%:*}")"
		lay "$size" "${size%:*}" 0
	done
}

host_fragments() {
	local n
	spread fragments "$area" $((64 << 10))
	for n in "${fragments[@]}"; do
		create "fragments$n" qcow2 "$area" -o preallocation=metadata
		truncate -s "+$((128 << 10))" "$work/fragments$n"
		lay "fragments$n" qcow2 2048 "$n"
		awk -v ram="$ram" -F+ '{ printf "%d %d linear %s %d\n", at, $2, ram, $1; at += $2 }' "$share/fragments$n.extents" \
			>"$share/fragments$n.linear"
	done
}

host_depth() {
	local n
	create depth1 qcow2 $((places << 16)) -o preallocation=metadata
	spread depth1 $((places << 16)) $((64 << 10))
	lay depth1 qcow2 0
	for ((n = 2; n <= depths[${#depths[@]} - 1]; n++)); do
		# That there is a parent is all that the kernel asks of the header.
		create "depth$n" qcow2 $((places << 16)) -u -b parent -F qcow2
		lay "depth$n" qcow2 "$next"
	done
}

host_devices() {
	spread size $((64 * gib)) $((64 << 10))
	create size qcow2 64G
	filled size qcow2
	lay size qcow2 0
}

# Its tables have 8 MiB.
host_cache() {
	spread cache $((64 * gib)) $((64 << 10))
	create cache qcow2 64G -o preallocation=metadata
	lay cache qcow2 0
}

host_memory() {
	local n kind
	spread size $((64 * gib)) $((64 << 10))
	spread tables $((64 * gib)) $((32 << 20)) 1024 # 4 KiB of the tables each
	create tables qcow2 64G -o preallocation=metadata
	lay tables qcow2 0
	next=0
	for ((n = 1; n <= many; n++)); do
		create "written$n" qcow2 64M
		truncate -s $((4 << 20)) "$work/written$n"
		lay "written$n" qcow2 "$next"
	done
	next=0
	spread zlib $((places << 16)) $((64 << 10))
	perl -e 'printf "%015d\n", $_ * $_ for 1 .. $ARGV[0] << 12' "$places" >"$work/packed.raw"
	for kind in zlib zstd; do
		qemu-img convert -f raw -O qcow2 -c -o "compression_type=$kind" "$work/packed.raw" "$work/$kind"
		lay "$kind" qcow2 "$next"
	done
}

build_module
for part in "${parts[@]}"; do
	say "images: $part"
	"host_$part"
	say "the machine: $part"
	# Where the time of opening is measured the processor must not be idle: the clock would jump. Removing a thousand
	# devices is waiting, mostly.
	poll=idle=poll
	[[ $part != devices && $part != memory ]] || poll=''
	TEST_PART=$part in_machine -i -k "$poll" -m 3072 -t 500
	rm "$share"/*
done
