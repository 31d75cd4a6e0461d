#!/usr/bin/env bash
# The kernel target with much of everything: a thousand devices at once, and a disk of 2040 GiB whose table of 4 MiB is
# read through a cache of 256 KiB.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img dmsetup perl
seed=${TEST_SEED:-20261121}
devices=1000
small=$((64 << 10)) # bytes of the thousand's disks
gib=$((1 << 21))    # sectors

# --- in the machine ---

# The thousand's nodes in turn: what is in their last sector must be theirs; then their own number goes there.
each_device() {
	perl -e 'my ($n, $size, $share) = @ARGV;
		open my $all, "<:raw", "$share/thousand.model" or die;
		for my $i (1 .. $n) {
			open my $device, "+<:raw", "/dev/mapper/d$i" or die "d$i: $!\n";
			read $all, my $model, $size;
			sysseek $device, $size - 4096, 0;
			sysread $device, my $found, 4096 or die "d$i: $!\n";
			$found eq substr $model, -4096 or die "d$i: another one\n";
			sysseek $device, 0, 0;
			syswrite $device, pack("N", $i) x 1024 or die "d$i: $!\n";
			close $device or die "d$i: $!\n";
		}' "$devices" "$small" "$share"
}

thousand() {
	local free before
	ok "$devices devices are made" eval 'dmsetup create --concise "$(cat "$share/thousand.tables")"'
	dmsetup mknodes
	ok "  each is its own" each_device
	is "$(dmsetup status --target vdisk | grep -c ': 0 [0-9]* vdisk rw ')" "$devices" "  all have mode rw"
	free=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
	ok "  they are removed" dmsetup remove_all
	is "$(dmsetup ls)" 'No devices found' "  none is left"
	before=$free
	free=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
	each=$(((free - before) / devices))
	ok "  nor the memory of one: less than 1 MiB" [ "$each" -lt 1024 ]
	echo "# $each KiB a device"
}

# The most that the cache has held, while a command runs.
watched() {
	local most=0 now=''
	rm -f "$T/job"
	{
		"$@" >"$T/log" 2>&1
		echo $? >"$T/job"
	} &
	until [ -s "$T/job" ] && [ -n "$now" ]; do
		now=$(field big 4 | cut -d/ -f1)
		[ "$now" -le "$most" ] || most=$now
	done
	cat "$T/log"
	echo "the cache held up to $most KiB"
	[ "$(cat "$T/job")" = 0 ] && [ "$most" -le 256 ] && [ "$most" -gt 128 ]
}

huge() {
	ok "a disk of 2040 GiB" dmsetup create big --table "$(table huge /dev/vdb cache_kib 256)"
	dmsetup mknodes
	is "$(blockdev --getsz /dev/mapper/big)" $((2040 * gib)) "  its size"
	# Most places are read as zeros; 140 blocks of 2 MiB find room.
	ok "  reads and writes all over it are right, in a cache of 256 KiB" watched "$hammer" "seed=$seed" threads=4 ops=1200 \
		max=64 reads=96 whole=0 discard=0 zero=0 /dev/mapper/big
	is "$(field big 1)" rw "  mode rw"
	ok "  its last sector can be written" dd if="$top/LICENSE" of=/dev/mapper/big bs=512 count=1 seek=$((2040 * gib - 1)) \
		oflag=direct status=none
	ok "  flush" dmsetup message big 0 flush
	dmsetup remove big
	dmsetup create big --table "$(table huge /dev/vdb cache_kib 256)"
	dmsetup mknodes
	ok "  and is there" cmp -n 512 -i $((2040 * gib * 512 - 512)):0 /dev/mapper/big "$top/LICENSE"
	like "$(field big 2)" '^(-|[0-9]+)/1044480$' "  a million blocks"
	dmsetup remove big
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	huge
	thousand
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

# The thousand: on one disk, one behind the other; tables for dmsetup create --concise.
make_thousand() {
	perl -e 'my ($lib, $n, $size, $disk, $share, $seed) = @ARGV;
		require $lib;
		open my $out, ">:raw", $disk or die;
		open my $model, ">:raw", "$share/thousand.model" or die;
		open my $tables, ">", "$share/thousand.tables" or die;
		my $at = 2048;
		for my $i (1 .. $n) {
			my $made = makevhd::make("$disk.vhd", "$disk.model", seed => $seed + $i, size => $size, block => 4096,
				allocate => 60, footer => "good", room => 65536, bitmaps => "ones");
			local $/;
			for (["$disk.vhd", $out], ["$disk.model", $model]) {
				open my $in, "<:raw", $_->[0] or die;
				seek $out, $at * 512, 0 if $_->[1] == $out;
				print {$_->[1]} scalar <$in>;
			}
			my $sectors = int(($made->{bytes} + 511) / 512);
			printf $tables "%sd%d,,,rw,0 %d vdisk vhd 2 file_bytes %d 1 /dev/vda 1 0:%d+%d", $i > 1 ? ";" : "", $i, $size / 512,
				$made->{bytes}, $at, $sectors;
			$at += $sectors + 8;
		}
		truncate $out, $at * 512; ' "$makevhd" "$devices" "$small" "$T/thousand" "$share" "$seed"
}

build_module
echo "# seed $seed"
make_thousand || bail "cannot make a thousand images"
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/huge.vhd" 2040G || bail "cannot make 2040 GiB"
# Sparse, as the disk of 2 TiB would not fit: the file's holes stay holes.
"$lay" room "$T/huge.vhd" $((400 << 20))
echo "$((2040 * gib)) $(stat -c %s "$T/huge.vhd") vhd" >"$share/huge.size"
echo "0:0+$(($(stat -c %s "$T/huge.vhd") / 512))" >"$share/huge.extents"

guest_tests -n -t 900 -m 1536 -d "$T/thousand" -d "$T/huge.vhd" -s "$share"

run qemu-img info -f vpc "$T/huge.vhd"
is "$status" 0 "qemu-img takes the disk of 2040 GiB"
run "$ntfsmap" check "$T/huge.vhd"
is "$status" 0 "ntfsmap check" || diag "$out$err"
ok "qemu-io reads its last sector" eval 'qemu-io -r -f vpc -c "read -v $((2040 * gib * 512 - 512)) 512" "$T/huge.vhd" |
	grep -q "GNU\|LICENSE\|GENERAL"'
done_testing
