#!/usr/bin/env bash
# The kernel target on qcow2 and qcow: every option of qemu-img is read as qemu-img reads it; random histories of
# threads that know what they wrote; copies of shared, compressed and backing clusters; no room; a parent that hangs; a
# wide disk discarded at once; damage. Afterwards qemu-img finds neither errors nor leaks, and the same bytes. TEST_SEED
# chooses other histories.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img qemu-io dmsetup perl fio
seed=${TEST_SEED:-20261121}

# --- in the machine ---

# The other devices that an image needs are features, in the file NAME.features.
create() {
	local device=$1 name=$2 features=()
	shift 2
	[ ! -e "$share/$name.features" ] || read -ra features <"$share/$name.features"
	dmsetup create "$device" --table "$(table "$name" /dev/vda "${features[@]}" "$@")"
}

said() {
	dmesg -c | sed 's/^[^]]*\] //'
}

reads() {
	local name
	for name in $(cat "$share/readers"); do
		ok "$name: created" create v "$name" cache_kib 64 read_only
		ok "  reads equal qemu's" cmp /dev/mapper/v "$share/$name.model"
		is "$(field v 1)" ro "  mode ro"
		remove v
	done
	create v zlib read_only
	ok "512 bytes at a time" eval 'dd if=/dev/mapper/v bs=512 iflag=direct status=none | cmp - $share/zlib.model'
	ok "  and many at once" fio --name=r --filename=/dev/mapper/v --rw=randread --bsrange=512-256k --size=9m \
		--norandommap --number_ios=300 --numjobs=4 --direct=1 --ioengine=libaio --iodepth=16 --output-format=terse
	remove v
}

# By names and ids; and what is not there. (dmsetup cannot pass a name with a space.)
snapshots() {
	rm "$share/inside.features"
	ok "a snapshot by its name" create v inside snapshot first
	like "$(dmsetup table v)" ' snapshot first 1 ' "  the table is what was given"
	run dd if=/dev/zero of=/dev/mapper/v bs=64k count=1 oflag=direct
	is "$status" 1 "  cannot be written"
	remove v
	ok "a snapshot by its id" create v inside snapshot 2
	ok "  reads equal qemu's" cmp /dev/mapper/v "$share/second.model"
	remove v
	said >/dev/null
	create v inside snapshot nobody
	is "$(field v 1)" fail "a snapshot that is not there: mode fail"
	like "$(said)" 'snapshot' "  the log says why"
	remove v
}

# hammer IMAGE OPTIONS...: on v, from where the last one of this image ended
hammer() {
	local name=$1 begin
	shift
	begin=$share/$name.end
	[ -e "$begin" ] || begin=$share/$name.model
	"$hammer" "seed=$seed" "begin=$begin" "end=$share/$name.end" "$@" /dev/mapper/v
}

# Random histories, and again where the cache is as small as it can be and emptied.
writes() {
	local name
	for name in $(cat "$share/writers"); do
		ok "$name: created" create v "$name"
		ok "  threads find what they wrote" hammer "$name" ops=150 max=256
		is "$(field v 1)" rw "  mode rw"
		remove v
		ok "  created with a small cache" create v "$name" cache_kib 64
		ok "  what was written is there" cmp /dev/mapper/v "$share/$name.end"
		hammer "$name" ops=100 max=64 frame=512 seed=$((seed + 1)) >"$T/log" 2>&1 &
		while kill -0 $! 2>/dev/null; do
			dmsetup message v 0 drop_cache
			dmsetup suspend v && dmsetup resume v
			sleep 0.2
		done
		ok "  and threads beside suspends" wait $!
		is "$(field v 1)" rw "  mode rw"
		remove v
	done
}

# refuses NAME MESSAGE ARGUMENTS
refuses() {
	said >/dev/null
	run dmsetup create bad --table "0 $(cut -d' ' -f1 "$share/plain.size") vdisk $3"
	is "$status" 1 "constructor: $1"
	like "$(said)" "$2" "  and says why"
}

