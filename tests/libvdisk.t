#!/usr/bin/env bash
# libvdisk: its unit tests, plain and sanitised; what the libraries export; that others can build against what is
# installed; and the rules for its sources that DESIGN states and a grep can check.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
CC=${CC:-cc} CXX=${CXX:-c++}
need "$CC" perl
cd "$top" || bail "no $top"
# A make that runs us must not pass on its jobs or variables.
unset MAKEFLAGS MAKELEVEL MFLAGS
warnings=(-Wall -Wextra -Werror)

skip() {
	result 0 "$1 # SKIP $2"
}

# unit PROGRAM NAME: it says ok to everything, and to as much as it planned.
unit() {
	run "$1"
	if [ "$status" = 0 ] && ! grep -q '^not ok' "$T/out" &&
		[ "$(tail -n1 "$T/out")" = "1..$(grep -c '^ok' "$T/out")" ]; then
		result 0 "$2 ($(tail -n1 "$T/out"))"
	else
		result 1 "$2" || diag "status $status"$'\n'"$(grep -v '^ok' "$T/out")"$'\n'"$err"
	fi
}

units() {
	local source name
	for source in tests/unit/*.c; do
		name=$(basename "$source" .c)
		unit "build/tests/$name" "unit test $name"
	done
}

# The sources are compiled anew, so that the library is sanitised as well.
sanitised() {
	local flags=(-std=gnu11 -D_GNU_SOURCE -g -O1 "-fsanitize=address,undefined" -fno-sanitize-recover=all)
	local source name
	echo 'int main(void) { return 0; }' >"$T/probe.c"
	for source in tests/unit/*.c; do
		name="unit test $(basename "$source" .c), sanitised"
		if ! "$CC" "${flags[@]}" -o "$T/probe" "$T/probe.c" 2>/dev/null || ! "$T/probe"; then
			skip "$name" "$CC has no -fsanitize=address,undefined"
		else
			ok "$name: compiles" "$CC" "${flags[@]}" -o "$T/unit" "$source" libvdisk/*.c libvdisk/user/*.c \
				-lz -lzstd
			unit "$T/unit" "$name"
		fi
	done
}

listed() {
	sed -nE 's/^\t(vdisk_[a-z_]+);/\1/p' libvdisk/libvdisk.map | sort
}

exports() {
	is "$(nm -D --defined-only build/libvdisk.so | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)" \
		"$(listed)" 'libvdisk.so exports what libvdisk.map lists'
	is "$(grep -oE '\bvdisk_[a-z_]+\(' libvdisk/vdisk.h | tr -d '(' | sort -u)" \
		"$(listed)" 'which is what vdisk.h declares'
	like "$(readelf -d build/libvdisk.so)" 'SONAME.*\[libvdisk\.so\.0\]' 'its name ends in a version'
	is "$(nm -g --defined-only build/libvdisk.a | awk 'NF == 3 && $3 !~ /^vdisk_/')" '' \
		'libvdisk.a defines no name without vdisk_'
}

# A program of someone else's.
write_user() {
	cat <<-'END'
		#include <fcntl.h>
		#include <stdio.h>
		#include <vdisk.h>

		int main(int argc, char **argv)
		{
			int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
			struct vdisk_error err;
			char words[512] = "cannot read the file";
			struct vdisk_io io;
			struct vdisk *vd;
			int ret = fd < 0 ? -1 : vdisk_file_io(fd, &io);

			if (!ret)
				ret = vdisk_open(&io, NULL, &vd, &err);
			if (ret) {
				vdisk_error_text(&err, words, sizeof(words));
				puts(words);
				return 1;
			}
			printf("%s %llu\n", vdisk_info(vd)->format, (unsigned long long)vdisk_info(vd)->virtual_size);
			vdisk_close(vd);
			return 0;
		}
	END
}

# The libraries that libvdisk needs are the system's.
pc() {
	PKG_CONFIG_LIBDIR=$T/root/usr/lib/pkgconfig:$(pkg-config --variable pc_path pkg-config) PKG_CONFIG_SYSROOT_DIR=$T/root PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 \
		PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 pkg-config "$@" libvdisk
}

# try_user PROGRAM NAME: it tells a good image from a damaged one.
try_user() {
	run env LD_LIBRARY_PATH="$T/root/usr/lib" "$1" "$T/disk.img"
	is "$status: $out" '0: vhd 1536' "$2 prints the size of an image"
	run env LD_LIBRARY_PATH="$T/root/usr/lib" "$1" "$T/damaged.img"
	is "$status: ${out%%;*}" '1: offset 1600: footer.checksum does not match the footer, which is damaged: found 0x0, expected '"$sum" \
		"$2 tells what is wrong with another"
}

installed() {
	local flags
	ok 'make install' make DESTDIR="$T/root" PREFIX=/usr install
	write_user >"$T/user.c"
	cp "$T/user.c" "$T/user.cc"
	truncate -s 1536 "$T/disk.img"
	tests/lib/mkvhd.pl append "$T/disk.img"
	sum=$(tests/lib/mkvhd.pl show "$T/disk.img" | sed -n 's/^checksum=0x0*/0x/p')
	cp "$T/disk.img" "$T/damaged.img"
	tests/lib/mkvhd.pl patch "$T/damaged.img" checksum=0

	is "$(pc --modversion)" "$(sed -n 's/^VERSION := //p' Makefile)" 'the installed libvdisk.pc has the version'
	read -ra flags < <(pc --cflags --libs)
	ok 'a program links with what pkg-config says' \
		"$CC" -std=c99 -pedantic "${warnings[@]}" -o "$T/user" "$T/user.c" "${flags[@]}"
	like "$(readelf -d "$T/user")" 'NEEDED.*\[libvdisk\.so\.0\]' 'it asks for libvdisk.so.0'
	try_user "$T/user" 'it'
	read -ra flags < <(pc --cflags --libs --static)
	flags=("${flags[@]/#-lvdisk/$T/root/usr/lib/libvdisk.a}")
	ok 'it links with libvdisk.a' "$CC" "${warnings[@]}" -o "$T/user" "$T/user.c" "${flags[@]}"
	try_user "$T/user" 'the static one'
	read -ra flags < <(pc --cflags --libs)
	if type -P "$CXX" >/dev/null; then
		ok 'it links as C++' \
			"$CXX" -std=c++11 -pedantic "${warnings[@]}" -o "$T/user" "$T/user.cc" "${flags[@]}"
		try_user "$T/user" 'the C++ one'
	else
		skip 'it links as C++' "$CXX is not installed"
	fi
}

