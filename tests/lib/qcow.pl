# SPDX-License-Identifier: GPL-2.0-or-later
# Images that qemu makes, for tests in perl: `require` this after tap.pl. All in the current folder.
#
#   patterns()                    files of bytes that are written into images: p0 … p7
#   create(PATH, FORMAT, SIZE, {OPTION => VALUE})
#   io(PATH, FORMAT, COMMAND...)  qemu-io; what it refuses is no matter, both sides see the same then
#   history(SIZE, CLUSTER, N)     N random commands for it: data, zeros, discards, compressed clusters
#   ours(LINES, ARGUMENT...)      what vdiskio -r answers to each, and its status and messages
#   same_contents(PATH, FORMAT, NAME, {...})   as qemu-img convert has it; `from`: has another image,
#                                 `snapshot`: of this one, `arguments`: more for vdiskio
#   same_map(PATH, FORMAT, NAME)      as qemu-img map has it
#   same_details(PATH, FORMAT, NAME)  as qemu-img info has them
use strict;
use warnings;
use JSON::PP qw(decode_json);
use Test::More;

our ($top, $T);
my $vdiskio = "$top/build/tests/vdiskio";
use constant SECTOR => 512;

# Half of them can be packed. Of odd lengths, so that no two clusters of a long write are the same.
sub patterns {
	for my $n (0 .. 7) {
		my $length = 40000 + 7777 * $n + 5;
		my $random = sub { join '', map chr int rand 256, 1 .. $length };
		my $text = sub { substr join('', map sprintf("%d: line %x\n", $n, $_ * 7), 1 .. $length / 8), 0, $length };
		spew("p$n", $n % 2 ? $random->() : $text->());
	}
}

sub create {
	my ($path, $format, $size, $options) = @_;
	my @options = map { ('-o', "$_=$options->{$_}") } sort keys %{$options // {}};
	must('qemu-img', 'create', '-q', '-f', $format, @options, $path, $size);
}

# Compressed clusters first, by a process of their own: where one is freed and another one packed after that, qemu 7.2
# takes the place for data twice.
sub io {
	my ($path, $format, @commands) = @_;
	for my $part ([grep / -c /, @commands], [grep !/ -c /, @commands]) {
		next if !@$part;
		run_quietly('qemu-io', '-t', 'unsafe', '-d', 'unmap', '-f', $format, (map { ('-c', $_) } @$part), $path);
	}
}

sub history {
	my ($size, $cluster, $n) = @_;
	return map {
		my $unit = rand() < 0.4 ? $cluster : SECTOR;
		my $at = $unit * int rand($size / $unit);
		my $length = SECTOR * int(1 + rand(3 * $cluster / SECTOR));
		$length = $cluster * int(1 + rand 4) if $unit == $cluster;
		$length = $size - $at if $length > $size - $at;
		my $packed = $cluster * int rand($size / $cluster);
		my $p = int rand 8;
		pick(
			("write -s p$p $at $length") x 9, ("write -z $at $length") x 2, ("write -z -u $at $length") x 2,
			("discard $at $length") x 3,
			(sprintf 'write -c -s p%d %d %d', $p & ~1, $packed, $size - $packed < $cluster ? $size - $packed : $cluster) x 5
		);
	} 1 .. $n;
}

sub ours {
	my ($lines, @arguments) = @_;
	spew('script', join '', map "$_\n", @$lines);
	my $status = run_quietly('sh', '-c', 'exec "$0" -r "$@" <script', $vdiskio, @arguments);
	my @answers = split /\n/, slurp("$T/out");
	return ($status, slurp("$T/err"), @answers);
}

sub same_contents {
	my ($path, $format, $name, $how) = @_;
	$how //= {};
	unlink 'ours.raw', 'qemu.raw';
	my @snapshot = defined $how->{snapshot} ? ('--snapshot', $how->{snapshot}) : ();
	must('qemu-img', 'convert', '-f', $format, '-O', 'raw', $how->{from} // $path, 'qemu.raw');
	my ($status, $err, @answers) = ours(['copy ours.raw'], @snapshot, @{$how->{arguments} // []}, $path);
	if ($status || "@answers" ne 'ok ok') {
		return fail("$name: contents") || diag("$status: @answers\n$err");
	}
	(my $differ, my $out, $err) = run('cmp', 'ours.raw', 'qemu.raw');
	return is($differ, 0, "$name: contents") || diag($out, $err);
}

# [start, length, kind, offset] of what has bytes of its own in the image, neighbours together.
sub merge {
	my @merged;
	for (@_) {
		my ($start, $length, $kind, $offset) = @$_;
		my $last = $merged[-1];
		my $touches = $last && $last->[0] + $last->[1] == $start && $last->[2] eq $kind;
		if ($touches && ($kind ne 'data' || $last->[3] + $last->[1] == $offset)) {
			$last->[1] += $length;
		} else {
			push @merged, [$start, $length, $kind, $kind eq 'data' ? $offset : '-'];
		}
	}
	return join "\n", map "@$_", @merged;
}

sub qemu_map {
	my ($path, $format) = @_;
	my $map = decode_json(must('qemu-img', 'map', '--output=json', '-f', $format, $path));
	return merge(map [$_->{start}, $_->{length}, exists $_->{offset} ? 'data' : 'compressed', $_->{offset}],
		grep { !$_->{depth} && $_->{data} } @$map);
}

sub our_map {
	my ($path) = @_;
	my ($status, $err, $line) = ours(['maps'], $path);
	return merge(map { my ($at, $kind, $length, $offset) = split /:/; [$at, $length, $kind =~ s/shared/data/r, $offset] }
		grep /:(?:data|shared|compressed):/, split ' ', $line // '');
}

sub same_map {
	my ($path, $format, $name) = @_;
	return is(our_map($path), qemu_map($path, $format), "$name: map");
}

sub same_details {
	my ($path, $format, $name) = @_;
	my $theirs = decode_json(must('qemu-img', 'info', '--output=json', '-f', $format, $path));
	my $data = $theirs->{'format-specific'}{data} // {};
	my ($status, $err, $info, $details, $usage) = ours(['info', 'details', 'usage'], $path);
	my %d = map { split /=/, $_, 2 } split ' ', $details // '';
	my $yes = sub { $_[0] ? 1 : 0 };
	my $version = $format eq 'qcow' ? 1 : ($data->{compat} // '') eq '0.10' ? 2 : 3;
	my %expected = (
		format => $format, size => $theirs->{'virtual-size'}, cluster => $theirs->{'cluster-size'}, version => $version,
		backing => $yes->($theirs->{'full-backing-filename'}), data => $yes->($data->{'data-file'}),
		raw => $yes->($data->{'data-file-raw'}), lazy => $yes->($data->{'lazy-refcounts'}),
		corrupt => $yes->($data->{corrupt}), snapshots => scalar @{$theirs->{snapshots} // []},
		bitmaps => scalar @{$data->{bitmaps} // []}, refcount_bits => $data->{'refcount-bits'} // 0,
		subclusters => $yes->($data->{'extended-l2'}), backing_format => $theirs->{'backing-filename-format'} // '',
		$format eq 'qcow' ? () : (compression => $data->{'compression-type'}),
	);
	my %found;
	@found{qw(format - size cluster backing)} = split ' ', $info // '';
	$found{subclusters} = $yes->($d{subcluster});
	$found{$_} //= $d{$_} for keys %expected;
	$found{backing_format} //= '';
	delete @found{grep !exists $expected{$_}, keys %found};
	is_deeply(\%found, \%expected, "$name: details") || diag($err);
	return like($usage, qr/^\d+ \d+$/, "$name: usage");
}

1;
