#!/bin/bash
# Partitions of an open image: the same ones that the kernel finds in a disk with that table, made, closed and reloaded
# with their disk; tables that lie.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup sfdisk kpartx losetup blkid qemu-img mkfs.ext4 perl

json() {
	perl -MJSON::PP -e 'local $/; my $j = decode_json(<STDIN>); print eval "\$j->$ARGV[0]" // "null"' "$1"
}

# ours NAME: number, start and length of its partitions, from the tables of the devices and their UUIDs
ours() {
	local uuid name number
	uuid=$(dmsetup info -c --noheadings -o uuid "$1")
	dmsetup info -c --noheadings --separator ' ' -o uuid,name | grep "^part[0-9]*-$uuid " |
	while read -r number name; do
		number=${number%%-*}
		dmsetup table "$name" | awk -v n="${number#part}" '{ print n, $5, $2 }'
	done | sort -n
}

# kernels NAME [BLOCK]: what the kernel makes of the table
kernels() {
	local loop dir
	loop=$(losetup --find --show --partscan --read-only --sector-size "${2:-512}" "/dev/mapper/$1")
	for dir in "/sys/block/${loop#/dev/}/${loop#/dev/}"p*; do
		[ ! -e "$dir" ] || echo "$(cat "$dir/partition") $(cat "$dir/start") $(cat "$dir/size")"
	done | sort -n
	losetup --detach "$loop"
	udevadm settle
}

# kpartxs NAME: number and length of what kpartx would make; it shows the logical ones from their container on
kpartxs() {
	kpartx -l "/dev/mapper/$1" | sed -n "s|^$1\\([0-9]*\\) : 0 \\([0-9]*\\) .*|\\1 \\2|p" | sort -n
}

devices() {
	dmsetup info -c --noheadings -o name | sed '/^No devices found/d' | LC_ALL=C sort | xargs
}

all_gone() {
	while [ "$(dmsetup ls)" != 'No devices found' ]; do
		dmsetup info -c --noheadings -o name,attr,open >/dev/null
	done
}

as_the_kernel_does() {
	local name part number hash uuid
	for name in gpt mbr; do
		exits 0 "$name: open --partitions" ntfsmap open --partitions "/dev/vda:/$name" "$name"
		is "$out" "/dev/mapper/$name" "  prints the node of the disk"
		is "$(ours "$name")" "$(kernels "$name")" "  the partitions are those of the kernel"
		is "$(ours "$name" | cut -d' ' -f1,3)" "$(kpartxs "$name")" "  and of kpartx"
		while read -r number hash uuid; do
			part=/dev/mapper/$name-part$number
			is "$(sha256sum <"$part")" "$hash  -" "  $part has the bytes of the file"
			is "$(readlink -f "/dev/disk/by-partuuid/$uuid")" "$(readlink -f "$part")" \
				"    udev links it by its PARTUUID"
		done <"/mnt/share/$name.parts"
		exits 0 "$name: close" ntfsmap close "$name"
		all_gone
	done
	exits 0 "read-only" ntfsmap open -q --readonly --partitions /dev/vda:/gpt gpt
	is "$(blockdev --getro /dev/mapper/gpt /dev/mapper/gpt-part{1,3,128} | xargs)" '1 1 1 1' "  the partitions too"
	ntfsmap close gpt
	exits 0 "a fixed VHD" ntfsmap open -q --partitions /dev/vda:/fixed.vhd vhd
	is "$(ours vhd)" "$(kernels vhd)" "  has its partitions"
	ntfsmap close vhd
	exits 0 "a dynamic VHD, with --static" ntfsmap open -q --static --partitions /dev/vda:/dynamic.vhd vhd
	is "$(ours vhd)" "$(kernels vhd)" "  has its partitions"
	is "$(blockdev --getro /dev/mapper/vhd-part1)" 1 "  read-only"
	like "$(dmsetup table vhd | head -n 1)" '^0 [0-9]+ striped 1 8 254:0 ' "  its table begins with a stripe"
	ntfsmap close vhd
	all_gone
}

