#!/usr/bin/env bash
# check --repair of a qcow2 on a sleeping volume: it is mended where it lies, nothing else changes, no device is left.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup perl qemu-img qemu-io ntfscat

devices() {
	udevadm settle 2>/dev/null
	dmsetup ls | awk '/^[^N]/ { print $1 }' | sort | xargs
}

# Killed at each ioctl of all its processes: what is left is no more than a device that can be closed.
killed() {
	local n bad=0
	for n in $(seq 3 6 40); do
		{ strace -f -qq -o /dev/null -e trace=ioctl -e inject=ioctl:signal=KILL:when="$n" ntfsmap -q check --repair /dev/vda:/cut.qcow2; } >/dev/null 2>&1
		for name in $(devices); do
			ntfsmap close -q "$name" 2>/dev/null
		done
		[ -z "$(devices)" ] || { bad=$((bad + 1)) && diag "killed at ioctl $n: $(devices)" && dmsetup remove_all; }
	done
	is "$bad" 0 'killed at any time: what is left can be closed'
	exits 0 '  and another repair ends well' ntfsmap check --repair /dev/vda:/cut.qcow2
}

# A device as a killed repair leaves it: the next ntfsmap that changes devices takes it away, unless it is used.
left() {
	local uuid
	ntfsmap open -q --format raw /dev/vda:/other.qcow2 d >/dev/null
	uuid=$(dmsetup info -c --noheadings -o uuid d)
	dmsetup create -u "${uuid/#NTFSMAP-RAW/NTFSMAP-REPAIR-RAW}" ntfsmap-repair-7 --table "$(dmsetup table d)"
	exec 5</dev/mapper/ntfsmap-repair-7
	ntfsmap close d
	is "$(devices)" ntfsmap-repair-7 'the device of a repair is left alone while it is open'
	exec 5<&-
	exits 0 '  then another repair' ntfsmap check --repair /dev/vda:/other.qcow2
	like "$err" 'removing ntfsmap-repair-7, which a killed .*--repair. left' '  takes it away'
	is "$(devices)" '' '  and leaves none'
}

# A plain file is not repaired while another ntfsmap may be opening it, and open leaves no moment for it.
beside_open() {
	local pid
	qemu-img create -q -f qcow2 "$T/plain.qcow2" 4M
	qemu-io -c 'write -P 1 0 1M' "$T/plain.qcow2" >/dev/null
	truncate -s %512 "$T/plain.qcow2"
	flock /run/ntfsmap.lock sleep 3 &
	pid=$!
	sleep 1
	exits 0 'a plain file, beside an ntfsmap that changes devices' ntfsmap check --repair "$T/plain.qcow2"
	like "$err" 'waiting for another ntfsmap' '  waits for that'
	wait "$pid"
	type -P strace >/dev/null || return
	strace -o "$T/calls" -e trace=flock,ioctl,clone,fork,vfork ntfsmap open -q --format raw "$T/plain.qcow2" d >/dev/null
	is "$(grep -oE 'LOCK_(EX|UN)|LOOP_CONFIGURE' "$T/calls" | sed '1,/LOCK_EX/d' | head -n 2 | xargs)" 'LOCK_EX LOOP_CONFIGURE' \
		'open keeps its lock until the loop device is there'
	exits 2 '  and from then on that tells' ntfsmap check --repair "$T/plain.qcow2"
	ntfsmap close d
}

if in_machine; then
	modprobe -a loop 2>/dev/null
	exits 6 'a damaged image: check' ntfsmap check /dev/vda:/bad.qcow2
	like "$out" 'damaged +entries .*check --repair' '  names what mends it'
	exits 0 '  --repair' ntfsmap check --repair /dev/vda:/bad.qcow2
	like "$out" 'repaired .*refcount 0, references 1' '  says what it repaired'
	like "$out" ', 0 errors and 0 leaks are left' '  and that nothing is left'
	is "$(devices)" '' '  no device is left'
	exits 6 'an entry that points nowhere' ntfsmap check --repair /dev/vda:/lost.qcow2
	like "$out" 'left .*behind the end of the file' '  is left'
	exits 2 'a file marked read-only: what open refuses is refused' ntfsmap check --repair /dev/vda:/marked.qcow2
	like "$err" 'allow=readonly-file' '  with the word that lifts it'
	exits 0 'another file is open' ntfsmap open -q --format raw /dev/vda:/lost.qcow2 d
	exits 0 '  does not matter' ntfsmap check --repair /dev/vda:/other.qcow2
	exits 2 '  the same one: refused' ntfsmap check --repair /dev/vda:/lost.qcow2
	like "$err" '/dev/mapper/d already maps' '  and told by whom it is used'
	ntfsmap close d
	mkdir -p /mnt/w && ntfs-3g -o ro /dev/vda /mnt/w
	exits 0 'on a volume that is mounted read-only' ntfsmap check --repair /dev/vda:/mounted.qcow2
	umount /mnt/w
	left
	beside_open
	type -P strace >/dev/null && killed
	done_testing
	exit
fi

edit() {
	perl -e 'BEGIN { require shift } my $q = qcow_open(shift); eval shift; die $@ if $@' "$top/tests/lib/qcowedit.pl" "$@" || bail 'qcowedit'
}
put() {
	f file "/$1.qcow2" "$(stat -c %s "$T/$1.qcow2")" runs=5 order=shuffle seed=5 fill=stdin "${@:2}" <"$T/$1.qcow2"
}

qemu-img create -q -f qcow2 "$T/good.qcow2" 16M
qemu-io -c 'write -P 5 1M 3M' "$T/good.qcow2" >/dev/null
qemu-img snapshot -c s1 "$T/good.qcow2"
qemu-io -c 'write -P 6 2M 1M' "$T/good.qcow2" >/dev/null
truncate -s +1M "$T/good.qcow2"
for name in bad other cut mounted lost marked; do
	cp "$T/good.qcow2" "$T/$name.qcow2"
	edit "$T/$name.qcow2" 'rc($q, 0, 0); rc($q, home($q, 40) / $q->{cluster}, 0); rt($q, 1, 7); rc($q, free_cluster($q), 1); word($q, 72, 3)'
done
edit "$T/lost.qcow2" 'l2($q, 40, 1 << 45)'
volume 128M
for name in bad other cut mounted lost marked; do
	put "$name"
done
f attrs /marked.qcow2 1
f file /guard 8M runs=40 fill=pattern
f hiberfil hibr
before=$(ntfscat "$img" /guard | sha256sum)
for name in bad other cut mounted lost marked; do
	oracle_table "/$name.qcow2" "$(stat -c %s "$T/$name.qcow2")" | sed "s/^/$name /"
done | awk '{ print at + 0, $3, $4; at += $3 }' >"$T/table"
outside=$(hash_outside "$T/table" "$img")
guest_tests -t 600 -d "$img"
is "$(hash_outside "$T/table" "$img")" "$outside" 'nothing outside the images has changed'
is "$(ntfscat "$img" /guard | sha256sum)" "$before" 'another file is the same'
for name in bad other cut mounted; do
	ntfscat "$img" "/$name.qcow2" >"$T/$name.qcow2"
	ok "qemu-img check $name.qcow2" qemu-img check "$T/$name.qcow2"
	ok '  reads the same' qemu-img compare -q "$T/good.qcow2" "$T/$name.qcow2"
done
done_testing
