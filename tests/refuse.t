#!/bin/bash
# Files that must not be mapped read-write: each refusal is seen, with its exit code and its reason; what --readonly
# and --allow lift is lifted, and nothing else is.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat

# A plain table cannot say that it is read-only, so it is asked for with --concise then.
table() {
	local path=$1
	shift
	case "$*" in
	*--readonly*) run "$ntfsmap" table "$@" --concise t "$img:$path" ;;
	*) run "$ntfsmap" table "$@" "$img:$path" ;;
	esac
}

# refused PATH CODE REGEX WHAT [OPTION...]: by table and by check, with the same reason.
refused() {
	local path=$1 code=$2 regex=$3 what=$4
	shift 4
	table "$path" "$@"
	is "$status" "$code" "$what: exit $code"
	like "$out" '^refused: ' "  the table cannot be parsed"
	like "$err" "$regex" "  the reason"
	run "$ntfsmap" check "$@" "$img:$path"
	is "$status" "$code" "  check agrees"
	like "$out" '(^|'$'\n'')(refuse|damaged) ' "  and shows the fact"
	like "$out" 'must not be mapped' "  and a verdict"
}

mapped() {
	local path=$1 what=$2
	shift 2
	table "$path" "$@"
	is "$status" 0 "$what"
	run "$ntfsmap" check "$@" "$img:$path"
	is "$status" 0 "  check agrees"
}

facts() {
	"$ntfsmap" check "$img:$1" 2>&1
}

volume 64M
f file /good 1M runs=4 fill=pattern
mapped /good "a good file"
unlike "$(facts /good)" $'(^|\n)(refuse|damaged|busy) ' "no fact speaks against it"

# Kind of file
f mkdir /dir
refused /dir 2 'directory' "a directory"
# shellcheck disable=SC2016
for system in '$MFT' '$LogFile' '$Bitmap' '$Boot' '$Secure:$SDS' '$Extend/$Quota'; do
	run "$ntfsmap" "$img:/$system"
	like "$status" '^[24]$' "$system is refused"
done
refused '/$MFT' 2 'system file' 'the MFT'
f hiberfil hibr
refused /hiberfil.sys 2 'memory of the sleeping Windows' "hiberfil.sys itself"
f remove /hiberfil.sys
f file /pagefile.sys 1M
refused /PageFile.sys 2 'memory of the sleeping Windows' "pagefile.sys, in any spelling"

f link /pagefile.sys /innocent
refused /innocent 2 'memory of the sleeping Windows' "a hard link to pagefile.sys"
f link /good '/$Extend/x'
refused /good 2 'system file' 'a file with a second name in $Extend'
f remove '/$Extend/x'
mapped /good "and without that name"

# Storage
f resident /small 100
refused /small 2 'inside the MFT record' "a resident file"
f empty /empty
refused /empty 2 'empty' "an empty file"
f sparse /sparse 1M
refused /sparse 2 'sparse' "a sparse file"
mapped /sparse "  but read-only it maps" --readonly
table /sparse --readonly
like "$out" ' zero' "  with zeros for the holes"
f compressed /compressed 1M
refused /compressed 2 'compressed by NTFS' "a compressed file"
refused /compressed 2 'compressed by NTFS' "  read-only too" --readonly
is "$("$ntfsmap" cat "$img:/compressed" | sha256sum)" "$(ntfscat "$img" /compressed | sha256sum)" "  but cat reads it"
f file /efs 64K
f encrypted /efs
refused /efs 2 'encrypted by EFS' "an encrypted file"
refused /efs 2 'encrypted by EFS' "  read-only too" --readonly
run "$ntfsmap" cat "$img:/efs"
is "$status" 2 "  cat refuses it"

# Reparse points
reparse() {
	f file "/r$1" 64K
	f reparse "/r$1" "$1"
	refused "/r$1" 2 "$2" "reparse tag $1"
}
reparse 80000017 'Windows Overlay Filter'
reparse 80000013 'deduplicated'
reparse a000000c 'symbolic link'
reparse 80000099 'filter driver'
reparse 9000301a 'cloud'
mapped /r9000301a "  --allow=cloud lifts that" --allow=cloud
refused /r80000017 2 'Windows Overlay Filter' "--allow=cloud lifts nothing else" --allow=cloud
f mkdir /junction
f file /junction/f 64K
f reparse /junction a0000003
run "$ntfsmap" "$img:/junction/f"
is "$status" 2 "a path through a junction"
like "$err" 'reparse point' "  says so"

# Attributes
for attrs in 1000 40000 400000; do
	f file "/off$attrs" 64K
	f attrs "/off$attrs" "$attrs"
	refused "/off$attrs" 2 'stored elsewhere' "attribute 0x$attrs"
	mapped "/off$attrs" "  --allow=offline lifts it" --allow=offline
