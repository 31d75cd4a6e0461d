#!/bin/bash
# systemd itself, in namespaces of the test machine, with our generator and its own for fstab: boot, unplug, plug, no
# hibernation, shutdown. Its units are ours and the few of its own that this needs.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/plug.sh
. "$top/tests/lib/plug.sh"
need systemctl unshare nsenter e2fsck
own=/usr/lib/systemd
[ -x $own/systemd ] || skip_all "systemd is not installed"

if ! in_machine; then
	make_plug
	guest_tests -d "$T/disk" -s "$T/root/mnt/share" -t 580
	done_testing
	exit
fi

# --- in the machine ---
units=/run/test-units generators=/run/test-generators

make_units() {
	local name
	mkdir -p $units $generators /mnt/x
	ln -s /mnt/share/generators/ntfsmap-generator $own/system-generators/systemd-fstab-generator $generators/
	cp -r /mnt/share/units/* $units/
	for name in local-fs.target local-fs-pre.target swap.target umount.target shutdown.target final.target \
		poweroff.target blockdev@.target systemd-poweroff.service sleep.target systemd-hibernate.service; do
		cp -L $own/system/$name $units/
	done
	mkdir $units/service.d
	printf '%s\n' [Service] StandardOutput=append:/run/units.log StandardError=append:/run/units.log \
		>$units/service.d/log.conf
	printf '%s\n' [Unit] DefaultDependencies=no Conflicts=shutdown.target Wants=local-fs.target \
		After=local-fs.target >$units/sysinit.target
	printf '%s\n' [Unit] Requires=sysinit.target After=sysinit.target AllowIsolate=yes >$units/default.target
}

# boot: what it says goes to the kernel's log
boot() {
	dmesg --clear
	env -i PATH="$PATH" SYSTEMD_UNIT_PATH=/run/systemd/generator:$units SYSTEMD_GENERATOR_PATH=$generators \
		unshare --pid --fork --mount --propagation private --mount-proc $own/systemd --system --log-target=kmsg \
		--show-status=no &
	unshare=$!
	until_so grep -q . "/proc/$unshare/task/$unshare/children"
	init=$(tr -d ' ' <"/proc/$unshare/task/$unshare/children")
	until_state default.target active
}

# ctl ARGUMENT...: systemctl, where systemd knows who asks
ctl() {
	nsenter -t "$init" -p -m systemctl --no-pager "$@"
}

is_state() {
	[ "$(ctl is-active "$1" 2>/dev/null)" = "$2" ]
}

until_state() {
	until is_state "$1" "$2" || is_state "$1" failed; do sleep 1; done
}

# What units print, without a journal.
said() {
	grep -E "$1" /run/units.log
}

mounted() {
	grep -q ' /mnt/x ext4 ' "/proc/$init/mounts"
}

# before A B: the log has A, and B later
before() {
	dmesg | awk -v a="$1" -v b="$2" '$0 ~ a && !seen { seen = NR } $0 ~ b { last = NR }
		END { exit !(seen && last > seen) }'
}

power_off() {
	dmesg --clear
	ctl poweroff
	wait "$unshare"
}

boots() {
	cat >/etc/ntfsmaptab <<-END
		disk UUID=$serial:/disk.raw timeout=60
		later UUID=$serial:/later.raw noauto
	END
	echo '/dev/mapper/disk /mnt/x ext4 defaults 0 0' >/etc/fstab
	boot
	ok "boot: what fstab mounts from a named volume is mounted" mounted
	ok "  its unit is active" is_state ntfsmap@disk.service active
	ok "  the boot waited for it" is_state local-fs.target active
	ok "  one with noauto is not open" is_state ntfsmap@later.service inactive
	is "$(ntfsmap list | awk 'NR > 1 { print $1 }')" disk "  nothing else is open"
	until_state "ntfsmap-up@$number.service" active
	ok "  the unit of the volume found it up already" said 'disk: is up already'
	ok "  it came behind the mounts" before 'Reached target local-fs.target' 'Starting ntfsmap-up@'
	ctl start ntfsmap@later.service
	is "$(realpath /dev/ntfsmap/later)" "$(realpath /dev/mapper/later)" "  systemctl start opens the other"
	ctl stop ntfsmap@later.service
	ok "  and stop closes it" test ! -e /dev/mapper/later
}

sleeps() {
	run ctl start systemd-hibernate.service
	is "$status" 1 "hibernating fails"
	ok "  with a reason" said 'ntfsmap: Linux must not hibernate .*: disk\.'
	unlike "$(dmesg)" 'PM: hibernation' "  before anything slept"
}

comes_and_goes() {
	: >/run/units.log
	unplug
	until_state "ntfsmap-up@$number.service" inactive
	until_state ntfsmap@disk.service inactive
	until_so test ! -e /dev/mapper/disk
	ok "unplugged: its unit ends well" is_state ntfsmap@disk.service inactive
	ok "  what was mounted from it is not any more" eval '! mounted'
	is "$(said "ntfsmap: .*disk: .*$number goes while" | wc -l)" 1 "  one line in the log"
	plug
	until_state ntfsmap@disk.service active
	until_state "ntfsmap-up@$number.service" active
	ok "plugged in: it is open again" test -b /dev/ntfsmap/disk
	ok "  and can be mounted" ctl start mnt-x.mount
}

shuts_down() {
	echo words >"/proc/$init/root/mnt/x/file"
	power_off
	ok "shutdown: it ends when it is unmounted" before 'Unmounted mnt-x.mount' 'Stopping ntfsmap@disk.service'
	ok "  with no complaint" before 'Stopping ntfsmap@disk.service' 'Stopped ntfsmap@disk.service'
	unlike "$(dmesg)" '(ntfsmap|mnt-x|mapper)[^ ]*: (Failed with|Job .* failed)' "  nothing failed"
	unlike "$(dmesg)" 'Stopping ntfsmap-up@' "  the unit of the volume has no end"
	is "$(dmsetup ls)" "No devices found" "  nothing is left"
	ntfsmap open -q /dev/vda1:/disk.raw disk >/dev/null
	run e2fsck -fn /dev/mapper/disk
	is "$status" 0 "  e2fsck finds nothing"
	unlike "$out" 'recovering' "  not even a journal"
}

root_has_no_end() {
	echo "disk UUID=$serial:/disk.raw x-initrd.attach" >/etc/ntfsmaptab
	boot
	ok "x-initrd.attach: open before the boot, and taken over" is_state ntfsmap@disk.service active
	ok "  what fstab has is mounted" mounted
	power_off
	unlike "$(dmesg)" 'Stopping ntfsmap@disk' "  shutdown leaves it alone"
}

set_up_plug
echo on >/proc/sys/kernel/printk_devkmsg # or the kernel drops what comes in bursts
number=$(printf '%d:%d' "0x$(stat -c %t /dev/vda1)" "0x$(stat -c %T /dev/vda1)")
make_units
boots
sleeps
comes_and_goes
shuts_down
root_has_no_end
done_testing
