#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Any bytes may be in a dynamic or differencing VHD: every field of its footers, header, locators and table with values
# at which somebody may stumble, files that end too early, parents that are none. Whatever the command says of them, it
# ends by itself, with one of its exit codes and one message that names what is wrong, and leaves the bytes alone. What
# is written to them goes to no header.
#
# The programs are sanitised where the compiler can do that. The cases that are listed are always the same ones; those
# that are random depend on the seed and their number:
#
#   TEST_SEED=7 tests/hostile-vhd.t         others
#   HOSTILE_RUNS=5000 tests/hostile-vhd.t   more of them
#   HOSTILE_CASE=123 tests/hostile-vhd.t    this one alone
#   HOSTILE_SHOW=1000 tests/hostile-vhd.t   tells of all failures, not of ten
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use File::Copy qw(copy);
use File::Temp (); # its END comes after ours
use FindBin;
use POSIX qw(mkfifo);
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/makevhd.pl";
our ($top, $T, $seed, $ntfsmap);
my $vdiskio = "$top/build/tests/vdiskio";
my $plain = $ntfsmap; # for what has no need to be sanitised
my $runs = $ENV{HOSTILE_RUNS} // 100;
need($ntfsmap, $vdiskio);
chdir $T or die "$T: $!";
note("seed $seed");

END {
	chdir '/'; # so that $T can go
}

use constant SECTOR => 512;
use constant BLOCK => 16384;

# ---- the judge ----

my ($cases, $failures, %codes);
my $deep; # with the verbs that look at the whole table

