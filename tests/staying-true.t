#!/bin/bash
# What happened to the file behind an open mapping is seen by verify, refused by reload, and stopped by the hook that
# systemd runs after Linux was hibernated. The forge does what Windows would have done.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs dmsetup perl mkfs.ext4 ntfscluster
hook=$top/boot/system-sleep.sh

json() {
	perl -MJSON::PP -e 'local $/; my $j = decode_json(<STDIN>); print eval "\$j->$ARGV[0]" // "null"' "$1"
}

# on_disk VERB...: below the page cache of the volume, where Windows would be
on_disk() {
	dmsetup create below --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
	"$forge" /dev/mapper/below "$@" || bail "ntfsforge $* failed"
	sync /dev/mapper/below
	dmsetup remove --retry below
}

targets() {
	dmsetup table "$1" | awk '{ print $3 }' | sort -u | xargs
}

# sleep_hook WORD...: as systemd calls it, with a logger that we can read
sleep_hook() {
	: >"$T/log"
	run env PATH="$T:$PATH" "$hook" "$@"
}

all_of_them() {
	exits 0 "verify: nothing is open" ntfsmap verify
	is "$out$err" '' "  nothing is said"
	is "$(ntfsmap verify --json)" '[]' "  an empty array"
	for name in a b c; do ntfsmap open -q "/dev/vda:/$name" "$name" >/dev/null; done
	ntfsmap open -q --readonly /dev/vda:/d d >/dev/null
	exits 0 "verify all of four" ntfsmap verify
	is "$(grep -c 'is what the disk says' <<<"$out")" 4 "  a line for each"
	is "$(ntfsmap verify --json | json '[2]{same}')" 1 "  JSON"
	dmsetup create half -u NTFSMAP-RAW-0000000000000001-40-1-0-half --notable
	exits 0 "  a device without a table counts for nothing" ntfsmap verify
	is "$(ntfsmap verify --json | json '[4]')" null "  nor in JSON"
	dmsetup remove half
}

awake() {
	local word
	for word in 'pre hibernate' 'pre hybrid-sleep' 'post suspend' 'pre' ''; do
		# shellcheck disable=SC2086
		sleep_hook $word
		is "$status:$out$err$(cat "$T/log")" 0: "the hook does nothing for \"$word\""
	done
	for word in hibernate hybrid-sleep suspend-then-hibernate; do
		sleep_hook post "$word"
		is "$status:$out$err$(cat "$T/log")" 0: "post $word: nothing has changed, nothing is said"
	done
	is "$(targets a) $(targets b) $(targets c) $(targets d)" 'linear linear linear linear' "  and nothing done"
}

# a has a mounted file system with dirty pages, which must not reach the clusters that another file has now.
moved() {
	local i before after
	mkfs.ext4 -q -E lazy_itable_init=0 /dev/mapper/a # the kernel would go on with it meanwhile
	mkdir -p /mnt/a
	# nothing is written back but by us: not for its age, nor because a new device may have few dirty pages
	echo 360000 >/proc/sys/vm/dirty_writeback_centisecs
	echo 720000 >/proc/sys/vm/dirty_expire_centisecs
	echo 50 >"/sys/class/bdi/$(lsblk -ndo MAJ:MIN /dev/mapper/a | xargs)/min_ratio"
	mount -o commit=10000 /dev/mapper/a /mnt/a
	sync -f /mnt/a
	for i in 1 2 3; do dd if=/dev/urandom of="/mnt/a/dirty$i" bs=64K count=4 status=none; done
	on_disk remove /b # another one, and in its record:
	on_disk move /a
	on_disk file /thief 4M "from=$first" runs=1 fill=pattern

	exits 6 "verify: one has moved, one is gone" ntfsmap verify
	like "$err" "ntfsmap: a: at sector 0 the open mapping uses sector $((first * 8)), but /dev/vda:/a now" \
		"  says where it was"
	like "$err" 'ntfsmap: b: /dev/vda: MFT record [0-9]+ ' "  names the other, whose file is gone"
	is "$(grep -c 'is what the disk says' <<<"$out")" 2 "  the others are what they were"
	is "$(ntfsmap verify --json | json '[0]{exit_code}')" 6 "  JSON has the exit code"
	like "$(ntfsmap verify --json | json '[1]{difference}')" 'MFT record' "  and the difference"
	exits 6 "  one by name" ntfsmap verify a

	# what the kernel writes before is nothing that the hook could prevent
	before=$(dd if=/dev/vda iflag=direct,skip_bytes,count_bytes skip=$((first * 4096)) count=4M bs=1M status=none | sha256sum)
	sleep_hook post hibernate
	is "$status" 0 "the hook ends well"
	is "$(targets a) $(targets b)" 'error error' "  both are fenced"
	is "$(targets c) $(targets d)" 'linear linear' "  the others are not"
	like "$err" '/dev/mapper/a is not what it was .*at sector 0 .*ntfsmap close a' "  it says what differs and what to do"
	is "$(grep -c '^-t ntfsmap -p daemon.crit -- /dev/mapper/[ab] is not' "$T/log")" 2 "  the log has a line for each"
	is "$(wc -l <"$T/log")" 2 "  and no more"
	ok "  what the others hold can be read and written" dd if=/dev/zero of=/dev/mapper/c bs=64K count=1 oflag=direct
	sync -f /mnt/a 2>/dev/null
	is "$?" 1 "  dirty pages get an error"
	dd if=/dev/zero of=/dev/mapper/a bs=4096 count=1 oflag=direct 2>/dev/null
	is "$?" 1 "  and so does who writes"
	umount /mnt/a
	after=$(dd if=/dev/vda iflag=direct,skip_bytes,count_bytes skip=$((first * 4096)) count=4M bs=1M status=none | sha256sum)
	is "$after" "$before" "  the file that has the clusters now is untouched"
}

