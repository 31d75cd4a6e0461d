#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The pass over the MFT: whoever else has a cluster of the file is found and named, as ntfscluster names it; nobody is
# accused; a record that cannot be read is told; nothing that is in a record harms.
#
# A claim is planted by telling $Bitmap that somebody's cluster is free and putting a file there (ntfsforge, from=LCN), or
# by writing into the MFT.
use strict;
use warnings;
use Fcntl qw(SEEK_SET);
use FindBin;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
our ($top, $T, $ntfsmap, $seed);
my $forge = "$top/build/tests/ntfsforge";
my $img = "$T/volume.img";
need(qw(mkntfs ntfscat ntfscluster ntfsinfo ntfsresize), $forge, $ntfsmap);

# ---- the volume ----

sub volume {
	my ($size, @options) = @_;
	unlink $img;
	spew($img, '');
	truncate $img, $size << 20;
	must(qw(mkntfs -q -F -Q), @options, $img);
}

sub f { return must($forge, $img, @_) }

# [LCN, length] of an attribute, by ntfscluster: of a path, or of a record's number.
sub runs_of {
	my ($what, $type) = @_;
	my $found = '';
	my @runs;
	for (split "\n", must('ntfscluster', '-q', $what =~ m{^/} ? '-F' : '-I', $what, $img)) {
		$found = hex $1 if /^ *0x([0-9a-f]+) /;
		push @runs, [$1, $2] if $found eq $type && /^ *\d+ +(\d+) +(\d+)$/;
	}
	return @runs;
}