in_use() {
	local before
	ntfsmap open -q --partitions /dev/vda:/gpt gpt >/dev/null
	before=$(dmsetup table | sort)
	mkfs.ext4 -q -F /dev/mapper/gpt-part1
	mkdir -p /mnt/m
	mount /dev/mapper/gpt-part1 /mnt/m
	exits 5 "close with a mounted partition" ntfsmap close gpt
	like "$err" 'gpt-part1 is mounted on /mnt/m' "  says which, and where"
	is "$(dmsetup table | sort)" "$before" "  and leaves all devices"
	is "$(ntfsmap list --json | json '[0]{users}')" 1 "list: the mount counts as a user of the disk, the partitions do not"
	is "$(ntfsmap list --json | json '[1]')" null "  nor are they devices of their own"
	is "$(ntfsmap status --json gpt | json '{partitions}[1]{name}')" gpt-part3 "status: the partitions"
	is "$(ntfsmap status --json gpt | json '{partitions}[0]{used_by}')" 'mounted on /mnt/m' "  their users"
	like "$(ntfsmap status gpt)" 'part 3 +/dev/mapper/gpt-part3, 9\.0 MiB at byte' "  for people"
	exits 0 "verify" ntfsmap verify gpt
	exits 0 "verify all" ntfsmap verify
	is "$(wc -l <<<"$out")" 1 "  is about the disk"
	exits 2 "a second open of the same file" ntfsmap open -q /dev/vda:/gpt other
	like "$err" '/dev/mapper/gpt([^-]|$)' "  names the disk, not a partition"
	exits 2 "close of a partition" ntfsmap close gpt-part3
	exits 0 "reload while it is in use" ntfsmap reload gpt
	is "$(dmsetup table | sort)" "$before" "  changes nothing"
	umount /mnt/m
	exec 5</dev/mapper/gpt-part1
	exits 5 "close while somebody has a partition open" ntfsmap close gpt
	is "$(dmsetup table | sort)" "$before" "  leaves all, those too that could go"
	exec 5<&- 5</dev/mapper/gpt
	exits 5 "close while somebody has the disk open" ntfsmap close gpt
	is "$(dmsetup table | sort)" "$before" "  leaves the partitions"
	exec 5<&-
	mount /dev/mapper/gpt-part1 /mnt/m
	exits 0 "close --deferred with a mounted partition" ntfsmap close --deferred gpt
	is "$(devices)" 'gpt gpt-part1' "  takes away what is free"
	ok "  the mount goes on" touch /mnt/m/file
	umount /mnt/m
	all_gone
	ok "  and its end is the end of all" test ! -e /dev/mapper/gpt
}

all_or_nothing() {
	dmsetup create gpt-part3 --table '0 8 zero'
	exits 5 "the name of a partition is taken" ntfsmap open -q --partitions /dev/vda:/gpt gpt
	is "$(devices)" gpt-part3 "  nothing is left"
	dmsetup remove gpt-part3
	for name in fs empty; do
		exits 0 "no partition table: $name" ntfsmap open --partitions "/dev/vda:/$name" none
		like "$err" 'none: no partition table' "  a note"
		is "$(devices)" none "  no partition"
		unlike "$(dmsetup table none)" striped "  no stripe"
		ntfsmap close none
	done
	exits 0 "open without --partitions" ntfsmap open -q /dev/vda:/gpt gpt
	is "$(devices)" gpt "  makes none"
	kpartx -a /dev/mapper/gpt
	udevadm settle
	is "$(ntfsmap status --json gpt | json '{partitions}[2]{number}')" 128 "those of kpartx are seen"
	exits 0 "close takes them away too" ntfsmap close gpt
	all_gone
	exits 0 "open --test makes nothing" ntfsmap open -q --test --partitions /dev/vda:/gpt gpt
	is "$(devices)" '' "  at all"
	exits 1 "--partitions is for open only" ntfsmap table --partitions /dev/vda:/gpt
}

