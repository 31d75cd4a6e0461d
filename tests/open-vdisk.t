#!/bin/bash
# open, list, reload, verify and close of dynamic and differencing VHD, with the kernel target.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/images.sh
. "$top/tests/lib/images.sh"
need mkntfs dmsetup perl qemu-img mkfs.ext4 ntfscat ntfs-3g strace
makevhd=$top/tests/lib/makevhd.pl
d=/mnt/share

dynamic() {
	exits 0 'open a dynamic VHD' ntfsmap open /dev/vda:/dyn.vhd d
	like "$err" 'have a place in the file, and there is room for 1\.0 MiB more' '  says how much room is left'
	device_reads d dyn '  its contents are right'
	is "$(dmsetup table d | awk '{ print $3, $4 }')" 'vdisk vhd' '  by one line of the target'
	like "$(ntfsmap list)" 'd +/dev/vda:/dyn.vhd +vhd +rw +4.0 MiB +1.0 MiB +0' '  list, with the room'
	like "$(ntfsmap status d)" 'room: +1.0 MiB' '  status too'
	is "$(ntfsmap status --json d | json '{room}')" 1048576 '  in bytes'
	is "$(ntfsmap status --json d | json '{mode}')" rw '  status: mode'
	like "$(ntfsmap status d)" 'extents: +3' '  status: extents'
	exits 0 '  verify' ntfsmap verify d
	exits 0 '  reload' ntfsmap reload d
	like "$err" 'nothing has changed' '  has nothing to do'
	exits 2 '  a second writer is refused' ntfsmap open /dev/vda:/dyn.vhd e
	like "$err" '/dev/mapper/d already maps' '  and told who was first'
	exits 0 '  a reader is not' ntfsmap open -q --readonly /dev/vda:/dyn.vhd e
	is "$(blockdev --getro /dev/mapper/e)$(ntfsmap status --json e | json '{mode}')" 1ro '  it is read-only'
	is "$(ntfsmap status --json e | json '{room}')" null '  and has no room to tell'
	ntfsmap close e
	exits 5 '  the name is taken' ntfsmap open /dev/vda:/dyn.vhd d
	exits 0 '  close' ntfsmap close d
	is "$(devices)" '' '  nothing is left'
}

writes() {
	ntfsmap open -q /dev/vda:/new.vhd d >/dev/null
	ok 'mkfs.ext4 on an empty one' mkfs.ext4 -q /dev/mapper/d
	mount /dev/mapper/d /mnt/m
	cp "$top/LICENSE" /mnt/m/one
	umount /mnt/m
	is "$(ntfsmap status --json d | json '{room} > 0')" 1 '  room is left'
	dd if=/dev/urandom of=/dev/mapper/d bs=1M oflag=direct status=none 2>/dev/null
	is "$(ntfsmap status --json d | json '{mode}')" out_of_space 'full: the mode says so'
	like "$(ntfsmap list)" ' out_of_space ' '  list too'
	is "$(ntfsmap status --json d | json '{room}')" 0 '  no room is left'
	ntfsmap close d
	exits 0 'open it again' ntfsmap open /dev/vda:/new.vhd d
	like "$err" 'there is no room for more.*ntfsmap reserve' '  says that it is full'
	ntfsmap close d
	ntfsmap open -q /dev/vda:/fs.vhd d >/dev/null
	mkfs.ext4 -q /dev/mapper/d
	mount /dev/mapper/d /mnt/m
	cp "$top/LICENSE" /mnt/m/one
	umount /mnt/m
	ntfsmap close d
}

