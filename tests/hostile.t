#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Any bytes may be in an image and on a volume: mutated VHD footers and mutated NTFS metadata against the command.
# Whatever it says of them, it ends by itself, with one of its exit codes, leaves the bytes alone, and prints no
# table that reaches out of the volume.
#
# Case number N of a run depends on the seed and N only:
#
#   HOSTILE_SEED=7 tests/hostile.t          other mutations
#   HOSTILE_RUNS=20000 tests/hostile.t      more of them (the sanitised ones: a tenth)
#   HOSTILE_CASE=123 tests/hostile.t        this one alone
#   HOSTILE_KEEP=/tmp/x tests/hostile.t     leaves the input of a failed case there
use strict;
use warnings;
no warnings 'portable'; # perl has 64 bits here
use Fcntl qw(SEEK_SET);
use File::Copy qw(copy);
use FindBin;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/mkvhd.pl";
our ($top, $T, $ntfsmap);
my $seed = $ENV{HOSTILE_SEED} // 20061011;
my $runs = $ENV{HOSTILE_RUNS} // 2000;
my $forge = "$top/build/tests/ntfsforge";

# ---- mutations ----

# Numbers at which somebody may stumble, in the light of what was there.
sub odd_number {
	my ($old, $bytes) = @_;
	my $bits = 8 * $bytes;
	my $new = pick(0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
		0x7fffffffffffffff, ~0, ~0 - 1, ~0 - 511, $old + 1, $old - 1, $old ^ 0x80, $old * 2, $old >> 1,
		$old + 8, $old + 512, ~$old, 1 << int(rand $bits), int(rand 4096));
	return $new;
}

sub odd_bytes {
	my ($old) = @_;
	my $template = {1 => 'C', 2 => 'v', 4 => 'V', 8 => 'Q<'}->{length $old};
	no warnings 'pack'; # it is cut to size
	use integer;
	return pack $template, odd_number(unpack($template, $old), length $old);
}

# One change of some of the bytes [$at, $end) of $$image: [offset, new bytes].
sub mutation {
	my ($image, $at, $end) = @_;
	my $room = $end - $at;
	my $kind = int rand 8;
	if ($kind < 4) {
		my $size = pick(1, 1, 2, 2, 4, 8);
		$size >>= 1 while $size > $room;
		my $offset = $at + int rand($room - $size + 1);
		$offset -= ($offset - $at) % $size; # fields are aligned
		return [$offset, odd_bytes(substr $$image, $offset, $size)];
	}
	my $offset = $at + int rand $room;
	my $size = 1 + int rand 16;
	$size = $end - $offset if $size > $end - $offset;
	my $old = substr $$image, $offset, $size;
	return [$offset, substr($old, 0, 1) ^ chr(1 << rand 8)] if $kind == 4;
	return [$offset, chr rand 256] if $kind == 5;
	return [$offset, chr(pick(0, 255)) x $size] if $kind == 6;
	return [$offset, substr $$image, $at + int(rand($room - $size + 1)), $size]; # from elsewhere
}

sub describe {
	my ($image, @patch) = @_;
	return join ', ', map {
		my ($at, $new) = @$_;
		sprintf '0x%x: %s -> %s', $at, map unpack('H*', $_), substr($$image, $at, length $new), $new
	} @patch;
}

# ---- a batch of cases ----

my %allowed = map { $_ => 1 } 0, 1, 2, 4, 5, 6, 7;
my $failures;

# The command and what it must never do. Returns the status; undef after a failure, which has been told.
sub attempt {
	my ($batch, $case, $told, @command) = @_;
	my ($status, $out, $err) = run(@command);
	my $wrong = $allowed{$status} ? $batch->{wrong}->($status, $out, $err, @command) : "ended by $status";
	return $status if !$wrong;
	complain($batch, $case, $told, "@command: $wrong", $err);
	return undef;
}

sub complain {
	my ($batch, $case, $told, $what, $err) = @_;
	my $kept = '';
	if ($ENV{HOSTILE_KEEP}) {
		$kept = "$ENV{HOSTILE_KEEP}.$batch->{name}.$case";
		copy($batch->{path}, $kept);
		$kept = "\nkept: $kept";
	}
	diag("$batch->{name} case $case of seed $seed: $told\n$what\n", substr($err, 0, 3000), $kept);
	$failures++;
}

