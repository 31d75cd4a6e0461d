#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes valid $LogFiles with chosen records, and puts them on a volume. Shares no code with what reads them. Perl
# programs may `require` it:
#
#   $log = mklog::new(version => '2.0', size => 1 << 20)   an empty one; more keys: page (4096), lap (1: the sequence
#                            number), first (the page of the ring where the records begin)
#   $lsn = mklog::record($log, redo => 9, undo => 9, lcns => [4], index => 2, ...)   one more record, see %client
#   $lsn = mklog::restart($log)                      a checkpoint
#   mklog::fill($log, $page, $offset, ...)           records until the next one begins there, see fill_to()
#   $bytes = mklog::stream($log, clean => 0, ...)    the whole file, see stream()
#   mklog::edit(\$bytes, $page, sub { ... $_[0] })   a change inside a page whose fixups stay right; one that does not
#                                                    care about fixups is made with substr()
#   mklog::runs($image, $record)                     [first byte, bytes] of each run of an MFT record's data
#   mklog::plant($image, $bytes, @runs)              into $LogFile, whose runs these are
#
#   mklog.pl make FILE [KEY=VALUE...]   the keys of new() and stream(); a line of standard input is a record:
#                                       "restart", or KEY=VALUE words, the lcns as 4,5 and the data in hex
#   mklog.pl plant IMAGE FILE
#
# The layouts: ntfs-3g/logfile.h, and what ntfsrecover(8) makes of them. The log is a ring of pages behind two restart
# pages and those for copies; the record that does not end in a page goes on in the next one, behind its header; where
# less than a record's header is left in a page, the next record begins in the next page. An LSN is the sequence
# number, which grows at the ring's end, above the place in the file in units of 8 bytes.
package mklog;
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here

use constant { HEADER => 0x30, USA_AT => 0x28, RESTART_AREA => 0x30, CLIENTS => 0x40, NOBODY => 0xffff };

# 1.1: pages 2 and 3 are tail copies; 2.0: pages 2 to 33 are fast copies.
my %ring = ('1.1' => 4, '2.0' => 34);

