#!/bin/bash
# reserve: room inside dynamic VHDs in files. What it refuses, what qemu and ntfsmap read afterwards, and that a kill
# at any of its writes leaves an image that both of them can read.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs perl qemu-img qemu-io strace flock
makevhd=$top/tests/lib/makevhd.pl
mkvhd=$top/tests/lib/mkvhd.pl
cd "$T" || bail "no $T"

# vhd NAME [OPTION...]: NAME.vhd and its model NAME.raw; no room in it
vhd() {
	local name=$1
	shift
	"$makevhd" "$name.vhd" "$name.raw" size=16777216 block=2097152 allocate=40 layout=plain creator=win room=0 seed=1 \
		"$@" >facts 2>&1 || bail "makevhd: $(<facts)"
}

# info FILE KEY: a number of `info --json`
info() {
	"$ntfsmap" info --json "$1" >json
	perl -MJSON::PP -e 'local $/; print 0 + (decode_json(<STDIN>)->{image}{$ARGV[0]} // -1)' "$2" <json
}

# whole FILE MODEL WHAT: ntfsmap and qemu read the model
whole() {
	"$ntfsmap" cat -q "./$1" | cmp -s - "$2" && qemu-img compare -q -f vpc -F raw "$1" "$2" >compared 2>&1
	result $? "$3" || diag "$(<compared)"
}

exits 0 'reserve' "$ntfsmap" reserve --help

makes_room() {
	local before
	vhd x
	is "$(info ./x.vhd room)" 0 'a file without room'
	before=$(stat -c %s x.vhd)
	head -c "$before" x.vhd >old
	exits 0 'reserve 5M' "$ntfsmap" reserve x.vhd 5M
	like "$err" 'room for 6\.0 MiB now' '  says how much'
	is "$(info ./x.vhd room)" $((6 << 20)) '  whole blocks'
	whole x.vhd x.raw '  the contents are the same, for qemu too'
	is "$(info ./x.vhd footer_lost)$(info ./x.vhd copy_differs)" 00 '  the footer is at the end'
	cmp -s <(head -c $((before - 512)) old) <(head -c $((before - 512)) x.vhd)
	result $? '  nothing that was there has changed'
	is "$(tail -c +$((before - 511)) x.vhd | head -c 512 | tr -d '\0' | wc -c)" 0 '  but the old footer, which is zeros'
	ok '  the new bytes have their place on the disk' test $(($(stat -c %b x.vhd) * 512)) -ge $(($(stat -c %s x.vhd) - before))
	is "$(tail -c 512 x.vhd | hash_of /dev/stdin)" "$(head -c 512 x.vhd | hash_of /dev/stdin)" '  footer and copy are the same'
	before=$(stat -c %s x.vhd)
	exits 0 'the same again' "$ntfsmap" reserve x.vhd 5M
	like "$err" 'already' '  has nothing to do'
	exits 0 'less' "$ntfsmap" reserve x.vhd 1
	is "$(stat -c %s x.vhd)" "$before" '  never makes it shorter'
	exits 0 'reserve all' "$ntfsmap" reserve x.vhd all
	is "$(($(info ./x.vhd room) + $(info ./x.vhd allocated)))" 16777216 '  there is room for the whole disk'
	before=$(stat -c %s x.vhd)
	exits 0 'more than all' "$ntfsmap" reserve x.vhd 1T
	is "$(stat -c %s x.vhd)" "$before" '  is all'
	# Room that is told is room that there is.
	"$top/build/tests/vdiskio" x.vhd <<<'write 0 16777216 5' >filled
	like "$(<filled)" '^ok' '  the library can fill it'
	is "$(stat -c %s x.vhd)" "$before" '  in the same file'
	qemu-img convert -f vpc -O raw x.vhd y.raw && "$ntfsmap" cat -q ./x.vhd | cmp -s - y.raw
	result $? '  and qemu reads what is in it'
}

