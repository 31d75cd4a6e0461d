# shellcheck shell=bash
# Where a file lies on an NTFS volume according to ntfs-3g's tools, and the hash of everything else. Used by the tests
# and by the demo; $img is the volume, $forge is ntfsforge.
# shellcheck disable=SC2154

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

# outside TABLE FILE: the bytes of FILE that no line of TABLE (START LENGTH SECTOR) covers, for comparing hashes.
outside() {
	local at=0 count sector
	while read -r _ count sector; do
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
