#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Dynamic and differencing VHD: random images of a writer of our own (lib/makevhd.pl) and of qemu, read and written
# through libvdisk. What they read as is known three times:
#
#   the model   what the writer meant; all images
#   qemu-img    dynamic images. It opens a differencing one too, as if it were dynamic: no oracle there
#   libvhdi     differencing images, with what version 20210425 gets wrong left out:
#               - it takes a bit of the sector bitmap together with those before it in the byte, so only bytes whose
#                 ones stand behind their zeros are read right (bitmaps=rising)
#               - it believes the bitmaps of dynamic images, which nobody else does (base images have ones)
#               - it takes the wrong block when a read begins inside of one, so it is asked for whole blocks, past
#                 the page cache (direct_io), and all images of the chain have blocks of one size
#               - it takes Current Size for the size, whoever made the image
#               - the parent is the last part of Parent Unicode Name, in the folder of the child; locators mean nothing
#               Chains of any length work: vhdimount shows the N-th of N images as vhdiN, the first is the base.
#   7zz         differencing images with any bits; it refuses tables with more entries than the size needs, and
#               believes bitmaps and Current Size as libvhdi does. It finds the parent by its locators.
#
#   TEST_SEED=7 tests/dynamic.t   other images and other histories
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Path qw(make_path);
use File::Temp (); # its END comes after ours
use FindBin;
use IO::Handle;
use JSON::PP qw(decode_json);
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/makevhd.pl";
require "$FindBin::RealBin/lib/vdiskio.pl";
our ($top, $T, $seed, $ntfsmap, $vdiskio);
need($ntfsmap, $vdiskio, 'qemu-img', 'cmp');
chdir $T or die "$T: $!";
note("seed $seed");

use constant SECTOR => 512;

# The n-th image of a kind has a seed of its own, and is the same whatever was made before it.
sub seed_of {
	my ($kind, $n) = @_;
	my $image_seed = ($seed * 7919 + $kind * 1_000_003 + $n * 101) % 0x7fffffff + 1;
	srand $image_seed;
	return $image_seed;
}

sub same {
	my ($ours, $theirs, $name) = @_;
	my ($status, $out, $err) = run('cmp', $ours, $theirs);
	return is($status, 0, $name) || diag($out, $err);
}

# ours_are(IMAGE, MODEL, NAME): in one go, by the command, and in pieces of all sizes, by the library.
sub ours_are {
	my ($image, $model, $name) = @_;
	my $status = run_quietly($ntfsmap, 'cat', $image);
	rename 'out', 'ours.raw';
	$status ? is($status, 0, "$name: contents") || diag(slurp('err')) : same('ours.raw', $model, "$name: contents");
	my $io = start($image, '-r');
	my $answer = ask($io, 'copy ours.raw');
	my $end = stop($io);
	return is("$answer $end", "ok ok\n0", "$name: can be read") && same('ours.raw', $model, "$name: also in pieces");
}

sub info {
	my ($status, $out, $err) = run($ntfsmap, 'info', '--json', @_);
	my $said = eval { decode_json($out)->{image} };
	diag("info @_: $status: $err") if !$said;
	return $said // {};
}

