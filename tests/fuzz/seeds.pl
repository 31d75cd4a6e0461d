#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# For seeds.sh:
#
#   seeds.pl make FOLDER                     the seeds that are no images; FOLDER has volume.img already
#   seeds.pl undate-volume IMAGE SECONDS     all times on an NTFS volume since then (1970, UTC) become the same
#   seeds.pl undate-snapshot IMAGE           the first snapshot of a qcow2 was made in 1970
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Path qw(make_path);
require(dirname(__FILE__) . '/../lib/mklog.pl');

my ($verb, $out, $started) = @ARGV;

sub seed {
	my ($target, $name, $bytes) = @_;
	make_path("$out/seeds/$target");
	open my $f, '>:raw', "$out/seeds/$target/$name" or die "$target/$name: $!\n";
	print $f $bytes;
	close $f or die "$target/$name: $!\n";
}

# ---- numbers: perl's own differ between versions ----

my $state = 1;

sub below {
	my ($n) = @_;
	$state = ($state * 1103515245 + 12345) & 0x7fffffff;
	return ($state >> 8) % $n;
}

sub bytes {
	my ($n) = @_;
	return pack 'C*', map below(256), 1 .. $n;
}

# ---- targets ----

sub engine {
	seed('engine', "run$_", bytes(64 * (1 + $_))) for 1 .. 24;
}

# Pages of 512 bytes make the smallest logs that there are.
sub logs {
	my @kinds = ([9, 9], [21, 22], [2, 3], [27, 0], [8, 8], [31, 0], [5, 6]);
	for my $version ('1.1', '2.0') {
		for my $n (1, 12, 60) {
			my $log = mklog::new(version => $version, size => 64 * 512, page => 512);
			for my $i (1 .. $n) {
				my ($redo, $undo) = @{$kinds[$i % @kinds]};
				mklog::record($log, redo => $redo, undo => $undo, lcns => [map 8 + $i * $_, 1 .. 1 + $i % 3],
					index => $i % 8, redo_data => "\0" x (8 * ($i % 9)), transaction => 0x18 + $i % 2);
				mklog::restart($log) if $i == 30;
			}
			seed('log', "$version-$n", mklog::stream($log));
			seed('log', "$version-$n-clean", mklog::stream($log, clean => 1)) if $n == 12;
		}
	}
	seed('log', 'reset', "\xff" x 4096);
}

# What the volume has: all that differ in more than their times.
sub records {
	open my $f, '<:raw', "$out/volume.img" or die "$out/volume.img: $!\n";
	my $bytes = do { local $/; <$f> };
	my %seen;
	for (my $at = 0; $at + 1024 <= length $bytes; $at += 1024) {
		my $record = substr $bytes, $at, 1024;
		next if $record !~ /^FILE/ || $seen{substr $record, 0x18, 8}++ > 3;
		seed('record', "at$at", $record);
	}
}

sub texts {
	my ($target, $text) = @_;
	my $n = 0;
	seed($target, 'text' . ++$n, $_) for split /^--\n/m, $text;
}

sub changes {
	seed('volume', 'none', '');
	seed('volume', "few$_", bytes(6 * (1 + $_ % 8))) for 1 .. 32;
}

# ---- times ----

sub change_file {
	my ($path, $change) = @_;
	open my $f, '+<:raw', $path or die "$path: $!\n";
	my $bytes = do { local $/; <$f> };
	$change->($bytes);
	seek $f, 0, 0;
	print $f $bytes;
	close $f or die "$path: $!\n";
}

# 100 ns since 1601.
sub ntfs_time {
	return ($_[0] + 11644473600) * 10000000;
}

# The last two bytes of a sector may be elsewhere: fixups. Those of a time are the same for months.
sub undate_volume {
	my ($first, $last, $new) = (ntfs_time($started - 1), ntfs_time(time + 1), pack 'Q<', ntfs_time(0));
	change_file($out, sub {
		for my $at (map 4 * $_, 0 .. length($_[0]) / 4 - 2) {
			my $length = $at % 512 == 504 ? 6 : 8;
			my $time = unpack 'Q<', substr($_[0], $at, $length) . substr(pack('Q<', $last), $length);
			substr($_[0], $at, $length) = substr $new, 0, $length if $time >= $first && $time <= $last;
		}
	});
}

# qcow2.txt, "Snapshots": the time, and how long the machine had run.
sub undate_snapshot {
	change_file($out, sub { substr($_[0], 16 + unpack('Q>', substr $_[0], 64, 8), 16) = "\0" x 16 });
}

# ----

if ($verb ne 'make') {
	$verb eq 'undate-volume' ? undate_volume() : undate_snapshot();
	exit;
}
engine();
logs();
records();
changes();
texts('tab', <<'END');
# NAME  SOURCE                             OPTIONS
disk    UUID=175383B66AD61018:/disk.vhd    host=/mnt/win
data    LABEL=My\040USB:/data.raw          nofail,timeout=30
--
a /dev/sda3:\images\disk.vhd ro,partitions,static,quick,noauto,x-initrd.attach,x-other=1
b PARTUUID=1-2:/x allow=hiberfile,allow=offline,format=qcow2,snapshot=before\054update
--
c UUID=1:/c.qcow2 overlay=/dev/sdb1,parent=UUID=2:/p,data=/mnt/d.raw
d /x overlay=tmpfs,timeout=0
d /y
--
root=/dev/mapper/disk quiet ntfsmap=disk,UUID=175383B66AD61018:/disk.vhd,partitions rd.ntfsmap=b,LABEL=a\040b:/x
--
ntfsmap=d,"/dev/sda 3:/a b.vhd",ro,timeout=5 ntfsmap=d,/dev/sda\0403:/a\040b.vhd,ro,timeout=5 root=UUID=1
END
texts('table', <<'END');
0 2048 striped 1 8 8:3 787456
2048 697008 linear 8:3 789504
699056 699056 linear 8:3 1526512
--
0 100 zero
100 28 linear 7:0 0
128 8 linear 253:1 64
--
0 83886080 vdisk qcow2 6 read_only file_bytes 1048577 parent 253:1 snapshot 2 1 8:3 2 0:2048+2047 0:8192+2
--
0 8192 vdisk vhd 2 data 253:9 2 8:3 8:4 3 0:64+100 1:64+100 0:164+7
--
0 2048 snapshot 253:1 253:2 PO 64
--
0 2048 snapshot-merge 253:1 253:2 P 64
--
0 2048 error
END
texts('source', <<'END');
/proc/self/exe:/images/disk.vhd
--
UUID=175383B66AD61018:/images/disk.vhd
--
LABEL=My disk: one:\data.raw
--
PARTLABEL=x
--
D:\folder\disk.vhd
--
/proc/self/status:stream
--
/proc/self/exe:\x:y
--
qcow2
--
hiberfile
END
# a SOURCE has no line feed
for my $file (glob "$out/seeds/source/*") {
	open my $f, '<:raw', $file or die;
	chomp(my $text = <$f>);
	close $f;
	seed('source', $file =~ s{.*/}{}r, $text);
}
