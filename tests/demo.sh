#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# make demo: the main job on data made up for it. An NTFS volume on which Windows is hibernated holds four disk
# images, in pieces; they become block devices, are written, and other people's programs tell what happened.
#
#   make demo            device-mapper is used inside a throw-away virtual machine (tests/vm)
#   make demo DIRECT=1   on this machine itself: needs root and device-mapper; uses a loop device, and cleans up
#
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
top=$(realpath "$(dirname "$0")/..")
PATH=$top/build/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
forge=$top/build/tests/ntfsforge
# shellcheck source-path=SCRIPTDIR source=lib/volume.sh
. "$top/tests/lib/volume.sh"

say() {
	echo
	echo "== $*"
}

show() {
	echo "\$ $*"
	"$@"
}

die() {
	echo "FAILED: $*" >&2
	exit 1
}

# ---- with device-mapper: in the machine, or here. $1: the NTFS volume's block device ----

use_pipe() {
	local dev=$1
	echo "\$ ntfsmap $dev:/disks/raw.img | dmsetup create raw"
	ntfsmap -q "$dev:/disks/raw.img" | dmsetup create raw
	mkdir -p "$mnt"
	show mount /dev/mapper/raw "$mnt"
	cp "$top/README.md" "$mnt/readme"
	head -c 5000000 /dev/zero | tr '\0' n >"$mnt/five-million-n"
	show ls -l "$mnt"
	show umount "$mnt"
	show dmsetup remove raw
}

use_open() {
	local dev=$1
	show ntfsmap -q open --partitions "$dev:/disks/windows.vhd" vhd
	show ntfsmap list
	show mount /dev/mapper/vhd-part1 "$mnt"
	cp "$top/LICENSE" "$mnt/license"
	show ls -l "$mnt"
	show umount "$mnt"
	show ntfsmap close vhd
}

# Its blocks get their place while the file system is made: the target `vdisk` keeps the image's table.
use_dynamic() {
	local dev=$1
	[ -z "$module" ] || show insmod "$module"
	show ntfsmap -q open "$dev:/disks/dynamic.vhd" dyn
	show mkfs.ext4 -q /dev/mapper/dyn
	show mount /dev/mapper/dyn "$mnt"
	cp "$top/README.md" "$mnt/readme"
	head -c 9000000 /dev/zero | tr '\0' d >"$mnt/nine-million-d"
	show umount "$mnt"
	show ntfsmap status dyn
	show ntfsmap close dyn
}

# The same for a qcow2 on a backing file that holds a file system: what is written is copied first.
use_qcow() {
	local dev=$1
	show ntfsmap -q open "$dev:/disks/child.qcow2" qcow
	show ntfsmap list
	show mount /dev/mapper/qcow "$mnt"
	cp "$top/README.md" "$mnt/readme"
	head -c 7000000 /dev/zero | tr '\0' q >"$mnt/seven-million-q"
	show ls -l "$mnt"
	show umount "$mnt"
	show ntfsmap close qcow
}

inside() {
	local dev=$1 module=${2:-}
	mnt=$(mktemp -d /run/ntfsmap-demo.XXXXXX)
	say "Linux will not mount this volume read-write"
	ntfs-3g.probe --readwrite "$dev" 2>/dev/null && die "ntfs-3g would mount it" || echo "ntfs-3g.probe: refused (status $?: hibernated)"
	say "A raw image, by a pipe into dmsetup"
	use_pipe "$dev"
	say "A fixed VHD with a partition table, by ntfsmap open"
	use_open "$dev"
	say "A dynamic VHD: blocks that have no place yet get one inside the file"
	use_dynamic "$dev"
	say "A qcow2 with a backing file: clusters are copied when they are written"
	use_qcow "$dev"
	rmdir "$mnt"
}

if [ "${1:-}" = inside ]; then
	inside "$2" "${3:-}"
	exit
fi

# ---- making the volume ----