chain() {
	exits 0 'open a chain' ntfsmap open /dev/vda:/top.vhd d
	device_reads d top '  its contents are right'
	is "$(devices)" 'd d-base1 d-base2' '  with a device for each parent'
	is "$(blockdev --getro /dev/mapper/d /dev/mapper/d-base1 /dev/mapper/d-base2 | xargs)" '0 1 1' '  read-only'
	device_reads d-base1 mid '  which shows what it holds'
	like "$(ntfsmap list)" 'd-base2 +/dev/vda:/dyn.vhd +vhd +ro .* 1  parent, used by /dev/mapper/d-base1' '  list'
	is "$(ntfsmap status --json d-base1 | json '{kind}')" base '  status: kind'
	exits 0 '  verify' ntfsmap verify d
	exits 0 '  verify of all' ntfsmap verify
	is "$(wc -l <<<"$out")" 3 '  has the parents too'
	exits 0 '  reload' ntfsmap reload d
	exits 5 '  a base in use stays' ntfsmap close d-base1
	exits 2 '  a parent cannot be opened for writing' ntfsmap open /dev/vda:/mid.vhd e
	like "$err" 'the parent of an open image' '  says why'
	exits 2 '  nor the first' ntfsmap open /dev/vda:/dyn.vhd e
	exits 0 'open a second child' ntfsmap open /dev/vda:/other.vhd e
	like "$err" 'DYN.vhd is open already as d-base2, which is shared' '  shares the base'
	device_reads e other '  its contents are right'
	is "$(devices)" 'd d-base1 d-base2 e' '  no new base was made'
	exits 0 'close the first child' ntfsmap close d
	is "$(devices)" 'd-base2 e' '  the shared base stays'
	device_reads e other '  and serves'
	exits 0 'close the second' ntfsmap close e
	is "$(devices)" '' '  it goes with the last child'
	ntfsmap open -q /dev/vda:/top.vhd d >/dev/null
	ntfsmap open -q /dev/vda:/other.vhd e >/dev/null
	ntfsmap close d
	ntfsmap open -q /dev/vda:/mid.vhd r --readonly >/dev/null
	dmsetup rename r d-base1
	exits 0 'a name of a base that is taken' ntfsmap open -q /dev/vda:/top.vhd d
	device_reads d top '  its contents are right'
	is "$(devices)" 'd d-base1 d-base2 d-base3 e' '  the next one that is free'
	ntfsmap close d d-base1 e
	is "$(devices)" '' '  all of them go'
	exits 0 'open --readonly' ntfsmap open -q --readonly /dev/vda:/top.vhd d
	device_reads d top '  its contents are right'
	is "$(blockdev --getro /dev/mapper/d)" 1 '  is read-only'
	ntfsmap close d
}

# Parent and child hold the same file system: udev's links must lead to the child.
duplicates() {
	local uuid=11111111-2222-3333-4444-555555555555 bytes
	ntfsmap open -q /dev/vda:/labchild.vhd d >/dev/null
	udevadm settle
	is "$(readlink -f /dev/disk/by-uuid/$uuid)" "$(readlink -f /dev/mapper/d)" "a file system's UUID leads to the child"
	is "$(udevadm info -q symlink /dev/mapper/d-base1 | grep -c "$uuid")" 0 '  and not to its parent'
	bytes=$(($(stat -c %s "$d/lab.vhd") + 512))
	"$top/build/tests/ntfsforge" /dev/vda slack /lab.vhd 100
	"$top/build/tests/ntfsforge" /dev/vda sizes /lab.vhd data=$bytes init=$bytes
	exits 0 'reload of the parent' ntfsmap reload d
	udevadm settle
	is "$(udevadm info -q symlink /dev/mapper/d-base1 | grep -c "$uuid")" 0 '  it stays hidden'
	is "$(readlink -f /dev/disk/by-uuid/$uuid)" "$(readlink -f /dev/mapper/d)" '  and the UUID leads to the child'
	ntfsmap close d
}

