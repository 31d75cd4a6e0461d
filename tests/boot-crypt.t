#!/usr/bin/env bash
# A root that lies on LVM, in LUKS, in a raw file on a hibernated NTFS volume.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/boot.sh
. "$top/tests/lib/boot.sh"
need mkntfs ntfscat ntfscluster cpio
need_debian

# LVM without a kernel's help, by the Debian's own programs; its volume is where the first extent is.
truncate -s "$(($(stat -c %s "$debian/root.ext4") + (8 << 20)))" "$T/lvm"
cat >"$T/make-lvm" <<'END'
set -e
tree=/run/vm/host$(readlink -f "$1/tree")
mount --bind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount -t sysfs sysfs "$tree/sys"
mount -t tmpfs tmpfs "$tree/run"
config=devices/obtain_device_list_from_udev=0
for command in 'pvcreate -q /dev/vda' 'vgcreate -q -A n group /dev/vda' \
	'lvcreate -q -q -A n -a n -Z n -W n -n root -l 100%FREE group' \
	'pvs --noheadings --nosuffix --units b -o pe_start'; do
	# A command is a list of words.
	chroot "$tree" $command --config "$config" --driverloaded n
done
END
run in_vm -s "$T" -d "$T/lvm" -- bash /mnt/share/make-lvm "$debian"
start=$(tail -n 1 <<<"$out" | tr -d ' ')
[[ $status = 0 && $start =~ ^[0-9]+$ ]] || bail "no LVM: $out$err"
dd if="$debian/root.ext4" of="$T/lvm" bs=64k oflag=seek_bytes seek="$start" conv=notrunc,sparse status=none
printf 0123456789abcdef >"$T/key"
# It measures how fast the processor is, and gives up at times when that has other work.
for _ in 1 2 3 4 5; do
	run qemu-img create -q --object "secret,id=key,file=$T/key" -f luks -o key-secret=key,iter-time=10 "$T/image" \
		"$(stat -c %s "$T/lvm")"
	[ "$status" != 0 ] || break
done
[ "$status" = 0 ] || bail "qemu-img made no LUKS: $err"
luks() {
	echo "driver=luks,key-secret=key,file.filename=$T/image"
}
qemu-img convert -n --object "secret,id=key,file=$T/key" -f raw --target-image-opts "$T/lvm" "$(luks)" ||
	bail 'qemu-img did not encrypt'
rm "$T/lvm"
hibernated 1300M /secret.raw runs=53 seed=8
volume_disk "$T/disk"

# What update-initramfs puts in on a system whose root is encrypted; the kernel unpacks one archive after the
# other, where the next begins at a multiple of 4.
mkdir -p "$T/more/cryptroot/keyfiles"
cp "$T/key" "$T/more/cryptroot/keyfiles/inside.key"
echo 'inside /dev/mapper/secret /cryptroot/keyfiles/inside.key luks' >"$T/more/cryptroot/crypttab"
cp "$debian/initramfs-tools" "$T/initramfs"
truncate -s %512 "$T/initramfs"
(cd "$T/more" && find . | cpio --quiet -o -H newc -R 0:0) >>"$T/initramfs"

machine_start "$T/initramfs" "root=/dev/mapper/group-root ntfsmap=secret,PARTLABEL=windows:/secret.raw" \
	-drive "file=$T/disk,format=raw,if=none,id=disk,cache=unsafe" -device nvme,drive=disk,serial=1 <<'END'
set -ex
findmnt -no SOURCE,FSTYPE / >/run/io/root
dmsetup ls --tree -o ascii >/run/io/tree
systemctl is-system-running --wait || systemctl --failed
head -c 20000000 /dev/urandom >/var/tmp/written
sha256sum </var/tmp/written >/run/io/sum
END
ended 'Debian comes up from LVM in LUKS'
is "$(cat "$io/root" 2>/dev/null)" '/dev/mapper/group-root ext4' 'its root is the logical volume'
like "$(tr -d '\n' <"$io/tree")" 'group-root.*inside.*secret.*259' \
	'  on the encrypted one, on the file, on the NVMe disk'
only_the_image 'the volume is as it was outside the file'
ntfscat "$img" /secret.raw >"$T/image" || bail 'ntfscat failed'
rm "$T/disk" "$img"
qemu-img convert --object "secret,id=key,file=$T/key" --image-opts -O raw "$(luks)" "$T/lvm" || bail 'qemu-img failed'
is "$(debugfs -R 'cat /var/tmp/written' "$T/lvm?offset=$start" 2>/dev/null | sha256sum)" "$(cat "$io/sum")" \
	'what was written is in the image'
sound "$T/lvm" "$start" 'e2fsck finds no fault in it'
done_testing
