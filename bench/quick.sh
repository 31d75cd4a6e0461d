#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The ratios that matter, each with its bar, and what has become more expensive than in the committed results.tsv. Exits 1
# when a bar is missed. Usage: make bench-quick, or bench/quick.sh [RESULTS] with figures that icount.sh printed before.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ $# -gt 0 ]; then
	cp "$1" "$work/now"
else
	"$here/icount.sh" read write large sync first cold >"$work/now"
	"$here/scaling.sh" 9 >>"$work/now"
fi
[ ! -e "$here/results.tsv" ] || awk -F'\t' '
	NR == FNR { old[$1, $2] = $3; next }
	($1, $2) in old && $1 != "scaling" && $1 != "open" && $3 > 1.01 * old[$1, $2] {
		printf "note: %s %s: %s instructions, and %s in results.tsv\n", $1, $2, $3, old[$1, $2]
	}' "$here/results.tsv" "$work/now"

awk -F'\t' '
	function value(case_, subject) {
		if (!((case_, subject) in v)) { print "no figure: " case_ " " subject; missed = 1; return 0 }
		return v[case_, subject]
	}
	function judge(what, figure, sign, bar) {
		good = sign == "<=" ? figure <= bar : figure >= bar
		if (!good) missed = 1
		printf "%-6s  %-58s %8.3f  %s %s\n", good ? "ok" : "MISSED", what, figure, sign, bar
	}
	function over(case_, a, b, bar) {
		if (value(case_, b)) judge(case_ ": " a " / " b, value(case_, a) / value(case_, b), "<=", bar)
	}
	function fewer(case_, a, b, bar) {
		if (value(case_, b)) judge(case_ ": " a " / " b, value(case_, a) / value(case_, b), ">=", bar)
	}
	{ v[$1, $2] = $3 }
	END {
		n = split("read-4k write-4k read-1m write-1m write-fdatasync", cases, " ")
		for (i = 1; i <= n; i++) {
			over(cases[i], "qcow2", "linear", 1.05)
			over(cases[i], "vhd", cases[i] == "write-fdatasync" ? "linear" : "linear-vhd", 1.05)
		}
		for (i = 1; i < n; i++)
			over(cases[i], "qcow2-1000", "linear-1000", 1.05)
		for (i = 1; i <= 2; i++) {
			more = value(cases[i], "qcow2-1000") - value(cases[i], "qcow2")
			its = value(cases[i], "linear-1000") - value(cases[i], "linear")
			if (its) judge(cases[i] ": what 1000 extents add, qcow2 / linear", more / its, "<=", 1)
		}
		over("first-4k", "qcow2", "linear-64k", 1.5)
		over("fill-64k", "qcow2", "linear", 1.15)
		over("fill-1m", "qcow2", "linear", 1.15)
		fewer("read-4k", "qemu-nbd-qcow2", "qcow2", 8)
		fewer("read-1m", "qemu-nbd-qcow2", "qcow2", 20)
		fewer("first-4k", "qemu-nbd-qcow2", "qcow2", 4)
		fewer("write-fdatasync", "qemu-nbd-qcow2", "qcow2", 10)
		judge("metadata reads of a cold look-up, qcow2 (2 levels)", value("cold-metadata-reads", "qcow2"), "<=", 2)
		judge("metadata reads of a cold look-up, vhd (1 level)", value("cold-metadata-reads", "vhd"), "<=", 1)
		judge("opening a qcow2 of 64 TiB, milliseconds", value("open", "qcow2-64t") / 1e6, "<=", 50)
		if (("scaling", "qcow2") in v)
			judge("second processor: qcow2 / linear, of their own scaling", value("scaling", "qcow2"), ">=", 0.95)
		exit missed
	}' "$work/now"
