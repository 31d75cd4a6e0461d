#!/bin/bash
# --static: dynamic and differencing VHD as lines of linear and zero, on a kernel that has no target vdisk; and what is
# said there when the target is needed.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup perl losetup
makevhd=$top/tests/lib/makevhd.pl
d=/mnt/share

# reads NAME WHAT: /dev/mapper/s shows the model
reads() {
	cmp "$d/$1.raw" <(read_direct /dev/mapper/s) >/dev/null 2>&1
	result $? "$2"
}

nothing_left() {
	udevadm settle
	is "$(dmsetup ls)" 'No devices found' "$1"
}

without_module() {
	exits 7 'open of a dynamic VHD without the module' ntfsmap open /dev/vda:/dyn.vhd s
	like "$err" 'make module && make modules_install && modprobe dm-vdisk' '  says what to run'
	like "$err" 'open --static' '  and what works without'
	exits 7 'open of a chain' ntfsmap open /dev/vda:/top.vhd s
	nothing_left '  nothing is left of it'
	exits 0 'open --test says nothing against it' ntfsmap open --test /dev/vda:/top.vhd s
	exits 0 'a raw image needs no module' ntfsmap open -q /dev/vda:/raw s
	ntfsmap close s
}

static_devices() {
	local name
	for name in dyn mid top; do
		exits 0 "open --static $name" ntfsmap open --static "/dev/vda:/$name.vhd" s
		is "$(blockdev --getro /dev/mapper/s)" 1 '  is read-only'
		reads "$name" '  its contents are right'
		is "$(dmsetup table s | awk '{ print $3 }' | sort -u | xargs)" "linear zero" '  stock targets'
		like "$(ntfsmap list)" "s +/dev/vda:/$name.vhd +vhd +ro +4.0 MiB +- +0" '  list'
		exits 0 '  verify' ntfsmap verify s
		exits 0 '  reload' ntfsmap reload s
		like "$err" 'nothing has changed' '  has nothing to do'
		exits 0 '  close' ntfsmap close s
	done
	exits 0 'table --static --concise' bash -c 'set -o pipefail; ntfsmap table -q --static --concise s /dev/vda:/top.vhd | dmsetup create --concise'
	reads top '  is the same'
	exits 0 '  and one of ours' ntfsmap verify s
	ntfsmap close s
	nothing_left 'nothing is left'
}

# It has no device for a parent, and must keep writers from it all the same.
parents() {
	ntfsmap open -q --static /dev/vda:/top.vhd s >/dev/null
	exits 2 'a parent of a --static mapping: open' ntfsmap open --test /dev/vda:/dyn.vhd t
	like "$err" 'the parent of an open image \(/dev/mapper/s\)' '  says of which'
	exits 2 '  the other parent' ntfsmap open --test /dev/vda:/mid.vhd t
	exits 0 '  open --readonly' ntfsmap open --test --readonly /dev/vda:/mid.vhd t
	exits 0 '  the child itself' ntfsmap open --test /dev/vda:/top.vhd t
	ntfsmap close s
	exits 0 '  and afterwards' ntfsmap open --test /dev/vda:/dyn.vhd t
}

# What the target vdisk cannot do.
holes() {
	exits 2 'a sparse file: open --readonly' ntfsmap open --readonly /dev/vda:/sparse.vhd s
	like "$err" 'sparse.*--static' '  names --static'
	exits 0 '  open --static' ntfsmap open -q --static /dev/vda:/sparse.vhd s
	reads dyn '  reads it'
	ntfsmap close s
	exits 2 'a file whose end was never written: open --readonly' ntfsmap open --readonly /dev/vda:/short.vhd s
	like "$err" 'valid.*--static' '  names --static'
	exits 0 '  open --static' ntfsmap open -q --static /dev/vda:/short.vhd s
	cmp -s <(ntfsmap cat -q /dev/vda:/short.vhd) <(read_direct /dev/mapper/s)
	result $? '  reads zeros behind the mark'
	ntfsmap close s
}

plain_files() {
	cp "$d"/*.vhd /tmp
	exits 0 'a chain of plain files' ntfsmap open -q --static /tmp/top.vhd s
	reads top '  through a loop device for each'
	is "$(losetup -n -l | grep -c /tmp/)" 3 '  three of them'
	exits 2 '  verify cannot know which file it was' ntfsmap verify s
	exits 2 '  nor can reload' ntfsmap reload s
	exits 2 '  a parent of it cannot be opened for writing' ntfsmap open --test /tmp/dyn.vhd t
	like "$err" 'the parent of an open image' '  says why'
	exits 0 '  close' ntfsmap close s
	is "$(losetup -n -l | grep -c /tmp/)" 0 '  which go with it'
	losetup -r /dev/loop9 /tmp/dyn.vhd
	exits 0 'a block device that holds an image' ntfsmap open -q --static /dev/loop9 s
	reads dyn '  reads it'
	ntfsmap close s
	losetup -d /dev/loop9
}

if in_machine; then
	without_module
	static_devices
	parents
	holes
	modprobe loop
	plain_files
	done_testing
	exit
fi

mkdir "$T/share"
d=$T/share
vhd() {
	local name=$1
	shift
	"$makevhd" "$d/$name.vhd" "$d/$name.raw" size=4194304 block=524288 layout=plain creator=win locators=w2ru "$@" \
		>"$T/facts" 2>&1 || bail "makevhd: $(<"$T/facts")"
}
put() {
	f file "/$2" "$(stat -c %s "$d/$1.vhd")" runs=3 fill=stdin <"$d/$1.vhd"
}
vhd dyn seed=1 allocate=40 room=1000000
vhd mid seed=2 allocate=60 bitmaps=bits parent="$d/dyn.vhd" parent_model="$d/dyn.raw" 'parent_path=.\dyn.vhd'
vhd top seed=3 allocate=30 bitmaps=bits parent="$d/mid.vhd" parent_model="$d/mid.raw" 'parent_path=.\mid.vhd'
volume 64M
for name in dyn mid top; do
	put "$name" "$name.vhd"
done
put dyn short.vhd
f sizes /short.vhd init=$(($(stat -c %s "$d/dyn.vhd") / 1024 * 512))
f file /raw 64K runs=1 fill=zero
# a hole in the room at its end: nothing is lost but stale bytes
f file /sparse.vhd "$(stat -c %s "$d/dyn.vhd")" runs=20 fill=stdin <"$d/dyn.vhd"
f corrupt-run /sparse.vhd hole run=17
guest_tests -t 600 -s "$T/share" -d "$img"

run "$ntfsmap" table --static "$img:/top.vhd"
is "$status" 1 'table --static without --concise'
like "$err" '--concise' '  says what to use'
done_testing
