#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The part of icount.sh that runs in the machine. Every device is over the same RAM disk, /dev/ram0, which has all of
# its pages; where flushes are measured, over /dev/pmem0, which is one too and says, as disks do, that it has a volatile
# cache: device-mapper sends no flush to others.
# Usage: icount-guest.sh TOP KIB [GROUP]...
set -euo pipefail
top=$1 kib=$2
shift 2
[ $# -gt 0 ] || set -- read write large uring others sync first cold
share=/mnt/share
ioload=$top/build/bench/ioload
CLUSTER=65536
lower=1:0

prepare() {
	rmmod brd
	modprobe brd rd_nr=1 rd_size="$kib"
	dd if=/dev/vda of=/dev/ram0 bs=1M status=none oflag=direct
	dd if=/dev/vda of=/dev/pmem0 bs=1M count=$(($(blockdev --getsize64 /dev/pmem0) >> 20)) status=none oflag=direct
	insmod "$TEST_MODULE"
	modprobe nbd nbds_max=1
}

# dev_number DEVICE
dev_number() {
	stat -c '%t %T' "$1" | (read -r major minor && echo "$((16#$major)):$((16#$minor))")
}

# node NAME: the device's, without udev
node() {
	echo "/dev/$(dmsetup info -c --noheadings -o blkdevname "$1")"
}

readonly=
create() {
	dmsetup create $readonly --noudevsync --noudevrules "$@"
}

# linear NAME IMAGE: its file, of any format
linear() {
	tr ' ' '\n' <"$share/$2.extents" | awk -F '[:+]' "{ print at + 0, \$3, \"linear $lower\", \$2; at += \$3 }" | create "$1"
}

# vdisk NAME IMAGE [FEATURE...]
vdisk() {
	local name=$1 image=$2 format bytes
	shift 2
	read -r format bytes <"$share/$image.image"
	create "$name" --table "0 $sectors vdisk $format $(($# + 2)) file_bytes $bytes $* 1 $lower $(
		wc -w <"$share/$image.extents") $(cat "$share/$image.extents")"
}

# group WORD...: is one of them wanted?
wanted=" $* "
group() {
	local word
	for word; do
		[[ $wanted != *" $word "* ]] || return 0
	done
	return 1
}

# result CASE SUBJECT DEVICE OPTIONS... read|write
result() {
	local case=$1 subject=$2 device=$3
	shift 3
	if [[ $device = /dev/nbd0 && " $* " == *' -w '* ]]; then
		# Its tables are warm, but an image that is larger than the memory is not in the page cache.
		"$ioload" "$@" "$device" >/dev/null
		sync
		echo 1 >/proc/sys/vm/drop_caches
		set -- "$@" -w 0
	fi
	printf '%s\t%s\t%s\n' "$case" "$subject" "$("$ioload" "$@" "$device")"
}

# all SUBJECT DEVICE: what is done with a disk that has all of its clusters; warm
all() {
	if group read; then result read-4k "$1" "$2" -n 2000 -w 1 read; fi
	if group uring; then
		result read-4k-uring "$1" "$2" -n 2000 -w 1 -u read
		[ "${3:-}" = readonly ] || result write-4k-uring "$1" "$2" -n 2000 -w 1 -u write
	fi
	if group large; then
		result read-1m "$1" "$2" -b 1048576 -q -n 32 -w 1 read
		[ "${3:-}" = readonly ] || result write-1m "$1" "$2" -b 1048576 -q -n 32 -w 1 write
	fi
	[ "${3:-}" != readonly ] || return 0
	if group write; then result write-4k "$1" "$2" -n 2000 -w 1 write; fi
}

# measure_dm SUBJECT [readonly]: the device `dev`, which goes then
measure_dm() {
	all "$1" "$(node dev)" "${2:-}"
	dmsetup remove --noudevsync dev
}