# The program of libvdisk(3), as it stands there.
man_page_example() {
	local flags
	read -ra flags < <(pc --cflags --libs)
	sed -n '/^\.Bd -literal/,/^\.Ed/{/^\./!p}' man/libvdisk.3 | sed 's/\\e/\\/g' >"$T/hello.c"
	ok "libvdisk(3)'s example compiles" "$CC" "${warnings[@]}" -o "$T/hello" "$T/hello.c" "${flags[@]}"
	truncate -s 6M "$T/disk.raw"
	ok 'a dynamic VHD for it' qemu-img convert -f raw -O vpc -o force_size "$T/disk.raw" "$T/disk.vhd"
	run env LD_LIBRARY_PATH="$T/root/usr/lib" "$T/hello" "$T/disk.vhd"
	is "$status: $err" '1: '"$T/disk.vhd: No space left on device" 'it finds no room in an image that is packed'
	# room for two blocks: the footer moves back
	tail -c 512 "$T/disk.vhd" >"$T/footer"
	truncate -s -512 "$T/disk.vhd" && truncate -s +5M "$T/disk.vhd" && cat "$T/footer" >>"$T/disk.vhd"
	run env LD_LIBRARY_PATH="$T/root/usr/lib" "$T/hello" "$T/disk.vhd"
	is "$status: $out" '0: vhd, 6291456 bytes: hello, disk' 'it writes and reads where there is room'
	is "$(qemu-img convert -f vpc -O raw "$T/disk.vhd" "$T/disk.raw" && head -c 11 "$T/disk.raw")" 'hello, disk' \
		'qemu reads it too'
}

