#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The fact "pending-log": a file that a record of $LogFile may still change is refused, with the record's LSN, and one
# that is only near to it is not. For each rule a record that hits and records that just miss; where things lie is what
# ntfscluster and ntfsinfo say.
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use FindBin;
use JSON::PP ();
use List::Util qw(max min);
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/mklog.pl";
our ($top, $T, $ntfsmap);
my $forge = "$top/build/tests/ntfsforge";
my $image = "$T/volume.img";

need('mkntfs', 'ntfscluster', 'ntfsinfo', $forge, $ntfsmap);

# ---- the volume, by ntfscluster and ntfsinfo ----

my ($cluster, @log_runs, @mft, @clusters, @list, $base, @extents, $other);
my %mine; # clusters of the file and of its attribute list

sub f {
	must($forge, $image, @_);
}

# /d is in many pieces: its attribute list has clusters of its own, and there are several extent records. The MFT is in
# two pieces or more.
sub volume {
	($cluster, my $size, my $file) = @_;
	spew($image, '');
	truncate $image, $size << 20;
	must(qw(mkntfs -q -F -Q -T -c), $cluster, $image);
	my ($run) = mklog::runs($image, 0);
	my $behind = ($run->[0] + $run->[1]) / $cluster;
	for my $at ($behind .. $behind + 40) { # where the MFT would go on; in part it may be taken
		run($forge, $image, 'file', "/blocker$at", $cluster, "from=$at");
	}
	f('file', "/before$_", '64K') for 1 .. 9;
	f('file', '/d', $file, 'runs=1400', 'order=shuffle', 'seed=3');
	f('file', '/other', '64K');
	look();
}

sub look {
	@log_runs = mklog::runs($image, 2);
	@mft = mklog::runs($image, 0);
	($base) = must($forge, $image, 'ref', '/d') =~ /^(\d+)/;
	($other) = must($forge, $image, 'ref', '/other') =~ /^(\d+)/;
	my %record = map { $_ => 1 } must('ntfsinfo', '-F', '/d', $image) =~ /\$DATA .*mft record (\d+)/g;
	@extents = sort { $a <=> $b } grep $_ != $base, keys %record;
	@clusters = map { my $run = $_; map $run->[0] / $cluster + $_, 0 .. $run->[1] / $cluster - 1 }
		mklog::runs($image, $base);
	my ($list) = must('ntfscluster', '-q', '-F', '/d', $image)
		=~ /0x20 - non-resident\n.*\n((?:\s+\d+\s+\d+\s+\d+\n)+)/;
	@list = map { my ($vcn, $lcn, $length) = split; $lcn .. $lcn + $length - 1 } split "\n", $list // '';
	%mine = map { $_ => 1 } @clusters, @list;
}

# The first clusters from there on that are not the file's.
sub foreign {
	my ($from, $count) = @_;
	return (grep !$mine{$_}, $from .. $from + $count + @list)[0 .. $count - 1];
}

# The extent records in the order of their runs.
sub extent_of {
	my ($n) = @_;
	return (grep $_ != $base, must('ntfsinfo', '-F', '/d', $image) =~ /\$DATA .*mft record (\d+)/g)[$n];
}

# In which cluster, and how many 512 bytes behind its start, an MFT record lies.
sub place {
	my ($at) = $_[0] * 1024;
	for (@mft) {
		return (int(($_->[0] + $at) / $cluster), ($_->[0] + $at) % $cluster / 512) if $at < $_->[1];
		$at -= $_->[1];
	}
	die "MFT record $_[0] is outside\n";
}

sub on_record {
	my ($lcn, $index) = place(shift);
	return (lcns => [$lcn], index => $index, @_);
}

sub bitmap {
	my ($run) = mklog::runs($image, 6);
	return $run->[0] / $cluster;
}

sub bits {
	my ($first, $count) = @_;
	return pack 'V2', $first, $count;
}

# ---- a verdict ----

# A busy log: what all kinds of operations do to others goes before and behind.
sub busy {
	my ($log) = @_;
	my ($free) = foreign(max(@clusters) + 2, 1);
	my %r = (transaction => 0x400);
	mklog::record($log, %r, on_record($other), redo => $_, undo => $_) for 2, 5, 7, 9, 11, 19, 37;
	mklog::record($log, %r, on_record($_), redo => 9, undo => 9) for $base - 1, $base + 1 + @extents;
	mklog::record($log, %r, redo => 8, undo => 8, lcns => [$free]);
	mklog::record($log, %r, redo => 21, undo => 22, lcns => [bitmap()], map +($_ => bits($free, 1)),
		'redo_data', 'undo_data') if $cluster >= 4096;
	mklog::record($log, %r, redo => 27, undo => 1);
}