make_images() {
	truncate -s 24M "$work/raw.img"
	mkfs.ext4 -q -F "$work/raw.img"
	truncate -s 32M "$work/disk"
	echo 'start=2048, type=83' | sfdisk -q "$work/disk" 2>/dev/null
	mkfs.ext4 -q -F -E offset=$((2048 * 512)) "$work/disk" 30M
	qemu-img convert -q -f raw -O vpc -o subformat=fixed,force_size "$work/disk" "$work/windows.vhd"
	qemu-img create -q -f vpc -o subformat=dynamic,force_size "$work/dynamic.vhd" 64M
	"$top/build/bin/ntfsmap" -q reserve "$work/dynamic.vhd" 40M
	qemu-img convert -q -f raw -O qcow2 -c "$work/raw.img" "$work/base.qcow2"
	(cd "$work" && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 child.qcow2)
	"$top/build/bin/ntfsmap" -q reserve "$work/child.qcow2" all 2>/dev/null
}

make_volume() {
	truncate -s 256M "$img"
	mkntfs -q -F -Q -L Windows "$img" >/dev/null 2>&1
	"$forge" "$img" mkdir /disks
	"$forge" "$img" file /disks/raw.img "$(stat -c %s "$work/raw.img")" runs=40 gap=5 order=shuffle seed=1 fill=stdin <"$work/raw.img"
	"$forge" "$img" file /disks/windows.vhd "$(stat -c %s "$work/windows.vhd")" runs=25 gap=5 order=shuffle seed=2 fill=stdin <"$work/windows.vhd"
	"$forge" "$img" file /disks/dynamic.vhd "$(stat -c %s "$work/dynamic.vhd")" runs=30 gap=5 order=shuffle seed=4 fill=stdin <"$work/dynamic.vhd"
	"$forge" "$img" file /disks/base.qcow2 "$(stat -c %s "$work/base.qcow2")" runs=3 gap=5 order=shuffle seed=5 fill=stdin <"$work/base.qcow2"
	"$forge" "$img" file /disks/child.qcow2 "$(stat -c %s "$work/child.qcow2")" runs=20 gap=5 order=shuffle seed=6 fill=stdin <"$work/child.qcow2"
	"$forge" "$img" file "/Steuer 2025.pdf" 3M runs=30 gap=1 fill=pattern seed=3
	"$forge" "$img" hiberfil hibr
	"$forge" "$img" logfile 2.0 inuse
}

# The hash of all bytes of the volume that are in none of the files. Where the files are is ntfscluster's word, not ours.
hash_of_the_rest() {
	local file
	for file in /disks/raw.img /disks/windows.vhd /disks/dynamic.vhd /disks/child.qcow2; do
		oracle_table "$file" "$(ntfscat "$img" "$file" | wc -c)"
	done >"$work/all"
	hash_outside "$work/all" "$img"
}

run_direct() {
	local loop
	[ "$(id -u)" = 0 ] || die "DIRECT=1 needs root"
	dmsetup version >/dev/null || die "DIRECT=1 needs a kernel with device-mapper"
	dmsetup targets | grep -q '^vdisk ' || modprobe dm-vdisk ||
		die "DIRECT=1 needs the module: make module && sudo make modules_install"
	loop=$(losetup --find --show "$img")
	"$0" inside "$loop" || { losetup -d "$loop"; die "see above"; }
	losetup -d "$loop"
}

run_in_machine() {
	local status=0 module
	module=$("$top/tests/vm/module.sh") || die "the module for the machine's kernel cannot be built here"
	"$top/tests/vm/run" -t 600 -M ext4 -d "$img" -- "$0" inside /dev/vda "$module" || status=$?
	[ "$status" != 77 ] || die "there is no virtual machine to be had here"
	[ "$status" = 0 ] || die "status $status from inside the machine"
}

# ---- the proof, from outside ----

check_file() {
	[ "$2" = "$3" ] || die "$1: it is $2, and should be $3"
	echo "ok: $1"
}

