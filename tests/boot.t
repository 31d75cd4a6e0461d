#!/usr/bin/env bash
# A machine whose only data disk is a hibernated NTFS volume boots Debian from a fixed VHD in it, twice, with a power
# cut between. In between it does what an upgrade does. The same image boots without ntfsmap, as the disk of a machine.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/boot.sh
. "$top/tests/lib/boot.sh"
need mkntfs ntfscat ntfscluster dpkg-deb
need_debian

gpt_image "$T/raw"
qemu-img convert -f raw -O vpc -o subformat=fixed,force_size "$T/raw" "$T/image" || bail "qemu-img failed"
rm "$T/raw"
hibernated 1300M /disk.vhd runs=97 seed=5
rm "$T/image"
volume_disk "$T/disk"
head -c 1M "$T/disk" >"$T/head"

mkdir -p "$T/give" "$T/package/DEBIAN" "$T/package/usr/share/test-package"
printf '%s\n' 'Package: test-package' 'Version: 1' 'Architecture: all' 'Maintainer: Nobody <nobody@localhost>' \
	'Description: something to install' >"$T/package/DEBIAN/control"
head -c 3000000 /dev/urandom >"$T/package/usr/share/test-package/data"
dpkg-deb --root-owner-group -b "$T/package" "$T/give/test-package.deb" >/dev/null || bail "dpkg-deb failed"

disk=(-drive "file=$T/disk,format=raw,if=none,id=disk,cache=unsafe" -device "virtio-blk-pci,drive=disk")
arguments="root=UUID=$root_uuid ntfsmap=disk,PARTLABEL=windows:/disk.vhd,partitions"

# The first time: an upgrade, then writes until the power goes.
machine_start "$debian/initramfs-tools" "$arguments" "${disk[@]}" <<'END'
set -ex
findmnt -no SOURCE,FSTYPE / >/run/io/root
systemctl is-system-running --wait >/run/io/state || systemctl --failed >&2
dpkg -i /run/io/test-package.deb
sha256sum </usr/share/test-package/data >/run/io/data
update-grub
grep -c "root=UUID=$(findmnt -no UUID /)" /boot/grub/grub.cfg >/run/io/grub
# Not every driver there is, and no encryption: that takes minutes in an emulated machine.
echo MODULES=dep >>/etc/initramfs-tools/conf.d/quick
sed -i /CRYPTSETUP/d /etc/cryptsetup-initramfs/conf-hook
update-initramfs -u
cp /boot/initrd.img-"$(uname -r)" /run/io/initramfs
sync
# What is said to be written by the time of the cut has to be there.
for n in {1..100000}; do
	head -c 300000 /dev/urandom >/var/tmp/written
	sha256sum </var/tmp/written >/var/tmp/sum
	mv /var/tmp/sum "/var/tmp/sum.$n"
	mv /var/tmp/written "/var/tmp/written.$n"
	sync
	echo "$n" >/run/io/n
	[ "$n" != 8 ] || touch /run/io/cut
done
END
machine_at cut
result $? 'Debian comes up from the image, and is upgraded' || machine_log
machine_kill
is "$(cat "$io/root" 2>/dev/null)" '/dev/mapper/disk-part2 ext4' 'its root is the partition of the image'
is "$(cat "$io/state" 2>/dev/null)" running '  no unit has failed'
is "$(cat "$io/data" 2>/dev/null)" "$(sha256sum <"$T/package/usr/share/test-package/data")" \
	'  the package was installed'
ok '  GRUB would boot it by its UUID' test -s "$io/grub"
initramfs=$T/initramfs
cp "$io/initramfs" "$initramfs" || bail 'update-initramfs made nothing'
last=$(<"$io/n")
echo "$last" >"$T/give/last"

# The second time: with the initramfs that it made itself.
machine_start "$initramfs" "$arguments" "${disk[@]}" <<'END'
set -ex
systemctl is-system-running --wait || systemctl --failed
for sum in /var/tmp/sum.*; do
	if [ "${sum##*.}" -le "$(cat /run/io/last)" ]; then
		[ "$(cat "$sum")" = "$(sha256sum <"/var/tmp/written.${sum##*.}")" ]
		echo "${sum##*.}"
	fi
done | wc -l >/run/io/checked
dpkg -s test-package | grep '^Status: install ok installed'
dpkg --verify test-package
END
ended 'after the power cut it boots again'
like "$(<"$T/console")" 'recovering journal|EXT4-fs \(dm-[0-9]+\): recovery complete' \
	'  by fsck or the kernel the journal is replayed'
is "$(cat "$io/checked" 2>/dev/null)" "$last" "  what was written before is there"

is "$(head -c 1M "$T/disk" | sha256sum)" "$(sha256sum <"$T/head")" 'the partition table of the disk is as it was'
only_the_image 'the volume is as it was outside the file'
ntfscat "$img" /disk.vhd >"$T/image" || bail 'ntfscat failed'
rm "$T/disk" "$img"
sound "$T/image" "$root_at" 'e2fsck finds no fault in the image'

# The same image in a machine that has it as its disk: nothing waits for a volume.
machine_start "$initramfs" "$arguments" -drive "file=$T/image,format=vpc,if=none,id=disk,cache=unsafe" \
	-device virtio-blk-pci,drive=disk <<'END'
set -ex
findmnt -no SOURCE / >/run/io/root
systemctl is-system-running --wait || systemctl --failed
END
ended 'the image boots as the disk of a machine'
is "$(cat "$io/root" 2>/dev/null)" /dev/vda2 '  its root is the partition there'
done_testing