# nbd IMAGE FORMAT [OPTION...]: as people call it, if nothing else is said
nbd() {
	linear below "$1"
	qemu-nbd -c /dev/nbd0 -f "$2" "${@:3}" "$(node below)"
	until [ "$(blockdev --getsize64 /dev/nbd0)" -gt 0 ]; do sleep 0.1; done
}

end_nbd() {
	qemu-nbd -d /dev/nbd0 >/dev/null
	while [ -e /sys/block/nbd0/pid ]; do sleep 0.1; done
	until dmsetup remove --noudevsync below 2>/dev/null; do sleep 0.1; done
}

warm_subjects() {
	group read write large uring || return 0
	linear dev raw; measure_dm linear
	linear dev raw-1000; measure_dm linear-1000
	sed "s/linear/linear $lower/" "$share/vhd.static" | create dev; measure_dm linear-vhd
	vdisk dev vhd; measure_dm vhd
	vdisk dev vhd-1000; measure_dm vhd-1000
	vdisk dev qcow2; measure_dm qcow2
	vdisk dev qcow2-1000; measure_dm qcow2-1000
	nbd qcow2 qcow2; all qemu-nbd-qcow2 /dev/nbd0; end_nbd
	! group others || other_subjects
}

# Those that no bar is about.
other_subjects() {
	local format
	vdisk dev grown; measure_dm qcow2-grown
	readonly=-r
	vdisk b base; vdisk m mid parent "$(node b)"; vdisk dev top parent "$(node m)"
	measure_dm vhd-chain-3 readonly
	dmsetup remove --noudevsync m
	dmsetup remove --noudevsync b
	linear b raw; vdisk dev over parent "$(node b)"
	measure_dm qcow2-backing readonly
	dmsetup remove --noudevsync b
	readonly=

	loop
	snapshot
	for format in raw vpc; do
		nbd "${format/vpc/vhd}" $format; all "qemu-nbd-$format" /dev/nbd0; end_nbd
	done
	nbd grown qcow2; all qemu-nbd-qcow2-grown /dev/nbd0; end_nbd
	nbd qcow2 qcow2 --cache=none --aio=native
	all qemu-nbd-qcow2-native /dev/nbd0
	end_nbd
}

loop() {
	local dev
	linear below raw
	dev=$(losetup -f --show --direct-io=on "$(node below)")
	all loop "$dev"
	losetup -d "$dev"
	until dmsetup remove --noudevsync below 2>/dev/null; do sleep 0.1; done
}

# All of its chunks were written before.
snapshot() {
	linear origin raw
	linear cow empty6
	dd if=/dev/zero of="$(node cow)" bs=4096 count=1 status=none oflag=direct # what is no header begins a new one
	create dev --table "0 $sectors snapshot $(node origin) $(node cow) P 8"
	"$ioload" -b 65536 -q -S $((sectors * 256)) write "$(node dev)" >/dev/null
	if group read; then result read-4k snapshot "$(node dev)" -n 2000 -S $((sectors * 256)) -w 1 read; fi
	if group write; then result write-4k snapshot "$(node dev)" -n 2000 -S $((sectors * 256)) -w 1 write; fi
	dmsetup remove --noudevsync dev
	dmsetup remove --noudevsync cow
	dmsetup remove --noudevsync origin
}

# A write that needs a new cluster. The end is flushed, so that what was put off counts too.
first_writes() {
	local n=500
	linear dev raw
	result first-4k linear-64k "$(node dev)" -b $CLUSTER -n $n -Y write
	result fill-64k linear "$(node dev)" -b $CLUSTER -q -n $n -Y write
	result fill-1m linear "$(node dev)" -b 1048576 -q -n 32 -Y write
	dmsetup remove --noudevsync dev
	vdisk dev empty1; result first-4k qcow2 "$(node dev)" -d $CLUSTER -n $n -Y write; dmsetup remove --noudevsync dev
	vdisk dev empty2; result fill-64k qcow2 "$(node dev)" -b $CLUSTER -q -n $n -Y write; dmsetup remove --noudevsync dev
	vdisk dev empty3; result fill-1m qcow2 "$(node dev)" -b 1048576 -q -n 32 -Y write; dmsetup remove --noudevsync dev
	nbd empty5 qcow2
	result first-4k qemu-nbd-qcow2 /dev/nbd0 -d $CLUSTER -n $n -Y write
	end_nbd
}

