#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Draws bench/cost.svg from bench/results.tsv (CASE<tab>SUBJECT<tab>INSTRUCTIONS). The same figures make the same bytes.
# Usage: make bench-chart, or bench/chart.sh [RESULTS [SVG]].
set -euo pipefail
here=$(realpath "$(dirname "$0")")
results=${1:-$here/results.tsv}
out=${2:-$here/cost.svg}
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What is drawn: not all that is measured.
cases=' read-4k write-4k read-1m write-1m write-fdatasync first-4k '
subjects=' linear vhd qcow2 qcow2-1000 loop snapshot qemu-nbd-qcow2 '

[ -s "$results" ] || { echo "chart.sh: $results: no figures: run bench/icount.sh" >&2; exit 1; }
# Subjects and cases in the order in which they come first; what was not measured stays empty.
awk -F'\t' -v only_cases="$cases" -v only_subjects="$subjects" '
	NF != 3 || $3 !~ /^[0-9.]+$/ {
		print FILENAME ":" FNR ": not CASE, SUBJECT and a number: " $0 >"/dev/stderr"
		bad = 1
		next
	}
	!index(only_cases, " " $1 " ") || !index(only_subjects, " " $2 " ") { next }
	!($1 in case_seen) { case_seen[$1] = 1; cases[++n] = $1 }
	!($2 in subject_seen) { subject_seen[$2] = 1; subjects[++m] = $2 }
	{ value[$1, $2] = $3 }
	END {
		if (bad || !n) exit 1
		printf "case"
		for (j = 1; j <= m; j++) printf "\t%s", subjects[j]
		print ""
		for (i = 1; i <= n; i++) {
			printf "%s", cases[i]
			for (j = 1; j <= m; j++)
				printf "\t%s", (cases[i], subjects[j]) in value ? value[cases[i], subjects[j]] : "-"
			print ""
		}
	}' "$results" >"$work/data"
columns=$(($(head -n 1 "$work/data" | tr '\t' '\n' | wc -l) - 1))
n_cases=$(($(wc -l <"$work/data") - 1))
LC_ALL=C gnuplot -e "data='$work/data'; out='$work/svg'; columns=$columns; cases=$n_cases" "$here/chart.gp"
# gnuplot writes its own version; nothing else in the file is about the machine.
sed -e 's/<desc>.*<\/desc>/<desc>made by bench\/chart.sh<\/desc>/' "$work/svg" >"$out"
