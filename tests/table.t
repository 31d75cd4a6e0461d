#!/bin/bash
# The table against ntfscluster, on volumes of every geometry; what cannot be laid out is refused.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat ntfscluster

# same_table PATH BYTES NAME
same_table() {
	is "$("$ntfsmap" -q "$img:$1" 2>/dev/null | our_table)" "$(oracle_table "$1" "$2")" "$3"
}

volume 512M
f file /many 64M runs=500 gap=2 order=shuffle seed=1 fill=pattern
same_table /many $((64 << 20)) "500 runs in shuffled order: what ntfscluster says"
is "$("$ntfsmap" -q "$img:/many" 2>/dev/null | wc -l)" 500 "500 lines"
is "$("$ntfsmap" -q "$img:/many" 2>/dev/null | awk '$1 != at { print "gap at", $1 } { at = $1 + $2 } END { print at }')" \
	$((64 << 11)) "the lines follow each other and cover the disk"
is "$("$ntfsmap" cat "$img:/many" | sha256sum)" "$(ntfscat "$img" /many | sha256sum)" "cat equals ntfscat"

f file /one 10M runs=1
is "$("$ntfsmap" -q "$img:/one" 2>/dev/null | wc -l)" 1 "one run: one line"
# Clusters that touch on the disk, but not in the file's order, must stay apart.
f file /touch 4M runs=8 gap=0 order=reverse
is "$("$ntfsmap" -q "$img:/touch" 2>/dev/null | wc -l)" 8 "runs that touch in the wrong order are not merged"
same_table /touch $((4 << 20)) "and are what ntfscluster says"

f file /lists 40M runs=5000 gap=1 fill=pattern
same_table /lists $((40 << 20)) "5000 runs in attribute lists"
is "$("$ntfsmap" cat "$img:/lists" | sha256sum)" "$(ntfscat "$img" /lists | sha256sum)" "cat over attribute lists"

f file /slack 1M runs=2
f slack /slack 7
same_table /slack $((1 << 20)) "allocated beyond the data: only the data are mapped"

# Sizes that are no multiple of a sector.
for size in 100001 1048575 4097; do
	f file "/odd$size" "$size" runs=1 fill=pattern
	same_table "/odd$size" "$size" "$size bytes: whole sectors only"
	like "$("$ntfsmap" "$img:/odd$size" 2>&1)" "the last $((size % 512)) bytes do not fill a sector" "  and it is said"
done

# Streams, links, names.
f stream /one data 300K runs=4 fill=pattern
is "$("$ntfsmap" -q "$img:/one:data" 2>/dev/null | wc -l)" 4 "an alternate data stream"
is "$("$ntfsmap" -q "$img:/one:data:\$DATA" 2>/dev/null | wc -l)" 4 "Windows' long form of a stream's name"
is "$("$ntfsmap" -q "$img:/one::\$DATA" 2>/dev/null | wc -l)" 1 "Windows' long form of the unnamed stream"
f onlystream /noname s 64K runs=2
run "$ntfsmap" "$img:/noname"
is "$status" 4 "no unnamed stream: its streams are not taken for it"
is "$("$ntfsmap" -q "$img:/noname:s" 2>/dev/null | wc -l)" 2 "but the named one can be mapped"
f mkdir /Ordner
f link /many /Ordner/zweiter.raw
is "$("$ntfsmap" -q "$img:/Ordner/zweiter.raw" 2>/dev/null)" "$("$ntfsmap" -q "$img:/many" 2>/dev/null)" "a hard link is the same file"
f mkdir /größe-文件
f file '/größe-文件/ディスク 1.raw' 128K runs=3
is "$(LC_ALL=C "$ntfsmap" -q "$img:/größe-文件/ディスク 1.raw" 2>/dev/null | wc -l)" 3 "Unicode and spaces, whatever the locale"

# Spelling: exact first, then without case; backslashes where no such name exists.
f file /Ordner/Case 64K from=120000
f file /Ordner/case2 64K from=121000
exact=$("$ntfsmap" -q "$img:/Ordner/Case" 2>/dev/null)
is "$("$ntfsmap" -q "$img:/oRDNER/cASE" 2>/dev/null)" "$exact" "another case"
is "$("$ntfsmap" -q "$img:\\Ordner\\Case" 2>/dev/null)" "$exact" "backslashes"
is "$("$ntfsmap" -q "$img:\\ordner\\CASE" 2>/dev/null)" "$exact" "backslashes and another case"
is "$("$ntfsmap" -q "$img://Ordner/./Case" 2>/dev/null)" "$exact" "empty and dot components"
run "$ntfsmap" "$img:/Ordner/../Ordner/Case"
is "$status" 1 "'..' is not followed"
f file '/back\slash' 64K runs=2
is "$("$ntfsmap" -q "$img:/back\\slash" 2>/dev/null | wc -l)" 2 "a literal backslash in a name wins"
f file '/col:on' 64K runs=3
is "$("$ntfsmap" -q "$img:/col:on" 2>/dev/null | wc -l)" 3 "a literal colon in a name wins"
run "$ntfsmap" "$img:/one/x"
is "$status" 4 "a file is no folder"

# The volume's name may need escapes in a table.
cp --sparse=always "$img" "$T/a volume.img"
like "$("$ntfsmap" -q "$T/a volume.img:/one" 2>/dev/null)" ' linear [^ ]*a\\ volume\.img [0-9]+$' "a space in the device's name is escaped"

# Every cluster size, both sector sizes.
geometry() {
	volume "$3" -c "$1" -s "$2"
	f file /g $(($1 * 11 + 1000)) runs=5 order=shuffle seed=3 fill=pattern
	same_table /g $(($1 * 11 + 1000)) "clusters of $1 bytes, sectors of $2"
	is "$("$ntfsmap" cat "$img:/g" | sha256sum)" "$(ntfscat "$img" /g | head -c $((($1 * 11 + 1000) / 512 * 512)) | sha256sum)" "  and cat reads it"
}
geometry 512 512 32M
geometry 1024 512 32M
geometry 2048 512 32M
geometry 4096 4096 64M
geometry 65536 512 256M
geometry 131072 512 256M
geometry 2097152 512 1G
geometry 2097152 4096 1G

done_testing
