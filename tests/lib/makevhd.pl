#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes dynamic and differencing VHD images, and beside each one what it reads as: its model, a raw file. Perl programs
# may `require` it. It is written from the specification and shares nothing with libvdisk.
#
#   makevhd.pl IMAGE MODEL [OPTION=VALUE...]     prints FACT=VALUE lines, the seed among them
#
# Where nothing is said, the seed decides.
#   seed=N             of all that is random (0: the clock's)
#   size=BYTES         of the disk; whole sectors
#   block=BYTES        512 to 64 MiB, a power of two (2 MiB)
#   parent=IMAGE parent_model=MODEL   makes a differencing image; the parent lies in the same folder
#   parent_path='..\x.vhd'            or there, as the child should write it
#   creator='win '     and with it, whether the size or the geometry counts
#   allocate=PERCENT   of the blocks (50)
#   bitmaps=ones|zeros|random|bits|rising   see bitmap(); a dynamic image's say nothing, so that all is allowed there
#   layout=plain|mixed plain: header, locators, table, blocks in order; mixed: in any order, with gaps
#   gap=SECTORS        the longest gap (9)
#   room=BYTES         between the last block and the footer; full of stale bytes, like all gaps
#   extra=ENTRIES      of the table, more than the size needs
#   footer=good|lost|cut|511   stale bytes in its place; the file ends before it; without its last byte
#   space=bytes|sectors        the unit of Platform Data Space: the specification says sectors, Hyper-V writes bytes
#   locators=w2ru,w2ku,macx    which, in which order
#   time=SECONDS uuid=HEX parent_time=SECONDS   since the year 2000; the last is 0
package makevhd;
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use Encode qw(encode);
use Fcntl qw(SEEK_SET);
use File::Basename qw(basename dirname);
require(dirname(__FILE__) . '/mkvhd.pl');

use constant SECTOR => 512;
use constant HEADER => 1024;
use constant NOWHERE => 0xffffffff;

# "Dynamic Disk Header Format": offset, length, kind. The locators follow at 576, 24 bytes each.
my %field = (
	cookie => [0, 8, 'text'], data_offset => [8, 8], table_offset => [16, 8], version => [24, 4], entries => [28, 4],
	block_size => [32, 4], checksum => [36, 4], parent_uuid => [40, 16, 'text'], parent_time => [56, 4],
	reserved => [60, 4], parent_name => [64, 512, 'text'],
);
for my $n (0 .. 7) {
	my $at = 576 + 24 * $n;
	$field{"locator$n.code"} = [$at, 4, 'text'];
	$field{"locator$n.space"} = [$at + 4, 4];
	$field{"locator$n.length"} = [$at + 8, 4];
	$field{"locator$n.reserved"} = [$at + 12, 4];
	$field{"locator$n.offset"} = [$at + 16, 8];
}
my %template = (4 => 'N', 8 => 'Q>');

sub fields {
	return \%field;
}

sub get {
	my ($header, $name) = @_;
	my ($at, $length, $kind) = @{$field{$name} or die "makevhd: there is no field $name\n"};
	my $bytes = substr $header, $at, $length;
	return $kind ? $bytes : unpack $template{$length}, $bytes;
}

# $_[0] is changed.
sub set {
	my (undef, $name, $value) = @_;
	my ($at, $length, $kind) = @{$field{$name} or die "makevhd: there is no field $name\n"};
	substr($_[0], $at, $length) = $kind ? pack "a$length", $value : pack $template{$length}, $value;
}

sub checksum {
	my ($header) = @_;
	set($header, checksum => 0);
	return ~unpack('%32C*', $header) & 0xffffffff;
}

# ---- contents ----

my $noise = ''; # one sector without a pattern

# Sectors [$from, $from + $count) of layer $id: no two sectors of any layers are the same.
sub data {
	my ($id, $from, $count) = @_;
	return join '', map $noise ^ (pack('NN', $id, $_) x (SECTOR / 8)), $from .. $from + $count - 1;
}

# What must never show.
sub stale {
	my ($bytes) = @_;
	return substr +("\xdb\x00stale!\xff" x ($bytes / 9 + 2)), int rand 9, $bytes;
}

