# SPDX-License-Identifier: GPL-2.0-or-later
# A qcow2 to be damaged: `require` this from package main.
#
#   $q = qcow_open PATH          its header as fields: bits, cluster, l1, l1_size, rt, rt_clusters, width, version, wide
#   l1($q, i), l2($q, i)         entries, i as a cluster of the disk for l2; with one more argument: set it
#   l2bits($q, i)                the second word of an extended L2 entry
#   rt($q, i), rc($q, i)         an entry of the refcount table; the refcount of cluster i of the file
#   word($q, at)                 eight bytes anywhere
#   home($q, i)                  where cluster i of the disk is in the file
#   free_cluster($q)             a cluster that counts as free, but for the last
use strict;
use warnings;
no warnings 'portable';

use constant { COPIED => 1 << 63, COMPRESSED => 1 << 62, OFFSET => 0x00fffffffffffe00 };

sub qcow_open {
	my ($path) = @_;
	open my $f, '+<:raw', $path or die "$path: $!";
	my %q = (f => $f, size => -s $path);
	@q{qw(version bits)} = (half(\%q, 4), half(\%q, 20));
	$q{cluster} = 1 << $q{bits};
	@q{qw(l1_size l1 rt rt_clusters)} = (half(\%q, 36), word(\%q, 40), word(\%q, 48), half(\%q, 56));
	$q{width} = 1 << ($q{version} > 2 ? half(\%q, 96) : 4);
	$q{wide} = $q{version} > 2 && word(\%q, 72) & 16;
	return \%q;
}

sub bytes {
	my ($q, $at, $n, $new) = @_;
	sysseek $q->{f}, $at, 0 or die $!;
	if (defined $new) {
		(syswrite($q->{f}, $new) // 0) == $n or die "$n bytes at $at: $!";
		return $new;
	}
	my $got = '';
	sysread $q->{f}, $got, $n;
	return $got . "\0" x ($n - length $got);
}

sub half {
	my ($q, $at, $new) = @_;
	return unpack 'N', bytes($q, $at, 4, defined $new ? pack 'N', $new : undef);
}

sub word {
	my ($q, $at, $new) = @_;
	return unpack 'Q>', bytes($q, $at, 8, defined $new ? pack 'Q>', $new : undef);
}

sub l1 {
	my ($q, $i, @new) = @_;
	return word($q, $q->{l1} + 8 * $i, @new);
}

sub l2_at {
	my ($q, $i) = @_;
	my $entry = $q->{wide} ? 16 : 8;
	my $n = $q->{cluster} / $entry;
	return (l1($q, int $i / $n) & OFFSET) + $entry * ($i % $n);
}

sub l2 {
	my ($q, $i, @new) = @_;
	return word($q, l2_at($q, $i), @new);
}

sub l2bits {
	my ($q, $i, @new) = @_;
	return word($q, l2_at($q, $i) + 8, @new);
}

sub home {
	my ($q, $i) = @_;
	return l2($q, $i) & OFFSET;
}

sub rt {
	my ($q, $i, @new) = @_;
	return word($q, $q->{rt} + 8 * $i, @new);
}

sub rc {
	my ($q, $i, $new) = @_;
	my $w = $q->{width};
	my $n = 8 * $q->{cluster} / $w;
	my $block = rt($q, int $i / $n) or return 0;
	my $bit = $i % $n * $w;
	my $bytes = $w < 8 ? 1 : $w / 8;
	my $at = $block + ($bit >> 3);
	my $old = unpack 'Q>', "\0" x (8 - $bytes) . bytes($q, $at, $bytes);
	my $mask = $w == 64 ? ~0 : (1 << $w) - 1;
	my $shift = $w < 8 ? $bit & 7 : 0;
	return $old >> $shift & $mask if !defined $new;
	$old = $old & ~($mask << $shift) | ($new & $mask) << $shift;
	bytes($q, $at, $bytes, substr pack('Q>', $old), 8 - $bytes);
	return $new;
}

sub free_cluster {
	my ($q) = @_;
	for my $i (1 .. $q->{size} / $q->{cluster} - 2) {
		return $i if !rc($q, $i);
	}
	die 'no cluster is free';
}

1;
