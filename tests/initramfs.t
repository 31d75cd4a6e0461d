#!/usr/bin/env bash
# An initramfs made by Debian's own mkinitramfs and dracut has all that opens an image, in the right order, and is not
# made where the module that it needs is missing; so is what mkinitcpio is asked for. They run on this system with their
# packages laid over it, not installed.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
need mkntfs ntfscp qemu-img unshare dpkg apt-get cpio modinfo
packages="initramfs-tools-core cryptsetup-initramfs dracut-core"
cache=${NTFSMAP_CACHE:-$HOME/.cache/ntfsmap}/initramfs-packages
upper=$T/upper

fetch() {
	local package
	mkdir -p "$cache"
	for package in $packages; do
		compgen -G "$cache/${package}_*.deb" >/dev/null && continue
		[ "${INSTALL:-yes}" != no ] || skip_all "$package is not downloaded, because of INSTALL=no"
		(cd "$cache" && apt-get -q download "$package") >"$T/apt.log" 2>&1 ||
			skip_all "$package: $(tail -n 1 "$T/apt.log")"
	done
}

# in_system COMMAND...: as root of this system with the packages over it
in_system() {
	# shellcheck disable=SC2016
	run unshare "${userns[@]}" --mount bash -c '
		upper=$1 work=$2 root=$3 modules=$4 options=$5
		shift 5
		mount -t overlay -o "lowerdir=/,upperdir=$upper,workdir=$work$options" over "$root" || exit 99
		for folder in proc dev; do mount --rbind /$folder "$root/$folder"; done
		mount --bind "$modules" "$root/usr/lib/modules/${modules##*/}" || exit 99
		exec env -u LD_LIBRARY_PATH PATH=/usr/bin:/usr/sbin:/bin:/sbin chroot "$root" "$@"' \
		_ "$upper" "$T/work" "$T/system" "$modules" "$options" "$@"
}

lay_out() {
	local package folder
	mkdir "$upper" "$T/work" "$T/system" "$T/package"
	for package in $packages; do
		dpkg -x "$(compgen -G "$cache/${package}_*.deb" | tail -n 1)" "$T/package"
	done
	# Of cryptsetup only what stands beside us in the order.
	rm -r "$T"/package/usr/share/initramfs-tools/{hooks,conf-hooks.d}/crypt*
	for folder in bin sbin lib; do
		[ -d "$T/package/$folder" ] || continue
		cp -a "$T/package/$folder" "$T/package/usr/" && rm -r "${T:?}/package/$folder"
	done
	cp -a "$T/package/." "$upper/"
	make -s -C "$top" install DESTDIR="$upper" PREFIX=/usr || bail "make install failed"
	mkdir -p "$upper/usr/lib/modules/$version" "$upper/boot"
	cp "${kernel%/*}/config-$version" "$upper/boot/" 2>/dev/null
	sed -i -e 's/^MODULES=.*/MODULES=list/' -e 's/^COMPRESS=.*/COMPRESS=gzip/' "$upper/etc/initramfs-tools/initramfs.conf"
	qemu-img create -q -f vpc -o subformat=dynamic "$T/dynamic.vhd" 8M
	truncate -s 8M "$T/disk.raw"
	volume 64M
	ntfscp "$img" "$T/dynamic.vhd" /dynamic.vhd && ntfscp "$img" "$T/disk.raw" /disk.raw
	cp "$img" "$upper/volume.img"
}

# tab SOURCE [OPTION]
tab() {
	echo "disk /volume.img:$1 ${2-x-initrd.attach}" >"$upper/etc/ntfsmaptab"
}

# The drivers of our list that this kernel has as modules, and that are not in the initramfs.
missing_drivers() {
	local name file
	for name in $(sed 's/#.*//' "$top/boot/initramfs/modules"); do
		file=$(modinfo -k "$version" -b "$T/modules" -F filename "$name" 2>/dev/null) || continue
		case $file in
		*.ko*) file=${file##*/} && find "$1" -name "${file%%.ko*}.ko*" | grep -q . || echo "$name" ;;
		esac
	done
}

# has_all FOLDER NAME: the unpacked initramfs
has_all() {
	in_system chroot "$1" /usr/sbin/ntfsmap --version
	is "$status" 0 "$2: the program runs in it, with its libraries" || diag "$err"
	in_system chroot "$1" /usr/sbin/blkid --version
	is "$status" 0 "  and blkid"
	is "$(missing_drivers "$upper$1" | xargs)" '' "  no driver is missing"
	ok "  the functions of its hooks" cmp "$top/boot/initramfs/runtime.sh" "$upper$1/usr/lib/ntfsmap/runtime.sh"
	is "$(find "$upper$1" -path '*rules.d*' -name '*ntfsmap*' -printf '%f\n' | sort | xargs)" \
		'11-dm-ntfsmap.rules 62-ntfsmap.rules' "  udev's rules"
	is "$(find "$upper$1" -name udev-helper)" '' "  without the helper that would open more"
	ok "  the table" cmp "$upper/etc/ntfsmaptab" "$upper$1/etc/ntfsmaptab"
}

