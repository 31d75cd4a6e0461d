# shellcheck shell=bash
# For tests that `prove` runs: source this, then
#
#   need COMMAND...            skips all when one is not installed
#   ok NAME COMMAND [ARG...]   the command succeeds
#   is ACTUAL EXPECTED NAME    the texts are equal
#   like TEXT REGEX NAME       the text matches the extended regular expression; unlike: it does not
#   run COMMAND [ARG...]       sets $status, $out and $err (the bytes are in the files $T/out and $T/err)
#   in_vm [OPTION...] -- COMMAND [ARG...]   runs it in the test machine, see tests/vm; skips all where there is none
#   test_in_vm [OPTION...]     the rest of this file runs inside the test machine
#   skip_all REASON, bail REASON, diag TEXT
#   done_testing               last
#
# What checks something returns 1 when it failed, so that `|| diag TEXT` can say more.
#
# $T is a folder of the test's own, removed at its end; $top is the top of the project.
set -u
top=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
PATH=$top/build/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
T=$(mktemp -d "${TMPDIR:-/tmp}/test.XXXXXX")
tests=0 failed=0
# The test's own output, also while `run` sends that of a command elsewhere.
exec {tap}>&1 {tap_err}>&2

finish() {
	local status=$?
	rm -rf "$T"
	[ "$failed" = 0 ] || status=1
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# To standard error, because prove shows that of failing and passing tests alike.
diag() {
	echo "# ${*//$'\n'/$'\n# '}" >&"$tap_err"
}

# result STATUS NAME [TEXT]: the one place that counts. TEXT is for a failure. Returns STATUS.
result() {
	tests=$((tests + 1))
	if [ "$1" = 0 ]; then
		echo "ok $tests - $2" >&"$tap"
	else
		failed=$((failed + 1))
		echo "not ok $tests - $2" >&"$tap"
		diag "failed: $2 (${0##*/} line $(caller_line))"
		[ -z "${3-}" ] || diag "$3"
	fi
	return "$1"
}

# The line of the test file that called one of these functions.
caller_line() {
	local frame=0
	while [ "${BASH_SOURCE[frame]}" = "${BASH_SOURCE[0]}" ]; do frame=$((frame + 1)); done
	echo "${BASH_LINENO[frame - 1]}"
}

run() {
	status=0
	"$@" >"$T/out" 2>"$T/err" || status=$?
	# Bash drops NUL bytes, and says so.
	# shellcheck disable=SC2034 # for the test
	{ out=$(<"$T/out") && err=$(<"$T/err"); } 2>/dev/null
}

ok() {
	local name=$1 log
	shift
	if log=$("$@" 2>&1); then
		result 0 "$name"
	else
		result 1 "$name" "command: $*"$'\n'"$log"
	fi
}

is() {
	[ "$1" = "$2" ]
	result $? "$3" "got:      $1"$'\n'"expected: $2"
}

like() {
	[[ $1 =~ $2 ]]
	result $? "$3" "got:      $1"$'\n'"expected to match: $2"
}

unlike() {
	[[ ! $1 =~ $2 ]]
	result $? "$3" "got:      $1"$'\n'"expected not to match: $2"
}

done_testing() {
	echo "1..$tests" >&"$tap"
}

skip_all() {
	if [ "$tests" = 0 ]; then
		echo "1..0 # SKIP $*" >&"$tap"
	else
		result 0 "the rest # SKIP $*"
		done_testing
	fi
	exit 0
}

bail() {
	echo "Bail out! $*" >&"$tap"
	exit 255
}

need() {
	local command
	for command; do
		type -P "$command" >/dev/null || skip_all "$command is not installed"
	done
}

in_vm() {
	local status=0
	VM_REASON=$T/reason "$top/tests/vm/run" "$@" || status=$?
	[ "$status" != 77 ] || skip_all "$(cat "$T/reason" 2>/dev/null || echo "says the command in the test machine")"
	return "$status"
}

test_in_vm() {
	[ -z "${VM_GUEST:-}" ] || return 0
	in_vm "$@" -- bash "$0"
	exit
}