in_use() {
	ntfsmap open -q /dev/vda:/top.vhd d >/dev/null
	exec 5</dev/mapper/d
	exits 5 'close while in use' ntfsmap close d
	exits 0 'close --deferred' ntfsmap close --deferred d
	is "$(devices)" 'd d-base1 d-base2' '  all are there while it is used'
	exits 0 '  another child meanwhile' ntfsmap open /dev/vda:/other.vhd e
	unlike "$err" shared '  shares no base that is going'
	exec 5<&-
	for _ in $(seq 50); do [ "$(devices)" != 'e e-base1' ] || break; sleep 0.1; done
	device_reads e other '  and keeps its own'
	ntfsmap close e
	for _ in $(seq 50); do [ -n "$(devices)" ] || break; sleep 0.1; done
	is "$(devices)" '' '  and gone afterwards, the bases too'
	ntfsmap open -q /dev/vda:/top.vhd d >/dev/null
	dmsetup remove d
	is "$(devices)" 'd-base1 d-base2' 'a child that dmsetup removed'
	exits 0 '  the next command takes its parents away' ntfsmap open /dev/vda:/raw r
	is "$(devices)" r '  all of them'
	ntfsmap close r
	ntfsmap open -q /dev/vda:/mid.vhd w >/dev/null
	exits 5 'a parent that is open for writing' ntfsmap open /dev/vda:/top.vhd d
	like "$err" '/dev/mapper/w maps it read-write' '  says by whom'
	ntfsmap close w
	ntfsmap open -q --readonly /dev/vda:/mid.vhd w >/dev/null
	exits 0 'a parent that is open for reading' ntfsmap open -q /dev/vda:/top.vhd d
	ntfsmap close d w
	is "$(devices)" '' 'nothing is left'
}

named() {
	exits 4 'a parent that is not found' ntfsmap open /dev/vda:/orphan.vhd d
	is "$(devices)" '' '  makes nothing'
	exits 0 '  --parent' ntfsmap open -q --parent /dev/vda:/dyn.vhd /dev/vda:/orphan.vhd d
	device_reads d orphan '  its contents are right'
	exits 0 '  verify knows the parent by the live table' ntfsmap verify d
	exits 0 '  reload too' ntfsmap reload d
	exits 0 '  close' ntfsmap close d
	exits 0 'table --concise' bash -c 'set -o pipefail; ntfsmap table -q --concise d /dev/vda:/top.vhd | dmsetup create --concise'
	device_reads d top '  makes the same'
	exits 0 '  verify' ntfsmap verify d
	exits 0 '  close' ntfsmap close d
	is "$(devices)" '' '  with its parents'
	exits 0 'the pipe' bash -c 'set -o pipefail; ntfsmap -q /dev/vda:/dyn.vhd | dmsetup create d'
	device_reads d dyn '  makes the same'
	exits 2 '  and is seen' ntfsmap open /dev/vda:/dyn.vhd e
	dmsetup remove d
	exits 0 'a chain on a fixed VHD' ntfsmap open -q /dev/vda:/onfixed.vhd d
	is "$(dmsetup table d-base1 | awk '{ print $3 }' | sort -u)" linear '  whose base is linear'
	device_reads d onfixed '  its contents are right'
	ntfsmap close d
}

changed() {
	local forge=$top/build/tests/ntfsforge
	ntfsmap open -q /dev/vda:/top.vhd d >/dev/null
	"$forge" /dev/vda slack /mid.vhd 100
	exits 0 'more clusters for a parent: verify' ntfsmap verify d
	"$forge" /dev/vda sizes /mid.vhd data=$(($(stat -c %s "$d/mid.vhd") + 512)) init=$(($(stat -c %s "$d/mid.vhd") + 512))
	exits 6 'a parent whose file has grown: verify' ntfsmap verify d
	exits 0 '  reload' ntfsmap reload d
	exits 0 '  verify is content' ntfsmap verify d
	device_reads d top '  the contents are the same'
	"$forge" /dev/vda remove /mid.vhd
	"$forge" /dev/vda file /mid.vhd "$(stat -c %s "$d/mid.vhd")" runs=2 fill=stdin <"$d/mid.vhd"
	exits 6 'a parent that was replaced: verify' ntfsmap verify d
	ntfsmap close d
	ntfsmap open -q /dev/vda:/grow.vhd d >/dev/null
	"$forge" /dev/vda slack /grow.vhd 400
	"$forge" /dev/vda sizes /grow.vhd data=$(($(stat -c %s "$d/dyn.vhd") + 512)) init=$(($(stat -c %s "$d/dyn.vhd") + 512))
	exits 6 'an image whose file has grown: verify' ntfsmap verify d
	like "$err" 'ntfsmap reload. follows' '  says what to do'
	exits 0 '  reload' ntfsmap reload d
	exits 0 '  verify is content' ntfsmap verify d
	device_reads d dyn '  the contents are the same'
	ntfsmap close d
}

