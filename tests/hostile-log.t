#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Any bytes may be in $LogFile: generated logs with odd values in every field, with and without right fixups, pages
# swapped, repeated and wiped. `log` and `check` end by themselves, with one of their exit codes, say the same of the
# log, and leave the volume alone. Case number N depends on the seed and N only:
#
#   HOSTILE_SEED=7 tests/hostile-log.t        other mutations
#   HOSTILE_RUNS=20000 tests/hostile-log.t    more of them (the sanitised ones: a third)
#   HOSTILE_CASE=123 tests/hostile-log.t      this one alone
#   HOSTILE_KEEP=/tmp/x tests/hostile-log.t   leaves the volume of a failed case there
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use Fcntl qw(SEEK_SET);
use File::Copy qw(copy);
use FindBin;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/mklog.pl";
our ($top, $T, $ntfsmap);
my $seed = $ENV{HOSTILE_SEED} // 20061011;
my $runs = $ENV{HOSTILE_RUNS} // 1500;
my $forge = "$top/build/tests/ntfsforge";
my $path = "$T/volume.img";
use constant {PAGE => 4096, PAGES => 90};

need('mkntfs', 'ntfscluster', 'ntfstruncate', $forge, $ntfsmap);
note("seed $seed");

# ---- a volume, and logs that are good ----

my ($image, $log_at, $lcn); # the volume with zeros for a log, where that is, the file

sub make_volume {
	spew($path, '');
	truncate $path, 4 << 20;
	must(qw(mkntfs -q -F -Q -T -c 512), $path);
	must(qw(ntfstruncate -q), $path, 2, 0x80, PAGES * PAGE);
	must($forge, $path, 'file', '/d', '200K', 'runs=300', 'order=shuffle', 'seed=1');
	my @runs = mklog::runs($path, 2);
	BAIL_OUT('$LogFile is in pieces') if @runs > 1;
	$log_at = $runs[0][0];
	($lcn) = map $_->[0] / 512, mklog::runs($path, (split ' ', must($forge, $path, 'ref', '/d'))[0]);
	$image = slurp($path);
}

# Records of all operations, on clusters from $first on.
sub records {
	my ($log, $count, $first) = @_;
	mklog::restart($log);
	for my $n (1 .. $count) {
		mklog::record($log, redo => $n % 38, undo => ($n * 7) % 38, transaction => 0x18 + 0x28 * ($n % 3),
			lcns => [map $first + $n * $_, 0 .. $n % 4], index => 2 * ($n % 4), vcn => $n,
			redo_data => pack('V2', $n, 3) . 'r' x ($n * 13 % 90), undo_data => 'u' x ($n * 29 % 60));
	}
	mklog::record($log, redo => 8, lcns => [$first - 1], redo_data => 'x' x 9000);
	mklog::record($log, redo => 27, undo => 1, transaction => 0x18 + 0x28 * $_) for 0 .. 2;
	return $log;
}

# [bytes, the numbers of the pages that mean something]
sub good_log {
	my ($version, $newest, $around, $first) = @_;
	my $log = mklog::new(version => $version, size => PAGES * PAGE, first => $around ? PAGES - 2 : undef);
	records($log, 60, $first);
	my %pages = map { $_ => 1 } 0, 1, 0, 1, 2, 3, keys %{$log->{body}};
	return [mklog::stream($log, newest => $newest), [sort { $a <=> $b } keys %pages]];
}

# ---- mutations ----

sub odd_bytes {
	my ($old) = @_;
	my $template = {1 => 'C', 2 => 'v', 4 => 'V', 8 => 'Q<'}->{length $old};
	no warnings 'pack'; # it is cut to size
	use integer;
	my $n = unpack $template, $old;
	return pack $template, pick(0, 1, 2, 3, 7, 8, 0x28, 0x30, 0x40, 0x7f, 0xff, 0xfe8, 0x1000, 0x7fff, 0xffff,
		0xfff8, 0x7fffffff, 0xfffffff8, ~0, ~0 - 7, 1 << 62, $n + 1, $n - 1, $n + 8, $n - 8, $n * 2, $n >> 1,
		~$n, 1 << int(rand 8 * length $old), int rand 100000);
}

# A field, mostly of a header or at the beginning of a record; then what changes it.
sub change_field {
	my ($number) = @_;
	my $size = pick(1, 2, 2, 4, 8, 8);
	my $room = $number < 2 ? 0x120 : pick(0x40, 0x100, PAGE);
	my $at = int(rand $room / $size) * $size;
	return sub { substr($_[0], $at, $size) = odd_bytes(substr $_[0], $at, $size) };
}

