#!/bin/bash
# Names that somebody chose to do harm: of files, parents, snapshots, a volume. Whatever is printed, on either side, is
# text that acts on no terminal and no log; JSON says the name.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfslabel qemu-img perl jq
esc=$'\e[31m\e]0;x\a' c1=$'\302\2332J' turned=$'\342\200\256gpj.exe\342\201\246' line=$'\342\200\250' del=$'\177'
shell="'\"\$(touch was-run)\`x\`;&%n%s\\"
nasty="h$esc$c1$turned$line$del"$'\n'"INJECTED \"'$c1"
volume 64M
ntfslabel -q -f "$img" "L$esc$c1$turned" 2>/dev/null || bail "ntfslabel"
f mkdir "/$nasty"
f file "/$nasty/$nasty.raw" 1M runs=3 fill=pattern

# Every byte is of a character, and no character does anything.
harmless() {
	perl -e 'use Encode; local $/; my $text = eval { decode("UTF-8", scalar <STDIN>, Encode::FB_CROAK) } // die "no UTF-8\n";
		$text =~ /([\x00-\x09\x0b-\x1f\x7f-\x9f\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}])/ and
			die sprintf "U+%04X\n", ord $1;
		$text =~ /^\W*INJECTED/m and die "a line of its own\n"' <"$1"
}

# says COMMAND...: on both sides
says() {
	run "$ntfsmap" "$@"
	ok "$(printf '%q ' "${@:1:2}"): its output is harmless (status $status)" harmless "$T/out"
	ok "  so is what it says" harmless "$T/err"
}

# tells FILTER EXPECTED: JSON of the last command has exactly that name
tells() {
	is "$(jq -r "$1" "$T/out")" "$2" "  JSON has the name as it is"
}

files() {
	local source=$img:/$nasty/$nasty.raw verb
	for verb in info check map log; do
		says "$verb" "$source"
		[ "$verb" = log ] || is "$status" 0 "  and it works"
		says "$verb" --json "$source"
	done
	says info --json "$source"
	tells .file.path "/$nasty/$nasty.raw"
	tells .volume.label "L$esc$c1$turned"
	tells .source "$source"
	says table --debug "$source"
	says cat "$img:/$nasty"
	says table "$source-none"
	like "$out" '^refused: .*there is no /h\?\[31m' "  a name that is not there is shown defused"
	says check "$img:/$nasty" # a folder
	says info "$img:/$nasty/..:x"
	says open "$img:/$nasty" "$nasty"
	says "$nasty" x
	says table --format "$nasty" "$source"
	says table "--allow=$nasty" "$source"
	says check "--repair=$nasty" "$source"
	# half a surrogate pair, which Windows allows in a name
	f file $'/half\355\240\200.raw' 64K fill=pattern
	says info $'/half\355\240\200.raw'
	says info --json "$img:/half"$'\355\240\200.raw'
	is "$status" 0 "half a surrogate pair"
	tells .file.path '/half???.raw'
}

# The names in an image.
parents() {
	local name=$c1$turned$line$shell
	local base=$T/$name.raw
	truncate -s 1M "$base"
	qemu-img create -q -f qcow2 -u -b "$name.raw" -F raw "$T/child.qcow2" 1M || bail "qemu-img"
	says info "$T/child.qcow2"
	is "$status" 0 "  and it works"
	says info --json "$T/child.qcow2"
	tells '.parents[0].source' "$base"
	says map "$T/child.qcow2"
	says check "$T/child.qcow2"
	says table --concise n "$T/child.qcow2"
	rm "$base"
	says info "$T/child.qcow2"
	says cat "$T/child.qcow2"
	like "$err" 'its parent was not found' "  a parent that is not there"
	says check "$T/child.qcow2"
	qemu-img create -q -f qcow2 "$T/snapshot.qcow2" 1M
	qemu-img snapshot -c "s$esc$c1$turned" "$T/snapshot.qcow2"
	says info "$T/snapshot.qcow2"
	says cat --snapshot=none "$T/snapshot.qcow2"
	says info --json "$T/snapshot.qcow2"

	"$top/tests/lib/makevhd.pl" "$T/base.vhd" "$T/base.model" size=4194304 block=524288 allocate=40 seed=1 creator=win \
		>/dev/null || bail makevhd
	"$top/tests/lib/makevhd.pl" "$T/child.vhd" "$T/child.model" size=4194304 block=524288 allocate=40 seed=2 creator=win \
		parent="$T/base.vhd" parent_model="$T/base.model" locators=w2ru "parent_path=.\\a"$'\n'"0 8 linear \\dev\\sda 0" \
		>/dev/null || bail makevhd
	mkdir -p "$T/a"$'\n'"0 8 linear /dev"
	cp "$T/base.vhd" "$T/a"$'\n'"0 8 linear /dev/sda 0"
	says table --concise n "$T/child.vhd"
	is "$status" 4 "  no parent's name has a line feed"
	unlike "$out" 'linear /dev/sda' "  which would be a line of the table"
}

# A table has no way to say such a name, and dmsetup would read two lines.
tables() {
	local odd=$T/$'x\n0 8 linear 8:0 0\n.img'
	cp --sparse=always "$img" "$odd" 2>/dev/null || { mkdir -p "${odd%/*}" && cp --sparse=always "$img" "$odd"; }
	f file /plain.raw 64K fill=pattern
	cp --sparse=always "$img" "$odd"
	says table "$odd:/plain.raw"
	is "$status" 2 "a volume in a file with a line feed in its name: no table"
	like "$err" 'control character.*rename' "  says why"
	says map "$odd:/plain.raw"
	is "$status" 0 "  but it can be looked at"
	printf 'NAME %s:/plain.raw\n' $'UUID=\342\200\256' >"$T/tab"
	says cmdline --tab "$T/tab" NAME
	is "$out" 'ntfsmap=NAME,UUID=\342\200\256:/plain.raw' "  a parameter that shows what it has"
	printf 'n%s UUID=1:/x host=relative\n' "$esc$c1" >"$T/tab"
	says cmdline --tab "$T/tab" NAME
	run env NTFSMAP_TAB="$T/tab" NTFSMAP_FSTAB="$T/none" "$top/build/boot/ntfsmap-generator" "$T"
	ok "the generator's words are harmless" harmless "$T/err"
}

# The completion shows labels of volumes that are plugged in.
completion() {
	mkdir -p "$T/bin"
	cat >"$T/bin/lsblk" <<-'END'
		#!/bin/sh
		printf '%s\n' 'ntfs part evil\x1b[31m\x0aINJECTED\x20$(touch\x20'"$T"'/was-run)' 'ntfs part ok'
	END
	chmod +x "$T/bin/lsblk"
	env "PATH=$T/bin:$PATH" "T=$T" bash -c '. "$1"; COMP_WORDS=(ntfsmap info LABEL = ""); COMP_CWORD=4
		_ntfsmap; printf "%s\n" "${COMPREPLY[@]}"' - "$top/ntfsmap/completion.bash" >"$T/words" 2>&1
	ok "what the completion offers is harmless" harmless "$T/words"
	is "$(wc -l <"$T/words")" 2 "  a line for each volume"
	eval "word=$(head -1 "$T/words")"
	# shellcheck disable=SC2154 # by eval
	is "$word" $'evil\e[31m\nINJECTED $(touch '"$T/was-run):/" "  and means the label"
	ok "nothing of it is run" test ! -e "$T/was-run"
}

files
parents
tables
completion
done_testing
