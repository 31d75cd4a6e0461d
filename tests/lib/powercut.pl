#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
# What power cuts leave of an image, from the log of dm-log-writes below a device and the history of blkhammer on it.
#
#   powercut.pl FOLDER NAME SEED NTFSMAP
#     FOLDER/NAME.disk      the disk before, NAME.extents and NAME.size where the image lies on it, and its format
#     FOLDER/NAME.model     what the image reads as before; parent.model the same of its parent, if it has one
#     FOLDER/parent.raw     for a qcow2: the parent, by the name that it has in the image
#     FOLDER/NAME.log       the log, NAME.history the history
#
# Nothing may be written outside the image. dm-log-writes logs a write when a flush begins behind its end, and a FUA write when it has ended. So when the power
# goes before the end of a flush, all that was logged before the last flush is there, every FUA write since, and any
# part of the rest: that is tried, for every flush. In what the disk reads as then, each sector holds what the last
# completed flush or FUA write covered, or something later.
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Basename qw(dirname);
require(dirname(__FILE__) . '/makevhd.pl');
require(dirname(__FILE__) . '/qcowcut.pl');

use constant { SECTOR => 512, CHUNK => 16 };
use constant { FLUSH => 1, FUA => 2, MARK => 8 }; # of the log's entries
use constant ZEROS => "\0" x SECTOR;

my ($folder, $name, $seed, $ntfsmap) = @ARGV;
my (@extents, $file_bytes, $size);
my ($format, $image);  # of the image; where others find what a power cut left
my ($base, $below);    # what the disk read as before; what the parent's reads as
my (@ops, @zeros);     # [thread][operation] = [kind, first, count]; of each sector, the operations that zeroed it
my (@floor, @owner);   # of each sector: the operation that is durable, whose it is
my (@ended, %changed); # of each thread, what is counted in @floor; chunks whose floor has changed
my ($cuts, $asked, $flushes) = (0, 0, 0);

sub slurp {
	my ($path) = @_;
	open my $file, '<:raw', $path or die "$path: $!\n";
	local $/;
	return <$file> // '';
}

sub found {
	my ($what) = @_;
	print "FOUND: $name, seed $seed, before the end of flush $flushes, cut $cuts: $what\n";
	exit 1;
}

# ---- the log ----

sub entries {
	my ($path) = @_;
	open my $log, '<:raw', $path or die "$path: $!\n";
	my $sector = sub {
		my ($n) = @_;
		read($log, my $bytes, $n * SECTOR) == $n * SECTOR or die "$path ends too early\n";
		return $bytes;
	};
	my ($magic, $version, $n, $sector_size) = unpack 'Q<Q<Q<L<', $sector->(1);
	die "$path is no log\n" if $magic != 0x6a736677736872 || $version != 1 || $sector_size != SECTOR;
	my @entries;
	for (1 .. $n) {
		my $head = $sector->(1);
		my ($first, $count, $flags, $length) = unpack 'Q<Q<Q<Q<', $head;
		push @entries, {
			first => $first, count => $count, flags => $flags,
			data => $flags & MARK ? substr($head, 32, $length) : $count ? $sector->($count) : '',
		};
	}
	return @entries;
}

# The same, in sectors of the image file.
sub in_file {
	my ($e) = @_;
	my $at = 0;
	for (@extents) {
		my ($first, $count) = @$_;
		if ($e->{first} >= $first && $e->{first} + $e->{count} <= $first + $count) {
			$e->{first} += $at - $first;
			return;
		}
		$at += $count;
	}
	found("sectors $e->{first}+$e->{count} of the disk are written, which are not the image's");
}

# ---- the history ----

sub read_history {
	for (split /\n/, slurp("$folder/$name.history")) {
		my ($kind, $thread, $number, $first, $count) = split / /;
		next if $kind eq 'f';
		$ops[$thread][$number] = [$kind, $first, $count];
		for ($first .. $first + $count - 1) {
			$owner[$_] = $thread;
			push @{$zeros[$_]}, $number if $kind eq 'z';
		}
	}
}