prove_contents() {
	ntfscat "$img" /disks/raw.img >"$work/after.raw"
	ntfscat "$img" /disks/windows.vhd >"$work/after.vhd"
	qemu-img convert -f vpc -O raw "$work/after.vhd" "$work/after.disk"
	dd if="$work/after.disk" of="$work/after.part" bs=1M skip=1 status=none
	ntfscat "$img" /disks/dynamic.vhd >"$work/after.dynamic"
	qemu-img convert -f vpc -O raw "$work/after.dynamic" "$work/after.dyn"
	ntfscat "$img" /disks/child.qcow2 >"$work/child.qcow2"
	show qemu-img check "$work/child.qcow2"
	qemu-img convert -f qcow2 -O raw "$work/child.qcow2" "$work/after.qcow"
	e2fsck -fn "$work/after.qcow" >/dev/null 2>&1 || die "e2fsck: the file system in the qcow2 is damaged"
	e2fsck -fn "$work/after.raw" >/dev/null 2>&1 || die "e2fsck: the file system in the raw image is damaged"
	e2fsck -fn "$work/after.part" >/dev/null 2>&1 || die "e2fsck: the file system in the VHD is damaged"
	e2fsck -fn "$work/after.dyn" >/dev/null 2>&1 || die "e2fsck: the file system in the dynamic VHD is damaged"
	echo "ok: e2fsck finds the four file systems clean (images read by ntfscat, VHD and qcow2 by qemu-img)"
	check_file "the raw image holds the text file" \
		"$(debugfs -R 'cat readme' "$work/after.raw" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/README.md")"
	check_file "the raw image holds the large file" \
		"$(debugfs -R 'cat five-million-n' "$work/after.raw" 2>/dev/null | tr -d n | wc -c),$(debugfs -R 'cat five-million-n' "$work/after.raw" 2>/dev/null | wc -c)" 0,5000000
	check_file "the dynamic VHD holds the text file" \
		"$(debugfs -R 'cat readme' "$work/after.dyn" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/README.md")"
	check_file "the dynamic VHD holds the large file" \
		"$(debugfs -R 'cat nine-million-d' "$work/after.dyn" 2>/dev/null | tr -d d | wc -c),$(debugfs -R 'cat nine-million-d' "$work/after.dyn" 2>/dev/null | wc -c)" 0,9000000
	check_file "the qcow2 holds the text file" \
		"$(debugfs -R 'cat readme' "$work/after.qcow" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/README.md")"
	check_file "the qcow2 holds the large file" \
		"$(debugfs -R 'cat seven-million-q' "$work/after.qcow" 2>/dev/null | tr -d q | wc -c),$(debugfs -R 'cat seven-million-q' "$work/after.qcow" 2>/dev/null | wc -c)" 0,7000000
	check_file "the VHD holds the licence" \
		"$(debugfs -R 'cat license' "$work/after.part" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/LICENSE")"
}

for tool in mkntfs ntfscat ntfscluster ntfs-3g.probe qemu-img mkfs.ext4 e2fsck debugfs sfdisk; do
	type -P "$tool" >/dev/null || die "$tool is missing: make deps"
done
work=$(mktemp -d "${TMPDIR:-/tmp}/ntfsmap-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
img=$work/windows-volume.img

say "An NTFS volume with a hibernated Windows, and four disk images in pieces on it"
make_images
make_volume
ls -l "$work"/raw.img "$work"/windows.vhd "$work"/dynamic.vhd "$work"/child.qcow2 "$img" | awk '{ print $5, $9 }'
say "What ntfsmap says about the fixed VHD"
show ntfsmap check "$img:/disks/windows.vhd"
say "The device-mapper table of the raw image (first lines)"
echo "\$ ntfsmap $img:/disks/raw.img"
ntfsmap -q "$img:/disks/raw.img" 2>/dev/null >"$work/table"
head -4 "$work/table"
echo "... $(wc -l <"$work/table") lines"
before=$(hash_of_the_rest)
written=$(sha256sum <"$img")

if [ -n "${DIRECT:-}" ]; then
	say "Now with device-mapper, on this machine"
	run_direct
else
	say "Now with device-mapper, in a throw-away virtual machine (its kernel comes from a cache)"
	run_in_machine
fi

say "Seen from outside, by other people's programs"
prove_contents
[ "$(sha256sum <"$img")" != "$written" ] || die "nothing was written at all"
check_file "every byte of the volume outside the four files is unchanged" "$(hash_of_the_rest)" "$before"
echo
echo "VERDICT: all four images on the hibernated volume were written and read back; nothing else on it has changed."
