#!/bin/bash
# The command line: verbs, options, help, exit codes, JSON, and the line that makes dmsetup fail.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat perl

volume 32M -L 'My disk'
f file /a.raw 1M runs=3 fill=pattern
raw="$img:/a.raw"

verbs='table open close reload list status info map cat check reserve verify host up down cmdline'

run "$ntfsmap" --version
is "$status:$err" 0: "--version"
like "$out" '^ntfsmap [0-9]+\.[0-9]+$' "--version names program and version"
run "$ntfsmap" --help
is "$status:$err" 0: "--help"
for verb in $verbs; do
	like "$out" "  $verb " "--help names $verb"
	ok "$verb --help" "$ntfsmap" "$verb" --help
done

# Every failure of table spoils the table: one line, no number in front. Other verbs leave stdout alone.
spoiled() {
	local want=$1
	shift
	run "$ntfsmap" "$@"
	is "$status" "$want" "exit $want: ntfsmap $*"
	is "$(wc -l <"$T/out")" 1 "  one line on stdout"
	like "$out" '^refused: .' "  that dmsetup cannot parse"
	like "$err" '^ntfsmap: .|^[^ ]*ntfsmap: ' "  and the reason on stderr"
}

spoiled 1
spoiled 1 table
spoiled 1 table "$raw" two
spoiled 1 noverb
spoiled 1 a.raw
spoiled 1 --no-such-option "$raw"
spoiled 1 table --json "$raw"
spoiled 1 --deferred "$raw"
spoiled 1 --format vmdk "$raw"
spoiled 1 --allow=everything "$raw"
spoiled 1 table --concise "$raw"
spoiled 1 table --concise 'a b' "$raw"
spoiled 1 table --concise a/b "$raw"
spoiled 1 table --static "$raw"
spoiled 1 table --parent
spoiled 1 --parent "$raw" "$raw"
spoiled 4 "$img:/none"
spoiled 4 /dev/no-such-device:/a.raw
spoiled 4 UUID=0000000000000001:/a.raw
spoiled 2 --format raw "$img:/"
spoiled 6 --format vhd "$raw"

quiet_failure() {
	local want=$1
	shift
	run "$ntfsmap" "$@"
	is "$status" "$want" "exit $want: ntfsmap $*"
	is "$out" '' "  nothing on stdout"
}

quiet_failure 1 open "$raw"
quiet_failure 1 close
quiet_failure 1 info
quiet_failure 1 info --readonly "$raw"
quiet_failure 1 info --static "$raw"
quiet_failure 1 reserve "$raw"
quiet_failure 1 reserve "$raw" lots
quiet_failure 2 reserve "$raw" 1M
quiet_failure 1 open "$raw" 'bad name'
quiet_failure 1 open --readonly --overlay tmpfs "$raw" name
quiet_failure 1 open --overlay tmpfs -r -r -r -r -r -r -r -r -r -r -r -r -r -r -r -r "$raw" name
quiet_failure 4 info "$img:/none"
quiet_failure 4 cat "$img:/none"
quiet_failure 4 check "$img:/none"

like "$("$ntfsmap" "$img:/sub/none" 2>&1)" "there is no /sub" "the missing component is named"
like "$("$ntfsmap" --allow=x "$raw" 2>&1)" 'valid-data-length' "a wrong --allow word: the words are listed"

# A volume in a file stands for a device: without a path it is no disk, unless that is said.
spoiled 2 "$img"
run "$ntfsmap" info "$img"
is "$status" 2 "info of a volume without a path is refused"
run "$ntfsmap" check "$img"
is "$status" 0 "check of a volume without a path shows the volume"
like "$out" 'name a file on it' "  and says so"
is "$("$ntfsmap" -q --format raw "$img" 2>/dev/null)" "0 $(($(stat -c %s "$img") / 512)) linear $img 0" "--format raw: it is meant as a disk"

# A full disk, a closed pipe.
run sh -c '"$1" cat "$2" >/dev/full' - "$ntfsmap" "$raw"
is "$status" 7 "cat to a full device: exit 7"
run sh -c '"$1" "$2" >/dev/full' - "$ntfsmap" "$raw"
is "$status" 7 "table to a full device: exit 7"

