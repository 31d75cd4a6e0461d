# shellcheck shell=bash
# Shared by the scripts of this folder, which source it.

# What is downloaded or made once and kept. Safe to delete.
cache=${NTFSMAP_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ntfsmap}

# Not possible on this system: the caller's test is skipped, and finds the reason in the file $VM_REASON.
skip() {
	[ -z "${VM_REASON:-}" ] || echo "$*" >"$VM_REASON"
	echo "vm: skipped: $*" >&2
	exit 77
}

# The test machine itself failed.
broken() {
	echo "vm: $*" >&2
	exit 125
}

# Run a function alone: others that ask for the same lock wait, then find its work done.
locked() {
	local name=$1 fd
	shift
	mkdir -p "$cache" || broken "cannot make the cache folder $cache"
	exec {fd}>"$cache/$name.lock"
	flock "$fd"
	"$@"
	exec {fd}>&-
}

# Makes $work, a folder to make something in that is then renamed into place, so that nobody ever sees half of it.
workspace() {
	work=$(mktemp -d "$cache/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
}
