#!/usr/bin/env bash
# What the hooks of initramfs-tools, dracut and mkinitcpio do inside an initramfs, under the shells that are used there:
# open root's image, leave a machine alone whose root is there without it, say why not, close at shutdown; and when an
# initramfs must not be made.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscp mkfs.ext4 qemu-img dmsetup busybox dash blkid
inside=11111111-2222-3333-4444-555555555555 beside=22222222-2222-3333-4444-555555555555
state=/run/ntfsmap-initrd

cmdline() {
	echo "quiet $* rw" >/run/cmdline
}

# hook SHELL COMMAND...: as init would, with what was installed; the functions of init are ours, and say what they do
hook() {
	local shell=$1
	shift
	# shellcheck disable=SC2086 # "busybox ash"
	run chroot /run/sys $shell -c '
		panic() { echo "PANIC $*"; }
		launch_interactive_shell() { echo SHELL; }
		emergency_shell() { echo "EMERGENCY $*"; . "$hookdir"/emergency/20-ntfsmap.sh; }
		. /usr/lib/ntfsmap/runtime.sh
		'"$*"
}

is_open() {
	[ -b "/dev/mapper/$1" ]
}

system() {
	mkdir -p /run/sys /run/over
	mount -t tmpfs over /run/over
	cp -r /mnt/share/root /run/over/upper
	mkdir /run/over/work /run/over/upper/{scripts,hooks}
	echo 'panic() { echo "PANIC $*"; }; wait_for_udev() { udevadm settle; }' >/run/over/upper/scripts/functions
	mount -t overlay -o lowerdir=/,upperdir=/run/over/upper,workdir=/run/over/work over /run/sys
	cmdline
	mount --bind /run/cmdline /proc/cmdline
	for folder in proc sys dev run tmp "lib/modules/$(uname -r)"; do mount --rbind /$folder /run/sys/$folder; done
}

shared_functions() {
	local shell=$1
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw"
	hook "$shell" "ntfsmap_named && ntfsmap_await UUID=$inside"
	is "$status:$(blkid -l -t UUID=$inside -o device)" 0:/dev/mapper/disk "$shell: root is there afterwards" ||
		diag "$out$err"
	hook "$shell" "ntfsmap_state"
	is "$out" 0 "  with its exit status"
	ntfsmap close disk

	rm -rf $state
	hook "$shell" "ntfsmap_await UUID=$beside"
	is "$status" 0 "$shell: root on a disk of its own"
	ok "  nothing is started then" test ! -e $state
	is_open disk && result 1 "  nothing is opened"

	cmdline "root=/dev/mapper/unlocked ntfsmap=disk,UUID=0123456789ABCDEF:/disk.raw"
	hook "$shell" "
		(until [ -e $state/log ]; do sleep 0.1; done; dmsetup create late --table '0 8 zero') &
		ntfsmap_await /dev/mapper/late"
	is "$status" 0 "$shell: root comes while the volume is waited for"
	is "$(cat $state/status):$(pgrep -x ntfsmap)" 0: "  nobody waits any more"
	like "$(cat $state/log)" 'is not here, and the system starts without it' "  which is said"
	dmsetup remove late

	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw ntfsmap=late,UUID=0123456789ABCDEF:/x,timeout=0"
	hook "$shell" "ntfsmap_await UUID=$inside"
	is "$status:$(pgrep -x ntfsmap)" 0: "$shell: root is open, and the disk of another image does not come"
	is_open disk && ntfsmap close disk

	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/sparse.raw"
	hook "$shell" "ntfsmap_await UUID=$inside || { echo \"status \$?\"; ntfsmap_report; }"
	like "$out" 'status 2.*sparse.*Restart there, not Shut down.*,overlay=tmpfs' "$shell: a refusal in plain words"
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/none"
	hook "$shell" "ntfsmap_await UUID=$inside || { echo \"status \$?\"; ntfsmap_report; }"
	like "$out" 'status 4.*/none.*no such file' "$shell: no such file"
	unlike "$out" 'Restart' "  which is not Windows' fault"
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw ntfsmap=other,/dev/vda:/none"
	hook "$shell" "ntfsmap_await /dev/mapper/in-lvm"
	is "$status" 0 "$shell: another image fails, and root may still come from what is open"
	like "$out" 'other: /dev/vda: there is no /none' "  what failed is said"
	ntfsmap close disk
	cmdline "root=UUID=$inside"
	hook "$shell" "ntfsmap_named"
	is "$status" 1 "$shell: nothing is named"
}

