# shellcheck shell=bash
# What the tests of ntfsmap share: NTFS volumes in files, and a file that runs half here, half in the machine.
# Source it after tap.sh. The first `volume` is $img.
ntfsmap=$top/build/bin/ntfsmap
forge=$top/build/tests/ntfsforge
img=$T/volume.img

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

# The runs as device-mapper would have them, from ntfscluster: START LENGTH SECTOR, neighbours merged, cut to the
# given bytes. This does not use a line of ours.
oracle_table() {
	local path=$1 bytes=$2 cluster
	cluster=$("$forge" "$img" geometry | sed -n 's/cluster_size=//p')
	ntfscluster -q -F "$path" "$img" | awk -v per=$((cluster / 512)) -v left=$((bytes / 512)) '
		/^ *0x/ { data = /^ *0x80/ }
		!data || !/^ *[0-9]+ +-?[0-9]+ +[0-9]+$/ || $2 < 0 { next }
		{
			count = $3 * per
			if (count > left) count = left
			left -= count
			if (!count) next
			if (n && last + len == $2 * per) { len += count; next }
			if (n++) print start, len, last
			start += len; last = $2 * per; len = count
		}
		END { if (n) print start, len, last }'
}

# The table that ntfsmap prints, in the same form.
our_table() {
	awk '$3 == "linear" { print $1, $2, $5 }'
}

# outside TABLE FILE: the bytes of FILE that no line of TABLE (START LENGTH SECTOR) covers, for comparing hashes.
outside() {
	local at=0 start count sector
	while read -r start count sector; do
		echo "$sector $count"
	done <"$1" | sort -n | {
		while read -r sector count; do
			[ "$sector" = "$at" ] || dd if="$2" iflag=skip_bytes,count_bytes skip=$((at * 512)) \
				count=$(((sector - at) * 512)) bs=1M status=none
			at=$((sector + count))
		done
		dd if="$2" iflag=skip_bytes skip=$((at * 512)) bs=1M status=none
	}
}

hash_outside() {
	outside "$1" "$2" | sha256sum | cut -d' ' -f1
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
