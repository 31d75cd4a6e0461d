#!/usr/bin/env bash
# The parser of /etc/ntfsmaptab, through `ntfsmap cmdline`, which prints what it has read: every option and escape, each
# error with its file and line. The kernel command line itself is for up.t.
. "$(dirname "$0")/lib/tap.sh"
. "$top/tests/lib/ntfs.sh"
need perl mkntfs
tab=$T/tab

# entry LINE...: the table has these lines
entry() {
	printf '%s\n' "$@" >"$tab"
}

# What is printed for the entry called n.
printed() {
	run "$ntfsmap" cmdline --tab "$tab" n
}

# reads LINE WORDS NAME: the words of the answer, each without its escapes, in brackets
reads() {
	entry "$1"
	printed
	is "$status $(perl -pe 'chomp; s/^ntfsmap=// or die; $_ = join "", map { s/\\([0-7]{3})/chr oct $1/ger }
		map { "[$_]" } split /,/, $_, -1' <<<"$out")" "0 $2" "$3" || diag "$err"
}

# wrong LINE MESSAGE NAME: an error that names the line and says that; nothing else is said
wrong() {
	entry '# first' "$1"
	printed
	is "$status" 1 "$3: exit 1"
	like "$err" "^ntfsmap: $tab:2: .*$2" "  $tab:2, and why"
	is "$(wc -l <"$T/err")" 1 "  in one line" || diag "$err"
	is "$out" '' "  and nothing is printed"
}

reads 'n UUID=1234:/d.vhd' '[n][UUID=1234:/d.vhd]' "no options"
reads $'\t n \t UUID=1:/d \t ro \t' '[n][UUID=1:/d][ro]' "blanks and tabs before, between and behind"
reads 'n LABEL=A\040B:/x\054y\040z' '[n][LABEL=A B:/x,y z]' "\\040 and \\054 in the SOURCE"
reads 'n LABEL=W:/x,y' '[n][LABEL=W:/x,y]' "a comma in the SOURCE needs no escape"
reads 'n LABEL=W:\disks\0my.vhd' '[n][LABEL=W:\disks\0my.vhd]' "a backslash that begins no escape is one"
reads 'n LABEL=W:/a\134040b' '[n][LABEL=W:/a\040b]' "\\134 is a backslash"
reads 'n LABEL=W:/\303\274' '[n][LABEL=W:/ü]' "any byte can be written so" # UTF-8, two bytes
reads 'n LABEL=W:/a"b' '[n][LABEL=W:/a"b]' "a quotation mark"
reads 'n UUID=1:/d ro,partitions,static,quick,nofail' '[n][UUID=1:/d][ro][partitions][static][quick][nofail]' "flags"
reads 'n UUID=1:/d overlay=UUID=2:/o\054x,parent=LABEL=P:/p,data=/d,format=qcow2,snapshot=a\040b' \
	'[n][UUID=1:/d][overlay=UUID=2:/o,x][parent=LABEL=P:/p][data=/d][format=qcow2][snapshot=a b]' "values"
reads 'n UUID=1:/d overlay=tmpfs' '[n][UUID=1:/d][overlay=tmpfs]' "overlay=tmpfs"
reads 'n UUID=1:/d timeout=0,allow=cloud,allow=offline' '[n][UUID=1:/d][timeout=0][allow=cloud][allow=offline]' \
	"timeout=, and allow= twice"
reads 'n UUID=1:/d timeout=1234567' '[n][UUID=1:/d][timeout=1234567]' "the longest timeout"
reads 'n UUID=1:/d noauto,host=/mnt/win,x-initrd.attach,x-anything=else' '[n][UUID=1:/d]' \
	"what does not matter before root is there"
printf '# a comment\n\n \t\n  # another\nn UUID=1:/d' >"$tab"
printed
is "$out" 'ntfsmap=n,UUID=1:/d' "comments, empty lines, no line feed at the end"
entry 'm UUID=1:/m' 'n UUID=1:/d' 'o UUID=1:/o ro'
printed
is "$out" 'ntfsmap=n,UUID=1:/d' "one of several"
entry "$(printf 'n%.0s' {1..60}) UUID=1:/d"
ok "a name of 60 bytes" "$ntfsmap" cmdline --tab "$tab" "$(printf 'n%.0s' {1..60})"
entry 'n#+.:=@_- UUID=1:/d'
ok "all that a name may have" "$ntfsmap" cmdline --tab "$tab" 'n#+.:=@_-'

wrong 'n' 'n has no SOURCE' "no SOURCE"
wrong 'n UUID=1:/d ro noauto' '"noauto" is one word too many.*\\040' "four words"
wrong 'n UUID=1:/d # why' 'one word too many' "a comment behind the line"
wrong 'n UUID=1:/d rw' '"rw" is no option' "an unknown option"
wrong 'n UUID=1:/d RO' '"RO" is no option' "the case counts"
wrong 'n UUID=1:/d ro,' 'comma too many' "a comma at the end"
wrong 'n UUID=1:/d ro,,noauto' 'comma too many' "two commas"
wrong 'n UUID=1:/d ro=1' 'ro takes no value.*"ro=1"' "a flag with a value"
wrong 'n UUID=1:/d parent' 'parent needs a value' "an option without its value"
wrong 'n UUID=1:/d parent=' 'parent= has no value' "an empty value"
wrong 'n UUID=1:/d ro,ro' 'ro is given twice' "a flag twice"
wrong 'n UUID=1:/d ro,partitions,overlay=tmpfs' 'ro and overlay=: .*leave one of them out' "ro with an overlay"
wrong 'n UUID=1:/d format=raw,format=vhd' 'format is given twice' "a value twice"
wrong 'n UUID=1:/d timeout=1,timeout=0' 'timeout is given twice' "timeout= twice"
for value in 1m -1 '' 1.5 12345678; do
	wrong "n UUID=1:/d timeout=$value" 'timeout=' "timeout=$value"
