#!/usr/bin/env bash
# The kernel target with much of qcow2, where memory is short: a disk of 64 TiB through a cache of 1024 KiB; a chain of
# 20 images below files that are checked and a swap device that is needed; compressed clusters that say they inflate to
# gigabytes; four writers while a fresh image is allocated. qemu says what is right. TEST_SEED chooses other places.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source-path=SCRIPTDIR source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source-path=SCRIPTDIR source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img qemu-io dmsetup perl fio mkswap
seed=${TEST_SEED:-20261121}
memory=320          # MiB
depth=20            # images of the chain
files=$((24 << 20)) # bytes of its disk that are checked; the rest is for swap
disk_bytes=$((files + (200 << 20)))
block=$((2 << 20)) # clusters of the bombs

# --- in the machine ---

# field_kib DEVICE: what its cache holds
field_kib() {
	field "$1" 4 | cut -d/ -f1
}

# The most that the cache has held, while a command runs.
watched() {
	local most=0 now='' pid
	"$@" >"$T/log" 2>&1 &
	pid=$!
	while kill -0 $pid 2>/dev/null; do
		now=$(field_kib far)
		[ "$now" -le "$most" ] || most=$now
	done
	cat "$T/log"
	echo "the cache held up to $most KiB"
	wait $pid && [ "$most" -le 1024 ] && [ "$most" -gt 512 ]
}