sub complain {
	my ($told, $what, $err) = @_;
	diag("$told: $what\n", substr $err // '', 0, 2000) if $failures++ < ($ENV{HOSTILE_SHOW} // 10);
}

# One command; $names is what a message must have: a table's entries are named by check, which tells on standard output.
# Returns status and standard output.
sub attempt {
	my ($told, $names, $verb, @arguments) = @_;
	my ($status, $out, $err) = run($verb eq 'info' ? $plain : $ntfsmap, $verb, @arguments);
	$codes{$verb}{$status}++;
	if ($status !~ /^[0246]$/) {
		complain($told, "$verb ended by $status", $err);
	} elsif ($status && $err !~ /\A(?:ntfsmap: .+\n)+\z/ && $verb ne 'check') {
		complain($told, "$verb: no message", $err);
	} elsif ($status && ($verb eq 'check' ? $out . $err : $err) !~ /$names|see ntfsmap check/) {
		complain($told, "$verb: no message that names what is wrong", $out . $err);
	}
	return ($status, $out);
}

# All that reads. The file is x.vhd; nothing may change it.
sub judge {
	my ($told, $image, $names) = @_;
	$names //= qr/(?:footer|header|bat|entry|locator|parent)/i;
	$cases++;
	spew('x.vhd', $image);
	my ($status, $out) = attempt($told, $names, 'info', '--json', './x.vhd');
	my ($size) = $out =~ /"virtual_size": (\d+)/;
	complain($told, 'info: no size') if !$status && !$size;
	my $large = ($size // 0) > 1 << 26; # it may say up to 2040 GiB, which are zeros
	my ($cat, $bytes) = $large ? '-' : attempt($told, $names, 'cat', './x.vhd');
	complain($told, "cat: ${\ length $bytes} bytes of $size") if $cat eq '0' && length $bytes != $size;
	complain($told, "info says $status, cat $cat") if $status && $cat ne $status;
	attempt($told, $names, $_, './x.vhd') for $deep && !$large ? qw(check map) : ();
	complain($told, 'the file was changed') if slurp('x.vhd') ne $image;
	return ($cat, $bytes);
}

# Written to, through the library.
sub poke {
	my ($told, $image, $size) = @_;
	spew('x.vhd', $image);
	my @lines = map {
		my $at = SECTOR * int rand($size / SECTOR);
		sprintf pick('write %d %d 7', 'write %d %d 7', 'zero %d %d', 'map %d %d'), $at, SECTOR * int(1 + rand 40);
	} 1 .. 12;
	spew('script', join '', map "$_\n", @lines, 'flush', 'usage', 'check', 'reopen', 'read 0 65536');
	my $status = run_quietly('sh', '-c', "exec '$vdiskio' x.vhd <script");
	$codes{poke}{$status}++;
	my $err = slurp('err');
	complain($told, "vdiskio ended by $status", $err) if $status !~ /^[01]$/ || $err =~ /Sanitizer|runtime error/;
	my $now = slurp('x.vhd');
	complain($told, 'the length was changed') if length $now != length $image;
	for (['footer copy', 0, SECTOR], ['footer', -SECTOR, SECTOR]) {
		my ($name, $at, $bytes) = @$_;
		next if length $image < $bytes;
		complain($told, "the $name was written to") if substr($now, $at, $bytes) ne substr $image, $at, $bytes;
	}
}

# What the cases had in common is one test each.
sub batch {
	my ($name, $code) = @_;
	($cases, $failures, %codes) = (0, 0);
	$deep = $name =~ /^(?:entries|lengths|random)/;
	$code->();
	my @seen = map {
		my $verb = $_;
		"$verb " . join ' ', map "$codes{$verb}{$_} x $_", sort keys %{$codes{$verb}};
	} sort keys %codes;
	is($failures, 0, "$name: $cases cases (exit codes: " . join('; ', @seen) . ')');
}

# ---- the images ----

my (%good, %made); # dynamic, mixed, child

sub make_images {
	my @common = (size => 500 * 1024 + 512, block => BLOCK, allocate => 60, creator => 'win ', room => 40960);
	$made{dynamic} = makevhd::make('g.vhd', 'dynamic.raw', @common, seed => 21, layout => 'plain', bitmaps => 'ones');
	$good{dynamic} = slurp('g.vhd');
	$made{mixed} = makevhd::make('g.vhd', 'mixed.raw', @common, seed => 22, layout => 'mixed', extra => 200);
	$good{mixed} = slurp('g.vhd');
	makevhd::make('p.vhd', 'p.raw', @common, seed => 23);
	$made{child} = makevhd::make('g.vhd', 'child.raw', @common, seed => 24, layout => 'plain', bitmaps => 'bits',
		parent => 'p.vhd', parent_model => 'p.raw', locators => 'w2ku,w2ru');
	$good{child} = slurp('g.vhd');
	unlink 'g.vhd';
}

# Changes of the footer of $image, at the start, the end or both.
sub with_footer {
	my ($image, $where, $change) = @_;
	for my $at ($where eq 'start' ? 0 : $where eq 'end' ? -SECTOR : (0, -SECTOR)) {
		my $footer = substr $image, $at, SECTOR;
		$change->($footer);
		mkvhd::set($footer, checksum => mkvhd::checksum($footer));
		substr($image, $at, SECTOR) = $footer;
	}
	return $image;
}

sub with_header {
	my ($kind, $change) = @_;
	my $image = $good{$kind};
	my $at = $made{$kind}{header_at};
	my $header = substr $image, $at, 1024;
	$change->($header);
	makevhd::set($header, checksum => makevhd::checksum($header));
	substr($image, $at, 1024) = $header;
	return $image;
}

sub with_entries {
	my ($kind, %entry) = @_;
	my $image = $good{$kind};
	substr($image, $made{$kind}{table_at} + 4 * $_, 4) = pack 'N', $entry{$_} for keys %entry;
	return $image;
}

sub odd_numbers {
	my ($old, $bytes, @more) = @_;
	my $most = $bytes == 8 ? ~0 : (1 << 8 * $bytes) - 1;
	my %seen;
	return grep !$seen{$_}++ && $_ >= 0 && $_ <= $most, 0, 1, $most, $most - 1, $most >> 1, ($most >> 1) + 1,
		$old + 1, $old - 1, $old * 2, $old >> 1, $old + 512, $old + 256, @more;
}

# ---- the cases ----

sub footers {
	for ([both => 'mixed'], [start => 'dynamic'], [end => 'child']) {
		my ($where, $kind) = @$_;
		my $bytes = length $good{$kind};
		my %sizes = (features => 4, version => 4, data_offset => 8, time => 4, original_size => 8, current_size => 8,
			cylinders => 2, heads => 1, sectors => 1, type => 4, saved => 1);
		for my $field (sort keys %sizes) {
			my $old = mkvhd::get(substr($good{$kind}, -SECTOR), $field);
			my @more = $field eq 'data_offset' ? ($bytes, $bytes - 512, $bytes - 1024, $bytes - 1536, 256, 4096) : ();
			judge("$kind, footer.$field = $_ ($where)", with_footer($good{$kind}, $where, sub {
				mkvhd::set($_[0], $field => $_)
			})) for odd_numbers($old, $sizes{$field}, @more);
		}
		for (['cookie', 'connectix'], ['creator', 'vpc '], ['creator', "\xff\xfe\n\0"], ['uuid', '']) {
			my ($field, $value) = @$_;
			judge("$kind, another footer.$field ($where)", with_footer($good{$kind}, $where, sub {
				mkvhd::set($_[0], $field => $value)
			}));
		}
	}
	for my $at (0, -SECTOR) {
		my $image = $good{mixed};
		substr($image, $at, SECTOR) = makevhd::stale(SECTOR);
		my ($cat) = judge("a footer that is lost, $at", $image);
		is($cat, 0, "without the footer at $at the other one is enough");
	}
	my $image = $good{mixed};
	substr($image, $_, SECTOR) = makevhd::stale(SECTOR) for 0, -SECTOR;
	my ($cat) = judge('both footers are lost', $image, qr/vhd/i);
	isnt($cat, '0', 'two lost footers are no image');
}

sub headers {
	for my $kind (qw(mixed child)) {
		my $bytes = length $good{$kind};
		my %more = (table_offset => [$bytes, $bytes - 512, $bytes - 100, 512, 256, $made{$kind}{header_at},
			$made{$kind}{footer_at}, (values %{$made{$kind}{blocks}})[0]],
			entries => [32, 31, 30, 1 << 30, 0x3fffffff], block_size => [512, 256, 1024, 3 << 20, 1 << 27, 1 << 31]);
		for my $field (qw(data_offset table_offset version entries block_size parent_time reserved)) {
			my (undef, $length) = @{makevhd::fields()->{$field}};
			my $old = makevhd::get(substr($good{$kind}, $made{$kind}{header_at}, 1024), $field);
			judge("$kind, header.$field = $_", with_header($kind, sub { makevhd::set($_[0], $field => $_) }))
				for odd_numbers($old, $length, @{$more{$field} // []});
		}
		for my $field (qw(cookie parent_uuid parent_name)) {
			for my $value ('', "\xff" x 512, 'cxsparsf', "\xd8\0" x 256) {
				judge("$kind, another header.$field", with_header($kind, sub { makevhd::set($_[0], $field => $value) }));
			}
		}
		my $image = $good{$kind};
		substr($image, $made{$kind}{header_at} + 36, 4) ^= "\0\0\0\1";
		my ($cat) = judge("$kind, header.checksum", $image);
		is($cat, 6, "$kind, a wrong checksum of the header is damage");
	}
}

# What is wrong with a table entry: it "is damage", "is a cross-link" or "is read".
sub judgement {
	my ($kind, $index, $value) = @_;
	my $made = $made{$kind};
	return 'is read' if $value == makevhd::NOWHERE();
	my ($from, $bytes) = ($value * SECTOR, $made->{bitmap_bytes} + BLOCK);
	my $upon = sub { $from < $_[1] && $_[0] < $from + $bytes };
	return 'is damage' if grep $upon->(@$_), [0, SECTOR], [$made->{footer_at}, 1 << 62], @{$made->{fixed}};
	my @others = map $made->{blocks}{$_}, grep $_ != $index, keys %{$made->{blocks}};
	return grep($upon->($_, $_ + $bytes), @others) ? 'is a cross-link' : 'is read';
}

sub odd_entries {
	my ($kind, $other) = @_;
	my $made = $made{$kind};
	my $unit = ($made->{bitmap_bytes} + BLOCK) / SECTOR;
	my $end = $made->{footer_at} / SECTOR;
	my %seen;
	return grep $_ >= 0 && !$seen{$_}++, 0, 1, 0xffffffff, 0xfffffffe, 0x7fffffff, 0x80000000, 0x00800000,
		$end - 1, $end, $end + 1, $end - $unit, $end - $unit + 1, map({
			my ($from, $to) = map int, $_->[0] / SECTOR, ($_->[1] + SECTOR - 1) / SECTOR;
			($from, $to - 1, $to, $from - $unit, $from - $unit + 1);
		} @{$made->{fixed}}), map $made->{blocks}{$other} / SECTOR + $_, 0, 1, -1, $unit - 1, 1 - $unit;
}

sub entries {
	for my $kind (qw(dynamic mixed child)) {
		my ($index, $other) = sort { $a <=> $b } keys %{$made{$kind}{blocks}};
		for my $value (odd_entries($kind, $other)) {
			my $why = judgement($kind, $index, $value);
			my $told = sprintf '%s, entry %d = 0x%x %s', $kind, $index, $value, $why;
			my $image = with_entries($kind, $index => $value);
			my ($cat) = judge($told, $image);
			complain($told, "cat says $cat") if $cat ne ($why eq 'is damage' ? 6 : 0);
			my ($check) = run($ntfsmap, 'check', './x.vhd');
			complain($told, "check says $check") if $check ne ($why eq 'is read' ? 0 : 6);
			srand $value;
			poke($told, $image, 500 * 1024);
		}
		for my $value (0, 8, 0xfffffffe, $made{$kind}{footer_at} / SECTOR - 64) {
			my $told = sprintf '%s, all entries are 0x%x', $kind, $value;
			my $image = with_entries($kind, map { $_ => $value } 0 .. 31);
			judge($told, $image);
			poke($told, $image, 500 * 1024);
		}
	}
}

sub locators {
	my $bytes = length $good{child};
	for my $n (0, 1) {
		my %more = (offset => [$bytes, $bytes - 1, $bytes - 10, 0, 512, 1536, -512], length => [2, 3, 65536, 1 << 20, $bytes],
			space => [512, 65536], code => []);
		for my $field (qw(code space length reserved offset)) {
			my $name = "locator$n.$field";
			my ($at, $length) = @{makevhd::fields()->{$name}};
			my $old = unpack $length == 8 ? 'Q>' : 'N', substr $good{child}, $made{child}{header_at} + $at, $length;
			for my $value (odd_numbers($old, $length, @{$more{$field} // []})) {
				judge("header.$name = $value", with_header('child', sub {
					substr($_[0], $at, $length) = pack $length == 8 ? 'Q>' : 'N', $value;
				}));
			}
		}
	}
	# Both locators gone, all eight of them there and the same one, or many of one huge length
	judge('no locators', with_header('child', sub { substr($_[0], 576, 192) = "\0" x 192 }));
	judge('eight equal locators', with_header('child', sub { substr($_[0], 576, 192) = substr($_[0], 576, 24) x 8 }));
	judge('locators of 0xff', with_header('child', sub { substr($_[0], 576, 192) = "\xff" x 192 }));
	my ($relative) = map $_->[0], $made{child}{fixed}[2];
	for my $text ("\0" x 16, "p\0.\0v\0h\0d\0", "\0\xd8\0\xd8", "\0\xdcp\0", ".\0\\\0" x 40, ".\0.\0\\\0" x 60, "/\0" x 30,
		"\\\0\\\0p\0\\\0", "p\0\0\0.\0v\0h\0d\0", "C\0:\0", "C\0:\0\\\0", ".\0", ".\0.\0", "\n\0\x1b\0[\0", "\xff\xff" x 20,
		join('', map "$_\0", split //, '..\\..\\..\\..\\..\\..\\..\\..\\etc\\passwd'),
		join('', map "$_\0", split //, '.\\f.vhd'), join('', map "$_\0", split //, '.\\d.vhd'),
		join('', map "$_\0", split //, '.\\x.vhd'), join('', map "$_\0", split //, '.\\missing.vhd'), "a\0" x 3000) {
		my $shown = unpack 'H40', $text;
		for my $code (qw(W2ru W2ku)) {
			judge("$code names $shown", with_locator($code, $text));
		}
	}
}

# The child with one locator, whose text stands where there is room for it.
sub with_locator {
	my ($code, $text) = @_;
	my $at = $made{child}{footer_at} - $made{child}{room};
	my $image = with_header('child', sub {
		substr($_[0], 576, 192) = "\0" x 192;
		makevhd::set($_[0], 'locator0.code' => $code);
		makevhd::set($_[0], 'locator0.space' => makevhd::round_up(length $text, SECTOR));
		makevhd::set($_[0], 'locator0.length' => length $text);
		makevhd::set($_[0], 'locator0.offset' => $at);
	});
	substr($image, $at, length $text) = $text;
	return $image;
}

# Every length at which something ends, one less and one more.
sub lengths {
	for my $kind (qw(dynamic mixed child)) {
		my $made = $made{$kind};
		my %lengths = map { $_ => 1 } 0, 1, 511, 512, 513, 1024, 1536, length($good{$kind}) - 1,
			map({ ($_->[0], $_->[1] - 1, $_->[1], $_->[1] + 512) } @{$made->{fixed}}),
			map { $made->{footer_at} + $_ } 0, 1, 510, 511;
		my @blocks = sort { $a <=> $b } values %{$made->{blocks}};
		$lengths{$_} = 1 for map { ($_, $_ + 512, $_ + 513) } @blocks[0, -1];
		for my $length (sort { $a <=> $b } keys %lengths) {
			judge("$kind, $length bytes of it", substr($good{$kind}, 0, $length), qr/./);
			my $tail = substr $good{$kind}, -SECTOR;
			judge("$kind, $length bytes of it and the footer", substr($good{$kind}, 0, $length) . $tail, qr/./)
				if $length > 1 && $length < length $good{$kind};
		}
	}
}

# The child below x.vhd is $child; its parents are files beside it. None of them may change.
sub family {
	my ($told, $child, $code) = @_;
	my %before = map { -f $_ ? ($_ => slurp($_)) : () } glob '*.vhd';
	my ($cat) = judge($told, $child, qr/parent|chain/i);
	complain($told, "cat says $cat, not $code") if $cat !~ /^(?:$code)$/;
	my ($status, undef, $err) = run($vdiskio, '-r', 'x.vhd');
	complain($told, "vdiskio ended by $status", $err) if $status ne ($code ? 1 : 0);
	$_ ne 'x.vhd' && slurp($_) ne $before{$_} and complain($told, "$_ was changed") for sort keys %before;
}

sub of {
	my ($parent, %options) = @_;
	makevhd::make('tmp.vhd', 'tmp.raw', seed => 31, size => 100 << 10, block => BLOCK, parent => $parent,
		parent_model => 'p.raw', locators => 'w2ru', creator => 'win ', %options);
	my $image = slurp('tmp.vhd');
	unlink 'tmp.vhd';
	return $image;
}

sub parents {
	my @id = map sprintf('%02x', $_) x 16, 0 .. 99;
	makevhd::make('q.vhd', 'q.raw', seed => 32, size => 100 << 10, block => BLOCK, uuid => $id[1], creator => 'win ');
	family('a sound parent', of('q.vhd'), 0);
	# x is the child of x
	family('its own parent', of('q.vhd', uuid => $id[1], parent_path => 'x.vhd'), '2|6');
	# x is the child of q, q of x
	my $x = of('q.vhd', uuid => $id[2]);
	spew('x.vhd', $x);
	spew('q.vhd', of('x.vhd', uuid => $id[1]));
	family('the child of its child', $x, '2|6');
	# q is the child of q
	spew('q.vhd', of('q.vhd', uuid => $id[1]));
	family('a parent that is its own', of('q.vhd', uuid => $id[3]), '2|6');
	# 40 of them
	makevhd::make('n0.vhd', 'q.raw', seed => 32, size => 100 << 10, block => BLOCK, uuid => $id[10]);
	spew("n$_.vhd", of("n${\ ($_ - 1)}.vhd", uuid => $id[10 + $_])) for 1 .. 40;
	family('a chain of 41', of('n40.vhd'), '2|6');
	family('a chain of 21', of('n20.vhd'), 0);
	my $lost = slurp('n3.vhd');
	unlink 'n3.vhd';
	family('a chain with a hole', of('n20.vhd'), 4);
	spew('n3.vhd', substr $lost, 0, 700);
	family('a chain with a damaged one', of('n20.vhd'), '2|6');
	unlink glob 'n*.vhd';

	makevhd::make('q.vhd', 'q.raw', seed => 32, size => 100 << 10, block => BLOCK, uuid => $id[1]);
	my $child = of('q.vhd');
	makevhd::make('q.vhd', 'q.raw', seed => 33, size => 100 << 10, block => BLOCK, uuid => $id[4]);
	family('another unique id', $child, 6);
	spew('q.vhd', "\0" x 65536);
	family('a parent of zeros', $child, '2|6');
	spew('q.vhd', '');
	family('an empty parent', $child, '2|6');
	unlink 'q.vhd';
	family('no parent', $child, 4);
	mkdir 'q.vhd';
	family('a folder', $child, '2|4|6');
	rmdir 'q.vhd';
	mkfifo('q.vhd', 0600);
	family('a pipe', $child, '2|4|6');
	unlink 'q.vhd';
	symlink 'q.vhd', 'q.vhd';
	family('a link to itself', $child, '2|4|6');
	unlink 'q.vhd';
	symlink '/dev/zero', 'q.vhd';
	family('an endless device', $child, '2|4|6');
	unlink 'q.vhd';
}

# ---- random ones ----

sub random_image {
	my ($case) = @_;
	srand($seed * 1_000_003 + $case);
	my $kind = pick(qw(dynamic mixed child));
	my $made = $made{$kind};
	my $image = $good{$kind};
	my @places = ([0, 512], [length($image) - 512, length $image], (@{$made->{fixed}}) x 3);
	my @told;
	for (0 .. rand 4) {
		my ($from, $to) = @{pick(@places)};
		my $size = pick(1, 1, 2, 4, 4, 8);
		my $at = $from + int rand($to - $from - $size);
		$at -= $at % $size;
		my $old = unpack 'Q>', "\0" x (8 - $size) . substr $image, $at, $size;
		my $new = pick(odd_numbers($old, $size, int rand 4096, int rand(length($image) / SECTOR)));
		substr($image, $at, $size) = substr pack('Q>', $new), -$size;
		push @told, sprintf '%d: %d bytes 0x%x -> 0x%x', $at, $size, $old, $new;
	}
	# Seen are the checksums, or what they protect.
	for my $at (rand(8) < 1 ? () : (0, -SECTOR)) {
		my $footer = substr $image, $at, SECTOR;
		mkvhd::set($footer, checksum => mkvhd::checksum($footer));
		substr($image, $at, SECTOR) = $footer;
	}
	my $header = substr $image, $made->{header_at}, 1024;
	makevhd::set($header, checksum => makevhd::checksum($header));
	substr($image, $made->{header_at}, 1024) = $header if rand(8) > 1;
	return ("$kind, random case $case: " . join(', ', @told), $image);
}

sub random {
	for my $case (defined $ENV{HOSTILE_CASE} ? $ENV{HOSTILE_CASE} : 1 .. $runs) {
		my ($told, $image) = random_image($case);
		judge($told, $image, qr/./);
		poke($told, $image, 500 * 1024);
	}
}

# ----

my ($why, @sanitised) = sanitised('bin/ntfsmap', 'tests/vdiskio');
($ntfsmap, $vdiskio) = @sanitised if @sanitised;
SKIP: {
	skip "$why: plain programs", 1 if !@sanitised;
	pass('the programs are sanitised');
}
make_images();
for my $kind (sort keys %good) {
	my ($cat, $bytes) = judge("$kind, not changed", $good{$kind});
	is($cat, 0, "$kind: good before it is changed");
	ok(($bytes // '') eq slurp("$kind.raw"), "$kind: and reads as it should");
}
mkfifo('f.vhd', 0600);
mkdir 'd.vhd';
batch('footers', \&footers);
batch('headers', \&headers);
batch('entries', \&entries);
batch('locators', \&locators);
batch('lengths', \&lengths);
batch('parents', \&parents);
batch("random cases of seed $seed", \&random);
done_testing();
