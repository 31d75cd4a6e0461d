#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Writing qcow2 and qcow through libvdisk: random histories of writes, zeros, discards, flushes and reopenings over
# images that qemu-img and qemu-io made, of every kind that the options of qemu-img can make. Then qemu-img finds no
# error and no leak, qemu reads what the history says, snapshots and backing files have not changed, and qemu can go on
# writing. The room in the file is what `truncate` put behind its last cluster.
#
#   TEST_SEED=7 tests/qcow-write.t   other histories
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Temp (); # its END comes after ours
use FindBin;
use JSON::PP qw(decode_json);
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/vdiskio.pl";
our ($top, $T, $seed, $vdiskio);
need($vdiskio, 'qemu-img', 'qemu-io', 'cmp', 'truncate');
chdir $T or die "$T: $!";
note("seed $seed");

use constant {SECTOR => 512, KIB => 1024, MIB => 1024 * 1024};

sub made { must('qemu-img', 'create', '-q', '-f', @_) }

sub io {
	my ($image, @commands) = @_;
	return must('qemu-io', '-f', $image =~ /\.qcow$/ ? 'qcow' : 'qcow2', (map { ('-c', $_) } @commands), $image);
}

sub raw_of {
	my ($image, @options) = @_;
	must('qemu-img', 'convert', '-O', 'raw', @options, $image, 'theirs.raw');
	return slurp('theirs.raw');
}

