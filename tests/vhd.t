#!/usr/bin/env bash
# VHD through the command, against qemu-img: sizes and contents of good images, whoever made them, and what is refused.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need qemu-img ntfsmap perl cmp
mkvhd=$top/tests/lib/mkvhd.pl
cd "$T" || bail "no $T"

# json KEY... <FILE: the value there, or nothing.
json() {
	perl -MJSON::PP -0777 -ne '
		BEGIN { @keys = splice @ARGV }
		$v = eval { decode_json($_) };
		$v = ref $v eq "HASH" ? $v->{$_} : undef for @keys;
		print $v if defined $v' "$@"
}

# Sets $seen to what ntfsmap says, or "exit STATUS".
our_size() {
	run ntfsmap info --json "$@"
	seen=$(json image virtual_size <"$T/out")
	[ "$status" = 0 ] || seen="exit $status"
}

# agree FILE NAME: both read it, and see the same size.
agree() {
	local theirs
	theirs=$(qemu-img info -f vpc --output=json "$1" 2>/dev/null | json virtual-size)
	our_size "./$1"
	is "$seen" "${theirs:-a number from qemu-img}" "$2"
}

# accepted SIZE NAME ARG...: for info.
accepted() {
	our_size "${@:3}"
	is "$seen" "$1" "$2"
}

# refused STATUS REGEX NAME ARG...: and nothing on standard output.
refused() {
	run ntfsmap info --json "${@:4}"
	like "$status:$out:$err" "^$1::ntfsmap: .*$2" "$3"
}

# ---- good images ----

made_by_qemu() {
	local bytes sub
	for bytes in 1 512 1536 1M 1537K 10M 100000K 127M 504M 1G 8063M 8G 127G 130G 500G 2039G 2040G; do
		for sub in fixed fixed,force_size; do
			if ! qemu-img create -q -f vpc -o "subformat=$sub" x.vhd "$bytes" 2>/dev/null; then
				result 0 "size of $bytes $sub # SKIP no room for such a sparse file"
				continue
			fi
			agree x.vhd "size of $bytes $sub"
			rm x.vhd
		done
	done
}

# Text of numbered lines: no two sectors are the same.
data() {
	seq 400000 | head -c "$1"
}

contents() {
	local bytes sub
	for bytes in 512 1536 65536 1048576 2097664; do
		for sub in fixed fixed,force_size; do
			data "$bytes" >x.raw
			qemu-img convert -f raw -O vpc -o "subformat=$sub" x.raw x.vhd
			qemu-img convert -f vpc -O raw x.vhd theirs.raw
			ntfsmap cat ./x.vhd >ours.raw
			ok "contents of $bytes $sub are qemu's" cmp ours.raw theirs.raw
			ok "and begin with what went in" cmp -n "$bytes" ours.raw x.raw
		done
	done
	cp x.vhd x.img
	agree x.img 'the size, whatever the file is called'
	accepted "$(stat -c %s x.vhd)" 'as raw it has its footer' --format raw ./x.vhd
	accepted 2097664 'qemu calls the format vpc' --format vpc ./x.vhd
	run ntfsmap "$T/x.vhd"
	is "$status: $out" "0: 0 4097 linear $T/x.vhd 0" 'the table leaves the footer out'
}

# The size is current_size or the geometry's: each creator, and each way in which the two can differ without pointing
# out of 2 MiB of data. The largest geometry is not meant as one, even here.
creators() {
	local creator chs size sizes=(524288 1048576 2097152)
	data 2097152 >x.raw
	cp x.raw x.vhd
	"$mkvhd" append x.vhd
	for creator in 'vpc ' qemu qem2 'win ' 'd2v ' tap CTXS; do
		for size in "${sizes[@]}"; do
			for chs in 1/1/1 65535/16/255 128/2/16 30/4/17 60/4/17; do
				"$mkvhd" patch x.vhd "creator=$creator" "current_size=$size" "chs=$chs"
				agree x.vhd "size by '$creator', current_size $size, geometry $chs"
			done
			qemu-img convert -f vpc -O raw x.vhd theirs.raw
			ntfsmap cat ./x.vhd >ours.raw
			ok "contents of the last" cmp ours.raw theirs.raw
		done
	done
}

