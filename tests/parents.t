#!/bin/bash
# Parents, backing files and data files lead nowhere else, whatever an image says: on NTFS no file outside the volume is
# opened, and beside a plain image only what whoever made the image could have as well. chain.t and qcow-chain.t have
# those that are good.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs qemu-img strace perl
d=$T/images
mkdir -p "$d/sub" "$T/outside"
head -c 1M /dev/urandom >"$T/outside/secret"
printf 'on the volume' >"$T/small"
truncate -s 1M "$T/small"

# nowhere NAME SOURCE: no file outside, and a plain refusal
nowhere() {
	run strace -f -qq -e trace=%file,%network -e signal=none -o "$T/trace" "$ntfsmap" cat "$2"
	like "$status" '^[246]$' "$1: refused" || diag "$err"
	is "$(grep -E 'outside|secret|socket\(|connect\(' "$T/trace" | grep -v ENOENT)" '' "  and nothing of it was opened"
}

volume_only() {
	local name n=0
	volume 64M
	f mkdir /dir
	f file /base.raw 1M fill=stdin <"$T/small"
	f mkdir /link
	f file /link/base.raw 1M fill=pattern
	f reparse /link a0000003
	f file /link.raw 1M fill=pattern
	f reparse /link.raw a000000c
	for name in ../../base.raw ../../../../../../..$T/outside/secret "$T/outside/secret" "file:$T/outside/secret" \
		"file://$T/outside/secret" "json:{\"driver\":\"file\",\"filename\":\"$T/outside/secret\"}" \
		nbd://127.0.0.1/x nbd:unix:$T/outside/secret http://127.0.0.1/x "D:$T/outside/secret" \
		"fat:$T/outside" '\\host\share\x.raw' '//host/share/x.raw' '\\?\GLOBALROOT\Device\x' '\\.\PhysicalDrive0' \
		/dev/null /proc/self/mem ../link/base.raw ../link.raw .. . /; do
		n=$((n + 1))
		qemu-img create -q -f qcow2 -u -b "$name" -F raw "$T/i.qcow2" 1M || bail "qemu-img $name"
		f file "/dir/$n.qcow2" "$(stat -c %s "$T/i.qcow2")" fill=stdin <"$T/i.qcow2"
		nowhere "on NTFS, $name" "$img:/dir/$n.qcow2"
	done
	qemu-img create -q -f qcow2 -u -b ../link/base.raw -F raw "$T/i.qcow2" 1M
	f file /dir/way.qcow2 "$(stat -c %s "$T/i.qcow2")" fill=stdin <"$T/i.qcow2"
	exits 2 "a junction on the way" "$ntfsmap" cat "$img:/dir/way.qcow2"
	like "$err" '/link is a reparse point' "  is not followed"
	for name in 'C:\base.raw' '\base.raw' ../base.raw /base.raw ../dir/../base.raw; do
		n=$((n + 1))
		qemu-img create -q -f qcow2 -u -b "$name" -F raw "$T/i.qcow2" 1M
		f file "/dir/$n.qcow2" "$(stat -c %s "$T/i.qcow2")" fill=stdin <"$T/i.qcow2"
		is "$("$ntfsmap" cat -q "$img:/dir/$n.qcow2" | head -c 13)" 'on the volume' "  and $name is the one on the volume"
	done
	for name in /proc/self/mem ../../x /base.raw; do
		qemu-img create -q -f qcow2 -o data_file="$d/data.dat" "$T/i.qcow2" 1M
		FROM=$d/data.dat TO=$name perl -0777 -pi -e 's/\Q$ENV{FROM}\E/substr($ENV{TO} . "\0" x 999, 0, length $ENV{FROM})/ge' \
			"$T/i.qcow2"
		n=$((n + 1))
		f file "/dir/$n.qcow2" "$(stat -c %s "$T/i.qcow2")" fill=stdin <"$T/i.qcow2"
		run "$ntfsmap" check "$img:/dir/$n.qcow2"
		like "$status" '^[24]$' "a data file $name is not written to"
	done
}

plain() {
	local name
	mkfifo "$d/fifo"
	for name in fifo sub . /dev/zero ../../../../../../../../dev/zero /proc/self/mem; do
		qemu-img create -q -f qcow2 -u -b "$name" -F raw "$d/i.qcow2" 1M
		nowhere "in a file, $name" "$d/i.qcow2"
		[ "${name#/}" != "$name" ] || like "$err" 'no regular file' "  says why"
	done
	[ "$(stat -c %d /proc/version)" = "$(stat -c %d "$d")" ] || {
		ln -s /proc/version "$d/elsewhere"
		qemu-img create -q -f qcow2 -u -b elsewhere -F raw "$d/i.qcow2" 1M
		exits 2 "a link to another file system" "$ntfsmap" cat "$d/i.qcow2"
	}
}

