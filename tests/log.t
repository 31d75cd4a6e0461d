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
			lsn => hex $r->{lsn}, record_type => $r->{type} eq 'restart' ? 2 : 1,
			transaction_id => $r->{transaction}, redo => $r->{redo_name}, undo => $r->{undo_name},
			lcns => $r->{lcns}, cluster_index => $r->{cluster_index},
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
		sprintf('0x%x 0x%x', $oldest, $stream{current} // $log->{records}[-1]{lsn}),
			"$name: from where to where");
	my $records = records_text($json);
	ok(found(@{$json->{records}}) eq planned(@expected), "$name: what was written") ||
		diag("written:\n", substr(planned(@expected), -500), "\nfound:\n",
			substr(found(@{$json->{records}}), -500));
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
			lcns => [map $lcn + 3 * $_, 0 .. $n % 4], index => 2 * ($n % 4), vcn => $n,
			record_offset => 0x38, redo_data => 'r' x ($n * 13 % 200), undo_data => 'u' x ($n * 29 % 120));
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
		is($at, $left < 0x30 ? $page + 1 : $page,
			"$version: with $left bytes left, the record is planned right");
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
		agrees("$version, the same before zeros of the lap before", $log, ['-f', '-b'], oldest => $oldest,
			stale => 1);
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
	return if $version eq '2.0';
	for my $length (3000, 9000) { # the copy has the end of a record that began in the ring
		$log = mklog::new(version => $version, size => SMALL);
		around($log, 3, 2);
		$oldest = mklog::restart($log);
		mklog::record($log, redo => 8, lcns => [$lcn], redo_data => 'x' x $length);
		# ntfsrecover does not find the beginning when a page is between.
		my @options = $length < 4096 ? '-b' : ();
		agrees("$version, the end of $length bytes in a copy", $log, \@options, oldest => $oldest,
			newest => 'copy');
	}
}

sub first_copied {
	my ($version) = @_;
	my $log = mklog::new(version => $version, size => SMALL);
	my $oldest = around($log, 3, 0);
	agrees("$version, the first page of the ring in a copy", $log, ['-b'], oldest => $oldest, newest => 'copy');
}

# A mount begins a new page.
sub mounts {
	my ($version) = @_;
	my $log = mixed(mklog::new(version => $version, size => SMALL), 30);
	mklog::next_page($log);
	agrees("$version, a page that ends early", mixed($log, 50), ['-f']);
}

# ---- damage ----