done
wrong 'n UUID=1:/d host=win' 'host=win: a path that begins with /' "host= without a path"
wrong "n UUID=1:/d $(printf 'allow=cloud,%.0s' {1..16})allow=cloud" 'more than 16 times' "17 words of allow="
wrong 'a/b UUID=1:/d' '"a/b" cannot be a device.s name' "a name with a slash"
wrong '-n UUID=1:/d' 'no .-. in front' "a name with - in front"
wrong "$(printf 'n%.0s' {1..61}) UUID=1:/d" '60 bytes' "a name of 61 bytes"

# Nothing that a terminal or a log should not get, however it is written.
wrong $'n\e[31m UUID=1:/d' '"n\?\[31m" cannot' "an escape sequence in the name"
wrong $'n UUID=1:/d\e[31m' 'SOURCE "UUID=1:/d\?\[31m" has a control character' "  in the SOURCE"
wrong 'n UUID=1:/d\033[31m' 'control character' "  in the SOURCE, in octal"
wrong 'n UUID=1:/d snapshot=\012' 'control character' "  a line feed in an option"
wrong 'n UUID=1:/d\000x' 'control character' "  NUL in octal"
wrong 'n UUID=1:/d x-y=\302\205' 'control character' "  one of UTF-8's, in another's option"
wrong $'n UUID=1:/d ro\r' 'control character' "  a line end of Windows"
printf 'n UUID=1:/d\0 ro\n' >"$tab"
printed
is "$status" 1 "a NUL byte: exit 1"
like "$err" "$tab: byte 11 is NUL" "  and where"

# A line that is wrong does not take the others away; a name that is there twice is gone.
entry 'n UUID=1:/d' 'm UUID=1:/m' 'n UUID=1:/e ro'
printed
is "$status" 1 "a name twice: exit 1"
like "$err" "$tab:3: n is there twice, and is in $tab:1, too" "  both lines are named"
entry 'a' 'b UUID=1:/b rw' 'c UUID=1:/c,d' 'd UUID=1:/d x'
run "$ntfsmap" cmdline --tab "$tab" c
is "$(grep -oE ':[0-9]: ' "$T/err" | tr -d '\n')" ':1: :2: :4: ' "each line that is wrong is said"

exits 4 "no table" "$ntfsmap" cmdline --tab "$T/none" n
like "$err" "$T/none: No such file" "  names it"
exits 2 "a folder" "$ntfsmap" cmdline --tab "$T" n
exits 2 "a device" "$ntfsmap" cmdline --tab /dev/zero n
head -c 262145 /dev/zero | tr '\0' '#' >"$tab"
exits 1 "too long a table" "$ntfsmap" cmdline --tab "$tab" n
like "$err" 'longer than 262144 bytes' "  says so"
seq -f 'n%g UUID=1:/d' 1024 >"$tab"
ok "1024 entries" "$ntfsmap" cmdline --tab "$tab" n1024
echo 'n UUID=1:/d' >>"$tab"
printed
like "$status $err" "1 ntfsmap: $tab:1025: more than 1024 entries" "  and no more"

# Usage of the three verbs
entry 'n UUID=1:/d'
exits 1 "cmdline needs a NAME" "$ntfsmap" cmdline --tab "$tab"
exits 1 "up: NAME and --device" "$ntfsmap" up --tab "$tab" --device /dev/null n
exits 1 "up: --initrd and --device" "$ntfsmap" up --tab "$tab" --device /dev/null --initrd
exits 1 "down has no --initrd" "$ntfsmap" down --tab "$tab" --initrd
exits 4 "up of what the table does not name" "$ntfsmap" up --tab "$tab" nosuch
like "$err" "$tab names no \"nosuch\"" "  says so"
exits 4 "down of it" "$ntfsmap" down --tab "$tab" nosuch
exits 4 "up --device of no device" "$ntfsmap" up --tab "$tab" --device "$T/none"
: >"$tab"
exits 0 "up of an empty table" "$ntfsmap" up --tab "$tab"
exits 0 "down of it" "$ntfsmap" down --tab "$tab"

# A path on a volume that is here gets a name that lasts.
volume 16M
f file /Disk.raw 64K
f file '/a b,c.raw' 64K
f stream /Disk.raw alt 64K
uuid=$(blkid -p -s UUID -o value "$img")
entry "n $img:/Disk.raw ro" "o $img:\\disk.RAW" "p $img:/a\\040b,c.raw" "q $img:/Disk.raw:alt" "r $img:/none"
printed
is "$out" "ntfsmap=n,UUID=$uuid:/Disk.raw,ro" "cmdline: a device here becomes its UUID"
for want in "o UUID=$uuid:/disk.RAW" "p UUID=$uuid:/a\\040b\\054c.raw" "q UUID=$uuid:/Disk.raw:alt" "r $img:/none"; do
	is "$("$ntfsmap" cmdline -q --tab "$tab" "${want%% *}")" "ntfsmap=${want/ /,}" "cmdline of $want"
done
done_testing
