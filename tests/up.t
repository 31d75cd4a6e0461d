#!/usr/bin/env bash
# up, down and cmdline in the machine: two volumes whose images a table names, disks that come and go, the view of
# host=, and what the kernel command line says.
. "$(dirname "$0")/lib/tap.sh"
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat dmsetup ntfs-3g blkid mkfs.ext4 sfdisk losetup qemu-img

tab=/tmp/tab

entries() {
	printf '%s\n' "$@" >"$tab"
}

# The table of all tests but the last.
usual() {
	entries "one UUID=$uuid_a:/one.raw" "two /dev/vda:/sub\\040dir/two.raw ro" "off UUID=$uuid_a:/off.raw noauto" \
		"three UUID=$uuid_b:/three.raw"
}

devices() {
	dmsetup ls | sed -n 's/^\([^\t]*\)\t.*/\1/p' | sort | xargs
}

up() {
	run ntfsmap up --tab "$tab" "$@"
}

down() {
	run ntfsmap down --tab "$tab" "$@"
}

# The first sectors of the device are those of the file, as ntfscat reads it.
holds() {
	is "$(read_direct "/dev/mapper/$1" | hash_of /dev/stdin)" "$(ntfscat -f "$2" "$3" | hash_of /dev/stdin)" "$4"
}

basics() {
	usual
	up
	is "$status $out" $'0 /dev/mapper/one\n/dev/mapper/two\n/dev/mapper/three' "up: the entries in their order"
	is "$(devices)" 'one three two' "  but not the one that is noauto"
	holds one /dev/vda /one.raw "  one is its file"
	holds two /dev/vda '/sub dir/two.raw' "  two is"
	holds three /dev/vdb /three.raw "  three is"
	is "$(blockdev --getro /dev/mapper/one /dev/mapper/two | xargs)" '0 1' "  ro is read-only"
	up
	is "$status $out" '0 ' "up again"
	like "$err" "$tab:1: one: is up already"$'\n'".*$tab:2: two: is up already" "  says what is up, with line and name"
	up off
	is "$(devices)" 'off one three two' "up NAME opens one that is noauto"
	down three
	is "$status $(devices)" '0 off one two' "down NAME"
	down three
	is "$status" 0 "down of what is not open"
	up nosuch three
	is "$status $(devices)" '4 off one three two' "a NAME that the table lacks does not stop the others"
	down
	is "$status $(devices)" '0 ' "down closes all, those that are noauto, too"
	is "$(dmsetup udevcookies | tail -n +2)" '' "no cookie is left over"
}

failures() {
	entries "lost UUID=$uuid_a:/lost.raw" "one UUID=$uuid_a:/one.raw" 'bad' "sparse UUID=$uuid_a:/sparse.raw"
	up
	is "$status $(devices)" '1 one' "up: one wrong line and two that fail, and the rest is open"
	like "$err" "ntfsmap: $tab:3: bad has no SOURCE" "  the line is named"
	like "$err" "ntfsmap: $tab:1: lost: .*lost.raw" "  what failed is, with its line and name"
	like "$err" "ntfsmap: $tab:4: sparse: .*sparse" "  and the other"
	down one
	is "$status $(devices)" '0 ' "down NAME: a wrong line of another is no failure"
	up one
	is "$status $(devices)" '0 one' "  nor for up NAME"
	like "$err" "ntfsmap: $tab:3: bad has no SOURCE" "  but it is said"
	up nosuch
	like "$status $err" "4 .*names no \"nosuch\" in a line that can be used" "  and a NAME that the table lacks is"
	down
	entries "one UUID=$uuid_a:/one.raw" "sparse UUID=$uuid_a:/sparse.raw" "lost UUID=$uuid_a:/lost.raw"
	up
	is "$status" 2 "the exit status is that of the first failure"
	down
	entries "lost UUID=$uuid_a:/lost.raw nofail" "one UUID=$uuid_a:/one.raw nofail" 'gone UUID=12:/x nofail'
	up
	is "$status $(devices)" '0 one' "nofail: no failure"
	like "$err" "$tab:1: lost: going on without it" "  but a note"
	entries "one UUID=$uuid_a:/off.raw"
	up
	is "$status" 5 "a name that is open from another SOURCE"
	like "$err" "one: .*from /dev/vda:/one.raw, and not from UUID=$uuid_a:/off.raw" "  both are named"
	down
	is "$(devices)" '' "down closes it all the same"
	dmsetup create one --table '0 8 linear /dev/vdb 0'
	up
	is "$status" 5 "a name that somebody else has"
	down
	is "$status $(devices)" '2 one' "down leaves that one"
	dmsetup remove one
	entries "one UUID=$uuid_a:/one.raw format=vmdk" "two UUID=$uuid_a:/one.raw allow=me"
	up
	is "$status" 1 "format= and allow= take certain words"
	like "$err" "$tab:1: one: format=vmdk: .*qcow2.*$tab:2: two: allow=me: .*cloud" "  which are told"
	entries "one UUID=$uuid_a:/one.raw format=vhd"
	up
	is "$status" 6 "format= reaches open"
	entries "short UUID=$uuid_a:/short.raw"
	up
	is "$status" 2 "what open refuses is refused"
	entries "short UUID=$uuid_a:/short.raw allow=valid-data-length"
	up
	is "$status $(devices)" '0 short' "  and allow= reaches it"
	down
	entries "short UUID=$uuid_a:/short.raw static"
	up
	is "$(blockdev --getro /dev/mapper/short)" 1 "static does, which is read-only"
	down
}