# fails NAME MESSAGE IMAGE FEATURE...: when the image is opened
fails() {
	local name=$1 message=$2
	shift 2
	said >/dev/null
	create v "$@"
	is "$(field v 1)" fail "$name: mode fail"
	like "$(said)" "$message" "  the log says why"
	remove v
}

wrong_devices() {
	local e='1 /dev/vda 1 0:2048+8192'
	refuses "two data devices" "'data' is given twice" "qcow2 4 data /dev/vdc data /dev/vdd $e"
	refuses "a data device that is not there" "Cannot open .*'data'" "qcow2 2 data /dev/nothing $e"
	refuses "image and data on one device" "is on the same device" "qcow2 2 data /dev/vda $e"
	refuses "a data device for qcow" "'data': this format" "qcow 2 data /dev/vdc $e"
	refuses "two snapshots" "'snapshot' is given twice" "qcow2 4 snapshot 1 snapshot 2 $e"
	refuses "a snapshot of a qcow" "'snapshot': this format" "qcow 2 snapshot 1 $e"
	fails "a data device that is not needed" 'keeps all in one file' plain data /dev/vdc read_only
	fails "a parent that is not needed" 'the image has none' plain parent /dev/vdb
	refuses "an image on a read-only device" 'is read-only: it needs' "qcow2 0 1 /dev/vdb 1 0:0+2048"
	refuses "a read-only data device" 'is read-only: it needs' "qcow2 2 data /dev/vdb $e"
	rm "$share"/{data,onraw}.features
	dmsetup create short --table '0 4096 linear /dev/vdc 0' && dmsetup mknodes
	fails "a data device that is too short" 'is too short for the data' data data /dev/mapper/short
	create v data data /dev/mapper/short read_only
	ok "  read-only: zeros past its end" eval \
		'cmp /dev/mapper/v <(head -c 2M $share/data.model; head -c $(($(stat -c %s $share/data.model) - 2097152)) /dev/zero)'
	remove v
	remove short
	fails "a data device that is missing" "needs feature 'data'" data
	fails "a parent that is missing" "needs feature 'parent'" onraw
}

# A request that needs a table, and finds nothing in the cache, when there is no other that would wake the worker.
alone() {
	local at=0 command
	create v alone
	for command in 'blkdiscard -z -l 4096' 'blkdiscard -z -l 512' 'dd if=/dev/zero bs=512 count=1 oflag=direct,seek_bytes'; do
		at=$((at + 65536))
		dmsetup suspend v && dmsetup resume v # no timer either, that a commit has left
		dmsetup message v 0 drop_cache
		case $command in
		dd*) command+=" of=/dev/mapper/v seek=$at" ;;
		*) command+=" -o $at /dev/mapper/v" ;;
		esac
		# shellcheck disable=SC2086 # words
		ok "alone: $command" within 30 $command || bail "it hangs"
		dd if=/dev/mapper/v iflag=direct,skip_bytes bs=512 skip=$at count=1 status=none | cmp -s - <(head -c 512 /dev/zero)
		is "$?" 0 "  is zeros"
	done
	remove v
}

# Places that were given up are taken again: there is no other room.
full() {
	create v tight
	ok "an image with little room" dd if="$share/tight.model" of=/dev/mapper/v bs=64k count=16 oflag=direct status=none
	run dd if=/dev/zero of=/dev/mapper/v bs=64k seek=32 count=64 oflag=direct
	is "$status" 1 "  a write finds none"
	like "$err" 'No space left' "  and says so"
	is "$(field v 1)" out_of_space "  mode out_of_space"
	ok "  what there is can be written" dd if="$share/tight.model" of=/dev/mapper/v bs=64k count=16 oflag=direct status=none
	ok "  discard what found room" blkdiscard -o $((32 * 65536)) /dev/mapper/v
	ok "  flush" dmsetup message v 0 flush
	ok "  write elsewhere" dd if=/dev/urandom of=/dev/mapper/v bs=64k seek=100 count=8 oflag=direct status=none
	is "$(field v 1)" rw "  mode rw"
	ok "  read for later" eval 'cat /dev/mapper/v >$share/tight.end'
	remove v
}