sub pick {
	return $_[rand @_];
}

sub round_up {
	my ($n, $unit) = @_;
	return int(($n + $unit - 1) / $unit) * $unit;
}

# The bits of a block, a byte each, "0" or "1".
#   random    noise                         zeros, ones
#   bits      single sectors here and there, runs, every second one, or noise
#   rising    the ones of a byte of the bitmap stand behind its zeros: all that libvhdi reads right
sub bitmap {
	my ($kind, $sectors) = @_;
	return $kind eq 'ones' ? '1' x $sectors : '0' x $sectors if $kind eq 'ones' || $kind eq 'zeros';
	my $bytes = int(($sectors + 7) / 8);
	if ($kind eq 'rising') {
		my $way = int rand 4;
		return substr join('', map {
			my $ones = $way == 0 ? int rand 9 : $way == 1 ? 8 * int rand 2 : rand(16) < 1 ? int rand 9 : 8 * ($way - 2);
			'0' x (8 - $ones) . '1' x $ones;
		} 1 .. $bytes), 0, $sectors;
	}
	my $way = $kind eq 'random' ? 0 : int rand 6;
	return substr unpack('B*', pack 'C*', map int rand 256, 1 .. $bytes), 0, $sectors if $way == 0;
	return substr '01' x $sectors, int rand 2, $sectors if $way == 1;
	return ('0', '1')[rand 2] x $sectors if $way == 2;
	my $bits = ('0', '1')[$way & 1] x $sectors;
	if ($way < 5) { # single sectors
		substr($bits, rand $sectors, 1) = $way & 1 ? '0' : '1' for 0 .. rand 5;
		return $bits;
	}
	for (0 .. rand 5) { # runs
		my $at = int rand $sectors;
		my $length = 1 + int rand($sectors - $at);
		substr($bits, $at, $length) = ('0', '1')[rand 2] x $length;
	}
	return $bits;
}

# ---- where things are ----

sub utf16 {
	my ($order, $text) = @_;
	return encode("UTF-16$order", $text);
}