sub lcn_of {
	my ($what, $type) = @_;
	my ($first) = runs_of($what, $type // 0x80) or BAIL_OUT("$what has no clusters");
	return $first->[0];
}

# A file on clusters that somebody has.
sub plant {
	my ($path, $lcn, $clusters) = @_;
	f('bitmap', 'clear', $lcn, $clusters // 1);
	f('file', $path, ($clusters // 1) * 4096, "from=$lcn", 'fill=none');
}

sub number_of { return (split ' ', f('ref', shift))[0] }

# Where a record is in the image.
sub place_of {
	my ($number) = @_;
	my $left = $number * 1024;
	for (runs_of(0, 0x80)) {
		return $_->[0] * 4096 + $left if $left < $_->[1] * 4096;
		$left -= $_->[1] * 4096;
	}
	BAIL_OUT("there is no MFT record $number");
}

sub patch {
	my ($at, $bytes) = @_;
	open my $file, '+<:raw', $img or die "$img: $!";
	sysseek $file, $at, SEEK_SET;
	syswrite($file, $bytes) == length $bytes or die "$img: $!";
}

sub bytes_at {
	my ($at, $length) = @_;
	my $bytes;
	open my $file, '<:raw', $img or die "$img: $!";
	sysseek $file, $at, SEEK_SET;
	sysread $file, $bytes, $length;
	return $bytes;
}

# The number of a record that is free, and was used.
sub free_record {
	f('empty', '/slot');
	my $number = number_of('/slot');
	f('remove', '/slot');
	return $number;
}

# Where the first attribute of a type begins in the record, and the record's place.
sub attribute_of {
	my ($number, $type) = @_;
	my $record = place_of($number);
	my $at = $record + unpack 'v', bytes_at($record + 20, 2);
	while (1) {
		my ($is, $length) = unpack 'VV', bytes_at($at, 8);
		last if $is == 0xffffffff;
		return ($at, $record) if $is == $type;
		$at += $length;
	}
	BAIL_OUT("record $number has no attribute $type");
}

# ---- what is said ----

sub owners {
	my ($path, @options) = @_;
	my ($status, $out) = run($ntfsmap, 'check', @options, "$img:$path");
	my ($fact) = $out =~ /^(\w+ +owners .*)$/m;
	return ($status, $fact // "no such fact: $out");
}

sub accepted {
	my ($path, $name, @options) = @_;
	my ($status, $fact) = owners($path, @options);
	is($status, 0, "$name: accepted") or diag($fact);
	like($fact, qr/^ok +owners +no other record of the MFT claims one of its clusters \(\d+ records\)$/, '  proven');
}

# Refused, and in words of the oracle too: ntfscluster lists those that have this cluster.
sub claimed {
	my ($path, $number, $attribute, $name) = @_;
	my ($status, $fact) = owners($path);
	is($status, 2, "$name: refused") or diag($fact);
	like($fact, qr/^refuse +owners +its LCN \d+ also belongs to MFT record $number \(.*\Q$attribute\E of /, '  named');
	my ($lcn) = $fact =~ /LCN (\d+)/ or return;
	like(must('ntfscluster', '-c', $lcn, $img), qr/^Inode $number \S*\Q@{[$attribute =~ s{ .*}{}r]}\E/m,
		'  as ntfscluster does');
	my ($table, $out, $err) = run($ntfsmap, "$img:$path");
	is($table, 2, '  no table');
	like($err, qr/MFT record $number .*chkdsk/, '  and why');
}

sub damaged {
	my ($path, $number, $why, $name) = @_;
	my ($status, $fact) = owners($path);
	is($status, 6, "$name: damaged") or diag($fact);
	like($fact, qr/^damaged +owners +MFT record $number is in use and cannot be read.*$why.*chkdsk/, '  named, and why');
}

# ---- nobody else ----

volume(64);
f('file', '/d', '9M', qw(runs=900 order=shuffle seed=5 fill=none));
f('stream', '/d', 'side', '1M', 'runs=200', 'fill=none');
f('many', '/many', 300);
f('mkdir', '/dir');
f('sparse', '/sparse', '1M');
f('compressed', '/compressed', '1M');
my $mft = must('ntfscat', '-i', 0, $img);
my @in_use = grep { substr($mft, $_ * 1024, 4) eq 'FILE' && ord(substr $mft, $_ * 1024 + 22) & 1 }
	0 .. length($mft) / 1024 - 1;
like((owners('/d'))[1], qr/\(${\ scalar @in_use} records\)/, 'every record in use is looked at');
accepted('/d', 'a file with an attribute list and extent records');
accepted('/d:side', 'its stream');
accepted('/many/00000007', 'one file of many');
volume(64, '-c', 4096);
f('badclus', 9000, 3);
f('file', '/d', '1M', 'runs=50');
accepted('/d', 'holes and other clusters of $BadClus');

# ---- cross-links ----

volume(64);
f('file', '/d', '1M', 'runs=4');
f('file', '/e', '1M', 'runs=4');
f('corrupt-run', '/e', 'overlap', 'run=2', 'with=/d');
claimed('/d', number_of('/e'), '$DATA', 'another file');
claimed('/e', number_of('/d'), '$DATA', 'and the other way round');
like((run($ntfsmap, 'check', "$img:/d"))[1], qr/bitmap +\$Bitmap marks all/, 'which $Bitmap does not tell');
isnt((run(qw(ntfsresize --info -f -f), $img))[0], 0, 'ntfsresize finds it too');

# The first run at its very end, the last one at its very beginning: the edges of the search.
volume(64);
f('file', '/d', '40K', qw(runs=3 gap=5 from=12000 fill=none));
my @runs = runs_of('/d', 0x80);
my ($low, $high) = ($runs[0][0], $runs[-1][0] + $runs[-1][1] - 1);
for my $lcn ($low, $high, $runs[1][0], $runs[1][0] + $runs[1][1] - 1) {
	plant('/x', $lcn);
	claimed('/d', number_of('/x'), '$DATA', "its cluster $lcn");
	f('remove', '/x');
	f('bitmap', 'set', $lcn, 1);
}
f('file', "/at$_", 4096, "from=$_", 'fill=none') for $low - 1, $high + 1, $runs[0][0] + $runs[0][1], $runs[2][0] - 1;
accepted('/d', 'neighbours on both sides');

# Clusters and MFT records of other sizes.
for (['512', '512', 32], ['65536', '512', 256], ['4096', '4096', 64], ['2097152', '4096', 2048]) {
	my ($cluster, $sector, $size) = @$_;
	volume($size, '-c', $cluster, '-s', $sector);
	f('file', $_, 4 * $cluster, 'runs=3', 'fill=none') for '/d', '/e';
	accepted('/d', "clusters of $cluster, sectors of $sector");
	f('corrupt-run', '/e', 'overlap', 'run=1', 'with=/d');
	claimed('/d', number_of('/e'), '$DATA', '  another file');
}

# Records are read 1024 at a time.
volume(64);
f('many', '/many', 2500);
f('file', '/d', '4K');
for my $number (1023, 1024, 1025, 2047, 2048) {
	my $path = sprintf '/many/%08d', $number - number_of('/many/00000000');
	f('corrupt-run', $path, 'overlap', 'with=/d');
	claimed('/d', $number, '$DATA', "MFT record $number");
	f('remove', $path);
	f('bitmap', 'set-file', '/d');
}

volume(64);
f('mkdir', '/dir');
f('empty', "/dir/a name that is so long that sixty of them do not fit into the index root $_") for 1 .. 60;
plant('/d', lcn_of('/dir', 0xa0) + 1);
claimed('/d', number_of('/dir'), '$INDEX_ALLOCATION "$I30"', 'a directory');
like((owners('/d'))[1], qr/of "dir";/, '  by its name');

volume(64);
f('empty', '/v');
f('stream', '/v', 'side', '64K');
plant('/d', lcn_of('/v') + 15);
claimed('/d', number_of('/v'), '$DATA "side"', 'a named stream');

volume(64);
f('file', '/v', '20M', qw(runs=5000 fill=none));
plant('/d', lcn_of('/v', 0x20));
claimed('/d', number_of('/v'), '$ATTRIBUTE_LIST', 'an attribute list');
f('bitmap', 'clear', lcn_of('/v', 0x20), 1);
f('stream', '/v', 'side', 4096, 'from=' . lcn_of('/v', 0x20), 'fill=none');
like((owners('/v:side'))[1], qr/MFT record \d+ \(sequence 1\), \$ATTRIBUTE_LIST of the same file; 2 attributes/,
	'and that of the file itself');
plant('/f', lcn_of('/v') + 0);
like((owners('/f'))[1], qr/\$DATA of "v"; 1 attribute in all has/, 'a run in the base record of a file with extent records');
plant('/g', (runs_of('/v', 0x80))[4000][0]);
my ($extent) = (owners('/g'))[1] =~ /MFT record (\d+)/;
isnt($extent, number_of('/v'), 'a run in an extent record');
like((owners('/g'))[1], qr/MFT record $extent .*\$DATA of "v"/, '  whose file is named');
like((run('ntfsinfo', '-F', '/v', $img))[1], qr/\$DATA .*mft record $extent /i, '  as ntfsinfo does');

volume(64);
f('file', '/d', '64K', 'fill=none');
plant('/x', lcn_of('/d') + 3);
f('remove', '/d');
my %system = (1 => '$MFTMirr', 2 => '$LogFile', 6 => '$Bitmap', 10 => '$UpCase');
for (sort keys %system) {
	plant("/s$_", lcn_of($_));
	claimed("/s$_", $_, '$DATA', $system{$_});
	like((owners("/s$_"))[1], qr/of "\Q$system{$_}\E"/, '  by its name');
}
f('bitmap', 'set-file', '/x');
accepted('/x', 'a file that shared clusters with one that is deleted');

volume(64);
f('file', '/d', '64K', 'fill=none');
f('bitmap', 'clear', lcn_of('/d') + 2, 1);
f('stream', '/d', 'side', 4096, 'from=' . (lcn_of('/d') + 2), 'fill=none');
claimed('/d', number_of('/d'), '$DATA "side"', 'its own second stream');
claimed('/d:side', number_of('/d'), '$DATA', 'and the other way round');
like((owners('/d:side'))[1], qr/of the same file/, '  told as such');

volume(64);
f('file', '/d', '64K', 'fill=none');
f('badclus', lcn_of('/d') + 1, 1);
like((owners('/d'))[1], qr/refuse .*MFT record 8 .*\$DATA "\$Bad" of "\$BadClus"/, 'a bad cluster');

# ---- records that are not what they seem ----

# /d has extent records; the number of one of them, and that of a free record.
sub with_extents {
	volume(64);
	f('file', '/d', '9M', qw(runs=900 order=shuffle seed=5 fill=none));
	f('file', '/v', '64K');
	my ($extent) = (run('ntfsinfo', '-F', '/d', $img))[1] =~ /\$DATA .*mft record (\d+)(?!.*mft record)/is;
	return ($extent, free_record());
}

my ($from, $to) = with_extents();
isnt($from, number_of('/d'), 'the file has an extent record');
my $copy = bytes_at(place_of($from), 1024);
my $was = bytes_at(place_of($to), 1024);
patch(place_of($to), $copy);
my ($status, $fact) = owners('/d');
is($status, 2, 'an orphaned extent record that says it is the file\'s: refused');
like($fact, qr/MFT record $to .*\$DATA of the file's own stream, a part that the file does not know of/, '  named');
patch(place_of($to) + 32, pack 'Vvv', number_of('/v'), 0, 1);
like((owners('/d'))[1], qr/refuse.*MFT record $to .*\$DATA of "v"/, 'an orphaned extent record of another file');
patch(place_of($to) + 32, pack 'Vvv', 23, 0, 1);
like((owners('/d'))[1], qr/refuse.*MFT record $to .*\$DATA of the file of MFT record 23/, '  of nobody');
patch(place_of($to) + 32, substr $copy, 32, 8);
patch(place_of($to) + 22, "\0\0");
accepted('/d', 'the same record, not in use');
patch(place_of($to), $was);
accepted('/d', 'without it');

# The same attribute twice in one record: the second one is no part of the stream.
volume(64);
f('file', '/d', '64K', 'fill=none');
my ($at, $record) = attribute_of(number_of('/d'), 0x80);
my $attribute = bytes_at($at, unpack 'V', bytes_at($at + 4, 4));
patch($at + length $attribute, $attribute . pack 'VV', 0xffffffff, 0);
patch($record + 24, pack 'V', $at - $record + 2 * length($attribute) + 8);
like((owners('/d'))[1], qr/refuse.*the file's own stream, a part that the file does not know of/, 'an attribute twice');

# ---- records that cannot be read ----

sub with_victim {
	volume(64);
	f('file', '/d', '1M', 'runs=10');
	f('file', '/v', '64K', qw(runs=8 order=shuffle));
	my $number = number_of('/v');
	return ($number, place_of($number), (attribute_of($number, 0x80))[0]);
}

my ($n, $r, $data) = with_victim();
patch($r, 'BAAD');
damaged('/d', $n, 'BAAD', 'a record that is marked as damaged');
patch($r, 'ABCD');
damaged('/d', $n, 'does not begin with FILE', 'no magic');
patch($r, "\0" x 1024);
accepted('/d', 'a record of zeros, which nobody has written');

($n, $r, $data) = with_victim();
patch($r + 510, '??');
damaged('/d', $n, 'fixups', 'a torn record');
patch($r + 22, "\0\0");
accepted('/d', 'one that is not in use');
f('remove', '/d');
f('file', '/e', '64K');
f('empty', '/gone');
$n = number_of('/gone');
f('remove', '/gone');
patch(place_of($n), 'BAAD');
accepted('/e', 'a damaged record that $MFT calls free');

my %fields = (
	'an attribute without length' => [4, pack('V', 0), 'runs out of it'],
	'an attribute that is too long' => [4, pack('V', 0x10000), 'runs out of it'],
	'mapping pairs in the header' => [32, pack('v', 8), 'outside of it'],
	'mapping pairs behind the attribute' => [32, pack('v', 0x4000), 'outside of it'],
	'a name behind the attribute' => [9, pack('Cv', 200, 64), 'name of an attribute'],
	'a run without a length' => [64, "\x10", 'cannot be decoded'],
	'a run of 15 bytes' => [64, "\x1f", 'cannot be decoded'],
	'a run of negative length' => [64, "\x11\xff\x01\0", 'impossible length'],
	'a negative LCN' => [64, "\x11\x10\x80\0", 'impossible LCN'],
	'an LCN of 2^62' => [64, "\x81\x10" . pack('q<', 1 << 62) . "\x81\x01" . pack('q<', 1 << 62) . "\0", 'LCN'],
	'a wrong last VCN' => [24, pack('q<', 14), 'do not end where'],
	'a negative first VCN' => [16, pack('q<', -1), 'negative VCN'],
);
for (sort keys %fields) {
	my ($offset, $bytes, $why) = @{$fields{$_}};
	($n, $r, $data) = with_victim();
	patch($data + $offset, $bytes);
	damaged('/d', $n, $why, $_);
}
($n, $r, $data) = with_victim();
patch($r + 24, pack 'V', 1032);
damaged('/d', $n, 'longer than it is', 'a record that is too long');
patch($r + 24, pack 'V', $data - $r);
damaged('/d', $n, 'have no end', 'attributes without an end');
patch($r + 20, pack 'v', 1020);
damaged('/d', $n, 'begin outside', 'attributes that begin behind the end');
f('corrupt-run', '/d', 'overlap', 'run=3', 'with=/d');
is((owners('/d'))[0], 6, 'a file whose own runs are bad is refused before');

# A claim says more than a record that cannot be read.
($n, $r, $data) = with_victim();
f('file', '/e', '4K');
f('corrupt-run', '/e', 'overlap', 'with=/d');
patch($r, 'BAAD');
is((owners('/d'))[0], 2, 'a claim, and a damaged record: the claim');

# ---- what is left out ----

volume(64);
f('file', '/d', '64K');
f('file', "/e\e[31m", '4K');
f('corrupt-run', "/e\e[31m", 'overlap', 'with=/d');
unlike((owners('/d'))[1], qr/\e/, 'no escape sequence reaches the terminal');
($status, $fact) = owners('/d', '--quick');
is($status, 0, '--quick: accepted');
like($fact, qr/^warn +owners +not looked at \(--quick\)/, '  with a warning');
my ($table, $out, $err) = run($ntfsmap, '--quick', "$img:/d");
is($table, 0, '  a table');
like($err, qr/not looked at \(--quick\)/, '  that warns, too');
is((run($ntfsmap, 'open', '--test', '--quick', "$img:/d", 'd'))[0], 0, '  open');
is((run($ntfsmap, 'open', '--test', "$img:/d", 'd'))[0], 2, '  which is refused without');
($status, $fact) = owners('/d', '--readonly');
is($status, 0, '--readonly: accepted');
like($fact, qr/^ok +owners +not looked at, as nothing will be written/, '  and told');
is((run($ntfsmap, 'info', '--quick', "$img:/d"))[0], 1, 'info has no --quick');
like((run($ntfsmap, 'reload', '--help'))[1], qr/--quick/, 'reload has');

# ---- random cross-links, against ntfsresize and ntfscluster ----

srand $seed;
my $wrong = 0;
for my $case (1 .. 12) {
	volume(64);
	my %runs = map { $_ => 1 + int rand 400 } qw(/a /b /c);
	f('file', $_, '2M', "runs=$runs{$_}", 'order=shuffle', "seed=$case", 'fill=none') for sort keys %runs;
	my ($x, $y) = sort { $a->[1] <=> $b->[1] } map [$_, rand], keys %runs;
	f('corrupt-run', $x->[0], 'overlap', 'run=' . int rand $runs{$x->[0]}, "with=$y->[0]") if $case % 4;
	my $sound = !(run(qw(ntfsresize --info -f -f), $img))[0];
	for my $path (sort keys %runs) {
		my ($status, $fact) = owners($path);
		my ($lcn) = $fact =~ /LCN (\d+)/;
		my $linked = $case % 4 && ($path eq $x->[0] || $path eq $y->[0]);
		my $users = $lcn ? () = must('ntfscluster', '-c', $lcn, $img) =~ /^Inode/mg : 0;
		# a run of three clusters on one of two has others' on both sides: more may be linked than was meant
		next if $linked ? $status == 2 && !$sound && $users > 1 : $sound ? $status == 0 : $status == 0 || $users > 1;
		diag("case $case of seed $seed: $path: $fact");
		$wrong++;
	}
}
is($wrong, 0, "random cross-links of seed $seed");

# ---- progress ----

SKIP: {
	skip 'strace or script is not installed', 2 if !have('strace') || !have('script');
	volume(64);
	f('many', '/many', 3000);
	my $path = "$img:/many/00000000";
	my ($traced) = run('strace', '-o', "$T/reads", '-e', 'trace=pread64', $ntfsmap, 'check', $path);
	my ($before) = slurp("$T/reads") =~ /\A(.*?)^pread64\([^\n]*, 1048576, /ms;
	skip 'strace cannot trace here', 2 if $traced || !defined $before;
	my $first = 1 + ($before =~ tr/\n//);
	my $slow = "strace -o /dev/null -e inject=pread64:delay_exit=700000:when=$first.." . ($first + 2);
	run('script', '-qec', "$slow '$ntfsmap' check '$path' >'$T/checked'", "$T/typescript");
	my $said = slurp("$T/typescript");
	like($said, qr/\rlooking for others that have its clusters: +\d+ %/, 'what takes long shows how far it is');
	like($said, qr/\r {30,}\r(?!.*%)/s, '  and nothing in the end');
}

# ---- any bytes in the MFT ----

sub hostile {
	my ($name, $program, $count) = @_;
	my @places = map place_of($_), 4 .. 11, 24 .. 75;
	my %seen;
	for my $case (1 .. $count) {
		srand $seed * 1000 + $case;
		my @undo;
		for (1 .. 1 + rand 4) {
			my $at = pick(@places) + 4 + int rand 500;
			my $new = join '', map chr pick(0, 0x80, 0xff, int rand 256), 1 .. pick(1, 1, 2, 4, 8);
			unshift @undo, [$at, bytes_at($at, length $new)];
			patch($at, $new);
		}
		my ($status) = run($program, 'check', "$img:/d");
		$seen{$status}++;
		diag("case $case of seed $seed ended by $status:", slurp("$T/err")) if $status !~ /^[02467]$/;
		patch(@$_) for @undo;
	}
	is(join(' ', grep !/^[02467]$/, sort keys %seen), '', "$name: $count mutations (exit codes: " .
		join(', ', map "$seen{$_} x $_", sort keys %seen) . ')');
}

volume(16);
f('file', '/d', '4M', qw(runs=700 order=shuffle seed=1 fill=none));
f('mkdir', '/dir');
f('file', "/dir/$_", '64K', 'runs=9') for 1 .. 9;
f('many', '/many', 30);
hostile('the MFT', $ntfsmap, 300);
my ($why, $asan) = sanitised('bin/ntfsmap');
SKIP: {
	skip $why, 1 if !$asan;
	hostile('the MFT, sanitised', $asan, 300);
}
done_testing();
