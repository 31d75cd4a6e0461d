#!/bin/bash
# Nothing of ours opens the volume for writing: seen by strace, for every verb that works without a machine, and for
# those that make or compare devices inside the machine. The volume's bytes stay as they are.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need strace mkntfs

# watched FILE-REGEX COMMAND...: every open of such a file is O_RDONLY, and there was one.
watched() {
	local what=$1 opens
	shift
	run strace -f -qq -e trace=open,openat,openat2,creat -e signal=none -o "$T/trace" "$@"
	opens=$(grep -E "\"[^\"]*${what}[^\"]*\"" "$T/trace")
	[ -n "$opens" ] && ! grep -Eq 'O_RDWR|O_WRONLY|O_TRUNC|creat' <<<"$opens"
	result $? "${*#"$top"/}: opened, and for reading only" || diag "status $status: $opens"
}

if in_machine; then
	need dmsetup
	watched /dev/vda ntfsmap table /dev/vda:/d
	watched /dev/vda ntfsmap open /dev/vda:/d one
	watched /dev/vda ntfsmap status one
	watched /dev/vda ntfsmap list
	watched /dev/vda ntfsmap verify one
	watched /dev/vda ntfsmap verify
	watched /dev/vda ntfsmap check --readonly /dev/vda:/d
	watched /dev/vda ntfsmap log /dev/vda:/d
	watched /dev/vda "$top/boot/system-sleep.sh" post hibernate
	is "$(dmsetup table one | awk '{ print $3 }' | sort -u)" linear "and the hook found nothing to stop"
	watched /dev/vda ntfsmap reload one
	ok "close" ntfsmap close one
	watched /dev/vda ntfsmap host /dev/vda view
	ok "close the view" ntfsmap close view
	done_testing
	exit
fi

volume 32M
f file /d 1M runs=9 fill=pattern
f hiberfil hibr
f logfile 2.0 inuse record=9,9,0,5 record=21,22,0,9 # which is walked, and does not touch the file
before=$(hash_of "$img")
for verb in table info map cat check; do
	watched 'volume\.img' "$ntfsmap" "$verb" "$img:/d"
done
watched 'volume\.img' "$ntfsmap" check --quick "$img:/d"
watched 'volume\.img' "$ntfsmap" log "$img:/d"
is "$status" 0 "log reads all of it"
watched 'volume\.img' "$ntfsmap" log --json "$img"
watched 'volume\.img' "$ntfsmap" "$img:/none"
is "$(hash_of "$img")" "$before" "not a byte of the volume has changed"

# A user who may only read needs no more for looking.
if [ "$(id -u)" = 0 ]; then
	chmod 755 "$T"
	chmod 444 "$img"
	cp "$ntfsmap" "$T/ntfsmap"
	run setpriv --reuid=65534 --regid=65534 --clear-groups "$T/ntfsmap" check "$img:/d"
	is "$status" 0 "check as nobody, who may only read"
	chmod 644 "$img"
fi

guest_tests -t 1200 -d "$img"
is "$(hash_of "$img")" "$before" "nor after opening and closing in the machine"
done_testing