# [code, bytes] of each locator.
sub locators {
	my ($o, $path) = @_;
	my $relative = $path =~ /^\.\.?\\/ ? $path : ".\\$path";
	my %made = (
		w2ru => ['W2ru', utf16(LE => $relative)],
		w2ku => ['W2ku', utf16(LE => 'C:\\Users\\Public\\Disks\\' . $path =~ s/.*\\//r)],
		macx => ['MacX', 'file://localhost/Disks/' . $path =~ tr{\\}{/}r],
		wi2r => ['Wi2r', encode('ISO-8859-1', $relative)],
	);
	return map $made{$_} // die("makevhd: there is no locator $_\n"), split /,/, $o->{locators};
}

# Gives each piece its place; returns where the last one ends.
sub lay_out {
	my ($o, @pieces) = @_;
	@pieces = sort { $a->{order} <=> $b->{order} } map { $_->{order} = rand; $_ } @pieces if $o->{layout} eq 'mixed';
	my $at = SECTOR;
	for (@pieces) {
		$at += SECTOR * int rand($o->{gap} + 1) if $o->{layout} eq 'mixed';
		$_->{at} = $at;
		$at = round_up($at + $_->{bytes}, SECTOR);
	}
	return $at;
}

# What the size of a disk is, by who made it: [current size, geometry] that both mean $size.
sub sizes {
	my ($creator, $size) = @_;
	my $sectors = $size / SECTOR;
	if ($creator eq 'vpc ' || $creator eq 'qemu') {
		for my $heads (16, 8, 4, 3, 2, 1) {
			for my $per_track (reverse 1 .. 63) {
				next if $sectors % ($heads * $per_track);
				my $cylinders = $sectors / ($heads * $per_track);
				# rounded up, as Virtual PC does
				return ($size + SECTOR * int rand 4, "$cylinders/$heads/$per_track") if $cylinders < 65535;
			}
		}
	}
	# What qemu does not know it reads by its geometry, but for the largest one.
	return ($size, '65535/16/255');
}

# ---- writing ----

sub put {
	my ($file, $at, $bytes) = @_;
	seek $file, $at, SEEK_SET or die "makevhd: $!\n";
	print $file $bytes or die "makevhd: $!\n";
}

sub zeros {
	my ($bytes) = @_;
	return $bytes !~ /[^\0]/;
}

# One block: its bitmap, its sectors, and what the model gets of them.
sub put_block {
	my ($o, $image, $model, $block) = @_;
	my $sectors = $o->{block} / SECTOR;
	my $first = $block->{index} * $sectors;
	my $bits = bitmap($o->{bitmaps}, $sectors);
	put($image, $block->{at}, pack "a$o->{bitmap_bytes}", pack 'B*', $bits);
	my $at = $block->{at} + $o->{bitmap_bytes};
	my $valid = $o->{parent} ? $bits : '1' x $sectors;
	my $disk_sectors = $o->{size} / SECTOR;
	$o->{present} += $valid =~ tr/1//;
	while ($valid =~ /(0+|1+)/g) {
		my ($start, $run) = ($-[0], $1);
		for (my $done = 0; $done < length $run; $done += 2048) {
			my $sector = $start + $done;
			my $count = length($run) - $done < 2048 ? length($run) - $done : 2048;
			# Large blocks are mostly zeros, so that they take no time.
			my $bytes = $sectors > 8192 && rand(16) > 1 ? "\0" x ($count * SECTOR) :
				$run =~ /^0/ ? stale($count * SECTOR) : data($o->{id}, $first + $sector, $count);
			if ($run =~ /^1/ && rand(4) < 1) { # zeros that are written
				my $from = int rand $count;
				my $n = 1 + int rand($count - $from);
				substr($bytes, $from * SECTOR, $n * SECTOR) = "\0" x ($n * SECTOR);
			}
			put($image, $at + $sector * SECTOR, $bytes);
			next if $run =~ /^0/ || $first + $sector >= $disk_sectors;
			my $fits = ($disk_sectors - $first - $sector) * SECTOR;
			put($model, ($first + $sector) * SECTOR, substr $bytes, 0, $fits);
		}
	}
}

sub copy_parent {
	my ($o, $model) = @_;
	open my $from, '<:raw', $o->{parent_model} or die "makevhd: $o->{parent_model}: $!\n";
	my $bytes;
	for (my $at = 0; $at < $o->{size}; $at += length $bytes) {
		my $n = $o->{size} - $at < 1 << 20 ? $o->{size} - $at : 1 << 20;
		read $from, $bytes, $n or last;
		put($model, $at, $bytes) if !zeros($bytes);
	}
}

# The footer of a VHD, wherever it is good.
sub footer_of {
	my ($path) = @_;
	open my $file, '<:raw', $path or die "makevhd: $path: $!\n";
	for my $at (-512, -511, 0) {
		seek $file, $at, $at < 0 ? 2 : 0;
		read $file, my $footer, SECTOR;
		$footer = pack 'a512', $footer;
		return $footer if mkvhd::get($footer, 'checksum') == mkvhd::checksum($footer);
	}
	die "makevhd: $path has no footer\n";
}

sub defaults {
	my (%given) = @_;
	my %o = %given;
	$o{seed} ||= time & 0xffffff;
	srand $o{seed};
	$noise = pack 'C*', map int rand 256, 1 .. SECTOR; # differs between layers, too
	$o{id} = $o{seed} & 0xffffffff;
	$o{block} //= 2 << 20;
	$o{size} //= $o{parent_model} ? -s $o{parent_model} : SECTOR * (1 + int rand 16384);
	$o{layout} //= pick(qw(plain mixed mixed));
	$o{gap} //= 9;
	$o{allocate} //= pick(0, 20, 50, 50, 50, 80, 100);
	$o{bitmaps} //= $o{parent} ? pick(qw(bits bits random)) : pick(qw(ones ones zeros random));
	$o{creator} //= pick('win ', 'vpc ', 'd2v ', 'qemu', 'qem2', 'tap', 'CTXS', 'vbox', 'wa');
	$o{room} //= 0;
	$o{extra} //= rand(3) < 1 ? int rand 300 : 0;
	$o{footer} //= 'good';
	$o{space} //= pick(qw(bytes sectors));
	$o{locators} //= pick('w2ru', 'w2ku', 'w2ru,w2ku', 'w2ku,w2ru', 'macx,w2ku,w2ru');
	$o{time} //= 200000000 + int rand 600000000;
	$o{uuid} = defined $o{uuid} ? pack 'H*', $o{uuid} : pack 'C*', map int rand 256, 1 .. 16;
	die "makevhd: the size is not of whole sectors\n" if $o{size} % SECTOR || !$o{size};
	die "makevhd: the block size is not possible\n" if $o{block} < 512 || $o{block} & ($o{block} - 1);
	$o{bitmap_bytes} = round_up($o{block} / SECTOR / 8, SECTOR);
	return \%o;
}

sub header {
	my ($o, $table, @places) = @_;
	my $header = "\0" x HEADER;
	set($header, @$_) for [cookie => 'cxsparse'], [data_offset => 0xffffffffffffffff], [table_offset => $table->{at}],
		[version => 0x10000], [entries => $o->{entries}], [block_size => $o->{block}];
	if ($o->{parent}) {
		my $footer = footer_of($o->{parent});
		set($header, parent_uuid => mkvhd::get($footer, 'uuid'));
		set($header, parent_time => $o->{parent_time} // 0);
		set($header, parent_name => utf16(BE => $o->{parent_path}));
	}
	for my $n (0 .. $#places) {
		my $place = $places[$n];
		set($header, "locator$n.code" => $place->{code});
		set($header, "locator$n.space" => $o->{space} eq 'bytes' ? $place->{bytes} : $place->{bytes} / SECTOR);
		set($header, "locator$n.length" => length $place->{data});
		set($header, "locator$n.offset" => $place->{at});
	}
	set($header, checksum => checksum($header));
	return $header;
}

# make($image, $model, option => value...): returns the options as they were decided, and besides:
#   entries, header_at, table_at, footer_at, bitmap_bytes, bytes (of the file), present (sectors in the file),
#   blocks {index => offset of its bitmap}, fixed [[start, end] of header, table, locators]
sub make {
	my ($image_path, $model_path, %given) = @_;
	my $o = defaults(%given);
	my $blocks = round_up($o->{size}, $o->{block}) / $o->{block};
	$o->{entries} = $blocks + $o->{extra};
	my $table = {bytes => round_up(4 * $o->{entries}, SECTOR)};
	my $header = {bytes => HEADER};
	my @places;
	if ($o->{parent}) {
		$o->{parent_path} //= basename($o->{parent});
		@places = map +{code => $_->[0], data => $_->[1], bytes => round_up(length $_->[1], pick(512, 512, 4096))},
			locators($o, $o->{parent_path});
	}
	my @blocks = map +{index => $_, bytes => $o->{bitmap_bytes} + $o->{block}},
		grep rand(100) < $o->{allocate}, 0 .. $blocks - 1;
	my $end = lay_out($o, $header, @places, $table, @blocks);
	my ($current, $chs) = sizes($o->{creator}, $o->{size});
	my $footer = mkvhd::footer($current, creator => $o->{creator}, chs => $chs, type => $o->{parent} ? 4 : 3,
		uuid => $o->{uuid}, time => $o->{time}, data_offset => $header->{at});

	open my $image, '>:raw', $image_path or die "makevhd: $image_path: $!\n";
	open my $model, '>:raw', $model_path or die "makevhd: $model_path: $!\n";
	truncate $model, $o->{size};
	copy_parent($o, $model) if $o->{parent};
	$o->{present} = 0;
	put_gaps($image, $end, $o->{room}, $header, $table, @places, @blocks);
	put($image, 0, $footer);
	put($image, $header->{at}, header($o, $table, @places));
	put($image, $_->{at}, pack "a$_->{bytes}", $_->{data}) for @places;
	my @entries = (NOWHERE) x ($table->{bytes} / 4);
	$entries[$_->{index}] = $_->{at} / SECTOR for @blocks;
	put($image, $table->{at}, pack 'N*', @entries);
	put_block($o, $image, $model, $_) for @blocks;
	$o->{footer_at} = $end + $o->{room};
	put($image, $o->{footer_at}, $o->{footer} eq 'lost' ? stale(SECTOR) : $footer) if $o->{footer} ne 'cut';
	close $model or die "makevhd: $model_path: $!\n";
	close $image or die "makevhd: $image_path: $!\n";
	truncate $image_path, $o->{footer_at} + 511 if $o->{footer} eq '511';
	return {
		%$o, header_at => $header->{at}, table_at => $table->{at}, bytes => -s $image_path,
		blocks => {map { $_->{index} => $_->{at} } @blocks},
		fixed => [map [$_->{at}, $_->{at} + $_->{bytes}], $header, $table, @places],
	};
}

# Stale bytes wherever nothing is; the file is $end + $room long then.
sub put_gaps {
	my ($image, $end, $room, @pieces) = @_;
	my $at = SECTOR;
	for ((sort { $a->{at} <=> $b->{at} } @pieces), {at => $end + $room, bytes => 0}) {
		while ($at < $_->{at}) {
			my $n = $_->{at} - $at < 1 << 20 ? $_->{at} - $at : 1 << 20;
			put($image, $at, stale($n));
			$at += $n;
		}
		$at = round_up($_->{at} + $_->{bytes}, SECTOR);
	}
}

# ---- reading ----

# What the image says, read anew: after somebody else has written to it.
sub read_tables {
	my ($path) = @_;
	open my $file, '<:raw', $path or die "makevhd: $path: $!\n";
	my $get = sub {
		my ($at, $n) = @_;
		seek $file, $at, SEEK_SET;
		read($file, my $bytes, $n) == $n or die "makevhd: $path: nothing at $at\n";
		return $bytes;
	};
	my $header_at = mkvhd::get(footer_of($path), 'data_offset');
	my $header = $get->($header_at, HEADER);
	my $block = get($header, 'block_size');
	my $table_at = get($header, 'table_offset');
	my @entries = unpack 'N*', $get->($table_at, 4 * get($header, 'entries'));
	my $bitmap_bytes = round_up($block / SECTOR / 8, SECTOR);
	return {
		get => $get, block => $block, bitmap_bytes => $bitmap_bytes, table_at => $table_at,
		entries => \@entries, type => mkvhd::get(footer_of($path), 'type'),
		blocks => {map { $entries[$_] == NOWHERE ? () : ($_ => $entries[$_] * SECTOR) } 0 .. $#entries},
	};
}

sub bits {
	my ($tables, $index) = @_;
	my $bytes = $tables->{get}($tables->{blocks}{$index}, $tables->{bitmap_bytes});
	return substr unpack('B*', $bytes), 0, $tables->{block} / SECTOR;
}

# The first $size bytes of the disk; $below is what the parent's disk holds.
sub contents {
	my ($path, $size, $below) = @_;
	my $tables = read_tables($path);
	my $disk = substr $below // '', 0, $size;
	$disk .= "\0" x ($size - length $disk);
	for my $index (keys %{$tables->{blocks}}) {
		my $start = $index * $tables->{block};
		next if $start >= $size;
		my $bytes = $tables->{get}($tables->{blocks}{$index} + $tables->{bitmap_bytes}, $tables->{block});
		my $bits = $tables->{type} == 4 ? bits($tables, $index) : '1' x ($tables->{block} / SECTOR);
		while ($bits =~ /1+/g) {
			my ($at, $n) = ($-[0] * SECTOR, ($+[0] - $-[0]) * SECTOR);
			last if $start + $at >= $size;
			$n = $size - $start - $at if $n > $size - $start - $at;
			substr($disk, $start + $at, $n) = substr $bytes, $at, $n;
		}
	}
	return $disk;
}

sub main {
	my ($image, $model, @options) = @ARGV;
	die "usage: makevhd.pl IMAGE MODEL [OPTION=VALUE...]\n" if !defined $model || grep !/=/, @options;
	my $made = make($image, $model, map { split /=/, $_, 2 } @options);
	$made->{uuid} = unpack 'H*', $made->{uuid};
	$made->{blocks} = join ',', map "$_:$made->{blocks}{$_}", sort { $a <=> $b } keys %{$made->{blocks}};
	delete $made->{fixed};
	print "$_=$made->{$_}\n" for sort keys %$made;
}

main() unless caller;
1;