plain_files() {
	cp "$d"/{dyn,mid,top}.vhd /tmp
	exits 0 'a chain of plain files' ntfsmap open -q /tmp/top.vhd d
	device_reads d top '  its contents are right'
	exits 0 '  verify' ntfsmap verify d
	exits 5 '  reserve refuses while it is open' ntfsmap reserve /tmp/top.vhd 1M
	exits 0 '  reload' ntfsmap reload d
	exits 0 '  close' ntfsmap close d
	is "$(losetup -n -l | grep -c /tmp/)" 0 '  no loop device is left'
	losetup /dev/loop20 /tmp/top.vhd
	exits 5 'a file that a loop device has' ntfsmap open /tmp/top.vhd d
	like "$err" '/dev/loop20 has the file' '  says which'
	exits 0 '  may be read' ntfsmap open -q --readonly /tmp/top.vhd d
	ntfsmap close d
	losetup -d /dev/loop20
}

# Room that was made on the volume while it was mounted is room on the sleeping one.
reserved() {
	mkdir -p /mnt/w
	ntfs-3g -o ro /dev/vda /mnt/w
	exits 2 'reserve on a volume that is mounted read-only' ntfsmap reserve /mnt/w/mid.vhd 1M
	exits 0 'open a chain on it' ntfsmap open /mnt/w/top.vhd d
	like "$err" 'going through a loop device' '  goes through a loop device'
	like "$err" 'nobody must mount the volume read-write' '  and says what that means'
	is "$(losetup -n -l | grep -c /dev/vda)" 1 '  one for all of them'
	device_reads d top '  its contents are right'
	umount /mnt/w
	ntfs-3g /dev/vda /mnt/w
	exits 2 '  reserve on the volume, mounted read-write meanwhile' ntfsmap reserve /mnt/w/tight.vhd all
	like "$err" '/dev/mapper/d[^ ]* maps clusters of that volume' '  says who uses it'
	umount /mnt/w
	ntfs-3g -o ro /dev/vda /mnt/w
	exits 0 '  close' ntfsmap close d
	is "$(losetup -n -l | grep -c /dev/vda)" 0 '  no loop device is left'
	umount /mnt/w
	ntfs-3g /dev/vda /mnt/w
	exits 0 'reserve on a volume that is mounted read-write' ntfsmap reserve /mnt/w/tight.vhd all
	umount /mnt/w
	run ntfsmap check /dev/vda:/tight.vhd
	is "$status" 0 '  its clusters can be mapped' || diag "$out"
	like "$out" 'ok +valid-data ' '  all bytes are valid'
	ntfsmap open -q /dev/vda:/tight.vhd d >/dev/null
	device_reads d tight '  the contents are the same'
	head -c 4M /dev/urandom >/tmp/noise
	ok '  all of it can be written' dd if=/tmp/noise of=/dev/mapper/d bs=256k oflag=direct status=none
	ntfsmap close d
	cmp -s /tmp/noise <(ntfsmap cat -q /dev/vda:/tight.vhd)
	result $? '  and is there'
}

# An NTFS volume inside an image: what lies on it is not taken for the image's own clusters.
nested() {
	ntfsmap open -q /dev/vda:/fs.vhd d >/dev/null
	dd if="$d/inner.img" of=/dev/mapper/d bs=1M oflag=direct conv=notrunc status=none
	exits 0 'a file on a volume in a dynamic VHD' ntfsmap open -q /dev/mapper/d:/inner r
	like "$(dmsetup table r)" "linear $(dmsetup info -c --noheadings -o major,minor d) " '  is mapped on the image'
	exits 2 '  once for writing' ntfsmap open -q /dev/mapper/d:/inner s
	exits 0 '  another file is free' ntfsmap open -q /dev/mapper/d:/second s
	exits 2 '  the image itself is taken' ntfsmap open -q /dev/vda:/fs.vhd e
	exits 5 '  and in use' ntfsmap close d
	ntfsmap close r s
	ntfsmap close d
}

