#!/usr/bin/env bash
# The same with dracut, from a slow disk: a raw image on a USB disk. dracut's shutdown closes what the root lies on.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/boot.sh
. "$top/tests/lib/boot.sh"
need mkntfs ntfscat ntfscluster
need_debian

gpt_image "$T/image"
hibernated 1300M /disk.raw runs=41 seed=6
rm "$T/image"
volume_disk "$T/disk"

mkdir "$T/give"
cp "$debian/dracut" "$T/give/initramfs"
# The disk is not there before the initramfs looks for it. dracut tells what it does with both `quiet` and `rd.info`.
machine_start "$debian/dracut" \
	"root=UUID=$root_uuid rd.ntfsmap=disk,PARTLABEL=windows:/disk.raw,partitions quiet rd.info loglevel=7" \
	-device qemu-xhci -drive "file=$T/disk,format=raw,if=none,id=disk,cache=unsafe" -device usb-storage,drive=disk \
	<<'END'
set -ex
findmnt -no SOURCE,FSTYPE / >/run/io/root
systemctl is-system-running --wait || systemctl --failed
ls -l /dev/mapper
systemctl is-active dev-mapper-disk.device dev-mapper-disk\\x2dpart2.device
readlink -f /dev/disk/by-uuid/"$(findmnt -no UUID /)" >/run/io/link
readlink -f /dev/mapper/disk-part2 >>/run/io/link
# Where dracut is what makes them; it unpacks this at the end.
cp /run/io/initramfs /boot/initrd.img-"$(uname -r)"
head -c 20000000 /dev/urandom >/var/tmp/written
sha256sum </var/tmp/written >/run/io/sum
END
ended 'Debian comes up by dracut'
is "$(cat "$io/root" 2>/dev/null)" '/dev/mapper/disk-part2 ext4' 'its root is the partition of the image'
is "$(sort -u "$io/link" | wc -l)" 1 '  and the link by UUID is to it'
# Its own hook for device-mapper, which comes after ours, says so when there is something left.
like "$(<"$T/console")" 'Unmounted /oldroot\.' 'dracut unmounted the root at the end'
unlike "$(<"$T/console")" 'Disassembling device-mapper' '  and nothing was open then'
only_the_image 'the volume is as it was outside the file'
ntfscat "$img" /disk.raw >"$T/image" || bail 'ntfscat failed'
rm "$T/disk" "$img"
is "$(debugfs -R 'cat /var/tmp/written' "$T/image?offset=$root_at" 2>/dev/null | sha256sum)" "$(cat "$io/sum")" \
	'what was written is in the image'
# A file system that was unmounted needs no journal.
unlike "$(dumpe2fs -h "$T/image?offset=$root_at" 2>/dev/null)" needs_recovery 'the root was unmounted'
sound "$T/image" "$root_at" 'e2fsck finds no fault in the image'
done_testing
