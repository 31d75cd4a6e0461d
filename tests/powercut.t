#!/usr/bin/env bash
# The kernel target under power cuts. dm-log-writes below the device records every write and flush of a history; from
# that, lib/powercut.pl makes what a power cut would leave before the end of every flush, with any part of what was not
# flushed, and looks whether all is there that a flush or FUA write covered, and nothing stale. The proof that it would
# find a missing flush: two modules in which one of the commit's flushes is left out.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img dmsetup perl
seed=${TEST_SEED:-20261121}

# --- in the machine ---

# record MODULE RECORD DISK LOG OPERATIONS [FEATURES...]: what it did is in $share/IMAGE.history, what was written in LOG
record() {
	local module=$1 image=$2 lower=$3 log=$4 operations=$5
	shift 5
	ok "$image: insmod" insmod "$module"
	dmsetup create logged --table "0 $(blockdev --getsz "$lower") log-writes $lower $log"
	dmsetup mknodes
	ok "  create" dmsetup create v --table "$(table "${image%%-*}" /dev/mapper/logged "$@")"
	dmsetup mknodes
	ok "  a history" "$hammer" "seed=$seed" threads=3 "ops=$operations" frame=256 max=64 reads=5 discard=0 whole=0 \
		"begin=$share/${image%%-*}.model" mark=logged "log=$share/$image.history" /dev/mapper/v
	is "$(field v 1)" rw "  mode rw"
	dmsetup remove v
	dmsetup remove logged
	ok "  rmmod" rmmod dm-vdisk
}

if in_machine; then
	modprobe dm-log-writes || skip_all "the kernel has no dm-log-writes"
	record "$TEST_MODULE" dynamic /dev/vda /dev/vdc 120
	record "$TEST_MODULE" child /dev/vda /dev/vdd 120 parent /dev/vdb
	record "$share/data.ko" dynamic-data /dev/vdg /dev/vde 60
	record "$share/links.ko" dynamic-links /dev/vdh /dev/vdf 60
	done_testing
	exit
fi

# --- outside ---

# mutant NAME PERL: the module $share/NAME.ko with a changed engine.c; what does not change is not built again.
mutant() {
	local out=$T/module-$1 build
	build=$(sed -n '1s/ .*//p' "${TEST_MODULE%/*}/recipe")
	cp -rp "${TEST_MODULE%/*}" "$out"
	perl -0pi -e "$2 or die 'nothing to change'" "$out/libvdisk/engine.c" || bail "cannot make the mutant $1"
	make -C "$build" M="$out" modules >"$T/make.log" 2>&1 || bail "the mutant $1 does not build: $(cat "$T/make.log")"
	cp "$out/dm-vdisk.ko" "$share/$1.ko"
}

image() {
	local name=$1
	shift
	"$makevhd" "$T/$name.vhd" "$share/$name.model" size=$((4 << 20)) footer=good "$@" >"$T/facts" ||
		bail "cannot make $name"
}

# cuts IMAGE [RECORD]: sets $status and $out
cuts() {
	local image=$1 record=${2:-$1} folder=$T/cuts-${2:-$1}
	mkdir "$folder"
	ln "$T/before.img" "$folder/$record.disk"
	ln "$T/$record.log" "$folder/"
	ln "$share/$record.history" "$folder/"
	cp "$share/$image.extents" "$folder/$record.extents"
	cp "$share/$image.size" "$folder/$record.size"
	cp "$share/$image.model" "$folder/$record.model"
	[ "$image" != child ] || cp "$T/parent.vhd" "$share/parent.model" "$folder/"
	run perl "$top/tests/lib/powercut.pl" "$folder" "$record" "$seed" "$ntfsmap"
}

build_module
mutant data 's/to_flush\(e, e->linking \? VDISK_FLUSH_DATA : VDISK_FLUSH_LINKS\);/if (!e->linking) { to_flush(e, VDISK_FLUSH_LINKS); break; } WRITE_ONCE(e->state, VDISK_LINK); link_batch(e);/'
mutant links 's/(\t\tunpin_written\(e\);\n.*?)to_flush\(e, VDISK_FLUSH_LINKS\)/$1finish_commit(e)/s'

echo "# seed $seed"
image parent seed="$seed" block=8192 allocate=70
image dynamic seed=$((seed + 1)) block=8192 allocate=20 layout=mixed room=$((5 << 20)) bitmaps=ones
image child seed=$((seed + 2)) block=8192 allocate=30 layout=mixed room=$((5 << 20)) bitmaps=bits \
	parent="$T/parent.vhd" parent_model="$share/parent.model"
cp "$share/parent.model" "$T/parent.raw"
lay dynamic $((4 * 2048)) 5
lay child $((4 * 2048)) 4
for copy in before data links; do
	cp "$disk" "$T/$copy.img"
done
logs=()
for record in dynamic child dynamic-data dynamic-links; do
	truncate -s 256M "$T/$record.log"
	logs+=(-d "$T/$record.log")
done

guest_tests -n -t 900 -d "$disk" -d "$T/parent.raw,ro" "${logs[@]}" -d "$T/data.img" -d "$T/links.img" \
	-s "$share"

for image in dynamic child; do
	cuts "$image"
	is "$status" 0 "$image: everything that was flushed is there, whenever the power goes" || diag "$out$err"
	echo "# $out"
done
cuts dynamic dynamic-data
like "$status:$out" '^1:.*FOUND' "found: the flush before the pointers is left out" || diag "$out$err"
echo "# $out"
cuts dynamic dynamic-links
like "$status:$out" '^1:.*FOUND' "found: the flush behind the pointers is left out" || diag "$out$err"
echo "# $out"
done_testing