# /dev/vdb is a copy of /dev/vda, as dd makes one, with another parent in the same place.
copied() {
	ntfsmap open -q /dev/vdb:/dyn.vhd e >/dev/null
	dd if=/dev/urandom of=/dev/mapper/e bs=512K oflag=direct status=none 2>/dev/null
	ntfsmap close e
	ntfsmap cat -q /dev/vdb:/other.vhd >/tmp/copied.raw
	ok 'a copy of the disk, with another parent' test "$(hash_of /tmp/copied.raw)" != "$(hash_of "$d/other.raw")"
	exits 0 '  open a chain' ntfsmap open -q /dev/vda:/other.vhd d
	exits 0 'and the same files of a copy of the disk' ntfsmap open /dev/vdb:/other.vhd e
	unlike "$err" shared '  which shares no parent'
	device_reads d other '  the first reads its own parent'
	cmp -s /tmp/copied.raw <(read_direct /dev/mapper/e)
	result $? '  and the copy its own'
	exits 0 '  verify' ntfsmap verify e
	is "$(devices)" 'd d-base1 e e-base1' '  each has its base'
	dmsetup table e | sed "s/ parent [0-9:]* / parent $(dmsetup info -c --noheadings -o major,minor d-base1) /" >/tmp/table
	dmsetup load e </tmp/table && dmsetup resume e
	exits 6 'a parent on the copy: verify' ntfsmap verify e
	like "$err" 'a copy of the volume on /dev/vdb' '  says so'
	ntfsmap close d e
	exits 0 'open it through a loop device' losetup -r /dev/loop20 /dev/vda
	ntfsmap open -q /dev/vda:/other.vhd d >/dev/null
	exits 0 '  as the parent of another' ntfsmap open --readonly /dev/loop20:/mid.vhd e
	like "$err" 'dyn.vhd is open already as d-base1' '  shares the base: it is the same disk'
	ntfsmap close d e
	losetup -d /dev/loop20
}

# Killed at each ioctl: all of the chain or nothing, after the next command at the latest.
killed() {
	local n status bad=0 runs=0
	for n in $(seq 1 60); do
		{ strace -qq -o /dev/null -e trace=ioctl -e inject=ioctl:signal=KILL:when="$n" ntfsmap -q open /dev/vda:/top.vhd d; } >/dev/null 2>&1
		status=$?
		while pgrep -x ntfsmap >/dev/null; do :; done
		case $(devices) in
		'' | 'd d-base1 d-base2') ;;
		*) bad=$((bad + 1)) && diag "killed at ioctl $n: $(devices)" ;;
		esac
		runs=$((runs + 1))
		ntfsmap close -q d 2>/dev/null
		[ "$status" = 137 ] || break
	done
	is "$bad" 0 "open killed at each of its ioctls ($runs runs): the whole chain or nothing"
	is "$(devices)" '' '  nothing is left'
	# between the devices of a chain, where even the process that makes them is killed
	bad=0
	for n in $(seq 3 4 40); do
		{ strace -f -qq -o /dev/null -e trace=ioctl -e inject=ioctl:signal=KILL:when="$n" ntfsmap -q open /dev/vda:/top.vhd d; } >/dev/null 2>&1
		ntfsmap close -q d 2>/dev/null
		ntfsmap open -q /dev/vda:/raw r >/dev/null 2>&1 && ntfsmap close r
		[ -z "$(devices)" ] || { bad=$((bad + 1)) && diag "killed at ioctl $n of all: $(devices)"; dmsetup remove_all; }
	done
	is "$bad" 0 'all of it killed: the next command takes away what is left'
}

if in_machine; then
	ok 'the module loads' insmod "$TEST_MODULE"
	mkdir -p /mnt/m
	modprobe -a loop dm-zero
	dynamic
	if [ ! -e /run/udev/control ]; then
		chain
		done_testing
		exit
	fi
	nested
	writes
	chain
	duplicates
	in_use
	copied
	named
	plain_files
	killed
	reserved
	changed
	done_testing
	exit