partitioned() {
	entries "blank UUID=$uuid_b:/blank.raw partitions"
	up
	is "$status $(devices)" '0 blank' "partitions, where no table is"
	printf 'start=2048, size=4096\n' | sfdisk -q --no-reread --no-tell-kernel /dev/mapper/blank
	udevadm settle
	down
	up
	is "$status $(devices)" '0 blank blank-part1' "  and where one is"
	is "$(dmsetup table blank-part1 | cut -d' ' -f2,5)" '4096 2048' "  as sfdisk made it"
	up
	like "$status $err" '0 .*blank: is up already' "  up again"
	down
	is "$status $(devices)" '0 ' "  down takes them away"
	up
	down --device /dev/vdb
	like "$status $err" '0 .*blank: closed, as /dev/vdb goes' "  nor does the disk count as used by them when it goes"
	is "$(devices)" '' "  which takes them away, too"
}

overlaid() {
	local before
	before=$(ntfscat -f /dev/vda /one.raw | hash_of /dev/stdin)
	entries "one UUID=$uuid_a:/one.raw overlay=tmpfs" \
		"blank UUID=$uuid_b:/blank.raw overlay=UUID=$uuid_a:/store.raw,partitions"
	up
	is "$status $(devices)" '0 blank blank-cow blank-origin blank-part1 one one-cow one-origin' "overlay=" || diag "$err"
	is "$(blockdev --getro /dev/mapper/one /dev/mapper/blank /dev/mapper/one-origin | xargs)" '0 0 1' "  can be written to"
	dd if=/dev/urandom of=/dev/mapper/one bs=64K count=1 oflag=direct status=none
	dd if=/dev/vda of=/dev/mapper/blank-part1 bs=64K count=1 oflag=direct status=none
	is "$(ntfscat -f /dev/vda /one.raw | hash_of /dev/stdin)" "$before" "  the file does not change"
	up
	is "$status" 0 "  up again"
	like "$err" "one: is up already.*blank: is up already" "  says so"
	down
	is "$status $(devices)" '0 ' "  down takes all away"
	up blank
	ok "a SOURCE has what was written" cmp -n 65536 /dev/vda /dev/mapper/blank-part1
	entries "one UUID=$uuid_a:/off.raw overlay=tmpfs" "blank UUID=$uuid_b:/blank.raw"
	up blank
	like "$status $err" '5 .*blank: it is open already, but with an overlay' "an entry without it"
	down
	entries "one UUID=$uuid_a:/one.raw"
	up
	entries "one UUID=$uuid_a:/one.raw overlay=tmpfs"
	up
	like "$status $err" '5 .*one: it is open already, but without an overlay' "  and the other way round"
	down
	entries "one UUID=$uuid_a:/one.raw overlay=tmpfs"
	up
	entries "one UUID=$uuid_a:/off.raw overlay=tmpfs"
	up
	like "$status $err" "5 .*one: .*from /dev/vda:/one.raw, and not from UUID=$uuid_a:/off.raw" "  of another SOURCE"
	entries "one UUID=$uuid_a:/one.raw overlay=UUID=$uuid_a:/store.raw"
	up
	like "$status $err" "5 .*one: .*its overlay is in tmpfs, and not in UUID=$uuid_a:/store.raw" "  with another store"
	exits 2 "cmdline of one with an overlay" ntfsmap cmdline one
	exits 2 "  of what is below it" ntfsmap cmdline one-origin
	down
	entries "blank UUID=$uuid_b:/blank.raw overlay=UUID=$uuid_a:/store.raw"
	up
	entries "blank UUID=$uuid_b:/blank.raw overlay=UUID=$uuid_a:/off.raw"
	up
	like "$status $err" "5 .*its overlay is in /dev/vda:/store.raw, and not in UUID=$uuid_a:/off.raw" "  on a disk, too"
	entries "blank UUID=$uuid_b:/blank.raw overlay=tmpfs"
	up
	like "$status $err" "5 .*its overlay is in /dev/vda:/store.raw, and not in tmpfs" "  and not in memory"
	down
	entries "one UUID=$uuid_a:/one.raw"
	up
	entries "one UUID=$uuid_a:/one.raw ro"
	up
	like "$status $err" '5 .*one: it is open already, but can be written' "ro, and it can be written"
	entries "one UUID=$uuid_a:/one.raw snapshot=first"
	up
	like "$status $err" '5 .*one: .*shows the image, and not the snapshot first' "a snapshot, and it is the image"
	down
	is "$(devices) $(losetup -a)" ' ' "  nothing is left"
}

