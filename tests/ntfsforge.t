#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# ntfsforge against the tools of ntfs-3g: what it says it planted is what they find.
#
# shellcheck disable=SC2016 # NTFS has names with dollars
#
# "healthy" is ntfsresize's consistency check, the strictest there is: every cluster of the
# volume must be owned by exactly one run and be set in $Bitmap, or by none and be clear.

. "$(dirname "$0")/lib/tap.sh"
forge=${NTFSFORGE:-$top/build/tests/ntfsforge}
need "$forge" mkntfs ntfscat ntfscluster ntfsinfo ntfsls ntfsresize ntfsfix ntfs-3g.probe od cmp

img=$T/ntfs.img

f() { "$forge" "$img" "$@" || bail "ntfsforge $*"; }

# volume SIZE [MKNTFS OPTIONS…]
volume() {
	rm -f "$img"
	truncate -s "$1" "$img"
	shift
	mkntfs -q -F -Q "$@" "$img" >/dev/null 2>&1
}

healthy() {
	ok "$1: every cluster is accounted for" \
		ntfsresize --info --force --force --bad-sectors "$img"
	ok "$1: ntfsfix finds nothing to do" ntfsfix --no-action "$img"
}

# The runs of the unnamed DATA as ntfscluster sees them, in the format of "runs". It lists one
# record after the other, with LCN -2 for what the others hold; a second VCN 0 is that of a
# named stream.
clusters() {
	ntfscluster -q -F "$1" "$img" | awk '
		/^ *0x/ { data = /^ *0x80/ }
		!data || !/^ *[0-9]+ +-?[0-9]+ +[0-9]+$/ || $2 == -2 { next }
		$1 == 0 && zeros++ { exit }
		{ print $1, $2, $3 }'
}

# same_content PATH SIZE SEED NAME
same_content() {
	ok "$4" cmp <(ntfscat "$img" "$1") <("$forge" - pattern "$2" seed="$3")
}

# fields PATH: ntfsinfo's words about the file on one line, to match against.
fields() { ntfsinfo -F "$1" -v "$img" 2>&1 | tr -s '\t\n ' ' '; }

refused() {
	run "$forge" "$img" "$@"
	is "$status" 1 "refused: $*"
	like "$err" '^ntfsforge: ' "  and says why"
	is "$out" '' "  on stderr only"
}

# The entries of the root directory, 8 bytes a line.
root_index() { ntfscat -i 5 -a 160 -n '$I30' "$img" | od -An -v -tx1 -w8; }

# ---- every geometry ----

geometry() {
	local cluster=$1 sector=$2 what="clusters of $1, sectors of $2"

	volume "$3" -c "$cluster" -s "$sector"
	like "$(f geometry)" "cluster_size=$cluster"$'\n' "$what: geometry"
	f file /s $((cluster * 13 + 5)) runs=5 order=shuffle seed=7 fill=pattern
	is "$(f runs /s | wc -l)" 5 "$what: exactly 5 runs"
	is "$(f runs /s)" "$(clusters /s)" "$what: ntfscluster sees the same"
	same_content /s $((cluster * 13 + 5)) 7 "$what: contents"
	healthy "$what"
}

geometry 512 512 64M
geometry 1024 512 64M
geometry 4096 512 128M
geometry 4096 4096 128M
geometry 65536 512 512M
geometry 65536 4096 512M
geometry 2097152 512 16G
geometry 2097152 4096 16G

# ---- layouts ----

volume 512M -c 4096
f file /fwd 40960 runs=4 gap=3
is "$(f runs /fwd | awk 'NR > 1 { print $2 - end } { end = $2 + $3 }' | xargs)" '3 3 3' \
	'forward: gaps of 3'
is "$(f runs /fwd | awk '{ print $3 }' | xargs)" '3 3 2 2' 'the longer runs come first'
f file /rev 40960 runs=4 order=reverse gap=0
is "$(f runs /rev | awk 'NR > 1 { print last - $2 - $3 } { last = $2 }' | xargs)" '0 0 0' \
	'reverse: without gaps'
