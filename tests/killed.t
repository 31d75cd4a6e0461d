#!/bin/bash
# kill -9 at any point of open, reload and close: no half-made device stays. Deterministic: strace kills at the n-th
# ioctl, for every n that a run has.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup strace pgrep pkill

# Each of our devices has a live table of the right length, or is not there; prints what is wrong.
halves() {
	local name
	dmsetup ls | awk '/^[a-z]/ && !/No devices/ { print $1 }' | while read -r name; do
		[ "$(dmsetup table "$name" | awk '{ n += $2 } END { print n }')" = 2048 ] || echo "$name: $(dmsetup table "$name")"
		[ "$(dmsetup info -c --noheadings -o suspended "$name")" = Active ] || echo "$name is suspended"
	done
}

settle() {
	while pgrep -x ntfsmap >/dev/null; do :; done # an orphan finishes what it began
	udevadm settle
}

# kill_parent VERB...: only the process that the user started is killed.
kill_parent() {
	local n status bad=0 survived=0
	for n in $(seq 1 40); do
		{ strace -qq -o /dev/null -e trace=ioctl -e inject=ioctl:signal=KILL:when="$n" ntfsmap -q open /dev/vda:/f1 one; } >/dev/null 2>&1
		status=$?
		settle
		[ -z "$(halves)" ] || bad=$((bad + 1))
		[ "$status" = 0 ] || survived=$((survived + 1))
		ntfsmap close -q one 2>/dev/null
		[ "$status" = 137 ] || break
	done
	is "$bad" 0 "open killed at each of its ioctls ($n runs): never half a device"
	ok "  it was killed at several points" test "$survived" -ge 3
	is "$status" 0 "  until a run got through"
}

# Where the process that makes the device is killed too (a control group, killall), the kernel is left with a device
# that has no table: made here by hand. The next command that changes devices takes it away.
left_over() {
	dmsetup create half --notable -u NTFSMAP-RAW-0-0-0-0-half
	dmsetup create foreign --notable -u SOMEBODY-ELSE
	run ntfsmap open /dev/vda:/f1 one
	is "$status" 0 "open beside a half-made device"
	like "$err" 'removing half' "  says that it removes it"
	is "$(dmsetup ls | awk '{ print $1 }' | sort | xargs)" 'foreign one' "  and does, but not somebody else's"
	ntfsmap close one
	dmsetup create one --notable -u NTFSMAP-RAW-0-0-0-0-one
	run ntfsmap open -q /dev/vda:/f1 one
	is "$status" 0 "  even where it has the name that is asked for"
	ntfsmap close one
	dmsetup remove foreign
}

kill_all() {
	local n bad=0
	for n in $(seq 1 12); do
		ntfsmap -q open /dev/vda:/f1 one >/dev/null 2>&1 &
		sleep "0.$((n * 3 % 10))$n"
		pkill -9 -x ntfsmap
		wait $! 2>/dev/null
		udevadm settle
		ntfsmap -q open /dev/vda:/f2 two >/dev/null || bad=$((bad + 1))
		[ -z "$(halves)" ] || bad=$((bad + 1))
		! dmsetup info one >/dev/null 2>&1 || ntfsmap -q close one
		ntfsmap -q close two
	done
	is "$bad" 0 "all of its processes killed at 12 moments: the next command leaves no half device"
}

random_kills() {
	local n bad=0
	for n in $(seq 1 15); do
		ntfsmap -q open /dev/vda:/f1 one >/dev/null 2>&1 &
		sleep "0.0$((n * 7 % 10))"
		kill -9 $! 2>/dev/null
		wait $! 2>/dev/null
		settle
		[ -z "$(halves)" ] || bad=$((bad + 1))
		ntfsmap close -q one 2>/dev/null
	done
	is "$bad" 0 "kill -9 at 15 moments"
}

# A reader of the pipe never sees half a table.
half_tables() {
	local n bad=0 status
	ntfsmap -q /dev/vda:/big >/tmp/whole
	for n in 1 2 3 4; do
		strace -qq -o /dev/null -e trace=write -e inject=write:signal=KILL:when="$n" ntfsmap -q /dev/vda:/big 2>/dev/null | cat >/tmp/part
		status=${PIPESTATUS[0]}
		[ ! -s /tmp/part ] || cmp -s /tmp/part /tmp/whole || bad=$((bad + 1))
		[ "$status" != 0 ] || break
	done
	is "$bad" 0 "table killed at its writes: all of $(wc -c </tmp/whole) bytes or none"
}

signals() {
	ntfsmap open -q /dev/vda:/f1 one >/dev/null
	is "$(halves)" '' "an ordinary open is whole"
	strace -qq -f -o /dev/null -e trace=ioctl -e inject=ioctl:signal=TERM:when=4 ntfsmap close one >/dev/null 2>&1
	settle
	is "$(halves)" '' "close under SIGTERM leaves all or nothing"
	ntfsmap close -q one 2>/dev/null
	is "$(dmsetup ls)" 'No devices found' "nothing is left"
}

if in_machine; then
	kill_parent
	left_over
	kill_all
	random_kills
	half_tables
	signals
	done_testing
	exit
fi
volume 64M
f file /f1 1M runs=4 fill=zero
f file /f2 1M runs=3 fill=zero
f file /big 16M runs=4096 fill=none
guest_tests -t 1200 -d "$img"
done_testing