# Sizes that are real: a geometry that is cut off at 127.5 GiB, and one that is not.
creators_of_large() {
	local creator
	truncate -s 140G x.vhd
	"$mkvhd" append x.vhd
	for creator in 'vpc ' qemu qem2 'win ' 'd2v ' tap CTXS; do
		"$mkvhd" patch x.vhd "creator=$creator" chs=65535/16/255
		agree x.vhd "140 GiB by '$creator', the largest geometry"
		"$mkvhd" patch x.vhd chs=65535/15/255
		agree x.vhd "140 GiB by '$creator', a geometry of 119 GiB"
	done
	rm x.vhd
}

# ---- where we differ from qemu on purpose ----

ours_alone() {
	# qemu takes the geometry of a creator that it does not know. VirtualBox writes the BIOS geometry there, which
	# ends at 1024/255/63: its disks would be cut off at 8 GiB, with the end of the file system behind that.
	truncate -s 9G x.vhd
	"$mkvhd" append x.vhd creator=vbox chs=1024/255/63
	accepted $((9 << 30)) 'VirtualBox means current_size' ./x.vhd
	"$mkvhd" patch x.vhd creator=wa
	accepted $((9 << 30)) 'Azure too' ./x.vhd
	"$mkvhd" patch x.vhd "creator=vpc "
	accepted $((1024 * 255 * 63 * 512)) 'Virtual PC means the geometry' ./x.vhd

	data 4096 >x.vhd
	"$mkvhd" append x.vhd bytes=511
	accepted 4096 'a footer of 511 bytes, which qemu does not know' ./x.vhd
	ntfsmap cat ./x.vhd >ours.raw
	ok 'its contents end before the footer' cmp ours.raw <(data 4096)

	# qemu looks for a footer at the start first, and would open the image of such a disk as a dynamic one.
	truncate -s 1024 inner.vhd
	"$mkvhd" append inner.vhd
	{ tail -c 512 inner.vhd && data 3584; } >x.vhd
	"$mkvhd" append x.vhd
	accepted 4096 'a disk that begins with a VHD footer' ./x.vhd
}

# ---- damage ----

qemu_refuses() {
	run qemu-img info -f vpc x.vhd
	is "$status" 1 "qemu refuses $1"
}

# damaged REGEX NAME CHANGE...: of a good footer at 4096.
damaged() {
	cp good.vhd x.vhd
	"$mkvhd" patch x.vhd "${@:3}"
	refused 6 "/x\.vhd: offset $1" "damaged: $2" ./x.vhd
}

damage() {
	data 4096 >good.vhd
	"$mkvhd" append good.vhd chs=8/1/1
	agree good.vhd 'a good image'
	damaged '4160: footer\.checksum .* found 0x0, expected 0xf' 'checksum' checksum=0
	damaged '4096: footer\.cookie .* found "Conectix" \(0x43.*--format raw' 'cookie' flip=0.5
	damaged '4160: footer\.checksum ' 'a bit of the cylinders' flip=57.0
	qemu_refuses 'it too'
	damaged '4160: footer\.checksum ' 'the last bit' flip=511.0
	damaged '4156: footer\.disk_type .* found 0, expected 2' 'type 0' type=0
	damaged '4156: footer\.disk_type .* found 7, expected 2' 'type 7' type=7
	damaged '4144: footer\.current_size .*2040 GiB' 'far too large' current_size=$((2041 << 30))
	qemu_refuses 'it too'
	# These qemu would open: with a size that is not there, or is cut down to sectors.
	damaged '4144: footer\.current_size says an empty disk' 'no size' current_size=0
	damaged '4144: footer\.current_size is no multiple of 512: found 4095' 'odd size' current_size=4095
	damaged '4144: footer\.current_size .*cut short: found 4608, expected 4096' 'too large' current_size=4608
	damaged '4152: footer\.geometry says an empty disk' 'no geometry' 'creator=vpc ' chs=0/0/0
	damaged '4152: footer\.geometry .*cut short: found 4608, expected 4096' 'geometry too large' creator=qemu chs=9/1/1

	head -c 4095 good.vhd >x.vhd
	refused 6 'named like a vhd image, but has no vhd header or footer: .*--format raw' 'a VHD that lost its end' ./x.vhd
	{ cat good.vhd && echo; } >x.vhd
	refused 6 'named like a vhd image' 'a VHD with something behind its footer' ./x.vhd
	cp good.vhd x.vhd
	"$mkvhd" patch x.vhd version=0x20000
	refused 2 'offset 4108: footer\.version .* found 0x20000, expected 0x10000' 'VHD 2.0' ./x.vhd
}

