# shellcheck shell=bash
# What the tests of the kernel target share: images in pieces on a disk, and devices over them. Source it after ntfs.sh.
# Outside: `lay` puts images on $disk; `guest_tests -d "$disk" -s "$share"`; `back` takes them out again.
# In the machine: `create DEVICE IMAGE`. What both sides must know lies in $share.
# shellcheck disable=SC2034,SC2154 # for the tests; $top and $T are tap.sh's
lay=$top/tests/lib/vhdlay.pl
makevhd=$top/tests/lib/makevhd.pl
hammer=$top/build/tests/blkhammer

if in_machine; then
	share=/mnt/share
else
	share=$T/share
	mkdir "$share"
	disk=$T/disk.img
	next=2048
fi

# Sets TEST_MODULE, for the machine.
build_module() {
	TEST_MODULE=$("$top/tests/vm/module.sh") || {
		[ $? != 77 ] || skip_all "no headers for the machine's kernel"
		bail "the module does not build"
	}
	export TEST_MODULE
}

# lay IMAGE SECTORS PIECES [ROOM-BYTES] [FORMAT]: puts $T/IMAGE.FORMAT (vhd), whose disk has so many sectors, on the disk
lay() {
	local format=${5:-vhd} file bytes
	file=$T/$1.$format
	if [ "${4:-0}" != 0 ]; then
		if [ "$format" = vhd ]; then
			"$lay" room "$file" "$4"
		else
			truncate -s "+$4" "$file"
		fi
	fi
	bytes=$(stat -c %s "$file")
	[ -e "$disk" ] || : >"$disk"
	"$lay" place "$file" "$disk" "$next" "$3" >"$share/$1.extents" || bail "cannot lay $1"
	echo "$2 $bytes $format" >"$share/$1.size"
	next=$((next + bytes / 512 + $3 * 16 + 2048))
	next=$((next - next % 8))
	truncate -s $((next * 512)) "$disk"
}

# outside: the hash of all that is not the images'
outside() {
	# shellcheck disable=SC2046 # a list
	"$lay" outside "$disk" $(cat "$share"/*.extents)
}

# back IMAGE: $T/IMAGE.after is the image as it is on the disk now
back() {
	# shellcheck disable=SC2046 # a list
	"$lay" take "$disk" "$(cut -d' ' -f2 "$share/$1.size")" $(cat "$share/$1.extents") >"$T/$1.after"
}

# table IMAGE DEVICE FEATURES...: the table line of an image that was laid out on the disk
table() {
	local name=$1 lower=$2 sectors bytes format
	shift 2
	read -r sectors bytes format <"$share/$name.size"
	echo "0 $sectors vdisk $format $(($# + 2)) file_bytes $bytes $* 1 $lower $(wc -w <"$share/$name.extents") $(cat "$share/$name.extents")" | tr -s ' '
}

# field DEVICE N: of the status, the first is the mode
field() {
	dmsetup status "$1" | cut -d' ' -f$(($2 + 3))
}

events() {
	dmsetup info -c --noheadings -o events "$1"
}

# remove DEVICE: when udev does not look at it any more
remove() {
	udevadm settle
	dmsetup remove --retry "$1"
}

# suspending DEVICE: now and again, until there is $T/enough. (One that is killed might leave it suspended.)
suspending() {
	rm -f "$T/enough"
	while sleep 0.4 && [ ! -e "$T/enough" ]; do
		dmsetup suspend "$1" && dmsetup resume "$1"
	done
}

# within SECONDS COMMAND...: 124 if it has not ended by then; one that cannot be killed is left behind
within() {
	local left=$(($1 * 10)) pid status=0
	shift
	"$@" &
	pid=$!
	while kill -0 "$pid" 2>/dev/null && [ "$left" -gt 0 ]; do
		sleep 0.1
		left=$((left - 1))
	done
	if [ "$left" = 0 ]; then
		kill "$pid" 2>/dev/null
		return 124
	fi
	wait "$pid" || status=$?
	return "$status"
}