busy() {
	usual
	up
	mkfs.ext4 -q /dev/mapper/three
	mkdir -p /mnt/three
	mount /dev/mapper/three /mnt/three
	down
	is "$status $(devices)" '5 three' "down: what is in use stays, the others go"
	like "$err" "$tab:4: three: .*mounted on /mnt/three" "  its line, and who uses it"
	umount /mnt/three
	ntfsmap close three
	entries "one UUID=$uuid_a:/one.raw" "above /dev/mapper/one"
	up
	is "$status $(devices)" '0 above one' "one that lies on another"
	down
	is "$status $(devices)" '0 ' "  is closed before it: down goes from the last to the first"
	entries "one UUID=$uuid_a:/one.raw"
	up
	exec 5</dev/mapper/one
	ntfsmap close --deferred one
	up
	is "$status" 5 "one that is still being closed cannot be opened"
	like "$err" 'one: it was closed, and goes when' "  and that is said"
	exec 5<&-
	udevadm settle
	up
	is "$status" 0 "  until it has gone"
	down
}

security() {
	entries "one UUID=$uuid_a:/one.raw"
	chmod 646 "$tab"
	up
	is "$status $(devices)" '2 ' "a table that all may write"
	like "$err" "$tab can be written by others.*0646" "  says so"
	chmod 664 "$tab"
	chown 0:7 "$tab"
	up
	is "$status" 2 "a table that a group may write"
	chown 7:0 "$tab"
	up
	is "$status" 2 "a table of somebody else"
	like "$err" "$tab belongs to user 7" "  says whose"
	down
	is "$status" 2 "  nor does down read it"
	chown 0:0 "$tab"
	up
	is "$status" 0 "the group of root may write it"
	down
}