sub is_info {
	my ($made, $path, $name) = @_;
	my $said = info($path);
	is(join(' ', map $said->{$_} // '-', qw(format subformat virtual_size block_size)),
		join(' ', 'vhd', $made->{parent} ? 'differencing' : 'dynamic', $made->{size}, $made->{block}), $name);
}

sub qemu_reads {
	my ($image) = @_;
	must('qemu-img', 'convert', '-f', 'vpc', '-O', 'raw', $image, 'theirs.raw');
	return 'theirs.raw';
}

# "start+length@offset" of all data, in pieces as long as they can be. qemu's offset stands in no piece without data.
sub pieces {
	my ($json) = @_;
	my @pieces;
	for (@{decode_json($json)}) {
		next if !$_->{data};
		my $last = $pieces[-1];
		if ($last && $last->[0] + $last->[1] == $_->{start} && $last->[2] + $last->[1] == $_->{offset}) {
			$last->[1] += $_->{length};
		} else {
			push @pieces, [@$_{qw(start length offset)}];
		}
	}
	return join ' ', map "$_->[0]+$_->[1]\@$_->[2]", @pieces;
}

# ---- dynamic images ----

sub dynamic_images {
	for my $n (1 .. 32) {
		my $image_seed = seed_of(1, $n);
		my $block = $n == 1 ? 64 << 20 : $n == 2 ? 8 << 20 : 4096 << ($n % 10);
		my $most = $block < 1 << 20 ? 24 : 6;
		my $size = SECTOR * (1 + int rand($most * $block / SECTOR));
		$size = SECTOR * (($block + int rand $block) / SECTOR) if $n == 1;
		$size -= $size % $block if $n % 4 == 0 && $size > $block;
		my $made = makevhd::make('x.vhd', 'x.raw', seed => $image_seed, block => $block, size => int($size / 512) * 512,
			room => $n % 3 ? 0 : SECTOR * int rand 300, $n < 3 ? (allocate => 60) : ());
		my $what = "dynamic image $n of seed $image_seed";
		ours_are('./x.vhd', 'x.raw', $what) or
			diag(join ' ', map "$_=$made->{$_}", qw(size block layout creator extra bitmaps));
		is_info($made, './x.vhd', "$what: sizes");
		same(qemu_reads('x.vhd'), 'x.raw', "$what: and qemu reads it so");
		is(pieces(must($ntfsmap, qw(map --json ./x.vhd))), pieces(must(qw(qemu-img map -f vpc --output=json x.vhd))),
			"$what: map is qemu's");
	}
}

sub lost_footers {
	for my $footer (qw(lost cut 511)) {
		my $image_seed = seed_of(2, length $footer);
		my $made = makevhd::make('x.vhd', 'x.raw', seed => $image_seed, block => 65536, size => 3000320,
			room => 70000 >> 9 << 9, footer => $footer, allocate => 60);
		ours_are('./x.vhd', 'x.raw', "a footer that is $footer");
		is_info($made, './x.vhd', "a footer that is $footer: sizes");
		same(qemu_reads('x.vhd'), 'x.raw', "a footer that is $footer: and qemu reads it so");
	}
}

sub by_qemu {
	for my $n (1 .. 16) {
		my $size = (512, 1024, 65536, 1 << 20, (2 << 20) - 512, 2 << 20, (2 << 20) + 512, 5000192, 31457280)[$n % 9];
		seed_of(3, $n);
		spew('x.raw', '');
		truncate 'x.raw', $size;
		open my $raw, '+<:raw', 'x.raw' or die;
		for (0 .. rand 12) {
			my $from = int rand($size / SECTOR);
			my $bytes = makevhd::data($n, $from, 1 + int rand 300);
			makevhd::put($raw, $from * SECTOR, substr $bytes, 0, $size - $from * SECTOR);
		}
		close $raw;
		my $option = $n > 8 ? 'subformat=dynamic,force_size' : 'subformat=dynamic';
		must('qemu-img', 'convert', '-f', 'raw', '-O', 'vpc', '-o', $option, 'x.raw', 'x.vhd');
		ours_are('./x.vhd', qemu_reads('x.vhd'), "made by qemu, $size, $option");
		my $theirs = decode_json(must(qw(qemu-img info -f vpc --output=json x.vhd)))->{'virtual-size'};
		is(info('./x.vhd')->{virtual_size}, $theirs, "made by qemu, $size, $option: size");
	}
	for my $bytes (qw(1 1536 127M 504M 8063M 127G 130G 500G 2039G 2040G)) {
		for my $option ('subformat=dynamic', 'subformat=dynamic,force_size') {
			unlink 'x.vhd';
			must('qemu-img', 'create', '-q', '-f', 'vpc', '-o', $option, 'x.vhd', $bytes);
			my $theirs = decode_json(must(qw(qemu-img info -f vpc --output=json x.vhd)))->{'virtual-size'};
			is(info('./x.vhd')->{virtual_size}, $theirs, "an empty one by qemu, $bytes, $option: size");
		}
	}
}

# ---- chains ----

my $mounted;

sub unmount {
	return if !$mounted;
	run('fusermount', '-u', 'mnt') if (run('fusermount3', '-u', 'mnt'))[0];
	$mounted = 0;
}

END {
	unmount();
	chdir '/'; # so that $T can go
}

# What libvhdi reads, in theirs.raw: the $depth-th of a chain of as many.
sub libvhdi_reads {
	my ($image, $depth, $block) = @_;
	mkdir 'mnt';
	must('vhdimount', '-X', 'direct_io', $image, 'mnt');
	$mounted = 1;
	must('dd', 'status=none', "if=mnt/vhdi$depth", 'of=theirs.raw', "bs=$block");
	unmount();
	return 'theirs.raw';
}

sub seven_zip_reads {
	my ($image) = @_;
	my $status = run_quietly('7zz', 'e', '-y', '-so', $image);
	diag('7zz: ', slurp('err')) if $status;
	rename 'out', 'theirs.raw';
	return 'theirs.raw';
}

# A chain of 1 + $children images, l0.vhd and so on, and their models l0.raw and so on. Returns all that were made.
# Without a block size each has its own.
sub chain {
	my ($image_seed, $size, $children, $block, $bitmaps) = @_;
	my @same = (creator => 'win ', extra => 0);
	my @made = makevhd::make('l0.vhd', 'l0.raw', seed => $image_seed, size => $size, block => $block // 4096 << rand 7,
		bitmaps => 'ones', @same);
	for my $level (1 .. $children) {
		my $below = 'l' . ($level - 1);
		push @made, makevhd::make("l$level.vhd", "l$level.raw", seed => $image_seed + $level,
			block => $block // 4096 << rand 7, parent => "$below.vhd", parent_model => "$below.raw",
			bitmaps => $bitmaps, @same);
	}
	return @made;
}

sub chains {
	my $fuse = have('vhdimount') && -w '/dev/fuse';
	for my $n (1 .. 18) {
		my $image_seed = seed_of(4, $n);
		my $kind = $n % 2 ? 'rising' : 'bits';
		my $children = 1 + int rand($n > 9 ? 5 : 2);
		my $size = SECTOR * (1 + int rand 6000);
		my $block = $kind eq 'rising' ? 4096 << rand 7 : undef;
		my @made = chain($image_seed, $size, $children, $block, $kind);
		my $what = "chain $n of seed $image_seed ($children, $kind)";
		my ($image, $model) = ("l$children.vhd", "l$children.raw");
		ours_are("./$image", $model, $what) or
			diag(map "block $_->{block}, $_->{layout}, locators $_->{locators}\n", @made);
		is_info($made[-1], "./$image", "$what: sizes");
		SKIP: {
			skip 'vhdimount is not installed, or there is no FUSE', 1 if !$fuse;
			skip 'libvhdi reads no such bitmaps', 1 if $kind ne 'rising';
			same(libvhdi_reads($image, $children + 1, $made[-1]{block}), $model, "$what: and libvhdi reads it so");
		}
		SKIP: {
			skip '7zz is not installed', 1 if !have('7zz');
			same(seven_zip_reads($image), $model, "$what: and 7zz reads it so");
		}
		unlink glob 'l*';
	}
}

# What no oracle reads: layers of different sizes and creators, bitmaps of dynamic parents that say nothing, spare
# entries, lost footers.
sub odd_chains {
	for my $n (1 .. 8) {
		my $image_seed = seed_of(5, $n);
		makevhd::make('l0.vhd', 'l0.raw', seed => $image_seed, size => SECTOR * (1 + int rand 4000), block => 32768);
		for my $level (1, 2) {
			my $below = 'l' . ($level - 1);
			makevhd::make("l$level.vhd", "l$level.raw", seed => $image_seed + $level, block => 4096 << rand 7,
				size => SECTOR * (1 + int rand 4000), parent => "$below.vhd", parent_model => "$below.raw",
				footer => $n % 4 ? 'good' : 'lost');
		}
		ours_are('./l2.vhd', 'l2.raw', "layers of different sizes, $n of seed $image_seed");
	}
	my $bytes = makevhd::data(5, 0, 3000);
	spew('l0.raw', $bytes);
	spew('l0.vhd', $bytes . mkvhd::footer(length $bytes));
	makevhd::make('l1.vhd', 'l1.raw', seed => 5, block => 16384, parent => 'l0.vhd', parent_model => 'l0.raw');
	ours_are('./l1.vhd', 'l1.raw', 'a fixed parent');
	unlink glob 'l*';
}

sub child_of {
	my ($child, $parent, $path, %options) = @_;
	makevhd::make($child, 'child.raw', seed => 77, block => 16384, parent => $parent, parent_model => 'parent.raw',
		parent_path => $path, creator => 'win ', bitmaps => 'bits', allocate => 50, %options);
}

sub locators {
	make_path('sub/deep', 'other');
	my @parent = ('parent.raw', seed => 76, size => 1 << 20, block => 16384, allocate => 60);
	my $read = sub {
		my ($name, $child) = @_;
		ours_are($child, 'child.raw', $name);
		ours_are("$T/$child", 'child.raw', "$name, by an absolute path");
	};
	makevhd::make('sub/deep/p.vhd', @parent);
	child_of('c.vhd', 'sub/deep/p.vhd', 'sub\\deep\\p.vhd', locators => 'w2ru');
	$read->('the parent is further down', './c.vhd');
	child_of('other/c.vhd', 'sub/deep/p.vhd', '..\\sub\\deep\\p.vhd', locators => 'w2ku,w2ru');
	$read->('the parent is beside, relative comes first', './other/c.vhd');
	makevhd::make('sub/p.vhd', @parent);
	child_of('sub/c.vhd', 'sub/p.vhd', 'p.vhd', locators => 'w2ku');
	$read->('an absolute locator alone: the last part, in the folder of the child', './sub/c.vhd');
	my $name = "\xc3\x84 \xe2\x98\x83 \xf0\x9d\x84\x9e.vhd";
	makevhd::make("sub/$name", @parent);
	child_of('sub/c.vhd', "sub/$name", Encode::decode('UTF-8', $name), locators => 'w2ru');
	$read->('a name beyond ASCII and beyond 16 bits', './sub/c.vhd');
	for my $space (qw(bytes sectors)) {
		child_of('sub/c.vhd', 'sub/p.vhd', 'p.vhd', locators => 'macx,w2ru', space => $space, layout => 'mixed');
		$read->("locators whose space is in $space", './sub/c.vhd');
	}
	unlink 'sub/p.vhd';
	refused('no parent', 4, 'ENOENT', qr/parent/);
	makevhd::make('sub/p.vhd', @parent, seed => 99, uuid => '00' x 16);
	refused('another unique id', 6, 'EUCLEAN', qr/parent.*id/);
}

sub refused {
	my ($name, $code, $errno, $why) = @_;
	my ($status, $out, $err) = run($ntfsmap, 'cat', './sub/c.vhd');
	is($status, $code, "$name: exit code");
	like($err, $why, "$name: and why");
	is(stop(start('sub/c.vhd', '-r')), "nothing\n1", "$name: the library");
	like(slurp('err'), qr/$errno.*$why/, "$name: its error");
}

# ---- histories ----

# Blocks of [$offset, $offset + $length) that have no place yet.
sub missing {
	my ($h, $offset, $length) = @_;
	my $block = $h->{made}{block};
	return grep !$h->{has}{$_}, int($offset / $block) .. int(($offset + $length - 1) / $block);
}

# Ask what the model cannot know: what has a place after zeros, or after a write that found no room for all of it.
sub resync {
	my ($h) = @_;
	my $made = $h->{made};
	ask($h->{io}, 'flush');
	$h->{durable} = $h->{disk};
	for (missing($h, 0, $made->{size})) {
		my ($kind, undef, undef, $home) = split / /, ask($h->{io}, "map ${\ ($_ * $made->{block})} 512");
		$h->{has}{$_} = 1 if $kind eq 'data' || defined $home && $home >= 0;
	}
	my ($allocated, $room) = split / /, ask($h->{io}, 'usage');
	$h->{room} = ($room // 0) / $made->{block};
}

sub wrong {
	my ($h, $what) = @_;
	push @{$h->{wrong}}, "step $h->{step}: $what";
	return 0;
}

# A write that failed has written some of its sectors, or none.
sub half_written {
	my ($h, $offset, $length, $new) = @_;
	my $now = pack 'H*', ask($h->{io}, "read $offset $length");
	for (my $at = 0; $at < $length; $at += SECTOR) {
		my $sector = substr $now, $at, SECTOR;
		next if $sector eq substr($new, $at, SECTOR) || $sector eq substr $h->{disk}, $offset + $at, SECTOR;
		return wrong($h, "a failed write left something else at ${\ ($offset + $at)}");
	}
	substr($h->{disk}, $offset, $length) = $now;
}

sub step_write {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "write $offset $length $h->{step}");
	my $new = payload($offset, $length, $h->{step});
	my @missing = missing($h, $offset, $length);
	my $expected = @missing <= $h->{room} ? 'ok' : 'error ENOSPC';
	wrong($h, "write $offset $length: $answer, with ${\ scalar @missing} of $h->{room} blocks") if $answer ne $expected;
	if ($answer eq 'ok') {
		substr($h->{disk}, $offset, $length) = $new;
		$h->{has}{$_} = 1 for @missing;
		$h->{room} -= @missing;
		return;
	}
	$h->{full}++;
	half_written($h, $offset, $length, $new);
	resync($h);
}

sub step_zero {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "zero $offset $length");
	my @missing = missing($h, $offset, $length);
	if ($answer eq 'ok') {
		substr($h->{disk}, $offset, $length) = "\0" x $length;
	} else {
		wrong($h, "zero $offset $length: $answer") if !$h->{made}{parent} || @missing <= $h->{room};
		half_written($h, $offset, $length, "\0" x $length);
	}
	resync($h) if @missing && $h->{made}{parent};
}

