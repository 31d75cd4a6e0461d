#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Wall clock in the test machine: I/O a second of the kernel target over that of dm-linear on the same virtio disk, 4 KiB random reads and writes, queue depths 1 and 32, one and two processors. The subjects take turns, so that
# what the host does meanwhile hits all of them; a round's ratio is to the dm-linear of that round.
# Usage: make bench-clock, or bench/clock.sh [ROUNDS] after `make tools bench-tools`. VM_SECONDS: of one run (1).
# shellcheck source-path=SCRIPTDIR source=figures.sh
. "$(dirname "$0")/figures.sh"
subjects=(linear vhd qcow2)
depths=(1 32)
seconds=${VM_SECONDS:-1}
size=$((256 << 20))
: "${VM_ROUNDS:=${1:-7}}"

# --- in the machine ---

# iops SUBJECT RW DEPTH
iops() {
	fio --name=x --filename="/dev/mapper/$1" --rw="$2" --bs=4k --size="$size" --direct=1 --ioengine=io_uring \
		--iodepth="$3" --numjobs="$(nproc)" --group_reporting --time_based --runtime="$seconds" --randseed=1 \
		--norandommap --invalidate=0 --output-format=json |
		perl -MJSON::PP -e 'local $/; my $job = decode_json(<STDIN>)->{jobs}[0];
			print int $job->{$ARGV[0] =~ /read/ ? "read" : "write"}{iops}, "\n"' "$2"
}

# round RW DEPTH: appends to the file of each subject
round() {
	local subject
	for subject in "${subjects[@]}"; do
		iops "$subject" "$1" "$2" >>"$work/$subject"
	done
}

# told NAME VALUE...: median and spread of a ratio
told() {
	figure "$1" "$(percentile 50 "${@:2}")" ratio
	figure "$1, least" "$(percentile 0 "${@:2}")" ratio
	figure "$1, most" "$(percentile 100 "${@:2}")" ratio
}

# measure RW DEPTH
measure() {
	local subject n name ratios
	rm -f "${subjects[@]/#/$work/}"
	for ((n = 0; n < VM_ROUNDS; n++)); do
		round "$1" "$2"
	done
	name="$1 depth $2 processors $(nproc)"
	# shellcheck disable=SC2046 # numbers
	figure "linear $name" "$(percentile 50 $(cat "$work/linear"))" IOPS
	for subject in "${subjects[@]:1}"; do
		mapfile -t ratios < <(paste "$work/$subject" "$work/linear" | awk '{ printf "%.3f\n", $1 / $2 }')
		told "$subject/linear $name" "${ratios[@]}"
	done
}

guest() {
	local sectors format bytes first subject rw depth
	insmod "$TEST_MODULE"
	for subject in "${subjects[@]:1}"; do
		read -r sectors format bytes first <"$share/$subject"
		vdisk_line "$sectors" "$format" "$bytes" /dev/vda '' "$first+$(((bytes + 511) / 512))" >"$work/table"
		dmsetup create "$subject" "$work/table"
	done
	dmsetup create linear --table "0 $sectors linear /dev/vda 0"
	dmsetup mknodes
	for subject in "${subjects[@]}"; do
		dd if="/dev/mapper/$subject" of=/dev/null bs=1M iflag=direct status=none
	done
	for rw in randread randwrite; do
		for depth in "${depths[@]}"; do
			measure "$rw" "$depth"
		done
	done
}

if [ -n "${VM_GUEST:-}" ]; then
	guest
	exit
fi

# --- outside ---

# put IMAGE FORMAT: behind what is on the disk
put() {
	local first
	first=$((($(stat -c %s "$work/disk") + 4095) / 4096 * 8))
	dd if="$work/$1" of="$work/disk" bs=4096 seek=$((first / 8)) conv=notrunc status=none
	echo "$((size / 512)) $2 $(stat -c %s "$work/$1") $first" >"$share/$2"
	rm "$work/$1"
}

# All of the disk is there, in the images and in the host's page cache, so no write allocates.
perl -e 'print join("", map chr(1 + $_ % 255), 0 .. (1 << 20) - 1) x ($ARGV[0] >> 20)' "$size" >"$work/disk"
qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$work/disk" "$work/x.vhd"
qemu-img convert -f raw -O qcow2 "$work/disk" "$work/x.qcow2"
put x.vhd vhd
put x.qcow2 qcow2
truncate -s %4096 "$work/disk"
build_module
export VM_ROUNDS VM_SECONDS=$seconds
for processors in 1 2; do
	say "$processors processors, $VM_ROUNDS rounds"
	in_machine -p "$processors" -m 1024 -t 550 -d "$work/disk"
done