for seed in 1 2 3 4 5 6 7 8; do
	f file /shuffle$seed 40960 runs=10 order=shuffle gap=0 seed=$seed
	is "$(clusters /shuffle$seed | awk '$2 != end { n++ } { end = $2 + $3 } END { print n }')" 10 \
		"shuffle, no gaps, seed $seed: no run continues the one before"
done
f many /many 200
is "$(ntfsls -p /many "$img" | grep -c '^0')" 200 'many: a directory full of files'
is "$(f runs /many/00000199)" "0 $(($(f runs /many/00000000 | cut -d' ' -f2) + 199)) 1" 'with a cluster each'
f file /there 8K from=100000
is "$(f runs /there)" '0 100000 2' 'from= is exact'
refused file /again 8K from=100001
f file /behind 8K from=100002
is "$(f runs /behind)" '0 100002 2' 'the cluster behind was free'
refused file /none 8K runs=2 gap=0
refused file /none 8K runs=3
refused file /none 1T
refused file /fwd 8K
refused file /no/such/dir 8K
f mkdir /Bücher
f mkdir /Bücher/日本
f file '/Bücher/日本/ö €.vhd' 123457 runs=3 fill=pattern seed=4
same_content '/Bücher/日本/ö €.vhd' 123457 4 'names that are not ASCII'
like "$(ntfsls -f -p /Bücher/日本 "$img")" 'ö €.vhd' 'ntfsls lists them'
healthy 'layouts'

# ---- contents ----

head -c 10001 /dev/urandom >"$T/random"
f file /stdin 10001 runs=3 fill=stdin <"$T/random"
run cmp <(ntfscat "$img" /stdin) "$T/random"
run "$forge" "$img" file /short 10002 fill=stdin <"$T/random"
is "$status" 1 'stdin too short'
run "$forge" "$img" file /long 10000 fill=stdin <"$T/random"
is "$status" 1 'stdin too long'
volume 64M -c 4096
f file /old 10M from=9000 fill=pattern seed=1
f remove /old
f file /stale 10M from=9000 fill=none
same_content /stale 10485760 1 'fill=none leaves what is on the disk'
f remove /stale
f file /zero 10M from=9000 fill=zero
ok 'fill=zero' cmp -n 10485760 <(ntfscat "$img" /zero) /dev/zero
f file /tail 2097157 from=12000 fill=pattern
ok 'the last cluster ends with zeros' \
	cmp -n 4091 <(dd if="$img" bs=4096 skip=12512 count=1 status=none | tail -c +6) /dev/zero
f file /vdl 100000 runs=5 init=5000 from=4000 fill=pattern seed=2
ok 'init=: what is before it reads' \
	cmp -n 5000 <(ntfscat "$img" /vdl) <("$forge" - pattern 100000 seed=2)
ok 'init=: zeros behind it' cmp -n 95000 <(ntfscat "$img" /vdl | tail -c +5001) /dev/zero
ok 'init=: the bytes are on the disk, though' \
	cmp -n 4096 <(dd if="$img" bs=4096 skip=4006 count=1 status=none) \
	<("$forge" - pattern 100000 seed=2 | tail -c +$((5 * 4096 + 1)))
like "$(fields /vdl)" 'Data size: 100000 .*Allocated size: 102400 .*Initialized size: 5000 ' \
	'init=: the three sizes'
healthy 'contents'

# ---- many runs ----

volume 2G -c 4096
ok '100 000 runs are made in time' \
	timeout 60 "$forge" "$img" file /many 409600000 runs=100000 order=shuffle seed=3
f runs /many >"$T/many"
is "$(wc -l <"$T/many")" 100000 '100 000 runs'
ok 'ntfscluster sees the same 100 000' cmp <(clusters /many) "$T/many"
f file /many2 40M runs=5000 order=reverse gap=2 fill=pattern seed=5
same_content /many2 41943040 5 'contents of 5 000 runs'
healthy 'many runs'