fenced() {
	like "$(ntfsmap list)" 'a +.* fail ' "list shows that it fails"
	exits 6 "verify of a fenced mapping" ntfsmap verify a
	like "$err" 'all I/O fails.*close it and open it again' "  says so"
	exits 6 "reload cannot bring it back" ntfsmap reload a
	sleep_hook post hibernate
	is "$(targets a) $(targets b) $(targets c)" 'error error linear' "the hook a second time: as before"
	exits 0 "close it" ntfsmap close a
	exits 0 "open it where it is now" ntfsmap open -q /dev/vda:/a a
	is "$(dmsetup table a | awk '{ print $1, $2, $5 }')" "$(img=/dev/vda oracle_table /a 4194304)" \
		"  which is where ntfscluster sees it"
	ntfsmap close b
}

# The record is in use again, by another file: its number is the same, the sequence is not.
reused() {
	local record
	ntfsmap open -q /dev/vda:/reuse r >/dev/null
	record=$(on_disk ref /reuse | awk '{ print $1 }')
	on_disk remove /reuse
	on_disk file /other 1M "from=$free" runs=1 fill=zero
	is "$(on_disk ref /other | awk '{ print $1 }')" "$record" "another file has the record"
	exits 6 "verify of a record that was reused" ntfsmap verify r
	exits 6 "reload refuses it" ntfsmap reload r
	is "$(targets r)" linear "  and leaves the table"
	ntfsmap close r
}

# A difference outranks what could not be compared; a read-only mapping is not fenced for the latter.
gone() {
	ntfsmap close c d
	modprobe loop
	losetup /dev/loop0 "$T/other.img"
	ntfsmap open -q /dev/loop0:/a x >/dev/null
	ntfsmap open -q --readonly /dev/loop0:/b y >/dev/null
	cp --sparse=always "$T/other.img" "$T/third.img"
	losetup /dev/loop1 "$T/third.img"
	dmsetup create disk --table "0 $(blockdev --getsz /dev/loop1) linear /dev/loop1 0"
	ntfsmap open -q /dev/mapper/disk:/a z >/dev/null
	exits 0 "on loop devices" ntfsmap verify
	printf 'no NTFS here ' | dd of="$T/other.img" conv=notrunc status=none
	exits 4 "the volume is no NTFS any more" ntfsmap verify x
	like "$err" 'ntfsmap: x: .*no NTFS volume' "  the message names the mapping"
	dmsetup wipe_table disk
	exits 7 "the volume cannot be read" ntfsmap verify z
	exits 7 "verify of all: the highest, where none differs" ntfsmap verify
	dmsetup wipe_table x
	exits 6 "  but a difference is the worst" ntfsmap verify
	sleep_hook post hybrid-sleep
	is "$(targets z)" error "the hook fences what can write and cannot be compared"
	is "$(targets y)" linear "  but not what cannot write"
	like "$err" '/dev/mapper/y could not be compared' "  and tells"
	ntfsmap close x y z a
	dmsetup remove disk
	losetup -D
}

# libntfs-3g takes a reference with the sequence number 0 for any file that has the record.
no_sequence() {
	local uuid
	ntfsmap open -q /dev/vda:/c c >/dev/null
	uuid=$(dmsetup info -c --noheadings -o uuid c)
	dmsetup create z -u "$(sed -E 's/-[0-9a-f]+-0-c$/-0-0-z/' <<<"$uuid")" --table "$(dmsetup table c)"
	exits 0 "a UUID with the file's sequence number" ntfsmap verify c
	exits 6 "the same with the number 0 is no file's" ntfsmap verify z
	like "$err" 'belongs to something else' "  says so"
	dmsetup remove z
	ntfsmap close c
}