sub step_read {
	my ($h, $offset, $length) = @_;
	my $answer = ask($h->{io}, "read $offset $length");
	return if $answer eq unpack 'H*', substr $h->{disk}, $offset, $length;
	return wrong($h, "read $offset $length: $answer") if $answer !~ /^[0-9a-f]+$/;
	$answer = pack 'H*', $answer;
	my @sectors = grep substr($answer, $_ * SECTOR, SECTOR) ne substr($h->{disk}, $offset + $_ * SECTOR, SECTOR),
		0 .. $length / SECTOR - 1;
	my $first = $offset + $sectors[0] * SECTOR;
	wrong($h, "read $offset $length: ${\ scalar @sectors} wrong sectors, the first at $first");
}

# Ends without closing: what was flushed is there, and of what was not, each sector is old or new.
sub step_die {
	my ($h) = @_;
	print {$h->{io}{to}} "die\n";
	waitpid $h->{io}{pid}, 0;
	$h->{io} = start('x.vhd');
	my $now = pack 'H*', ask($h->{io}, "read 0 $h->{made}{size}");
	my $between = $h->{durable};
	for my $write (@{$h->{since}}, [0, $h->{disk}]) {
		my ($offset, $new) = @$write;
		for (my $at = 0; $at < length $new; $at += SECTOR) {
			my $sector = substr $new, $at, SECTOR;
			substr($between, $offset + $at, SECTOR) = $sector if $sector eq substr $now, $offset + $at, SECTOR;
		}
	}
	wrong($h, 'died: not all that was flushed is there') if $between ne $now;
	$h->{disk} = $now;
	$h->{since} = [];
	$h->{has} = {%{makevhd::read_tables('x.vhd')->{blocks}}};
	$_ = 1 for values %{$h->{has}};
	resync($h);
}

