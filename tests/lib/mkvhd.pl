#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes and changes footers of fixed VHD images, right or wrong ones. Perl programs may `require` it.
#
#   mkvhd.pl append FILE [FIELD=VALUE...]   a footer behind FILE, which is the disk
#   mkvhd.pl patch FILE [FIELD=VALUE...]    changes the footer at the end of FILE
#   mkvhd.pl show FILE                      FIELD=VALUE lines
#
# FIELD is one of the table below; a number may be written as in C. Besides:
#   chs=C/H/S       cylinders, heads and sectors
#   flip=BYTE.BIT   flips a bit, after all else
#   bytes=511       append: without the last byte, as before Virtual PC 2004
#   at=start        patch, show: the copy that a dynamic image begins with
# The checksum is computed anew unless it is given.
package mkvhd;
use strict;
use warnings;
no warnings "portable"; # perl has 64 bits here

use constant BYTES => 512;

# "Virtual Hard Disk Image Format Specification" 1.0, "Hard Disk Footer Format": offset, length, kind.
my @fields = (
	[cookie => 0, 8, 'text'], [features => 8, 4], [version => 12, 4], [data_offset => 16, 8],
	[time => 24, 4], [creator => 28, 4, 'text'], [creator_version => 32, 4], [os => 36, 4, 'text'],
	[original_size => 40, 8], [current_size => 48, 8], [cylinders => 56, 2], [heads => 58, 1],
	[sectors => 59, 1], [type => 60, 4], [checksum => 64, 4], [uuid => 68, 16, 'text'], [saved => 84, 1],
);
my %field = map { $_->[0] => $_ } @fields;
my %unpack = (1 => 'C', 2 => 'n', 4 => 'N', 8 => 'Q>');

sub get {
	my ($footer, $name) = @_;
	my (undef, $at, $length, $kind) = @{$field{$name}};
	my $bytes = substr $footer, $at, $length;
	return $kind ? $bytes : unpack $unpack{$length}, $bytes;
}

# $_[0] is changed.
sub set {
	my (undef, $name, $value) = @_;
	my (undef, $at, $length, $kind) = @{$field{$name} or die "mkvhd: there is no field $name\n"};
	$value = $value =~ /^0/ ? oct $value : $value if !$kind;
	substr($_[0], $at, $length) = $kind ? pack "a$length", $value : pack $unpack{$length}, $value;
}

sub checksum {
	my ($footer) = @_;
	set($footer, checksum => 0);
	return ~unpack('%32C*', $footer) & 0xffffffff;
}

# footer($size, field => value...): in the words of the specification's example of a fixed disk.
sub footer {
	my ($size, @changes) = @_;
	my $footer = "\0" x BYTES;
	set($footer, @$_) for [cookie => 'conectix'], [features => 2], [version => 0x10000],
		[data_offset => 0xffffffffffffffff], [time => 0x12345678], [creator => 'win '],
		[creator_version => 0xa0000], [os => 'Wi2k'], [original_size => $size],
		[current_size => $size], [cylinders => ($size / 512 / 17 / 4) & 0xffff], [heads => 4],
		[sectors => 17], [type => 2], [uuid => join '', map chr, 0xa0 .. 0xaf];
	return change($footer, @changes);
}

sub change {
	my ($footer, @changes) = @_;
	my ($checksum, @flips);
	while (my ($name, $value) = splice @changes, 0, 2) {
		if ($name eq 'checksum') {
			$checksum = $value;
		} elsif ($name eq 'flip') {
			push @flips, [split /\./, $value];
		} elsif ($name eq 'chs') {
			my @chs = split m{/}, $value;
			set($footer, $_ => shift @chs) for qw(cylinders heads sectors);
		} else {
			set($footer, $name => $value);
		}
	}
	set($footer, checksum => $checksum // checksum($footer));
	substr($footer, $_->[0], 1) ^= chr(1 << $_->[1]) for @flips;
	return $footer;
}

# ---- the command ----

sub show {
	my ($footer) = @_;
	for (@fields) {
		my ($name, undef, $length, $kind) = @$_;
		my $value = get($footer, $name);
		printf "%s=%s\n", $name,
			$name eq 'uuid' ? unpack('H*', $value)
			: $kind ? $value =~ s/\0+$//r
			: $name =~ /size|cylinders|heads|sectors|type|saved/ ? $value
			: sprintf '0x%0*x', 2 * $length, $value;
	}
}

sub main {
	my ($verb, $path, @changes) = @ARGV;
	die "usage: mkvhd.pl append|patch|show FILE [FIELD=VALUE...]\n"
		if !$path || $verb !~ /^(append|patch|show)$/ || grep !/=/, @changes;
	my %option = (bytes => BYTES, at => 'end');
	my @pairs;
	for (map [split /=/, $_, 2], @changes) {
		if (exists $option{$_->[0]}) {
			$option{$_->[0]} = $_->[1];
		} else {
			push @pairs, @$_;
		}
	}
	open my $file, $verb eq 'show' ? '<' : '+<', $path or die "mkvhd: $path: $!\n";
	binmode $file;
	binmode STDOUT;
	my $at = $verb eq 'append' ? -s $path : $option{at} eq 'start' ? 0 : (-s $path) - BYTES;
	seek $file, $at, 0 or die "mkvhd: $path: $!\n";
	my $footer;
	if ($verb eq 'append') {
		$footer = footer($at, @pairs);
	} else {
		read($file, $footer, BYTES) == BYTES or die "mkvhd: $path: too short\n";
	}
	return show($footer) if $verb eq 'show';
	$footer = change($footer, @pairs) if $verb eq 'patch';
	seek $file, $at, 0;
	print $file substr $footer, 0, $option{bytes};
	close $file or die "mkvhd: $path: $!\n";
}

main() unless caller;
1;
