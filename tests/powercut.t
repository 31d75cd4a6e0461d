#!/usr/bin/env bash
# The kernel target under power cuts. dm-log-writes below the device records every write and flush of a history; from
# that, lib/powercut.pl makes what a power cut would leave before the end of every flush, with any part of what was not
# flushed, and looks whether all is there that a flush or FUA write covered, and nothing stale; of a qcow2 also whether
# its refcounts are right, and its snapshot what it was. The proof that it would find a missing flush: three modules in
# which one of the commit's flushes is left out.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/vdisk.sh
. "$top/tests/lib/vdisk.sh"
need qemu-img qemu-io dmsetup perl
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
	record "$TEST_MODULE" dynamic /dev/vda /dev/vdf 120
	record "$TEST_MODULE" child /dev/vda /dev/vdg 120 parent /dev/vdb
	record "$TEST_MODULE" small /dev/vda /dev/vdh 60
	record "$TEST_MODULE" over /dev/vda /dev/vdi 60 parent /dev/vdb
	record "$share/data.ko" dynamic-data /dev/vdc /dev/vdj 60
	record "$share/data.ko" small-data /dev/vdc /dev/vdk 60
	record "$share/links.ko" dynamic-links /dev/vdd /dev/vdl 60
	record "$share/links.ko" over-links /dev/vdd /dev/vdm 60 parent /dev/vdb
	record "$share/root.ko" small-root /dev/vde /dev/vdn 60
	done_testing
	exit
fi

# --- outside ---

# mutant NAME PERL: the module $share/NAME.ko with a changed commit.c; what does not change is not built again.
mutant() {
	local out=$T/module-$1 build
	build=$(sed -n '1s/ .*//p' "${TEST_MODULE%/*}/recipe")
	cp -rp "${TEST_MODULE%/*}" "$out"
	perl -0pi -e "$2 or die 'nothing to change'" "$out/libvdisk/commit.c" || bail "cannot make the mutant $1"
	make -C "$build" M="$out" modules >"$T/make.log" 2>&1 || bail "the mutant $1 does not build: $(cat "$T/make.log")"
	cp "$out/dm-vdisk.ko" "$share/$1.ko"
}

image() {
	local name=$1
	shift
	"$makevhd" "$T/$name.vhd" "$share/$name.model" size=$((4 << 20)) footer=good "$@" >"$T/facts" ||
		bail "cannot make $name"
}

# qcow2 NAME SIZE OPTION...: two hundred pieces that a snapshot has too, and room in which something else lies
qcow2() {
	local name=$1 size=$2
	shift 2
	(cd "$T" && qemu-img create -q -f qcow2 "$@" "$name.qcow2" "$size") || bail "cannot make $name"
	perl -e 'my ($seed, $size) = @ARGV;
		srand $seed;
		my $some = sub { my $n = 512 * int 1 + rand 40; sprintf "%d %d", 512 * int(rand(($size - $n) / 512)), $n };
		print map { sprintf "write %s %s\n", rand(5) < 1 ? "-z" : "-P " . int 1 + rand 255, $some->() } 1 .. 200
	' "$((seed + size))" "$size" | qemu-io -t unsafe -f qcow2 "$T/$name.qcow2" >/dev/null || bail "cannot fill $name"
	qemu-img snapshot -c before "$T/$name.qcow2" || bail "no snapshot of $name"
	qemu-img convert -f qcow2 -O raw "$T/$name.qcow2" "$share/$name.model" || bail "qemu-img cannot read $name"
	truncate -s %64K "$T/$name.qcow2"
	perl -e 'print "stale!!\n" x (11 << 17)' >>"$T/$name.qcow2"
	lay "$name" $((size / 512)) 5 0 qcow2
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
	case $image in
	child) cp "$T/parent.vhd" "$share/parent.model" "$folder/" ;;
	over) cp "$T/parent.raw" "$share/parent.model" "$folder/" ;;
	esac
	run perl "$top/tests/lib/powercut.pl" "$folder" "$record" "$seed" "$ntfsmap"
}

build_module
mutant data 's/to_flush\(e, VDISK_FLUSH_DATA\)/to_step(e, VDISK_ROOT, VDISK_PHASE_ROOT)/'
mutant links 's/if \(e->edits\)(\n\t\t\tto_flush\(e, VDISK_FLUSH_LINKS\))/if (0)$1/'
mutant root 's/to_flush\(e, VDISK_FLUSH_ROOT\)/to_step(e, VDISK_LINK, VDISK_PHASE_LINK)/'

echo "# seed $seed"
image parent seed="$seed" block=8192 allocate=70
image dynamic seed=$((seed + 1)) block=8192 allocate=20 layout=mixed room=$((5 << 20)) bitmaps=ones
image child seed=$((seed + 2)) block=8192 allocate=30 layout=mixed room=$((5 << 20)) bitmaps=bits \
	parent="$T/parent.vhd" parent_model="$share/parent.model"
cp "$share/parent.model" "$T/parent.raw"
lay dynamic $((4 * 2048)) 5
lay child $((4 * 2048)) 4
qcow2 small $((4 << 20)) -o cluster_size=512
qcow2 over $((4 << 20)) -o cluster_size=16k,extended_l2=on -b parent.raw -F raw
for copy in before data links root; do
	cp --reflink=auto "$disk" "$T/$copy.img"
done
logs=()
for record in dynamic child small over dynamic-data small-data dynamic-links over-links small-root; do
	truncate -s 256M "$T/$record.log"
	logs+=(-d "$T/$record.log")
done

guest_tests -n -t 900 -d "$disk" -d "$T/parent.raw,ro" -d "$T/data.img" -d "$T/links.img" -d "$T/root.img" \
	"${logs[@]}" -s "$share"

for image in dynamic child small over; do
	cuts "$image"
	is "$status" 0 "$image: everything that was flushed is there, whenever the power goes"
	[ "$status" = 0 ] || diag "$out$err"
	echo "# $out"
done
while read -r record what; do
	cuts "${record%-*}" "$record"
	like "$status:$out" '^1:.*FOUND' "found in ${record%-*}: $what"
	[ "$status" = 1 ] || diag "$out$err"
	echo "# $out"
done <<'END'
dynamic-data the flush before the pointers is left out
small-data the flush before the pointers is left out
dynamic-links the flush behind the pointers is left out
over-links the flush behind the pointers is left out
small-root the flush of the refcount table is left out
END
done_testing