done
f file /rofile 64K
f attrs /rofile 1
refused /rofile 2 'marked read-only' "the read-only attribute"
mapped /rofile "  --readonly respects it" --readonly
mapped /rofile "  --allow=readonly-file lifts it" --allow=readonly-file

# Valid data length
f file /vdl 1M runs=3 fill=pattern init=65536
refused /vdl 2 'only the first 65536 of 1048576 bytes are valid' "a short valid data length"
mapped /vdl "  --allow=valid-data-length lifts it" --allow=valid-data-length
mapped /vdl "  --readonly maps it" --readonly
table /vdl --readonly
like "$out" ',128 1920 zero$' "  with zeros behind the valid data"
is "$("$ntfsmap" cat "$img:/vdl" | sha256sum)" "$(ntfscat "$img" /vdl | sha256sum)" "  and cat reads what ntfscat reads"
f file /vdlodd 1M init=65000
refused /vdlodd 2 'only the first 65000' "valid data that end inside a sector" --readonly
refused /vdlodd 2 'only the first 65000' "  which no word lifts" --readonly --allow=valid-data-length
is "$("$ntfsmap" cat "$img:/vdlodd" | sha256sum)" "$(ntfscat "$img" /vdlodd | sha256sum)" "  but cat reads it right"
f file /vdl0 1M init=0
refused /vdl0 2 'only the first 0 of' "no valid data at all"

# The volume's own view of the clusters
f file /freed 1M runs=4
f bitmap clear-file /freed 100 3
refused /freed 2 '3 of its clusters are free' "clusters that \$Bitmap calls free"
f file /bad 1M runs=1
lcn=$("$forge" "$img" runs /bad | awk '{ print $2 }')
f bitmap clear "$lcn" 2
f badclus "$lcn" 2
f bitmap set "$lcn" 2
refused /bad 2 '2 of its clusters are in the list of bad' "clusters that \$BadClus lists"

# Damage, on a volume each: 6
damaged() {
	local regex=$1
	shift
	volume 64M
	f file /d 9M runs=900 order=shuffle seed=5
	f file /other 64K
	f "$@"
	refused /d 6 "$regex" "damage: $*"
}
damaged 'the volume has [0-9]+ clusters' corrupt-run /d past-end run=3
damaged 'the volume has [0-9]+ clusters' corrupt-run /d cross-end run=3
damaged 'has no cluster' corrupt-run /d lcn0 run=3
damaged 'twice' corrupt-run /d overlap run=3 with=/d
damaged 'extent record [0-9]+ of the file is not in use' orphan-extent /d
damaged 'extent record [0-9]+ belongs to MFT record [0-9]+' wrong-base /d
damaged 'extent record' stale-extent /d
damaged 'no cluster|hold|cannot be read' lost-extent /d
damaged 'sizes do not fit' sizes /d data=99999999
damaged 'sizes do not fit' sizes /d init=99999999
damaged 'sizes do not fit' sizes /d alloc=4096

volume 64M
f file /d 1M runs=8
f corrupt-run /d short
refused /d 6 'the runs hold|cannot be read' "damage: a run that is too short"

# A run that became a hole in a file that does not say it is sparse
volume 64M
f file /d 1M runs=8
f corrupt-run /d hole run=3
refused /d 2 'sparse' "damage: a hole without the sparse flag"

# A directory entry that is stale, a mirror that differs, a device that is too short
volume 64M
f file /d 1M
f stale-seq /d
run "$ntfsmap" "$img:/d"
is "$status" 6 "a stale directory entry: exit 6"
like "$err" 'sequence' "  says so"
volume 64M
f file /d 1M
f mftmirr
run "$ntfsmap" "$img:/d"
is "$status" 6 "\$MFTMirr differs: exit 6"
volume 64M
f file /d 1M
truncate -s 60M "$img"
refused /d 6 'the end is missing' "a device shorter than the volume"
volume 64M
f file /d 1M
# the number of sectors in the boot sector, with its highest bytes set: the product with 512 overflows
printf '\0\0\200' | dd of="$img" bs=1 seek=$((0x28 + 4)) conv=notrunc status=none
refused /d 6 'the end is missing' "a volume that claims 2^55 sectors"

# Not NTFS
other() {
	run "$ntfsmap" "$T/other:/x"
	is "$status" "$1" "$3: exit $1"
	like "$err" "$2" "  named"
}
truncate -s 8M "$T/other"
other 4 'no NTFS volume' "an empty device"
printf '\0\0\0ReFS\0' | dd of="$T/other" conv=notrunc status=none
other 2 'ReFS.*move the image' "ReFS"
printf '\353R\220-FVE-FS-' | dd of="$T/other" conv=notrunc status=none
other 2 'BitLocker.*cryptsetup open --type bitlk' "BitLocker"

done_testing
