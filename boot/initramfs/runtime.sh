# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
# In an initramfs: what the hooks of initramfs-tools, dracut and mkinitcpio have in common. They source it as
# /usr/lib/ntfsmap/runtime.sh; dash, bash and busybox run it.
#
# `ntfsmap up --initrd` opens what the kernel's command line and the initramfs' ntfsmaptab name, and waits for the disks
# that it lies on. It runs in the background, because the system may be there without it: the same image is the disk of
# a virtual machine, where no NTFS volume ever comes. Whichever is first decides.
ntfsmap_dir=/run/ntfsmap-initrd

# Is there something to open?
ntfsmap_named() {
	grep -qs 'ntfsmap=' /proc/cmdline || [ -e /etc/ntfsmaptab ]
}

# Are all of these there: UUID=, LABEL=, PARTUUID=, PARTLABEL= or a path?
ntfsmap_present() {
	[ $# -gt 0 ] || return 1
	for ntfsmap_spec; do
		case $ntfsmap_spec in
		UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=*) blkid -l -t "$ntfsmap_spec" -o device ;;
		*) [ -b "$ntfsmap_spec" ] ;;
		esac >/dev/null 2>&1 || return 1
	done
}

ntfsmap_start() {
	rm -rf "$ntfsmap_dir"
	mkdir -p "$ntfsmap_dir"
	# loop: for overlay=tmpfs; without the module its node is not there
	modprobe -qa dm_mod loop
	(
		ntfsmap up --initrd </dev/null >"$ntfsmap_dir/log" 2>&1 &
		wait $!
		echo $? >"$ntfsmap_dir/status.new"
		mv "$ntfsmap_dir/status.new" "$ntfsmap_dir/status"
	) &
}

# Nothing when it was never started, "running", or its exit status.
ntfsmap_state() {
	if [ -e "$ntfsmap_dir/status" ]; then
		cat "$ntfsmap_dir/status"
	elif [ -e "$ntfsmap_dir" ]; then
		echo running
	fi
}

# Has it made a device? Then what it was waiting for has come.
ntfsmap_opened() {
	grep -qs 'NTFSMAP-' /sys/class/block/dm-*/dm/uuid
}

# Root is there: nobody has to wait for a disk any more. What has begun to open something gets to its end; a signal
# could come in the middle of it.
ntfsmap_stop() {
	[ "$(ntfsmap_state)" = running ] || return 0
	: >"$ntfsmap_dir/stop"
	while [ "$(ntfsmap_state)" = running ]; do
		sleep 0.2 2>/dev/null || sleep 1
	done
}

# ntfsmap_await DEVICE...: open what is named, unless these devices, which root needs, come by themselves. 0: they are
# there, or something is open from which they may still come (LUKS, LVM): who called waits for them as for any others.
# Otherwise the status of ntfsmap up.
ntfsmap_await() {
	! ntfsmap_present "$@" || return 0
	ntfsmap_start
	ntfsmap_turns=0
	while [ "$(ntfsmap_state)" = running ]; do
		sleep 0.2 2>/dev/null || sleep 1
		ntfsmap_turns=$((ntfsmap_turns + 1))
		# By then it has said what it waits for.
		[ "$ntfsmap_turns" != 15 ] || cat "$ntfsmap_dir/log"
		if [ $((ntfsmap_turns % 5)) = 0 ] && ntfsmap_present "$@"; then
			ntfsmap_stop
			return 0
		fi
	done
	[ "$(ntfsmap_state)" != 0 ] || return 0
	# Something else that was named is missing: the system itself can deal with that.
	if ntfsmap_present "$@" || ntfsmap_opened; then
		cat "$ntfsmap_dir/log"
		return 0
	fi
	return "$(ntfsmap_state)"
}

# What happened, and what can be done about it, for somebody in front of a black screen.
ntfsmap_report() {
	echo
	echo "ntfsmap could not open the disk image that this system is in:"
	sed 's/^/  /' "$ntfsmap_dir/log"
	echo
	case $(ntfsmap_state) in
	2 | 6)
		echo "What Windows left undone ends when it starts once more: start it, let it finish what it does, and"
		echo "choose Restart there, not Shut down. Then start this system."
		;;
	4)
		echo "The disk did not come, or there is no such file on it. blkid shows the volumes, ntfsmap check SOURCE"
		echo "what is found there. For a disk that takes longer, append ,timeout=SECONDS as told below."
		;;
	esac
	echo "In the boot menu, ntfsmap=NAME,SOURCE on the kernel's command line takes one more option:"
	echo "  ,overlay=tmpfs  starts without changing anything: what is written goes to memory, and is lost (not with ,ro)"
	echo "  ,allow=WORD     lifts the one refusal whose message names this word"
	echo "Or here: open it by hand (ntfsmap open --help), then exit."
}