sub plant {
	my ($bytes, %stream) = @_;
	mklog::plant($image, $bytes, @runs);
	my ($status, $out, $err) = run($ntfsmap, 'log', '--json', $image);
	return ($status, eval { JSON::PP->new->decode($out) } // {}, $err);
}

# What comes before the damage is listed; `because`: why it is not followed. Returns how many records there are.
sub broken {
	my ($name, $bytes, $because) = @_;
	my ($status, $json, $err) = plant($bytes);
	is($status, 6, "$name: exit 6");
	ok(exists $json->{whole} && !$json->{whole}, "$name: not whole");
	like($json->{problem} // '', $because, "$name: says why");
	like($err, qr/^ntfsmap: [^\n]*\$LogFile[^\n]*\n\z/, "$name: in one message");
	my ($text_status, $text) = run($ntfsmap, 'log', $image);
	is($text_status, 6, "$name: as text too");
	return scalar @{$json->{records} // []};
}

sub whole {
	my ($name, $bytes, $count) = @_;
	my ($status, $json, $err) = plant($bytes);
	is($status, 0, "$name: exit 0") || diag($err);
	is(scalar @{$json->{records} // []}, $count, "$name: all records");
}

# In page 2 of the ring, in the middle of what is pending.
sub damaged_pages {
	my ($version) = @_;
	my $log = mixed(mklog::new(version => $version, size => SMALL), 150);
	my $page = $log->{ring} + 1;
	my $last = mklog::page_of($log, $log->{records}[-1]{lsn});
	my $count = @{$log->{records}};
	my ($first) = grep $_->{page} == $page, @{$log->{records}};
	my $before = grep $_->{page} * 4096 + $_->{offset} + 0x30 + $_->{data_length} <= $page * 4096,
		@{$log->{records}};
	my $good = mklog::stream($log);
	my $with = sub {
		my ($at, $bytes) = @_;
		my $bad = $good;
		substr($bad, $at, length $bytes) = $bytes;
		return $bad;
	};
	my $start = $page * 4096;
	ok($last > $page && $before && $before < $count, "$version: the damage is in the middle");
	whole("$version, undamaged", $good, $count);
	my %bad = (
		'a torn block' => [$start + 1022, "\xaa\x55"], 'the last block torn' => [$start + 4094, "\xaa\x55"],
		'another update sequence number' => [$start + 0x28, "\xaa\x55"],
		'an impossible place of the fixups' => [$start + 4, "\xf8\x0f"], 'no fixups' => [$start + 6, "\0\0"],
		'too many fixups' => [$start + 6, "\x0a\0"], 'zeros' => [$start, "\0" x 4096],
		'ones' => [$start, "\xff" x 4096], 'another magic' => [$start, 'BAAD'],
	);
	for (sort keys %bad) {
		is(broken("$version, $_", $with->(@{$bad{$_}}), qr/./), $before,
			"$version, $_: what comes before is listed");
	}
	broken("$version, the page of another place", $with->($start, substr $good, $start + 4096, 4096), qr/./);
	whole("$version, a torn page behind the end", $with->(($last + 1) * 4096 + 1022, "\xaa\x55"), $count);
	whole("$version, zeros in place of a copy", $with->(2 * 4096, "\0" x 4096), $count);
	whole("$version, one torn restart page", $with->(510, 'XX'), $count);
	whole("$version, the other one", $with->(4096 + 510, 'XX'), $count);
	whole("$version, no first restart page", $with->(0, "\0" x 4096), $count);
	broken("$version, no restart page", $with->(0, "\0" x 8192), qr/restart page/);
	my $torn = $with->(510, 'XX');
	substr($torn, 4096 + 510, 2) = 'XX';
	broken("$version, both restart pages torn", $torn, qr/restart page/);
}

# The last record goes on in a page that was not written since the lap before.
sub lost_page {
	my ($version) = @_;
	my $log = mklog::new(version => $version, size => SMALL);
	mklog::fill_to($log, $log->{ring} + 9, 0x400, redo => 8, lcns => [$lcn]);
	mklog::fill_to($log, $log->{ring} + 5, 0xf00, redo => 8, lcns => [$lcn]);
	my $before = mklog::stream($log);
	my $oldest = mklog::record($log, redo => 8, lcns => [$lcn], redo_data => 'x' x 8000);
	my @stream = (oldest => $oldest);
	whole("$version, the last record in three pages", mklog::stream($log, @stream), 1);
	for my $page ($log->{ring} + 6, $log->{ring} + 7) {
		my $bytes = mklog::stream($log, @stream);
		substr($bytes, $page * 4096, 4096) = substr $before, $page * 4096, 4096;
		is(broken("$version, page $page of the lap before", $bytes, qr/./), 0,
			"$version, page $page: no record");
	}
}

# Tearing the ring's page, or its copy: one good version is enough.
sub damaged_copies {
	my ($version) = @_;
	my $log = mklog::new(version => $version, size => SMALL);
	my $oldest = around($log, 3, 2);
	my $count = grep $_->{lsn} >= $oldest, @{$log->{records}};
	my $page = mklog::page_of($log, $log->{records}[-1]{lsn});
	for ([both => $page], [both => 2], [copy => $page], [stale => 2]) {
		my ($newest, $torn) = @$_;
		my $bytes = mklog::stream($log, oldest => $oldest, newest => $newest);
		substr($bytes, $torn * 4096 + 1022, 2) = "\xaa\x55";
		whole("$version, newest: $newest, page $torn torn", $bytes, $count);
	}
	for ([copy => 2], [older => 2], [stale => $page]) {
		my ($newest, $torn) = @$_;
		my $bytes = mklog::stream($log, oldest => $oldest, newest => $newest);
		substr($bytes, $torn * 4096 + 1022, 2) = "\xaa\x55";
		broken("$version, newest: $newest, page $torn torn", $bytes, qr/./);
	}
}

# In a record in the middle.
sub damaged_records {
	my ($version) = @_;
	my $log = mixed(mklog::new(version => $version, size => SMALL), 150);
	my $good = mklog::stream($log);
	my ($n) = grep $log->{records}[$_]{page} == $log->{ring} + 1, 0 .. 149;
	my ($before, $r, $next) = @{$log->{records}}[$n, $n + 1, $n + 2];
	my %bad = (
		'length 0' => [0x18, pack 'V', 0], 'length 0x18' => [0x18, pack 'V', 0x18],
		'a length that is no multiple of 8' => [0x18, pack 'V', $r->{data_length} + 4],
		'a huge length' => [0x18, pack 'V', 0x7ffffff8], 'a length below zero' => [0x18, pack 'V', 0xfffffff8],
		'a length longer than the log' => [0x18, pack 'V', SMALL], 'type 0' => [0x20, pack 'V', 0],
		'type 3' => [0x20, pack 'V', 3], 'more clusters than it has room for' => [0x3e, pack 'v', 0xffff],
		'an LSN that goes back' => [0, pack 'Q<', $before->{lsn}], 'LSN 0' => [0, pack 'Q<', 0],
		'the LSN of another lap' => [0, pack 'Q<', $r->{lsn} - (1 << 64 - $log->{seq_bits})],
		'an LSN that goes ahead' => [0, pack 'Q<', $next->{lsn}],
	);
	for (sort keys %bad) {
		my ($at, $bytes) = @{$bad{$_}};
		my $bad = $good;
		mklog::edit(\$bad, $r->{page}, sub { substr($_[0], $r->{offset} + $at, length $bytes) = $bytes });
		is(broken("$version, $_", $bad, qr/0x|page/), $n + 1, "$version, $_: what comes before is listed");
	}
}

# In the restart pages.
sub damaged_restarts {
	my ($version) = @_;
	my $log = mixed(mklog::new(version => $version, size => SMALL, lap => 5), 150);
	my ($first, $last) = map $_->{lsn}, @{$log->{records}}[0, -1];
	my $lap = 1 << 64 - $log->{seq_bits};
	my %bad = (
		'oldest in the restart pages' => {oldest => 5 * $lap + 8},
		'oldest in the copies' => {oldest => 5 * $lap + (2 * 4096 + 0x40) / 8},
		'oldest in a page header' => {oldest => 5 * $lap + ($log->{ring} * 4096 + 8) / 8},
		'oldest behind the end of the log' => {oldest => 5 * $lap + (SMALL + 0x40) / 8},
		'oldest between two' => {oldest => $first + 1},
		'oldest in the lap before' => {oldest => $first - $lap},
		'oldest in the next lap' => {oldest => $first + $lap},
		'oldest 0' => {oldest => 0}, 'all ones' => {oldest => ~0},
		'current in the next lap' => {current => $last + $lap},
		'current in the lap before' => {current => $last - $lap},
		'current behind the last' => {current => $last + 8},
		'current before oldest' => {oldest => $last, current => $first},
		'a file size beyond the file' => {file_size => SMALL * 2},
		'a negative file size' => {file_size => ~0 - 4095}, 'a tiny file size' => {file_size => 8192},
		'seq_number_bits 0' => {seq_bits => 0}, 'seq_number_bits 64' => {seq_bits => 64},
		'seq_number_bits one less' => {seq_bits => $log->{seq_bits} - 1},
		'seq_number_bits one more' => {seq_bits => $log->{seq_bits} + 1},
		'records at 0' => {data_offset => 0}, 'records at the end of a page' => {data_offset => 4096},
		'records at an odd place' => {data_offset => 0x44}, 'an area outside' => {area_offset => 4090},
		'a page size of 0' => {log_page_size => 0}, 'an odd page size' => {log_page_size => 4000},
		'a huge page size' => {log_page_size => 1 << 31}, 'longer record headers' => {header_length => 0x38},
		'version 3.0' => {major => 3}, 'version 0.0' => {major => 0, minor => 0},
		'another magic' => {magic => 'RCRD'},
	);
	broken("$version, $_", mklog::stream($log, %{$bad{$_}}), qr/./) for sort keys %bad;
}

sub empty {
	whole('all ones', "\xff" x SMALL, 0);
	broken('all zeros', "\0" x SMALL, qr/restart page/);
	my ($status, $json) = plant("\xff" x SMALL);
	like($json->{clean}, qr/^[01]$/, 'a log that was reset has no version') if !defined $json->{version};
}

# A description on standard input makes the same file.
sub described {
	my $log = mklog::new(version => '1.1', size => SMALL);
	mklog::restart($log);
	mklog::record($log, redo => 21, undo => 22, lcns => [4, 5], index => 2, redo_data => "\1\2\3");
	spew("$T/said", "restart\nredo=21 undo=22 lcns=4,0x5 index=2 redo_data=010203\n");
	must('sh', '-c', '"$0" make "$1" version=1.1 size="$2" clean=1 newest=both <"$3"', "$top/tests/lib/mklog.pl",
		"$T/made", SMALL, "$T/said");
	ok(slurp("$T/made") eq mklog::stream($log, clean => 1, newest => 'both'), 'mklog.pl makes what is described');
	must("$top/tests/lib/mklog.pl", 'plant', $image, "$T/made");
	ok(must('ntfscat', '-i', 2, $image) eq slurp("$T/made"), 'and puts it where ntfscat finds it');
}

volume(SMALL);
for my $version (@versions) {
	contents($version);
	laps($version);
	copied($version);
	first_copied($version);
	mounts($version);
	damaged_pages($version);
	lost_page($version);
	damaged_copies($version);
	damaged_records($version);
	damaged_restarts($version);
}
empty();
described();
volume(SMALL - 4096); # the generated log then ends behind the file
my $cut = mklog::stream(mixed(mklog::new(version => '1.1', size => SMALL), 150));
broken('a $LogFile that was truncated', substr($cut, 0, SMALL - 4096), qr/size|long|short/);
done_testing();