initramfs_tools() {
	local top=/usr/share/initramfs-tools/scripts/local-top/ntfsmap
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw"
	hook "$1" "export ROOT=UUID=$inside; $1 $top"
	ok "initramfs-tools, $1: it opens" is_open disk || diag "$out$err"
	ntfsmap close disk
	mkdir -p /run/sys/cryptroot
	echo "data UUID=$beside none luks" >/run/sys/cryptroot/crypttab
	cmdline "root=/dev/mapper/data ntfsmap=disk,/dev/vda:/disk.raw"
	rm -rf $state
	hook "$1" "export ROOT=/dev/mapper/data; $1 $top"
	ok "  not where all that root is unlocked from is there" test "$status" = 0 -a ! -e $state
	rm /run/sys/cryptroot/crypttab
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/sparse.raw"
	hook "$1" "export ROOT=UUID=$inside; $1 $top"
	like "$out" 'PANIC.*sparse' "  panic, with the verdict"
}

mkinitcpio() {
	local run='. /usr/lib/initcpio/hooks/ntfsmap && run_hook'
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw"
	hook "busybox ash" "root=UUID=$inside; $run"
	ok "mkinitcpio: it opens" is_open disk || diag "$out$err"
	unlike "$out" SHELL "  and no more"
	ntfsmap close disk
	rm -rf $state
	hook "busybox ash" "root=/dev/mapper/root cryptdevice=UUID=$beside:root:allow-discards; $run"
	ok "  not where what is unlocked is there" test "$status" = 0 -a ! -e $state
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/sparse.raw"
	hook "busybox ash" "root=UUID=$inside; $run"
	like "$out" 'sparse.*SHELL' "  the verdict, and a shell"
}

# No udev has made the node of a module that is not loaded yet.
rescue() {
	rmmod loop 2>/dev/null
	rm -f /dev/loop-control
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw,overlay=tmpfs"
	hook dash "ntfsmap_await UUID=$inside"
	is "$status:$(dmsetup table disk | awk '{ print $3 }')" 0:snapshot "overlay=tmpfs: nothing is changed" || diag "$out$err"
	ntfsmap close disk
}

