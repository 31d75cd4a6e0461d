#!/usr/bin/env bash
# accel.sh KERNEL INITRAMFS: prints how qemu shall run the test machine, `kvm` or `tcg` (emulated: slower, and works
# everywhere). VM_ACCEL forces one. That /dev/kvm opens does not mean that a kernel comes up under it, so it is tried,
# once for each boot of this system.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

probe() {
	timeout -k 2 10 qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -no-user-config -display none \
		-no-reboot -serial stdio -kernel "$1" -initrd "$2" -append "console=ttyS0 panic=-1 reboot=t VM_PROBE=1" \
		</dev/null 2>&1 | grep -qa VM-PROBE-OK
}

# The answer for this boot goes to the file $known.
find_out() {
	local answer=tcg
	[ ! -e "$known" ] || return 0
	echo "vm: trying KVM, for 10 seconds at most" >&2
	! probe "$@" || answer=kvm
	rm -f "$cache"/accel-*
	workspace
	echo "$answer" >"$work/accel"
	mv "$work/accel" "$known"
}

if [ -n "${VM_ACCEL:-}" ]; then
	echo "$VM_ACCEL"
elif [ ! -w /dev/kvm ]; then
	echo tcg
else
	known=$cache/accel-$(cat /proc/sys/kernel/random/boot_id)
	[ -e "$known" ] || locked accel find_out "$@"
	cat "$known"
fi