sub raise_floor {
	my ($thread, $number) = @_;
	my $op = $ops[$thread][$number] or return;
	my (undef, $first, $count) = @$op;
	for ($first .. $first + $count - 1) {
		$floor[$_] = $number if ($floor[$_] // 0) < $number;
	}
	$changed{$_} = 1 for int($first / CHUNK) .. int(($first + $count - 1) / CHUNK);
}

sub heed {
	my ($mark) = @_;
	my ($kind, @what) = split /,/, $mark;
	return raise_floor(@what) if $kind eq 'u';
	return if $kind ne 'f';
	for (@what) {
		my ($thread, $ended) = split /:/;
		$ended[$thread] //= 0;
		raise_floor($thread, ++$ended[$thread]) while $ended[$thread] < $ended;
	}
}

# What has begun by the second mark of a flush from here on: nothing else can be on the disk.
sub begun {
	my ($marks) = @_;
	my $mark = $marks->[1] or return [];
	my @begun;
	for ((split /,/, $mark)[1 .. $mark =~ tr/,//]) {
		my ($thread, undef, $begun) = split /:/;
		$begun[$thread] = $begun;
	}
	return \@begun;
}

# ---- looking ----

sub is_fine {
	my ($s, $bytes, $begun) = @_;
	my $floor = $floor[$s] // 0;
	return 1 if !$floor && $bytes eq substr $base, $s * SECTOR, SECTOR;
	my $thread = $owner[$s] // return 0;
	if ($bytes eq ZEROS) {
		my $last = $begun->[$thread] // 1 << 40;
		return scalar grep $_ >= ($floor || 1) && $_ <= $last, @{$zeros[$s] // []};
	}
	my ($word, $sector) = unpack 'Q<Q<', $bytes;
	my $number = $word & (1 << 56) - 1;
	return $sector == $s && $word >> 56 == $thread + 1 && $number >= $floor && $ops[$thread][$number] &&
		$bytes eq substr($bytes, 0, 16) x (SECTOR / 16);
}

sub describe {
	my ($s, $bytes) = @_;
	my ($word, $sector) = unpack 'Q<Q<', $bytes;
	my $what = $bytes eq ZEROS ? 'zeros'
		: $sector == $s && $word >> 56 && $word >> 56 < 17 ? 'operation ' . ($word & (1 << 56) - 1)
		: $bytes =~ /stale!/ ? 'what lay on the disk before'
		: $bytes eq substr($base, $s * SECTOR, SECTOR) ? 'what it held in the beginning' : 'something else';
	return "sector $s holds $what instead of " .
		($floor[$s] ? "operation $floor[$s] of thread $owner[$s], which was flushed" : 'what it held in the beginning');
}

# What the last look saw, and need not be looked at again.
my $seen = '';

sub look {
	my ($reads, $begun) = @_;
	found('the size is another') if length $reads != $size;
	for my $chunk (0 .. ($size / SECTOR - 1) / CHUNK) {
		my $at = $chunk * CHUNK * SECTOR;
		next if !$changed{$chunk} && substr($reads, $at, CHUNK * SECTOR) eq substr $seen, $at, CHUNK * SECTOR;
		for my $s ($chunk * CHUNK .. $chunk * CHUNK + CHUNK - 1) {
			last if $s * SECTOR >= $size;
			my $bytes = substr $reads, $s * SECTOR, SECTOR;
			is_fine($s, $bytes, $begun) or found(describe($s, $bytes));
		}
	}
	%changed = ();
	$seen = $reads;
}

# What qemu-img reads, with more arguments
sub theirs {
	my $type = $format eq 'vhd' ? 'vpc' : $format;
	system('qemu-img', 'convert', '-f', $type, @_, '-O', 'raw', $image, "$folder/cut.raw") == 0 or
		found('qemu-img refuses');
	return slurp("$folder/cut.raw");
}

# No errors, but there may be leaks; and the snapshot holds what the disk held before.
sub ask_about_qcow2 {
	my ($file) = @_;
	my $said = `qemu-img check -f qcow2 '$image' 2>&1`;
	my $status = $? >> 8;
	found("qemu-img check: $said") if $status != 0 && $status != 3;
	found('the snapshot has changed') if qcowcut::snapshots($file) && theirs('-l', 'snapshot.name=before') ne $base;
}

# Other programs' opinion.
sub ask {
	my ($file, $reads) = @_;
	return if $cuts % 10;
	$asked++;
	open my $out, '>:raw', $image or die "$image: $!\n";
	print $out $$file;
	close $out or die "$image: $!\n";
	my $said = `'$ntfsmap' check '$image' 2>&1`;
	found("ntfsmap check: $said") if $?;
	open my $cat, '-|:raw', $ntfsmap, 'cat', $image or die "ntfsmap: $!\n";
	my $ours = do { local $/; <$cat> // '' };
	found('ntfsmap cat reads something else') if !close $cat || $ours ne $reads;
	ask_about_qcow2($file) if $format eq 'qcow2';
	return if $format eq 'vhd' && defined $below; # qemu does not know its parents
	found('qemu-img reads something else') if theirs() ne $reads;
}

# ---- cutting ----

# What is left, read by nobody's library; and the refcounts.
sub contents_of {
	my ($file) = @_;
	return makevhd::contents($file, $size, $below) if $format eq 'vhd';
	my $fault = eval { qcowcut::fault($file) } // $@;
	found($fault) if $fault ne '';
	return qcowcut::contents($file, $size, $below);
}

sub cut {
	my ($file, $writes, $chosen, $torn, $fua, $begun) = @_;
	my $left = $$file;
	$cuts++;
	for my $n (grep $chosen->[$_], 0 .. $#$writes) {
		apply(\$left, $writes->[$n], $fua, $torn);
	}
	my $reads = contents_of(\$left);
	look($reads, $begun);
	ask(\$left, $reads);
}

# A write that ended before a FUA write to the same sector may be logged behind it: its stamp tells.
sub older {
	my ($fua, $sector, $bytes) = @_;
	my $there = $fua->{$sector} // return 0;
	my ($word, $s) = unpack 'Q<Q<', $there;
	return !grep $_ > ($word & (1 << 56) - 1), @{$zeros[$s] // []} if $bytes eq ZEROS;
	return unpack('Q<', $bytes) < $word;
}

# Without the sectors that are torn off.
sub apply {
	my ($file, $write, $fua, $torn) = @_;
	my ($first, $count, $data) = @$write{qw(first count data)};
	if (!$torn && !grep exists $fua->{$_}, $first .. $first + $count - 1) {
		substr($$file, $first * SECTOR, $count * SECTOR) = $data;
		return;
	}
	for (0 .. $count - 1) {
		my $bytes = substr $data, $_ * SECTOR, SECTOR;
		next if $torn && rand(3) < 1 || older($fua, $first + $_, $bytes);
		substr($$file, ($first + $_) * SECTOR, SECTOR) = $bytes;
	}
}

# None; one; all but one; some; torn.
sub cut_in_all_ways {
	my ($file, $writes, $fua, $begun) = @_;
	my $n = @$writes;
	my $one = int rand($n || 1);
	cut($file, $writes, [], 0, $fua, $begun);
	cut($file, $writes, [map $_ == $one, 0 .. $n - 1], $n == 1, $fua, $begun) if $n;
	cut($file, $writes, [map $_ != $one, 0 .. $n - 1], 0, $fua, $begun) if $n > 2;
	cut($file, $writes, [map rand(2) < 1, 0 .. $n - 1], $_, $fua, $begun) for $n > 1 ? (0, 1) : ();
}

sub main {
	my @entries = entries("$folder/$name.log");
	my @marks = grep /^f,/, map $_->{flags} & MARK ? $_->{data} : (), @entries;
	my $disk = slurp("$folder/$name.disk");
	my $file = substr join('', map substr($disk, $_->[0] * SECTOR, $_->[1] * SECTOR), @extents), 0, $file_bytes;
	my (@writes, %fua);
	for my $e (@entries) {
		in_file($e) if $e->{count};
		if ($e->{flags} & MARK) {
			heed($e->{data});
			shift @marks if $e->{data} =~ /^f,/;
		} elsif ($e->{flags} & FUA) {
			apply(\$file, $e, {}, 0);
			$fua{$e->{first} + $_} = substr $e->{data}, $_ * SECTOR, SECTOR for 0 .. $e->{count} - 1;
		} elsif ($e->{count}) {
			push @writes, $e;
		}
		next if !($e->{flags} & FLUSH);
		$flushes++;
		cut_in_all_ways(\$file, \@writes, \%fua, begun(\@marks));
		apply(\$file, $_, \%fua, 0) for @writes;
		@writes = ();
		%fua = ();
	}
	print "$name, seed $seed: $cuts power cuts at $flushes flushes survived; $asked images read by others too\n";
}

srand $seed;
@extents = map { /:(\d+)\+(\d+)/ ? [$1, $2] : () } split ' ', slurp("$folder/$name.extents");
(undef, $file_bytes, $format) = split ' ', slurp("$folder/$name.size");
$image = "$folder/cut.$format";
$base = slurp("$folder/$name.model");
$size = length $base;
$below = slurp("$folder/parent.model") if -e "$folder/parent.model";
read_history();
main();
