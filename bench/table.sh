#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# How long a table takes: `ntfsmap SOURCE` for files of 1, 1 000 and 100 000 runs, and the memory it needs.
# Usage: bench/table.sh, after `make tools`. The bar: 100 000 runs in under one second.
set -euo pipefail
top=$(realpath "$(dirname "$0")/..")
PATH=$top/build/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

img=$work/volume.img
truncate -s 8G "$img"
mkntfs -q -F -Q "$img" >/dev/null 2>&1
for runs in 1 1000 100000; do
	"$top/build/tests/ntfsforge" "$img" file "/runs$runs" 400M runs=$runs order=shuffle seed=1 fill=none
done

# best MICROSECONDS of five runs, and the largest resident set
measure() {
	local runs=$1 best=999999999 rss=0 start end
	for _ in 1 2 3 4 5; do
		start=$(date +%s%N)
		"${@:2}" >"$work/out" 2>"$work/err"
		end=$(date +%s%N)
		[ $(((end - start) / 1000)) -ge "$best" ] || best=$(((end - start) / 1000))
	done
	if type -P time >/dev/null; then
		rss=$(command time -f %M "${@:2}" 2>&1 >/dev/null | tail -1)
	fi
	printf '%8d  %10d  %9d.%01d  %9s\n' "$runs" "$(wc -l <"$work/out")" $((best / 1000)) $((best % 1000 / 100)) "$rss"
}

printf '%8s  %10s  %11s  %9s\n' runs lines milliseconds KiB
for runs in 1 1000 100000; do
	measure "$runs" ntfsmap -q "$img:/runs$runs"
done