# What is told of it, and in place.
sub mutate {
	my ($bytes, $pages) = @_;
	my ($one, $two) = (pick(@$pages), pick(@$pages));
	my $kind = int rand 10;
	my $old = substr $$bytes, $one * PAGE, PAGE;
	if ($kind < 6) {
		my $change = change_field($one);
		my $sound = $old =~ /^(?:RCRD\x28|RSTR\x1e)\0\x09\0/; # its fixups can be found
		mklog::edit($bytes, $one, $change) if $sound;
		return "a field of page $one";
	} elsif ($kind < 8) {
		change_field($one)->($old);
		substr($$bytes, $one * PAGE, PAGE) = $old;
		return "bytes of page $one";
	} elsif ($kind == 8) {
		substr($$bytes, $one * PAGE, PAGE) = substr $$bytes, $two * PAGE, PAGE;
		substr($$bytes, $two * PAGE, PAGE) = $old if rand(2) < 1;
		return "page $two at the place of page $one";
	}
	my $at = pick(0, 512 * int rand 8);
	substr($$bytes, $one * PAGE + $at, PAGE - $at) = pick("\0", "\xff", 'x') x (PAGE - $at);
	return "page $one wiped from $at on";
}

# ---- cases ----

my ($failures, %seen);

sub complain {
	my ($case, $told, $what, $err) = @_;
	copy($path, "$ENV{HOSTILE_KEEP}.$case") if $ENV{HOSTILE_KEEP};
	diag("case $case of seed $seed: $told\n$what\n", substr $err, 0, 3000);
	$failures++;
}

sub put_log {
	my ($bytes) = @_;
	open my $file, '+<:raw', $path or die "$path: $!";
	sysseek $file, $log_at, SEEK_SET;
	(syswrite($file, $bytes) // 0) == length $bytes or die "$path: $!";
}

# The exit code of `log`, after what must be true of it.
sub look_at_log {
	my ($program, $case, $told) = @_;
	my ($status, $out, $err) = run($program, 'log', '--json', "$path:/d");
	$seen{"log $status"}++;
	complain($case, $told, "log ended by $status", $err) if $status !~ /^[06]$/;
	complain($case, $told, "log: status $status, and prints $out", $err)
		if $status =~ /^[06]$/ && $out !~ ($status ? qr/"whole": false,/ : qr/"whole": true,/);
	return $status;
}

# A log that cannot be followed is refused, unless nothing of it would be replayed.
sub look_at_check {
	my ($program, $case, $told, $followed) = @_;
	my ($status, $out, $err) = run($program, 'check', "$path:/d");
	$seen{"check $status"}++;
	complain($case, $told, "check ended by $status", $err) if $status !~ /^[026]$/;
	complain($case, $told, "check accepts what log cannot follow:\n$out", $err)
		if !$status && !$followed && $out !~ /^ok +pending-log .*dismounted cleanly/m;
}

sub batch {
	my ($name, $program, $count, @logs) = @_;
	my @cases = defined $ENV{HOSTILE_CASE} ? $ENV{HOSTILE_CASE} : 1 .. $count;
	($failures, %seen) = (0);
	for my $case (@cases) {
		srand($seed * 1_000_003 + $case);
		my ($good, $pages) = @{pick(@logs)};
		my $bytes = $good;
		my $told = join ', ', map mutate(\$bytes, $pages), 1 .. 1 + rand 3;
		put_log($bytes);
		my $status = look_at_log($program, $case, $told);
		look_at_check($program, $case, $told, $status eq '0');
		substr(my $expected = $image, $log_at, length $bytes) = $bytes;
		complain($case, $told, 'the volume was changed', '') if slurp($path) ne $expected;
		last if $failures >= 10;
	}
	my $statuses = join ', ', map "$seen{$_} x $_", sort keys %seen;
	is($failures, 0, "$name: ${\ scalar @cases} mutations of seed $seed ($statuses)");
}

make_volume();
# On the file, and on nothing that there is.
my @logs = map { my $version = $_; map good_log($version, @$_), ['ring', 0, 1 << 20], ['both', 0, $lcn - 40],
	['copy', 1, 1 << 20] } '1.1', '2.0';
for (@logs) {
	put_log($_->[0]);
	is((run($ntfsmap, 'log', $path))[0], 0, 'a log is good before it is mutated');
}
batch('logs', $ntfsmap, $runs, @logs);
SKIP: {
	my ($why, $asan) = sanitised('bin/ntfsmap');
	skip $why, 1 if !$asan;
	batch('logs, sanitised', $asan, $runs / 3, @logs);
}
done_testing();
