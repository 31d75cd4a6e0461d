#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# Dynamic and differencing VHD images for tests of the kernel target, and where they lie on a disk.
#
#   vhdlay.pl room FILE BYTES          moves the footer back: room for new blocks
#   vhdlay.pl place FILE DISK START N  writes FILE to DISK in N pieces, in reverse order with gaps, the last
#                                      one at sector START; prints the extents as the target takes them
#   vhdlay.pl take DISK BYTES EXTENT.. prints the file again
#   vhdlay.pl outside DISK EXTENT...   the hash of all that is not in the extents
#   vhdlay.pl child RAW CHILD EXPECTED SEED   a differencing image over a parent with the contents RAW: some
#                                      blocks with some of their sectors; EXPECTED is what it reads as
#   vhdlay.pl entry FILE N [VALUE]     the N-th block's table entry, or changes it
use strict;
use warnings;
use Digest::SHA;
no warnings "portable"; # perl has 64 bits here

use constant { SECTOR => 512, BLOCK => 2 << 20 };

sub slurp {
	my ($name) = @_;
	open my $file, '<:raw', $name or die "$name: $!\n";
	local $/;
	return <$file> // '';
}

sub spit {
	my ($name, $bytes) = @_;
	open my $file, '>:raw', $name or die "$name: $!\n";
	print $file $bytes;
	close $file or die "$name: $!\n";
}

sub extents { return map { /^0:(\d+)\+(\d+)$/ or die "extent: $_\n"; [$1 * SECTOR, $2 * SECTOR] } @_ }

sub room {
	my ($name, $bytes) = @_;
	my $size = -s $name;
	open my $file, '+<:raw', $name or die "$name: $!\n";
	seek $file, $size - SECTOR, 0;
	read $file, my $footer, SECTOR;
	truncate $file, $size - SECTOR;
	seek $file, $size - SECTOR + $bytes, 0;
	print $file $footer;
	close $file or die "$name: $!\n";
}

sub place {
	my ($name, $disk, $start, $n) = @_;
	my $size = -s $name;
	my $piece = 8 * int(($size / $n + 8 * SECTOR - 1) / (8 * SECTOR)); # sectors
	open my $in, '<:raw', $name or die "$name: $!\n";
	open my $out, '+<:raw', $disk or die "$disk: $!\n";
	my @extents;
	for my $i (0 .. $n - 1) {
		my $to = $start + ($n - 1 - $i) * ($piece + 8);
		seek $out, $to * SECTOR, 0;
		my $length = read $in, my $bytes, $piece * SECTOR;
		last unless $length;
		print $out $bytes;
		push @extents, sprintf '0:%d+%d', $to, 8 * int(($length + 8 * SECTOR - 1) / (8 * SECTOR));
	}
	print "@extents\n";
}

sub take {
	my ($disk, $bytes, @extents) = @_;
	open my $in, '<:raw', $disk or die "$disk: $!\n";
	binmode STDOUT;
	for (extents(@extents)) {
		seek $in, $_->[0], 0;
		read $in, my $piece, $_->[1] < $bytes ? $_->[1] : $bytes;
		print $piece;
		$bytes -= length $piece;
	}
}

sub outside {
	my ($disk, @extents) = @_;
	my ($sha, $at) = (Digest::SHA->new(256), 0);
	open my $in, '<:raw', $disk or die "$disk: $!\n";
	for ((sort { $a->[0] <=> $b->[0] } extents(@extents)), [-s $disk, 0]) {
		seek $in, $at, 0;
		read $in, my $piece, $_->[0] - $at;
		$sha->add($piece);
		$at = $_->[0] + $_->[1];
	}
	print $sha->hexdigest, "\n";
}

sub checked {
	my ($bytes, $at) = @_;
	substr $bytes, $at, 4, pack 'N', 0;
	substr $bytes, $at, 4, pack 'N', ~unpack('%32C*', $bytes) & 0xffffffff;
	return $bytes;
}

# "Hard Disk Footer Format" and "Dynamic Disk Header Format".
sub footer {
	my ($size) = @_;
	return checked(pack('a8 N N Q> N a4 N a4 Q> Q> n C C N N a16 C x427', 'conectix', 2, 0x10000, SECTOR, 0, 'win ',
		0x60001, 'Wi2k', $size, $size, 1000, 4, 17, 4, 0, 'child of a test!', 0), 64);
}

sub header {
	my ($entries) = @_;
	my $locators = pack('a4 N N N Q>', '', 0, 0, 0, 0) x 8;
	return checked(pack('a8 Q> Q> N N N N a16 N N a512 a192 x256', 'cxsparse', ~0, 1536, 0x10000, $entries, BLOCK, 0,
		'the parent is it', 0, 0, join('', map { "\0$_" } split //, 'parent.vhd'), $locators), 36);
}

sub child {
	my ($parent, $name, $expected, $seed) = @_;
	my $raw = slurp($parent);
	my $entries = (length($raw) + BLOCK - 1) / BLOCK;
	my @bat = (0xffffffff) x $entries;
	my $table = SECTOR * int(($entries * 4 + SECTOR - 1) / SECTOR);
	my $blocks = '';
	srand $seed;
	for my $block (grep { $_ % 3 != 1 } 0 .. $entries - 2) {
		my ($bitmap, $data) = ("\0" x SECTOR, '');
		for my $sector (0 .. BLOCK / SECTOR - 1) {
			my $at = $block * BLOCK + $sector * SECTOR;
			my $mine = int($sector / 24) % (2 + $block % 5) == 0;
			my $bytes = pack('N', rand 2**32) x (SECTOR / 4);
			$data .= $bytes;
			next unless $mine;
			substr $raw, $at, SECTOR, $bytes;
			my $byte = ord substr $bitmap, $sector >> 3, 1;
			substr $bitmap, $sector >> 3, 1, chr($byte | 0x80 >> $sector % 8);
		}
		$bat[$block] = (1536 + $table + length $blocks) / SECTOR;
		$blocks .= $bitmap . $data;
	}
	my $footer = footer(length $raw);
	my $bat = pack 'N*', @bat;
	$bat .= "\xff" x ($table - length $bat);
	spit($name, $footer . header(scalar @bat) . $bat . $blocks . $footer);
	spit($expected, $raw);
}

sub entry {
	my ($name, $n, $value) = @_;
	open my $file, '+<:raw', $name or die "$name: $!\n";
	seek $file, SECTOR + 16, 0;
	read $file, my $bytes, 8;
	my $at = unpack('Q>', $bytes) + 4 * $n;
	seek $file, $at, 0;
	if (defined $value) {
		print $file pack 'N', $value;
		print "$at\n";
	} else {
		read $file, $bytes, 4;
		print unpack('N', $bytes), "\n";
	}
}

my %verbs = (room => \&room, place => \&place, take => \&take, outside => \&outside, child => \&child, entry => \&entry);
my $verb = $verbs{shift // ''} or die "usage: see the head of this file\n";
$verb->(@ARGV);