# ---- more about streams and files ----

volume 256M -c 4096
f file /a 40000 runs=5 fill=pattern seed=6
f slack /a 7
is "$(f runs /a | awk '{ sum += $3 } END { print NR, sum }')" '5 17' 'slack: 7 more clusters'
same_content /a 40000 6 'slack: same contents'
like "$(fields /a)" 'Data size: 40000 .*Allocated size: 69632 ' 'slack: allocated_size alone'
before=$(f runs /a) ref=$(f ref /a)
f move /a runs=3 order=shuffle seed=5
is "$(f runs /a | awk '{ sum += $3 } END { print NR, sum }')" '3 17' 'move: as many clusters, in other runs'
is "$(clusters /a)" "$(f runs /a)" 'move: ntfscluster agrees'
is "$({ echo "$before"; f runs /a; } | awk '{ for (i = 0; i < $3; i++) print $2 + i }' | sort | uniq -d)" '' \
	'move: none of them the same'
is "$(f ref /a)" "$ref" 'move: the same file'
same_content /a 40000 6 'move: same contents'
healthy 'after move'
f stream /a ströme 20000 runs=5 fill=pattern seed=7
is "$(f runs /a:ströme | wc -l)" 5 'a named stream of 5 runs'
ok 'its contents' cmp <(ntfscat -n ströme "$img" /a) <("$forge" - pattern 20000 seed=7)
refused stream /a ströme 20000
f link /a /b
is "$(f ref /b)" "$(f ref /a)" 'a hard link is the same record'
like "$(fields /a)" 'Hard Links: 2 ' 'and is counted'
f mkdir /d
f link /a /d/c
f remove /b
like "$(fields /d/c)" 'Hard Links: 2 ' 'remove takes one name'
f resident /resident 300
like "$(fields /resident)" '\$DATA .*Resident: Yes' 'resident'
same_content /resident 300 0 'its contents'
refused resident /x 900
f empty /empty
is "$(ntfscat "$img" /empty | wc -c)" 0 'empty'
f onlystream /only s 5000 fill=pattern
refused runs /only
is "$(f runs /only:s | wc -l)" 1 'only a named stream'
healthy 'streams'

# ---- special kinds ----

f sparse /sparse 1M
is "$(f runs /sparse | awk '{ print ($2 < 0 ? "hole" : "data") }' | xargs)" \
	'data hole data' 'sparse'
like "$(fields /sparse)" 'SPARSE.*Attribute flags: 0x8000' 'and flagged so'
f compressed /compressed 300000
like "$(fields /compressed)" 'COMPRESSED.*Attribute flags: 0x0001.*Compression unit: 4' 'compressed'
is "$(ntfscat "$img" /compressed | tr -d z | wc -c)" 0 'and readable'
f file /efs 1M runs=99 order=shuffle
f encrypted /efs
like "$(fields /efs)" 'ENCRYPTED.*Attribute flags: 0x4000' 'encrypted'
is "$(f runs /efs | wc -l)" 99 'and opens again'
for tag in 80000017 80000013 9000001a a000000c; do
	f file /tag$tag 8K
	f reparse /tag$tag $tag
	like "$(fields /tag$tag)" "REPARSE_POINT.*Reparse tag: 0x$tag" "reparse tag $tag"
done
f mkdir /junction
f reparse /junction a0000003
like "$(fields /junction)" 'Reparse tag: 0xa0000003' 'a junction'
refused reparse /a a0000003
f file /blob 8K
f reparse /blob 80000013 00112233445566778899
like "$(fields /blob)" 'Reparse tag: 0x80000013.*Data length: 10 ' 'reparse data of our own'
for bits in 1020 40020 400020; do
	f file /bits$bits 8K
	f attrs /bits$bits $bits
	like "$(fields /bits$bits)" "\(0x00*$bits\)" "file attributes $bits"
