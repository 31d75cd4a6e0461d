# shellcheck shell=bash
# Booting a Debian whose disk is an image on a hibernated NTFS volume. Source it after ntfs.sh; then
#
#   need_debian                sets $debian, see debian.sh; skips all where there is none
#   gpt_image FILE             a raw disk with GPT, an ESP and the root file system
#   fixed_vhd RAW FILE         the same as a fixed VHD
#   volume_disk FILE           makes a disk with GPT whose partition is the volume $img
#   machine_start OPTION...    starts qemu with a script for the guest on standard input; see there
#   machine_end SECONDS        waits until it is off; sets $status, $out and $err as `run` does
#   mark NAME                  in the guest: tells that this was reached;  machine_at NAME: waits for it
#   machine_kill               a power cut
# shellcheck disable=SC2154 # $T, $top, $img, $forge are others'

need_debian() {
	local status=0
	need qemu-system-x86_64 mmdebstrap mkfs.ext4 e2fsck sfdisk mkfs.vfat qemu-img
	debian=$(VM_REASON=$T/reason "$top/tests/lib/debian.sh") || status=$?
	[ "$status" != 77 ] || skip_all "$(<"$T/reason")"
	[ "$status" = 0 ] || bail "no Debian to boot"
	root_uuid=$(<"$debian/root.uuid")
	accel=$("$top/tests/vm/accel.sh" "$debian/vmlinux" "$debian/initramfs-tools")
}

# Where the root file system begins in a disk that gpt_image made.
root_at=$((34 << 20))

# A FAT16 of 32 MiB at 1 MiB, then the root.
gpt_image() {
	local size
	size=$(stat -c %s "$debian/root.ext4")
	truncate -s "$((root_at + size + (1 << 20)))" "$1"
	sfdisk -q "$1" <<-'END' || bail "sfdisk failed"
		label: gpt
		start=2048, size=65536, type=uefi
		start=69632, type=linux
	END
	mkfs.vfat --invariant -i E5B0075F "$T/esp" -C 32768 >/dev/null || bail "mkfs.vfat failed"
	dd if="$T/esp" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
	dd if="$debian/root.ext4" of="$1" bs=1M seek=34 conv=notrunc,sparse status=none
	rm "$T/esp"
}

fixed_vhd() {
	qemu-img convert -f raw -O vpc -o subformat=fixed,force_size "$1" "$2" || bail "qemu-img failed"
}

# The volume's place in the disk, in bytes.
volume_at=$((1 << 20))

# The volume moves into the disk: $img is a copy no more.
volume_disk() {
	truncate -s "$((volume_at + $(stat -c %s "$img") + volume_at))" "$1"
	sfdisk -q "$1" <<-'END' || bail "sfdisk failed"
		label: gpt
		start=2048, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
	END
	dd if="$img" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
	truncate -s "$(($(stat -c %s "$1") / 512 * 512))" "$1"
	rm "$img"
}

# volume_back DISK: the volume as it is in the disk now is $img again.
volume_back() {
	local sectors
	sectors=$(sfdisk -J "$1" | perl -MJSON::PP -e \
		'local $/; print decode_json(<STDIN>)->{partitiontable}{partitions}[0]{size}')
	truncate -s 0 "$img"
	dd if="$1" of="$img" iflag=skip_bytes,count_bytes skip="$volume_at" count=$((sectors * 512)) bs=1M \
		conv=sparse status=none
	truncate -s $((sectors * 512)) "$img"
}

# machine_start INITRAMFS KERNEL-ARGUMENTS QEMU-OPTION...: the script for the guest comes on standard input.
machine_start() {
	local initramfs=$1 arguments=$2 cpu=qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand,+aes
	shift 2
	[ "$accel" = tcg ] || cpu=host
	io=$T/io
	rm -rf "$io"
	mkdir "$io"
	cat - >"$io/script" 
	cp "$top/tests/lib/guest.sh" "$io/"
	: >"$T/console"
	qemu-system-x86_64 -accel "$accel$([ "$accel" != tcg ] || echo ,thread=multi)" -cpu "$cpu" -smp 2 -m 1024 \
		-nodefaults -no-user-config -display none -no-reboot -serial "file:$T/console" \
		-monitor "unix:$T/monitor,server,nowait" \
		-kernel "$debian/vmlinux" -initrd "$debian/$initramfs" \
		-append "console=ttyS0 panic=1 rd.shell=0 systemd.show_status=1 systemd.color=0 $arguments" \
		-fsdev "local,id=io,path=$io,security_model=none" -device virtio-9p-pci,fsdev=io,mount_tag=io \
		"$@" </dev/null >"$T/qemu.log" 2>&1 &
	machine=$!
}

# What went wrong, for people: the end of the console, and what the script said.
machine_log() {
	diag "$(tail -n 40 "$T/qemu.log" "$io/err" 2>/dev/null; tail -n "${1:-60}" "$T/console" | tr -d '\r')"
}
