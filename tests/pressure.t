#!/usr/bin/env bash
# The kernel target where memory is short: ext4 and xfs are made, filled and checked, and a program that dirties more
# than there is lives from a swap device, all on dynamic images.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img dmsetup perl mkfs.ext4 e2fsck mkfs.xfs xfs_repair mkswap
memory=384 # MiB
mib=2048   # sectors

# --- in the machine ---

create() {
	dmsetup create "$1" --table "$(table "$1" /dev/vda cache_kib 256)" && dmsetup mknodes
}

# full FOLDER: takes all the room that is there
full() {
	local n=0
	while cp "$share/noise" "$1/noise$n" 2>/dev/null; do n=$((n + 1)); done
	rm "$1/noise$n"
	[ "$n" -gt 2 ]
}

same_files() {
	local file
	for file in "$1"/noise*; do
		cmp "$file" "$share/noise" || return
	done
	diff -r "$top/libvdisk" "$1/libvdisk"
}

# file_system NAME FILL MKFS...
file_system() {
	local kind=$1 fill=$2 folder=/mnt/$1
	shift 2
	mkdir "$folder"
	create "$kind"
	ok "$kind: made" "$@" "/dev/mapper/$kind"
	ok "  mounted" mount -o discard "/dev/mapper/$kind" "$folder"
	cp -r "$top/libvdisk" "$folder/"
	ok "  filled" "$fill" "$folder"
	sync "$folder"
	ok "  emptied a bit" rm "$folder/noise1"
	ok "  trimmed" fstrim "$folder"
	ok "  filled again" cp "$share/noise" "$folder/noise1"
	ok "  unmounted" umount "$folder"
	ok "  suspended and resumed, its cache dropped" eval \
		'dmsetup suspend $kind && dmsetup resume $kind && dmsetup message $kind 0 drop_cache'
	ok "  mounted again" mount "/dev/mapper/$kind" "$folder"
	ok "  its files are the same" same_files "$folder"
	umount "$folder"
}

some() {
	local n
	for n in 1 2 3 4 5; do cp "$share/noise" "$1/noise$n" || return; done
}

# hog MIB: dirties as much, twice, finds it again, and sees that it was not all in memory
hog() {
	perl -e 'my $n = shift;
		my @x = map pack("N", $_) x 262144, 1 .. $n;
		for my $round (1, 2) {
			for (0 .. $n - 1) {
				$x[$_] eq pack("N", $_ + $round) x 262144 or die "MiB $_ is another, in round $round\n";
				$x[$_] = pack("N", $_ + $round + 1) x 262144;
			}
		}
		open my $info, "<", "/proc/meminfo" or die;
		my %info = map { /^(\w+): +(\d+)/ ? ($1, $2) : () } <$info>;
		my $used = ($info{SwapTotal} - $info{SwapFree}) >> 10;
		print "$used MiB are swapped\n";
		die "nothing was swapped\n" if $used < 32;' "$1"
}

swap() {
	create swap
	ok "swap: made" mkswap /dev/mapper/swap
	ok "  on" swapon /dev/mapper/swap
	mount /dev/mapper/ext4 /mnt/ext4
	hog "$((memory + 40))" >"$T/log" 2>&1 &
	# A file system on another such device in the meantime
	ok "  beside a program that needs it, files are read" same_files /mnt/ext4
	ok "  and written" eval 'rm /mnt/ext4/noise0 && cp "$share/noise" /mnt/ext4/noise0 && sync /mnt/ext4'
	wait $!
	is "$?" 0 "  a program that dirties more than there is finds it again" || diag "$(cat "$T/log")"
	echo "# $(cat "$T/log")"
	ok "  off" swapoff /dev/mapper/swap
	is "$(field swap 1)" rw "  mode rw"
	ok "  unmounted" umount /mnt/ext4
}

if in_machine; then
	modprobe ext4
	modprobe xfs || skip_all "the kernel has no xfs"
	ok "insmod" insmod "$TEST_MODULE"
	file_system ext4 full mkfs.ext4 -q
	file_system xfs some mkfs.xfs -q
	swap
	ok "ext4: e2fsck" e2fsck -fn /dev/mapper/ext4
	ok "xfs: xfs_repair" xfs_repair -n /dev/mapper/xfs
	for device in ext4 xfs swap; do
		is "$(field "$device" 1)" rw "$device: mode rw"
		ok "  the cache keeps its bound" [ "$(field "$device" 4 | cut -d/ -f1)" -le 256 ]
		dmsetup remove "$device"
	done
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

# empty NAME MIB ROOM-MIB PIECES
empty() {
	qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/$1.vhd" "$2M" || bail "cannot make $1"
	lay "$1" $(($2 * mib)) "$4" $(($3 << 20))
}

build_module
head -c 16M /dev/urandom >"$share/noise"
empty ext4 96 100 13
empty xfs 320 200 7
empty swap 256 260 5
before=$(outside)

guest_tests -n -t 900 -m "$memory" -d "$disk" -s "$share"

is "$(outside)" "$before" "every byte outside the images is unchanged"
for image in ext4 xfs; do
	back "$image"
	ok "$image: qemu-img reads it" qemu-img convert -f vpc -O raw "$T/$image.after" "$T/$image.out"
	run "$ntfsmap" check "$T/$image.after"
	is "$status" 0 "  ntfsmap check" || diag "$out$err"
done
ok "ext4: e2fsck of what qemu-img reads" e2fsck -fn "$T/ext4.out"
ok "xfs: xfs_repair" xfs_repair -n -f "$T/xfs.out"
is "$(debugfs -R 'cat /noise1' "$T/ext4.out" 2>/dev/null | sha256sum)" "$(sha256sum <"$share/noise")" \
	"ext4: a file is what was written"
done_testing
