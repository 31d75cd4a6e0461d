# shellcheck shell=bash
# What udev.t and systemd.t share: a disk that is plugged in and out of the test machine, with an image on its
# partition. Source it after ntfs.sh.
# shellcheck disable=SC2034,SC2154 # for the tests; $T, $top and so on are tap.sh's and ntfs.sh's
need mkntfs sfdisk mkfs.ext4 dmsetup udevadm setsid
disk_uuid=11111111-2222-3333-4444-555555555555

# Outside: $T/disk with the partition, and $T/root/mnt/share with our files as they are installed, and the contents of
# the image in the file ext4. In the machine: -d "$T/disk" -s "$T/root/mnt/share".
make_plug() {
	volume 48M -p 2048
	f file /disk.raw 8M runs=5 fill=zero
	f file /later.raw 1M
	truncate -s 56M "$T/disk"
	echo 'start=2048, size=98304, type=7' | sfdisk -q --label dos "$T/disk"
	dd if="$img" of="$T/disk" bs=1M seek=1 conv=notrunc status=none
	make -s -C "$top" install-units DESTDIR="$T/root" UDEVDIR=/mnt/share/udev BOOTDIR=/mnt/share/libexec \
		UNITDIR=/mnt/share/units GENERATORDIR=/mnt/share/generators BINDIR=/run/plug-bin >/dev/null ||
		bail "make install-units failed"
	truncate -s 8M "$T/root/mnt/share/ext4"
	mkfs.ext4 -q -U "$disk_uuid" "$T/root/mnt/share/ext4"
}

# until_so COMMAND...: the machine's time limit ends it
until_so() {
	until "$@" >/dev/null 2>&1; do sleep 0.1; done
}

# property DEVICE NAME
property() {
	udevadm info --query=property --name="$1" | sed -n "s/^$2=//p"
}

# In the machine: our rules, an /etc that can be written, the image filled through its device.
set_up_plug() {
	driver=/sys/bus/virtio/drivers/virtio_blk
	virtio=$(basename "$(realpath /sys/class/block/vda/device)")
	mkdir -p /run/udev/rules.d /run/etc/upper /run/etc/work /run/plug-bin
	cp "$top/build/bin/ntfsmap" /run/plug-bin/
	cp /mnt/share/udev/rules.d/* /run/udev/rules.d/
	mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc || bail "no /etc to write"
	rm -f /etc/ntfsmaptab
	udevadm control --reload
	serial=$(property /dev/vda1 ID_FS_UUID)
	ntfsmap open -q /dev/vda1:/disk.raw fill >/dev/null && dd if=/mnt/share/ext4 of=/dev/mapper/fill bs=1M status=none
	ntfsmap close fill
}

unplug() {
	echo "$virtio" >"$driver/unbind"
	udevadm settle
}

plug() {
	echo "$virtio" >"$driver/bind"
	udevadm settle
}