sub step {
	my ($h) = @_;
	my ($size, $block) = @{$h->{made}}{qw(size block)};
	my $offset = SECTOR * int rand($size / SECTOR);
	my $length = SECTOR * pick(1, 1, 2, 8, 1 + int rand 16, $block / SECTOR, 1 + int rand(3 * $block / SECTOR));
	$offset -= $offset % $block if rand(5) < 1;
	$length = $size - $offset if $length > $size - $offset;
	my $way = rand 100;
	if ($way < 45) {
		step_write($h, $offset, $length);
	} elsif ($way < 55) {
		step_zero($h, $offset, $length);
	} elsif ($way < 80) {
		step_read($h, $offset, $length);
	} elsif ($way < 92) {
		my $answer = ask($h->{io}, 'flush');
		wrong($h, "flush: $answer") if $answer ne 'ok';
		$h->{durable} = $h->{disk};
		$h->{since} = [];
	} elsif ($way < 95) {
		my $answer = ask($h->{io}, 'reopen');
		wrong($h, "reopen: $answer") if $answer ne 'ok';
		$h->{durable} = $h->{disk};
		$h->{since} = [];
	} elsif ($way < 97) {
		step_die($h);
	} else {
		my $answer = ask($h->{io}, 'check');
		wrong($h, "check: $answer") if $answer ne '0';
	}
	push @{$h->{since}}, [$offset, substr $h->{disk}, $offset, $length] if $way < 55;
}

