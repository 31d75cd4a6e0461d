#!/usr/bin/env bash
# Roots in a dynamic VHD and in a qcow2 on a hibernated NTFS volume, by the kernel target.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/boot.sh
. "$top/tests/lib/boot.sh"
need mkntfs ntfscat ntfscluster
need_debian
[ -e "$debian/module" ] || skip_all 'the module dm-vdisk cannot be built here'

# room FILE: the image's file gets longer by what the system may write to new places.
room() {
	"$ntfsmap" reserve "$1" 64M >/dev/null 2>&1 || bail "ntfsmap reserve $1 failed"
}

# boots WHAT FILE FORMAT INITRAMFS
boots() {
	local what=$1 file=$2 format=$3 initramfs=$4
	room "$T/image"
	hibernated 900M "/$file" runs=29 seed=9
	volume_disk "$T/disk"
	machine_start "$initramfs" "root=UUID=$root_uuid ntfsmap=disk,PARTLABEL=windows:/$file,partitions" \
		-drive "file=$T/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk <<-'END'
		set -ex
		findmnt -no SOURCE,FSTYPE / >/run/io/root
		dmsetup table disk >/run/io/table
		systemctl is-system-running --wait || systemctl --failed
		head -c 20000000 /dev/urandom >/var/tmp/written
		sha256sum </var/tmp/written >/run/io/sum
	END
	ended "Debian comes up from a $what"
	is "$(cat "$io/root" 2>/dev/null)" '/dev/mapper/disk-part2 ext4' '  its root is the partition of the image'
	like "$(cat "$io/table" 2>/dev/null)" ' vdisk ' '  which the target vdisk serves'
	only_the_image '  the volume is as it was outside the file'
	ntfscat "$img" "/$file" >"$T/image" || bail 'ntfscat failed'
	rm "$T/disk" "$img"
	[ "$format" != qcow2 ] || ok '  qemu-img check finds no fault' qemu-img check -q -f qcow2 "$T/image"
	qemu-img convert -f "$format" -O raw "$T/image" "$T/raw" || bail 'qemu-img convert failed'
	is "$(debugfs -R 'cat /var/tmp/written' "$T/raw?offset=$root_at" 2>/dev/null | sha256sum)" "$(cat "$io/sum")" \
		'  what was written is in it'
	sound "$T/raw" "$root_at" '  e2fsck finds no fault in it'
	rm "$T/raw"
}


gpt_image "$T/gpt"
qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size "$T/gpt" "$T/image" || bail 'qemu-img failed'
boots 'dynamic VHD' disk.vhd vpc "$debian/initramfs-tools"
qemu-img convert -f raw -O qcow2 "$T/gpt" "$T/image" || bail 'qemu-img failed'
rm "$T/gpt"
boots qcow2 disk.qcow2 qcow2 "$debian/dracut"
done_testing