# Runs the cases of a batch; what they have in common is one test each.
sub batch {
	my ($batch, $count) = @_;
	my @cases = defined $ENV{HOSTILE_CASE} ? $ENV{HOSTILE_CASE} : 1 .. $count;
	my %seen;
	$failures = 0;
	for my $case (@cases) {
		srand($seed * 1_000_003 + $case);
		$seen{$_ // 'failed'}++ for $batch->{case}->($batch, $case);
		last if $failures >= 10;
	}
	my $statuses = join ', ', map "$seen{$_} x $_", sort keys %seen;
	is($failures, 0, "$batch->{name}: ${\ scalar @cases} mutations of seed $seed (exit codes: $statuses)");
}

# ---- VHD footers ----

use constant DATA => 65536;

sub vhd_batch {
	my ($name, $program) = @_;
	return {
		name => $name, path => "$T/x.vhd", program => $program, case => \&vhd_case, wrong => \&vhd_wrong,
		image => join('', map { pack 'N', $_ } 1 .. DATA / 4) . mkvhd::footer(DATA, chs => '8/4/4'),
	};
}

# Most mutations are of fields that mean something; half of them get a right checksum again.
sub vhd_case {
	my ($batch, $case) = @_;
	my $image = $batch->{image};
	my @patch = map mutation(\$image, DATA, DATA + pick(88, 88, 512)), 1 .. 1 + rand 3;
	my $told = describe(\$image, @patch);
	substr($image, $_->[0], length $_->[1]) = $_->[1] for @patch;
	if (rand(2) < 1) {
		my $footer = substr $image, DATA;
		mkvhd::set($footer, cookie => 'conectix');
		mkvhd::set($footer, type => 2) if rand(2) < 1;
		mkvhd::set($footer, checksum => mkvhd::checksum($footer));
		substr($image, DATA) = $footer;
		$told .= ', checksum set right';
	}
	if (rand(8) < 1) {
		my $cut = pick(1, 511, 512, int rand DATA, DATA);
		$image = substr $image, $cut;
		$told .= ", without the first $cut bytes";
	}
	if (rand(8) < 1) {
		chop $image;
		$told .= ', without the last byte';
	}
	spew($batch->{path}, $image);
	my $status = attempt($batch, $case, $told, $batch->{program}, 'info', '--json', $batch->{path});
	complain($batch, $case, $told, 'the file was changed', '') if slurp($batch->{path}) ne $image;
	return $status;
}

# What was accepted is a footer by the specification, and a disk inside of the file.
sub vhd_wrong {
	my ($status, $out, $err) = @_;
	return "status $status" if $status !~ /^[026]$/;
	return $err =~ /^ntfsmap: .+\n\z/ && $out eq '' ? '' : 'no single message' if $status;
	my $image = slurp("$T/x.vhd");
	my ($size) = $out =~ /"virtual_size": (\d+)/;
	return 'no size' if !$size || $size % 512;
	return 'accepted as raw by its name' if $out !~ /"format": "vhd"/;
	for my $bytes (511, 512) {
		next if length $image < $bytes;
		my $footer = pack 'a512', substr $image, -$bytes;
		return $size <= length($image) - $bytes ? '' : "size $size is outside"
			if mkvhd::get($footer, 'cookie') eq 'conectix' &&
			mkvhd::get($footer, 'checksum') == mkvhd::checksum($footer) &&
			mkvhd::get($footer, 'type') == 2;
	}
	return 'accepted without a good footer';
}

# ---- NTFS ----

# A small NTFS reader, enough to find where the metadata is. It shares no code with what is tested.
my ($cluster, $record_size, $mft);

sub number_at {
	my ($image, $at, $bytes) = @_;
	return unpack {1 => 'C', 2 => 'v', 4 => 'V', 8 => 'Q<'}->{$bytes}, substr $$image, $at, $bytes;
}

sub signed_le {
	my ($bytes) = @_;
	my $sign = ord(substr $bytes, -1) & 0x80 ? "\xff" : "\0";
	return unpack 'q<', $bytes . $sign x (8 - length $bytes);
}

# [offset in bytes, length in bytes] of each run of a non-resident attribute.
sub runs_at {
	my ($image, $attribute) = @_;
	my $at = $attribute + number_at($image, $attribute + 32, 2);
	my ($lcn, @runs) = 0;
	while (my $header = number_at($image, $at++, 1)) {
		my ($n, $m) = ($header & 15, $header >> 4);
		my $length = signed_le(substr $$image, $at, $n);
		$lcn += $m ? signed_le(substr $$image, $at + $n, $m) : 0;
		push @runs, [$lcn * $cluster, $length * $cluster] if $m;
		$at += $n + $m;
	}
	return @runs;
}

# [type, offset, length] of each attribute of the record at $at.
sub attributes {
	my ($image, $at) = @_;
	my @found;
	$at += number_at($image, $at + 20, 2);
	while ((my $type = number_at($image, $at, 4)) != 0xffffffff) {
		my $length = number_at($image, $at + 4, 4) or die "an attribute without a length at $at";
		push @found, [$type, $at, $length];
		$at += $length;
	}
	return @found;
}

# The image with the last two bytes of each sector of an MFT record where they belong. The records are all that is
# read here.
sub without_fixups {
	my ($image) = @_;
	for (my $at = 0; $at < length $image; $at += 512) {
		next if substr($image, $at, 4) ne 'FILE';
		my ($array, $count) = (number_at(\$image, $at + 4, 2), number_at(\$image, $at + 6, 2));
		substr($image, $at + 512 * $_ - 2, 2) = substr $image, $at + $array + 2 * $_, 2 for 1 .. $count - 1;
	}
	return $image;
}

# Where bytes are that may be mutated: name => [[start, end], ...].
sub places {
	my ($image) = @_;
	$cluster = number_at($image, 11, 2) * number_at($image, 13, 1);
	$record_size = 1024;
	$mft = number_at($image, 48, 8) * $cluster;
	my $mirror = number_at($image, 56, 8) * $cluster;
	my %place = (boot => [[0, 84]], mirror => [[$mirror, $mirror + 4 * $record_size]]);
	my ($mft_bytes) = map $_->[1], runs_at($image, (grep $_->[0] == 0x80, attributes($image, $mft))[0][1]);
	for (my $at = $mft; $at < $mft + $mft_bytes; $at += $record_size) {
		next if substr($$image, $at, 4) ne 'FILE' || !(number_at($image, $at + 22, 2) & 1);
		places_of_record(\%place, $image, $at, ($at - $mft) / $record_size);
	}
	return \%place;
}

sub places_of_record {
	my ($place, $image, $at, $number) = @_;
	push @{$place->{records}}, [$at, $at + 56];
	for (attributes($image, $at)) {
		my ($type, $start, $length) = @$_;
		push @{$place->{attributes}}, [$start, $start + 24];
		push @{$place->{values}}, [$start + 16, $start + $length];
		next if !number_at($image, $start + 8, 1);
		# the file's own, as most records belong to no file that is asked for
		push @{$place->{data}}, [$start, $start + $length] if $type == 0x80 && $number >= 64;
		my $name = {0x20 => 'attribute lists', 0xa0 => 'index blocks', 0xb0 => 'index bitmaps'}->{$type} //
			{2 => 'log', 6 => 'bitmap', 9 => 'security', 10 => 'upcase'}->{$number};
		next if !$name;
		push @{$place->{$name}}, map [$_->[0], $_->[0] + ($_->[1] > 4096 ? 4096 : $_->[1])],
			runs_at($image, $start);
	}
}

sub make_volume {
	my ($path) = @_;
	my $f = sub { must($forge, $path, @_) };
	spew("$T/disk.vhd", join '', (map { pack 'Q', $_ } 1 .. 98304), mkvhd::footer(98304 * 8));
	spew($path, '');
	truncate $path, 4 << 20;
	must(qw(mkntfs -q -F -Q -T -c 512), $path);
	$f->('mkdir', '/dir');
	# 700 runs need an attribute list and several records; 60 names, all of one file, need index blocks.
	must('sh', '-c', '"$0" "$1" file /dir/disk.vhd 786944 runs=700 order=shuffle seed=1 fill=stdin <"$2"', $forge,
		$path, "$T/disk.vhd");
	$f->('empty', '/dir/many');
	$f->('link', '/dir/many', "/dir/another name that is long so that there are index blocks $_") for 1 .. 60;
	$f->('file', '/dir/plain.img', '300K', 'runs=5', 'fill=pattern', 'seed=1');
	$f->('stream', '/dir/plain.img', 'other', '64K', 'runs=3');
	$f->('resident', '/small.img', '100');
	$f->('sparse', '/sparse.img', '1M');
	$f->('hiberfil', 'hiberfil.sys', 'hibr');
	$f->('logfile', '1.1', 'inuse');
}

# Options and path.
my @asked = (
	(map [[], "/dir/disk.vhd"], 1 .. 6),
	[['--readonly'], '/dir/disk.vhd'], [['--format', 'raw'], '/dir/disk.vhd'], [[], '/dir/plain.img'],
	[[], '/dir/plain.img:other'], [[], '\\DIR\\DISK.VHD'], [['--readonly'], '/sparse.img'], [[], '/small.img'],
);

sub ntfs_batch {
	my ($name, $program, $image, $place) = @_;
	my $path = "$T/ntfs.img";
	open my $file, '+<:raw', $path or die "$path: $!";
	return {
		name => $name, path => $path, program => $program, case => \&ntfs_case, wrong => \&table_wrong,
		image => $image, place => $place, file => $file,
	};
}

my $now = ''; # kept, as 4 MiB are not allocated for nothing

# To the volume and to what is known of it.
sub apply {
	my ($batch, @patch) = @_;
	for (@patch) {
		substr(${$batch->{image}}, $_->[0], length $_->[1]) = $_->[1];
		sysseek $batch->{file}, $_->[0], SEEK_SET;
		syswrite($batch->{file}, $_->[1]) == length $_->[1] or die "$batch->{path}: $!";
	}
}

# Changes that $MFTMirr has not are found at once: so mostly it has them.
sub mirrored {
	my ($place, @patch) = @_;
	my $shift = $place->{mirror}[0][0] - $mft;
	return @patch if rand(4) < 1;
	return (@patch, map [$_->[0] + $shift, $_->[1]], grep $_->[0] >= $mft && $_->[0] < $mft + 4 * $record_size, @patch);
}

sub ntfs_case {
	my ($batch, $case) = @_;
	my ($image, $place) = @$batch{qw(image place)};
	my @patch = map {
		my $kind = pick(sort(keys %$place), qw(records attributes values data data), 'attribute lists');
		mutation($image, @{pick(@{$place->{$kind}})});
	} 1 .. 1 + rand 3;
	@patch = mirrored($place, @patch);
	my $told = describe($image, @patch);
	my ($options, $path) = @{pick(@asked)};
	my @undo = map [$_->[0], substr $$image, $_->[0], length $_->[1]], @patch;
	apply($batch, @patch);
	# Only with a name can a table say that it is read-only.
	my @name = "@$options" eq '--readonly' ? qw(--concise name) : ();
	my @statuses = map attempt($batch, $case, $told, $batch->{program}, @$_, @$options, "$batch->{path}:$path"),
		['check'], ['table', @name];
	if (!grep !defined, @statuses and $statuses[0] != $statuses[1]) {
		complain($batch, $case, $told, "check says $statuses[0] of $path, table $statuses[1]", '');
	}
	sysseek $batch->{file}, 0, SEEK_SET;
	sysread $batch->{file}, $now, 1 + length $$image;
	complain($batch, $case, $told, 'the volume was changed', '') if $now ne $$image;
	apply($batch, @undo);
	return @statuses;
}

# A table is one piece, and lies inside of the volume; a failure is a line that device-mapper cannot parse.
sub table_wrong {
	my ($status, $out, $err, undef, $verb) = @_;
	return '' if $verb ne 'table';
	return $out =~ /^refused: [^\n]+\n\z/ ? '' : "status $status and prints $out" if $status;
	my $readonly = $out =~ s/^name,NTFSMAP-[-\w]+,,ro,//;
	my $volume = 4 << 11;
	my $next = 0;
	for (split $readonly ? ',' : "\n", $out) {
		my ($start, $count, $device_start) = /^(\d+) (\d+) (?:linear \Q$T\E\/ntfs\.img (\d+)|zero)\n?$/
			or return "cannot parse $_";
		return "a gap or overlap before $_" if $start != $next || !$count;
		return "zeros in a writable table" if !defined $device_start && !$readonly;
		return "outside of the volume: $_" if defined $device_start && $device_start + $count > $volume;
		$next += $count;
	}
	return $next ? '' : 'an empty table';
}

# ----

need('mkntfs', $forge, $ntfsmap);
note("seed $seed");
make_volume("$T/ntfs.img");
my $image = slurp("$T/ntfs.img");
my $place = places(\without_fixups($image));
my ($why, $asan) = sanitised('bin/ntfsmap');

my ($good) = run($ntfsmap, 'check', "$T/ntfs.img:/dir/disk.vhd");
is($good, 0, 'the volume is good before it is mutated');
is(join(', ', sort keys %$place), 'attribute lists, attributes, bitmap, boot, data, index bitmaps, index blocks, ' .
	'log, mirror, records, security, upcase, values', 'it has all kinds of metadata');
batch(vhd_batch('VHD', $ntfsmap), $runs);
batch(ntfs_batch('NTFS', $ntfsmap, \$image, $place), $runs);
SKIP: {
	skip $why, 2 if !$asan;
	batch(vhd_batch('VHD, sanitised', $asan), $runs / 10);
	batch(ntfs_batch('NTFS, sanitised', $asan, \$image, $place), $runs / 10);
}
done_testing();
