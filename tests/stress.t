#!/usr/bin/env bash
# The kernel target under load: random histories of reads, writes, FUA, flushes, zeroing and discards by threads that
# share pages and blocks, over dynamic and differencing images in pieces; beside suspends, reloads, a cache that is
# emptied or tiny. Every read is compared with the threads' own model at once, the whole disk in the end, and the
# image with qemu-img and ntfsmap. TEST_SEED chooses other histories and other images.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img dmsetup perl fio
seed=${TEST_SEED:-20261121}
mib=2048 # sectors

# --- in the machine ---

create() {
	local device=$1 name=$2
	shift 2
	dmsetup create "$device" --table "$(table "$name" /dev/vda "$@")"
}

# hammer DEVICE IMAGE OPTIONS...: from where the last one of this image ended
hammer() {
	local device=$1 name=$2 begin
	shift 2
	begin=$share/$name.end
	[ -e "$begin" ] || begin=$share/$name.model
	"$hammer" "seed=$seed" "begin=$begin" "end=$share/$name.end" "$@" "/dev/mapper/$device"
}

# background COMMAND...: what it says is in $T/log, and in the end its status in $T/job
background() {
	rm -f "$T/job"
	{
		"$@" >"$T/log" 2>&1
		echo $? >"$T/job"
	} &
}

# beside COMMAND...: over and over until the background has ended; then its status
beside() {
	until [ -s "$T/job" ]; do
		"$@" || return
	done
	grep -v '^seed' "$T/log"
	return "$(cat "$T/job")"
}

alone() {
	create v dynamic
	ok "threads on a dynamic image" hammer v dynamic ops=500
	ok "  in narrow stripes" hammer v dynamic ops=700 frame=64 seed=$((seed + 1))
	is "$(field v 1)" rw "  mode rw"
	dmsetup remove v
	ok "  the same is read by a new device" eval 'create v dynamic && cmp /dev/mapper/v $share/dynamic.end'
	dmsetup remove v
	create v child parent /dev/vdb
	ok "threads on a differencing image" hammer v child ops=500
	ok "  in narrow stripes" hammer v child ops=700 frame=64 seed=$((seed + 1))
	dmsetup remove v
	ok "  the same is read by a new device" eval 'create v child parent /dev/vdb && cmp /dev/mapper/v $share/child.end'
	dmsetup remove v
}

# $turn counts; features differ from reload to reload
turn=0
disturb() {
	turn=$((turn + 1))
	dmsetup message v 0 drop_cache &&
		case $((turn % 4)) in
		0) dmsetup load v --table "$(table "$image" /dev/vda cache_kib $((64 + turn % 3 * 100)) "${parent[@]}")" ;;
		1) dmsetup message v 0 flush ;;
		esac &&
		dmsetup suspend v && dmsetup resume v && sleep 0.1
}

disturbed() {
	image=$1
	parent=("${@:2}")
	create v "$image" "${parent[@]}"
	background hammer v "$image" ops=500 frame=512 seed=$((seed + 2))
	ok "threads on $image beside suspends, reloads and drop_cache" beside disturb
	is "$(field v 1)" rw "  mode rw"
	run rmmod dm-vdisk
	is "$status" 1 "  the module stays"
	dmsetup remove v
}

# Most reads need metadata that is not there.
tiny_cache() {
	local name
	for name in blocks child; do
		parent=()
		[ "$name" = blocks ] || parent=(parent /dev/vdb)
		create v "$name" cache_kib 64 "${parent[@]}"
		ok "threads on $name with the least cache" hammer v "$name" ops=400 threads=8 max=64 seed=$((seed + 3))
		ok "  the cache keeps its bound" [ "$(field v 4 | cut -d/ -f1)" -le 64 ]
		background hammer v "$name" ops=400 frame=256 max=64 seed=$((seed + 4))
		ok "  and while it is emptied" beside dmsetup message v 0 drop_cache
		dmsetup remove v
	done
}

verified() {
	create v child parent /dev/vdb
	ok "four jobs of fio find what they wrote" fio --name=w --filename=/dev/mapper/v --rw=randwrite --bsrange=512-256k \
		--size=10m --offset_increment=11m --numjobs=4 --direct=1 --ioengine=libaio --iodepth=8 --fsync=32 \
		--number_ios=400 --verify=crc32c --verify_fatal=1 --randseed="$seed" --output-format=terse
	ok "  the disk is read for later" eval 'cat /dev/mapper/v >$share/child.end'
	dmsetup remove v
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	alone
	disturbed dynamic
	disturbed child parent /dev/vdb
	tiny_cache
	verified
	ok "rmmod" rmmod dm-vdisk
	done_testing
	exit
fi

# --- outside ---

# image NAME SIZE-MIB OPTIONS...: $T/NAME.vhd, which reads as $share/NAME.model
image() {
	local name=$1 size=$2
	shift 2
	"$makevhd" "$T/$name.vhd" "$share/$name.model" size=$((size << 20)) "$@" >"$T/facts" || bail "cannot make $name"
}

# What the image reads as, by the writer of images of the tests.
contents() {
	perl -e 'my ($lib, $image, $size, $below) = @ARGV; require $lib; local $/;
		if ($below) { open my $file, "<:raw", $below or die; $below = <$file> }
		binmode STDOUT; print makevhd::contents($image, $size, $below)' "$makevhd" "$@"
}

build_module
echo "# seed $seed"
image parent 46 seed="$seed" block=2097152 allocate=70
image dynamic 48 seed=$((seed + 1)) block=2097152 allocate=30 layout=mixed room=$((50 << 20)) bitmaps=ones footer=good
image blocks 24 seed=$((seed + 2)) block=16384 allocate=30 layout=mixed room=$((28 << 20)) bitmaps=ones footer=good
image child 48 seed=$((seed + 3)) block=2097152 allocate=50 layout=mixed bitmaps=bits room=$((50 << 20)) footer=good \
	parent="$T/parent.vhd" parent_model="$share/parent.model"
cp "$share/parent.model" "$T/parent.raw"
lay dynamic $((48 * mib)) 9
lay blocks $((24 * mib)) 23
lay child $((48 * mib)) 7
before=$(outside)

guest_tests -t 900 -d "$disk" -d "$T/parent.raw,ro" -s "$share"

is "$(outside)" "$before" "every byte outside the images is unchanged"
for image in dynamic blocks child; do
	back "$image"
	below=''
	# shellcheck disable=SC2034 # in eval
	[ "$image" != child ] || below=$share/parent.model
	ok "$image: ntfsmap reads what the threads know" eval '"$ntfsmap" cat "$T/$image.after" | cmp - "$share/$image.end"'
	ok "  so does the tests' own reader" \
		eval 'contents "$T/$image.after" "$(stat -c %s "$share/$image.end")" $below | cmp - "$share/$image.end"'
	run "$ntfsmap" check "$T/$image.after"
	is "$status" 0 "  ntfsmap check" || diag "$out$err"
	[ "$image" != child ] || continue
	ok "  qemu-img reads the same" eval \
		'qemu-img convert -f vpc -O raw "$T/$image.after" "$T/$image.out" && cmp "$T/$image.out" "$share/$image.end"'
done
done_testing
