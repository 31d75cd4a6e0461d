#!/bin/bash
# Rules of the house that a grep can check.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
cd "$top" || bail "no $top"

# none NAME COMMAND...: the command prints nothing
none() {
	local name=$1
	shift
	is "$("$@" 2>/dev/null)" '' "$name"
}

sources=$(find bench boot dm-vdisk libvdisk ntfsmap tests -name '*.[ch]')

# The rooms of the design: who may use what
none "libntfs-3g is used in ntfs*.c and sleep.c only" \
	bash -c "grep -ln 'ntfs-lib.h\\|<ntfs-3g/' ntfsmap/*.[ch] | grep -v 'ntfsmap/ntfs[-.]\\|ntfsmap/sleep.c'"
none "libdevmapper is used in dm.c only" bash -c "grep -ln 'libdevmapper.h' ntfsmap/*.[ch] | grep -v '^ntfsmap/dm.c$'"
none "libblkid is used in blk.c, parts.c and ntfs-device.c only" \
	bash -c "grep -ln 'blkid/blkid.h' ntfsmap/*.[ch] | grep -v 'ntfsmap/blk.c\\|ntfsmap/parts.c\\|ntfsmap/ntfs-device.c'"
none "libvdisk calls nothing of ntfsmap" grep -rn 'ntfsmap/' libvdisk --include='*.[ch]'
none "libvdisk calls nothing of dm-vdisk" grep -rn 'dm-vdisk\|dmv_' libvdisk --include='*.[ch]'
none "dm-vdisk calls nothing of ntfsmap and of libvdisk/user" grep -rn 'include.*\(ntfsmap\|user\)/' dm-vdisk
none "only compat.h knows kernel versions" \
	bash -c "grep -ln 'KERNEL_VERSION\|KERNEL_SINCE' dm-vdisk/*.[ch] | grep -v '^dm-vdisk/compat.h$'"
none "ntfsmap opens for writing in loop.c, for the lock and for reserve only" \
	bash -c "grep -n 'O_RDWR\\|O_WRONLY\\|[^_]pwrite(\\|fopen(.*\"[wa]' ntfsmap/*.c | grep -v 'ntfsmap/loop.c\\|ntfsmap/repair.c\\|ntfsmap/store.c\\|ntfsmap/verb-reserve.c\\|LOCK_FILE'"

none "programs are run in process.c only" bash -c \
	"grep -nE '\\b(system|popen|exec[lv]p?e?|execveat|fexecve|posix_spawnp?|vfork)\(' ntfsmap/*.c boot/*.c libvdisk/*.c libvdisk/user/*.c | grep -v '^ntfsmap/process.c:'"
none "the environment is read in process.c and by the generator only" \
	bash -c "grep -nE '\\b(secure_)?getenv\(|\\benviron\\b' ntfsmap/*.c boot/*.c libvdisk/*.c libvdisk/user/*.c | grep -v '^ntfsmap/process.c:\|^boot/generator.c:'"
none "every file is opened O_CLOEXEC" bash -c \
	"grep -nE '\\b(open|openat|creat|dup|dup2|pipe|socket|accept|inotify_init|epoll_create)\(|fd?open\(.*\"[rwa][^e]*\"' ntfsmap/*.c boot/*.c libvdisk/user/*.c | grep -v 'O_CLOEXEC\|->open(\|ntfsmap/process.c:\|boot/generator.c:.*dup2('"
# shellcheck disable=SC2086
none "every C file has a licence line" grep -L 'SPDX-License-Identifier: GPL-2.0-or-later' $sources
# shellcheck disable=SC2086
none "no line is longer than 100 columns" perl -CSD -ne 'chomp; 1 while s/\t/" " x (8 - $-[0] % 8)/e;
	print "$ARGV:$.\n" if length > 100; close ARGV if eof' $sources
# shellcheck disable=SC2086
none "no function is longer than 60 lines" awk '/^{/ { start = FNR } /^}/ { if (start && FNR - start > 60) print FILENAME ":" start; start = 0 }' $sources
# shellcheck disable=SC2086
none "no file is longer than 800 lines" awk 'FNR == 801 { print FILENAME }' $sources
none "no notes to self" grep -rniE '\b(TODO|FIXME|XXX|HACK)\b' --include='*.[ch]' --include='*.sh' bench dm-vdisk libvdisk ntfsmap

# Everything that is there is told
for folder in bench boot dm-vdisk libvdisk ntfsmap man tests tests/fuzz tests/vm; do
	ok "$folder has a README" test -s "$folder/README.md"
done
for verb in $("$top/build/bin/ntfsmap" --help | sed -n 's/^  \([a-z]\{3,\}\) .*/\1/p'); do
	ok "the man page has $verb" grep -qw "$verb" man/ntfsmap.8
	ok "the completion has $verb" grep -qw "$verb" ntfsmap/completion.bash
done
for option in $("$top/build/bin/ntfsmap" --help | grep -oE -- '--[a-z]+' | sort -u); do
	ok "the man page has $option" grep -qw -- "${option#--}" man/ntfsmap.8
done
for fact in $(grep -ohE '(ok|objection|caution|add)\(facts, "[a-z-]+"' ntfsmap/safety*.c | cut -d'"' -f2 | sort -u); do
	ok "the man page has the fact $fact" grep -qw -- "${fact//-/.*-}" man/ntfsmap.8
done
for word in hiberfile cloud offline readonly-file valid-data-length pending-log; do
	ok "the man page has --allow=$word" grep -q -- "${word//-/.*-}" man/ntfsmap.8
done
for word in $(grep -ohE 'strcasecmp\((name|argv\[0\]), "[a-z_]+"' dm-vdisk/{target,args}.c | cut -d'"' -f2 | sort -u); do
	ok "dm-vdisk.7 has $word" grep -q "^\.It Cm $word" man/dm-vdisk.7
done
none "the man pages have no fault" bash -c 'type -P mandoc >/dev/null && mandoc -Tlint -W warning man/*.[578]'
done_testing