names() {
	local name
	data 4096 >x.raw
	for name in x.vhd x.VHD x.avhd x.vhd.vtoy; do
		cp x.raw "$name"
		refused 6 'named like a vhd image' "$name without a footer" "./$name"
		accepted 4096 "$name as raw" --format raw "./$name"
		refused 6 'offset 3584: footer\.cookie is not a VHD footer' "$name as VHD" --format vhd "./$name"
	done
	for name in vhd.img xvhd x.vhd.old; do
		cp x.raw "$name"
		accepted 4096 "$name promises nothing" "./$name"
	done
	true >x.vhd
	refused 6 'file size is less than one sector' 'an empty x.vhd' ./x.vhd
}

# ---- other kinds and formats ----

other_kinds() {
	qemu-img create -q -f vpc x.vhd 64M
	agree x.vhd 'a dynamic VHD'
	qemu-img convert -f raw -O vpc -o force_size x.raw dynamic.vhd
	agree dynamic.vhd 'a dynamic VHD with contents'
	ntfsmap cat ./dynamic.vhd >ours.raw
	ok '  which are the same' cmp ours.raw x.raw
	is "$(ntfsmap info --json ./dynamic.vhd | json image subformat)" dynamic '  info says so'

	truncate -s -512 x.vhd
	agree x.vhd 'a dynamic VHD that lost its last footer'
	like "$(ntfsmap check ./x.vhd)" 'warn +footer ' '  check says so'
	qemu-img create -q -f vpc x.vhd 64M
	"$mkvhd" patch x.vhd type=4
	"$mkvhd" patch x.vhd at=start type=4
	our_size ./x.vhd
	is "$seen" "$(qemu-img info -f vpc --output=json x.vhd | json virtual-size)" 'a differencing VHD without its parent: info'
	run ntfsmap cat ./x.vhd
	is "$status" 4 '  cat needs the parent'
	like "$err" '--parent SOURCE' '  and says how to name it'
}

other_formats() {
	local format size
	for format in vhdx vmdk vdi qed parallels; do
		if ! qemu-img create -q -f "$format" x.img 4M 2>"$T/err"; then
			result 0 "$format # SKIP qemu-img cannot make it"
			continue
		fi
		cp x.img x.vhd
		refused 2 "x\.img: $format is a format that is not supported" "$format" ./x.img
		refused 2 "x\.vhd: $format is a format that is not supported" "$format that is called .vhd" ./x.vhd
		size=$(stat -c %s x.img)
		accepted $((size - size % 512)) "$format as raw" --format raw ./x.img
		rm x.img
	done
	# The descriptor of a VMware flat extent, and the extent: raw, whatever its name says.
	qemu-img create -q -f vmdk -o subformat=monolithicFlat x.vmdk 4M
	refused 2 'x\.vmdk: vmdk is a format that is not supported' 'a VMware descriptor' ./x.vmdk
	accepted 4194304 'its flat extent' ./x-flat.vmdk

	# Which of the two is it? A VHD whose disk holds a qcow2 image from its first sector on, or the other way round.
	qemu-img create -q -f qcow2 x.vhd 4M
	truncate -s %512 x.vhd
	size=$(stat -c %s x.vhd)
	"$mkvhd" append x.vhd
	refused 2 'qcow2 by its first bytes, but it ends in a VHD footer; .*--format vhd or --format raw' \
		'qcow2 before a VHD footer' ./x.vhd
	accepted "$size" 'it is a VHD when we are told' --format vhd ./x.vhd
	accepted $((size + 512)) 'or raw' --format raw ./x.vhd
}

made_by_qemu
contents
creators
creators_of_large
ours_alone
damage
names
other_kinds
other_formats
done_testing
