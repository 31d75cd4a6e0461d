#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What the pass over the MFT costs: processor time of `ntfsmap check` with and without it, on a volume of 200 000 files
# of one cluster, all of it in the page cache.
# Usage: make bench-owners, or bench/owners.sh [FILES] after `make tools`. The bar: a million files in about a second.
set -euo pipefail
top=$(realpath "$(dirname "$0")/..")
PATH=$top/build/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
files=${1:-200000}
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

img=$work/volume.img
truncate -s $((1024 + files / 128))M "$img"
mkntfs -q -F -Q "$img" >/dev/null 2>&1
"$top/build/tests/ntfsforge" "$img" file /image.raw 100M runs=500 order=shuffle seed=1 fill=none
"$top/build/tests/ntfsforge" "$img" many /files "$files"

# The least user and system time in milliseconds of seven runs.
measure() {
	local best=999999 user sys TIMEFORMAT='%3U %3S'
	for _ in 1 2 3 4 5 6 7; do
		read -r user sys < <({ time "$@" >"$work/out" 2>"$work/err"; } 2>&1)
		user=$((10#${user/./} + 10#${sys/./}))
		[ "$user" -ge "$best" ] || best=$user
	done
	echo "$best"
}

cat "$img" >/dev/null
with=$(measure ntfsmap check "$img:/image.raw")
grep -q '^ok  *owners .* claims' "$work/out" || { cat "$work/out" "$work/err" >&2 && exit 1; }
without=$(measure ntfsmap check --quick "$img:/image.raw")
printf '%d records: check %d ms, check --quick %d ms of processor time\n' \
	"$(sed -n 's/^ok  *owners .*(\([0-9]*\) records)/\1/p' <(ntfsmap check "$img:/image.raw"))" "$with" "$without"
