# shellcheck shell=bash
# What the measuring scripts share. Source it. $top is the top of the project, $work a folder that goes at the end,
# $share (of $work) is what the machine sees as /mnt/share.
#
# A figure is a line NAME<tab>VALUE<tab>UNIT on standard output; what is going on is told on standard error.
# shellcheck disable=SC2034 # for the scripts
set -euo pipefail
top=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
PATH=$top/build/bin:$top/build/bench:$PATH:/usr/local/sbin:/usr/sbin:/sbin
gib=$((1 << 30))
ram=/dev/ram0

if [ -n "${VM_GUEST:-}" ]; then
	work=/tmp
	share=/mnt/share
else
	work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	share=$work/share
	mkdir "$share"
fi

figure() {
	printf '%s\t%s\t%s\n' "$1" "$2" "$3"
}

say() {
	echo "bench: $*" >&2
}

# percentile N NUMBER...: that one of them, in order
percentile() {
	local at=$1
	shift
	printf '%s\n' "$@" | sort -g | awk -v at="$at" '{ v[NR] = $1 } END { print v[1 + int((NR - 1) * at / 100 + 0.5)] }'
}

ratio() {
	awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f\n", a / b }'
}

# Sets TEST_MODULE, for the machine.
build_module() {
	TEST_MODULE=$("$top/tests/vm/module.sh")
	export TEST_MODULE
}

# in_machine OPTION...: the calling script again, in the test machine, with its figures on standard output
in_machine() {
	"$top/tests/vm/run" -n -s "$share" "$@" -- bash "$0"
}

# packed FILE [EXTENTS]: what of it is not zeros, each piece with its place on a disk, for `unpack`. The file EXTENTS tells
# where it lies there, as FIRST-SECTOR+SECTORS in the file's order; without it, at the beginning in one piece. An emulated
# machine would need minutes to read gigabytes of zeros.
packed() {
	perl -e 'use Fcntl qw(SEEK_SET);
		my ($name, $list) = @ARGV;
		open my $in, "<:raw", $name or die "$name: $!\n";
		binmode STDOUT;
		my @extents = "0+" . int((-s $name) / 512 + 1);
		if (defined $list) {
			local $/;
			open my $lines, "<", $list or die "$list: $!\n";
			@extents = split " ", <$lines>;
		}
		my ($at, $end) = (0, -s $name); # in the file
		for (@extents) {
			my ($first, $count) = /^(\d+)\+(\d+)$/ or die "extent $_\n";
			my ($to, $left) = ($first * 512, $count * 512);
			while ($left > 0 && $at < $end) {
				# SEEK_DATA: nothing is read of what the file does not have
				my $data = sysseek($in, $at, 3) // $end;
				my $skip = $data - $at;
				if ($skip >= $left) { $at += $left; last }
				$at += $skip, $to += $skip, $left -= $skip;
				sysseek $in, $at, SEEK_SET;
				my $n = sysread $in, my $bytes, $left < 4096 ? $left : 4096;
				last unless $n;
				print pack("Q<V", $to, $n), $bytes if $bytes =~ /[^\0]/;
				$at += $n, $to += $n, $left -= $n;
			}
		}' "$@"
}

# unpack DEVICE <PACKED
unpack() {
	perl -e 'use Fcntl qw(SEEK_SET);
		binmode STDIN;
		open my $out, "+<:raw", $ARGV[0] or die "$ARGV[0]: $!\n";
		while (read STDIN, my $head, 12) {
			my ($to, $n) = unpack "Q<V", $head;
			read(STDIN, my $bytes, $n) == $n or die "cut short\n";
			sysseek $out, $to, SEEK_SET;
			(syswrite($out, $bytes) // 0) == $n or die "$to: $!\n";
		}' "$1"
	# The device keeps the bytes: the page cache need not.
	blockdev --flushbufs "$1"
}

# vdisk_line SECTORS FORMAT BYTES DEVICE "FEATURES" EXTENT...: a table line for a file that lies on a device
vdisk_line() {
	local sectors=$1 format=$2 bytes=$3 device=$4 features
	read -r -a features <<<"$5"
	shift 5
	printf '0 %s vdisk %s %s file_bytes %s%s 1 %s %s' "$sectors" "$format" $((2 + ${#features[@]})) "$bytes" \
		"${features[*]/#/ }" "$device" $#
	printf ' 0:%s' "$@"
	echo
}