# The rules of writing, bit by bit. Returns what is broken.
sub broken_rules {
	my ($made, $before, $after) = @_;
	return 'the file has another length' if length $before != length $after;
	my $tables = makevhd::read_tables('x.vhd');
	my @used = (@{$made->{fixed}}, [0, SECTOR], [$made->{footer_at}, length $before]);
	my $bytes = $made->{bitmap_bytes} + $made->{block};
	push @used, map [$_, $_ + $bytes], values %{$made->{blocks}};
	for my $index (keys %{$tables->{blocks}}) {
		my ($old, $new) = ($made->{blocks}{$index}, $tables->{blocks}{$index});
		my $bits = makevhd::bits($tables, $index);
		if (defined $old) {
			return "block $index has moved from $old to $new" if $old != $new;
			my $was = substr unpack('B*', substr $before, $old, $made->{bitmap_bytes}), 0, length $bits;
			return "block $index has lost bits" if $made->{parent} && ($was & $bits) ne $was;
			return "block $index has other bits" if !$made->{parent} && $bits ne $was && $bits =~ /0/;
		} else {
			return "block $index is outside, at $new" if $new + $bytes > length $before;
			return "block $index lies upon something, at $new" if grep $new < $_->[1] && $_->[0] < $new + $bytes, @used;
			push @used, [$new, $new + $bytes];
			return "block $index has not all bits" if !$made->{parent} && $bits =~ /0/;
		}
		substr($_, $new, $bytes) = "\0" x $bytes for $before, $after;
	}
	return 'a block is gone' if grep !defined $tables->{blocks}{$_}, keys %{$made->{blocks}};
	# A block that nothing points to yet, when it died.
	substr($_, $made->{footer_at} - $made->{room}, $made->{room}) = "\0" x $made->{room} for $before, $after;
	my $length = 4 * @{$tables->{entries}};
	substr($_, $made->{table_at}, $length) = "\0" x $length for $before, $after;
	return '' if $before eq $after;
	($before ^ $after) =~ /[^\0]/;
	return "something else has changed, at $-[0]";
}

