#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `ntfsmap check` and `check --repair` of qcow2, against `qemu-img check`: sound images of every kind, images that were
# damaged on purpose, images made to take forever. What is repaired is good for qemu too, reads the same and can be
# written to.
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Copy qw(copy);
use File::Temp (); # its END comes after ours
use FindBin;
use JSON::PP;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
BEGIN { require "$FindBin::RealBin/lib/qcowedit.pl" }
our ($T, $ntfsmap);
need($ntfsmap, 'qemu-img', 'qemu-io', 'truncate', 'cmp');
chdir $T or die "$T: $!";

END {
	chdir '/'; # so that $T can go
}

# ---- both judges: "ERRORS LEAKS" ----

sub qemu_says {
	my ($status, $out) = run('qemu-img', 'check', '-f', 'qcow2', '--output=json', @_);
	my $j = eval { decode_json($out) } or return "status $status";
	return ($j->{corruptions} // 0) . ' ' . ($j->{leaks} // 0);
}

sub we_say {
	my ($status, $out, $err) = run($ntfsmap, 'check', '--json', @_);
	my $j = eval { decode_json($out) } or return "status $status: $err";
	return "$j->{errors} $j->{leaks}";
}

# (exit status, "ERRORS LEAKS" that are left, the JSON)
sub repair {
	my ($path, $level) = @_;
	my ($status, $out, $err) = run($ntfsmap, 'check', '--json', "--repair=$level", $path);
	my $j = eval { decode_json($out) } or return ($status, $err, {});
	return ($status, "$j->{errors} $j->{leaks}", $j);
}

sub same_data {
	my ($one, $other) = @_;
	return !(run('qemu-img', 'compare', '-q', $one, $other))[0];
}

# New clusters, and ones that were there.
sub can_be_written {
	my ($path, $cluster) = @_;
	my @ranges = (join(' ', map $_ * $cluster, 400, 10), join(' ', map $_ * $cluster, 15, 195));
	my ($status) = run('qemu-io', '-f', 'qcow2', map(('-c', "write -P 9 $_", '-c', "read -P 9 $_"), @ranges), $path);
	return !$status && qemu_says($path) =~ /^0 /;
}

# ---- sound images ----

sub sound {
	my @kinds = ('cluster_size=512', 'cluster_size=4k', 'cluster_size=64k', 'cluster_size=2M',
		map("refcount_bits=$_", 1, 2, 4, 8, 16, 32, 64), 'extended_l2=on', 'extended_l2=on,cluster_size=16k',
		'compat=0.10', map("preallocation=$_", qw(metadata falloc full)), 'lazy_refcounts=on', 'compression_type=zstd',
		'cluster_size=512,refcount_bits=64', 'cluster_size=2M,refcount_bits=1', 'data_file=data,data_file_raw=on');
	for my $kind (@kinds) {
		unlink 'sound.qcow2', 'data';
		my $alone = $kind =~ /data_file|refcount_bits=1$/;
		must('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', $kind, 'sound.qcow2', '40M');
		must('qemu-io', map(('-c', $_), 'write -P 5 100k 3M', 'write -P 6 30M 1M', 'write -z 2M 3M', 'discard 31M 100k'),
			'sound.qcow2');
		for (1, 2) {
			must('qemu-img', 'snapshot', '-c', "s$_", 'sound.qcow2') if !$alone;
			must('qemu-io', '-c', "write -P 7 ${_}M 3M", 'sound.qcow2');
		}
		my $packed = $kind =~ /2M/ ? '2M' : '64k';
		must('qemu-io', '-c', "write -c -P 8 34M $packed", 'sound.qcow2') if $kind !~ /data_file|prealloc/;
		must('qemu-img', 'bitmap', '--add', 'sound.qcow2', 'b') if $kind !~ /compat/;
		is(we_say('./sound.qcow2'), '0 0', "sound, $kind");
		is(qemu_says('sound.qcow2'), '0 0', '  qemu thinks so too');
	}
}

# ---- damage: what is done, and what a repair leaves (nothing, if not said) ----

sub cluster_of {
	my ($q, $i) = @_;
	return home($q, $i) / $q->{cluster};
}

# Clusters of the disk: 10 to 109 are its own, 200 to 209 the snapshot's too, 300 is compressed.
my @damage = (
	['a refcount is too high', sub { my ($q) = @_; rc($q, cluster_of($q, 20), 2) }],
	['a leak', sub { my ($q) = @_; rc($q, free_cluster($q), 1) }],
	['a shared cluster counts once', sub { my ($q) = @_; rc($q, cluster_of($q, 200), 1) }],
	['a used cluster counts as free', sub { my ($q) = @_; rc($q, cluster_of($q, 20), 0) }],
	['the header counts as free', sub { my ($q) = @_; rc($q, 0, 0) }],
	['the L1 table counts as free', sub { my ($q) = @_; rc($q, $q->{l1} / $q->{cluster}, 0) }],
	['many refcounts are wrong', sub { my ($q) = @_; rc($q, cluster_of($q, $_), $_ % 3) for 40 .. 60 }],
	['COPIED is missing', sub { my ($q) = @_; l2($q, 20, l2($q, 20) ^ COPIED) }],
	['COPIED is set', sub { my ($q) = @_; l2($q, 200, l2($q, 200) ^ COPIED) }],
	['COPIED is missing in L1', sub { my ($q) = @_; l1($q, 0, l1($q, 0) ^ COPIED) }],
	['COPIED on compressed data', sub { my ($q) = @_; l2($q, 300, l2($q, 300) | COPIED) }],
	['reserved bits in L1', sub { my ($q) = @_; l1($q, 0, l1($q, 0) | 1 << 57) }],
	['reserved bits in L2', sub { my ($q) = @_; l2($q, 20, l2($q, 20) | 1 << 57 | 1 << 5) }],
	['no refcount block', sub { my ($q) = @_; rt($q, 0, 0) }],
	['reserved bits in the refcount table', sub { my ($q) = @_; rt($q, 0, rt($q, 0) | 1) }],
	['a refcount block outside', sub { my ($q) = @_; rt($q, 0, rt($q, 0) | 1 << 45) }],
	['a refcount block twice', sub { my ($q) = @_; rt($q, 1, rt($q, 0)) }],
	['a refcount block in data', sub { my ($q) = @_; rt($q, 0, home($q, 20)) }, '0 1'],
	['two entries for one cluster', sub { my ($q) = @_; l2($q, 20, l2($q, 21)) }, '0 0', 'other data'],
	['data in a refcount block', sub { my ($q) = @_; l2($q, 20, rt($q, 0) | COPIED) }, '0 1', 'other data'],
	['data in the refcount table', sub { my ($q) = @_; l2($q, 20, $q->{rt} | COPIED) }, '0 1', 'other data'],
	['data in the L1 table', sub { my ($q) = @_; l2($q, 20, $q->{l1} | COPIED) }, '1 1', 'other data'],
	['data in an L2 table', sub { my ($q) = @_; l2($q, 20, (l1($q, 0) & OFFSET) | COPIED) }, '2 1', 'other data'],
	['data outside', sub { my ($q) = @_; l2($q, 20, l2($q, 20) | 1 << 45) }, '1 1', 'other data'],
	['an L2 table outside', sub { my ($q) = @_; l1($q, 0, l1($q, 0) | 1 << 45) }, '1 112', 'other data'],
	['a snapshot without its tables', sub { my ($q) = @_; my $at = word($q, 64); half($q, $at + 8, 1 << 30) }, '1 112'],
);

# Where clusters are larger than sectors: entries that are not on a boundary.
my @unaligned = (
	['data unaligned', sub { my ($q) = @_; l2($q, 20, l2($q, 20) | 512) }, '1 0', 'other data'],
	['a refcount block unaligned', sub { my ($q) = @_; rt($q, 0, rt($q, 0) | 512) }],
	['zeros unaligned', sub {
		my ($q) = @_;
		$q->{wide} ? l2bits($q, 20, 0xffffffff << 32) : l2($q, 20, l2($q, 20) | 1);
		l2($q, 20, l2($q, 20) | 512);
	}, '0 0', 'other data'],
);

my @subclusters = (
	['a subcluster is data and zeros', sub { my ($q) = @_; l2bits($q, 20, ~0) }, '1 0', 'other data'],
	['subclusters without a place', sub { my ($q) = @_; l2($q, 20, 0) }, '1 1', 'other data'],
);

sub make_original {
	my ($options, $cluster) = @_;
	my $b = sub { join ' ', map $_ * $cluster, @_ };
	unlink 'original.qcow2';
	must('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', $options, 'original.qcow2', 1000 * $cluster);
	must('qemu-io', '-c', 'write -P 5 ' . $b->(10, 100), '-c', 'write -P 6 ' . $b->(200, 10), 'original.qcow2');
	must('qemu-img', 'snapshot', '-c', 's1', 'original.qcow2');
	must('qemu-io', '-c', 'write -P 7 ' . $b->(10, 100), '-c', 'write -c -P 8 ' . $b->(300, 1), 'original.qcow2');
	truncate 'original.qcow2', (-s 'original.qcow2') / $cluster * $cluster + 8 * $cluster + 512; # room, of no whole cluster
}

sub edit {
	my ($path, $how) = @_;
	my $q = qcow_open($path);
	$how->($q);
	close $q->{f};
}

# In the classes of an unaligned refcount block qemu counts no errors but "check errors".
sub damaged {
	my ($options, $cluster, $what, $how, $left, $other) = @_;
	$left //= '0 0';
	copy('original.qcow2', 'x.qcow2');
	edit('x.qcow2', $how);
	my $before = slurp('x.qcow2');
	is(we_say('./x.qcow2'), qemu_says('x.qcow2'), "$options: $what: errors and leaks as qemu counts them");
	ok(slurp('x.qcow2') eq $before, '  a check changes nothing');
	my ($status, $now, $j) = repair('./x.qcow2', 'all');
	is($now, $left, "  repaired, and this is left");
	is($status, $left =~ /^0/ ? 0 : 6, '  the exit status tells');
	ok(same_data('original.qcow2', 'x.qcow2'), '  the data are the same') if !$other;
	return if $left !~ /^0/;
	is(qemu_says('x.qcow2'), $left, '  qemu agrees');
	ok(can_be_written('x.qcow2', $cluster), '  qemu writes to it');
}

sub all_damage {
	my %images = ('cluster_size=64k' => 65536, 'cluster_size=4k,refcount_bits=8' => 4096, 'compat=0.10' => 65536,
		'cluster_size=16k,extended_l2=on,refcount_bits=32' => 16384, 'cluster_size=64k,refcount_bits=64' => 65536);
	for my $options (sort keys %images) {
		make_original($options, $images{$options});
		my @all = (@damage, $options =~ /compat/ ? @unaligned[0, 1] : @unaligned, $options =~ /extended/ ? @subclusters : ());
		damaged($options, $images{$options}, @$_) for @all;
	}
}

# ---- levels and marks ----

sub bits {
	my ($path) = @_;
	return word(qcow_open($path), 72) & 3;
}

sub levels {
	make_original('cluster_size=64k', 65536);
	my $both = sub { my ($q) = @_; rc($q, free_cluster($q), 1); rc($q, 0, 0); word($q, 72, 3) };
	copy('original.qcow2', 'x.qcow2');
	edit('x.qcow2', $both);
	my ($status, $now, $j) = repair('./x.qcow2', 'leaks');
	is("$status: $now", '6: 1 0', '--repair=leaks leaves errors');
	is("$j->{errors_repaired} $j->{leaks_repaired}", '0 1', '  and counts what was done');
	is(bits('x.qcow2'), 3, '  the image stays dirty and corrupt');
	($status, $now, $j) = repair('./x.qcow2', 'all');
	is("$status: $now", '0: 0 0', '--repair does the rest');
	is(bits('x.qcow2'), 0, '  now it is neither');
	my $before = slurp('x.qcow2');
	is((repair('./x.qcow2', 'all'))[0], 0, 'nothing to repair');
	ok(slurp('x.qcow2') eq $before, '  nothing is written');
	edit('x.qcow2', sub { word($_[0], 72, 1) });
	is((repair('./x.qcow2', 'leaks'))[0], 0, 'dirty, and nothing wrong');
	is(bits('x.qcow2'), 0, '  then it is said no more');
	copy('original.qcow2', 'x.qcow2');
	edit('x.qcow2', sub { my ($q) = @_; rc($q, cluster_of($q, 20), 2); l2($q, 20, l2($q, 20) ^ COPIED) });
	is(we_say('./x.qcow2'), '0 1', 'a leak of a cluster that is still in use');
	is((repair('./x.qcow2', 'leaks'))[1], '0 0', '  COPIED goes with it');
	is(qemu_says('x.qcow2'), '0 0', '  qemu agrees');
}

# A crash of qemu with lazy refcounts: nothing counts what was written.
sub lazy {
	must('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', 'lazy.qcow2', '64M');
	run('qemu-io', '-c', 'write -P 4 0 20M', '-c', 'flush', '-c', 'sigraise 9', 'lazy.qcow2');
	is(bits('lazy.qcow2'), 1, 'qemu died: the image is dirty');
	is(we_say('./lazy.qcow2'), qemu_says('lazy.qcow2'), '  errors and leaks as qemu counts them');
	is((repair('./lazy.qcow2', 'all'))[1], '0 0', '  they are repaired');
	is(bits('lazy.qcow2') . qemu_says('lazy.qcow2'), '00 0', '  and it is clean, for qemu too');
	is((run('qemu-io', '-c', 'read -P 4 0 20M', 'lazy.qcow2'))[0], 0, '  with all data');
}

# Version 1 has no refcounts, and qemu does not check it: compressed clusters share, others do not.
sub version_1 {
	must('qemu-img', 'create', '-q', '-f', 'qcow', 'one.qcow', '16M');
	must('qemu-io', '-c', 'write -P 3 0 1M', '-c', 'write -c -P 4 8M 4k', '-c', 'write -c -P 5 9M 4k', 'one.qcow');
	is(we_say('./one.qcow'), '0 0', 'version 1');
	my $q = qcow_open('one.qcow');
	my $table = word($q, word($q, 40));
	word($q, $table, word($q, $table + 8));
	is(we_say('./one.qcow'), '1 0', '  one cluster for two places');
	word($q, $table, 1 << 45);
	is(we_say('./one.qcow'), '1 0', '  an entry that points outside');
	is((repair('./one.qcow', 'all'))[0], 2, '  nothing to repair it with: refused');
}

sub refusals {
	my ($status, $out, $err) = run($ntfsmap, 'check', '--repair=x', './x.qcow2');
	is("$status $err", "1 ntfsmap: --repair=x: the words are leaks and all\n", 'an unknown word');
	($status, $out, $err) = run($ntfsmap, 'check', '--repair', '--readonly', './x.qcow2');
	is($status, 1, '--readonly contradicts');
	must('qemu-img', 'create', '-q', '-f', 'vpc', 'x.vhd', '8M');
	($status, $out, $err) = run($ntfsmap, 'check', '--repair', './x.vhd');
	is($status, 2, 'VHD: refused');
	like($err, qr/nothing to repair: qcow2 only/, '  and why');
	my $pid = open(my $qemu, '|-', "qemu-io x.qcow2 >/dev/null") or die;
	select undef, undef, undef, 0.5;
	($status, $out, $err) = run($ntfsmap, 'check', '--repair', './x.qcow2');
	is($status, 5, 'in use by qemu: busy');
	close $qemu;
	must('qemu-img', 'convert', '-O', 'qcow2', '-c', 'original.qcow2', 'packed.qcow2');
	truncate 'packed.qcow2', int((-s 'packed.qcow2') / 65536) * 65536;
	edit('packed.qcow2', sub { my ($q) = @_; rt($q, 0, $q->{l1}) });
	my $before = slurp('packed.qcow2');
	($status, $out, $err) = run($ntfsmap, 'check', '--repair', './packed.qcow2');
	is($status, 2, 'no room for a refcount block: refused') or diag($out, $err);
	like($err, qr/no room for them in the file: nothing was changed/, '  and why');
	ok(slurp('packed.qcow2') eq $before, '  indeed');
}

# ---- images that are made to take forever ----

sub hostile {
	my ($what, $how) = @_;
	copy('original.qcow2', 'h.qcow2');
	edit('h.qcow2', $how);
	for my $options (['--json'], ['--repair']) {
		my ($status) = run($ntfsmap, 'check', @$options, './h.qcow2');
		like($status, qr/^[0-7]$/, "$what: check @$options ends by itself");
	}
}

sub all_hostile {
	make_original('cluster_size=64k', 65536);
	hostile('an L1 table of one L2 table many times', sub {
		my ($q) = @_;
		my $at = 1 << 30;
		half($q, 36, 4 << 20);
		word($q, 40, $at);
		bytes($q, $at, 32 << 20, pack('Q>', l1($q, 0)) x (4 << 20));
	});
	hostile('an L2 table that is its own data', sub {
		my ($q) = @_;
		my $at = l1($q, 0) & OFFSET;
		bytes($q, $at, 65536, pack('Q>', $at | COPIED) x 8192);
	});
	hostile('snapshots that share an L1 table', sub {
		my ($q) = @_;
		my $at = 1 << 30;
		half($q, 60, 65536);
		word($q, 64, $at);
		my $one = pack('Q>Nnn', $q->{l1}, 4 << 20, 0, 0) . "\0" x 20 . pack('N', 16) . "\0" x 16;
		bytes($q, $at, 65536 * 56, $one x 65536);
	});
	hostile('a size of 2^60', sub { word($_[0], 24, 1 << 60) });
	hostile('a file of a TiB', sub { truncate $_[0]{f}, 1 << 40 });
	hostile('random tables', sub {
		my ($q) = @_;
		srand 7;
		word($q, (l1($q, 0) & OFFSET) + 8 * $_, int(rand(2 ** 32)) << 32 | int rand 2 ** 32) for 0 .. 8191;
	});
	srand 3;
	for my $i (1 .. 40) {
		hostile("random words $i", sub {
			my ($q) = @_;
			my @tables = ($q->{rt}, rt($q, 0), $q->{l1}, l1($q, 0) & OFFSET, word($q, 64));
			word($q, $tables[rand @tables] + 8 * int(rand 16), int(rand 2) ? int(rand 80) << 16 : 1 << rand 64) for 1 .. 4;
		});
	}
}

sound();
all_damage();
levels();
lazy();
version_1();
refusals();
all_hostile();
done_testing();
