#!/usr/bin/env bash
# The fuzz targets of tests/fuzz: each over its seeds and over what was found before, and then over a number of inputs
# that libFuzzer makes of them, the same ones each time. `make fuzz` does more.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need clang qemu-img mkntfs perl
cd "$top" || bail "no $top"
unset MAKEFLAGS MAKELEVEL MFLAGS

links() {
	printf '%s\n' 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n);' \
		'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return 0 * (p && n); }' >"$T/probe.c"
	clang -fsanitize=fuzzer,address,undefined -o "$T/probe" "$T/probe.c" 2>/dev/null && "$T/probe" -runs=1 2>/dev/null
}

# fuzz TARGET ARGUMENT...: it finds nothing. What it said is in $err.
fuzz() {
	local target=$1
	shift
	run "build/fuzz/$target" -timeout=60 -rss_limit_mb=3000 "-artifact_prefix=$T/" "$@"
	[ "$status" = 0 ]
}

finding() {
	grep -aE 'FOUND|ERROR|SUMMARY|runtime error|Base64' <<<"$err" | head -n 8
}

# Every file of these folders, once.
again() {
	local files
	mapfile -t files < <(find "$2" -type f | sort)
	[ ${#files[@]} = 0 ] || fuzz "$1" "${files[@]}"
	result $? "$1: $3 (${#files[@]})" "$(finding)"
}

# A bounded run that changes nothing in the tree.
some() {
	local target=$1 longest=$2 runs=$3
	mkdir "$T/$target"
	fuzz "$target" -seed=1 "-runs=$runs" "-max_len=$longest" "$T/$target" "build/fuzz/seeds/$target"
	result $? "$target: $runs inputs of at most $longest bytes" "$(finding)"
	like "$err" 'cov: [1-9][0-9]' "$target: something is covered"
	rm -r "${T:?}/$target"
}

links || skip_all 'clang has no -fsanitize=fuzzer,address,undefined'
ok 'the targets and their seeds are made' nice make -s fuzz-tools
while read -r target longest runs; do
	[ "$target" != '#' ] || continue
	ok "$target has seeds" test -n "$(ls "build/fuzz/seeds/$target")"
	if [ -d "tests/fuzz/regressions/$target" ]; then
		again "$target" "tests/fuzz/regressions/$target" 'what was found before is found no more'
	fi
	some "$target" "$longest" "$runs"
done <tests/fuzz/limits
is "$(sed -n 's/^\([a-z]\+\) .*/\1/p' tests/fuzz/limits | sort | xargs)" "$(make -s fuzz-list)" \
	'each target has its limits'
done_testing
