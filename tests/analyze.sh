#!/bin/bash
# make analyze: gcc follows every path through each source, "-fanalyzer". It knows no code outside the file, so what it
# finds is looked at, and the code then says what the analyser could not know. A minute on two processors.
set -u
cd "$(dirname "$0")/.." || exit 1
read -ra flags < <(pkg-config --cflags libntfs-3g devmapper blkid jansson zlib libzstd)
flags+=(-std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 '-DVERSION=""' '-DUNITDIR=""' -O2 -fanalyzer -Werror -c -o /dev/null)
# shellcheck disable=SC2016 # it is the inner shell's
printf '%s\n' libvdisk/*.c libvdisk/user/*.c ntfsmap/*.c boot/*.c |
	xargs -P "$(nproc)" -I{} sh -c '"$@" 2>&1' - gcc "${flags[@]}" {} >build/analyze.log
status=$?
cat build/analyze.log
[ "$status" = 0 ] && echo "analyze: nothing found"
exit "$((status != 0))"