views() {
	mkdir -p /mnt/win /mnt/other
	entries "one UUID=$uuid_a:/one.raw host=/mnt/win" "off UUID=$uuid_a:/off.raw host=/mnt/win" \
		"three UUID=$uuid_b:/three.raw"
	up
	is "$status $(devices)" "0 host-$uuid_a off one three" "host=: one view for two images of a volume"
	is "$(findmnt -no SOURCE,FSTYPE /mnt/win | xargs)" "/dev/mapper/host-$uuid_a fuseblk" "  it is mounted"
	like "$(findmnt -no OPTIONS /mnt/win)" '^ro,' "  read-only"
	is "$(hash_of /mnt/win/one.raw)" "$(ntfscat -f /dev/vda /one.raw | hash_of /dev/stdin)" "  and has the files"
	up
	is "$status" 0 "up again"
	is "$(findmnt -rno TARGET -S "/dev/mapper/host-$uuid_a" | wc -l)" 1 "  mounts nothing again"
	umount /mnt/win
	up
	ok "up mounts it again when it was unmounted" mountpoint -q /mnt/win
	down one
	ok "down of one of the two leaves the view" mountpoint -q /mnt/win
	down off
	is "$(devices)" 'three' "down of the other takes it away"
	ok "  and the mount" bash -c '! mountpoint -q /mnt/win'
	down
	entries "one UUID=$uuid_a:/one.raw host=/mnt/win" "off UUID=$uuid_a:/off.raw host=/mnt/other"
	up
	is "$status $(devices)" "0 host-$uuid_a off one" "one volume on two folders: the images are open"
	like "$err" "$tab:2: off: host=/mnt/other: .*mounted on /mnt/win" "  the second folder is refused"
	like "$err" "warning: $tab:2: off: host=/mnt/other is not mounted" "  which is a warning"
	cd /mnt/win || bail 'no /mnt/win'
	down
	is "$status $(devices)" "5 host-$uuid_a" "down: a view in use stays"
	cd /
	down
	is "$status $(devices)" '0 ' "  until it is not"
	entries "one UUID=$uuid_a:/one.raw host=/mnt/none"
	up
	is "$status $(devices)" '0 one' "a folder that is not there: the image is open"
	like "$err" 'host=/mnt/none' "  and it is said"
	entries "one UUID=$uuid_a:/one.raw host=/proc"
	up
	is "$status $(devices)" '0 one' "a folder where something is mounted"
	like "$err" 'host=/proc: proc is mounted there' "  says what"
	down
	ok "down leaves that mounted" mountpoint -q /proc
}

# Take the disk of a device off its bus; plug brings all back.
unplug() {
	echo 1 >"$(readlink -f "/sys/block/$1/device/../remove")"
}

plug() {
	echo 1 >/sys/bus/pci/rescan
	udevadm settle
}

by_device() {
	usual
	up --device /dev/vdb
	is "$status $(devices)" '0 three' "up --device: what lies on it"
	up --device /dev/vda
	is "$status $(devices)" '0 one three two' "  but not what is noauto"
	up --device /dev/mapper/one
	is "$status $out$err" '0 ' "  of a device that the table does not name: nothing"
	down --device /dev/vda
	is "$status $(devices)" '0 three' "down --device"
	down --device "$(cat /sys/class/block/vdb/dev)"
	is "$status $(devices)" '0 ' "  by number"
	mkdir -p /mnt/three /mnt/win
	entries "one UUID=$uuid_a:/one.raw" "three UUID=$uuid_b:/three.raw host=/mnt/win" "four UUID=$uuid_b:/four.raw"
	up
	mount /dev/mapper/three /mnt/three
	unplug vdb
	ok "the disk is pulled" test ! -b /dev/vdb
	down --device /dev/vdb
	is "$status" 0 "down --device of a disk that has gone"
	is "$(grep -c . "$T/err")" 2 "  says a line for each image" || diag "$err"
	like "$err" "warning: $tab:2: three: /dev/vdb goes while it is in use \(mounted on /mnt/three\)" "  who uses it"
	is "$(devices)" 'one three' "  what is not in use is gone, its view, too; what is on other disks stays"
	ok "  and the view is not mounted" bash -c '! mountpoint -q /mnt/win'
	umount /mnt/three
	udevadm settle
	is "$(devices)" 'one' "  and when the last user is gone, all of it"
	plug
	up --device /dev/vdb
	is "$status $(devices)" "0 four host-$uuid_b one three" "it is plugged in again, and up"
	down
}

# waits COMMAND...: until it succeeds
waits() {
	until "$@" 2>/dev/null; do sleep 0.1; done
}

