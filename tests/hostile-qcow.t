#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Any bytes may be in a qcow2 or qcow: every field of headers, extensions and the snapshot table with values at which
# somebody may stumble, entries of all tables, packed streams, files that end too early. Whatever the library says of
# them, it ends by itself, with an answer or an error that names what is wrong, leaves the bytes alone when it only
# reads, and what it reads to the end is what qemu reads. What is written goes to no header, and makes no file longer.
#
# The program is sanitised where the compiler can do that. The cases that are listed are always the same ones; those
# that are random depend on the seed and their number:
#
#   TEST_SEED=7 tests/hostile-qcow.t         others
#   HOSTILE_RUNS=5000 tests/hostile-qcow.t   more of them
#   HOSTILE_CASE=123 tests/hostile-qcow.t    this one alone
#   HOSTILE_ALL=1 tests/hostile-qcow.t      all listed cases, not one of eight
#   HOSTILE_SHOW=1000 tests/hostile-qcow.t   tells of all failures, not of ten
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Compare qw(compare);
use File::Temp (); # its END comes after ours
use FindBin;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
our ($top, $T, $seed);
my $vdiskio = "$top/build/tests/vdiskio";
my $runs = $ENV{HOSTILE_RUNS} // 150;
need($vdiskio, 'qemu-img', 'qemu-io');
chdir $T or die "$T: $!";
note("seed $seed");

END {
	chdir '/'; # so that $T can go
}

use constant {KIB => 1024, LARGE => 64 << 20};
my $size = 300 * KIB;

# ---- the judge ----

my ($cases, $failures, $compared, %codes);

