#!/bin/bash
# What the build makes hard to abuse: read from the ELF files by readelf, and seen to be missed where it is left out.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need readelf objdump
cd "$top" || bail "no $top"

# lost FILE: what of it the file does not have
lost() {
	local program dynamic
	program=$(readelf -hlW "$1") dynamic=$(readelf -dW "$1")
	grep -q 'Type: *DYN' <<<"$program" || echo "places chosen at random"
	case $1 in
	*.so*) ;;
	*) grep -q 'FLAGS_1.*PIE' <<<"$dynamic" || echo PIE ;;
	esac
	grep -q GNU_RELRO <<<"$program" || echo RELRO
	grep -q 'FLAGS_1.*NOW' <<<"$dynamic" || echo "binding at the start"
	grep -q 'GNU_STACK .* RW ' <<<"$program" || echo "a stack without code"
	! grep -q 'LOAD .* RWE ' <<<"$program" || echo "no place for both writing and code"
	! grep -Eq 'RPATH|RUNPATH|TEXTREL' <<<"$dynamic" || echo "no paths of libraries, no relocated code"
	readelf --dyn-syms -W "$1" | grep -q '__stack_chk_fail' || echo "guarded stacks"
	readelf --dyn-syms -W "$1" | grep -Eq '__[a-z]+_chk\>' || echo "checked copies"
	[ "$(uname -m)" != x86_64 ] ||
		objdump -d --no-show-raw-insn --disassemble="$2" "$1" | grep -q endbr64 || echo "marked targets of jumps"
}

# What every object was compiled with, as the compiler has written it down; nothing without -g.
compiled() {
	readelf --debug-dump=info "$1" 2>/dev/null | sed -n 's/.*DW_AT_producer .*: \(GNU C[0-9].*\)/\1/p'
}

hardened() {
	is "$(lost "$1" "$2")" '' "${1#"$top/"} has lost nothing"
}

hardened build/bin/ntfsmap main
hardened build/boot/ntfsmap-generator main
hardened build/libvdisk.so.0 vdisk_open
hardened build/tests/vdiskio main
for file in build/bin/ntfsmap build/boot/ntfsmap-generator build/libvdisk.so.0; do
	is "$(compiled "$file" | grep -v 'stack-protector-strong.*stack-clash-protection\|stack-clash-protection.*stack-protector-strong')" \
		'' "$file: no object without guards of the stack"
done

# built NAME WORD...: the generator, in a folder of its own
built() {
	local b=$T/$1
	shift
	# of what prove's caller has set nothing counts here
	env -u CFLAGS -u CPPFLAGS -u LDFLAGS -u MAKEFLAGS make -s "B=$b" "$@" "$b/boot/ntfsmap-generator" >"$T/log" 2>&1 ||
		bail "make $*: $(<"$T/log")"
	built=$b/boot/ntfsmap-generator
}

built bare HARDEN= LDHARDEN= PIE=-no-pie CFLAGS='-O2 -fcf-protection=none -fno-stack-protector' \
	LDFLAGS=-Wl,-z,norelro,-z,execstack,-z,lazy,-rpath,/tmp
is "$(lost "$built" main | sort)" "PIE
RELRO
a stack without code
binding at the start
checked copies
guarded stacks$([ "$(uname -m)" != x86_64 ] || echo $'\nmarked targets of jumps')
no paths of libraries, no relocated code
places chosen at random" "a build without all that is found out"

# Packagers have flags of their own.
built packager CPPFLAGS='-D_FORTIFY_SOURCE=2 -DPACKAGER' CFLAGS='-O1 -g -Werror' LDFLAGS=-Wl,-z,norelro
is "$(lost "$built" main)" RELRO "LDFLAGS have the last word"
like "$(compiled "$built")" ' -O1' "CFLAGS are taken"
like "$(<"$T/packager/flags")" 'FORTIFY_SOURCE=2' "CPPFLAGS too"
unlike "$(<"$T/packager/flags")" 'FORTIFY_SOURCE=3' "  with their _FORTIFY_SOURCE"
built debug CFLAGS='-O0 -g -Werror'
ok "without optimisation there is no warning" test -x "$built"
built static LDFLAGS=-static
unlike "$(readelf -lW "$built")" INTERP "LDFLAGS=-static makes a static program"
mkdir "$T/units"
ok "  that runs" env NTFSMAP_TAB="$T/none" NTFSMAP_FSTAB="$T/none" "$built" "$T/units"
built static LDFLAGS=-static-pie
is "$(readelf -hW "$built" | grep -c 'Type: *DYN')" 1 "LDFLAGS=-static-pie a static one at random places"
done_testing