waiting() {
	local pid
	entries "three UUID=$uuid_b:/three.raw timeout=0" "one UUID=$uuid_a:/one.raw"
	unplug vdb
	ntfsmap up --tab "$tab" 2>"$T/waiting" >/dev/null &
	pid=$!
	waits grep -q "three: waiting for UUID=$uuid_b, for as long as it takes" "$T/waiting"
	is "$(devices)" '' "timeout=0: up waits for the disk, and says so"
	ok "  nobody else has to" ntfsmap open -q /dev/vda:/off.raw off
	plug
	wait "$pid"
	is "$? $(devices)" '0 off one three' "  and opens all when the disk is there"
	is "$(grep -c waiting "$T/waiting")" 1 "  it was said once"
	ntfsmap close off
	down
	unplug vdb
	entries "three UUID=$uuid_b:/three.raw timeout=1" "four UUID=$uuid_b:/four.raw timeout=1,nofail" \
		"one UUID=$uuid_a:/one.raw overlay=UUID=$uuid_b:/four.raw,timeout=1" \
		"two UUID=$uuid_a:/one.raw"
	up
	is "$status $(devices)" '4 two' "a disk that does not come"
	like "$err" "$tab:1: three: UUID=$uuid_b:/three.raw has not appeared within 1 sec" "  what was waited for"
	like "$err" "$tab:2: four: going on without it" "  nofail"
	like "$err" "$tab:3: one: UUID=$uuid_b:/four.raw has not" "  the SOURCEs of options are waited for, too"
	down
	entries "three UUID=$uuid_b:/three.raw" "one UUID=$uuid_a:/one.raw data=UUID=$uuid_b:/x"
	up three
	like "$status $err" "4 .*three: no block device has UUID=$uuid_b" "without timeout= nobody waits"
	up --device /dev/vda
	like "$status $err" "0 .*one: UUID=$uuid_b:/x is not here yet" "--device leaves what lacks its other half"
	plug
}

# boots WORDS...: the kernel command line has them
boots() {
	echo "quiet $* panic=-1" >/tmp/cmdline
	umount /proc/cmdline 2>/dev/null
	mount --bind /tmp/cmdline /proc/cmdline
}

initrd() {
	entries "one UUID=$uuid_a:/one.raw x-initrd.attach,host=/mnt/win" "off UUID=$uuid_a:/off.raw" \
		"three UUID=$uuid_b:/three.raw x-initrd.attach,noauto"
	boots root=UUID=nowhere
	up --initrd
	is "$status $(devices)" '0 one' "--initrd: the entries with x-initrd.attach, without their views"
	up
	is "$status $(devices)" "0 host-$uuid_a off one" "up, later, goes on from there"
	down
	boots "ntfsmap=a,UUID=$uuid_a:/sub\\040dir/two.raw,ro \"ntfsmap=b,UUID=$uuid_b:/with space.raw\"" \
		"rd.ntfsmap=one,UUID=$uuid_b:/four.raw" "xntfsmap=c,UUID=$uuid_a:/off.raw"
	up --initrd
	is "$status $(devices)" '0 a b one' "the kernel command line: ntfsmap= and rd.ntfsmap=, several times"
	holds a /dev/vda '/sub dir/two.raw' "  with escapes"
	is "$(blockdev --getro /dev/mapper/a)" 1 "  and options"
	holds b /dev/vdb '/with space.raw' "  or quotes"
	holds one /dev/vdb /four.raw "  and it goes before the table"
	ntfsmap close a b one
	boots "ntfsmap=a,UUID=$uuid_a:/one.raw rd.ntfsmap=a,UUID=$uuid_a:/one.raw"
	rm "$tab"
	run ntfsmap up --initrd
	is "$status $(devices)" '0 a' "the same twice is once; no table is needed"
	ntfsmap close a
	boots "ntfsmap=a,UUID=$uuid_a:/one.raw ntfsmap=a,UUID=$uuid_a:/off.raw ntfsmap=b,UUID=$uuid_a:/one.raw,rw ntfsmap=," \
		"ntfsmap=d,UUID=$uuid_a:/off.raw"
	run ntfsmap up --initrd
	is "$status $(devices)" '0 d' "words that are wrong are left out"
	like "$err" '/proc/cmdline: ntfsmap=a: a is there twice' "  one that is there twice"
	like "$err" '/proc/cmdline: ntfsmap=b: "rw" is no option' "  one with an unknown option"
	ntfsmap close d
	boots "ntfsmap=b,UUID=$uuid_a:/one.raw,rw"
	run ntfsmap up --initrd
	is "$status $(devices)" '1 ' "  but where nothing is left, that is the failure"
	boots "ntfsmap=a,UUID=$uuid_b:/three.raw,timeout=1"
	unplug vdb
	run ntfsmap up --initrd
	is "$status" 4 "a disk that does not come"
	boots "ntfsmap=a,UUID=$uuid_b:/three.raw root=LABEL=elsewhere"
	mkfs.ext4 -q -L elsewhere /dev/vdc
	udevadm settle
	run ntfsmap up --initrd
	is "$status $(devices)" '0 ' "nor is it waited for where the root file system is"
	like "$err" "a: UUID=$uuid_b:/three.raw is not here, and the root file system is" "  which is said"
	plug
	run ntfsmap up --initrd
	is "$status $(devices)" '0 a' "it is opened if it is there"
	ntfsmap close a
	umount /proc/cmdline
}

