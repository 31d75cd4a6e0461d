#!/bin/bash
# What the volume says about Windows: hibernation marker, log, dirty flag. They are the normal case here, so they warn
# and do not refuse; only a resume that did not finish, or something unknown, does.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs

# state CODE FACT VERDICT REGEX NAME
state() {
	run "$ntfsmap" check "$img:/d"
	is "$status" "$1" "$5: exit $1"
	like "$out" "(^|"$'\n'")$3 +$2 +[^"$'\n'"]*$4" "  $2: $3"
}

fresh() {
	volume 32M
	f file /d 64K
}

fresh
state 0 hiberfile ok 'no hiberfil.sys' "no Windows here"
state 0 dirty ok 'not marked' "a clean volume"
state 0 logfile warn 'emptied' "a log that mkntfs made"

hiber() {
	fresh
	f hiberfil "$1" "$2"
	state "$3" hiberfile "$4" "$5" "$1 with $2"
}
for name in hiberfil.sys HIBERFIL.SYS Hiberfil.Sys; do
	hiber "$name" hibr 0 warn 'is hibernated'
done
hiber hiberfil.sys HIBR 0 warn 'is hibernated'
hiber hiberfil.sys wake 0 ok 'not hibernated'
hiber hiberfil.sys WAKE 0 ok 'not hibernated'
hiber hiberfil.sys zero 0 ok 'not hibernated'
hiber hiberfil.sys rstr 2 refuse 'did not finish'
hiber hiberfil.sys RSTR 2 refuse 'did not finish'
hiber HIBERFIL.SYS RSTR 2 refuse 'did not finish'
run "$ntfsmap" check --allow=hiberfile "$img:/d"
is "$status" 0 "--allow=hiberfile lifts it"
hiber hiberfil.sys deadbeef 2 refuse 'not known'
like "$("$ntfsmap" "$img:/d" 2>&1)" '--allow=hiberfile' "the message names the word"

log() {
	fresh
	f logfile "$1" "$2"
	state 0 logfile "$3" "$4" "log $1 $2"
}
log 2.0 inuse warn 'in use when Windows went to sleep or crashed \(version 2\.0\)'
log 2.0 clean warn 'in use when Windows went to sleep'
log 1.1 clean ok 'cleanly dismounted \(version 1\.1\)'
log 1.1 inuse warn 'not cleanly dismounted \(version 1\.1\)'
log 1.1 reset warn 'emptied'

# One torn restart page: the other one tells. Both torn: no evidence, said so.
log_sector() {
	local cluster lcn
	cluster=$("$forge" "$img" geometry | sed -n 's/cluster_size=//p')
	lcn=$(ntfscluster -q -I 2 "$img" 2>/dev/null | awk '/^ *0x80/ { data = 1 } data && /^ *0 +[0-9]+ +[0-9]+$/ { print $2; exit }')
	echo $((lcn * cluster / 512))
}
fresh
f logfile 2.0 inuse
sector=$(log_sector)
printf XX | dd of="$img" bs=1 seek=$((sector * 512 + 510)) conv=notrunc status=none
state 0 logfile warn 'version 2\.0' "the first restart page is torn"
printf XX | dd of="$img" bs=1 seek=$((sector * 512 + 4096 + 510)) conv=notrunc status=none
state 2 logfile warn 'no valid restart page' "both are torn"

fresh
f dirty on
state 0 dirty warn 'marked the volume for a check' "the dirty flag"
f dirty off
state 0 dirty ok 'not marked' "and without it"

# check of a volume without a file
run "$ntfsmap" check "$img:/"
is "$status" 2 "a folder is no file to map"

done_testing