initramfs_tools() {
	local order
	tab /disk.raw
	in_system sh -c "mkinitramfs -o /i.img $version && unmkinitramfs /i.img /i"
	is "$status" 0 "mkinitramfs makes one" || diag "$out$err"
	has_all /i initramfs-tools
	order=$(grep -o 'local-top/[a-z]*' "$upper/i/scripts/local-top/ORDER" | xargs)
	like "$order " 'local-top/ntfsmap .*local-top/cryptroot ' "  before what unlocks root"
	rm -rf "$upper"/i "$upper"/i.img
	in_system sh -c "echo BUSYBOX=n >/etc/initramfs-tools/conf.d/none
		mkinitramfs -o /i.img $version && unmkinitramfs /i.img /i && cd /i/bin && ls awk grep rm sed"
	is "$(xargs <<<"$out")" 'awk grep rm sed' "  what its hooks need is there without busybox" || diag "$err"
	in_system rm -rf /i /i.img /etc/initramfs-tools/conf.d/none
	tab /disk.raw noauto
	in_system sh -c "mkinitramfs -o /i.img $version && unmkinitramfs /i.img /i"
	ok "  no table without an entry for it" test -x "$upper/i/usr/sbin/ntfsmap" -a ! -e "$upper/i/etc/ntfsmaptab"
	rm -rf "$upper"/i "$upper"/i.img
	tab /dynamic.vhd
	in_system mkinitramfs -o /i.img "$version"
	ok "mkinitramfs fails where dm-vdisk is missing" test "$status" != 0 -a ! -s "$upper/i.img" || diag "$out$err"
	like "$err" "needs the kernel module dm-vdisk, and there is none for $version" "  and says why"
}

dracut() {
	local make="dracut -q --force --no-compress --tmpdir /var/tmp --kver $version --hostonly --no-hostonly-cmdline"
	tab /disk.raw
	in_system sh -c "$make -m 'base udev-rules ntfsmap' /d.img && mkdir /d && cd /d && cpio -idm --quiet </d.img"
	is "$status" 0 "dracut makes one" || diag "$out$err"
	has_all /d dracut
	is "$(cd "$upper/d/lib/dracut/hooks" 2>/dev/null && find . -name '*ntfsmap*' | sort | xargs)" \
		'./cleanup/20-ntfsmap-stop.sh ./initqueue/settled/20-ntfsmap-up.sh ./shutdown/24-ntfsmap-shutdown.sh' \
		"  hooks"
	ok "  it has something to wait for" test -e "$upper/d/lib/dracut/need-initqueue"
	ok "  udev keeps what it knows" grep -q db_persist "$upper/d/etc/udev/rules.d/11-dm.rules"
	rm -rf "$upper"/d "$upper"/d.img
	tab /dynamic.vhd
	in_system sh -c "$make -m 'base udev-rules ntfsmap' /d.img"
	ok "dracut fails where dm-vdisk is missing" test "$status" != 0 -a ! -s "$upper/d.img" || diag "$out$err"
	like "$err" "needs the kernel module dm-vdisk, and there is none for $version" "  and says why"
}

# Its functions only say what they were asked for.
mkinitcpio() {
	# shellcheck disable=SC2016
	local build='
		for f in add_binary add_file add_module add_udev_rule add_runscript; do
			eval "$f() { echo $f \"\$@\"; }"
		done
		map() { local each; for each in "${@:2}"; do "$1" "$each"; done; }
		die() { printf "$@"; exit 1; }
		KERNELVERSION=$1 BUILDROOT=$2
		. /usr/lib/initcpio/install/ntfsmap && build'
	tab /disk.raw
	in_system bash -c "$build" _ "$version" /none
	is "$status" 0 "mkinitcpio makes one" || diag "$out$err"
	is "$(grep -v add_module <<<"$out")" 'add_binary /usr/sbin/ntfsmap /usr/bin/ntfsmap
add_binary blkid
add_binary dmsetup
add_file /usr/lib/ntfsmap/runtime.sh /usr/lib/ntfsmap/runtime.sh
add_file /etc/ntfsmaptab
add_udev_rule 10-dm.rules
add_udev_rule 13-dm-disk.rules
add_udev_rule 95-dm-notify.rules
add_udev_rule /usr/lib/initcpio/udev/63-ntfsmap-persist.rules
add_file /usr/lib/udev/rules.d/11-dm-ntfsmap.rules
add_file /usr/lib/udev/rules.d/62-ntfsmap.rules
add_runscript' "  programs, libraries with them, rules"
	is "$(sed -n 's/^add_module \(.*\)?$/\1/p' <<<"$out" | xargs)" \
		"$(sed 's/#.*//' "$top/boot/initramfs/modules" | xargs)" "  drivers"
	tab /dynamic.vhd
	in_system bash -c "$build" _ "$version" /none
	is "$status:$out" "1:no initramfs was made for $version" "mkinitcpio fails where dm-vdisk is missing"
	tab /disk.raw
	mkdir -p "$upper/sd/usr/lib/systemd" && touch "$upper/sd/usr/lib/systemd/systemd"
	in_system bash -c "$build" _ "$version" /sd
	like "$status:$out" '1:.*udev instead of systemd' "  and with systemd in it"
}

kernel=$("$top/tests/vm/kernel.sh" 2>/dev/null) || skip_all "there is no kernel"
modules=${kernel#*$'\n'} kernel=${kernel%%$'\n'*}
version=${modules##*/}
mkdir -p "$T/modules/lib/modules" && ln -s "$modules" "$T/modules/lib/modules/$version"
if [ "$(id -u)" = 0 ]; then userns=() options=; else userns=(--map-root-user) options=,userxattr; fi
fetch
lay_out
in_system true
[ "$status" = 0 ] || skip_all "no overlay can be mounted here: $err"
initramfs_tools
dracut
mkinitcpio
done_testing
