#!/bin/bash
# What a caller can do to ntfsmap by what it inherits: environment, umask, descriptors, set-user-ID; and what ntfsmap
# leaves to the programs that it runs.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need strace mkntfs qemu-img qemu-io
evil=$T/evil
mkdir -p "$evil/bin" "$evil/C"
volume 32M
f file /d 1M runs=9 fill=pattern
qemu-img create -q -f qcow2 "$T/small.qcow2" 8M
f file /small.qcow2 "$(stat -c %s "$T/small.qcow2")" fill=stdin <"$T/small.qcow2"

# All that the libraries look for, and what a shell would use.
for program in mount umount sh bash modprobe dmsetup udevadm; do
	printf '#!/bin/sh\n: >"%s/was-run"\n' "$evil" >"$evil/bin/$program"
	chmod +x "$evil/bin/$program"
done
hostile=(PATH="$evil/bin" IFS=/ TMPDIR="$evil" TMP="$evil" HOME="$evil" ENV="$evil/rc" BASH_ENV="$evil/rc"
	LC_ALL="$evil/C" LANG=../evil LOCPATH="$evil" NLSPATH="$evil/%N" TZ=":$evil/zone" TZDIR="$evil" GCONV_PATH="$evil"
	BLKID_FILE="$evil/cache" BLKID_CONF="$evil/conf" LIBBLKID_DEBUG=all LIBMOUNT_DEBUG=all UDEV_CONFIG_FILE="$evil/udev"
	DM_DEFAULT_NAME_MANGLING_MODE=none DM_UDEV_COOKIE=1 DM_ABORT_ON_INTERNAL_ERRORS=1 NTFSMAP_TAB="$evil/tab")

# inherits WORD...: no file of the caller's choice, no program, nothing that others could inherit, nothing made
inherits() {
	run env -i "${hostile[@]}" "$(type -P strace)" -f -qq -e trace=%file,execve,creat,socket,pipe,dup,dup2 -e signal=none \
		-o "$T/trace" "$ntfsmap" "$@"
	sed -i 1d "$T/trace" # strace's own execve()
	is "$(grep -F "$evil" "$T/trace")" '' "$1: no file that a variable names"
	is "$(grep -E 'execve|execveat' "$T/trace")" '' "  no program"
	is "$(grep -E '\b(open(at)?|socket|pipe)\(' "$T/trace" | grep -v 'CLOEXEC\|, "/", O_RDONLY|O_DIRECTORY')" '' \
		"  no descriptor for others"
	is "$(grep -E 'O_CREAT|\b(creat|mknod(at)?|mkdir(at)?|rename[a-z0-9]*|unlink(at)?|symlink(at)?)\(' "$T/trace")" '' "  nothing made"
	ok "  it opened its files" grep -q 'volume\.img.*O_CLOEXEC' "$T/trace"
}

environment() {
	local verb
	for verb in table info map cat check log; do
		inherits "$verb" "$img:/d"
		is "$status" 0 "  $verb does what it always does"
	done
	unlike "$err" libblkid "libblkid says nothing"
	qemu-img snapshot -c before "$T/small.qcow2"
	date=$(env -u TZ "$ntfsmap" info "$T/small.qcow2" | grep before)
	is "$(TZ=:/usr/share/zoneinfo/Asia/Tokyo "$ntfsmap" info "$T/small.qcow2" | grep before)" "$date" \
		"no time zone is read from a path"
	ok "  but one by its name is" test "$(TZ=XYZ-5:30 "$ntfsmap" info "$T/small.qcow2" | grep before)" != "$date"
	qemu-img snapshot -d before "$T/small.qcow2"
}

# A closed descriptor is the next one that open() gives, and what is said would go into the image.
closed() {
	local how
	cp "$T/small.qcow2" "$T/leaky.qcow2"
	# a cluster that nobody refers to
	perl -e 'open my $f, "+<", $ARGV[0] or die; seek $f, 48, 0; read $f, my $t, 8; seek $f, unpack("Q>", $t), 0;
		read $f, my $b, 8; seek $f, unpack("Q>", $b) + 2 * 100, 0; print $f pack "S>", 1' "$T/leaky.qcow2"
	truncate -s 6619136 "$T/leaky.qcow2"
	cp "$T/leaky.qcow2" "$T/want.qcow2"
	run "$ntfsmap" check --repair "$T/want.qcow2"
	like "$status $out" '^0 repaired' "check --repair says what it does"
	for how in '>&-' '2>&-' '<&-' '<&- >&- 2>&-'; do
		cp "$T/leaky.qcow2" "$T/got.qcow2"
		eval "\"\$ntfsmap\" check --debug --repair \"\$T/got.qcow2\" >\"\$T/said\" 2>&1 $how"
		ok "  with $how it does the same" cmp "$T/got.qcow2" "$T/want.qcow2"
		cp "$T/small.qcow2" "$T/got.qcow2"
		eval "\"\$ntfsmap\" reserve --debug \"\$T/got.qcow2\" 1M >\"\$T/said\" 2>&1 $how"
		ok "  and so does reserve" qemu-img compare -q "$T/got.qcow2" "$T/small.qcow2"
		ok "  which damages nothing" qemu-img check -q "$T/got.qcow2"
	done
	"$ntfsmap" "$img:/d" >&- 2>/dev/null
	is "$?" 7 "a table that nobody can get is a failure"
	"$ntfsmap" "$img:/d" <&- 2>&- >"$T/table"
	is "$? $(<"$T/table")" "0 $("$ntfsmap" -q "$img:/d")" "  and what nobody can be told is none"
}