sub history {
	my ($n, $what, $made, $steps) = @_;
	my $before = slurp('x.vhd');
	my $below = $made->{parent} ? slurp($made->{parent}) : '';
	my $h = {
		made => $made, io => start('x.vhd'), disk => slurp('x.raw'), durable => slurp('x.raw'), since => [],
		has => {map { $_ => 1 } keys %{$made->{blocks}}}, wrong => [], full => 0, step => 0,
	};
	resync($h);
	my $room = $h->{room};
	while ($h->{step}++ < $steps && !@{$h->{wrong}}) {
		step($h);
	}
	step_read($h, 0, $made->{size});
	my $end = stop($h->{io});
	wrong($h, "the end: $end") if $end ne "ok\n0";
	is(join("\n", @{$h->{wrong}}), '', "$what: $h->{step} steps, $room blocks of room, $h->{full} times full") or
		diag(slurp('err'), join ' ', map "$_=$made->{$_}", qw(size block layout creator extra bitmaps room));
	is(broken_rules($made, $before, slurp('x.vhd')), '', "$what: and nothing else was written");
	spew('x.raw', $h->{disk});
	if ($made->{parent}) {
		ok($below eq slurp($made->{parent}), "$what: nor to the parent");
		ok(makevhd::contents('x.vhd', $made->{size}, slurp($made->{parent_model})) eq $h->{disk},
			"$what: by the specification it reads so");
		SKIP: {
			skip '7zz is not installed', 1 if !have('7zz');
			same(seven_zip_reads('x.vhd'), 'x.raw', "$what: 7zz reads it so");
		}
	} else {
		same(qemu_reads('x.vhd'), 'x.raw', "$what: qemu reads it so");
	}
	ours_are('./x.vhd', 'x.raw', $what);
}

sub histories {
	for my $n (1 .. 14) {
		my $image_seed = seed_of(6, $n);
		my $block = 4096 << $n % 7;
		my $size = SECTOR * (1 + int rand(($block < 65536 ? 800 << 10 : 3 << 20) / SECTOR));
		my $made = makevhd::make('x.vhd', 'x.raw', seed => $image_seed, block => $block, size => $size,
			room => SECTOR * int(rand(0.7 * $size) / SECTOR));
		history($n, "history $n of seed $image_seed", $made, 120);
	}
	for my $n (1 .. 10) {
		my $image_seed = seed_of(7, $n);
		chain($image_seed, SECTOR * (1 + int rand 3000), 1, undef, 'bits');
		my $block = 4096 << $n % 6;
		my $made = makevhd::make('x.vhd', 'x.raw', seed => $image_seed + 9, block => $block, creator => 'win ',
			parent => 'l1.vhd', parent_model => 'l1.raw', room => SECTOR * int rand 1500, extra => 0);
		history($n, "history $n over parents, of seed $image_seed", $made, 120);
	}
}