# A write and its fdatasync: to places that are there, and to new ones.
synced_writes() {
	local image
	lower=$(dev_number /dev/pmem0)
	linear dev raw
	result write-fdatasync linear "$(node dev)" -n 1000 -w 1 -y write
	result first-fdatasync linear "$(node dev)" -d $CLUSTER -n 300 -y write
	dmsetup remove --noudevsync dev
	sed "s/linear/linear $lower/" "$share/vhd.static" | create dev
	result write-fdatasync linear-vhd "$(node dev)" -n 1000 -w 1 -y write
	dmsetup remove --noudevsync dev
	for image in vhd qcow2; do
		vdisk dev $image
		result write-fdatasync $image "$(node dev)" -n 1000 -w 1 -y write
		dmsetup remove --noudevsync dev
	done
	vdisk dev empty1
	result first-fdatasync qcow2 "$(node dev)" -d $CLUSTER -n 300 -y write
	dmsetup remove --noudevsync dev
	nbd qcow2 qcow2
	result write-fdatasync qemu-nbd-qcow2 /dev/nbd0 -n 300 -w 1 -y write
	end_nbd
	nbd empty2 qcow2
	result first-fdatasync qemu-nbd-qcow2 /dev/nbd0 -d $CLUSTER -n 300 -y write
	end_nbd
	lower=1:0
}

# look_up_cold IMAGE: with nothing of the tables in the cache; how many reads of metadata that takes, and what
look_up_cold() {
	local seed before after n=50 sum=0
	linear below "$1"
	local lower extents
	lower=$(dev_number "$(node below)")
	extents=$share/$1.extents
	cp "$extents" "$extents.kept"
	sed 's/0:[0-9]*+/0:0+/' "$extents.kept" >"$extents"
	vdisk dev "$1"
	before=$(awk '{ print $1 }' "/sys/dev/block/$lower/stat")
	for ((seed = 1; seed <= n; seed++)); do
		dmsetup message dev 0 drop_cache
		sum=$(awk -v a="$sum" -v b="$("$ioload" -s "$seed" -n 1 read "$(node dev)")" 'BEGIN { print a + b }')
	done
	after=$(awk '{ print $1 }' "/sys/dev/block/$lower/stat")
	printf 'cold-4k\t%s\t%s\n' "$1" "$(awk -v s="$sum" -v n=$n 'BEGIN { printf "%.1f", s / n }')"
	awk -v n=$n -v r=$((after - before)) -v i="$1" 'BEGIN { printf "cold-metadata-reads\t%s\t%.2f\n", i, r / n - 1 }'
	dmsetup remove --noudevsync dev
	until dmsetup remove --noudevsync below 2>/dev/null; do sleep 0.1; done
	mv "$extents.kept" "$extents"
}

# From the call of dmsetup to its end, nanoseconds.
open_huge() {
	local sectors=$((64 << 31)) before after
	dmsetup targets >/dev/null # is in the page cache now
	before=${EPOCHREALTIME/./}
	vdisk dev huge
	after=${EPOCHREALTIME/./}
	printf 'open\tqcow2-64t\t%s\n' $(((after - before) * 1000))
	dmsetup remove --noudevsync dev
}

prepare
sectors=$((64 << 11))
result read-4k brd /dev/ram0 -n 2000 -w 1 read
result write-4k brd /dev/ram0 -n 2000 -w 1 write
warm_subjects
if group first; then first_writes; fi
if group sync; then synced_writes; fi
if group cold; then
	look_up_cold vhd
	look_up_cold qcow2
	open_huge
fi
