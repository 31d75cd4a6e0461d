# SPDX-License-Identifier: GPL-2.0-or-later
# What tests of images with models say about them. Source it after ntfs.sh; the images and their models, NAME.raw,
# are in the folder $d.
# shellcheck shell=bash disable=SC2154 # $d, $T, $ntfsmap, $status, $out, $err

# json EXPRESSION: of what comes on standard input, {key}[0]...
json() {
	perl -MJSON::PP -e 'local $/; my $j = decode_json(<STDIN>); print eval "\$j->$ARGV[0]" // "null"' "$1"
}

# device_reads DEVICE NAME WHAT
device_reads() {
	cmp -s "$d/$2.raw" <(read_direct "/dev/mapper/$1")
	result $? "$3"
}

devices() {
	udevadm settle 2>/dev/null
	dmsetup ls | awk '/^[^N]/ { print $1 }' | sort | xargs
}

# cat_reads NAME SOURCE WHAT [OPTION...]: cat shows the model
cat_reads() {
	local name=$1 source=$2 what=$3
	shift 3
	"$ntfsmap" cat -q "$@" "$source" >"$T/seen" 2>"$T/err"
	cmp "$T/seen" "$d/$name.raw" >>"$T/err" 2>&1
	result $? "$what" || diag "$(<"$T/err")"
}

# tried STATUS REGEX WHAT SOURCE [OPTION...]: by table --concise and by check, with the same reason
tried() {
	local want=$1 regex=$2 what=$3
	shift 3
	run "$ntfsmap" table --concise t "$@"
	is "$status" "$want" "$what: exit $want"
	like "$err" "$regex" '  says why'
	like "$out" '^refused: ' '  spoils the table'
	run "$ntfsmap" check "$@"
	is "$status" "$want" '  check agrees' || diag "$out$err"
}
