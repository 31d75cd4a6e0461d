#!/usr/bin/env bash
# image.sh KERNEL MODULES: makes what qemu loads, the kernel in its fastest form and an initramfs with busybox, the
# script `init` and the few modules that reach the host's files. Prints the paths of both, a line each. They are
# kept in the cache, named by a hash of what they are made from.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

kernel=$1
modules=$2
busybox=$(type -P busybox) || skip "busybox is not installed"

# In this order, each after what it depends on. Everything else is loaded from the host's files.
early=(virtio_pci 9pnet_virtio 9p overlay)

# The applets of busybox that init calls.
applets=(cat cp insmod ln mkdir mkfifo mknod mount reboot sh sleep switch_root sync touch uname)

# Files of the early modules, dependencies first; those built into the kernel have none. A line of modules.dep is
# "FILE: DEPENDENCY...", the dependency that comes first in memory standing last.
early_files() {
	awk -v early="${early[*]}" '
		function add(file) { if (!(file in seen)) { seen[file] = 1; print file } }
		{
			file = $1; sub(/:$/, "", file)
			name = file; sub(/.*\//, "", name); sub(/\.ko.*/, "", name)
			path[name] = file
			needs[name] = ""
			for (i = NF; i > 1; i--) needs[name] = needs[name] " " $i
		}
		END {
			count = split(early, names, " ")
			for (n = 1; n <= count; n++) {
				if (!(names[n] in path)) continue
				others = split(needs[names[n]], other, " ")
				for (i = 1; i <= others; i++) add(other[i])
				add(path[names[n]])
			}
		}' "$modules/modules.dep"
}

# To standard output, whatever FILE is packed with.
unpacked() {
	case $(od -An -tx1 -N4 "$1" | tr -d ' ') in
	fd377a58) xz -dc <"$1" ;;
	28b52ffd) zstd -dc <"$1" ;;
	1f8b*) gzip -dc <"$1" ;;
	*) cat "$1" ;;
	esac
}

# An unsigned little endian number of SIZE bytes at OFFSET of the kernel image.
field() {
	od -An -tu"$2" -j "$1" -N "$2" "$kernel" | tr -d ' '
}

# The ELF image inside a bzImage (its header, Documentation/arch/x86/boot.rst, says where) into the file OUT. The
# packed data ends with the unpacked size, which xz and zstd take for garbage and complain about: so not their exit
# status but that size tells whether all went well.
payload() {
	local out=$1 start length size
	[ "$(tail -c +515 "$kernel" | head -c 4)" = HdrS ] || return 1
	start=$((($(field 497 1) + 1) * 512 + $(field 584 4)))
	length=$(field 588 4)
	size=$(field $((start + length - 4)) 4)
	tail -c +$((start + 1)) "$kernel" | head -c "$length" >"$out.packed"
	unpacked "$out.packed" >"$out" || true
	[ "$(stat -c %s "$out")" = "$size" ]
}

# Qemu can start an ELF image that carries this note (type 18, XEN_ELFNOTE_PHYS32_ENTRY).
startable() {
	[ "$(head -c 4 "$1")" = $'\x7fELF' ] && LC_ALL=C grep -qaP '\x12\0\0\0Xen\0' "$1"
}

# Unpacking the kernel takes an emulated processor three seconds, so it is done here and once. Where that cannot be,
# the image as it is boots as well, but slower.
make_kernel() {
	{ payload "$work/vmlinux" && startable "$work/vmlinux"; } 2>/dev/null || cp "$kernel" "$work/vmlinux"
	mv "$work/vmlinux" "$vmlinux"
}

# Busybox, and the libraries of one that is not static.
put_busybox() {
	local library applet
	mkdir -p "$1/bin"
	cp "$busybox" "$1/bin/busybox"
	for applet in "${applets[@]}"; do
		ln -s busybox "$1/bin/$applet"
	done
	{ ldd "$busybox" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$1/${library%/*}"
		cp "$library" "$1/$library"
	done || true
}

put_modules() {
	local file name number=10
	mkdir -p "$1/modules"
	while read -r file; do
		name=${file##*/}
		unpacked "$modules/$file" >"$1/modules/$number-${name%%.*}.ko"
		number=$((number + 1))
	done < <(early_files)
}

make_initramfs() {
	local root=$work/root
	put_busybox "$root"
	put_modules "$root"
	cp "$here/init" "$root/init"
	chmod 755 "$root/init"
	(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 >../initramfs)
	mv "$work/initramfs" "$initramfs"
	# Each change of init leaves one behind.
	find "$cache" -maxdepth 1 \( -name 'initramfs-*' -o -name 'vmlinux-*' \) -mtime +30 -delete
}

hash_of() {
	sha256sum | cut -c1-16
}

# A file as it is now, without reading it: kernels with debug information are large.
stamp() {
	stat -Lc '%n %s %Y' "$@"
}

make_missing() {
	workspace
	[ -e "$vmlinux" ] || make_kernel
	[ -e "$initramfs" ] || make_initramfs
}

mapfile -t files < <(early_files)
vmlinux=$cache/vmlinux-$({ stamp "$kernel" && cat "$here/image.sh"; } | hash_of)
initramfs=$cache/initramfs-$(
	{ stamp "$busybox" "${files[@]/#/$modules/}" && cat "$here/image.sh" "$here/init"; } | hash_of
)
if [ ! -e "$vmlinux" ] || [ ! -e "$initramfs" ]; then
	locked image make_missing
fi
printf '%s\n' "$vmlinux" "$initramfs"
