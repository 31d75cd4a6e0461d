#!/usr/bin/env bash
# debian.sh: makes a small Debian of this system's release with this checkout's ntfsmap installed in it, and
# prints the folder with what tests need to boot it:
#
#   root.ext4          the root file system, with the UUID in root.uuid
#   vmlinux, probe     its kernel, and the initramfs of tests/vm for it
#   initramfs-tools    the initramfs that update-initramfs made in it
#   dracut             the one that dracut made
#   module             empty; there when that kernel has the target vdisk
#   tree               link to the root before ntfsmap was installed, for programs to run in a chroot
#
# The Debian itself is made once, by mmdebstrap from the mirrors that apt uses here, and kept in the cache; what is
# made from it with ntfsmap is kept in build/debian.
# Exit status: 77 where it cannot be made, 125 when making it fails.
set -euo pipefail
shopt -s nullglob
here=$(realpath "$(dirname "$0")")
top=$(realpath "$here/../..")
# shellcheck source=../vm/common.sh
. "$top/tests/vm/common.sh"
PATH=$PATH:/usr/sbin:/sbin

# What a user's system has, what grub and the initramfs of an encrypted root need, and the libraries of ntfsmap.
packages=(
	systemd-sysv udev kmod dbus zstd busybox e2fsprogs dosfstools fdisk linux-image-amd64 initramfs-tools
	dracut-core grub-efi-amd64-bin grub2-common dmsetup lvm2 cryptsetup-initramfs ntfs-3g libjansson4
)

# Drivers that no test machine has: two thirds of the time that making an initramfs takes.
unused=(
	sound drivers/{gpu,net,media,staging,infiniband,isdn,iio,hwmon,bluetooth,comedi,platform,video,mtd,target}
	drivers/accessibility
)

root_uuid=5b1f3a52-7d1c-4d6e-9a3b-0c4f5e6d7a81

# The mirrors of Debian proper that apt knows here, as lines of a sources.list.
mirrors() {
	apt-get indextargets --format '$(ORIGIN) deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		sed -n 's/^Debian //p'
}

release() {
	apt-get indextargets --format '$(ORIGIN) $(CODENAME)' 'Created-By: Packages' | sed -n 's/^Debian //p' |
		grep -v -- - | head -n 1
}

# Changes with the recipe, and with the versions that apt would install.
base_key() {
	{
		declare -f make_base
		echo "${unused[*]}"
		apt-cache policy "${packages[@]}" | grep -E '^[^ ]|Candidate:'
	} | sha256sum | cut -c 1-16
}

make_base() {
	local options=() path
	[ ! -d "$base" ] || return 0
	echo "debian.sh: making a Debian in $base (it is not installed)" >&2
	for path in "${unused[@]/#//lib/modules/*/kernel/}" /usr/share/{doc,man,locale,info}; do
		options+=(--dpkgopt="path-exclude=$path/*")
	done
	workspace
	# The initramfs is made later, with ntfsmap in it.
	mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" \
		--aptopt='Apt::Install-Recommends "false"' --dpkgopt=force-unsafe-io "${options[@]}" \
		--essential-hook='chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs &&
			ln -s /bin/true "$1/usr/sbin/update-initramfs"' \
		--customize-hook='rm "$1/usr/sbin/update-initramfs" &&
			chroot "$1" dpkg-divert --quiet --local --rename --remove /usr/sbin/update-initramfs' \
		"$(release)" "$work/root" - <<<"$(mirrors)" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		skip "mmdebstrap could not make a Debian"
	}
	rm -rf "$cache"/debian-*/
	mv -T "$work/root" "$base"
	rm -rf "$work"
}

# What is mounted below stays in a namespace of its own, and goes with it.
if [ "$(id -u)" = 0 ] && [ -z "${DEBIAN_MOUNTS:-}" ]; then
	unshare --mount true 2>/dev/null || skip "making a Debian needs to mount something"
	DEBIAN_MOUNTS=private exec unshare --mount "$0"
fi
[ "$(id -u)" = 0 ] || skip "making a Debian needs root"
for tool in mmdebstrap apt-get mkfs.ext4 chroot; do
	type -P "$tool" >/dev/null || skip "$tool is not installed"
done
[ -n "$(mirrors)" ] || skip "apt knows no mirror of Debian here"
base=$cache/debian-$(base_key)
[ -d "$base" ] || [ "${INSTALL:-yes}" != no ] || skip "no Debian in $cache, and INSTALL=no forbids to download one"
locked debian make_base

# --- with ntfsmap

install_ntfsmap() {
	make -s -C "$top" install DESTDIR="$staged" PREFIX=/usr >&2 || broken "make install failed"
}