# Writers that wait for places to be given up do not wait for readers of the parent.
hanging_parent() {
	local readers=()
	dmsetup create -r slow --table "0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0" && dmsetup mknodes
	create v slow
	run dd if=/dev/zero of=/dev/mapper/v bs=64k count=64 oflag=direct
	like "$err" 'No space left' "an image over a parent, its room taken"
	udevadm settle
	dmsetup suspend --noflush --nolockfs slow
	dd if=/dev/mapper/v of=/tmp/read1 bs=64k skip=80 count=1 iflag=direct status=none &
	readers+=($!)
	sleep 0.5
	dmsetup message v 0 drop_cache
	dd if=/dev/mapper/v of=/tmp/read2 bs=64k skip=81 count=1 iflag=direct status=none &
	readers+=($!)
	sleep 0.5
	ok "  while the parent hangs: discard" within 30 blkdiscard -f -l 1M /dev/mapper/v
	ok "  flush" within 30 dmsetup message v 0 flush
	# not dd: lseek() waits for readers of the same device
	ok "  write elsewhere" within 30 fio --name=w --filename=/dev/mapper/v --rw=write --bs=64k --offset=6400k --size=512k \
		--direct=1 --invalidate=0 --output=/tmp/fio.txt
	ok "  readers wait" kill -0 "${readers[@]}"
	dmsetup resume slow
	ok "  and go on" wait "${readers[0]}"
	ok "  both" wait "${readers[1]}"
	ok "  with the parent's bytes" cmp <(cat /tmp/read1 /tmp/read2) <(dd if=/dev/vdb bs=64k skip=80 count=2 status=none)
	remove v
	remove slow
}

# Prints how much less memory there is meanwhile, at the worst, in MiB. The command goes to the background.
memory_of() {
	local before least now
	available() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }
	before=$(available) least=$before
	"$@" &
	while kill -0 $! 2>/dev/null; do
		now=$(available)
		[ "$now" -ge "$least" ] || least=$now
		sleep 0.05
	done
	wait $! || return
	echo $((before - least))
}

# A disk of 262144 clusters in one request.
wide() {
	local how
	dmsetup create v --table "0 2097152 vdisk qcow2 0 1 /dev/vde 1 0:0+$(blockdev --getsz /dev/vde)" && dmsetup mknodes
	for how in -z -f; do
		run memory_of blkdiscard $how /dev/mapper/v
		is "$status" 0 "blkdiscard $how: all of a wide disk" || diag "$err"
		ok "  takes little memory: $out MiB" test "$out" -lt 64
	done
	remove v
}

# Each job knows what it wrote, on clusters that all have in common with a snapshot.
storm() {
	create v storm
	suspending v 2>/dev/null &
	ok "four writers of fio on shared clusters, beside suspends" fio --name=w --filename=/dev/mapper/v --rw=randwrite \
		--bsrange=512-128k --size=2m --offset_increment=2300k --numjobs=4 --direct=1 --ioengine=libaio --iodepth=8 \
		--fsync=16 --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse
	touch "$T/enough"
	wait $! 2>/dev/null
	ok "  read for later" eval 'cat /dev/mapper/v >$share/storm.end'
	remove v
}