done
like "$(root_index)" '20 00 40 00 00 00 00 00' 'in the directory too'
f badclus 60000 3
is "$(f runs '/$BadClus:$Bad' | grep -v -- ' -1 ')" '60000 60000 3' 'bad clusters'
healthy 'special kinds'

# ---- asleep ----

# What ntfs-3g makes of a read-write mount: 0 yes, 14 hibernated, 15 unclean.
writable() {
	ntfs-3g.probe --readwrite "$img" 2>/dev/null
	echo $?
}

asleep() {
	volume 64M
	f hiberfil "$@"
}

for magic in hibr HIBR; do
	asleep $magic
	is "$(ntfscat "$img" /hiberfil.sys | head -c 4)" $magic "hiberfil.sys begins with $magic"
	is "$(writable)" 14 "$magic: ntfs-3g will not write"
	is "$(f ref /hiberfil.sys | wc -l)" 1 "$magic: the forge still opens the volume"
done
for magic in wake RSTR; do
	asleep $magic
	is "$(ntfscat "$img" /hiberfil.sys | head -c 4)" $magic "hiberfil.sys begins with $magic"
	is "$(writable)" 0 "$magic means nothing to ntfs-3g"
done
asleep zero
is "$(ntfscat "$img" /hiberfil.sys | tr -d '\0' | wc -c)" 0 'zero: all zeros'
is "$(ntfscat "$img" /hiberfil.sys | wc -c)" 65536 'of 64 KiB'
asleep HIBERFIL.SYS 01020304 8K
is "$(ntfscat "$img" /HIBERFIL.SYS | od -An -tx1 -N5 | xargs)" '01 02 03 04 00' \
	'another name, any bytes'
refused hiberfil nonsense

# Before tap.sh removes $T.
unmount() {
	local status=$?
	mountpoint -q "$T/mnt" && umount "$T/mnt"
	(exit "$status")
	finish
}
trap unmount EXIT

mount_asleep() {
	asleep hibr
	f file /x 8K fill=pattern
	mkdir -p "$T/mnt"
	ntfs-3g "$img" "$T/mnt" 2>/dev/null || { diag "ntfs-3g cannot mount here"; return; }
	run touch "$T/mnt/new"
	is "$status" 1 'hibernated: nothing can be written through a real mount'
	is "$(stat -c %s "$T/mnt/x")" 8192 'hibernated: it can be read'
	umount "$T/mnt"
}

mount_awake() {
	volume 256M
	f file /x 5000000 runs=777 order=shuffle fill=pattern seed=9
	ntfs-3g "$img" "$T/mnt" 2>/dev/null || { diag "ntfs-3g cannot mount here"; return; }
	ok 'a real mount reads the contents' cmp "$T/mnt/x" <("$forge" - pattern 5000000 seed=9)
	ok 'it can write' cp "$T/mnt/x" "$T/mnt/y"
	ok 'and delete' rm "$T/mnt/x"
	umount "$T/mnt"
	same_content /y 5000000 9 'the copy is whole'
	healthy 'after a real mount'
}

if [ "$(id -u)" = 0 ] && [ -c /dev/fuse ]; then
	mount_asleep
	mount_awake
else
	diag 'no real mounts: they need root and FUSE'
fi

# ---- $LogFile ----

# word OFFSET TYPE: one number of $LogFile
word() { ntfscat -i 2 "$img" | od -An -t"$2" -j "$1" -N "${2#?}" | xargs; }

volume 64M
# log VERSION STATE EXIT-CODE RESTART-FLAGS
log() {
	f logfile "$1" "$2"
	is "$(writable)" "$3" "log $1 $2: ntfs-3g.probe says $3"
	is "$(word 28 d2).$(word 26 d2)" "$1" "log $1 $2: the version"
	is "$(word 62 d2)" "$4" "log $1 $2: flags of the restart area"
	is "$(word 60 u2)" 0 "log $1 $2: a client is in use"
	is "$(word 30 u2) $(word 510 u2) $(word $((4096 + 30)) u2) $(word $((4096 + 4094)) u2)" \
		'1 1 1 1' "log $1 $2: fixups of both restart pages"
	ok "log $1 $2: the volume opens for reading" f geometry
}