# dracut calls its hook again and again.
dracut() {
	local up='hookdir=/run/hooks; . /usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-up.sh;'
	mkdir -p /run/hooks/emergency
	rm -rf $state
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/disk.raw"
	hook "$1" "until [ -b /dev/mapper/disk ]; do $up sleep 0.1; done"
	is "$status:$out$err" 0: "dracut, $1: it opens"
	hook "$1" 'until [ "$(ntfsmap_state)" = 0 ]; do sleep 0.1; done; '"$up"
	is "$status:$out$err:$(cat $state/status)" 0::0 "  and no more"
	ntfsmap close disk
	rm -rf $state
	cmdline "root=UUID=$inside ntfsmap=disk,/dev/vda:/sparse.raw"
	hook "$1" "hookdir=/run/hooks; until $up [ -e $state/status ]; do sleep 0.1; done; $up ntfsmap_state"
	like "$out" 'EMERGENCY.*sparse.*Restart' "  the verdict, in the emergency shell"
	like "$out" $'\n''(running|2)$' "  and another try after that"
	until [ -e $state/status ]; do sleep 0.1; done
	rm -rf $state
	cmdline "root=/dev/mapper/in-lvm ntfsmap=disk,/dev/vda:/disk.raw ntfsmap=other,/dev/vda:/none"
	hook "$1" "root=block:/dev/mapper/in-lvm hookdir=/run/hooks; until $up [ -e $state/status ]; do sleep 0.1; done; $up
		cat /run/hooks/emergency/20-ntfsmap.txt"
	unlike "$out" EMERGENCY "  no shell while root may come from what is open"
	like "$out" '/none.*no such file' "  but the verdict, for when it does not"
	rm -f /run/hooks/emergency/*
	ntfsmap close disk
	cmdline "root=UUID=$inside ntfsmap=disk,UUID=0123456789ABCDEF:/disk.raw"
	rm -rf $state
	hook "$1" "$up . /usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-stop.sh"
	is "$(pgrep -x ntfsmap)" '' "  nobody waits when dracut leaves"
}

# Without udevd, as at that time.
dracut_shutdown() {
	local down=". /usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-shutdown.sh"
	ntfsmap open -q /dev/vda:/disk.raw disk >/dev/null
	ntfsmap open -q --overlay tmpfs --partitions /dev/vda:/second.raw second >/dev/null
	dmsetup create top --table "0 2048 linear /dev/mapper/disk 0"
	udevadm control --exit
	hook dash "$down"
	is "$status" 1 "dracut's shutdown: what is used stays, to be tried again"
	is "$(dmsetup ls | cut -f1 | sort | xargs)" 'disk top' "  the rest is closed, with what is below an overlay"
	unlike "$out$err" 'second' "  at once"
	dmsetup remove --noudevsync top
	hook dash "$down"
	is "$status:$(dmsetup ls)" '0:No devices found' "  and that when it is free"
}

# tab LINE: the exit status and the words of vdisk-check
tab() {
	echo "$1" >"$T/tab"
	run env NTFSMAPTAB="$T/tab" PATH="$T/bin:$PATH" /run/over/upper/usr/lib/ntfsmap/vdisk-check 6.1.0-test
}

says() {
	printf '#!/bin/sh\n%s\n' "$2" >"$T/bin/$1"
	chmod +x "$T/bin/$1"
}

vdisk_check() {
	mkdir "$T/bin"
	says modinfo 'exit 1'
	says findmnt 'echo overlay'
	tab "a /dev/vda:/disk.raw x-initrd.attach"
	is "$status:$err" 0: "vdisk-check: a raw image needs no module"
	tab "a /dev/vda:/dynamic\\040disk.vhd x-initrd.attach"
	is "$status" 1 "  a dynamic VHD does"
	like "$err" 'a of .*dm-vdisk.*none for 6.1.0-test' "  it is said, with the kernel"
	tab "a /dev/vda:/dynamic\\040disk.vhd ro,static,x-initrd.attach"
	is "$status:$err" 0: "  not with static"
	tab "# a /dev/vda:/dynamic\\040disk.vhd x-initrd.attach"
	is "$status:$err" 0: "  not in a comment"
	tab "  # a /dev/vda:/dynamic\\040disk.vhd x-initrd.attach"
	is "$status:$err" 0: "  nor in one behind blanks"
	tab "a /dev/vda:/d\\171namic\\040disk.vhd x-initrd.attach"
	is "$status" 1 "  any byte may be written in octal"
	tab "a /dev/vda:/dynamic\\040disk.vhd noauto"
	is "$status:$err" 0: "  not what the initramfs does not open"
	tab "a UUID=0123456789ABCDEF:/x x-initrd.attach"
	is "$status" 0 "  a volume that is not here"
	like "$err" 'cannot be read now' "  it is said"
	ntfsmap open -q /dev/vda:/disk.raw disk >/dev/null
	dmsetup create root --table "0 2048 linear /dev/mapper/disk 0"
	says findmnt 'echo /dev/mapper/root'
	tab "# none"
	is "$status:$err" 0: "  root on a raw image"
	says dmsetup 'echo 0 4096 vdisk vhd 0 1 254:0 1 0:0+8'
	tab "# none"
	is "$status" 1 "  root on a mapping with the module"
	like "$err" 'root file system.*dm-vdisk' "  it is said"
	says modinfo 'exit 0'
	tab "a /dev/vda:/dynamic\\040disk.vhd x-initrd.attach"
	is "$status:$err" 0: "  all is well with the module"
	dmsetup remove root
	ntfsmap close disk
}

if in_machine; then
	system
	for shell in dash "busybox ash" bash; do shared_functions "$shell"; done
	initramfs_tools dash
	initramfs_tools "busybox ash"
	mkinitcpio
	rescue
	dracut dash
	dracut bash
	vdisk_check
	dracut_shutdown
	done_testing
	exit
fi

mkdir "$T/share"
make -s -C "$top" install DESTDIR="$T/share/root" || bail "make install failed"
truncate -s 16M "$T/disk.raw" "$T/other"
mkfs.ext4 -q -U $inside "$T/disk.raw"
mkfs.ext4 -q -U $beside "$T/other"
qemu-img create -q -f vpc -o subformat=dynamic "$T/dynamic.vhd" 16M
volume 64M
ntfscp "$img" "$T/disk.raw" /disk.raw
ntfscp "$img" "$T/dynamic.vhd" "/dynamic disk.vhd"
f file /second.raw 1M fill=pattern
f sparse /sparse.raw 1M
f hiberfil hibr
guest_tests -t 900 -s "$T/share" -d "$img" -d "$T/other"
done_testing