# The kernel cuts a partition that ends past the disk; here it is left out.
hostile() {
	exits 0 "a partition past the end" ntfsmap open -q --partitions /dev/vda:/past past
	like "$err" 'partition 2 is left out: it has sectors 20480 to 102399 of a disk of 65536' "  is told"
	like "$err" 'partition 3 is left out: it has sectors 90000 to 90999' "  and one behind it"
	is "$(ours past)" '1 2048 16384' "  and left out; the others are there"
	ntfsmap close past
	exits 0 "partitions that overlap" ntfsmap open -q --partitions /dev/vda:/overlap overlap
	like "$err" 'partitions 1 and 2 overlap' "  are told"
	is "$(ours overlap)" "$(kernels overlap)" "  and made, as the kernel does"
	ntfsmap close overlap
	exits 0 "a logical partition that is its own successor" ntfsmap open -q --partitions /dev/vda:/self chain
	is "$(ours chain | xargs)" '1 2048 4096 2 8192 2 5 10240 2048' "  is one"
	ntfsmap close chain
	exits 0 "two that name each other" ntfsmap open -q --partitions /dev/vda:/circle chain
	is "$(ours chain | xargs)" '1 2048 4096 2 8192 2 5 10240 2048 6 18432 2048' "  are two"
	ntfsmap close chain
	all_gone
}

# scripted NAME: sfdisk's script on standard input is the table of the open disk
scripted() {
	sfdisk -q --no-reread --no-tell-kernel --wipe never "/dev/mapper/$1" || bail "sfdisk failed"
	udevadm settle
}

reloaded() {
	local before
	ntfsmap open -q --partitions /dev/vda:/mbr mbr >/dev/null
	printf 'label: dos\nstart=2048, size=20480\nstart=32768, size=8192\n' | scripted mbr
	exits 0 "reload after the table was changed" ntfsmap reload mbr
	unlike "$err" "nothing has changed" "  and nobody says that nothing was"
	is "$(ours mbr)" "$(printf '1 2048 20480\n2 32768 8192')" "  the partitions follow"
	mkfs.ext4 -q -F /dev/mapper/mbr-part2
	mount /dev/mapper/mbr-part2 /mnt/m
	printf 'label: dos\nstart=2048, size=4096\nstart=32768, size=4096\n' | scripted mbr
	exits 5 "one that is in use would become shorter" ntfsmap reload mbr
	like "$err" 'mbr-part2 is in use, and the partition table says now that it is shorter' "  is told"
	is "$(ours mbr)" "$(printf '1 2048 20480\n2 32768 8192')" "  all stay as they are"
	printf 'label: dos\nstart=2048, size=4096\nstart=32768, size=12288\nstart=53248, size=2048\n' | scripted mbr
	exits 0 "one that is in use becomes longer" ntfsmap reload mbr
	is "$(ours mbr)" "$(kernels mbr)" "  all follow"
	umount /mnt/m
	before=$(ours mbr)
	printf 'label: dos\nstart=2048, size=8192\nstart=53248, size=2048\nstart=57344, size=2048\nstart=61440, size=2048\n' |
		scripted mbr
	dmsetup create mbr-part4 --table '0 8 zero'
	exits 5 "the name of a new one is taken" ntfsmap reload mbr
	like "$err" 'partition 4 is new, and /dev/mapper/mbr-part4 exists already' "  is told"
	is "$(ours mbr)" "$before" "  and nothing has changed"
	dmsetup remove mbr-part4
	exits 0 "  until it is free" ntfsmap reload mbr
	is "$(ours mbr)" "$(kernels mbr)" "  all follow"
	ntfsmap close mbr
	ntfsmap open -q /dev/vda:/mbr mbr >/dev/null
	exits 0 "reload without partitions" ntfsmap reload mbr
	is "$(devices)" mbr "  makes none"
	ntfsmap close mbr
}

# A volume in a partition of an image that is open: it is nobody's but that volume's.
nested() {
	ntfsmap open -q --partitions /dev/vda:/gpt gpt >/dev/null
	mkntfs -q -F -Q /dev/mapper/gpt-part1 >/dev/null 2>&1
	"$forge" /dev/mapper/gpt-part1 file /inner 1M runs=3 || bail "forge failed"
	exits 0 "an image on a volume in a partition" ntfsmap open -q /dev/mapper/gpt-part1:/inner inner
	like "$(ntfsmap list)" 'inner +/dev/mapper/gpt-part1:/inner ' "  is listed"
	exits 5 "  and keeps its disk open" ntfsmap close gpt
	exits 0 "  close" ntfsmap close inner gpt
	all_gone
}

