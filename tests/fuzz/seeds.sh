#!/usr/bin/env bash
# Makes FOLDER/seeds/TARGET/ for each fuzz target, and FOLDER/volume.img: seeds.sh FOLDER. The same files each time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
most=98304 # bytes of an image
started=$(date +%s)

# Images of all kinds, small ones, in $work/images.
by_perl() {
	local n=0 options
	while read -r options; do
		n=$((n + 1))
		# shellcheck disable=SC2086 # words
		(cd "$work" && "$top/tests/lib/makevhd.pl" "v$n.vhd" "v$n.raw" seed=$n $options >/dev/null)
		mv "$work/v$n.vhd" "$work/images/made$n.vhd"
	done <<-'END'
		size=65536 block=4096 layout=plain allocate=50
		size=49152 block=2048 layout=mixed allocate=70 gap=3 room=16384
		size=40960 block=8192 layout=mixed allocate=30 footer=lost
		size=65536 block=16384 layout=plain allocate=60 footer=511
	END
	truncate -s 4096 "$work/images/raw"
	cp "$work/v1.raw" "$work/fixed"
	truncate -s 8192 "$work/fixed"
	"$top/tests/lib/mkvhd.pl" append "$work/fixed"
	mv "$work/fixed" "$work/images/fixed.vhd"
}

# What power cuts leave of VHD and qcow2 of every kind.
by_powercut() {
	local f n=0
	mkdir "$work/dump"
	"$top/build/tests/powercut" --seed=7 --rounds=150 "--dump=$work/dump" >/dev/null
	for f in "$work"/dump/*/image.*; do
		n=$((n + 1))
		[ "$(stat -c %s "$f")" -gt $most ] || cp "$f" "$work/images/cut$n.${f##*.}"
	done
}

# With one -c, qemu packs clusters side by side, and puts them where chance wants.
packed() {
	local i
	for i in 0 1 2 3; do
		printf -- '-c\nwrite -c -P %d %d %d\n' $((i + 2)) $((16384 + i * $1)) "$1"
	done
}

# What the power cuts do not make.
by_qemu() {
	local name cluster options commands
	type -P qemu-img qemu-io >/dev/null || return 0
	while read -r name cluster options; do
		mapfile -t commands < <(packed "$cluster")
		# shellcheck disable=SC2086 # words
		qemu-img create -q -f "${name##*.}" $options "$work/$name" 64K >/dev/null
		qemu-io -f "${name##*.}" -c 'write -P 1 0 3K' "${commands[@]}" -c 'write -z 32K 4K' -c 'discard 1K 1K' \
			"$work/$name" >/dev/null 2>&1 || true
		mv "$work/$name" "$work/images/$name"
	done <<-'END'
		plain.qcow2 512 -o cluster_size=512
		old.qcow2 1024 -o compat=0.10,cluster_size=1024
		narrow.qcow2 1024 -o cluster_size=1024,refcount_bits=1
		wide.qcow2 512 -o cluster_size=512,refcount_bits=64,lazy_refcounts=on
		zstd.qcow2 4096 -o cluster_size=4K,compression_type=zstd
		sub.qcow2 16384 -o cluster_size=16K,extended_l2=on
		one.qcow 4096
	END
	qemu-img create -q -f qcow2 -o cluster_size=512 "$work/images/marked.qcow2" 64K
	qemu-img bitmap --add "$work/images/marked.qcow2" b
	qemu-io -c 'write -P 5 0 8K' "$work/images/marked.qcow2" >/dev/null
	qemu-img snapshot -c first "$work/images/marked.qcow2"
	qemu-io -c 'write -P 6 4K 8K' "$work/images/marked.qcow2" >/dev/null
	"$here/seeds.pl" undate-snapshot "$work/images/marked.qcow2"
	qemu-img create -q -u -f qcow2 -o cluster_size=512 -F raw -b 'C:\images\base.raw' "$work/images/child.qcow2" 32K
	qemu-img create -q -u -f qcow2 -o cluster_size=512 -F vpc -b 'json:{"file.filename": "x"}' \
		"$work/images/json.qcow2" 32K
	(cd "$work" && qemu-img create -q -f qcow2 -o cluster_size=512,data_file=data.raw "$work/images/data.qcow2" 32K)
}

# A small volume with files of all kinds.
volume() {
	local img=$out/volume.img forge=$top/build/tests/ntfsforge
	rm -f "$img"
	truncate -s 3M "$img"
	mkntfs -qF -c 1024 -p 0 "$img" 2>/dev/null
	ntfslabel -q -f --new-serial=ABCDEF0000000001 "$img" >/dev/null 2>&1
	"$forge" "$img" mkdir /folder
	"$forge" "$img" file /disk.raw 64K runs=5 order=shuffle seed=1 fill=zero
	"$forge" "$img" file /folder/Disk.vhd 32K runs=3 seed=2 fill=zero
	"$forge" "$img" file /many.raw 200K runs=90 order=shuffle seed=3
	"$forge" "$img" stream /disk.raw stream 16K runs=2 seed=4
	"$forge" "$img" sparse /sparse.raw 64K
	"$forge" "$img" resident /small.txt 100
	"$forge" "$img" link /disk.raw /link.raw
	"$forge" "$img" hiberfil hibr
	"$forge" "$img" logfile 2.0 inuse walk=whole record=9,9,2,4 record=21,22,0,5
	"$here/seeds.pl" undate-volume "$img" "$started"
}

# images_for TARGET [BYTES-IN-FRONT]: the images as seeds
images_for() {
	local f
	mkdir -p "$out/seeds/$1"
	for f in "$work/images"/*; do
		{ [ -z "${2-}" ] || printf '%b' "$2"; cat "$f"; } >"$out/seeds/$1/${f##*/}"
	done
}

rm -rf "$out/seeds"
mkdir -p "$work/images" "$out/seeds"
by_perl
by_powercut
by_qemu
volume
images_for image
images_for repair '\01'
for f in "$out"/seeds/repair/*; do
	[ "${f##*.}" = qcow2 ] || rm "$f"
done
# twelve requests: writes, zeros, a discard, a flush, opening again
ops='\00\00\00\03\01\010\00\021\03\020\00\07\04\040\00\017\05\00\00\00\00\044\00\02'
ops+='\06\020\00\017\07\00\00\00\02\03\00\024\04\00\00\027\01\060\00\05\05\00\00\00'
images_for write "$ops"
"$here/seeds.pl" make "$out"
touch "$out/seeds/made"
