#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Linked into /etc/kernel/postinst.d, /etc/kernel/postrm.d and /etc/initramfs/post-update.d by who wants it: firmware
# cannot read the ESP in an image, so each kernel of /boot that has an initramfs is copied to the real one, with an entry
# for systemd-boot and one for GRUB. What is gone from /boot goes from there. Needs no argument.
set -eu
esp=${ESP:-/efi} boot=${BOOT:-/boot} cmdline=${CMDLINE:-/etc/kernel/cmdline}
folder=$esp/ntfsmap entries=$esp/loader/entries

# An ESP that is not mounted is an empty folder. In a virtual machine it is not there, and the kernel is to be
# installed all the same.
if [ ! -d "$esp/EFI" ]; then
	echo "ntfsmap: no EFI system partition is mounted on $esp, so the kernels on it stay as they are:" \
		"mount it, then run $0" >&2
	exit 0
fi
if ! options=$(tr '\n' ' ' <"$cmdline") || [ -z "${options%% *}" ]; then
	echo "ntfsmap: $cmdline has no kernel parameters: write root=UUID=... and what ntfsmap cmdline prints" >&2
	exit 1
fi
options=${options% }

# write TO: standard input gets its name when all of it is on the disk, so that no half kernel is ever started.
write() {
	if ! cat >"$1.new" || ! sync "$1.new"; then
		rm -f "$1.new"
		echo "ntfsmap: $1 could not be written, and is as it was" >&2
		exit 1
	fi
	mv "$1.new" "$1"
}

# copy FROM TO
copy() {
	cmp -s "$1" "$2" || write "$2" <"$1"
}

# What is gone makes room first.
mkdir -p "$folder" "$entries"
for old in "$folder"/*/; do
	version=$(basename "$old")
	if [ ! -e "$old" ] || [ -e "$boot/vmlinuz-$version" ]; then
		continue
	fi
	rm -f "$entries/ntfsmap-$version.conf"
	rm -r "$old"
done

versions=$(for kernel in "$boot"/vmlinuz-*; do
	version=${kernel#"$boot"/vmlinuz-}
	[ ! -e "$boot/initrd.img-$version" ] || echo "$version"
done | sort -rV)
for version in $versions; do
	mkdir -p "$folder/$version"
	copy "$boot/vmlinuz-$version" "$folder/$version/vmlinuz"
	copy "$boot/initrd.img-$version" "$folder/$version/initrd.img"
	write "$entries/ntfsmap-$version.conf" <<-END
		title    Linux in a disk image
		version  $version
		linux    /ntfsmap/$version/vmlinuz
		initrd   /ntfsmap/$version/initrd.img
		options  $options
	END
done
for version in $versions; do
	cat <<-END
		menuentry 'Linux in a disk image, $version' {
			search --no-floppy --file --set=root /ntfsmap/$version/vmlinuz
			linux /ntfsmap/$version/vmlinuz $options
			initrd /ntfsmap/$version/initrd.img
		}
	END
done | write "$folder/grub.cfg"
sync -f "$esp"