masks() {
	mkdir "$T/units"
	echo "d $img:/d host=/mnt" >"$T/tab"
	echo '/dev/mapper/d /mnt/d ext4 defaults 0 0' >"$T/fstab"
	(umask 0 && NTFSMAP_TAB="$T/tab" NTFSMAP_FSTAB="$T/fstab" "$top/build/boot/ntfsmap-generator" "$T/units")
	ok "the generator makes units" test -e "$T/units/ntfsmap@d.service.d/50-ntfsmaptab.conf"
	is "$(find "$T/units" -mindepth 1 ! -type l -perm /022)" '' "  that only root can write, whatever the umask"
	rm -r "$T/units" && mkdir "$T/units"
	(umask 077 && NTFSMAP_TAB="$T/tab" NTFSMAP_FSTAB="$T/fstab" "$top/build/boot/ntfsmap-generator" "$T/units")
	is "$(find "$T/units" -type f -perm /077)" '' "  and others can read less where it says so"
	rm -r "$T/units" && mkdir "$T/units"
	NTFSMAP_TAB=$T/tab NTFSMAP_FSTAB=$T/fstab "$top/build/boot/ntfsmap-generator" "$T/units" >&- 2>&- <&-
	is "$(grep -rlF 'ntfsmap:' "$T/units")" '' "  no message in a unit"
	chmod 640 "$T/small.qcow2"
	(umask 0 && "$ntfsmap" reserve -q "$T/small.qcow2" 1M)
	is "$(stat -c %a "$T/small.qcow2")" 640 "reserve leaves the mode of a file alone"
}

set_user_id() {
	[ "$(id -u)" = 0 ] || return 0
	chmod 755 "$T"
	cp "$ntfsmap" "$T/ntfsmap"
	chmod 4755 "$T/ntfsmap"
	as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	[ "$("${as_nobody[@]}" "$(type -P perl)" -e 'print 1 if -u $ARGV[0]' "$T/ntfsmap")" = 1 ] || return 0
	run "${as_nobody[@]}" "$T/ntfsmap" "$img:/d"
	is "$status" 2 "set-user-ID root: refused"
	like "$err" 'as user 0 and group 65534 for user 65534.*chmod ug-s' "  says what to do"
	like "$out" '^refused: ' "  and no table"
	chmod 2755 "$T/ntfsmap"
	exits 2 "set-group-ID" "${as_nobody[@]}" "$T/ntfsmap" --version
	chmod 755 "$T/ntfsmap"
	exits 0 "neither" "${as_nobody[@]}" "$T/ntfsmap" --version
}

# Of process.c alone: what it does needs no device.
programs() {
	cat >"$T/run.c" <<-'END'
		#include <fcntl.h>
		#include <unistd.h>
		#include "ntfsmap/process.h"
		int main(int argc, char **argv)
		{
			(void)argc;
			if (process_start())
				return 9;
			if (dup2(open("/dev/null", O_RDWR), 42) != 42)
				return 8;
			return process_run((const char *const *)argv + 1);
		}
	END
	ok "process.c alone" "${CC:-cc}" -I"$top" -o "$T/run" "$T/run.c" "$top"/build/ntfsmap/{process,msg,utf8}.o
	run env -i "${hostile[@]}" TERM=x LC_CTYPE=C.UTF-8 DM_DISABLE_UDEV=1 "$T/run" env
	is "$status $(sort "$T/out" | xargs)" '0 DM_DISABLE_UDEV=1 LC_CTYPE=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin' \
		"a program gets this environment"
	run "$T/run" ls /proc/self/fd
	is "$(xargs <"$T/out")" '0 1 2 3' "  and no descriptor: 3 is its own"
	run env -i "${hostile[@]}" "$T/run" mount --version
	like "$status $out" '^0 mount from util-linux' "  and is the system's"
	run "$T/run" false
	is "$status" 7 "  its failure is one"
	run "$T/run" ntfsmap-none
	is "$status" 4 "  so is its absence"
	ok "nothing of the caller's was run" test ! -e "$evil/was-run"
}

environment
closed
masks
set_user_id
programs
done_testing
