#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `ntfsmap log`: generated logs of both versions are read as ntfsrecover(8) reads them, to the last record; where a log
# is damaged it is said where the walk ends, and damage that is not on the way changes nothing.
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use FindBin;
use JSON::PP ();
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/mklog.pl";
our ($top, $T, $ntfsmap);
my $forge = "$top/build/tests/ntfsforge";
my $image = "$T/volume.img";
my $lcn = 5000; # of nothing in particular
my @runs; # of $LogFile

need('mkntfs', 'ntfscluster', 'ntfsrecover', $forge, $ntfsmap);

sub volume {
	my ($log_size) = @_;
	spew($image, '');
	truncate $image, 32 << 20;
	must(qw(mkntfs -q -F -Q -T -c 4096), $image);
	must(qw(ntfstruncate -q), $image, 2, 0x80, $log_size);
	must($forge, $image, 'file', '/d', '64K');
	@runs = mklog::runs($image, 2);
}

# ---- what others see ----

# By ntfsrecover: LSN => what the record says. It lists pages, and so finds more than is pending.
sub recovered {
	my ($stream, @options) = @_;
	my (%seen, $r);
	spew("$T/log", $stream);
	# Backward, it goes round for ever when the newest page is the first one of the ring.
	my (undef, $out) = run('sh', '-c', 'ntfsrecover "$@" | head -c 8000000', '', '-n', '-v', @options, "$T/log");
	for (split "\n", $out) {
		if (/^this_lsn +([0-9a-f]{16}) /) {
			$seen{hex $1} = $r = {lsn => hex $1, lcns => []};
		} elsif (/^(transaction_id|record_type|cluster_index) +([0-9a-f]+)$/ && $r) {
			$r->{$1} = hex $2;
		} elsif (/^(redo|undo)_operation +[0-9a-f]{4} (\S+)$/ && $r) {
			$r->{$1} = $2;
		} elsif (/ lcn +([0-9a-f]{16})\b/ && $r) {
			push @{$r->{lcns}}, hex $1;
		}
	}
	return \%seen;
}

# A line for each record; a checkpoint has no operations.
sub as_text {
	my ($r) = @_;
	return sprintf '0x%x restart', $r->{lsn} if $r->{record_type} == 2;
	return sprintf '0x%x %x %s/%s %s +%d', @$r{qw(lsn transaction_id redo undo)}, join(',', @{$r->{lcns}}),
		$r->{cluster_index};
}

sub oracle {
	my ($log, $stream, $oldest, @options) = @_;
	my $seen = recovered($stream, @options);
	my $last = $log->{records}[-1]{lsn};
	return join "\n", map as_text($seen->{$_}), sort { $a <=> $b } grep $_ >= $oldest && $_ <= $last, keys %$seen;
}

# By us, as JSON and as text; both say the same.
sub ours {
	my ($name) = @_;
	my ($status, $out) = run($ntfsmap, 'log', '--json', $image);
	my $json = eval { JSON::PP->new->decode($out) } or return ($status, undef, $out);
	my ($text_status, $text) = run($ntfsmap, 'log', $image);
	my @lines = split "\n", $text;
	is($text_status, $status, "$name: the same exit code as text");
	like(pop(@lines) // '', qr/^${\ scalar @{$json->{records}}} records?(, LSN 0x[0-9a-f]+ to 0x[0-9a-f]+)?/,
		"$name: the last line counts them");
	is(join("\n", map { join ' ', (split)[0 .. 3] } @lines), join("\n", map json_as_text($_), @{$json->{records}}),
		"$name: the same records as text");
	return ($status, $json);
}

sub json_as_text {
	my ($r) = @_;
	my @names = map $r->{"${_}_name"} // "operation $r->{$_}", qw(redo undo);
	@names = ('-', '-') if $r->{type} eq 'restart';
	return sprintf '%s 0x%x %s %s', $r->{lsn}, $r->{transaction}, @names;
}

sub records_text {
	my ($json) = @_;
	return join "\n", map {
		my $r = $_;
		as_text({
			lsn => hex $r->{lsn}, record_type => $r->{type} eq 'restart' ? 2 : 1, transaction_id => $r->{transaction},
			redo => $r->{redo_name}, undo => $r->{undo_name}, lcns => $r->{lcns}, cluster_index => $r->{cluster_index},
		})
	} @{$json->{records}};
}