kinds() {
	local block
	for block in 4096 524288 67108864; do
		vhd k block="$block" size=$((block * 3 < 8388608 ? 8388608 : block * 3))
		exits 0 "blocks of $block" "$ntfsmap" reserve k.vhd all
		is "$(($(info ./k.vhd room) + $(info ./k.vhd allocated)))" "$(info ./k.vhd virtual_size)" '  room for all'
		"$ntfsmap" cat -q ./k.vhd | cmp -s - k.raw
		result $? '  the same contents'
		rm k.vhd k.raw
	done
	vhd base
	vhd diff parent=base.vhd parent_model=base.raw 'parent_path=.\base.vhd' bitmaps=random locators=w2ru
	exits 0 'a differencing image' "$ntfsmap" reserve diff.vhd all
	"$ntfsmap" cat -q ./diff.vhd | cmp -s - diff.raw
	result $? '  the same contents'
	vhd old footer=511
	exits 0 'a footer of 511 bytes' "$ntfsmap" reserve old.vhd 2M
	whole old.vhd old.raw '  the same contents'
	is "$(info ./old.vhd footer_lost)" 0 '  with a footer'
	vhd lost footer=cut
	exits 0 'an image whose footer was cut off' "$ntfsmap" reserve lost.vhd 2M
	like "$err" 'footer was lost, and is back' '  says that it is back'
	is "$(info ./lost.vhd footer_lost)" 0 '  it is'
	ok '  with room' test "$(info ./lost.vhd room)" -ge $((2 << 20))
	whole lost.vhd lost.raw '  the same contents'
	qemu-img create -q -f vpc new.vhd 100M
	exits 0 'an empty one made by qemu' "$ntfsmap" reserve new.vhd 10M
	truncate -s 100M zero.raw
	truncate -s "$(info ./new.vhd virtual_size)" zero.raw
	whole new.vhd zero.raw '  reads zeros'
	qemu-io -f vpc -c 'write -P 7 50M 1M' new.vhd >/dev/null
	qemu-io -f raw -c 'write -P 7 50M 1M' zero.raw >/dev/null
	whole new.vhd zero.raw '  qemu can write to it afterwards'
}

# refused STATUS REGEX WHAT FILE SIZE: the file stays as it is
refused() {
	local before=
	[ ! -f "$4" ] || before=$(hash_of "$4")
	run "$ntfsmap" reserve "$4" "$5"
	is "$status" "$1" "$3: exit $1"
	like "$err" "$2" '  says why'
	[ ! -f "$4" ] || is "$(hash_of "$4")" "$before" '  not a byte has changed'
}

refusals() {
	local size
	vhd r
	for size in 0 x 1.5G 5Q 5MM 99999999999999999999 ''; do
		refused 1 'is no size|too large' "size \"$size\"" r.vhd "$size"
	done
	refused 4 'no such file' 'a file that is not there' ./none.vhd 1M
	refused 2 'neither a regular file' 'a folder' . 1M
	cp r.raw raw.img
	refused 2 'no dynamic' 'a raw image' raw.img 1M
	qemu-img create -q -f vpc -o subformat=fixed fixed.vhd 1M
	refused 2 'no dynamic' 'a fixed VHD' fixed.vhd 1M
	qemu-img create -q -f vmdk q.vmdk 1M
	refused 2 'vmdk' 'a VMDK image' q.vmdk 1M
	cp r.vhd copy.vhd
	printf x | dd of=copy.vhd bs=1 seek=100 conv=notrunc status=none
	refused 6 'copy of the footer at its start' 'a damaged copy of the footer' copy.vhd 1M
	cp r.vhd differs.vhd
	"$mkvhd" patch differs.vhd at=start current_size=8388608
	refused 6 'does not say the same' 'a copy that says something else' differs.vhd 1M
	cp r.vhd bat.vhd
	printf '\0\0\0\0' | dd of=bat.vhd bs=1 seek="$(sed -n 's/^table_at=//p' facts)" conv=notrunc status=none
	refused 6 'tables are damaged' 'a damaged table' bat.vhd 1M
	cp r.vhd short.vhd
	truncate -s -100000 short.vhd
	refused 6 'cut short' 'an image that was cut short, and its last block with it' short.vhd 1M
	volume 32M
	f file /r.vhd "$(stat -c %s r.vhd)" runs=2 fill=stdin <r.vhd
	refused 2 'mount the volume read-write' 'a file on a volume that is not mounted' "$img:/r.vhd" 1M
	exec 5<r.vhd
	flock -s 5
	refused 5 'in use by' 'a file that somebody has locked' r.vhd 1M
	exits 5 '  check says so, too' "$ntfsmap" check ./r.vhd
	like "$out" 'busy +in-use +another program' '  and why'
	exits 0 '  reading is no matter' "$ntfsmap" check --readonly ./r.vhd
	exec 5<&-
	qemu-io -f vpc -c 'sleep 600000' r.vhd >/dev/null 2>&1 &
	until grep -q "OFDLCK.*:$(stat -c %i r.vhd) " /proc/locks; do sleep 0.1; done
	refused 5 'in use by' 'a file that qemu has open' r.vhd 1M
	exits 5 '  table refuses it, too' "$ntfsmap" table ./r.vhd
	like "$err" 'as qemu does' '  says who'
	kill %%
	wait
	exits 0 '  and takes it afterwards' "$ntfsmap" table ./r.vhd
	if [ "$(id -u)" = 0 ] && type -P setpriv >/dev/null; then
		chmod 755 "$T"
		cp "$ntfsmap" "$T/ntfsmap"
		run setpriv --reuid=65534 --regid=65534 --clear-groups "$T/ntfsmap" reserve r.vhd 1M
		is "$status" 7 'a file that may not be written'
	fi
}