cmdline() {
	local word
	entries "n /dev/vda:/sub\\040dir/two.raw ro,timeout=5,x-initrd.attach"
	run ntfsmap cmdline --tab "$tab" n
	is "$out" "ntfsmap=n,UUID=$uuid_a:/sub\\040dir/two.raw,ro,timeout=5" "cmdline of the table's entry"
	word=$out
	boots "$word"
	run ntfsmap up --initrd
	is "$status $(devices)" '0 n' "  the initramfs understands it"
	holds n /dev/vda '/sub dir/two.raw' "  and opens that file"
	run ntfsmap cmdline n
	is "$status $out" "0 ntfsmap=n,UUID=$uuid_a:/sub\\040dir/two.raw,ro" "cmdline of what is open"
	ntfsmap close n
	ntfsmap open -q /dev/vdb:/three.raw n >/dev/null
	run ntfsmap cmdline n
	is "$out" "ntfsmap=n,UUID=$uuid_b:/three.raw" "  and read-write"
	ntfsmap close n
	ntfsmap open -q --format raw /dev/vda:/fixed.vhd n >/dev/null
	run ntfsmap cmdline n
	is "$out" "ntfsmap=n,UUID=$uuid_a:/fixed.vhd,format=raw" "  and with the format that was given"
	ntfsmap close n
	exits 4 "cmdline of nothing" ntfsmap cmdline n
	ntfsmap host /dev/vda view >/dev/null
	exits 2 "cmdline of a view" ntfsmap cmdline view
	ntfsmap close view
	umount /proc/cmdline
}

if in_machine; then
	uuid_a=$(blkid -p -s UUID -o value /dev/vda)
	uuid_b=$(blkid -p -s UUID -o value /dev/vdb)
	basics
	failures
	partitioned
	overlaid
	busy
	security
	views
	by_device
	waiting
	initrd
	cmdline
	done_testing
	exit
fi

volume 64M
f mkdir '/sub dir'
f file /one.raw 1M runs=3 fill=pattern
f file '/sub dir/two.raw' 1M runs=2 fill=pattern seed=2
f file /off.raw 1M runs=2 fill=pattern seed=3
f file /short.raw 1M fill=pattern
f sizes /short.raw init=524288
f sparse /sparse.raw 1M
f file /store.raw 4M runs=2 fill=zero
qemu-img create -q -f vpc -o subformat=fixed,force_size=on "$T/fixed.vhd" 1M
f file /fixed.vhd "$(stat -c %s "$T/fixed.vhd")" fill=stdin <"$T/fixed.vhd"
mv "$img" "$T/a.img"
volume 64M
f file /three.raw 4M runs=3 fill=pattern seed=4
f file /blank.raw 4M runs=3 fill=zero
f file /four.raw 1M runs=2 fill=pattern seed=5
f file '/with space.raw' 1M runs=2 fill=pattern seed=6
truncate -s 8M "$T/c.img"
guest_tests -t 1200 -d "$T/a.img" -d "$img" -d "$T/c.img"
done_testing