log 1.1 clean 0 2
log 1.1 inuse 15 0
log 2.0 clean 14 2
log 2.0 inuse 14 0
f logfile 1.1 reset
is "$(writable)" 0 'log reset: ntfs-3g may write'
is "$(ntfscat -i 2 "$img" | tr -d '\377' | wc -c)" 0 'log reset: all ones'
f logfile 2.0 inuse record=7,7,2,4 record=21,22,0,6,7
page=$((34 * 4096))
# checkpoint at 0x40 with 0x70 bytes; then records with 0x50 bytes and 8 for each cluster
first=$((page + 0x40 + 0x70))
second=$((first + 0x58))
is "$(ntfscat -i 2 "$img" | tail -c +$((page + 1)) | head -c 4)" RCRD 'log records: a page of them'
is "$(word $((page + 40)) u2) $(word $((page + 4094)) u2)" '1 1' 'log records: fixups'
is "$(word $((first + 0x30)) u2) $(word $((first + 0x32)) u2)" '7 7' 'log records: operations'
is "$(word $((first + 0x44)) u2) $(word $((first + 0x50)) u8)" '2 4' 'log records: place'
is "$(word $second u8)" "$(word 48 u8)" 'log records: the last one is current_lsn'
is "$(word $((second + 8)) u8)" "$(word $first u8)" 'log records: chained'
is "$(word $((0x70)) u8)" "$(word $((page + 0x40)) u8)" \
	'log records: the checkpoint is oldest_lsn'
f logfile 2.0 inuse walk=broken
is "$(($(word 48 u8) - $(word $((page + 0x40)) u8)))" $((0x70 / 8)) \
	'walk=broken: current_lsn is where nothing is'
refused logfile 3.0 clean

# ---- flags and $Bitmap ----

volume 64M -c 4096
f dirty on
like "$(ntfsinfo -m -f "$img" 2>/dev/null)" 'Volume Flags: 0x0001' 'dirty'
f mkdir /d
like "$(ntfsinfo -m -f "$img" 2>/dev/null)" 'Volume Flags: 0x0001' 'and stays so'
f dirty off
like "$(ntfsinfo -m -f "$img" 2>/dev/null)" 'Volume Flags: 0x0000' 'clean again'

mismatches() {
	ntfsresize --info --force --force "$img" 2>&1 |
		sed -n 's/.*Totally \([0-9]*\) cluster accounting mismatch.*/\1/p'
}

f file /a 80K runs=10
f bitmap clear-file /a 3 2
is "$(mismatches)" 2 'two clusters of a file cleared'
f bitmap set-file /a
healthy 'set again'
f bitmap clear-file /a
is "$(mismatches)" 20 'all clusters of a file cleared'
f bitmap set-file /a
f bitmap set 12000 100
f bitmap clear 0 1
is "$(mismatches)" 101 'clusters by number'
refused bitmap clear 16000 10000

# ---- damage ----

damaged() {
	volume 64M -c 4096
	f file /a 40960 runs=5
	f file /b 40960 runs=5
	f file /big 4M runs=1000 order=shuffle
	f "$@"
}

end=16383
damaged corrupt-run /a past-end run=2
is "$(f runs /a | sed -n 3p)" "4 $((end + 16)) 2" 'a run past the end'
damaged corrupt-run /a cross-end
is "$(f runs /a | head -1)" "0 $((end - 1)) 2" 'a run across the end'
refused corrupt-run /big cross-end run=700
damaged corrupt-run /big lcn0 run=700
is "$(f runs /big | sed -n 701p)" '724 0 1' 'LCN 0, in an extent record'
damaged corrupt-run /a hole run=1
is "$(f runs /a | sed -n 2p)" '2 -1 2' 'a hole'
like "$(fields /a)" '\$DATA .*Attribute flags: 0x0000' 'in a file that is not sparse'
damaged corrupt-run /a overlap
is "$(f runs /a | awk '{ print $2 }' | uniq -d | wc -l)" 1 'a file that overlaps itself'
damaged corrupt-run /a overlap with=/b
is "$(f runs /a | awk 'NR == 1 { print $2 }')" "$(f runs /b | awk 'NR == 1 { print $2 }')" \
	'two files on one cluster'