sub complain {
	my ($told, $what, $err) = @_;
	diag("$told: $what\n", substr $err // '', 0, 700) if $failures++ < ($ENV{HOSTILE_SHOW} // 10);
}

# Lines to vdiskio; how it ended, and what it answered.
sub speak {
	my ($told, $lines, @options) = @_;
	spew('script', join '', map "$_\n", @$lines);
	my $status = run_quietly('sh', '-c', 'exec "$0" "$@" <script', $vdiskio, @options, 'x.img');
	my ($out, $err) = map slurp($_), 'out', 'err';
	$codes{$status}++;
	complain($told, "vdiskio ended by $status", $err) if $status !~ /^[01]$/ || $err =~ /Sanitizer|runtime error/;
	complain($told, 'no message that names what is wrong', $err)
		if $status eq '1' && $err !~ /\Avdiskio: .+: E[A-Z]+: .+\n\z/ && $out !~ /^error E/m;
	return ($status, $out);
}

# qemu reads the same, if it reads it at all.
sub compare_with_qemu {
	my ($told, $format) = @_;
	my ($status) = run('qemu-img', 'convert', '-f', $format, '-O', 'raw', 'x.img', 'theirs.raw');
	return if $status;
	$compared++;
	complain($told, 'qemu reads something else') if compare('ours.raw', 'theirs.raw');
}

# All that reads. The file is x.img; nothing may change it.
sub judge {
	my ($told, $image, $format) = @_;
	$cases++;
	spew('x.img', $image);
	unlink 'ours.raw', 'theirs.raw';
	my ($status, $info) = speak($told, ['info'], '-r');
	if ($status eq '0') {
		my (undef, undef, $bytes) = split ' ', $info;
		my $small = $bytes <= LARGE;
		my (undef, $out) = speak($told, ['details', 'snapshots', $small ? ('maps', 'check', 'copy ours.raw') : 'read 0 512'],
			'-r');
		compare_with_qemu($told, $format) if $small && $out =~ /^ok\n(?:ok\n)?\z/m && -s 'ours.raw' == $bytes;
	}
	complain($told, 'the file was changed') if slurp('x.img') ne $image;
	return $status;
}

# Written to.
sub poke {
	my ($told, $image) = @_;
	spew('x.img', $image);
	my @lines = map {
		my $at = 512 * int rand($size / 512 - 40);
		sprintf pick('write %d %d 7', 'write %d %d 7', 'zero %d %d', 'discard %d %d', 'map %d %d'), $at, 512 * int(1 + rand 40);
	} 1 .. 12;
	speak($told, [@lines, 'flush', 'usage', 'reopen', 'read 0 65536']);
	my $now = slurp('x.img');
	complain($told, 'the length was changed') if length $now != length $image;
	# version, backing file, cluster size, size, encryption, L1 table
	complain($told, 'the header was written to') if substr($now, 0, 48) ne substr $image, 0, 48;
}

# What the cases had in common is one test each.
sub batch {
	my ($name, $code) = @_;
	($cases, $failures, $compared, %codes) = (0, 0, 0);
	$code->();
	my $seen = join ', ', map "$codes{$_} x $_", sort keys %codes;
	is($failures, 0, "$name: $cases cases, $compared of them read by qemu too (ended by $seen)");
}

# ---- the images ----

my (%good, %format);

sub made {
	my ($name, $format, $options, @commands) = @_;
	unlink 'g.img';
	must('qemu-img', 'create', '-q', '-f', $format, map({ ('-o', $_) } @$options), 'g.img', $size);
	must('qemu-io', '-f', $format, map({ ('-c', $_) } @commands), 'g.img') if @commands;
	return keep($name, $format);
}

sub keep {
	my ($name, $format) = @_;
	# room to write, in the file
	$good{$name} = slurp('g.img') . "\0" x (64 * KIB);
	$format{$name} = $format;
}

sub make_images {
	my @some = ('write -P 1 0 20k', 'write -P 2 100k 3k', 'write -P 3 250k 50k');
	made('v2', 'qcow2', ['compat=0.10', 'cluster_size=512'], @some);
	made('v3', 'qcow2', ['cluster_size=4096', 'refcount_bits=1'], @some, 'write -z 8k 8k', 'discard 100k 4k');
	made('subclusters', 'qcow2', ['extended_l2=on', 'cluster_size=16k'], @some, 'write -z 8k 4k', 'write -z -u 260k 16k');
	must('qemu-img', 'snapshot', '-c', 'first', 'g.img');
	must('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 2k 60k', 'g.img');
	keep('snapshots', 'qcow2');
	spew('b.raw', join '', map chr($_ * 7 % 251), 1 .. 200 * KIB);
	made('backing', 'qcow2', ['cluster_size=2048', 'backing_file=b.raw', 'backing_fmt=raw'], @some);
	made('bitmap', 'qcow2', ['cluster_size=1024'], @some);
	must('qemu-img', 'bitmap', '--add', 'g.img', 'b0');
	keep('bitmap', 'qcow2');
	for (['zlib', 'qcow2', '-o', 'cluster_size=4096'], ['zstd', 'qcow2', '-o', 'cluster_size=4096,compression_type=zstd'],
		['qcow1 packed', 'qcow']) {
		my ($name, $format, @options) = @$_;
		unlink 'g.img';
		run('qemu-img', 'convert', '-c', '-f', 'raw', '-O', $format, @options, 'b.raw', 'g.img'); # qcow: 1, and all is there
		keep($name, $format);
	}
	made('qcow1', 'qcow', [], @some);
	made('qcow1 backing', 'qcow', ['backing_file=b.raw', 'backing_fmt=raw'], @some);
}

sub number {
	my ($image, $at, $bytes) = @_;
	return unpack 'Q>', "\0" x (8 - $bytes) . substr $image, $at, $bytes;
}

sub with {
	my ($image, $at, $bytes, $value) = @_;
	substr($image, $at, $bytes) = substr pack('Q>', $value), -$bytes;
	return $image;
}

sub odd_numbers {
	my ($old, $bytes, @more) = @_;
	my $most = $bytes == 8 ? ~0 : (1 << 8 * $bytes) - 1;
	my %seen;
	return grep !$seen{$_}++ && $_ <= $most, 0, 1, 2, $most, $most - 1, $most >> 1, ($most >> 1) + 1, $old ^ 1, $old + 1,
		$old ? $old - 1 : 3, $old << 1 & $most, $old >> 1, $old + 512, $old + 4096, @more;
}

# The first entries of a table, as [place, bytes].
sub places {
	my ($name) = @_;
	my $image = $good{$name};
	my $mask = $format{$name} eq 'qcow' ? ~0 >> 1 : 0x00fffffffffffe00;
	my $l1 = number($image, 40, 8);
	my $l2 = number($image, $l1, 8) & $mask;
	my $entry = $name =~ /subclusters|snapshots/ ? 16 : 8;
	my @at = map([$l1 + 8 * $_, 8], 0, 1), map { [$l2 + 8 * $_, 8] } 0 .. 5, 300 * 8 / $entry / 8;
	return @at if $format{$name} eq 'qcow';
	my $table = number($image, 48, 8);
	my $block = number($image, $table, 8) & $mask;
	push @at, [$table, 8], map [$block + $_, 1], 0 .. 20;
	my $snapshots = number($image, 60, 4) ? number($image, 64, 8) : 0;
	push @at, map [$snapshots + $_->[0], $_->[1]], [0, 8], [8, 4], [12, 2], [14, 2], [32, 4], [36, 4], [40, 8], [48, 8], [56, 4]
		if $snapshots;
	return @at;
}

# ---- the cases ----

# One of eight is done, another one with another seed; all of them with HOSTILE_ALL.
my $turn = $seed;

sub left_out { return !$ENV{HOSTILE_ALL} && $turn++ % 8 }

sub headers {
	for my $name (sort keys %good) {
		my $image = $good{$name};
		my $v1 = $format{$name} eq 'qcow';
		my @fields = $v1 ? ([8, 8], [16, 4], [20, 4], [24, 8], [32, 1], [33, 1], [36, 4], [40, 8]) :
			([8, 8], [16, 4], [20, 4], [24, 8], [32, 4], [36, 4], [40, 8], [48, 8], [56, 4], [60, 4], [64, 8]);
		push @fields, [72, 8], [80, 8], [88, 8], [96, 4], [100, 4], [104, 1], map [112 + 4 * $_, 4], 0 .. 3
			if !$v1 && number($image, 4, 4) == 3;
		for (@fields) {
			my ($at, $bytes) = @$_;
			my @more = (length $image, 1 << 20, 8, 9, 16, 22, 4, 31);
			for my $value (odd_numbers(number($image, $at, $bytes), $bytes, @more)) {
				next if left_out();
				judge(sprintf('%s, byte %d of the header = 0x%x', $name, $at, $value), with($image, $at, $bytes, $value),
					$format{$name});
			}
		}
	}
}

sub entries {
	for my $name (sort keys %good) {
		my $image = $good{$name};
		for (places($name)) {
			my ($at, $bytes) = @$_;
			my $old = number($image, $at, $bytes);
			for my $value (odd_numbers($old, $bytes, $old ^ 1 << 63, $old ^ 1 << 62, length $image, length($image) - 512, 512,
				number($image, 40, 8), 1 << 55, 0x100000001, 0xffffffff)) {
				next if left_out();
				my $told = sprintf '%s, %d bytes at %d = 0x%x', $name, $bytes, $at, $value;
				my $changed = with($image, $at, $bytes, $value);
				srand $at;
				judge($told, $changed, $format{$name});
				poke($told, $changed) if $bytes == 1 || rand(4) < 1;
			}
		}
	}
}

sub lengths {
	for my $name (sort keys %good) {
		my $image = $good{$name};
		for my $length (0, 1, 4, 47, 48, 71, 72, 103, 104, 112, 511, 512, 513, map length($image) * $_ >> 5, 1 .. 32) {
			my $told = "$name, $length bytes of it";
			judge($told, substr($image, 0, $length), $format{$name});
			poke($told, substr $image, 0, $length) if $length > 512;
		}
	}
}

sub random_image {
	my ($case) = @_;
	srand($seed * 1_000_003 + $case);
	my $name = pick(sort keys %good);
	my $image = $good{$name};
	my @told;
	for (0 .. rand 5) {
		my ($at, $bytes) = rand(2) < 1 ? @{pick(places($name))} : (int(rand(length($image) - 64 * KIB - 8)), pick(1, 1, 4, 8));
		($at, $bytes) = (8 + 4 * int rand 26, 4) if rand(4) < 1;
		my $new = pick(odd_numbers(number($image, $at, $bytes), $bytes, int rand 256, int rand length $image));
		push @told, sprintf '%d: %d bytes 0x%x', $at, $bytes, $new;
		$image = with($image, $at, $bytes, $new);
	}
	return ("$name, random case $case: " . join(', ', @told), $image, $format{$name});
}

sub random {
	for my $case (defined $ENV{HOSTILE_CASE} ? $ENV{HOSTILE_CASE} : 1 .. $runs) {
		my ($told, $image, $format) = random_image($case);
		judge($told, $image, $format);
		poke($told, $image);
	}
}

# ----

my ($why, @sanitised) = sanitised('tests/vdiskio');
($vdiskio) = @sanitised if @sanitised;
SKIP: {
	skip "$why: a plain program", 1 if !@sanitised;
	pass('the program is sanitised');
}
make_images();
for my $name (sort keys %good) {
	$compared = 0;
	is(judge("$name, not changed", $good{$name}, $format{$name}), 0, "$name: good before it is changed");
	is($compared, 1, "$name: and read by qemu");
}
batch("random cases of seed $seed", \&random);
exit done_testing() if defined $ENV{HOSTILE_CASE};
batch('lengths', \&lengths);
batch('headers', \&headers);
batch('entries', \&entries);
done_testing();