# --concise
run "$ntfsmap" table --concise disk1 "$raw"
is "$status" 0 "--concise"
is "$(wc -l <"$T/out")" 1 "--concise prints one line"
like "$out" '^disk1,NTFSMAP-RAW-[0-9A-F]{16}-[0-9a-f]+-[0-9a-f]+-0-disk1,,rw,0 [0-9]+ linear ' "NAME,UUID,,rw,TABLE"
spoiled 1 table --readonly "$raw"
like "$err" '--concise' "  plain lines cannot say read-only: what to use"
like "$("$ntfsmap" table --readonly --concise disk1 "$raw" 2>&1)" ',,ro,0 ' "--readonly --concise says ro"

like "$("$ntfsmap" info --readonly "$raw" 2>&1)" 'info has no option --readonly' "the wrong option is named"
run sh -c '"$1" cat "$2" | head -c 1' - "$ntfsmap" "$raw"
is "$status:$err" 0: "cat into head is no failure"

# JSON is one document, and says what the text says.
field() {
	perl -MJSON::PP -e 'local $/; my $j = decode_json(<STDIN>); print eval "\$j->$ARGV[0]" // "null"' "$1"
}

"$ntfsmap" info --json "$raw" >"$T/info"
is "$(field '{image}{format}' <"$T/info")" raw "info --json: format"
is "$(field '{image}{virtual_size}' <"$T/info")" 1048576 "info --json: virtual size"
is "$(field '{file}{runs}' <"$T/info")" 3 "info --json: runs"
is "$(field '{volume}{label}' <"$T/info")" 'My disk' "info --json: label"
cp --sparse=always "$img" "$T/$(printf 'x\377\033[31my.img')"
is "$("$ntfsmap" info --json "$T/$(printf 'x\377\033[31my.img'):/a.raw" | field '{image}{format}')" raw "JSON with a name that is not UTF-8"
unlike "$("$ntfsmap" "$T/$(printf 'x\377\033[31my.img'):/none" 2>&1)" $'\033' "no escape sequence reaches the terminal"
"$ntfsmap" check --json "$raw" >"$T/check"
is "$(field '{safe}' <"$T/check")" 1 "check --json: safe"
is "$(field '{facts}[0]{fact}' <"$T/check")" volume "check --json: facts"
"$ntfsmap" map --json "$raw" >"$T/map"
is "$(perl -MJSON::PP -e 'local $/; print join "\n", map { join " ", $_->{start} / 512, $_->{length} / 512,
	$_->{device_offset} / 512 } @{decode_json(<STDIN>)}' <"$T/map")" \
	"$("$ntfsmap" -q "$raw" 2>/dev/null | our_table)" "map --json and the table agree"
is "$(perl -MJSON::PP -e 'local $/; my $n = 0; $n += $_->{length} for @{decode_json(<STDIN>)}; print $n' <"$T/map")" \
	1048576 "map --json covers the disk"
is "$("$ntfsmap" map "$raw" | tail -n +2 | awk '{ print $1 }' | head -1)" 0x0 "map for people begins at 0"

is "$("$ntfsmap" cat "$raw" | sha256sum)" "$(ntfscat "$img" /a.raw | sha256sum)" "cat equals ntfscat"
if type -P script >/dev/null; then
	script -qec "'$ntfsmap' cat '$raw' >'$T/copy'" "$T/typescript" >/dev/null 2>&1
	like "$(tr '\r' '\n' <"$T/typescript")" '\[#+\] 100%  1\.0 MiB of 1\.0 MiB' "cat on a terminal shows a progress bar"
	is "$(hash_of "$T/copy")" "$(ntfscat "$img" /a.raw | sha256sum | cut -d' ' -f1)" "  and copies the same"
fi
is "$("$ntfsmap" list --json)" '[]' "list --json without device-mapper: empty" ||
	diag "(this machine has open mappings)"

# Messages reach a person once: quiet hides notes, not errors.
like "$("$ntfsmap" "$raw" 2>&1 >/dev/null)" 'LogFile' "notes are on stderr"
unlike "$("$ntfsmap" -q "$raw" 2>&1 >/dev/null)" 'LogFile' "--quiet hides notes"
like "$("$ntfsmap" --debug info "$img:/none" 2>&1)" 'debug|there is no' "--debug"

done_testing