fi

TEST_MODULE=$("$top/tests/vm/module.sh") || {
	[ $? != 77 ] || skip_all "no headers for the machine's kernel"
	bail "the module does not build"
}
export TEST_MODULE
mkdir "$T/share"
d=$T/share
vhd() {
	local name=$1
	shift
	"$makevhd" "$d/$name.vhd" "$d/$name.raw" size=4194304 block=524288 layout=plain creator=win locators=w2ru "$@" \
		>"$T/facts" 2>&1 || bail "makevhd: $(<"$T/facts")"
}
of() {
	echo "parent=$d/$1.vhd parent_model=$d/$1.raw bitmaps=random"
}
put() {
	f file "/$2" "$(stat -c %s "$d/$1.vhd")" runs=3 order=shuffle seed=5 fill=stdin <"$d/$1.vhd"
}
# shellcheck disable=SC2046 # words
{
	vhd dyn seed=1 allocate=40 room=1100000
	vhd mid seed=2 allocate=60 $(of dyn) 'parent_path=.\dyn.vhd'
	vhd top seed=3 allocate=40 room=600000 $(of mid) 'parent_path=.\mid.vhd'
	vhd other seed=4 allocate=40 $(of dyn) 'parent_path=.\DYN.vhd'
	vhd orphan seed=5 allocate=40 $(of dyn) 'parent_path=.\nowhere.vhd'
	qemu-img create -q -f vpc -o subformat=fixed,force_size "$d/fixed.vhd" 4M
	"$top/tests/lib/mkvhd.pl" patch "$d/fixed.vhd" creator=win
	head -c 4M "$d/fixed.vhd" >"$d/fixed.raw"
	vhd onfixed seed=6 allocate=90 $(of fixed) 'parent_path=.\fixed.vhd'
}
truncate -s 8M "$d/lab.raw"
mkfs.ext4 -q -O ^has_journal -U 11111111-2222-3333-4444-555555555555 "$d/lab.raw"
qemu-img convert -f raw -O vpc -o force_size "$d/lab.raw" "$d/lab.vhd"
# shellcheck disable=SC2046 # words
vhd labchild seed=8 size=8388608 allocate=0 $(of lab) 'parent_path=.\lab.vhd'
vhd tight seed=7 allocate=40
volume 16M
f file /inner 64K runs=3
f file /second 64K runs=3
cp "$img" "$d/inner.img"
qemu-img create -q -f vpc -o force_size "$T/new.vhd" 64M
cp "$T/new.vhd" "$T/fs.vhd"
"$ntfsmap" reserve -q "$T/new.vhd" 20M 2>/dev/null
"$ntfsmap" reserve -q "$T/fs.vhd" all 2>/dev/null
cp "$T/new.vhd" "$T/fs.vhd" "$d"
volume 256M
for name in dyn mid top other orphan fixed onfixed new fs; do
	put "$name" "$name.vhd"
done
put dyn grow.vhd
put tight tight.vhd
put lab lab.vhd
f file /labchild.vhd "$(stat -c %s "$d/labchild.vhd")" runs=1 fill=stdin <"$d/labchild.vhd"
f file /raw 64K runs=1 fill=zero
cp --sparse=always "$img" "$T/copy.img"
guest_tests -t 600 -n -s "$T/share" -d "$img"
guest_tests -t 900 -s "$T/share" -d "$img" -d "$T/copy.img"

ntfscat "$img" /fs.vhd >"$T/after.vhd"
ok 'qemu-img takes what was written' qemu-img convert -f vpc -O raw "$T/after.vhd" "$T/after.raw"
ok 'e2fsck finds the file system clean' e2fsck -fn "$T/after.raw"
is "$(debugfs -R 'cat /one' "$T/after.raw" 2>/dev/null | hash_of /dev/stdin)" "$(hash_of "$top/LICENSE")" 'a file in it is what was copied'
for name in dyn top other orphan; do
	ntfscat "$img" "/$name.vhd" | cmp -s - "$d/$name.vhd"
	result $? "$name.vhd, which was only read, has not changed"
done
done_testing