# The kernel target, where it can be built.
install_module() {
	local version module status=0
	version=$(basename "$base"/lib/modules/*)
	module=$(NTFSMAP_KERNEL=$base/boot/vmlinuz-$version NTFSMAP_MODULES=$base/lib/modules/$version \
		"$top/tests/vm/module.sh") || status=$?
	[ "$status" != 77 ] || return 0
	[ "$status" = 0 ] || broken "dm-vdisk could not be built"
	install -D -m 644 "$module" "$staged/usr/lib/modules/$version/updates/dm-vdisk.ko"
}

# Changes with the Debian, with what is installed in it, and with this file.
key() {
	{ cat "$0" && echo "$base" && cd "$staged" && find . -type f -print0 | sort -z | xargs -0 sha256sum; } |
		sha256sum | cut -c 1-16
}

# in_tree COMMAND...: runs it in the new root, as if that were a system.
in_tree() {
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount sh -ec 'tree=$1; shift
		mount -t proc proc "$tree/proc"; mount -t sysfs sysfs "$tree/sys"; mount --rbind /dev "$tree/dev"
		mount -t tmpfs tmpfs "$tree/run"; mount -t tmpfs tmpfs "$tree/tmp"
		PATH=/usr/sbin:/usr/bin:/sbin:/bin exec chroot "$tree" "$@"' sh "$tree" "$@" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		broken "$* failed in the new Debian"
	}
}

# The service runs the test's script from a shared folder when everything is up, and turns the machine off.
configure() {
	echo debian >"$tree/etc/hostname"
	echo "${root_uuid//-/}" >"$tree/etc/machine-id"
	echo "UUID=$root_uuid / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
	printf '%s\n' COMPRESS=zstd COMPRESSLEVEL=1 >"$tree/etc/initramfs-tools/conf.d/quick"
	# cryptsetup is put in where the root is encrypted, which can be seen of a running system only.
	echo CRYPTSETUP=y >>"$tree/etc/cryptsetup-initramfs/conf-hook"
	printf '%s\n' 'compress="zstd -1 -T0"' hostonly=no >"$tree/etc/dracut.conf.d/quick.conf"
	mkdir -p "$tree/boot/efi" "$tree/boot/grub" "$tree/etc/systemd/system/multi-user.target.wants"
	cat >"$tree/etc/systemd/system/script.service" <<-'END'
		[Unit]
		Description=The script of the test
		After=multi-user.target
		[Service]
		Type=exec
		ExecStart=/usr/local/sbin/run-script
	END
	ln -s ../script.service "$tree/etc/systemd/system/multi-user.target.wants/"
	cat >"$tree/usr/local/sbin/run-script" <<-'END'
		#!/bin/sh
		mkdir -p /run/io
		mount -t 9p -o trans=virtio,version=9p2000.L,cache=none io /run/io || exit
		bash /run/io/script >/run/io/out 2>/run/io/err
		echo $? >/run/io/status.new
		mv /run/io/status.new /run/io/status
		systemctl poweroff
	END
	chmod +x "$tree/usr/local/sbin/run-script"
}

make_initramfs() {
	local version=$1
	in_tree update-initramfs -c -k "$version"
	in_tree dracut --force "/boot/dracut-$version" "$version"
	mv "$tree/boot/dracut-$version" "$work/out/dracut"
	cp "$tree/boot/initrd.img-$version" "$work/out/initramfs-tools"
}

make_system() {
	local tree version boot=()
	[ ! -d "$made" ] || return 0
	rm -rf "${made%-*}"-*
	tree=$work/tree
	mkdir "$tree" "$work"/{out,upper,for-overlay}
	mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/for-overlay" overlay "$tree"
	trap 'umount "$work/tree"; rm -rf "$work"' EXIT
	cp -a "$staged/usr" "$tree/"
	version=$(basename "$tree"/lib/modules/*)
	in_tree depmod "$version"
	configure
	make_initramfs "$version"
	echo "$root_uuid" >"$work/out/root.uuid"
	truncate -s 768M "$work/out/root.ext4"
	mkfs.ext4 -q -F -U "$root_uuid" -E lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$work/out/root.ext4"
	mapfile -t boot < <("$top/tests/vm/image.sh" "$base/boot/vmlinuz-$version" "$base/lib/modules/$version")
	ln -s "${boot[0]}" "$work/out/vmlinux"
	ln -s "${boot[1]}" "$work/out/probe"
	ln -s "$base" "$work/out/tree"
	[ ! -e "$staged/usr/lib/modules" ] || touch "$work/out/module"
	mkdir -p "${made%/*}"
	mv -T "$work/out" "$made"
}

[ -x "$top/build/bin/ntfsmap" ] || broken "make tools first"
workspace
staged=$work/staged
install_ntfsmap
install_module
made=$top/build/debian/system-$(key)
locked debian-system make_system
echo "$made"