# Blocks of 512 and 4096 bytes of the disk and of the table, in all four ways.
blocks() {
	local disk loop
	for disk in vda vdb; do
		exits 0 "a GPT of 4096-byte sectors on /dev/$disk" ntfsmap open -q "/dev/$disk:/room" room
		loop=$(losetup --find --show --sector-size 4096 /dev/mapper/room)
		printf 'label: gpt\nsize=1024\nsize=2048\n' | sfdisk -q --wipe never --no-reread --no-tell-kernel "$loop"
		losetup --detach "$loop"
		udevadm settle
		ntfsmap close room
		ntfsmap open -q --partitions "/dev/$disk:/room" room >/dev/null
		is "$(ours room)" "$(kernels room 4096)" "  has its partitions"
		is "$(ours room | wc -l)" 2 "  both"
		like "$(dmsetup table room | head -n 1)" '^0 [0-9]+ striped 1 8 ' "  and begins with a stripe"
		ntfsmap close room
	done
	exits 0 "a GPT of 512-byte sectors on a disk with 4096" ntfsmap open -q --partitions /dev/vdb:/gpt gpt
	is "$(ours gpt)" "$(cat /mnt/share/gpt.table)" "  has its partitions"
	ntfsmap close gpt
	exits 0 "one that begins inside a block" ntfsmap open -q --partitions /dev/vdb:/odd odd
	like "$err" 'partition 2 is left out: its 2048 sectors from 10241 on are not whole blocks of 4096' "  is told"
	is "$(ours odd)" '1 2048 8192' "  and left out"
	ntfsmap close odd
	all_gone
}

# GRUB looks at the first line only, however short.
small_pieces() {
	exits 0 "pieces that are shorter than a chunk" ntfsmap open -q --partitions /dev/vdc:/gpt gpt
	like "$(dmsetup table gpt | head -n 2 | xargs)" '^0 [1-7] striped 1 [1-7] 254:32 [0-9]+ [1-7] ' "  the first is a stripe"
	is "$(dmsetup table gpt | grep -c striped)" 1 "  and no other"
	is "$(read_direct /dev/mapper/gpt | sha256sum)" "$(sha256sum </mnt/share/small)" "  the contents are right"
	ok "  and can be written" dd if=/mnt/share/small of=/dev/mapper/gpt oflag=direct bs=64K status=none
	is "$(read_direct /dev/mapper/gpt | sha256sum)" "$(sha256sum </mnt/share/small)" "  to the right place"
	is "$(ours gpt)" "$(kernels gpt)" "  with the partitions"
	exits 0 "  verify" ntfsmap verify gpt
	ntfsmap close gpt
}

if in_machine; then
	as_the_kernel_does
	in_use
	all_or_nothing
	hostile
	reloaded
	nested
	blocks
	small_pieces
	done_testing
	exit
fi

# table NAME SIZE: a disk in $T with sfdisk's script on standard input, and bytes of its own between
table() {
	"$forge" - pattern "$2" seed="${#1}" >"$T/$1" || bail "ntfsforge failed"
	dd if=/dev/zero of="$T/$1" bs=1M count=1 conv=notrunc status=none
	sfdisk -q --wipe never "$T/$1" 2>"$T/sfdisk" || bail "sfdisk: $(cat "$T/sfdisk")"
}

# partuuid FILE NUMBER: as sfdisk has it, which of an MBR shows the disk's part of it
partuuid() {
	local id
	id=$(sfdisk --disk-id "$1")
	case $id in
	0x*) printf '%s-%02x\n' "${id#0x}" "$2" ;;
	*) sfdisk --part-uuid "$1" "$2" | tr '[:upper:]' '[:lower:]' ;;
	esac
}

# described NAME: number, hash and PARTUUID of each of its partitions, by sfdisk
described() {
	local number start count
	sfdisk -d "$T/$1" | sed -n '/type=5/!s/.*[^0-9]\([0-9]*\) : start= *\([0-9]*\), size= *\([0-9]*\),.*/\1 \2 \3/p' |
		while read -r number start count; do
			echo "$number $(dd if="$T/$1" iflag=skip_bytes,count_bytes skip=$((start * 512)) \
				count=$((count * 512)) bs=1M status=none | sha256sum | cut -d' ' -f1)" \
				"$(partuuid "$T/$1" "$number")"
		done
}