# The log around what $build adds to it; $build returns the LSN that the verdict must name.
sub planted {
	my ($build, %r) = @_;
	my $log = mklog::new(version => $r{version} // '2.0', size => 90 * 4096, lap => 7);
	mklog::restart($log);
	busy($log);
	my $lsn = $build->($log);
	busy($log);
	mklog::plant($image, mklog::stream($log, newest => 'both', %{$r{stream} // {}}), @log_runs);
	return $lsn;
}

# (exit code, verdict, reason) of the fact.
sub verdict {
	my ($status, $out, $err) = run($ntfsmap, 'check', @_, "$image:/d");
	my ($verdict, $why) = $out =~ /^(\w+) +pending-log +(.*)$/m;
	diag("check says $status:\n$out$err") if $status !~ /^[02]$/;
	return ($status, $verdict // 'no such fact', $why // '');
}

sub touches {
	my ($lsn) = @_;
	my (undef, $out) = run($ntfsmap, 'log', '--json', "$image:/d");
	my $json = eval { JSON::PP->new->decode($out) } or return 'no JSON';
	my ($r) = grep hex $_->{lsn} == $lsn, @{$json->{records}};
	return join ', ', $r ? @{$r->{touches}} : "no record $lsn";
}

# hits NAME, WHAT, BUILD: refused for what the record touches, which `log` says too
sub hits {
	my ($name, $what, $build, %r) = @_;
	my $lsn = planted($build, %r);
	my ($status, $verdict, $why) = verdict();
	is("$status $verdict", '2 refuse', "$name: refused");
	like($why, qr/LSN 0x${\ sprintf '%x', $lsn}\b.* \Q$what\E.*shut it down/, "$name: why");
	like(touches($lsn), qr/\Q$what\E/, "$name: log says it");
}

sub misses {
	my ($name, $build, %r) = @_;
	my $lsn = planted($build, %r);
	my ($status, $verdict, $why) = verdict();
	is("$status $verdict", '0 ok', "$name: accepted") || diag($why);
	is(touches($lsn), '', "$name: log says nothing of it") if $lsn && !$r{touching};
}

# Something in the log says that nobody can know.
sub refused {
	my ($name, $because, $build, %r) = @_;
	planted($build, %r);
	my ($status, $verdict, $why) = verdict();
	is("$status $verdict", '2 refuse', "$name: refused");
	like($why, $because, "$name: why");
}

sub one {
	my @r = @_;
	return sub { mklog::record($_[0], @r) };
}

# ---- rules ----

my %on_mft = map { $_ => 1 } 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 17, 19, 33, 35, 37;

sub operations {
	for my $op (0 .. 37) {
		for (['redo', redo => $op, undo => 0], ['undo', redo => 0, undo => $op]) {
			my ($as, @r) = @$_;
			my $record = one(on_record($base), @r);
			$on_mft{$op} ? hits("operation $op as $as", "MFT record $base", $record) :
				misses("operation $op as $as", $record);
		}
	}
	for my $op (38, 39, 255, 0xffff) {
		refused("operation $op as redo", qr/operation $op\b/, one(on_record($other), redo => $op));
		refused("operation $op as undo", qr/operation $op\b/, one(on_record($other), undo => $op));
	}
	refused('an unknown operation after others', qr/operation 77\b/, sub {
		mklog::record($_[0], on_record($other), redo => 9);
		mklog::record($_[0], redo => 77);
	});
}

sub records {
	my ($what) = @_;
	hits("$what, record $_", "MFT record $_", one(on_record($_), redo => 9, undo => 9)) for $base, @extents;
	misses("$what, record $_", one(on_record($_), redo => 9, undo => 9))
		for $base - 1, max(@extents) + 1, $other, 0;
	my ($lcn, $index) = place($base);
	my ($free) = foreign(max(@clusters) + 2, 1);
	misses("$what, a cluster elsewhere", one(lcns => [$free], index => $index, redo => 9));
	misses("$what, the record in the second place of the list",
		one(lcns => [$free, $lcn], index => $index, redo => 9));
	misses("$what, without clusters", one(redo => 9, index => $index, vcn => $base));
	misses("$what, impossible clusters", one(redo => 9, lcns => [-1], index => $index));
	misses("$what, huge clusters", one(redo => 9, lcns => [1 << 50], index => $index));
	my $bytes = mklog::client_data(on_record($base), redo => 9);
	misses("$what, a restart record with such bytes", sub { mklog::append($_[0], $bytes, type => 2) });
}

# Pages of 4096 bytes hold several records then, and a record names all of the page's clusters.
sub pages {
	my ($lcn) = place($base & ~3);
	my @page = map $lcn + $_, 0 .. 4096 / $cluster - 1;
	for (0 .. 3) {
		my $record = ($base & ~3) + $_;
		my $event = one(lcns => \@page, index => 2 * $_, redo => 9);
		grep($_ == $record, $base, @extents) ? hits("record $_ of a page", "MFT record $record", $event) :
			misses("record $_ of a page", $event);
	}
}

sub file_clusters {
	my ($what) = @_;
	my ($first, $last) = (min(@clusters), max(@clusters));
	for my $lcn ($first, $last, @clusters[0, 1, -1], $clusters[@clusters / 2]) {
		hits("$what, cluster $lcn", 'its clusters', one(redo => 8, undo => 8, lcns => [$lcn]));
	}
	for my $lcn (grep !$mine{$_}, $first - 1, $last + 1, 0) {
		misses("$what, cluster $lcn", one(redo => 8, undo => 8, lcns => [$lcn]));
	}
	my ($gap) = grep !$mine{$_} && $mine{$_ - 1} && $mine{$_ + 1}, $first .. $last;
	misses("$what, between two of its clusters", one(redo => 8, lcns => [$gap])) if defined $gap;
	hits("$what, the second of a list", 'its clusters', one(redo => 8, lcns => [$last + 1, $first]));
	hits("$what, the last of a long list", 'its clusters', one(redo => 8, lcns => [foreign($last, 30), $last]));
	misses("$what, a long list", one(redo => 8, lcns => [foreign($last, 31)]));
	hits("$what, by operation $_", 'its clusters', one(redo => $_, lcns => [$first])) for 0, 10, 14, 20, 28, 36;
	hits("$what, its attribute list, cluster $_", 'its attribute list', one(redo => 8, lcns => [$_])) for @list;
	misses("$what, behind its attribute list", one(redo => 8, lcns => [max(@list) + 1])) if !$mine{max(@list) + 1};
}

sub file_bits {
	my ($what) = @_;
	my $per = $cluster * 8;
	my ($first) = grep !$mine{$_ - 1}, min(@clusters);
	my $last = max(@clusters);
	my $at = sub { # in the cluster of $Bitmap that has the bit of cluster $lcn
		my ($op, $lcn, $count) = @_;
		my $data = bits($lcn % $per, $count);
		my @bitmap = (lcns => [bitmap() + int($lcn / $per)], vcn => int $lcn / $per);
		return one(redo => $op, undo => 43 - $op, redo_data => $data, undo_data => $data, @bitmap);
	};
	for my $op (21, 22) {
		hits("$what, operation $op, the first cluster", 'its bits in $Bitmap', $at->($op, $first, 1));
		hits("$what, operation $op, the last cluster", 'its bits in $Bitmap', $at->($op, $last, 1));
		hits("$what, operation $op, up to the first", 'its bits in $Bitmap', $at->($op, $first - 9, 10));
		hits("$what, operation $op, from the last on", 'its bits in $Bitmap', $at->($op, $last, 100));
		misses("$what, operation $op, up to the one before", $at->($op, $first - 9, 9));
		misses("$what, operation $op, from the next on", $at->($op, $last + 1, 100))
			if !grep $mine{$_}, $last + 1 .. $last + 100;
		hits("$what, operation $op, all that can be", 'its bits in $Bitmap', $at->($op, 0, 0xffffffff));
		hits("$what, operation $op, its attribute list", 'its bits in $Bitmap', $at->($op, $list[0], 1));
	}
	my ($lcn, $index) = (bitmap(), int $first % $per / 4096);
	my $data = bits($first % $per, 1);
	my @where = (lcns => [$lcn + int $first / $per]);
	hits("$what, undone only", 'its bits in $Bitmap', one(@where, redo => 0, undo => 22, undo_data => $data));
	misses("$what, another operation", one(@where, redo => 8, undo => 8, redo_data => $data, undo_data => $data));
	misses("$what, another bitmap", one(lcns => [mft_bitmap()], redo => 21, undo => 22, redo_data => $data));
	hits("$what, without data", 'its bits in $Bitmap', one(@where, redo => 21));
	my $second = one(lcns => [$lcn + int $first / $per], index => $index, redo => 21,
		redo_data => bits($first % 4096, 1));
	hits("$what, in 512 bytes further on", 'its bits in $Bitmap', $second) if $cluster >= 4096;
	misses("$what, in 512 bytes much further on", one(@where, index => $index + 64, redo => 21, redo_data => $data))
		if $first + 64 * 4096 > $last;
}

sub mft_bitmap {
	my ($lcn) = must('ntfscluster', '-q', '-f', '-I', 0, $image) =~ /0xb0 - non-resident\n.*\n\s+0\s+(\d+)/;
	return $lcn;
}

# What the MFT record says that it has is not done again, if the transaction has ended.
sub transactions {
	my $lsn_of = sub { f('lsn', '/d', $_[0], $_[1] // ()) };
	my $change = sub { mklog::record($_[0], on_record($base), redo => 9, undo => 9, transaction => $_[1]) };
	my $end = sub { mklog::record($_[0], redo => 27, undo => 1, transaction => $_[1]) };
	my $forgotten = sub { my $lsn = $change->($_[0], 0x18); $end->($_[0], 0x18); return $lsn };
	my $lsn = planted($forgotten);
	my @accepted = (touching => 1);
	$lsn_of->($lsn - 1);
	hits('ended, but newer than the record', "MFT record $base", $forgotten);
	$lsn_of->($lsn);
	misses('ended, and in the record', $forgotten, @accepted);
	$lsn_of->($lsn + 1000000);
	misses('ended, and long in the record', $forgotten, @accepted);
	hits('not ended', "MFT record $base", sub { $change->($_[0], 0x18) });
	hits('another transaction ended', "MFT record $base", sub {
		my $r = $change->($_[0], 0x18);
		$end->($_[0], 0x40);
		$r;
	});
	hits('ended before', "MFT record $base", sub { $end->($_[0], 0x18); $change->($_[0], 0x18) });
	hits('committed only', "MFT record $base", sub {
		my $r = $change->($_[0], 0x18);
		mklog::record($_[0], redo => 26, undo => 1, transaction => 0x18);
		$r;
	});
	hits('27 as what undoes', "MFT record $base", sub {
		my $r = $change->($_[0], 0x18);
		mklog::record($_[0], redo => 1, undo => 27, transaction => 0x18);
		$r;
	});
	hits('the slot used again', "MFT record $base", sub { $forgotten->($_[0]); $change->($_[0], 0x18) });
	misses('the slot used again and ended again', sub { $forgotten->($_[0]); $forgotten->($_[0]) }, @accepted);
	misses('the slot used again by others', sub {
		my $r = $forgotten->($_[0]);
		mklog::record($_[0], on_record($other), redo => 9, transaction => 0x18);
		$r;
	}, @accepted);
	hits('ended, but it touches clusters too', 'its clusters', sub {
		my ($lcn, $index) = place($base);
		my $r = mklog::record($_[0], lcns => [$lcn, $clusters[0]], index => $index, redo => 9,
			transaction => 0x18);
		$end->($_[0], 0x18);
		$r;
	});
	my $extent = extent_of(0);
	my $in_extent = sub {
		my $r = mklog::record($_[0], on_record($extent), redo => 9, transaction => 0x18);
		$end->($_[0], 0x18);
		$r;
	};
	hits('an extent record whose own LSN is older', "MFT record $extent", $in_extent);
	f('lsn', '/d', 0);
	f('lsn', '/d', $lsn + 1000000, 'extent=0');
	misses('an extent record with its own LSN', $in_extent, @accepted);
	hits('the base record does not have it', "MFT record $base", $forgotten);
	f('lsn', '/d', 0, 'extent=0');
}

# Which records count, by where they are in the log.
sub pending {
	my ($version) = @_;
	my $hit = one(on_record($base), redo => 9, undo => 9);
	my $lsn = planted($hit, version => $version); # the same in what follows
	hits("$version, the first pending record", "MFT record $base", $hit, version => $version,
		stream => {oldest => $lsn});
	hits("$version, the last that the restart page knows", "MFT record $base", $hit, version => $version,
		stream => {current => $lsn});
	my ($free) = foreign(max(@clusters) + 2, 1);
	hits("$version, behind it", "MFT record $base", sub {
		mklog::record($_[0], redo => 8, lcns => [$free]);
		$hit->($_[0]);
	}, version => $version, stream => {current => $lsn});
	misses("$version, before the oldest one", $hit, version => $version, touching => 1,
		stream => {oldest => $lsn + (0x30 + 0x28) / 8});
	my $log = mklog::new(version => $version, size => 90 * 4096);
	mklog::fill_to($log, $log->{ring} + 2, 0x400, redo => 8, lcns => [$free]);
	$hit->($log) for 1 .. 200;
	mklog::fill_to($log, $log->{pages} - 1, 0x400, redo => 8, lcns => [$free]);
	my $oldest = mklog::restart($log);
	mklog::fill_to($log, $log->{ring} + 2, 0x400, redo => 8, lcns => [$free]);
	mklog::record($log, redo => 8, lcns => [$free]);
	mklog::plant($image, mklog::stream($log, oldest => $oldest, stale => 1), @log_runs);
	is(join(' ', (verdict())[0, 1]), '0 ok', "$version, records of the lap before, behind the end");
}

# What the restart pages say of the whole.
sub states {
	my $hit = one(on_record($base), redo => 9, undo => 9);
	my %clean = (version => '1.1', touching => 1);
	hits('1.1, in use', "MFT record $base", $hit, version => '1.1');
	misses('1.1, dismounted', $hit, %clean, stream => {clean => 1});
	misses('1.1, nobody has it open', $hit, %clean, stream => {in_use => 0});
	hits('2.0, the flag means nothing', "MFT record $base", $hit, stream => {clean => 1});
	misses('1.1, dismounted, and cannot be followed', $hit, %clean, stream => {clean => 1, current => 1 << 40});
	refused('1.1, cannot be followed', qr/cannot be followed/, one(redo => 0), version => '1.1',
		stream => {current => 1 << 40});
	refused('2.0, cannot be followed', qr/cannot be followed/, one(redo => 0), stream => {oldest => 1 << 40});
	refused("version $_", qr/version/, one(redo => 0), stream => {major => $_, minor => 0, clean => 1})
		for 0, 3, 0xffff;
	my $log = mklog::new(version => '2.0', size => 90 * 4096);
	busy($log) for 1 .. 20;
	for (['a torn page', 35 * 4096 + 1022, 'XX'], ['zeros', 35 * 4096, "\0" x 4096],
		['no restart page', 0, "\0" x 8192]) {
		my ($name, $at, $bytes) = @$_;
		my $stream = mklog::stream($log);
		substr($stream, $at, length $bytes) = $bytes;
		mklog::plant($image, $stream, @log_runs);
		my ($status, $verdict, $why) = verdict();
		is("$status $verdict", '2 refuse', "$name: refused");
		like($why, qr/cannot be followed.*shut it down/, "$name: why");
	}
	mklog::plant($image, "\xff" x (90 * 4096), @log_runs);
	is(join(' ', (verdict())[0, 1]), '0 ok', 'a log that was reset');
}

# Every verb refuses; one word lifts it, and --readonly makes a warning of it.
sub verbs {
	planted(one(on_record($base), redo => 9, undo => 9));
	my ($status, $out, $err) = run($ntfsmap, 'table', "$image:/d");
	is($status, 2, 'table: exit 2');
	like($out, qr/^refused: .*LSN 0x[0-9a-f]+.*\n\z/, 'table: nothing that makes a device');
	like($err, qr/UpdateMappingPairs.*--allow=pending-log/s, 'table: the operation, and the word');
	is((run($ntfsmap, 'table', '--allow=pending-log', "$image:/d"))[0], 0, 'table: --allow=pending-log');
	is((run($ntfsmap, 'table', '--allow=hiberfile', "$image:/d"))[0], 2, 'table: another word lifts nothing');
	is((run($ntfsmap, 'table', '--readonly', '--concise', 'd', "$image:/d"))[0], 0, 'table: --readonly');
	is(join(' ', (verdict('--allow=pending-log'))[0, 1]), '0 warn', 'check: --allow=pending-log');
	is(join(' ', (verdict('--readonly'))[0, 1]), '0 warn', 'check: --readonly');
	is((run($ntfsmap, 'check', "$image:/other"))[0], 2, 'another file that the busy log touches');
	is((run($ntfsmap, 'check', "$image:/before1"))[0], 0, 'another file that it does not');
	($status, $out) = run($ntfsmap, 'log', "$image:/d");
	is($status, 0, 'log: exit 0 all the same');
	like($out, qr/ UpdateMappingPairs .*MFT record $base\n/, 'log: what it touches');
	like($out, qr/of which 1 touch\w* \S*:\/d\n\z/, 'log: how many touch it');
}

volume(4096, 64, '8M');
ok(@mft > 1 && @extents > 2 && @list, 'an MFT in pieces, extent records, an attribute list with clusters');
records('4096');
operations();
file_clusters('4096');
file_bits('4096');
transactions();
pending($_) for '1.1', '2.0';
states();
verbs();
volume(512, 32, '2M');
ok(@extents > 2 && @list, 'clusters of 512: the same');
records('512');
pages();
file_clusters('512');
file_bits('512');
volume(65536, 512, '120M');
ok(@extents > 2 && @list, 'clusters of 65536: the same');
records('65536');
file_clusters('65536');
file_bits('65536');
done_testing();