sub new {
	my %log = (version => '2.0', size => 1 << 20, page => 4096, lap => 1, @_);
	my $bits = length sprintf '%b', $log{size};
	$log{seq_bits} = 67 - $bits;
	$log{pages} = int($log{size} / $log{page});
	$log{ring} = $ring{$log{version}} or die "mklog: there is no version $log{version}\n";
	$log{data} = (USA_AT + 2 * (1 + $log{page} / 512) + 7) & ~7;
	$log{at} = [$log{first} // $log{ring}, $log{data}]; # where the next record begins
	$log{$_} = {} for qw(body head before); # of each page
	$log{records} = [];
	return \%log;
}

sub lsn_at {
	my ($log, $page, $offset) = @_;
	return $log->{lap} << (64 - $log->{seq_bits}) | ($page * $log->{page} + $offset) >> 3;
}

sub page_of {
	my ($log, $lsn) = @_;
	return int((($lsn & (1 << (64 - $log->{seq_bits})) - 1) << 3) / $log->{page});
}

sub next_page {
	my ($log) = @_;
	my $page = $log->{at}[0] + 1;
	if ($page == $log->{pages}) {
		$page = $log->{ring};
		$log->{lap}++;
	}
	$log->{at} = [$page, $log->{data}];
	$log->{lapped}{$page} = delete $log->{body}{$page} if exists $log->{body}{$page};
	delete @{$log->{$_}}{$page} for qw(head before);
}

# ---- records ----

# What a client record's data begin with: default, and the template of each. The data come behind the LCNs; an `extra`
# is appended as it is.
my @client = (
	[redo => 0], [undo => 0], [redo_offset => undef], [redo_length => undef], [undo_offset => undef],
	[undo_length => undef], [attribute => 0x18], [n_lcns => undef], [record_offset => 0], [attribute_offset => 0],
	[index => 0], [attribute_flags => 0],
);

sub pad8 {
	return $_[0] . "\0" x (-length($_[0]) & 7);
}

# At least one LCN has its place, as Windows does it.
sub client_data {
	my (%r) = @_;
	my @lcns = @{$r{lcns} // []};
	my ($redo, $undo) = map $_ // '', @r{qw(redo_data undo_data)};
	my $list = pack 'q<*', @lcns ? @lcns : 0;
	my %field = (
		redo_offset => 0x20 + length $list, redo_length => length $redo, undo_length => length $undo,
		undo_offset => 0x20 + length($list) + length pad8($redo), n_lcns => scalar @lcns,
	);
	my @words = map $r{$_->[0]} // $field{$_->[0]} // $_->[1], @client;
	return pad8(pack('v12 q<', @words, $r{vcn} // 0) . $list . pad8($redo) . pad8($undo) . ($r{extra} // ''));
}

# One record with any data; returns its LSN. Keys: type, transaction, previous, undo_next, length (a wrong one).
sub append {
	my ($log, $data, %r) = @_;
	my ($page, $offset) = @{$log->{at}};
	my $lsn = $r{lsn} // lsn_at($log, $page, $offset);
	my $transaction = $r{transaction} // 0;
	my $previous = $r{previous} // ($transaction ? $log->{last_of}{$transaction} // 0 : 0);
	my $bytes = pack('Q<3 V v2 V2 v x6', $lsn, $previous, $r{undo_next} // $previous, $r{length} // length $data,
		0, 0, $r{type}, $transaction, $offset + HEADER + length $data > $log->{page} ? 1 : 0) . $data;
	$log->{last_of}{$transaction} = $lsn;
	push @{$log->{records}}, {%r, lsn => $lsn, transaction => $transaction, data_length => length $data,
		page => $page, offset => $offset};
	put($log, $lsn, $bytes);
	return $lsn;
}

# The bytes into as many pages as they need, and what the headers of those say about them.
sub put {
	my ($log, $lsn, $bytes) = @_;
	while (1) {
		my ($page, $offset) = @{$log->{at}};
		my $body = $log->{body}{$page} // '';
		my $head = $log->{head}{$page} // {};
		my $part = substr $bytes, 0, $log->{page} - $offset, '';
		$log->{before}{$page} = [$body, {%$head}];
		$log->{body}{$page} = $body . $part;
		$log->{head}{$page} = {%$head, last_lsn => $lsn};
		$log->{at}[1] += length $part;
		if ($bytes eq '') {
			@{$log->{head}{$page}}{qw(ended next)} = ($lsn, $log->{at}[1]);
			last;
		}
		next_page($log);
	}
	next_page($log) if $log->{page} - $log->{at}[1] < HEADER;
}

sub record {
	my ($log, %r) = @_;
	return append($log, client_data(%r), type => 1, transaction => 0x18, %r);
}

# Of Windows 10: a version, the LSNs and lengths of the tables, all empty.
sub restart {
	my ($log, %r) = @_;
	return append($log, pack('V2 x104', 1, 0), type => 2, %r);
}

# Records of another file, until the next one begins at that place of the ring.
sub fill_to {
	my ($log, $page, $offset, %r) = @_;
	die "mklog: offset $offset of a page\n" if $offset & 7 || $offset < $log->{data};
	die "mklog: no record can begin at $offset\n" if $offset > $log->{page} - HEADER;
	my $least = HEADER + length client_data(%r);
	while ($log->{at}[0] != $page) {
		my $left = $log->{page} - $log->{at}[1];
		record($log, %r, extra => "\0" x ($left >= 2 * $least ? 0 : $left - $least));
	}
	while ((my $left = $offset - $log->{at}[1]) > 0) {
		record($log, %r, extra => "\0" x ($left >= 2 * $least ? 0 : $left - $least));
	}
	die "mklog: cannot end at $offset\n" if $log->{at}[1] != $offset;
}

# ---- pages ----

# The last two bytes of each sector, and a number that differs from page to page.
sub protect {
	my ($page, $usa, $number) = @_;
	my $count = length($page) / 512;
	my @saved = map substr($page, 512 * $_ - 2, 2), 1 .. $count;
	substr($page, $usa, 2 + 2 * $count) = pack 'v a2' . 'a2' x ($count - 1), $number, @saved;
	substr($page, 512 * $_ - 2, 2) = pack 'v', $number for 1 .. $count;
	return $page;
}

sub usn {
	return 1 + (257 * $_[0] + $_[1]) % 0xfffe;
}

# With `older` without what came last. In a tail copy of version 1.1 the place it belongs to is where otherwise the last
# LSN is.
sub record_page {
	my ($log, $number, %as) = @_;
	my ($body, $head) = $as{older} ? @{$log->{before}{$number}} : map $log->{$_}{$number}, qw(body head);
	my $last = $as{copy} && $log->{version} eq '1.1' ? $number * $log->{page} : $head->{last_lsn} // 0;
	my $page = pack('a4 v2 Q< V v3 x6 Q<', 'RCRD', USA_AT, 1 + $log->{page} / 512, $last,
		exists $head->{ended} ? 1 : 0,
		1, 1, $head->{next} // 0, $head->{ended} // 0);
	$page .= "\0" x ($log->{data} - length $page) . $body;
	$page .= "\0" x ($log->{page} - length $page);
	return protect($page, USA_AT, usn($number, $log->{lap}));
}

# Keys: clean, in_use, current, oldest, major, minor, and fields of the area: file_size, seq_bits, data_offset, ...
sub restart_page {
	my ($log, %r) = @_;
	my $last = $log->{records}[-1];
	my ($major, $minor) = split /\./, $log->{version};
	my $size = $log->{page};
	my $area = pack 'Q< v4 V v2 Q< V v2 V x4', $r{current} // ($last ? $last->{lsn} : 0), $r{clients} // 1, NOBODY,
		$r{in_use} // 1 ? 0 : NOBODY, $r{clean} ? 2 : 0, $r{seq_bits} // $log->{seq_bits},
		CLIENTS + 160, CLIENTS, $r{file_size} // $log->{pages} * $size, $last ? $last->{data_length} : 0,
		$r{header_length} // HEADER,
		$r{data_offset} // $log->{data}, $r{open_count} // 7;
	$area .= "\0" x (CLIENTS - length $area);
	my $oldest = $r{oldest} // ($last ? $log->{records}[0]{lsn} : 0);
	$area .= pack 'Q<2 v3 x6 V v4 x120', $oldest, $r{client_restart} // $oldest, NOBODY, NOBODY, 0, 8,
		unpack 'C*', 'NTFS';
	my $page = pack 'a4 v2 Q< V2 v v2', $r{magic} // 'RSTR', 0x1e, 1 + $size / 512, 0,
		$r{system_page_size} // $size,
		$r{log_page_size} // $size, $r{area_offset} // RESTART_AREA, $r{minor} // $minor, $r{major} // $major;
	$page .= "\0" x (RESTART_AREA - length $page) . $area;
	$page .= "\0" x ($size - length $page);
	return protect($page, 0x1e, usn($r{open_count} // 7, 3));
}

# The newest pages, one slot after the other from `slot` on. By `newest`:
#   ring   no copies (default)        both   the pages are in the ring and copied
#   copy   the ring has them not      older  the ring has them without their last record
#   stale  the copies have them so, the ring has all
# The other slots hold copies of the pages before those, as the ring has them or older.
sub copies {
	my ($log, $bytes, $newest, $pages, $slot) = @_;
	my $size = $log->{page};
	my $page = newest_page($log);
	my @slots = map 2 + ($slot - 2 + $_) % ($log->{ring} - 2), 0 .. $log->{ring} - 3;
	for (0 .. $#slots) {
		my $older = $newest eq 'stale' || $_ >= $pages && $_ & 1;
		substr($$bytes, $slots[$_] * $size, $size) =
			record_page($log, $page, copy => 1, older => $older && $log->{before}{$page}[0]);
		if ($_ < $pages) {
			substr($$bytes, $page * $size, $size) = "\xff" x $size if $newest eq 'copy';
			substr($$bytes, $page * $size, $size) =
				record_page($log, $page, older => 1) if $newest eq 'older';
		}
		$page = page_before($log, $page) // $page;
	}
}

# The one in which the last record ends; in version 2.0 the one in which it begins, see page_before().
sub newest_page {
	my ($log) = @_;
	my $page = $log->{at}[0];
	return $log->{version} eq '1.1' && exists $log->{body}{$page} ? $page : page_of($log, $log->{records}[-1]{lsn});
}

# One that a record begins in: what begins earlier tells nothing about where the page belongs.
sub page_before {
	my ($log, $page) = @_;
	for (1 .. $log->{pages} - $log->{ring}) {
		$page = $page == $log->{ring} ? $log->{pages} - 1 : $page - 1;
		return undef if !exists $log->{body}{$page};
		return $page if page_of($log, $log->{head}{$page}{last_lsn}) == $page;
	}
	return undef;
}

# Keys: those of restart_page() for both of them; `first` and `second`: such keys for one; newest, copied (how many
# pages: 1), slot (2): see copies(); `stale`: behind the last record is what the lap before left there, not zeros.
sub stream {
	my ($log, %r) = @_;
	my $size = $log->{page};
	my $last = page_of($log, $log->{records}[-1]{lsn});
	local $log->{body}{$last} = $log->{body}{$last};
	$log->{body}{$last} .= substr $log->{lapped}{$last}, length $log->{body}{$last} if $r{stale};
	my $bytes = "\xff" x $log->{size};
	substr($bytes, 0, $size) = restart_page($log, %r, %{$r{first} // {}});
	substr($bytes, $size, $size) = restart_page($log, %r, open_count => 8, %{$r{second} // {}});
	for my $page (keys %{$log->{body}}) {
		substr($bytes, $page * $size, $size) = record_page($log, $page);
	}
	copies($log, \$bytes, $r{newest}, $r{copied} // 1, $r{slot} // 2) if ($r{newest} // 'ring') ne 'ring';
	return $bytes;
}

sub edit {
	my ($bytes, $number, $change, $size) = @_;
	$size //= 4096;
	my $page = substr $$bytes, $number * $size, $size;
	my $usa = unpack 'v', substr $page, 4, 2;
	my ($usn, @saved) = unpack 'v a2' . 'a2' x ($size / 512 - 1), substr $page, $usa, 2 + $size / 256;
	substr($page, 512 * $_ - 2, 2) = $saved[$_ - 1] for 1 .. $size / 512;
	$change->($page);
	substr($$bytes, $number * $size, $size) = protect($page, $usa, $usn);
}

# ---- on a volume ----

sub runs {
	my ($image, $record) = @_;
	my ($data, @runs);
	open my $boot, '<:raw', $image or die "$image: $!";
	sysread $boot, my $sector, 512;
	my ($bytes, $sectors) = unpack 'x11 v C', $sector;
	my $cluster = $bytes * ($sectors > 128 ? 1 << 256 - $sectors : $sectors);
	open my $said, '-|', 'sh', '-c', 'exec ntfscluster -q -f -I "$0" "$1" 2>/dev/null', $record, $image or die $!;
	for (<$said>) {
		$data = /0x80/ if /^\s*0x/;
		push @runs, [$2 * $cluster, $3 * $cluster] if $data && /^\s*(\d+)\s+(\d+)\s+(\d+)\s*$/;
	}
	die "$image: ntfscluster finds no data of MFT record $record\n" if !@runs;
	return @runs;
}

sub plant {
	my ($image, $bytes, @runs) = @_;
	open my $file, '+<:raw', $image or die "$image: $!";
	for (@runs) {
		my $part = substr $bytes, 0, $_->[1], '';
		sysseek $file, $_->[0], 0;
		(syswrite($file, $part) // 0) == length $part or die "$image: $!";
	}
	die "$image: \$LogFile is too short\n" if $bytes ne '';
	close $file or die "$image: $!";
}

# ---- the command ----

sub number {
	return $_[0] =~ /^0/ ? oct $_[0] : $_[0];
}

sub words {
	my %r = map { my ($key, $value) = split /=/, $_, 2; ($key => $value // '') } @_;
	for (keys %r) {
		$r{$_} = $_ eq 'lcns' ? [map number($_), split /,/, $r{$_}] : /_data$/ ? pack 'H*', $r{$_} :
			/^(?:version|newest)$/ ? $r{$_} : number($r{$_});
	}
	return %r;
}

sub make {
	my ($path, @words) = @_;
	my %r = words(@words);
	my $log = new(%r);
	for (<STDIN>) {
		my @of = split;
		next if !@of;
		$of[0] eq 'restart' ? restart($log, words(@of[1 .. $#of])) : record($log, words(@of));
	}
	open my $file, '>:raw', $path or die "$path: $!";
	print $file stream($log, %r);
	close $file or die "$path: $!";
}

sub main {
	my ($verb, $path, @rest) = @_;
	if (($verb // '') eq 'make' && defined $path) {
		make($path, @rest);
	} elsif (($verb // '') eq 'plant' && @rest == 1) {
		open my $file, '<:raw', $rest[0] or die "$rest[0]: $!";
		my $bytes = do { local $/; <$file> };
		plant($path, $bytes, runs($path, 2));
	} else {
		die "usage: mklog.pl make FILE [KEY=VALUE...], mklog.pl plant IMAGE FILE\n";
	}
}

main(@ARGV) if !caller;
1;
