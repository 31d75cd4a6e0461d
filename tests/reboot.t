#!/bin/bash
# A machine that goes down without taking the device apart: what was written, and not flushed, is committed by the
# target's reboot notifier. The machine's init ends with reboot -f, while the device is open.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need qemu-img dmsetup perl
lay=$top/tests/lib/vhdlay.pl

if [ -n "${VM_GUEST:-}" ]; then
	insmod "$TEST_MODULE" && dmsetup create v --table "$(cat /mnt/share/table)" || exit
	udevadm settle
	exec dd if=/mnt/share/noise of=/dev/mapper/v bs=64k seek=40 count=1 oflag=direct conv=notrunc status=none
fi

TEST_MODULE=$("$top/tests/vm/module.sh") || { [ $? != 77 ] || skip_all "no headers for the machine's kernel"; bail "the module does not build"; }
export TEST_MODULE
mkdir "$T/share"
head -c 64k /dev/urandom >"$T/share/noise"
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$T/x.vhd" 64M
"$lay" room "$T/x.vhd" $((8 << 20))
bytes=$(stat -c %s "$T/x.vhd")
truncate -s 64M "$T/disk.img"
extents=$("$lay" place "$T/x.vhd" "$T/disk.img" 2048 3)
# shellcheck disable=SC2086 # a list
set -- $extents
echo "0 131072 vdisk vhd 2 file_bytes $bytes 1 /dev/vda $# $extents" >"$T/share/table"
ok "a write, and the machine goes down" in_vm -t 300 -d "$T/disk.img" -s "$T/share" -- bash "$0"
"$lay" take "$T/disk.img" "$bytes" "$@" >"$T/after.vhd"
qemu-img convert -f vpc -O raw "$T/after.vhd" "$T/after.raw"
ok "what was written is there" cmp -n 65536 -i 0:$((40 << 16)) "$T/share/noise" "$T/after.raw"
done_testing