# What qemu-img check says: [errors, leaks].
sub verdict {
	my ($image) = @_;
	my ($status, $out) = run('qemu-img', 'check', '--output=json', $image);
	return ['?', $status] if $status !~ /^[023]$/;
	my $c = decode_json($out);
	return [($c->{corruptions} // 0) + ($c->{'check-errors'} // 0), $c->{leaks} // 0];
}

# [offset, clusters] of the refcount table, from the header.
sub refcount_table {
	my ($image) = @_;
	return [unpack 'x48 Q> N', slurp_some($image, 0, 64)];
}

sub slurp_some {
	my ($path, $offset, $length) = @_;
	open my $file, '<:raw', $path or die "$path: $!";
	seek $file, $offset, 0;
	read $file, my ($bytes), $length;
	return $bytes;
}

# ---- making images ----

# Data, zeros and holes from qemu itself, a few clusters each.
sub fill {
	my ($image, $size, $v3) = @_;
	my @commands;
	for my $n (1 .. 12) {
		my $at = int(rand($size / SECTOR)) * SECTOR;
		my $length = (1 + int rand 200) * SECTOR;
		$length = $size - $at if $length > $size - $at;
		push @commands, $n % 4 == 3 && $v3 ? "write -z $at $length" : "write -P $n $at $length";
	}
	io($image, @commands);
}

sub compress_some {
	my ($image, $size, $cluster) = @_;
	for my $n (1 .. 6) {
		my $at = int(rand($size / $cluster - 1)) * $cluster;
		run('qemu-io', '-c', "write -c -P ${\ (100 + $n)} $at $cluster", $image); # refused where there is data
	}
}

# make(KIND): an image with room, as a hash.
sub make {
	my ($kind) = @_;
	my $size = $kind->{size} // 4 * MIB;
	my $image = $kind->{qcow1} ? 'a.qcow' : 'a.qcow2';
	my ($format, $cluster) = ($kind->{qcow1} ? 'qcow' : 'qcow2', $kind->{cluster} // 65536);
	my @options = map { ('-o', $_) } @{$kind->{options} // []};
	unlink glob '*.qcow* *.raw *.data';
	push @options, '-o', "cluster_size=$cluster" if !$kind->{qcow1};
	if ($kind->{backing}) {
		my ($of, $bytes) = @{$kind->{backing}};
		made($of, "base.$of.raw", $bytes);
		must('qemu-io', '-f', $of, '-c', "write -P 201 0 ${\ int($bytes / 2)}", '-c', "write -P 202 ${\ ($bytes - 65536)} 65536",
			"base.$of.raw");
		push @options, '-b', "base.$of.raw", '-F', $of;
	}
	made($format, @options, $image, $size);
	if ($kind->{compressed}) {
		compress_some($image, $size, $cluster);
	}
	fill($image, $size, $kind->{v3} // 1) if !$kind->{empty};
	if ($kind->{snapshot}) {
		must('qemu-img', 'snapshot', '-c', 'first', $image);
		fill($image, $size, 1) if $kind->{snapshot} > 1;
	}
	must('qemu-img', 'bitmap', '--add', $image, 'b0') if $kind->{bitmap};
	$kind->{table} = refcount_table($image);
	my $room = $kind->{room} // 2 * $size;
	must('truncate', '-s', "+$room", $image);
	return {image => $image, size => $size, cluster => $cluster, kind => $kind, disk => raw_of($image), wrong => []};
}

# ---- histories ----

sub wrong {
	my ($h, $what) = @_;
	push @{$h->{wrong}}, "step $h->{step}: $what";
}

sub now {
	my ($h, $offset, $length) = @_;
	return pack 'H*', ask($h->{io}, "read $offset $length");
}

# Each sector is one or the other.
sub either {
	my ($h, $offset, $length, $new, $why) = @_;
	my $now = now($h, $offset, $length);
	for (my $at = 0; $at < $length; $at += SECTOR) {
		my $sector = substr $now, $at, SECTOR;
		next if $sector eq substr($new, $at, SECTOR) || $sector eq substr $h->{disk}, $offset + $at, SECTOR;
		return wrong($h, "$why: something else at ${\ ($offset + $at)}");
	}
	substr($h->{disk}, $offset, $length) = $now;
}

sub step_write {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "write $offset $length $h->{step}");
	my $new = payload($offset, $length, $h->{step});
	if ($answer eq 'ok') {
		substr($h->{disk}, $offset, $length) = $new;
	} elsif ($answer eq 'error ENOSPC') {
		$h->{full}++;
		either($h, $offset, $length, $new, 'no room');
	} else {
		wrong($h, "write $offset $length: $answer");
	}
}

sub step_zero {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "zero $offset $length");
	if ($answer eq 'ok') {
		substr($h->{disk}, $offset, $length) = "\0" x $length;
	} elsif ($answer eq 'error ENOSPC') {
		$h->{full}++;
		either($h, $offset, $length, "\0" x $length, 'no room');
	} else {
		wrong($h, "zero $offset $length: $answer");
	}
}

sub step_discard {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "discard $offset $length");
	wrong($h, "discard $offset $length: $answer") if $answer ne 'ok';
	either($h, $offset, $length, "\0" x $length, 'discarded');
}

sub step_read {
	my ($h, $offset, $length) = @_;
	wrong($h, "read $offset $length") if now($h, $offset, $length) ne substr $h->{disk}, $offset, $length;
}

sub range {
	my ($h) = @_;
	my ($cluster, $size) = @$h{qw(cluster size)};
	my $at = int(rand($size / SECTOR)) * SECTOR;
	my $length = (1 + int rand(2 * $cluster / SECTOR + 8)) * SECTOR;
	if (rand() < 0.4) { # whole clusters
		$at -= $at % $cluster;
		$length = $cluster * (1 + int rand 4);
	}
	$length = $size - $at if $length > $size - $at;
	return ($at, $length);
}

# After it the shortcuts of the hot path say what the tables say.
sub step_flush {
	my ($h) = @_;
	wrong($h, 'flush') if ask($h->{io}, 'flush') ne 'ok';
	my $answer = ask($h->{io}, 'shortcuts');
	wrong($h, "shortcuts: $answer") if $answer !~ /^(\d+) of \1$/;
}

sub one_step {
	my ($h) = @_;
	my $what = int rand 100;
	if ($what < 50) { step_write($h, range($h)) }
	elsif ($what < 62) { step_zero($h, range($h)) }
	elsif ($what < 74) { step_discard($h, range($h)) }
	elsif ($what < 90) { step_read($h, range($h)) }
	elsif ($what < 97) { step_flush($h) }
	else { wrong($h, 'reopen') if ask($h->{io}, 'reopen') ne 'ok' }
}

sub history {
	my ($h, $steps) = @_;
	$h->{io} = start($h->{image});
	$h->{step} = 0;
	step_write($h, $_ * 4096, 4096) for 0 .. ($h->{kind}{bulk} // 0) / 4096 - 1;
	for (1 .. $steps) {
		$h->{step} = $_;
		one_step($h);
		last if @{$h->{wrong}} > 3;
	}
	$h->{end} = stop($h->{io});
}

# ---- what comes out ----

sub lives_on_in_qemu {
	my ($h, $name) = @_;
	io($h->{image}, 'write -P 77 0 70000', 'write -P 78 1000000 3000');
	substr($h->{disk}, 0, 70000) = chr(77) x 70000;
	substr($h->{disk}, 1000000, 3000) = chr(78) x 3000;
	is_deeply(verdict($h->{image}), [0, $h->{kind}{leaks} // 0], "$name: and when qemu has written to it too") if !$h->{kind}{qcow1};
	ok(raw_of($h->{image}) eq $h->{disk}, "$name: which reads back");
}

sub check_image {
	my ($h, $name, $snapshot, $backing) = @_;
	is_deeply($h->{wrong}, [], "$name: every step") or diag(slurp('err'));
	is($h->{end}, "ok\n0", "$name: it ends well") or diag(slurp('err'));
	is_deeply(verdict($h->{image}), [0, $h->{kind}{leaks} // 0], "$name: qemu-img check") if !$h->{kind}{qcow1};
	ok(raw_of($h->{image}) eq $h->{disk}, "$name: qemu reads what was written");
	ok(raw_of($h->{image}, '-l', 'first') eq $snapshot, "$name: the snapshot is as it was") if defined $snapshot;
	ok(slurp((glob 'base.*.raw')[0]) eq $backing, "$name: so is the backing file") if defined $backing;
}

sub try {
	my ($name, $kind) = @_;
	return if $ENV{ONLY} && $name !~ $ENV{ONLY};
	srand(($seed * 31 + unpack '%31C*', $name) % 0x7fffffff + 1);
	my $h = make($kind);
	my $snapshot = $kind->{snapshot} ? raw_of($h->{image}, '-l', 'first') : undef;
	my $backing = $kind->{backing} ? slurp((glob 'base.*.raw')[0]) : undef;
	history($h, $kind->{steps} // 150);
	note("$name: $h->{full} requests found no room") if $h->{full};
	check_image($h, $name, $snapshot, $backing);
	ok($h->{full}, "$name: the room was used up") if $kind->{tight};
	cmp_ok(refcount_table($h->{image})->[1], '>', $kind->{table}[1], "$name: it has grown") if $kind->{grows};
	is(unpack('Q>', slurp_some($h->{image}, 88, 8)) & 1, 0, "$name: they are not used any more") if $kind->{bitmap};
	ok(slurp('a.data') eq $h->{disk}, "$name: the data file is the disk") if $kind->{raw_data};
	lives_on_in_qemu($h, $name);
}

for my $cluster (512, 1024, 4096, 65536, 2 * MIB) {
	try("clusters of $cluster", {cluster => $cluster, $cluster > MIB ? (size => 40 * MIB) : ()});
}
for my $bits (1, 2, 4, 8, 32, 64) {
	try("refcounts of $bits bits", {cluster => 4096, options => ["refcount_bits=$bits"]});
	try("refcounts of $bits bits, small clusters", {cluster => 512, size => 2 * MIB, options => ["refcount_bits=$bits"]});
}
try('version 2', {cluster => 4096, v3 => 0, options => ['compat=0.10']});
try('version 2 with a backing file',
	{cluster => 4096, v3 => 0, options => ['compat=0.10'], backing => ['raw', 3 * MIB]});
try('extended L2', {cluster => 65536, options => ['extended_l2=on']});
try('extended L2, small', {cluster => 16384, options => ['extended_l2=on'], snapshot => 2});
try('extended L2 with a backing file', {cluster => 16384, options => ['extended_l2=on'], backing => ['raw', 3 * MIB]});
try('lazy refcounts', {cluster => 4096, options => ['lazy_refcounts=on']});
try("preallocation=$_", {cluster => 4096, options => ["preallocation=$_"]}) for qw(metadata falloc full);
try('a backing file', {cluster => 4096, backing => ['raw', 5 * MIB]});
try('a shorter backing file in qcow2', {cluster => 65536, backing => ['qcow2', MIB]});
try('a snapshot', {cluster => 4096, snapshot => 1});
try('a snapshot and later writes', {cluster => 512, size => 2 * MIB, snapshot => 2, steps => 300});
try('a snapshot, refcounts of 2 bits', {cluster => 1024, snapshot => 2, options => ['refcount_bits=2']});
try('compressed clusters', {cluster => 65536, compressed => 1});
try('compressed clusters and a snapshot', {cluster => 4096, compressed => 1, snapshot => 2});
try('compressed clusters, zstd', {cluster => 65536, compressed => 1, options => ['compression_type=zstd']});
try('compressed clusters, extended L2', {cluster => 65536, compressed => 1, options => ['extended_l2=on']});
try('little room', {cluster => 4096, room => 100 * KIB, tight => 1, snapshot => 1});
try('no room', {cluster => 65536, room => 0, tight => 1, snapshot => 1});
try('a larger refcount table', {cluster => 512, size => 24 * MIB, empty => 1, room => 40 * MIB, bulk => 10 * MIB, grows => 1});
try('a larger refcount table of wide counts',
	{cluster => 512, size => 6 * MIB, empty => 1, room => 16 * MIB, bulk => 3 * MIB, options => ['refcount_bits=64'], grows => 1});
try('a data file', {cluster => 65536, options => ['data_file=a.data']});
try('a raw data file', {cluster => 65536, options => ['data_file=a.data', 'data_file_raw=on'], raw_data => 1});
# Its directory, its table and its data, of one cluster each; qemu drops those that it does not trust itself.
try('bitmaps', {cluster => 65536, bitmap => 1, leaks => 2});
try('qcow 1', {qcow1 => 1, cluster => 4096, v3 => 0});
try('qcow 1 with a backing file', {qcow1 => 1, cluster => 512, v3 => 0, backing => ['raw', 3 * MIB]});

# ---- what the tables say afterwards ----

sub script {
	my ($image, @lines) = @_;
	my $io = start($image);
	my @answers = map { ask($io, $_) } @lines;
	push @answers, stop($io) =~ s/\n/ /r;
	return join '; ', @answers;
}

# "START+LENGTH KIND" of each piece, in clusters of 64 KiB.
sub map_of {
	my ($image) = @_;
	my @map = @{decode_json(must('qemu-img', 'map', '--output=json', $image))};
	return join ', ', map {
		my $kind = !$_->{present} ? 'absent' : $_->{data} ? 'data' : defined $_->{offset} ? 'zero with a place' : 'zero';
		"${\ ($_->{start} / 65536)}+${\ ($_->{length} / 65536)} $kind"
	} grep { $_->{depth} == 0 && $_->{present} } @map;
}

sub room_of {
	my ($image) = @_;
	my $io = start($image);
	my (undef, $room) = split / /, ask($io, 'usage');
	stop($io);
	return $room / 65536;
}

sub tables_after {
	my ($name, $options, $lines, $expected, $room) = @_;
	unlink glob '*.qcow* *.raw *.data';
	made('qcow2', @$options, 'a.qcow2', 4 * MIB);
	io('a.qcow2', 'write -P 1 0 1M', 'write -z 2M 128k', 'write -c -P 2 3M 64k');
	must('truncate', '-s', '+1M', 'a.qcow2');
	my $before = room_of('a.qcow2');
	like(script('a.qcow2', @$lines), qr/^(ok; )+ok 0$/, "$name: done");
	is(map_of('a.qcow2'), $expected, "$name: what qemu sees");
	is(room_of('a.qcow2') - $before, $room, "$name: the room");
	is_deeply(verdict('a.qcow2'), [0, 0], "$name: no error, no leak");
}

my @clusters = map { $_ * 65536 } 0 .. 64;
tables_after('discard', [], ["discard $clusters[2] $clusters[3]"],
	'0+2 data, 2+3 zero, 5+11 data, 32+2 zero, 48+1 data', 3);
tables_after('discard of less than a cluster', [], ["discard 512 65536"], '0+16 data, 32+2 zero, 48+1 data', 0);
tables_after('zeros keep the place', [], ["zero $clusters[2] $clusters[3]"],
	'0+2 data, 2+3 zero with a place, 5+11 data, 32+2 zero, 48+1 data', 0);
tables_after('zeros of what has none take none', [], ["zero $clusters[20] $clusters[3]", "zero $clusters[32] 65536"],
	'0+16 data, 32+2 zero, 48+1 data', 0);
tables_after('zeros and a write to them', [], ["zero $clusters[2] $clusters[3]", 'flush', "write $clusters[3] 512 1"],
	'0+2 data, 2+1 zero with a place, 3+1 data, 4+1 zero with a place, 5+11 data, 32+2 zero, 48+1 data', 0);
tables_after('a compressed cluster is discarded', [], ["discard $clusters[48] 65536"],
	'0+16 data, 32+2 zero, 48+1 zero', 1);
tables_after('discarded room is taken again', [], ["discard 0 $clusters[16]", 'reopen', "write $clusters[40] $clusters[8] 3"],
	'0+16 zero, 32+2 zero, 40+8 data, 48+1 data', 8);

# ---- read-only until repaired ----

for my $bit (0, 1) {
	my $name = ('dirty', 'corrupt')[$bit];
	unlink glob '*.qcow* *.raw *.data';
	made('qcow2', 'a.qcow2', 4 * MIB);
	my $bytes = slurp('a.qcow2');
	substr($bytes, 79, 1) = chr(1 << $bit);
	spew('a.qcow2', $bytes);
	is(script('a.qcow2', 'write 0 512 1', 'zero 0 512', 'discard 0 65536', 'flush', 'read 0 8'),
		'error EROFS; error EROFS; error EROFS; ok; 0000000000000000; ok 0', "an image marked as $name is read-only");
	ok(slurp('a.qcow2') eq $bytes, "$name: nothing was written");
}
done_testing;
