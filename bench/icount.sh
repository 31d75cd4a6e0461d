#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Instructions an I/O, by subject and case, as lines of TSV: case, subject, instructions. README.md tells what they are.
# Usage: bench/icount.sh [GROUP]..., after `make bench-tools`; the groups are in icount-guest.sh, and in README.md. The images are made
# here, and laid on a disk, some in a thousand pieces; the machine has them in a RAM disk.
set -euo pipefail
top=$(realpath "$(dirname "$0")/..")
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

MIB=64 # of each disk
mkdir "$work/share"
disk=$work/disk
next=2048
: >"$disk"

# lay FILE IMAGE FORMAT PIECES [ROOM-MIB]: what the machine needs to know of it is in the share
lay() {
	local file=$work/$1 bytes
	truncate -s "+${5:-0}M" "$file"
	bytes=$(stat -c %s "$file")
	"$top/tests/lib/vhdlay.pl" place "$file" "$disk" "$next" "$4" >"$work/share/$2.extents"
	echo "$3 $bytes" >"$work/share/$2.image"
	next=$(((next + bytes / 512 + $4 * 16 + 2048) / 2048 * 2048))
	truncate -s $((next * 512)) "$disk"
}

# raw MODEL: no byte of it is zero, so that every format gives all of it a place
perl -e 'srand 1; for (1 .. shift) { print pack("C*", map { 1 + int rand 255 } 1 .. 4096) x 256 }' "$MIB" >"$work/raw"
makevhd() {
	"$top/tests/lib/makevhd.pl" "$@" seed=1 size=$((MIB << 20)) bitmaps=ones layout=plain footer=good creator='win ' >/dev/null
}
qcow2() {
	qemu-img create -q -f qcow2 -o "cluster_size=65536${2:-}" "$work/$1" "${MIB}M"
}

qemu-img convert -O vpc -o subformat=dynamic,force_size "$work/raw" "$work/vhd"
qemu-img convert -O qcow2 "$work/raw" "$work/qcow2"
qcow2 empty

# The images of subjects that no bar is about.
others() {
	local image at
	# A third of the disk is in each image of the chain; of the overlay, a half.
	makevhd "$work/base.vhd" "$work/base.model" allocate=100
	makevhd "$work/mid.vhd" "$work/mid.model" allocate=50 parent="$work/base.vhd" parent_model="$work/base.model"
	makevhd "$work/top.vhd" "$work/top.model" allocate=33 parent="$work/mid.vhd" parent_model="$work/mid.model"
	for image in base mid top; do lay "$image.vhd" "$image" vhd 1; done
	qemu-img create -q -f qcow2 -b raw -F raw "$work/over" "${MIB}M"
	for ((at = 0; at < MIB; at += 2)); do echo "write -P 7 ${at}M 1M"; done | qemu-io -f qcow2 "$work/over" >/dev/null
	lay over over qcow2 1
	# Its clusters were written in any order, as those of an image that has grown in use.
	qcow2 grown
	perl -e 'srand 1;
		my @all = 0 .. $ARGV[0] * 16 - 1;
		for my $i (reverse 1 .. $#all) { my $j = int rand $i + 1; @all[$i, $j] = @all[$j, $i] }
		print map "write -P 7 " . ($_ << 16) . " 64k\n", @all' "$MIB" | qemu-io -t unsafe -f qcow2 "$work/grown" >/dev/null
	lay grown grown qcow2 1
}

# What stock targets would need for the blocks of the VHD: their data begin behind a bitmap of a sector.
static() {
	local block first
	first=$(sed 's/0:\([0-9]*\)+.*/\1/' "$work/share/vhd.extents")
	for ((block = 0; block < MIB / 2; block++)); do
		echo "$((block * 4096)) 4096 linear $((first + $("$top/tests/lib/vhdlay.pl" entry "$work/vhd" $block) + 1))"
	done >"$work/share/vhd.static"
}

truncate -s "+$((MIB + 2))M" "$work/empty" # room
# The first ones are needed on the device with a volatile cache too.
lay raw raw raw 1
lay vhd vhd vhd 1
lay qcow2 qcow2 qcow2 1
lay empty empty1 qcow2 1
lay empty empty2 qcow2 1
cached=$((next / 2048))
lay raw raw-1000 raw 1000
lay vhd vhd-1000 vhd 1000
lay qcow2 qcow2-1000 qcow2 1000
for n in 3 4 5 6; do lay empty "empty$n" qcow2 1; done
qemu-img create -q -f qcow2 "$work/huge" 64T
lay huge huge qcow2 1
static
[[ $# -gt 0 && " $* " != *' others '* ]] || others

TEST_MODULE=$("$top/tests/vm/module.sh")
export TEST_MODULE
"$top/tests/vm/run" -i -n -t 3000 -m 3500 -M "brd nd_e820 nd_pmem loop nbd dm-snapshot" -k "memmap=${cached}M!2G idle=poll" \
	-d "$disk" -s "$work/share" -- bash "$top/bench/icount-guest.sh" "$top" $((next / 2)) "$@"
