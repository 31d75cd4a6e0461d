#!/usr/bin/env bash
# The test machine itself, tests/vm: that it relays, mounts, limits and notices what the other tests rely on.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need qemu-system-x86_64 busybox cpio pgrep

# Whatever the machines leave behind shows up here.
mkdir "$T/tmp" "$T/hang" "$T/share"
export TMPDIR=$T/tmp

left_behind() {
	find "$T/tmp" -mindepth 1 -maxdepth 1 | wc -l
}

# Bytes, status, arguments and environment arrive.
relay() {
	# shellcheck disable=SC2016 # for bash, here and in the guest
	local bytes='for i in {0..255}; do printf "\\x$(printf %x $i)"; done'
	bash -c "$bytes" >"$T/bytes"
	cd "$T/share" || bail "no $T/share"
	# shellcheck disable=SC2016 # for the guest
	TEST_WORDS="two  words'" NTFSMAP_X='a
b' OTHER=secret run in_vm -s "$T/share" -- bash -c "$bytes"'; echo "$@" >&2
		printf "%s|" "$PWD" "$TEST_WORDS" "$NTFSMAP_X" "${OTHER-}" "${PATH%%:*}" "$VM_GUEST" >/mnt/share/seen
		seq 100000; exit 7' name 'an "argument"' \*
	cd "$top" || bail "no $top"
	is "$status" 7 'the exit status is relayed'
	ok 'standard output is, byte by byte' cmp "$T/out" <(cat "$T/bytes" <(seq 100000))
	is "$err" 'an "argument" *' 'and standard error, and arguments arrive'
	is "$(<"$T/share/seen")" "$T/share|two  words'|a
b||$top/build/bin|1|" "folder, environment and -s are there, also from below the host's /tmp"
	is "$(left_behind)" 0 'nothing is left behind'
}

disks() {
	truncate -s 3M "$T/a,1.img"
	truncate -s 8M "$T/b.img"
	truncate -s 1M "$T/c.img"
	# shellcheck disable=SC2016 # for the guest
	run in_vm -d "$T/a,1.img" -d "$T/b.img,bs=4096" -d "$T/c.img,ro" -M 'dm-snapshot brd' -- bash -c '
		blockdev --getsize64 --getss --getpbsz --getro /dev/vd[abc] | xargs
		grep -h . /sys/block/vd[abc]/serial | xargs
		echo "0 2048 linear /dev/vda 1024" | dmsetup create x --uuid TEST-x
		readlink /dev/mapper/x /dev/disk/by-id/virtio-disk1
		echo written | dd of=/dev/mapper/x bs=512 seek=3 conv=sync status=none
		ls -d /sys/module/{dm_snapshot,brd}
		echo x >/dev/vdc 2>/dev/null || echo read-only
		touch /root/x /etc/x . 2>/dev/null || echo no writing
		modprobe dm-crypt && dmsetup targets | grep -c crypt'
	is "$status" 0 'the command succeeds'
	is "$out" "3145728 512 512 0 8388608 4096 4096 0 1048576 512 512 1
disk0 disk1 disk2
../dm-0
../../vdb
/sys/module/brd
/sys/module/dm_snapshot
read-only
no writing
1" 'disks, udev, a linear device, modules'
	is "$(dd if="$T/a,1.img" bs=512 skip=1027 count=1 status=none | tr -d '\0')" written "data is in the host's file"
}

# Without udev nobody makes nodes in /dev/mapper but who wants them.
no_udev() {
	# shellcheck disable=SC2016 # for the guest
	run in_vm -n -m 512 -k foo=bar -- bash -c 'pidof systemd-udevd udevd || echo no udev
		echo "0 8 zero" | dmsetup create z; ls /dev/mapper; dmsetup mknodes; test -b /dev/mapper/z && echo node
		awk "/MemTotal/ { print (\$2 < 524288 && \$2 > 400000) }" /proc/meminfo; grep -o foo=bar /proc/cmdline
		sleep 1000 & setsid sleep 1000 & exit 0'
	is "$status $out" "0 no udev
control
node
1
foo=bar" '-n, -m, -k; processes that stay behind do not hold it up'
}

complaints() {
	run in_vm -n -- sh -c 'echo out; echo c >/proc/sysrq-trigger; sleep 100'
	is "$status $out" "126 out" 'a panic'
	like "$err" 'the kernel complained: .*sysrq triggered crash.*console log: /' 'and why'
	run in_vm -n -k quiet -- sh -c 'echo "BUG: KASAN: test" >/dev/kmsg'
	is "$status" 126 'a splat counts although the command succeeds, and on a quiet console'
	like "$err" 'the kernel complained: .*BUG: KASAN: test' 'and is shown'
	is "$(left_behind)" 2 'both logs are kept'
	rm -r "$T"/tmp/*
}

harness_fails() {
	run in_vm -n -M nosuchmodule -- true
	is "$status" 125 'a machine that cannot be prepared'
	like "$err" 'the machine failed: .*nosuchmodule' 'and why'
	run in_vm -d "$T/missing" -- true
	is "$status" 125 'a disk that does not exist'
	run in_vm
	is "$status" 125 'no command'
	run in_vm -n -k 'rdinit=/bin/cat' -t 5 -- true
	like "$status $err" '12[56] .*console log' 'a machine that does not come up'
	rm -r "$T"/tmp/*
	ln -s "$(type -P bash)" "$(type -P dirname)" "$(type -P realpath)" "$T/share"
	PATH=$T/share run "$top/tests/vm/run" true
	is "$status" 77 'no qemu: skipped'
}

# Started first, for the time it takes, and so also what tells that two machines can run at once.
hang() {
	TMPDIR=$T/hang "$top/tests/vm/run" -n -t 30 -- sh -c 'echo started; exec sleep 1000' >"$T/hang/out" 2>"$T/hang/err"
	echo $? >"$T/hang/status"
}

hang &
relay
disks
no_udev
complaints
harness_fails
wait
is "$(<"$T/hang/status") $(<"$T/hang/out")" '124 started' 'the time limit, while other machines ran'
like "$(<"$T/hang/err")" 'time limit of 30 seconds: sh -c' 'and why'
ok 'where tasks were blocked is on the console' grep -q 'Show Blocked State' "$T"/hang/vm.*/console.log

# Stopped from outside: nothing stays, no process either.
"$top/tests/vm/run" -n -- sleep 1000 &
machine=$!
until grep -qs . "$T"/tmp/vm.*/console.log; do sleep 0.2; done
kill "$machine"
wait "$machine"
is "$? $(left_behind)" '143 0' 'a machine that is stopped leaves nothing behind'
is "$(pgrep -fc "file:$T/tmp")" 0 'and its qemu is gone'
done_testing
