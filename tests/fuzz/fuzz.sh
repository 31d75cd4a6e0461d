#!/usr/bin/env bash
# make fuzz: fuzz.sh SECONDS TARGET... runs each target for so long, from its seeds, the regressions, and what earlier
# runs have found out (build/fuzz/corpus). An input that fails is kept in build/fuzz/found.
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=$1 failed=0
shift
type -P clang >/dev/null || { echo "make fuzz: clang is not installed" >&2; exit 1; }
mkdir -p build/fuzz/found

# regressions are not there for each of them
folders_of() {
	local folder
	for folder in "build/fuzz/corpus/$1" "build/fuzz/seeds/$1" "tests/fuzz/regressions/$1"; do
		[ ! -d "$folder" ] || echo "$folder"
	done
}

for target; do
	mkdir -p "build/fuzz/corpus/$target"
	mapfile -t folders < <(folders_of "$target")
	longest=$(awk -v t="$target" '$1 == t { print $2 }' tests/fuzz/limits)
	echo "== $target"
	if "build/fuzz/$target" "-max_total_time=$seconds" -print_final_stats=1 -timeout=20 -rss_limit_mb=3000 \
		"-max_len=$longest" "-artifact_prefix=build/fuzz/found/$target-" "${folders[@]}" 2>"build/fuzz/$target.log"; then
		grep -E ' DONE |stat::number_of_executed_units' "build/fuzz/$target.log"
	else
		failed=1
		tail -n 60 "build/fuzz/$target.log"
		echo "$target: an input was found that fails: see build/fuzz/$target.log. When it is fixed, put the input into" \
			"tests/fuzz/regressions/$target/, by a name that says what it was" >&2
	fi
done
exit $failed
