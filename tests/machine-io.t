#!/bin/bash
# The main promise, on a fragmented raw file and a fixed VHD of a hibernated volume: reads equal ntfscat, writes land
# in the file, and every other byte of the volume stays as it was.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat ntfscluster dmsetup qemu-img mkfs.ext4 e2fsck badblocks

if in_machine; then
	export PATH=$top/build/bin:$PATH
	share=/mnt/share

	# by the pipe
	ok "ntfsmap SOURCE | dmsetup create" bash -c 'ntfsmap /dev/vda:/disk.raw | dmsetup create raw'
	is "$(dmsetup table raw)" "$(cat $share/table.raw)" "the live table is ntfscluster's"
	is "$(read_direct /dev/mapper/raw | sha256sum)" "$(cat $share/hash.raw)" "reads equal ntfscat"
	ok "write all of it" bash -c "dd if=$share/new.raw of=/dev/mapper/raw bs=1M oflag=direct conv=fsync status=none"
	is "$(read_direct /dev/mapper/raw | sha256sum)" "$(sha256sum <$share/new.raw)" "and read it back"
	ok "dmsetup remove" dmsetup remove raw

	# by open
	ok "ntfsmap open" ntfsmap open /dev/vda:/disk.vhd vhd
	is "$(blockdev --getsize64 /dev/mapper/vhd)" "$((16 << 20))" "the device has the disk's size: no footer in it"
	ok "mkfs.ext4" mkfs.ext4 -q /dev/mapper/vhd
	mkdir -p /mnt/disk
	ok "mount" mount /dev/mapper/vhd /mnt/disk
	cp "$top/LICENSE" /mnt/disk/one
	mkdir /mnt/disk/folder
	head -c 3000000 /dev/zero | tr '\0' x >/mnt/disk/folder/two
	ok "umount" umount /mnt/disk
	ok "close" ntfsmap close vhd

	# badblocks writes four patterns over every block and reads each back
	ok "open the file for badblocks" ntfsmap open /dev/vda:/scratch scratch
	ok "badblocks -w finds every sector where it was put" badblocks -w -s -b 4096 -e 1 /dev/mapper/scratch
	ok "close it" ntfsmap close scratch

	# an alternate data stream, read only
	ok "open a stream read-only" ntfsmap open --readonly /dev/vda:/disk.raw:side side
	is "$(read_direct /dev/mapper/side | sha256sum)" "$(cat $share/hash.side)" "the stream reads equal"
	run dd if=/dev/zero of=/dev/mapper/side bs=4096 count=1 oflag=direct
	is "$status" 1 "and cannot be written"
	ok "close the stream" ntfsmap close side

	# a hole and bytes that are not valid read as zeros in a read-only mapping
	modprobe dm-zero
	ok "open a sparse file read-only" ntfsmap open --readonly /dev/vda:/sparse sparse
	is "$(read_direct /dev/mapper/sparse | sha256sum)" "$(cat $share/hash.sparse)" "holes read as zeros"
	ok "close it again" ntfsmap close sparse
	ok "open a file with a short valid data length read-only" ntfsmap open --readonly /dev/vda:/short short
	is "$(read_direct /dev/mapper/short | sha256sum)" "$(cat $share/hash.short)" "what is not valid reads as zeros"
	ok "close that too" ntfsmap close short
	done_testing
	exit
fi

# A volume full of old data: what shows up or goes missing anywhere is seen.
volume 256M
head -c 256M /dev/zero | tr '\0' '\245' >"$T/filler"
dd if="$T/filler" of="$img" bs=1M conv=notrunc status=none
rm "$T/filler"
mkntfs -q -F -Q "$img" >/dev/null 2>&1
qemu-img create -q -f vpc -o subformat=fixed,force_size "$T/disk.vhd" 16M
f file /disk.raw 24M runs=137 gap=3 order=shuffle seed=11 fill=pattern
f file /disk.vhd "$(stat -c %s "$T/disk.vhd")" runs=61 gap=1 order=reverse seed=12 fill=stdin <"$T/disk.vhd"
f file /scratch 12M runs=300 gap=1 order=shuffle seed=13 fill=zero
f file /neighbour 8M runs=1 fill=pattern seed=14
f stream /disk.raw side 1M runs=7 order=shuffle seed=15 fill=pattern
f sparse /sparse 2M
f file /short 2M runs=5 fill=none init=65536
f hiberfil hibr
f logfile 2.0 inuse

mkdir "$T/share"
oracle_table /disk.raw $((24 << 20)) >"$T/raw.table"
oracle_table /disk.vhd "$(stat -c %s "$T/disk.vhd")" >"$T/vhd.table"
oracle_table /scratch $((12 << 20)) >"$T/scratch.table"
# 254:0 is the machine's first disk
awk '{ print $1, $2, "linear 254:0", $3 }' "$T/raw.table" >"$T/share/table.raw"
for name in raw:disk.raw sparse:sparse short:short; do
	ntfscat "$img" "/${name#*:}" | sha256sum >"$T/share/hash.${name%%:*}"
done
ntfscat -n side "$img" /disk.raw | sha256sum >"$T/share/hash.side"
"$forge" - pattern 24M seed=99 >"$T/share/new.raw"

cat "$T"/*.table | sort -nk3 >"$T/all.table"
before=$(hash_outside "$T/all.table" "$img")
cp --sparse=always "$img" "$T/before.img"

guest_tests -t 1200 -d "$img" -s "$T/share"

# From outside, with other people's programs.
is "$(hash_outside "$T/all.table" "$img")" "$before" "every byte outside the three files is unchanged"
is "$(ntfscat "$img" /disk.raw | sha256sum)" "$(sha256sum <"$T/share/new.raw")" "ntfscat reads what was written"
ntfscat "$img" /disk.vhd >"$T/after.vhd"
like "$(qemu-img info -f vpc "$T/after.vhd")" 'virtual size: 16 MiB' "qemu-img still takes the VHD for one"
is "$(tail -c 512 "$T/after.vhd" | sha256sum)" "$(tail -c 512 "$T/disk.vhd" | sha256sum)" "its footer is untouched"
qemu-img convert -f vpc -O raw "$T/after.vhd" "$T/after.raw"
ok "e2fsck finds the file system clean" e2fsck -fn "$T/after.raw"
is "$(debugfs -R 'cat /one' "$T/after.raw" 2>/dev/null | sha256sum)" "$(sha256sum <"$top/LICENSE")" "a file in it is what was written"
is "$(debugfs -R 'cat /folder/two' "$T/after.raw" 2>/dev/null | wc -c)" 3000000 "another one has its length"
ntfscat "$img" /neighbour | cmp -s - <("$forge" - pattern 8M seed=14)
result $? "the neighbour is what it was"
unlike "$(cmp -s "$img" "$T/before.img" && echo same)" same "(and the comparison can see a difference)"
done_testing