# What was written.
sub planned {
	return join "\n", map {
		my $r = $_;
		my @numbers = map $_ // 0, $r->{type} == 1 ? @$r{qw(redo undo index vcn)} : (0) x 4;
		sprintf '0x%x %d %d %d/%d %s +%d %d', @$r{qw(lsn type transaction)}, @numbers[0, 1],
			join(',', @{$r->{lcns} // []}), @numbers[2, 3]
	} @_;
}

sub found {
	return join "\n", map {
		my $r = $_;
		sprintf '%s %d %d %d/%d %s +%d %d', $r->{lsn}, $r->{type} eq 'restart' ? 2 : 1,
			@$r{qw(transaction redo undo)}, join(',', @{$r->{lcns}}), @$r{qw(cluster_index target_vcn)}
	} @_;
}

# The log is read whole, and as by ntfsrecover with each of the options, which needs copies; `stream` are keys of
# mklog::stream().
sub agrees {
	my ($name, $log, $options, %stream) = @_;
	my $oldest = $stream{oldest} //= $log->{records}[0]{lsn};
	my $bytes = mklog::stream($log, newest => 'both', %stream);
	my @expected = grep $_->{lsn} >= $oldest, @{$log->{records}};
	mklog::plant($image, $bytes, @runs);
	my ($status, $json, $out) = ours($name);
	return fail("$name: no JSON") || diag($out) if !$json;
	is($status, 0, "$name: exit 0");
	ok($json->{whole}, "$name: whole") || diag($json->{problem});
	is($json->{version}, $log->{version}, "$name: the version");
	is("$json->{oldest_lsn} $json->{current_lsn}",
		sprintf('0x%x 0x%x', $oldest, $stream{current} // $log->{records}[-1]{lsn}), "$name: from where to where");
	my $records = records_text($json);
	ok(found(@{$json->{records}}) eq planned(@expected), "$name: what was written") ||
		diag("written:\n", substr(planned(@expected), -500), "\nfound:\n", substr(found(@{$json->{records}}), -500));
	my @old = $log->{version} eq '2.0' ? '-k' : ();
	ok(oracle($log, $bytes, $oldest, $_, @old) eq $records, "$name: as ntfsrecover $_ has it") ||
		diag("ntfsrecover:\n" . substr(oracle($log, $bytes, $oldest, $_, @old), -500), "\nntfsmap:\n",
			substr($records, -500)) for @$options;
}

# ---- logs ----

use constant SMALL => 90 * 4096; # a ring of 86 pages in version 1.1, of 56 in 2.0
my @versions = ('1.1', '2.0');

# Operations 0 to 37 with data of many lengths and lists of many lengths.
sub mixed {
	my ($log, $count) = @_;
	for (1 .. $count) {
		my $n = @{$log->{records}};
		mklog::restart($log) if $n % 20 == 0;
		mklog::record($log, redo => $n % 38, undo => ($n * 7) % 38, transaction => 0x18 + 0x28 * ($n % 3),
			lcns => [map $lcn + 3 * $_, 0 .. $n % 4], index => 2 * ($n % 4), vcn => $n, record_offset => 0x38,
			redo_data => 'r' x ($n * 13 % 200), undo_data => 'u' x ($n * 29 % 120));
	}
	return $log;
}

# Twice around: what is pending begins near the end of the ring. Returns its first LSN.
sub around {
	my ($log, $before_the_end, $behind) = @_;
	mklog::fill_to($log, $log->{pages} - 1, 0x400, redo => 8, undo => 8, lcns => [$lcn]);
	mklog::fill_to($log, $log->{pages} - $before_the_end, 0x400, redo => 8, undo => 8, lcns => [$lcn]);
	my $oldest = mklog::restart($log);
	mixed($log, 10);
	mklog::fill_to($log, $log->{ring} + $behind, 0x800, redo => 8, undo => 8, lcns => [$lcn]);
	mixed($log, 5);
	return $oldest;
}

sub contents {
	my ($version) = @_;
	my $new = sub { mklog::new(version => $version, size => SMALL, @_) };
	agrees("$version, one record", do { my $log = $new->(); mklog::restart($log); $log }, ['-f']);
	agrees("$version, mixed records", mixed($new->(), 300), ['-f']);
	agrees("$version, a later lap", mixed($new->(lap => 0x123456), 300), ['-f']);
	agrees("$version, clean", mixed($new->(), 30), ['-f'], clean => 1);
	agrees("$version, without copies", mixed($new->(), 300), [], newest => 'ring');
	for my $left (0, 8, 0x28, 0x30, 0x38) { # below 0x30 the next record begins in the next page
		my $log = mixed($new->(), 3);
		my $page = $log->{at}[0];
		mklog::record($log, redo => 8, extra => "\0" x (4096 - $log->{at}[1] - 0x58 - $left));
		my ($at, $offset) = @{$log->{at}};
		is($at, $left < 0x30 ? $page + 1 : $page, "$version: with $left bytes left, the record is planned right");
		agrees("$version, $left bytes left in a page", mixed($log, 3), ['-f']);
	}
	for my $length (4000, 4096, 8192, 20000, 60000) {
		my $log = mixed($new->(), 5);
		mklog::record($log, redo => 8, undo => 0, lcns => [$lcn], redo_data => 'x' x $length);
		agrees("$version, a record of $length bytes", mixed($log, 5), ['-f']);
	}
	my $log = mixed($new->(), 40);
	my ($from, $to) = map $log->{records}[$_]{lsn}, 22, 35;
	agrees("$version, from the middle", $log, ['-f'], oldest => $from);
	agrees("$version, more than the restart page knows", $log, ['-f'], current => $to);
	agrees("$version, the second restart page is newer", $log, ['-f'], first => {oldest => $from, current => $to});
	agrees("$version, the first restart page is newer", $log, ['-f'], second => {oldest => $from, current => $to});
}

sub laps {
	my ($version) = @_;
	my $new = sub { mklog::new(version => $version, size => SMALL, @_) };
	for ([1, 0], [3, 2], [5, 20]) {
		my $log = $new->();
		my $oldest = around($log, @$_);
		agrees("$version, around the end, @$_ pages", $log, ['-f', '-b'], oldest => $oldest);
		agrees("$version, the same before zeros of the lap before", $log, ['-f', '-b'], oldest => $oldest, stale => 1);
	}
	for my $length (3000, 4000, 9000, 50000) {
		my $log = $new->();
		mklog::fill_to($log, $log->{pages} - 1, 0x400, redo => 8, undo => 8, lcns => [$lcn]);
		mklog::fill_to($log, $log->{pages} - 1, 0x800, redo => 8, undo => 8, lcns => [$lcn]);
		my $oldest = mklog::restart($log);
		mklog::record($log, redo => 8, undo => 0, lcns => [$lcn], redo_data => 'x' x $length);
		agrees("$version, a record of $length bytes around the end", mixed($log, 5), ['-b'], oldest => $oldest);
	}
}

# The newest pages in copies: ntfsrecover needs older pages of the ring then.
sub copied {
	my ($version) = @_;
	my @slots = $version eq '1.1' ? (2, 3) : (2, 7, 18, 33);
	for my $newest (qw(copy both older stale)) {
		for my $slot (@slots) {
			my $log = mklog::new(version => $version, size => SMALL);
			my $oldest = around($log, 3, 2);
			# Backward, it begins at the copy of version 1.1 in any case.
			my $option = $version eq '1.1' && $newest eq 'stale' ? '-f' : '-b';
			agrees("$version, newest: $newest, slot $slot", $log, [$option], oldest => $oldest,
				newest => $newest, slot => $slot);
		}
	}
	my $log = mklog::new(version => $version, size => SMALL);
	my $oldest = around($log, 3, 8);
	agrees("2.0, eight pages in copies", $log, ['-b'], oldest => $oldest, newest => 'copy', copied => 8, slot => 4)
		if $version eq '2.0';
	$log = mklog::new(version => $version, size => SMALL);
	$oldest = around($log, 3, 0);
	agrees("$version, the first page of the ring in a copy", $log, ['-b'], oldest => $oldest, newest => 'copy');
}

volume(SMALL);
for my $version (@versions) {
	contents($version);
	laps($version);
	copied($version);
}
done_testing();