damaged corrupt-run /a short
refused runs /a

# The first extent record of /big, and a number in it. No fixup covers these fields.
extent() {
	ntfsinfo -F /big "$img" 2>/dev/null |
		awk '/\$DATA .* mft record/ && n++ == 1 { print $(NF - 1) }'
}
field() { ntfscat -i 0 "$img" | od -An -t"$2" -j $((record * 1024 + $1)) -N "${2#?}" | xargs; }

damaged mkdir /untouched
record=$(extent)
is "$(field 16 u2) $(field 22 u2) $(field 32 u4)" "1 1 $(f ref /big | cut -d' ' -f1)" \
	'an extent record: sequence 1, in use, its base'
# libntfs-3g looks neither at the flag nor at the base of an extent record.
damaged orphan-extent /big
is "$(field 22 u2)" 0 'an extent record that is not in use'
is "$(f runs /big | wc -l)" 1000 'libntfs-3g does not care'
damaged wrong-base /big with=/a
is "$(field 32 u4)" "$(f ref /a | cut -d' ' -f1)" 'an extent record with another base'
is "$(f runs /big | wc -l)" 1000 'libntfs-3g does not care'
damaged lsn /a 0x12345
like "$(fields /a)" 'LogFile Seq. Number: 0x12345 ' 'the LSN of a record'
damaged lsn /big 0x6789 extent=0
is "$(field 8 u8)" $((0x6789)) 'the LSN of an extent record'
unlike "$(fields /big)" 'LogFile Seq. Number: 0x6789 ' 'and not of its base'
damaged stale-extent /big
is "$(field 16 u2)" 2 'an extent record of another sequence number'
refused runs /big
damaged lost-extent /big extent=1
is "$(f runs /big | awk '$2 == -2' | wc -l)" 1 'runs missing in the middle'
refused orphan-extent /a
damaged stale-seq /a
is "$(f ref /a)" '64 1' 'the record keeps its sequence number'
like "$(root_index)" '40 00 00 00 00 00 02 00' \
	'the directory entry has another one'
damaged sizes /a data=1234567 alloc=5 init=7
like "$(fields /a)" 'Data size: 1234567 .*Allocated size: 5 .*Initialized size: 7 ' 'raw sizes'
damaged mftmirr
refused runs /a
like "$err" 'MFTMirr' 'and it is for the mirror'

# ---- refused before anything is written ----

volume 64M -c 4096
f file /a 100K
cp "$img" "$T/before"
for words in 'file /x 100K runs=99' 'file /x 8K from=3' 'file /x 0' 'file /x 5 foo=1' \
	'file /x 5 6' 'file x 5' 'file /x 5 init=6' 'file /x -1' 'file /x 1Q' 'file /a/b 5' \
	'mkdir /a' 'mkdir /' 'resident /x 900' 'stream /a b 1G' 'slack /a 1000000' \
	'badclus 16300 100' 'reparse /a 1 12' 'reparse /a zz' 'sparse /x 100' \
	'compressed /x 5' 'logfile 2.0 clean record=1,x' 'link /a /n/a' 'sizes /a foo=1' \
	'remove /x' "mkdir /$(printf 'y%.0s' {1..256})"; do
	# shellcheck disable=SC2086 # words
	run "$forge" "$img" $words
	[ "$status" = 1 ] || is "$words" refused 'an exit code of 1'
done
ok 'whatever is refused leaves the image alone' cmp "$img" "$T/before"

done_testing
