# SPDX-License-Identifier: GPL-2.0-or-later
# What a qcow2 in memory reads as, and whether its refcounts are those of an image that is whole: no compressed
# clusters, refcounts of 16 bits. For lib/powercut.pl, which asks qemu-img about some of the images only.
#
#   qcowcut::contents(\$FILE, $SIZE, $BELOW)   $BELOW: what its backing file reads as, or undef
#   qcowcut::fault(\$FILE)                     what is wrong, or ''; leaks are not
#   qcowcut::snapshots(\$FILE)                 how many it has
# Both die of a pointer that leaves the file.
package qcowcut;
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here

use constant { COPIED => 1 << 63, COMPRESSED => 1 << 62, OFFSET => 0x00fffffffffffe00, ZERO => 1 };
use constant EXTENDED_L2 => 16; # of incompatible_features

# qcow2.txt, "Header"
sub header {
	my ($file) = @_;
	my %h;
	@h{qw(bits l1_size l1 rt rt_clusters n_snapshots snapshots features)} = unpack 'x20 N x12 N Q> Q> N N Q> Q>', $$file;
	$h{cluster} = 1 << $h{bits};
	$h{wide} = $h{features} & EXTENDED_L2;
	return \%h;
}

sub snapshots {
	return header(@_)->{n_snapshots};
}

sub words {
	my ($file, $at, $n) = @_;
	length $$file >= $at + 8 * $n or die "a table at byte $at leaves the file\n";
	return unpack 'Q>*', substr $$file, $at, 8 * $n;
}

# [entry, subclusters] of all of a table
sub l2 {
	my ($file, $h, $entry) = @_;
	my @words = words($file, $entry & OFFSET, $h->{cluster} / 8);
	return $h->{wide} ? map [@words[2 * $_, 2 * $_ + 1]], 0 .. $#words / 2 : map [$_, undef], @words;
}

# ---- contents ----

sub piece {
	my ($file, $host, $n) = @_;
	length $$file >= $host + $n or die "data at byte $host leave the file\n";
	return substr $$file, $host, $n;
}

sub cluster {
	my ($file, $h, $below, $at, $entry, $bits) = @_;
	my $host = $entry & OFFSET;
	my $under = sub {
		my ($skip, $n) = @_;
		my $bytes = defined $below && $at + $skip < length $below ? substr $below, $at + $skip, $n : '';
		return $bytes . "\0" x ($n - length $bytes);
	};
	die "a compressed cluster\n" if $entry & COMPRESSED;
	if (!$h->{wide}) {
		return "\0" x $h->{cluster} if $entry & ZERO;
		return $host ? piece($file, $host, $h->{cluster}) : $under->(0, $h->{cluster});
	}
	my $n = $h->{cluster} / 32;
	return join '', map {
		$bits >> $_ & 1 ? piece($file, $host + $_ * $n, $n) : $bits >> 32 + $_ & 1 ? "\0" x $n : $under->($_ * $n, $n)
	} 0 .. 31;
}

sub contents {
	my ($file, $size, $below) = @_;
	my $h = header($file);
	my ($out, $span) = ('', $h->{cluster} * $h->{cluster} / ($h->{wide} ? 16 : 8));
	for my $l1 (words($file, $h->{l1}, $h->{l1_size})) {
		my @l2 = $l1 & OFFSET ? l2($file, $h, $l1) : map [0, 0], 1 .. $span / $h->{cluster};
		for (@l2) {
			last if length $out >= $size;
			$out .= cluster($file, $h, $below, length $out, @$_);
		}
	}
	return substr $out, 0, $size;
}

# ---- refcounts ----

sub refcounts {
	my ($file, $h, $seen) = @_;
	my @counts;
	my $each = $h->{cluster} / 2;
	$seen->($h->{rt}, $h->{rt_clusters});
	my @table = words($file, $h->{rt}, $h->{rt_clusters} * $h->{cluster} / 8);
	for my $n (grep $table[$_], 0 .. $#table) {
		$seen->($table[$n], 1);
		@counts[$n * $each .. ($n + 1) * $each - 1] = unpack 'n*', piece($file, $table[$n], $h->{cluster});
	}
	return @counts;
}

# Offset and size of the L1 tables: the active one's, and qcow2.txt, "Snapshots"
sub l1_tables {
	my ($file, $h, $seen) = @_;
	my @tables = [$h->{l1}, $h->{l1_size}];
	my $at = $h->{snapshots};
	for (1 .. $h->{n_snapshots}) {
		my ($l1, $n, $id, $name, $extra) = unpack 'Q> N n n x20 N', substr $$file, $at, 40;
		push @tables, [$l1, $n];
		$at += 40 + $extra + $id + $name + 7 & ~7;
	}
	$seen->($h->{snapshots}, ($at - $h->{snapshots} + $h->{cluster} - 1) >> $h->{bits}) if @tables > 1;
	return @tables;
}

sub fault {
	my ($file) = @_;
	my $h = header($file);
	my (@refs, @flags);
	my $seen = sub {
		my ($at, $n) = @_;
		$refs[($at >> $h->{bits}) + $_]++ for 0 .. $n - 1;
	};
	$seen->(0, 1);
	my @counts = refcounts($file, $h, $seen);
	my @tables = l1_tables($file, $h, $seen);
	for my $t (0 .. $#tables) {
		my ($l1, $n) = @{$tables[$t]};
		$seen->($l1, ($n * 8 + $h->{cluster} - 1) >> $h->{bits});
		for my $entry (grep $_ & OFFSET, words($file, $l1, $n)) {
			for ($entry, grep $_ & OFFSET, map $_->[0], l2($file, $h, $entry)) {
				$refs[($_ & OFFSET) >> $h->{bits}]++;
				push @flags, $_ if !$t;
			}
		}
	}
	for (grep $refs[$_], 0 .. $#refs) {
		return "cluster $_ has $refs[$_] references, refcount " . ($counts[$_] // 0) if ($counts[$_] // 0) < $refs[$_];
	}
	for (@flags) {
		my $count = $counts[($_ & OFFSET) >> $h->{bits}];
		return sprintf 'COPIED of %#x, refcount %d', $_, $count if ($count == 1) != (($_ & COPIED) != 0);
	}
	return '';
}

1;
