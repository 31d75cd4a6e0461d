#!/bin/bash
# A disk with logical blocks of 4096 bytes: what fits is mapped, what does not is refused by name, not cut off.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscat dmsetup qemu-img qemu-io

if in_machine; then
	is "$(blockdev --getss /dev/vda)" 4096 "the disk has blocks of 4096 bytes"
	ok "a raw file of whole blocks opens" ntfsmap open -q /dev/vda:/whole whole
	is "$(blockdev --getss /dev/mapper/whole)" 4096 "  and says so itself"
	is "$(read_direct /dev/mapper/whole | sha256sum)" "$(cat /mnt/share/hash)" "  reads equal ntfscat"
	ok "  writes" dd if=/dev/zero of=/dev/mapper/whole bs=4096 count=16 oflag=direct status=none
	ok "  close" ntfsmap close whole
	run ntfsmap open /dev/vda:/odd odd
	is "$status" 2 "a raw file with half a block at its end is refused"
	like "$err" 'logical blocks of 4096 bytes' "  in words"
	run ntfsmap /dev/vda:/odd
	is "$status" 2 "  by table too"
	ok "a fixed VHD whose disk is whole blocks opens" ntfsmap open -q /dev/vda:/good.vhd vhd
	is "$(blockdev --getsize64 /dev/mapper/vhd)" $((4 << 20)) "  with its size"
	ok "  close" ntfsmap close vhd
	run ntfsmap open /dev/vda:/odd.vhd vhd
	is "$status" 2 "a fixed VHD that ends inside a block is refused, not cut off"
	ok "a file whose bytes do not fill a sector opens if its sectors fill blocks" ntfsmap open -q /dev/vda:/tail tail
	ok "  close" ntfsmap close tail
	run ntfsmap table -q /dev/vda:/aligned.vhd
	is "$status" 0 "a dynamic VHD whose blocks begin on blocks of the disk" || diag "$err"
	is "$(grep -oE '[0-9]+\+[0-9]+' <<<"$out" | tr + '\n' | awk '$1 % 8' | wc -l)" 0 "  its extents are whole blocks"
	run ntfsmap table /dev/vda:/crooked.vhd
	is "$status" 2 "a dynamic VHD of qemu, whose blocks do not, is refused"
	like "$err" 'logical blocks of 4096 bytes, but byte 0 of the disk lies at byte 2560' "  in words"
	is "$(ntfsmap cat -q /dev/vda:/crooked.vhd | sha256sum)" "$(cat /mnt/share/crooked)" "  cat reads it"
	for name in small sub; do
		run ntfsmap table "/dev/vda:/$name.qcow2"
		is "$status" 2 "a qcow2 with $name clusters of 2 KiB is refused"
		like "$err" 'logical blocks of 4096 bytes, and the image has (sub)?clusters of 2048' "  in words"
	done
	run ntfsmap table -q /dev/vda:/whole.qcow2
	is "$status" 0 "a qcow2 with clusters of 4 KiB is not" || diag "$err"
	done_testing
	exit
fi

mkdir "$T/share"
volume 64M -s 4096 -c 4096
f file /whole 1M runs=7 order=shuffle seed=2 fill=pattern
f file /odd $(((1 << 20) + 512)) runs=2
f file /tail $(((1 << 20) + 100)) runs=2
for name in good:4194304 odd:4194816; do
	qemu-img create -q -f vpc -o subformat=fixed,force_size "$T/x.vhd" "${name#*:}"
	f file "/${name%:*}.vhd" "$(stat -c %s "$T/x.vhd")" runs=3 fill=stdin <"$T/x.vhd"
done
qemu-img create -q -f vpc -o force_size "$T/aligned.vhd" 8M
cp "$T/aligned.vhd" "$T/crooked.vhd"
ok "room in a dynamic VHD" "$ntfsmap" reserve -q "$T/aligned.vhd" all
"$top/build/tests/vdiskio" "$T/aligned.vhd" <<<'write 0 8388608 3' >/dev/null
qemu-io -f vpc -c 'write -P 3 0 8M' "$T/crooked.vhd" >/dev/null
"$ntfsmap" cat -q "$T/crooked.vhd" | sha256sum >"$T/share/crooked"
for name in aligned crooked; do
	f file "/$name.vhd" "$(stat -c %s "$T/$name.vhd")" runs=3 fill=stdin <"$T/$name.vhd"
done
qemu-img create -q -f qcow2 -o cluster_size=2k "$T/small.qcow2" 4M
qemu-img create -q -f qcow2 -o extended_l2=on "$T/sub.qcow2" 4M
qemu-img create -q -f qcow2 -o cluster_size=4k "$T/whole.qcow2" 4M
for name in small sub whole; do
	qemu-io -c 'write -P 3 0 1M' "$T/$name.qcow2" >/dev/null
	f file "/$name.qcow2" "$(stat -c %s "$T/$name.qcow2")" runs=2 fill=stdin <"$T/$name.qcow2"
done
ntfscat "$img" /whole | sha256sum >"$T/share/hash"
guest_tests -t 1200 -s "$T/share" -d "$img,bs=4096"
done_testing
