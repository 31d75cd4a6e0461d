#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What a second processor brings: 4 KiB random reads a second on two processors over those on one, of the kernel target,
# as a ratio to that of dm-linear; the median of rounds in which both take turns. A line of TSV. By the host's clock: both
# processors of the machine need one of the host's for themselves.
# Usage: bench/scaling.sh [ROUNDS] after `make bench-tools`.
# shellcheck source-path=SCRIPTDIR source=figures.sh
. "$(dirname "$0")/figures.sh"
: "${VM_ROUNDS:=${1:-15}}"

# reads DEVICE PROCESSOR: nanoseconds of one
reads() {
	taskset -c "$2" ioload -n 3000 -s "$2" read "$1"
}

# scaling NAME: how much more two do than one
scaling() {
	local one
	one=$(reads "/dev/mapper/$1" 0)
	reads "/dev/mapper/$1" 1 >"$work/second" &
	reads "/dev/mapper/$1" 0 >"$work/first"
	wait
	awk -v one="$one" -v a="$(cat "$work/first")" -v b="$(cat "$work/second")" 'BEGIN { print one / a + one / b }'
}

guest() {
	local bytes first n
	insmod "$TEST_MODULE"
	modprobe brd rd_nr=1 rd_size=$((80 << 10))
	dd if=/dev/vda of="$ram" bs=1M status=none oflag=direct
	read -r bytes first <"$share/image"
	dmsetup create qcow2 --table "$(vdisk_line $((64 << 11)) qcow2 "$bytes" "$ram" '' "$first+$(((bytes + 511) / 512))")"
	dmsetup create linear --table "0 $((64 << 11)) linear $ram 0"
	dmsetup mknodes
	for ((n = 0; n < VM_ROUNDS + 1; n++)); do
		awk -v l="$(scaling linear)" -v q="$(scaling qcow2)" 'BEGIN { printf "%.3f\n", q / l }'
	done | tail -n +2 >"$work/ratios" # the first is to warm up
	# shellcheck disable=SC2046 # numbers
	printf 'scaling\tqcow2\t%s\n' "$(percentile 50 $(cat "$work/ratios"))"
}

if [ -n "${VM_GUEST:-}" ]; then
	guest
	exit
fi
perl -e 'print "x" x (64 << 20)' >"$work/raw"
qemu-img convert -O qcow2 "$work/raw" "$work/qcow2"
truncate -s 80M "$work/disk"
dd if="$work/qcow2" of="$work/disk" bs=1M seek=1 conv=notrunc status=none
echo "$(stat -c %s "$work/qcow2") 2048" >"$share/image"
build_module
export VM_ROUNDS
in_machine -p 2 -t 600 -d "$work/disk"
