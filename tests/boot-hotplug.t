#!/usr/bin/env bash
# A USB disk with a hibernated NTFS volume is plugged into a running Debian: what /etc/ntfsmaptab names on it comes up
# by udev and systemd alone. Then it is unplugged while somebody writes: an error, one line in the log, and nothing
# hangs.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/boot.sh
. "$top/tests/lib/boot.sh"
need mkntfs ntfscat ntfscluster
need_debian

truncate -s 48M "$T/image"
mkfs.ext4 -q "$T/image" || bail "mkfs.ext4 failed"
hibernated 160M /data.raw runs=33 seed=7
volume_disk "$T/disk"

# ext4 is slow to say that its device is gone: direct I/O is not.
machine_start "$debian/initramfs-tools" "root=UUID=$root_uuid" \
	-drive "file=$debian/root.ext4,format=raw,if=none,id=root,snapshot=on" -device virtio-blk-pci,drive=root \
	-device qemu-xhci,id=usb -drive "file=$T/disk,format=raw,if=none,id=disk,cache=unsafe" <<'END'
set -x
systemctl is-system-running --wait || systemctl --failed
echo 'data PARTLABEL=windows:/data.raw nofail' >/etc/ntfsmaptab
echo '/dev/mapper/data /mnt ext4 noauto,nofail 0 0' >>/etc/fstab
touch /run/io/plug
udevadm wait --timeout=120 /dev/mapper/data /dev/ntfsmap/data || exit
ntfsmap list >/run/io/list
volume=$(readlink -f /dev/disk/by-partlabel/windows)
udevadm wait --timeout=120 --settle "$volume"
udevadm info -q property "$volume" | grep UDISKS_IGNORE >/run/io/hidden
mount /dev/mapper/data /mnt || exit
head -c 5000000 /dev/urandom >/mnt/kept
sync -f /mnt
sha256sum </mnt/kept >/run/io/kept
(
	while dd if=/dev/zero of=/mnt/written bs=64k count=64 oflag=direct conv=notrunc,fsync 2>/run/dd; do
		touch /run/io/unplug
	done
	cp /run/dd /run/io/failed
) &
wait
umount /mnt
echo $? >/run/io/umount
udevadm wait --timeout=120 --removed /dev/mapper/data || dmsetup info -c
dmsetup ls >/run/io/left
# It is written behind the close.
for _ in {1..120}; do
	journalctl -b -o cat -t ntfsmap --no-pager >/run/io/journal
	! grep -q ' goes' /run/io/journal || break
	sleep 1
done
systemctl --failed --no-legend >/run/io/units
true
END
plugged=no
stick='{"driver":"usb-storage","bus":"usb.0","drive":"disk","id":"stick"}'
if machine_at plug && qmp "{\"execute\":\"device_add\",\"arguments\":$stick}"; then
	plugged=yes
	machine_at unplug && qmp '{"execute":"device_del","arguments":{"id":"stick"}}'
fi
is "$plugged" yes 'the disk is plugged in'
machine_end
is "$status" 0 'the volume comes up by itself'
like "$(cat "$io/list" 2>/dev/null)" $'\n''data +.*:/data\.raw ' '  as a device of ntfsmap'
is "$(cat "$io/hidden" 2>/dev/null)" 'UDISKS_IGNORE=1' '  and its partition is hidden from desktops'
like "$(cat "$io/failed" 2>/dev/null)" 'Input/output error|Read-only file system' 'unplugged, a writer gets an error'
is "$(cat "$io/umount" 2>/dev/null)" 0 '  it can be unmounted'
is "$(cat "$io/left" 2>/dev/null)" 'No devices found' '  and no device is left'
is "$(grep -cE 'data: ([0-9:]+ goes while it is in use|closed, as [0-9:]+ goes)' "$io/journal")" 1 \
	'  the log says so, once'
[ "$failed" = 0 ] || diag "$(<"$io/journal")"
is "$(cat "$io/units" 2>/dev/null)" '' '  no unit has failed'
like "$(tail -n 3 "$T/console")" 'Power down' 'it powers off'
only_the_image 'the volume is as it was outside the file'
ntfscat "$img" /data.raw >"$T/image" || bail 'ntfscat failed'
run e2fsck -fy "$T/image"
like "$status" '^[01]$' 'the file system is sound when its journal was replayed' || diag "$out$err"
is "$(debugfs -R 'cat /kept' "$T/image" 2>/dev/null | sha256sum)" "$(cat "$io/kept")" \
	'  and has what was written before'
done_testing