# ---- room ----

sub no_room {
	my $block = 65536;
	# A page more for each is alignment's; for the last it is not worth ENOSPC.
	for ([0, 0], [0, $block], [1, SECTOR + $block], [3, 3 * (4096 + $block) + 4096], [2, 2 * (4096 + $block) - 512]) {
		my ($blocks, $room) = @$_;
		my $made = makevhd::make('x.vhd', 'x.raw', seed => 11, size => 2 << 20, block => $block, layout => 'plain',
			creator => 'win ', allocate => 30, room => $room);
		my @free = grep !defined $made->{blocks}{$_}, 0 .. 31;
		my ($used) = keys %{$made->{blocks}};
		my $io = start('x.vhd');
		is(ask($io, 'usage'), join(' ', $block * keys %{$made->{blocks}}, $block * $blocks), "room for $blocks blocks");
		is(ask($io, "write ${\ ($_ * $block + 1024)} 512 7"), 'ok', "block $_ finds room") for @free[0 .. $blocks - 1];
		my $at = $free[$blocks] * $block;
		is(ask($io, "write $at 512 7"), 'error ENOSPC', "with $blocks taken there is no more");
		is(ask($io, "write ${\ ($used * $block)} 512 7"), 'ok', 'what has a place can be written');
		is(ask($io, "zero $at $block"), 'ok', 'zeros take no room');
		is(ask($io, "read $at 512"), '00' x 512, 'what found no room reads as before');
		is(ask($io, 'flush'), 'ok', 'a flush goes on');
		is(ask($io, 'usage'), join(' ', $block * ($blocks + keys %{$made->{blocks}}), 0), 'and no room is left');
		is(stop($io), "ok\n0", 'the end is good');
		must(qw(qemu-img info -f vpc x.vhd));
	}
}

sub refusals {
	my $made = makevhd::make('x.vhd', 'x.raw', seed => 12, size => 1 << 20, block => 65536, allocate => 50,
		room => 200000 >> 9 << 9);
	my ($used) = keys %{$made->{blocks}};
	my ($free) = grep !defined $made->{blocks}{$_}, 0 .. 15;
	my $before = slurp('x.vhd');
	my $io = start('x.vhd');
	is(ask($io, $_), 'error EINVAL', $_) for 'write 1 512 1', 'write 0 511 1', 'write 1048576 512 1',
		'write 1048064 1024 1', 'write 18446744073709551104 1024 1', 'zero 256 512', 'zero 1048064 1024', 'read 1048576 1';
	is(stop($io), "ok\n0", 'the end is good');
	$io = start('x.vhd', '-r');
	is(ask($io, "write ${\ ($_ * 65536)} 512 1"), 'error EROFS', "read-only, block $_") for $used, $free;
	is(ask($io, 'read 1048000 500'), unpack('H*', substr slurp('x.raw'), 1048000, 500), 'bytes that are no sectors');
	stop($io);
	ok($before eq slurp('x.vhd'), 'nothing was written');

	$made = makevhd::make('x.vhd', 'x.raw', seed => 13, size => 1 << 20, block => 65536, allocate => 50,
		room => 200000 >> 9 << 9, footer => 'lost', layout => 'plain');
	($used) = keys %{$made->{blocks}};
	($free) = grep !defined $made->{blocks}{$_}, 0 .. 15;
	$io = start('x.vhd');
	is(ask($io, "write ${\ ($used * 65536)} 512 1"), 'ok', 'a lost footer: what has a place can be written');
	is(ask($io, "write ${\ ($free * 65536)} 512 1"), 'error ENOSPC', 'but nobody knows what lies behind');
	is(stop($io), "ok\n0", 'the end is good');
	ok(substr($before = slurp('x.vhd'), -512) eq substr(slurp('x.vhd'), -512), 'and its end is as it was');
}

dynamic_images();
lost_footers();
by_qemu();
chains();
odd_chains();
locators();
histories();
no_room();
refusals();
done_testing();