# Killed at the n-th call of each kind: before the call does anything. The image can be read, and the command given
# again ends well.
killed() {
	local call n bad=0 kills=0 status
	vhd k
	cp k.vhd good.vhd
	for call in fallocate pwrite64 fsync; do
		for n in $(seq 1 20); do
			cp good.vhd k.vhd
			{ strace -qq -o /dev/null -e trace="$call" -e inject="$call:signal=KILL:when=$n" "$ntfsmap" -q reserve k.vhd 6M; } >/dev/null 2>&1
			status=$?
			"$ntfsmap" cat -q ./k.vhd | cmp -s - k.raw || { bad=$((bad + 1)); diag "$call $n: ntfsmap"; }
			qemu-img compare -q -f vpc -F raw k.vhd k.raw >/dev/null 2>&1 || { bad=$((bad + 1)); diag "$call $n: qemu"; }
			"$ntfsmap" reserve -q k.vhd 6M >/dev/null 2>&1 || { bad=$((bad + 1)); diag "$call $n: again"; }
			[ "$(info ./k.vhd footer_lost)" = 0 ] && [ "$(info ./k.vhd room)" -ge $((6 << 20)) ] || bad=$((bad + 1))
			qemu-img compare -q -f vpc -F raw k.vhd k.raw >/dev/null 2>&1 || bad=$((bad + 1))
			[ "$status" = 137 ] || break
			kills=$((kills + 1))
		done
	done
	is "$bad" 0 "killed at $kills calls: the image is whole each time"
	ok '  there were several' test "$kills" -ge 6
}

errors() {
	local call bad=0
	for call in fallocate pwrite64 fsync; do
		cp good.vhd k.vhd
		{ strace -qq -o /dev/null -e trace="$call" -e inject="$call:error=EIO:when=1" "$ntfsmap" -q reserve k.vhd 6M; } >/dev/null 2>&1
		[ $? = 7 ] || bad=$((bad + 1))
		"$ntfsmap" cat -q ./k.vhd | cmp -s - k.raw || bad=$((bad + 1))
		qemu-img compare -q -f vpc -F raw k.vhd k.raw >/dev/null 2>&1 || bad=$((bad + 1))
	done
	is "$bad" 0 'an I/O error at the first call of each kind: exit 7, and the image is whole'
	cp good.vhd k.vhd
	(
		ulimit -f $(($(stat -c %s k.vhd) / 1024 + 100))
		trap '' XFSZ
		"$ntfsmap" -q reserve k.vhd all 2>err
	)
	is "$?" 7 'no space for that: exit 7'
	ok '  and the file is as it was' cmp -s good.vhd k.vhd
}

makes_room
kinds
refusals
killed
errors
done_testing