# ---- rules ----

# Prints what in these sources of libvdisk breaks a rule: they know bits and offsets only, everything else of
# their world comes through port.h. vdisk.h is the users' header and asks for its own types.
# shellcheck disable=SC2016 # it is perl
rule_breakers() {
	perl -0777 -ne '
		my ($file) = $ARGV =~ m{([^/]*)$};
		my $at = sub { $file . ":" . (1 + (substr($_, 0, $_[0]) =~ tr/\n//)) . ": $_[1]\n" };
		s{/\*.*?\*/|//[^\n]*}{$& =~ s/[^\n]//gr}gse;
		while (/^[ \t]*#[ \t]*include[ \t]*(\S+)/gm) {
			next if $1 =~ /^"(port|vdisk|image|extents|meta|engine|engine-private|vhd|qcow|refcount)\.h"$/;
			next if $file eq "vdisk.h" && $1 =~ /^<(std(def|int)|linux\/types)\.h>$/;
			print $at->($-[0], "includes $1");
		}
		my $calls = "[fsv]*n?printf|f?puts|f?putc|putchar|perror|fopen|fclose|fread|fwrite|" .
			"(m|c|re)alloc|reallocarray|free|strdup|asprintf|kmalloc|kfree|printk|pr_[a-z]+|" .
			"open|openat|close|p?read|p?write|lseek|[fl]?stat|ioctl|mmap|abort|exit|assert|getenv";
		print $at->($-[0], "calls $1()") while /(?<![\w.>])($calls)\s*\(/g;
		print $at->($-[0], "uses $1") while /\b(errno|stdin|stdout|stderr)\b/g;
	' "$@"
}

rules() {
	local sources=(libvdisk/*.[ch]) source object
	local allowed='vdisk_\w+|(__)?mem(cpy|set|cmp|move)(_chk)?|strcmp|strlen|calloc|reallocarray|free|__stack_chk_fail'
	allowed+='|_GLOBAL_OFFSET_TABLE_|__(asan|ubsan|gcov)_\w+'
	is "$(rule_breakers "${sources[@]/#libvdisk\/port.h/libvdisk/vdisk.h}")" '' \
		'libvdisk outside user/ and port.h includes, prints, allocates and opens nothing'
	# What no list of functions forgets: everything that the compiled files need of others.
	is "$(for source in libvdisk/*.c; do
		object=build/${source%.c}.o
		nm -u "$object" 2>&1 | awk -v o="$object" '{ print o ": " $NF }'
	done | grep -vE ": ($allowed)\$")" '' 'nor needs anything but memory from the C library'
	# Such a rule is worth what it catches.
	{
		echo '#include <stdio.h>'
		echo '# include "../ntfsmap/msg.h"'
		echo '/* printf("in a comment") */ // malloc(1)'
		echo 'void f(struct vdisk_io *io) { io->read(0, 0, 0, 0); vdisk_free(0); reopen(1); }'
		echo 'void g(void) { free (malloc(1)); }'
		echo 'int h(void) { snprintf(0, 0, ""); return open("/", 0) ? errno : 0; }'
	} >"$T/bad.c"
	is "$(rule_breakers "$T/bad.c")" 'bad.c:1: includes <stdio.h>
bad.c:2: includes "../ntfsmap/msg.h"
bad.c:5: calls free()
bad.c:5: calls malloc()
bad.c:6: calls snprintf()
bad.c:6: calls open()
bad.c:6: uses errno' 'a file that breaks the rules is caught'
}

units
sanitised
exports
rules
need make pkg-config nm readelf qemu-img
installed
man_page_example
done_testing
