# shellcheck shell=bash
# Booting a Debian whose disk is an image on a hibernated NTFS volume. Source it after ntfs.sh; then
#
#   need_debian                sets $debian, see debian.sh; skips all where there is none
#   gpt_image FILE             a raw disk with GPT, an ESP and the root file system
#   hibernated, volume_disk    the volume, and the disk that it is a partition of
#   machine_start              starts qemu with a script for the guest, which finds the folder $io of here as /run/io;
#                              what is in $T/give is there too
#   machine_at, machine_kill   waits for a file there; a power cut
#   ended, only_the_image, sound   what must be true afterwards
# shellcheck disable=SC2034,SC2154 # $T, $top, $img, $forge are others'; some are for the tests

need_debian() {
	local status=0
	need qemu-system-x86_64 mmdebstrap mkfs.ext4 e2fsck sfdisk mkfs.vfat qemu-img
	debian=$(VM_REASON=$T/reason "$top/tests/lib/debian.sh") || status=$?
	[ "$status" != 77 ] || skip_all "$(<"$T/reason")"
	[ "$status" = 0 ] || bail "no Debian to boot"
	root_uuid=$(<"$debian/root.uuid")
	accel=$("$top/tests/vm/accel.sh" "$debian/vmlinux" "$debian/probe")
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

# The volume's place in the disk, in bytes.
volume_at=$((1 << 20))

# The volume moves into the disk: $img is a copy no more.
volume_disk() {
	truncate -s "$((volume_at + $(stat -c %s "$img") + volume_at))" "$1"
	sfdisk -q "$1" <<-'END' || bail "sfdisk failed"
		label: gpt
		start=2048, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=windows
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

# hibernated SIZE PATH OPTION...: a volume of that size where the file $T/image lies in pieces, beside another file, and
# Windows sleeps.
hibernated() {
	local size=$1 path=$2
	shift 2
	volume "$size" -p 2048 -H 255 -S 63
	f file /neighbour 8M runs=5 fill=pattern seed=2
	f file "$path" "$(stat -c %s "$T/image")" fill=stdin order=shuffle gap=3 "$@" <"$T/image"
	f hiberfil hibr
	oracle_table "$path" "$(stat -c %s "$T/image")" >"$T/where"
	before=$(hash_outside "$T/where" "$img")
}

# machine_start INITRAMFS KERNEL-ARGUMENTS QEMU-OPTION...: the script for the guest comes on standard input. Where the
# host has other work too, an emulated timer can look broken to a kernel that checks it.
machine_start() {
	local initramfs=$1 arguments=$2 cpu=qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand,+aes,+pclmulqdq
	shift 2
	[ "$accel" = tcg ] || cpu=host
	io=$T/io
	rm -rf "$io"
	mkdir "$io"
	[ ! -d "$T/give" ] || cp -a "$T/give/." "$io/"
	cat >"$io/script"
	qemu-system-x86_64 -accel "$accel$([ "$accel" != tcg ] || echo ,thread=multi)" -cpu "$cpu" -smp 2 -m 1024 \
		-nodefaults -no-user-config -display none -no-reboot -serial "file:$T/console" \
		-qmp "unix:$T/qmp,server=on,wait=off" -kernel "$debian/vmlinux" -initrd "$initramfs" -append \
		"console=ttyS0 panic=1 no_timer_check rd.shell=0 systemd.log_color=0 mitigations=off $arguments" \
		-fsdev "local,id=io,path=$io,security_model=none" -device virtio-9p-pci,fsdev=io,mount_tag=io \
		"$@" </dev/null >"$T/qemu.log" 2>&1 &
	machine=$!
}

machine_runs() {
	[ -n "$machine" ] && kill -0 "$machine" 2>/dev/null
}

# machine_at FILE: waits until the guest's script has made it; fails when the machine is off or the time is up.
machine_at() {
	local end=$((SECONDS + boot_limit))
	until [ -e "$io/$1" ]; do
		machine_runs && [ "$SECONDS" -lt "$end" ] || return
		sleep 0.2
	done
}

# A power cut: what has reached the disk's file stays.
machine_kill() {
	[ -n "$machine" ] || return 0
	kill -9 "$machine" 2>/dev/null
	wait "$machine" 2>/dev/null
	machine=''
}

# Waits until the machine is off. Sets $status to that of the script, or to `none`, and $out and $err.
machine_end() {
	local end=$((SECONDS + boot_limit))
	while machine_runs && [ "$SECONDS" -lt "$end" ]; do
		sleep 0.2
	done
	machine_kill
	status=$(cat "$io/status" 2>/dev/null || echo none)
	out=$(cat "$io/out" 2>/dev/null) err=$(cat "$io/err" 2>/dev/null)
}

# ended NAME: the machine ran the script to its end, turned itself off, and its kernel had nothing to complain about.
ended() {
	local failures=$failed complaints
	machine_end
	complaints='\] (BUG|WARNING|Oops|INFO: task|Kernel panic|general protection|Buffer I/O error|EXT4-fs error)'
	is "$status" 0 "$1"
	is "$(grep -aE "$complaints" "$T/console")" '' '  and the kernel has no complaint'
	like "$(tail -n 3 "$T/console")" 'Power down' '  and it powered off'
	[ "$failed" = "$failures" ] || machine_log
}

# What went wrong, for people: the end of the console, and what the script said.
machine_log() {
	diag "$(cat "$T/qemu.log"; tail -n 60 "$T/console" | tr -d '\r'; tail -n 40 "$io/out" "$io/err" 2>/dev/null)"
}

# only_the_image NAME: the volume of the disk is $img again, and outside the file it is what it was.
only_the_image() {
	volume_back "$T/disk"
	is "$(hash_outside "$T/where" "$img")" "$before" "$1"
}

# sound FILE OFFSET NAME
sound() {
	run e2fsck -fn "$1?offset=$2"
	is "$status" 0 "$3" || diag "$out$err"
}

machine=''
# A last resort, for machines that hang.
boot_limit=${TEST_BOOT_LIMIT:-900}

boot_finish() {
	local status=$?
	machine_kill
	(exit "$status")
	finish
}
trap boot_finish EXIT

# qmp JSON: tells qemu to do something, and succeeds when it says that it did.
qmp() {
	perl -MIO::Socket::UNIX -MJSON::PP -e '
		my ($path, $command) = @ARGV;
		my $qemu = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!\n";
		for my $line (q({"execute":"qmp_capabilities"}), $command) {
			print $qemu "$line\n";
			$qemu->flush;
			while (my $answer = decode_json(<$qemu> // die "qemu is gone\n")) {
				die "$answer->{error}{desc}\n" if $answer->{error};
				last if exists $answer->{return};
			}
		}' "$T/qmp" "$1"
}
