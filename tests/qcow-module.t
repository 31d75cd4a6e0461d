#!/usr/bin/env bash
# The kernel target on qcow2 and qcow: every option of qemu-img is read as qemu-img reads it; random histories of
# threads that know what they wrote; copies of shared, compressed and backing clusters; no room; damage. Afterwards
# qemu-img finds neither errors nor leaks, and the same bytes. TEST_SEED chooses other histories.
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

# Wrong in nothing else.
reads() {
	local name
	for name in $(cat "$share/readers"); do
		ok "$name: created" create v "$name" cache_kib 64 read_only
		ok "  reads equal qemu's" cmp /dev/mapper/v "$share/$name.model"
		is "$(field v 1)" ro "  mode ro"
		remove v
	done
	ok "512 bytes at a time" create v zlib read_only
	ok "  are the same" eval 'dd if=/dev/mapper/v bs=512 iflag=direct status=none | cmp - $share/zlib.model'
	ok "  and many at once" fio --name=r --filename=/dev/mapper/v --rw=randread --bsrange=512-256k --size=9m --numjobs=4 \
		--direct=1 --ioengine=libaio --iodepth=16 --output-format=terse
	remove v
}

if in_machine; then
	ok "insmod" insmod "$TEST_MODULE"
	reads
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
readers=()

# What qemu-img reads goes to the share.
model() {
	qemu-img convert "${@:2}" -O raw "$T/$1.${format:-qcow2}" "$share/$1.model" || bail "qemu-img cannot read $1"
}

# reader NAME [OPTION...] -- [CONVERT-OPTION...]: an image of the contents
reader() {
	local name=$1 options=()
	shift
	while [ "$1" != -- ]; do
		options+=(-o "$1")
		shift
	done
	shift
	qemu-img convert -f raw -O "${format:-qcow2}" "${options[@]}" "$@" "$T/contents" "$T/$name.${format:-qcow2}" ||
		bail "qemu-img cannot make $name"
	add_reader "$name"
}

# add_reader NAME [FEATURE...]
add_reader() {
	model "$1"
	[ $# = 1 ] || echo "${@:2}" >"$share/$1.features"
	lay "$1" "$sectors" 5 0 "${format:-qcow2}"
	readers+=("$1")
}

# change IMAGE COMMAND...: by qemu-io
change() {
	local image=$1 args=()
	shift
	for command; do args+=(-c "$command"); done
	qemu-io -f "${format:-qcow2}" "${args[@]}" "$image" >/dev/null || bail "qemu-io on $image"
}

make_readers() {
	local bits
	reader plain --
	reader v2 compat=0.10 --
	reader c512 cluster_size=512 --
	reader c2m cluster_size=2M --
	reader metadata preallocation=metadata lazy_refcounts=on --
	for bits in 1 2 64; do
		reader "refcount$bits" refcount_bits=$bits --
	done
	reader subclusters extended_l2=on cluster_size=128k --
	change "$T/subclusters.qcow2" 'write -P 7 4k 12k' 'write -z 40k 8k' 'discard 1M 128k' 'write -P 9 8M 4k'
	next_of subclusters
	reader zlib -- -c
	reader zlib512 cluster_size=512 -- -c
	reader zlib2m cluster_size=2M -- -c
	reader v2zlib compat=0.10 -- -c
	reader zstd compression_type=zstd -- -c
	reader zstd4k compression_type=zstd cluster_size=4k -- -c
	reader zstd2m compression_type=zstd cluster_size=2M -- -c
	reader packedext compression_type=zstd extended_l2=on -- -c
	change "$T/packedext.qcow2" 'write -P 7 1M 12k' 'write -z 5M 8k'
	next_of packedext
	reader zeroes --
	change "$T/zeroes.qcow2" 'write -z 0 1M' 'write -zu 2M 2M' 'discard 5M 128k'
	next_of zeroes
	format=qcow reader qcow1 --
	format=qcow reader qcow1packed -- -c
}

# The image was changed after it was laid out: again.
next_of() {
	model "$1"
	lay "$1" "$sectors" 5
}

build_module
echo "# seed $seed"
contents "$seed" "$size" >"$T/contents"
make_readers
echo "${readers[*]}" >"$share/readers"
before=$(outside)

guest_tests -t 600 -m 2048 -d "$disk" -s "$share"

is "$(outside)" "$before" "every byte outside the images is unchanged"
done_testing
