#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by dracut in the initramfs, with and without systemd, again and again while root is not there and udev has
# nothing to do: opens the image that the root file system lies in.
. /usr/lib/ntfsmap/runtime.sh

# A subshell, as dracut goes on in the same shell.
ntfsmap_settled() (
	case $(ntfsmap_state) in
	"") ntfsmap_start ;;
	running | 0) ;;
	*)
		# Somebody is being asked for a passphrase: root is on its way.
		for ask in /run/systemd/ask-password/ask.*; do
			[ ! -e "$ask" ] || return 0
		done
		# shellcheck disable=SC2154 # dracut's
		! ntfsmap_present "${root#block:}" || return 0
		# For dracut's own shell, too, in which its waiting ends.
		# shellcheck disable=SC2154 # dracut's
		if [ ! -e "$hookdir/emergency/20-ntfsmap.sh" ]; then
			ntfsmap_report >"$hookdir/emergency/20-ntfsmap.txt"
			echo "cat '$hookdir/emergency/20-ntfsmap.txt'" >"$hookdir/emergency/20-ntfsmap.sh"
		fi
		# Root may still come from what is open: LUKS, LVM.
		! ntfsmap_opened || return 0
		emergency_shell "ntfsmap could not open the disk image that this system is in"
		rm -f "$hookdir"/emergency/20-ntfsmap.*
		# Whoever leaves the shell has made it possible, or wants another try.
		ntfsmap_start
		;;
	esac
)

! ntfsmap_named || ntfsmap_settled
