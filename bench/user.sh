#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What things cost in user space: a look-up by libvdisk, `ntfsmap cat`, `table` and `open`; time and peak memory.
# Usage: make bench-user, or bench/user.sh after `make tools bench-tools`. README.md explains the figures.
# shellcheck source-path=SCRIPTDIR source=figures.sh
. "$(dirname "$0")/figures.sh"
fragments=(1 1000 100000)
disk=$((16 * gib))
calls=2000000
rounds=7

# --- in the machine: what `open` takes there, instructions as time ---

# least: of lines with the same name the one with the least value
least() {
	awk -F'\t' '!($1 in line) { name[++n] = $1 }
		!($1 in line) || $2 < value[$1] { value[$1] = $2; line[$1] = $0 }
		END { for (i = 1; i <= n; i++) print line[name[i]] }'
}

# opened NAME SOURCE
opened() {
	local n
	for n in 1 2 3; do
		spent "open $1" ntfsmap -q open "$2" d
		ntfsmap close d
	done | least
}

open_all() {
	local runs
	insmod "$TEST_MODULE"
	modprobe brd rd_nr=1 rd_size=$((8 << 20)) max_part=1
	unpack "$ram" <"$share/volume.packed"
	for runs in "${fragments[@]}"; do
		opened "raw, $runs fragments" "$ram:/runs$runs"
	done
	opened "vhd" "$ram:/disk.vhd"
	opened "qcow2" "$ram:/disk.qcow2"
}

if [ -n "${VM_GUEST:-}" ]; then
	open_all
	exit
fi

# --- outside ---

# written IMAGE FORMAT BLOCK: a sector of each block of the disk
written() {
	seq -f 'write -P 1 %.0f 512' 0 "$3" $((disk - 1)) | qemu-io -t unsafe -f "$2" "$1" >/dev/null
}

make_images() {
	say "making images"
	qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$work/map.vhd" "$disk"
	written "$work/map.vhd" vpc $((2 << 20))
	qemu-img create -q -f qcow2 -o preallocation=metadata "$work/map.qcow2" "$disk"
	qemu-img create -q -f qcow2 -o preallocation=metadata "$work/large.qcow2" $((16 * disk))
	perl -e 'printf "%015d\n", $_ * $_ for 1 .. 1 << 24' >"$work/cat.raw"
	qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$work/cat.raw" "$work/cat.vhd"
	qemu-img convert -f raw -O qcow2 "$work/cat.raw" "$work/cat.qcow2"
	qemu-img convert -f raw -O qcow2 -c -o compression_type=zlib "$work/cat.raw" "$work/cat-zlib.qcow2"
	qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$work/cat.raw" "$work/cat-zstd.qcow2"
}

forge() {
	"$top/build/tests/ntfsforge" "$work/volume.img" "$@"
}

make_volume() {
	local runs
	say "making a volume"
	truncate -s 8G "$work/volume.img"
	mkntfs -q -F -Q "$work/volume.img" >/dev/null 2>&1
	for runs in "${fragments[@]}"; do
		forge file "/runs$runs" 400M runs="$runs" order=shuffle seed=1 fill=none
	done
	forge file /cat.raw "$(stat -c %s "$work/cat.raw")" fill=stdin <"$work/cat.raw"
}

# instructions NAME IMAGE PLACES LENGTH: of one call, if valgrind is there to count them: what more calls take more
instructions() {
	local calls few='' all
	type -P valgrind >/dev/null || return 0
	for calls in 10000 110000; do
		valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null mapcost "$2" "$calls" "$3" "$4" \
			>/dev/null 2>"$work/count"
		all=$(sed -n 's/.*I *refs: *//p' "$work/count" | tr -d ,)
		[ -z "$few" ] || figure "map $1" "$(((all - few) / 100000))" instructions
		few=$all
	done
}

# mapped NAME IMAGE CALLS PLACES LENGTH
mapped() {
	local n times=()
	for ((n = 0; n < rounds; n++)); do
		times+=("$(mapcost "$2" "$3" "$4" "$5")")
	done
	figure "map $1" "$(percentile 0 "${times[@]}")" ns
	figure "map $1, median" "$(percentile 50 "${times[@]}")" ns
	instructions "$1" "$2" "$4" "$5"
}

map_all() {
	say "look-ups"
	mapped "raw" "$work/cat.raw" "$calls" 4096 4096
	mapped "vhd" "$work/map.vhd" "$calls" 4096 4096
	mapped "qcow2" "$work/map.qcow2" "$calls" 4096 4096
	mapped "vhd, 1 MiB" "$work/map.vhd" "$calls" 4096 $((1 << 20))
	mapped "qcow2, 1 MiB" "$work/map.qcow2" "$calls" 4096 $((1 << 20))
	mapped "qcow2, not cached" "$work/large.qcow2" $((calls / 10)) 65536 4096
}

# cat_of NAME SOURCE: at the speed of the processor
cat_of() {
	local mib
	mib=$(($(stat -c %s "$work/cat.raw") >> 20))
	cat "${2%%:*}" >/dev/null
	spent -n "$rounds" "cat $1" ntfsmap cat "$2" >"$work/spent"
	awk -F'\t' -v OFS='\t' -v mib="$mib" '$1 ~ / processor$/ { printf "%s\t%.0f\tMiB/s\n", $1, mib / $2 * 1000 }
		$1 ~ / wall$/ { printf "%s\t%.0f\tMiB/s\n", $1, mib / $2 * 1000 } $1 ~ / memory$/' "$work/spent"
}

cat_all() {
	local kind
	say "cat"
	cat_of "raw" "$work/cat.raw"
	cat_of "raw on NTFS" "$work/volume.img:/cat.raw"
	for kind in .vhd .qcow2 -zlib.qcow2 -zstd.qcow2; do
		# What is not right need not be fast.
		ntfsmap cat "$work/cat$kind" | cmp - "$work/cat.raw"
		cat_of "${kind#[.-]}" "$work/cat$kind"
	done
}

table_all() {
	local runs
	say "tables"
	for runs in "${fragments[@]}"; do
		[ "$(ntfsmap -q "$work/volume.img:/runs$runs" | wc -l)" = "$runs" ]
		spent -n "$rounds" "table $runs fragments" ntfsmap -q "$work/volume.img:/runs$runs"
	done
}

measure_open() {
	say "open, in the machine"
	forge remove /cat.raw
	for kind in vhd qcow2; do
		qemu-img convert -f raw -O "${kind/vhd/vpc}" "$work/cat.raw" "$work/small"
		forge file "/disk.$kind" "$(stat -c %s "$work/small")" runs=1000 order=shuffle seed=2 fill=stdin <"$work/small"
	done
	packed "$work/volume.img" >"$share/volume.packed"
	build_module
	in_machine -i -k idle=poll -m 2048 -t 400
}

make_images
make_volume
map_all
cat_all
table_all
measure_open