# entry FILE SECTOR SLOT TYPE START COUNT: an entry of an MBR or EBR, whatever it says
entry() {
	perl -e 'my ($file, $sector, $slot, $type, $start, $count) = @ARGV;
		open my $f, "+<", $file or die; my $at = $sector * 512;
		seek $f, $at + 446 + 16 * $slot, 0; print $f pack "x4 C x3 V V", hex $type, $start, $count;
		seek $f, $at + 510, 0; print $f "\x55\xaa"; close $f or die' "$@"
}

put() {
	f file "/$1" "$(stat -c %s "$T/${2:-$1}")" runs="${3:-9}" order=shuffle fill=stdin <"$T/${2:-$1}"
}

table gpt 40M <<-'END'
	label: gpt
	1: start=2048, size=20480, type=U
	3: start=32768, size=18432
	128: start=61440, size=4096, name="the last"
END
table mbr 40M <<-'END'
	label: dos
	start=2048, size=8192
	start=12288, size=53248, type=5
	start=14336, size=8192
	start=24576, size=8192
	start=34816, size=2048
END
table past 32M <<<'start=2048, size=16384'
entry "$T/past" 0 1 83 20480 81920
entry "$T/past" 0 2 83 90000 1000
table overlap 32M <<<'start=2048, size=16384'
entry "$T/overlap" 0 1 83 10240 16384
# an extended partition whose second EBR is the first one; and two that name each other
for name in self circle; do
	table $name 32M <<<'start=2048, size=4096'
	entry "$T/$name" 0 1 5 8192 40960
	entry "$T/$name" 8192 0 83 2048 2048
done
entry "$T/self" 8192 1 5 0 4096
entry "$T/circle" 8192 1 5 8192 4096
entry "$T/circle" 16384 0 83 2048 2048
entry "$T/circle" 16384 1 5 0 4096
table odd 16M <<-'END'
	label: gpt
	start=2048, size=8192
	start=10241, size=2048
END
table small 2M <<-'END'
	label: gpt
	size=512
	size=1M
END
truncate -s 16M "$T/fs" "$T/empty"
mkfs.ext4 -q "$T/fs"
qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on "$T/gpt" "$T/fixed.vhd"
qemu-img convert -f raw -O vpc -o force_size=on "$T/mbr" "$T/dynamic.vhd"

volume 512M
for name in gpt mbr past overlap self circle fs empty fixed.vhd dynamic.vhd; do put "$name"; done
f file /room 24M runs=5 fill=zero
for name in gpt mbr fixed.vhd; do
	bytes=$(stat -c %s "$T/$name")
	[ "$name" != fixed.vhd ] || bytes=$((bytes - 512))
	run "$ntfsmap" table -q "$img:/$name"
	like "$(head -n 1 <<<"$out")" '^0 2048 striped 1 8 ' "$name: the table begins with a stripe"
	is "$(awk '$3 == "striped" { print $1, $2, $7; next } { print $1, $2, $5 }' <<<"$out" |
		awk '$1 == at && $3 == to { len += $2; at += $2; to += $2; next }
			len { print start, len, place }
			{ start = $1; len = $2; place = $3; at = $1 + $2; to = $3 + $2 }
			END { print start, len, place }')" \
		"$(oracle_table "/$name" "$bytes")" "  and says what ntfscluster does"
done
is "$("$ntfsmap" table -q "$img:/fs" | awk '{ print $3 }' | sort -u)" linear "without a partition table it has no stripe"
mv "$img" "$T/large"

volume 128M -s 4096 -c 4096
for name in gpt odd; do put "$name"; done
f file /room 24M runs=5 fill=zero
mv "$img" "$T/blocks"

volume 32M -c 512
put gpt small 1366
mv "$img" "$T/pieces"

mkdir "$T/share"
for name in gpt mbr; do
	described $name >"$T/share/$name.parts"
	is "$(wc -l <"$T/share/$name.parts")" "$([ $name = gpt ] && echo 3 || echo 4)" "$name: the partitions of the test"
done
sfdisk -d "$T/gpt" | sed -n 's/^[^:]*gpt\([0-9]*\) : start= *\([0-9]*\), size= *\([0-9]*\),.*/\1 \2 \3/p' >"$T/share/gpt.table"
mv "$T/small" "$T/share/"
guest_tests -d "$T/large" -d "$T/blocks,bs=4096" -d "$T/pieces" -s "$T/share" -t 900
done_testing
