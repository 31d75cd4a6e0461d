# shellcheck shell=bash
# What the tests of ntfsmap share: NTFS volumes in files, and a file that runs half here, half in the machine.
# Source it after tap.sh. The first `volume` is $img.
# shellcheck disable=SC2034,SC2154 # for the tests; $top is tap.sh's
ntfsmap=$top/build/bin/ntfsmap
forge=$top/build/tests/ntfsforge
img=$T/volume.img
# shellcheck source-path=SCRIPTDIR source=volume.sh
. "$top/tests/lib/volume.sh"

# volume SIZE [MKNTFS OPTION...]: an empty NTFS volume in $img. mkntfs takes the serial number from the clock.
volumes=0
volume() {
	volumes=$((volumes + 1))
	rm -f "$img"
	truncate -s "$1" "$img"
	shift
	mkntfs -q -F -Q "$@" "$img" >/dev/null 2>&1 || bail "mkntfs $* failed"
	ntfslabel -q -f --new-serial="$(printf 'ABCDEF%010X' "$volumes")" "$img" >/dev/null 2>&1 || bail "ntfslabel failed"
}

f() {
	"$forge" "$img" "$@" || bail "ntfsforge $* failed"
}

# The table that ntfsmap prints, in the same form.
our_table() {
	awk '$3 == "linear" { print $1, $2, $5 }'
}

# Results of a run of this file inside the machine become ours.
guest_tests() {
	local line status=0
	in_vm "$@" -- bash "$0" >"$T/guest.tap" || status=$?
	while IFS= read -r line; do
		case $line in
		'not ok '*) result 1 "machine: ${line#*- }" || : ;;
		'ok '*) result 0 "machine: ${line#*- }" ;;
		esac
	done <"$T/guest.tap"
	grep -q '^1\.\.' "$T/guest.tap" && [ "$status" -le 1 ]
	result $? "the machine ran the file to its end (status $status)" || :
}

# exits STATUS NAME COMMAND...
exits() {
	local want=$1 name=$2
	shift 2
	run "$@"
	is "$status" "$want" "$name: exit $want" || diag "$err"
}

# True in the machine.
in_machine() {
	[ -n "${VM_GUEST:-}" ]
}

hash_of() {
	sha256sum <"$1" | cut -d' ' -f1
}

# Around the page cache: device-mapper writes beneath that of the device.
read_direct() {
	dd if="$1" iflag=direct bs=1M status=none
}
