#!/bin/bash
# GRUB in a partition of an open image: it sees the disk in the image, not the disk below.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup sfdisk mkfs.ext4 mkfs.vfat grub-probe grub-install
[ -d /usr/lib/grub/x86_64-efi ] || skip_all 'grub-efi-amd64-bin is not installed'

# probed WHAT PATH
probed() {
	grub-probe --target="$1" "$2" 2>&1 | tail -n 1
}

# An ESP and a root, as the installer makes them: table NAME, its kind in GRUB's words
system() {
	local name=$1 kind=$2 root=/mnt/root
	exits 0 "$name: open" ntfsmap open -q --partitions "/dev/vda:/$name" "$name"
	mkfs.vfat "/dev/mapper/$name-part1" >/dev/null
	mkfs.ext4 -q "/dev/mapper/$name-part2"
	mkdir -p $root
	mount "/dev/mapper/$name-part2" $root
	mkdir -p $root/boot/efi
	mount "/dev/mapper/$name-part1" $root/boot/efi
	is "$(probed partmap $root)" "$kind" "  grub-probe: the partition map"
	is "$(probed fs $root)" ext2 "  the file system"
	is "$(probed fs_uuid $root)" "$(blkid -o value -s UUID "/dev/mapper/$name-part2")" "  its UUID"
	is "$(probed device $root)" "/dev/mapper/$name-part2" "  the device"
	is "$(probed disk $root)" "/dev/mapper/$name" "  the disk is that in the image"
	exits 0 "  grub-install" grub-install --no-nvram --target=x86_64-efi --efi-directory=$root/boot/efi \
		--boot-directory=$root/boot
	ok "  the loader is there" test -n "$(find $root/boot/efi -name 'grubx64.efi')"
	ok "  and its modules" test -s $root/boot/grub/x86_64-efi/ext2.mod
	umount -R $root
	exits 0 "  close" ntfsmap close "$name"
}

if in_machine; then
	system gpt gpt
	system mbr msdos
	done_testing
	exit
fi

truncate -s 128M "$T/gpt" "$T/mbr"
printf 'label: gpt\nsize=40M, type=U\nsize=80M\n' | sfdisk -q "$T/gpt" || bail "sfdisk failed"
printf 'label: dos\nsize=40M, type=ef\nsize=80M, type=83\n' | sfdisk -q "$T/mbr" || bail "sfdisk failed"
volume 300M
for name in gpt mbr; do
	f file "/$name" 128M runs=7 order=shuffle fill=stdin <"$T/$name"
done
guest_tests -d "$img" -t 600
done_testing