# An image that a user made, and that root opens.
owners() {
	[ "$(id -u)" = 0 ] || return 0
	qemu-img create -q -f qcow2 -u -b ../outside/secret -F raw "$d/user.qcow2" 1M
	chown 65534 "$d/user.qcow2"
	chmod 600 "$T/outside/secret"
	run "$ntfsmap" cat "$d/user.qcow2"
	is "$status" 2 "a user's image names what that user cannot read"
	like "$err" 'user 65534.*secret.*user 0.*--parent SOURCE' "  says why, and what to do"
	is "$(wc -c <"$T/out")" 0 "  and shows nothing of it"
	exits 0 "  --parent takes it" "$ntfsmap" cat --parent "$T/outside/secret" "$d/user.qcow2"
	chmod 604 "$T/outside/secret"
	exits 0 "what all can read is a parent" "$ntfsmap" cat "$d/user.qcow2"
	chmod 600 "$T/outside/secret"
	chown 65534 "$T/outside/secret"
	exits 0 "what belongs to the same user, too" "$ntfsmap" cat "$d/user.qcow2"
	chown 65533 "$T/outside/secret"
	exits 2 "what belongs to another user is none" "$ntfsmap" cat "$d/user.qcow2"
	chown 0 "$d/user.qcow2"
	exits 0 "root's image names anything" "$ntfsmap" cat "$d/user.qcow2"
	chown 0 "$T/outside/secret"

	(cd "$d" && qemu-img create -q -f qcow2 -o data_file=data.img "$d/written.qcow2" 1M)
	chown 65534 "$d/written.qcow2"
	chmod 604 "$d/data.img"
	run "$ntfsmap" table --concise n "$d/written.qcow2"
	is "$status" 2 "a user's image would have root's file written"
	like "$err" 'data.img.*not for all to write.*--data SOURCE' "  says why"
	chown 65534 "$d/data.img"
	exits 0 "its own is" "$ntfsmap" cat "$d/written.qcow2"
	chown 0 "$d/data.img" "$d/written.qcow2"
}

# swapped N PATH BY COMMAND...: who may rename files on the way does it just before the Nth time that PATH is opened
swapped() {
	cat >"$T/swap.c" <<-'END'
		#define _GNU_SOURCE
		#include <dlfcn.h>
		#include <stdio.h>
		#include <string.h>
		static int swap(const char *path, int flags, const char *name)
		{
			int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
			static int opens;

			if (!strcmp(path, SWAP_PATH) && ++opens == SWAP_AT)
				rename(SWAP_BY, path);
			return next(path, flags, 0600);
		}
		int open64(const char *path, int flags, ...) { return swap(path, flags, "open64"); }
		int open(const char *path, int flags, ...) { return swap(path, flags, "open"); }
	END
	"${CC:-cc}" -shared -fPIC "-DSWAP_AT=$1" "-DSWAP_PATH=\"$2\"" "-DSWAP_BY=\"$3\"" -o "$T/swap.so" "$T/swap.c" ||
		bail "cannot compile"
	shift 3
	run env LD_PRELOAD="$T/swap.so" "$@"
}

replaced() {
	cp "$T/outside/secret" "$d/x.dat"
	(cd "$d" && qemu-img create -q -f qcow2 -o data_file=x.dat "$d/i.qcow2" 1M)
	ln -sf "$T/outside/secret" "$T/by"
	swapped 9 "$d/x.dat" "$T/by" "$ntfsmap" cat "$d/i.qcow2"
	is "$status" 0 "a data file that stays what it is"
	swapped 1 "$d/x.dat" "$T/by" "$ntfsmap" cat "$d/i.qcow2"
	is "$status" 2 "one that becomes a link out of the folder"
	like "$err" 'not in its folder' "  says so"

	qemu-img create -q -f qcow2 "$d/mended.qcow2" 1M
	qemu-img create -q -f qcow2 "$T/other.qcow2" 1M
	swapped 9 "$d/mended.qcow2" "$T/other.qcow2" "$ntfsmap" check --repair "$d/mended.qcow2"
	is "$status" 0 "an image that is repaired"
	swapped 2 "$d/mended.qcow2" "$T/other.qcow2" "$ntfsmap" check --repair "$d/mended.qcow2"
	is "$status" 5 "  and another one in its place"
	like "$err" 'another file a moment ago' "  says so"
}

volume_only
plain
owners
replaced
done_testing
