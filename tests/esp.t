#!/usr/bin/env bash
# copy-to-esp: kernels and their initramfs come to the ESP, with entries for systemd-boot and GRUB, and go from it; what
# cannot be written leaves what was there.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"

script=$top/boot/copy-to-esp.sh
export ESP=$T/efi BOOT=$T/boot CMDLINE=$T/cmdline
options='root=UUID=11111111-2222-3333-4444-555555555555 ntfsmap=disk,UUID=175383B66AD61018:/disk.vhd,partitions'
mkdir -p "$ESP" "$BOOT"

# kernel VERSION TEXT
kernel() {
	echo "kernel $2" >"$BOOT/vmlinuz-$1"
	echo "initramfs $2" >"$BOOT/initrd.img-$1"
}

listing() {
	(cd "$ESP" && find . -type f | LC_ALL=C sort | xargs)
}

kernel 6.1.0-9 nine
run "$script" 6.1.0-9
is "$status:$(listing)" 0: 'an ESP that is not mounted: nothing is written, and the kernel is installed'
like "$err" "no EFI system partition is mounted on $ESP" '  but it is told'

mkdir "$ESP/EFI"
run "$script" 6.1.0-9
is "$status:$(listing)" 1: 'no kernel parameters: refused'
like "$err" "$CMDLINE has no kernel parameters" '  by the name of the file'

echo "$options" >"$CMDLINE"
kernel 6.1.0-10 ten
echo 'no initramfs yet' >"$BOOT/vmlinuz-6.1.0-11"
run "$script"
nine='./ntfsmap/6.1.0-9/initrd.img ./ntfsmap/6.1.0-9/vmlinuz'
entries=./loader/entries/ntfsmap-6.1.0
is "$status:$err:$(listing)" "0::$entries-10.conf $entries-9.conf ${nine//-9/-10} $nine ./ntfsmap/grub.cfg" \
	'kernels that have an initramfs, and entries'
ok '  the bytes are the same' cmp "$BOOT/initrd.img-6.1.0-10" "$ESP/ntfsmap/6.1.0-10/initrd.img"
is "$(sed -n 's/^options  //p' "$ESP/loader/entries/ntfsmap-6.1.0-10.conf")" "$options" '  the parameters too'
is "$(sed -n 's/^menuentry .*, \(.*\). {$/\1/p' "$ESP/ntfsmap/grub.cfg" | xargs)" '6.1.0-10 6.1.0-9' \
	'  in the menu of GRUB the newest is the first'
if type -P grub-script-check >/dev/null; then
	ok '  GRUB can read it' grub-script-check "$ESP/ntfsmap/grub.cfg"
fi

kernel 6.1.0-10 newer
ok 'a new initramfs' "$script" 6.1.0-10 "$BOOT/initrd.img-6.1.0-10"
is "$(cat "$ESP/ntfsmap/6.1.0-10/initrd.img")" 'initramfs newer' '  is copied'

kernel 6.1.0-10 newest
ln -s /dev/full "$ESP/ntfsmap/6.1.0-10/initrd.img.new"
run "$script"
is "$status" 1 'a full ESP fails'
like "$err" 'initrd.img could not be written, and is as it was' '  by its name'
is "$(cat "$ESP/ntfsmap/6.1.0-10/initrd.img")" 'initramfs newer' '  and the old one stays'
ok '  without a half one beside it' test ! -L "$ESP/ntfsmap/6.1.0-10/initrd.img.new"

rm "$BOOT"/*-6.1.0-9
echo other >"$ESP/loader/entries/other.conf"
ok 'a kernel is removed' "$script" 6.1.0-9
is "$(listing)" "$entries-10.conf ./loader/entries/other.conf ${nine//-9/-10} ./ntfsmap/grub.cfg" \
	'  it goes, with its entry; what others have there stays'
unlike "$(cat "$ESP/ntfsmap/grub.cfg")" '6\.1\.0-9' '  and GRUB does not offer it'
done_testing