# far WHAT: four processes, each with its own of the places: `write` those that are new, or `read` them all, in another
# order, and what lies behind each.
far() {
	perl -e 'use Fcntl qw(SEEK_SET);
		my ($what, $list, $seed) = @ARGV;
		open my $in, "<", $list or die;
		my @all = map { chomp; [split / /] } <$in>;
		my $job = 0;
		for (1 .. 3) { $job = $_, last if !fork }
		srand $seed + $job;
		open my $f, $what eq "write" ? "+<:raw" : "<:raw", "/dev/mapper/far" or die "far: $!\n";
		for (sort { $a->[3] <=> $b->[3] } map [@{$all[$_]}, rand], grep $_ % 4 == $job, 0 .. $#all) {
			my ($who, $at, $byte) = @$_;
			next if $what eq "write" && $who eq "qemu";
			sysseek $f, $at, SEEK_SET or die;
			if ($what eq "write") {
				(syswrite($f, chr($byte) x 4096) // 0) == 4096 or die "$at: $!\n";
				next;
			}
			(sysread($f, my $found, 8192) // 0) == 8192 or die "$at: $!\n";
			$found eq chr($byte) x 4096 . "\0" x 4096 or die "the bytes at $at, written by $who, are others\n";
		}
		close $f or die "$!\n";
		my $bad = 0;
		if (!$job) { while (wait != -1) { $bad ||= $? } }
		exit !!$bad;' "$1" "$share/far.places" "$seed" && sync /dev/mapper/far
}

forget() {
	echo 3 >/proc/sys/vm/drop_caches
	dmsetup message "$1" 0 drop_cache
}

huge() {
	local start=$SECONDS
	ok "a disk of 64 TiB" dmsetup create far --table "$(table far /dev/vdb cache_kib 1024)"
	dmsetup mknodes
	is "$(field far 1)" rw "  mode rw"
	is "$(blockdev --getsize64 /dev/mapper/far)" $((64 << 40)) "  its size"
	ok "  opens in a moment" [ $((SECONDS - start)) -le 10 ]
	ok "  what qemu wrote is written beside, all over it" watched far write
	forget far
	ok "  all of it is read, in a cache of 1024 KiB" watched far read
	is "$(field far 1)" rw "  mode rw"
	ok "  its last sector can be written" dd if="$top/LICENSE" of=/dev/mapper/far bs=512 count=1 seek=$(((64 << 31) - 1)) \
		oflag=direct status=none
	dmsetup remove far
}

# same_files: of the chain's disk, what the machine did not write
same_files() {
	echo 1 >/proc/sys/vm/drop_caches
	cmp -n "$((files / 2))" /dev/mapper/top "$share/chain.model"
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

# read_beside PID: as long as the process is there, and once at least
read_beside() {
	local rounds=0
	while :; do
		same_files >"$T/same" 2>&1 || return
		rounds=$((rounds + 1))
		echo "$rounds" >"$T/rounds"
		kill -0 "$1" 2>/dev/null || return 0
	done
}

make_chain() {
	local n parent=()
	for n in $(seq $((depth - 1))); do
		dmsetup create "c$n" --readonly --table "$(table "c$n" /dev/vda cache_kib 64 read_only "${parent[@]}")" || return
		dmsetup mknodes
		parent=(parent "/dev/mapper/c$n")
	done
	dmsetup create top --table "$(table "c$depth" /dev/vdc cache_kib 64 "${parent[@]}")" && dmsetup mknodes &&
		dmsetup create swap --table "0 $(((disk_bytes - files) / 512)) linear /dev/mapper/top $((files / 512))" &&
		dmsetup mknodes
}

chain() {
	local n pid reader
	ok "a chain of $depth images" make_chain
	[ -b /dev/mapper/swap ] || return
	ok "  reads are right" cmp -n "$files" /dev/mapper/top "$share/chain.model"
	ok "  a part of it is swap" eval 'mkswap /dev/mapper/swap && swapon /dev/mapper/swap'
	hog "$memory" >"$T/hog" 2>&1 &
	pid=$!
	read_beside "$pid" &
	reader=$!
	ok "  beside a program that needs it, two writers find what they wrote" within 200 fio \
		--name=w --filename=/dev/mapper/top --rw=randwrite --bsrange=512-32k --offset=$((files / 2)) --size=3m --offset_increment=4m --numjobs=2 --direct=1 \
		--ioengine=libaio --iodepth=4 --fsync=32 --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse
	wait "$reader"
	is "$?" 0 "  and reads are right all the time"
	wait "$pid"
	is "$?" 0 "  the program finds what it had in memory" || diag "$(cat "$T/hog")"
	echo "# $(cat "$T/hog"), read $(cat "$T/rounds") times"
	ok "  swap off" swapoff /dev/mapper/swap
	is "$(field top 1)" rw "  mode rw"
	for n in $(seq $((depth - 1))); do
		[ "$(field_kib "c$n")" -le 64 ] || echo "$n"
	done >"$T/above"
	is "$(cat "$T/above")$(field top 4 | grep -E '^(6[5-9]|[7-9].|...+)/')" '' "  no cache is larger than it may be"
	ok "  read for later" eval 'head -c "$files" /dev/mapper/top >"$share/chain.end"'
	ok "  closed" eval 'dmsetup remove swap && dmsetup remove top &&
		for n in $(seq $((depth - 1)) -1 1); do dmsetup remove "c$n" || exit; done'
}

available() {
	awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo
}

# bombs NAME: each cluster is read as qemu reads it, or not at all, as qemu; sets $least to what was available
bombs() {
	local name=$1 n=0 expected
	dmsetup create bomb --table "$(table "$name" /dev/vda cache_kib 64)" && dmsetup mknodes
	least=$(available)
	before=$least
	for expected in $(<"$share/$name.status"); do
		within 100 dd if=/dev/mapper/bomb of="$T/cluster" bs="$block" skip="$n" count=1 iflag=direct status=none 2>"$T/err" &
		while kill -0 $! 2>/dev/null; do
			now=$(available)
			[ "$now" -ge "$least" ] || least=$now
		done
		wait $!
		is "$?" "$expected" "$name: cluster $n is read or not, as by qemu" || diag "$(cat "$T/err")"
		if [ "$expected" = 0 ]; then
			ok "  its bytes" cmp -n "$block" -i "0:$((n * block))" "$T/cluster" "$share/$name.model"
		else
			like "$(cat "$T/err")" 'Input/output error' "  an I/O error"
		fi
		n=$((n + 1))
	done
	ok "$name: no more than 24 MiB were needed" [ $((before - least)) -lt $((24 << 10)) ]
	echo "# $((before - least)) KiB"
	# What cannot be read cannot be copied: the write is lost, and a flush says so.
	dd if=/dev/zero of=/dev/mapper/bomb bs=4096 seek=$((block / 4096)) count=1 oflag=direct status=none 2>/dev/null
	dmsetup message bomb 0 flush
	ok "  the machine and the device go on" cmp -n "$block" /dev/mapper/bomb "$share/$name.model"
	ok "  closed" dmsetup remove bomb
}

fresh() {
	dmsetup create fresh --table "$(table fresh /dev/vda)" && dmsetup mknodes
	ok "four writers of fio while a fresh image is allocated" within 200 fio --name=w --filename=/dev/mapper/fresh \
		--rw=randwrite --bsrange=512-64k --size=3m --offset_increment=3100k --numjobs=4 --direct=1 --ioengine=libaio \
		--iodepth=8 --fsync=32 --verify=crc32c --verify_fatal=1 --randseed=11 --output-format=terse
	is "$(field fresh 1)" rw "  mode rw"
	ok "  read for later" eval 'cat /dev/mapper/fresh >"$share/fresh.end"'
	dmsetup remove fresh
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	huge
	bombs deflate
	bombs zstd
	fresh
	chain
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

# whole NAME SECTORS: an image that is a disk of its own, as its holes shall stay holes
whole() {
	local bytes
	bytes=$(stat -c %s "$T/$1.qcow2")
	echo "$2 $bytes qcow2" >"$share/$1.size"
	echo "0:0+$((bytes / 512))" >"$share/$1.extents"
}

# Places all over 64 TiB, no two in one cluster: 40 that qemu wrote, 260 for the machine.
make_far() {
	qemu-img create -q -f qcow2 "$T/far.qcow2" 64T || bail "cannot make 64 TiB"
	perl -e 'srand shift;
		my %taken;
		for my $n (1 .. 300) {
			my $at = 65536 * int rand 1 << 30;
			redo if $taken{$at}++;
			printf "%s %d %d\n", $n > 40 ? "machine" : "qemu", $at + 4096 * int(rand 15), 1 + int rand 255;
		}' "$seed" >"$share/far.places"
	awk '$1 == "qemu" { print "write -P", $3, $2, 4096 }' "$share/far.places" |
		qemu-io -f qcow2 "$T/far.qcow2" >"$T/log" || bail "qemu-io: $(cat "$T/log")"
	truncate -s $((128 << 20)) "$T/far.qcow2"
}

# Each child writes some of the parent's again.
make_chain_images() {
	local n
	for n in $(seq "$depth"); do
		if [ "$n" = 1 ]; then
			qemu-img create -q -f qcow2 "$T/c1.qcow2" "$disk_bytes"
		else
			qemu-img create -q -f qcow2 -b "$T/c$((n - 1)).qcow2" -F qcow2 "$T/c$n.qcow2" "$disk_bytes"
		fi || bail "cannot make c$n"
		perl -e 'my ($seed, $n, $size) = @ARGV;
			srand $seed + $n;
			print map { sprintf "write %s %d %d\n", rand(8) < 1 ? "-z" : "-P " . int 1 + rand 255,
				512 * int(rand($size / 512 - 256)), 512 * int 1 + rand 256 } 1 .. ($n > 1 ? 24 : 200)' "$seed" "$n" "$files" |
			qemu-io -t unsafe -f qcow2 "$T/c$n.qcow2" >"$T/log" || bail "qemu-io: $(cat "$T/log")"
		[ "$n" = "$depth" ] || lay "c$n" $((disk_bytes / 512)) 3 0 qcow2
	done
	qemu-img convert -f qcow2 -O raw "$T/c$depth.qcow2" "$T/chain.raw" || bail "qemu-img cannot read the chain"
	head -c "$files" "$T/chain.raw" >"$share/chain.model"
	truncate -s +230M "$T/c$depth.qcow2"
}

# make_bombs NAME: a disk of clusters that qemu packed, and among them such as nobody would pack
make_bombs() {
	local name=$1 n
	qemu-img create -q -f qcow2 -o "cluster_size=$block,compression_type=${name/deflate/zlib}" "$T/$name.qcow2" \
		$((7 * block)) || bail "cannot make $name"
	for n in 0 1 2 3 4 5 6; do echo "write -c -P $((n + 65)) $((n * block)) $block"; done |
		qemu-io -t unsafe -f qcow2 "$T/$name.qcow2" >/dev/null || bail "cannot fill $name"
	perl -e 'my ($lib, $name, $path, $block) = @ARGV;
		use Compress::Raw::Zlib;
		require $lib;
		my $most = 2 * $block - 512; # of a compressed cluster
		my $fill = sub { my ($from, $one, $to) = @_; $from . $one x int(($most - length($from . $to)) / length $one) . $to };
		my @streams;
		if ($name eq "deflate") {
			# A piece that needs nothing before it, over and over
			my ($z) = Compress::Raw::Zlib::Deflate->new(-WindowBits => -12, -Level => 9, -AppendOutput => 1);
			my $mib = "";
			$z->deflate("\0" x (1 << 20), $mib) == Z_OK && $z->flush($mib, Z_FULL_FLUSH) == Z_OK or die;
			my $gib = int($most / length $mib) >> 10;
			die "only $gib GiB" if $gib < 2;
			my $nothing = "\0\0\0\xff\xff"; # RFC 1951, 3.2.4: stored, no bytes
			@streams = ($fill->("", $mib, ""), $fill->("", $nothing, ""), $fill->("", $nothing, $mib));
		} else {
			# RFC 8878, 3.1.1: window descriptor, then blocks of one byte 128 KiB times
			my $frame = sub { my ($window, $size) = @_;
				defined $size ? pack("VCCQ<", 0xfd2fb528, 0xc0, $window, $size) : pack("VCC", 0xfd2fb528, 0, $window) };
			my $run = sub { my ($byte, $last) = @_; substr(pack("V", 1 << 20 | 2 | $last), 0, 3) . $byte };
			my $all = join "", map $run->(chr 97 + $_, $_ == 15), 0 .. 15;
			my $wide = 17 << 3; # 128 MiB
			@streams = ($fill->($frame->(7 << 3), $run->("x", 0), $run->("x", 1)), $frame->($wide) . $all,
				$fill->($frame->($wide, 64 << 30), $run->("y", 0), $run->("y", 1)),
				$fill->("", $frame->(0) . "\1\0\0", ""));
		}
		my $q = qcow_open($path);
		my $at = ($q->{size} + 511) & ~511;
		for my $n (1 .. @streams) {
			my $length = length $streams[$n - 1];
			bytes($q, $at, $length, $streams[$n - 1]);
			# qcow2.txt, "Compressed Clusters Descriptor"
			l2($q, $n, COMPRESSED() | ($length + 511 >> 9) - 1 << 62 - ($q->{bits} - 8) | $at);
			$at += ($length + 511) & ~511;
		}
		truncate $q->{f}, ($at + $block - 1) & -$block;
		' "$top/tests/lib/qcowedit.pl" "$name" "$T/$name.qcow2" "$block" || bail "no bombs for $name"
	# Cluster by cluster: qemu-img would read one that it cannot read again for each of its sectors.
	truncate -s $((7 * block)) "$share/$name.model"
	for n in 0 1 2 3 4 5 6; do
		qemu-img convert --image-opts -O raw "driver=raw,offset=$((n * block)),size=$block,file.driver=qcow2,$(
		)file.file.driver=file,file.file.filename=$T/$name.qcow2" "$T/cluster" 2>/dev/null
		echo "$?" >>"$share/$name.status"
		[ "$(tail -n 1 "$share/$name.status")" != 0 ] ||
			dd if="$T/cluster" of="$share/$name.model" bs="$block" seek="$n" conv=notrunc status=none
	done
	lay "$name" $((7 * block / 512)) 3 $((8 << 20)) qcow2
}

# check NAME FILE
check() {
	run qemu-img check -f qcow2 "$2"
	is "$status" 0 "$1: qemu-img finds no error and no leak" || diag "$out$err"
}

build_module
echo "# seed $seed"
make_far
make_chain_images
make_bombs deflate
make_bombs zstd
like "$(tr -d '\n' <"$share/deflate.status")" '^0.*1.*0$' "qemu cannot read some of the bombs, and reads the rest"
like "$(tr -d '\n' <"$share/zstd.status")" '^01.*0$' "and with zstd"
qemu-img create -q -f qcow2 "$T/fresh.qcow2" 13M || bail "cannot make a fresh image"
lay fresh $((13 << 11)) 5 $((16 << 20)) qcow2
before=$(outside)
whole far $((64 << 31))
whole "c$depth" $((disk_bytes / 512))

# That the machine is short of memory and its host busy must not count as a stall of the kernel. Hung tasks do.
guest_tests -n -t 900 -m "$memory" -k 'rcupdate.rcu_cpu_stall_timeout=300 nosoftlockup' -d "$disk" -d "$T/far.qcow2" -d "$T/c$depth.qcow2" -s "$share"

rm "$share"/{far,c$depth}.extents
is "$(outside)" "$before" "every byte outside the images is unchanged"
check far "$T/far.qcow2"
awk '{ print "read -P", $3, $2, 4096; printf "read -P 0 %.0f 4096\n", $2 + 4096 }' "$share/far.places" |
	qemu-io -r -f qcow2 "$T/far.qcow2" >"$T/log" 2>&1
is "$(grep -c 'read 4096/4096' "$T/log"):$(grep -c 'failed' "$T/log")" "$((2 * $(wc -l <"$share/far.places"))):0" \
	"far: qemu reads what was written, and zeros beside"
ok "  and its last sector" eval 'qemu-io -r -f qcow2 -c "read -v $(((64 << 40) - 512)) 512" "$T/far.qcow2" |
	grep -q "GNU\|LICENSE\|GENERAL"'
check chain "$T/c$depth.qcow2"
ok "chain: qemu reads what the machine read" eval \
	'qemu-img convert -f qcow2 -O raw "$T/c$depth.qcow2" "$T/out" && cmp -n "$files" "$T/out" "$share/chain.end"'
back fresh
check fresh "$T/fresh.after"
ok "fresh: qemu reads what the machine read" eval \
	'qemu-img convert -f qcow2 -O raw "$T/fresh.after" "$T/out" && cmp "$T/out" "$share/fresh.end"'
done_testing