damage() {
	local name
	create v bad
	said >/dev/null
	run dd if=/dev/mapper/v of=/dev/null bs=64k skip=5 count=1 iflag=direct
	is "$status" 1 "an L2 entry that points outside"
	like "$(said)" "table entry at offset $(cat "$share/bad.entry") of the file cannot point to" "  the log names the entry"
	is "$(field v 1)" needs_check "  mode needs_check"
	ok "  the rest can be read" eval 'head -c 327680 /dev/mapper/v | cmp - <(head -c 327680 $share/plain.model)'
	ok "  flush" dmsetup message v 0 flush
	ok "  suspended and resumed" eval 'dmsetup suspend v && dmsetup resume v'
	is "$(field v 1)" needs_check "  mode needs_check"
	ok "  what has its place can be written" eval 'tr "\0" "\11" </dev/zero |
		dd of=/dev/mapper/v bs=64k seek=6 count=1 iflag=fullblock oflag=direct status=none'
	remove v
	for name in $(cat "$share/broken"); do
		create v "$name"
		dd if=/dev/mapper/v of=/tmp/out bs=64k iflag=direct conv=noerror,sync status=none 2>/dev/null
		ok "$name: broken streams read as qemu reads them" cmp -n "$(stat -c %s "$share/$name.model")" /tmp/out "$share/$name.model"
		remove v
	done
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	reads
	snapshots
	writes
	alone
	full
	hanging_parent
	wide
	storm
	damage
	wrong_devices
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

# What compresses, what does not, and nothing: in pieces of all sizes around a cluster's.
contents() {
	perl -e 'my ($seed, $size) = @ARGV; srand $seed; my $out = "";
		while (length $out < $size) {
			my $kind = int rand 4;
			my $n = 512 << int rand 10;
			$out .= $kind == 0 ? "\0" x $n : $kind == 1 ? pack("L*", map { rand 2**32 } 1 .. $n / 4)
				: substr(join(" ", map { int rand 1000 } 1 .. $n / 2), 0, $n);
		}
		print substr $out, 0, $size' "$@"
}

size=$((9 * 1048576 + 3 * 512))
sectors=$((size / 512))
format=qcow2 # of the next image
readers=() writers=()

# image NAME [OPTION...] [-- CONVERT-OPTION...]: of the contents
image() {
	local name=$1 options=()
	shift
	while [ $# != 0 ] && [ "$1" != -- ]; do
		options+=(-o "$1")
		shift
	done
	qemu-img convert -f raw -O "$format" "${options[@]}" "${@:2}" "$T/contents" "$T/$name.$format" 2>"$T/log" ||
		[ "$format $*" = "qcow -- -c" ] || # qemu 7.2 writes all of a compressed one, and fails at the very end
		bail "qemu-img cannot make $name"
}

# overlay NAME BACKING [OPTION...]: nothing of its own yet
overlay() {
	local options=()
	for option in "${@:3}"; do options+=(-o "$option"); done
	qemu-img create -q -f qcow2 -b "$T/$2" -F "${2##*.}" "${options[@]}" "$T/$1.qcow2" || bail "qemu-img cannot make $1"
}

# change NAME COMMAND...: by qemu-io
change() {
	local name=$1 args=()
	shift
	for command; do args+=(-c "$command"); done
	qemu-io -f "$format" "${args[@]}" "$T/$name.$format" >"$T/log" 2>&1 || bail "qemu-io on $name: $(<"$T/log")"
}

# What qemu-img reads goes to the share, the image to the disk.
model() {
	qemu-img convert -f "$format" "${@:2}" -O raw "$T/$1.$format" "$share/$1.model" || bail "qemu-img cannot read $1"
}

# reader NAME [FEATURE...]
reader() {
	[ -e "$share/$1.model" ] || model "$1"
	echo "${@:2}" >"$share/$1.features"
	lay "$1" "$sectors" 5 0 "$format"
	readers+=("$1")
}

# writer NAME [FEATURE...]: with room for all of the disk
writer() {
	model "$1"
	echo "${@:2}" >"$share/$1.features"
	lay "$1" "$sectors" 7 "${room:-$((14 << 20))}" "$format"
	writers+=("$1")
}

# Images of which some is as it was, and some is not.
make_readers() {
	local n
	image plain && reader plain
	image v2 compat=0.10 && reader v2
	image c512 cluster_size=512 && reader c512
	image c2m cluster_size=2M && reader c2m
	image metadata preallocation=metadata lazy_refcounts=on && reader metadata
	for n in 1 2 64; do
		image "refcount$n" refcount_bits=$n && reader "refcount$n"
	done
	image subclusters extended_l2=on cluster_size=128k
	change subclusters 'write -P 7 4k 12k' 'write -z 40k 8k' 'discard 1M 128k' 'write -P 9 8M 4k'
	reader subclusters
	image zeroes
	change zeroes 'write -z 0 1M' 'write -zu 2M 2M' 'discard 5M 128k'
	reader zeroes
	overlay onraw contents.raw
	change onraw 'write -P 1 70000 512' 'write -z 2M 1M' 'write -P 2 8M 1M'
	reader onraw parent /dev/vdb
	qemu-img create -q -f qcow2 -o "data_file=$T/data.raw" "$T/data.qcow2" "$size"
	change data 'write -P 3 1M 2M' 'write -P 4 0 512' 'write -z 1M 64k'
	reader data data /dev/vdc
	image inside
	qemu-img snapshot -c first "$T/inside.qcow2"
	change inside 'write -P 5 0 3M' 'discard 4M 1M'
	qemu-img snapshot -c 'its name' "$T/inside.qcow2"
	change inside 'write -P 6 2M 3M'
	model inside -l snapshot.name='its name'
	mv "$share/inside.model" "$share/second.model"
	model inside -l snapshot.name=first
	reader inside snapshot first
	image short
	truncate -s -3000 "$T/short.qcow2"
	reader short
}

make_compressed() {
	image zlib -- -c && reader zlib
	image zlib512 cluster_size=512 -- -c && reader zlib512
	image zlib2m cluster_size=2M -- -c && reader zlib2m
	image v2zlib compat=0.10 -- -c && reader v2zlib
	image zstd compression_type=zstd -- -c && reader zstd
	image zstd4k compression_type=zstd cluster_size=4k -- -c && reader zstd4k
	image zstd2m compression_type=zstd cluster_size=2M -- -c && reader zstd2m
	image packedext compression_type=zstd extended_l2=on -- -c
	change packedext 'write -P 7 1M 12k' 'write -z 5M 8k'
	reader packedext
}

make_qcow1() {
	local format=qcow
	image qcow1 && reader qcow1
	image qcow1packed -- -c && reader qcow1packed
	image wqcow1 -- -c && writer wqcow1
}

make_writers() {
	image w64 && writer w64
	image wv2 compat=0.10 && writer wv2
	image w512 cluster_size=512 && writer w512
	image w2m cluster_size=2M && writer w2m
	image wbits refcount_bits=1 && writer wbits
	image wext extended_l2=on && writer wext
	image wzlib -- -c && writer wzlib
	image wzstd compression_type=zstd cluster_size=2M -- -c && writer wzstd
	image wpackedext compression_type=zstd extended_l2=on -- -c && writer wpackedext
	image wshared
	qemu-img snapshot -c before "$T/wshared.qcow2"
	writer wshared
	overlay wchild contents.raw
	change wchild 'write -P 1 70000 512' 'write -z 2M 1M' 'write -P 2 8M 1M'
	writer wchild parent /dev/vdb
	overlay wextchild contents.raw extended_l2=on
	change wextchild 'write -P 1 70000 512' 'write -z 2M 1M' 'write -P 2 8M 1M'
	writer wextchild parent /dev/vdb
	qemu-img create -q -f qcow2 -o "data_file=$T/wdata.raw" "$T/wdata.qcow2" "$size"
	change wdata 'write -P 3 1M 2M' 'write -P 4 0 512' 'write -z 1M 64k'
	writer wdata data /dev/vdd
	# so little that clusters have to be used again
	image wagain
	room=$((size + 20 * 65536 - $(stat -c %s "$T/wagain.qcow2"))) writer wagain
	image storm
	qemu-img snapshot -c before "$T/storm.qcow2"
	model storm
	lay storm "$sectors" 3 $((14 << 20)) qcow2
	qemu-img create -q -f qcow2 "$T/tight.qcow2" "$size"
	cp "$T/contents" "$share/tight.model"
	lay tight "$sectors" 3 $((2 << 20)) qcow2
	overlay alone contents.raw cluster_size=512
	echo parent /dev/vdb >"$share/alone.features"
	lay alone "$sectors" 3 $((2 << 20)) qcow2
	overlay slow contents.raw
	echo parent /dev/mapper/slow >"$share/slow.features"
	lay slow "$sectors" 3 $((2 << 20)) qcow2
	qemu-img create -q -f qcow2 -o cluster_size=4k,preallocation=metadata "$T/wide.qcow2" 1G
}

# be64 FILE OFFSET
be64() {
	od -An -tu8 --endian=big -j "$2" -N 8 "$1" | tr -d ' '
}

# A table entry that points outside; bytes of compressed clusters that are something else.
make_damage() {
	local l1 l2 name
	image bad
	change bad 'write -P 8 384k 64k'
	l1=$(be64 "$T/bad.qcow2" 40)
	l2=$(($(be64 "$T/bad.qcow2" "$l1") & 0x00fffffffffffe00))
	echo $((l2 + 5 * 8)) >"$share/bad.entry"
	printf '\200\0\1\0\0\0\0\0' | dd of="$T/bad.qcow2" bs=1 seek=$((l2 + 5 * 8)) conv=notrunc status=none
	lay bad "$sectors" 3 $((2 << 20)) qcow2
	for name in brokenzlib brokenzstd; do
		image $name compression_type=${name#broken} -- -c
		perl -e 'my ($seed, $file) = @ARGV; srand $seed; open my $f, "+<", $file or die;
			for (1 .. 150) {
				seek $f, 0x60000 + int rand(-s($f) - 0x60000), 0;
				print $f pack "C*", map { rand 256 } 0 .. rand 9;
			}' "$seed" "$T/$name.qcow2"
		# A window of zeros for what cannot be read: by clusters, as dd does
		qemu-img convert --salvage -O raw "$T/$name.qcow2" "$share/$name.model" 2>/dev/null || bail "no salvage of $name"
		lay $name "$sectors" 3 0 qcow2
	done
	echo brokenzlib brokenzstd >"$share/broken"
}

build_module
echo "# seed $seed"
contents "$seed" "$size" >"$T/contents"
cp "$T/contents" "$T/contents.raw"
make_readers
make_compressed
make_writers
make_qcow1
make_damage
echo "${readers[*]}" >"$share/readers"
echo "${writers[*]}" >"$share/writers"
before=$(outside)

guest_tests -t 1500 -m 2048 -d "$disk" -d "$T/contents.raw,ro" -d "$T/data.raw" -d "$T/wdata.raw" \
	-d "$T/wide.qcow2" -s "$share"

is "$(outside)" "$before" "every byte outside the images is unchanged"
for image in "${writers[@]}" storm tight; do
	format=$(cut -d' ' -f3 "$share/$image.size")
	back "$image"
	if [ "$format" = qcow2 ]; then
		run qemu-img check -f qcow2 "$T/$image.after"
		is "$status" 0 "$image: qemu-img finds no error and no leak" || diag "$out$err"
	fi
	ok "$image: qemu-img reads what the threads know" eval \
		'qemu-img convert -f "$format" -O raw "$T/$image.after" "$T/out" && cmp "$T/out" "$share/$image.end"'
done
for image in wshared storm; do
	ok "$image: the snapshot is what it was" eval \
		'qemu-img convert -l before -O raw "$T/$image.after" "$T/out" && cmp "$T/out" "$share/$image.model"'
done
run qemu-img check "$T/wide.qcow2"
is "$status" 0 "the wide disk: qemu-img finds no error and no leak" || diag "$out$err"
is "$(qemu-img map --output=json "$T/wide.qcow2" | grep -c '"data": true')" 0 "  nothing is left on it"
back bad
ok "in the damaged image a place was written to after the suspend" eval \
	'qemu-io -r -c "read -P 9 384k 64k" "$T/bad.after" >/dev/null'
is "$(od -An -tu1 -j 79 -N 1 "$T/bad.after" | tr -d ' ')" 2 "the damaged image is marked as corrupt"
done_testing