# becomes WHAT NAME REGEX VERB...: what the forge does to /NAME is a difference
becomes() {
	local what=$1 name=$2 regex=$3
	shift 3
	ntfsmap open -q "/dev/vda:/$name" one >/dev/null
	ok "$what: first it is what it was" ntfsmap verify one
	on_disk "$@"
	exits 6 "  then verify differs" ntfsmap verify one
	like "$err" "$regex" "  and says what"
	ntfsmap close one
}

# The place is the same, but it must not be written any more.
unsafe() {
	becomes 'the log has work on it' p 'UpdateMappingPairs.*--allow=pending-log' \
		logfile 2.0 inuse "record=9,9,$((record_p % 4 * 2)),$((4 + record_p / 4))"
	ntfsmap open -q --allow=pending-log /dev/vda:/p one >/dev/null
	exits 6 '  opened so' ntfsmap verify one
	exits 0 '  and verified so' ntfsmap verify --allow=pending-log one
	ntfsmap close one
	ntfsmap open -q --readonly /dev/vda:/p one >/dev/null
	exits 0 '  a read-only mapping does not mind' ntfsmap verify one
	ntfsmap close one
	on_disk logfile 1.1 clean
	becomes 'its valid data are fewer' v 'only the first 4096 of' sizes /v init=4096
	becomes 'a cluster is free' x 'clusters are free according to \$Bitmap' bitmap clear-file /x 0 1
}

# A name must not look like the kind of a mapping.
names() {
	local name
	for name in my-FILE-n DEVICE-1; do
		ntfsmap open -q /dev/vda:/n "$name" >/dev/null
		on_disk logfile 2.0 inuse "record=9,9,$((record_n % 4 * 2)),$((4 + record_n / 4))"
		sleep_hook post hibernate
		is "$(targets "$name")" error "the hook: pending work on the file of $name"
		ntfsmap close "$name"
		on_disk logfile 1.1 clean
	done
}

# dmsetup itself may be what lies on a mapping.
no_dmsetup() {
	ntfsmap open -q /dev/vda:/n n >/dev/null
	printf '#!/bin/sh\necho no dmsetup >&2; exit 1\n' >"$T/dmsetup"
	chmod +x "$T/dmsetup"
	sleep_hook post hibernate
	like "$err" 'could not be compared .*no dmsetup' "without dmsetup the hook says so"
	rm "$T/dmsetup"
	ntfsmap close n
	printf '#!/bin/sh\nexit 1\n' >"$T/dmsetup"
	chmod +x "$T/dmsetup"
	sleep_hook post hibernate
	is "$status:$err" 0: "  but where nothing is open it is silent"
	rm "$T/dmsetup"
}

changes() {
	becomes 'cut short' t 'at sector 1024 .*now ends there' sizes /t data=524288 init=524288
	becomes 'made longer' l 'only grew' sizes /l data=1048576 init=1048576
	becomes 'encrypted in its place' e 'is encrypted by NTFS now' encrypted /e
	becomes 'a stream is moved' s:alt 'at sector 0 ' move /s:alt
	ntfsmap open -q /dev/vda:/s:alt one >/dev/null
	on_disk move /s
	exits 0 'verify of a stream: another one of the file has moved' ntfsmap verify one
	ntfsmap close one
}

if in_machine; then
	first=$(cat /mnt/share/first) free=$(cat /mnt/share/free)
	record_p=$(cat /mnt/share/record_p) record_n=$(cat /mnt/share/record_n)
	cp --sparse=always /mnt/share/other.img "$T/other.img"
	printf '#!/bin/sh\necho "$*" >>%s/log\n' "$T" >"$T/logger"
	chmod +x "$T/logger"
	all_of_them
	awake
	moved
	fenced
	reused
	gone
	no_sequence
	changes
	unsafe
	names
	no_dmsetup
	done_testing
	exit
fi

mkdir "$T/share"
volume 64M
f file /a 1M runs=2 fill=zero
f file /b 1M runs=2 fill=zero
mv "$img" "$T/share/other.img"
volume 192M
f file /a 4M from=10000 runs=1 fill=zero
for name in b c d reuse t e p v x n; do f file "/$name" 1M runs=3 fill=zero; done
f file /l 512K runs=2 fill=zero
f slack /l 128
f file /s 256K runs=2 fill=zero
f stream /s alt 256K runs=2 fill=zero
echo 10000 >"$T/share/first"
echo 30000 >"$T/share/free"
for name in p n; do f ref "/$name" | cut -d' ' -f1 >"$T/share/record_$name"; done
guest_tests -t 1200 -s "$T/share" -d "$img"
done_testing
