#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-or-later
#
# qcow2 and qcow as qemu-img and qemu-io make them, with every option: our library reads the bytes that qemu reads, finds
# them where qemu finds them, and says of the image what qemu says.
#
#   TEST_SEED=7 tests/qcow-read.t   other histories of writes
use strict;
use warnings;
use FindBin;
use Test::More;

require "$FindBin::RealBin/lib/tap.pl";
require "$FindBin::RealBin/lib/qcow.pl";
our ($top, $T, $seed);
my $vdiskio = "$top/build/tests/vdiskio";
need($vdiskio, 'qemu-img', 'qemu-io', 'cmp', 'zstd');
chdir $T or die "$T: $!";
note("seed $seed");
srand $seed;
patterns();

END {
	chdir '/'; # so that $T can go
}

sub words {
	my ($options) = @_;
	return join ', ', map "$_ $options->{$_}", sort keys %$options;
}

# A disk of some clusters and a part of one.
sub size_for {
	my ($cluster) = @_;
	return $cluster * int(($cluster < 65536 ? 400000 : $cluster * 11) / $cluster) + 512 * 5 % $cluster;
}

sub compare {
	my ($path, $format, $name) = @_;
	same_contents($path, $format, $name);
	same_map($path, $format, $name);
	same_details($path, $format, $name);
}

# One image with these options and a history, compared. Returns its path.
sub try {
	my ($name, $options, $format, $size, $path) = @_;
	($format, $path) = ($format // 'qcow2', $path // 'i.qcow2');
	my $cluster = $options->{cluster_size} // ($format ne 'qcow' ? 65536 : $options->{backing_file} ? 512 : 4096);
	$size //= size_for($cluster);
	unlink $path;
	create($path, $format, $size, $options);
	io($path, $format, history($size, $cluster, 30));
	compare($path, $format, $name);
	return $path;
}

# A file with something in it, as a backing file.
sub base {
	my ($path, $format, $size, $options) = @_;
	unlink $path;
	create($path, $format, $size, $options);
	io($path, $format, grep !/ -c /, history($size, 65536, 20));
}

# ---- options ----

sub test_clusters {
	for my $bits (9 .. 21) {
		for my $compat (qw(0.10 1.1)) {
			try("compat $compat, clusters of " . (1 << $bits), {cluster_size => 1 << $bits, compat => $compat});
		}
	}
}

sub test_refcounts {
	try("refcounts of $_ bits", {refcount_bits => $_, cluster_size => 4096}) for 1, 2, 4, 8, 16, 32, 64;
	try('lazy refcounts', {lazy_refcounts => 'on'});
}

sub test_subclusters {
	for my $cluster (16384, 32768, 65536, 262144, 2097152) {
		try("extended L2 entries, clusters of $cluster", {extended_l2 => 'on', cluster_size => $cluster});
	}
}

# Written by qemu-img convert: nearly all clusters are compressed, and share sectors.
sub test_compressed {
	for my $type (qw(zlib zstd)) {
		for my $cluster (512, 4096, 65536, 2097152) {
			my $name = "compressed with $type, clusters of $cluster";
			my %options = (cluster_size => $cluster, compression_type => $type);
			my $size = size_for($cluster);
			base('plain.raw', 'raw', $size);
			unlink 'i.qcow2';
			must(qw(qemu-img convert -c -O qcow2), (map { ('-o', "$_=$options{$_}") } sort keys %options),
				qw(-f raw plain.raw i.qcow2));
			compare('i.qcow2', 'qcow2', $name);
			io('i.qcow2', 'qcow2', history($size, $cluster, 10));
			compare('i.qcow2', 'qcow2', "$name, written to");
		}
		try("extended L2 entries, compressed with $type", {extended_l2 => 'on', compression_type => $type});
	}
}

sub test_preallocation {
	for my $how (qw(off metadata falloc full)) {
		my %options = (preallocation => $how, cluster_size => 16384);
		try("preallocation $how", \%options);
		try("preallocation $how, extended L2 entries", {%options, extended_l2 => 'on'});
	}
}

sub test_data_files {
	for my $raw (qw(off on)) {
		for my $more ({}, {extended_l2 => 'on'}, {preallocation => 'metadata'}, {cluster_size => 512}) {
			my %options = (data_file => 'data.raw', data_file_raw => $raw, %$more);
			unlink 'data.raw';
			try("data file, raw $raw, ${\ words($more)}", \%options);
		}
		# it was cut: zeros
		truncate 'data.raw', 100 * 512 + 7;
		same_contents('i.qcow2', 'qcow2', "data file that is too short, raw $raw");
		my ($status, $out, $err) = run('sh', '-c', 'echo write 131072 512 7 | exec "$0" i.qcow2', $vdiskio);
		like("$status $out$err", $raw eq 'on' ? qr/^1 .*EUCLEAN.*size of the data file/ : qr/^0 error EROFS/,
			"nothing is written behind its end, raw $raw");
		is(-s 'data.raw', 100 * 512 + 7, 'and it is as long as before');
	}
}

sub test_sizes {
	try("a disk of $_ bytes", {cluster_size => 65536}, 'qcow2', $_) for 512, 65024, 65536, 66048, 1049088;
	try("a disk of $_ bytes, extended L2 entries", {extended_l2 => 'on'}, 'qcow2', $_) for 512, 3072, 66048;
	# holes that many L1 entries say together
	unlink 'i.qcow2';
	create('i.qcow2', 'qcow2', '64T', {cluster_size => '2M'});
	io('i.qcow2', 'qcow2', 'write -s p1 70000000000000 65536', 'write -z 50000000000000 2M');
	same_map('i.qcow2', 'qcow2', '64 TiB');
	my ($status, $err, @answers) = ours(['read 70000000000000 16', 'read 0 16'], 'i.qcow2');
	is("@answers", unpack('H*', substr slurp('p1'), 0, 16) . ' ' . '0' x 32 . ' ok', '64 TiB: contents') || diag($err);
}

# The last cluster begins in the file and ends past its end.
sub test_cut {
	for my $options ({}, {extended_l2 => 'on'}, {cluster_size => 4096}) {
		for my $bytes (512, 1536, 1000) {
			unlink 'i.qcow2';
			create('i.qcow2', 'qcow2', '1M', $options);
			io('i.qcow2', 'qcow2', 'write -s p1 0 300k', 'write -s p2 500k 64k');
			my $end = 0;
			for (split /\n/, qemu_map('i.qcow2', 'qcow2')) {
				my ($start, $length, $kind, $offset) = split;
				$end = $offset + $length if $offset + $length > $end;
			}
			my $cluster = $options->{cluster_size} // 65536;
			truncate 'i.qcow2', $end - 1 - ($end - 1) % $cluster + $bytes;
			same_contents('i.qcow2', 'qcow2', "cut $bytes bytes into the last cluster, ${\ words($options)}");
		}
	}
}

sub test_bitmaps {
	my $path = try('bitmaps', {});
	must('qemu-img', 'bitmap', '--add', $path, "b$_") for 1 .. 3;
	compare($path, 'qcow2', '3 bitmaps');
}

# ---- other files ----

sub test_backing {
	my %format = (raw => 'raw', vpc => 'vpc', qcow2 => 'qcow2', qcow => 'qcow');
	for my $format (sort keys %format) {
		for my $options ({}, {compat => '0.10'}, {extended_l2 => 'on'}, {cluster_size => 512}) {
			base("base.$format", $format, 512 * 1500, $format eq 'vpc' ? {force_size => 'on'} : {});
			my %with = (%$options, backing_file => "base.$format", backing_fmt => $format);
			for my $size (512 * 900, 512 * 2000) {
				my $length = $size < 512 * 1500 ? 'longer' : 'shorter';
				try("backing file $format, $length, ${\ words($options)}", \%with, 'qcow2', $size);
			}
		}
	}
	# the format is looked for where the header does not say it, as old images do not: the name of the extension goes
	for my $format (qw(raw vpc qcow2 qcow)) {
		unlink 'i.qcow2';
		create('i.qcow2', 'qcow2', 512 * 900, {backing_file => "base.$format", backing_fmt => $format});
		spew('i.qcow2', slurp('i.qcow2') =~ s/\xe2\x79\x2a\xca/\x6e\x6f\x6e\x65/r);
		same_contents('i.qcow2', 'qcow2', "a backing file that is $format, and nobody says so");
	}
}

# Whoever writes to a raw disk decides what it looks like: what the header says counts.
sub test_raw_as_qcow2 {
	unlink 'i.qcow2', 'base.raw';
	create('base.raw', 'qcow2', '4M', {backing_file => "$T/p1", backing_fmt => 'raw'});
	truncate 'base.raw', 1 << 20;
	create('i.qcow2', 'qcow2', '2M', {backing_file => 'base.raw', backing_fmt => 'raw'});
	same_contents('i.qcow2', 'qcow2', 'a raw backing file that looks like a qcow2');
	same_contents('i.qcow2', 'qcow2', 'the same by name', {arguments => ['-p', 'base.raw']});
}

sub test_chain {
	my @options = ({cluster_size => 4096}, {extended_l2 => 'on'}, {cluster_size => 512, compat => '0.10'},
		{cluster_size => 2097152, compression_type => 'zstd'});
	base('c0.raw', 'raw', 512 * 3001);
	my $below = 'c0.raw';
	for my $n (1 .. 4) {
		my %with = (%{$options[$n - 1]}, backing_file => $below, backing_fmt => $n == 1 ? 'raw' : 'qcow2');
		$below = try("chain of $n", \%with, 'qcow2', 512 * (2500 + 300 * ($n % 3)), "c$n.qcow2");
	}
}

sub test_places {
	mkdir $_ for 'far', 'far/sub';
	base('far/sub/base.raw', 'raw', 512 * 700);
	base('far/beside.raw', 'raw', 512 * 700);
	my %real = ('sub/base.raw' => 'sub/base.raw', "$T/far/sub/base.raw" => 'sub/base.raw', 'file:sub/base.raw' => 'sub/base.raw',
		"file:$T/far/sub/base.raw" => 'sub/base.raw', './sub/../sub/base.raw' => 'sub/base.raw',
		'sub\\base.raw' => 'sub/base.raw', 'D:\\images\\beside.raw' => 'beside.raw', 'D:/images/beside.raw' => 'beside.raw',
		'/gone/beside.raw' => 'beside.raw');
	for my $name (sort keys %real) {
		unlink 'far/i.qcow2', 'far/o.qcow2';
		create('far/o.qcow2', 'qcow2', 512 * 800, {backing_file => $real{$name}, backing_fmt => 'raw'});
		io('far/o.qcow2', 'qcow2', 'write -s p3 70000 65536');
		must(qw(cp far/o.qcow2 far/i.qcow2));
		must(qw(qemu-img rebase -u -F raw -b), $name, 'far/i.qcow2');
		same_contents('far/i.qcow2', 'qcow2', "backing file $name", {from => 'far/o.qcow2'});
	}
	create('far/o.qcow2', 'qcow2', 512 * 800, {backing_file => 'beside.raw', backing_fmt => 'raw'});
	must(qw(cp far/o.qcow2 far/i.qcow2));
	must(qw(qemu-img rebase -u -F raw -b gone.raw far/i.qcow2));
	same_contents('far/i.qcow2', 'qcow2', 'a parent that was named', {from => 'far/o.qcow2', arguments => ['-p', 'far/beside.raw']});
	# qemu takes a data file's name from where it runs; a relative one is one of the image's folder here
	unlink 'far/i.qcow2', 'far/sub/d.raw';
	create('far/i.qcow2', 'qcow2', '1M', {data_file => 'far/sub/d.raw'});
	io('far/i.qcow2', 'qcow2', 'write -s p3 70000 65536');
	must(qw(qemu-img convert -O raw far/i.qcow2 qemu.raw));
	refused('data file by a path from here', qr/ENOENT.*data file name.*far\/sub\/d\.raw/, 'far/i.qcow2');
	rename 'far', 'farther';
	mkdir 'farther/far';
	rename 'farther/sub', 'farther/far/sub';
	is((ours(['copy ours.raw'], 'farther/i.qcow2'))[2], 'ok', 'the same path from the folder of the image, below it');
	is((run('cmp', 'ours.raw', 'qemu.raw'))[0], 0, 'has the same contents');
}

# refused(NAME, LIKE, ARGUMENT...): cannot be opened, and the message says why.
sub refused {
	my ($name, $like, @arguments) = @_;
	my ($status, $err) = ours([], @arguments);
	is($status, 1, "$name: refused");
	like($err, $like, "$name: says why");
}

sub test_bad_names {
	unlink 'i.qcow2';
	base('base.raw', 'raw', 512 * 700);
	create('i.qcow2', 'qcow2', '1M', {backing_file => 'base.raw', backing_fmt => 'raw'});
	my %why = ('nbd://host/x' => qr/only qemu/, 'json:{"driver":"null-co"}' => qr/only qemu/, 'http://x/y' => qr/only qemu/,
		'gone.raw' => qr/ENOENT.*name no file.*gone\.raw/, 'x' x 1000 => qr/ENAMETOOLONG/, "ba\nse.raw" => qr/is no name/,
		"\e[31mbase.raw" => qr/is no name of a file/, '/' => qr/no regular file|name no file/, '..' => qr/EPERM.*no regular file/,
		'/dev/null' => qr/EPERM.*no regular file/,
		'\\\\server\\x' => qr/name no file/);
	for my $name (sort keys %why) {
		must(qw(qemu-img rebase -u -F raw -b), $name, 'i.qcow2');
		refused('backing file ' . $name =~ s/[^ -~]/?/gr, $why{$name}, 'i.qcow2');
	}
	must(qw(qemu-img rebase -u -F raw -b base.raw i.qcow2));
	my $image = slurp('i.qcow2');
	spew('i.qcow2', $image =~ s/base\.raw/bas\0.raw/r);
	refused('a name with a zero inside', qr/is no name of a file.*bas\?\.raw/, 'i.qcow2');
	must(qw(qemu-img rebase -u -F vmdk -b base.raw i.qcow2));
	refused('backing format vmdk', qr/EOPNOTSUPP.*backing_format.*not supported.*vmdk/, 'i.qcow2');
	must(qw(qemu-img rebase -u -F qcow2 -b i.qcow2 i.qcow2));
	refused('its own backing file', qr/ELOOP/, 'i.qcow2');
	must(qw(qemu-img rebase -u -F qcow2 -b i2.qcow2 i.qcow2));
	create('i2.qcow2', 'qcow2', '1M');
	must(qw(qemu-img rebase -u -F qcow2 -b i.qcow2 i2.qcow2));
	refused('a loop of two', qr/ELOOP/, 'i.qcow2');
	unlink 'i.qcow2', 'data.raw';
	create('i.qcow2', 'qcow2', '1M', {data_file => 'data.raw'});
	unlink 'data.raw';
	refused('no data file', qr/ENOENT.*data file name.*data\.raw/, 'i.qcow2');
	must(qw(ln -s i.qcow2 data.raw));
	refused('its own data file', qr/EUCLEAN.*image itself/, 'i.qcow2');
	test_far_data();
}

# A hostile image names what it likes: each name as long as the one that qemu wrote.
sub test_far_data {
	my $here = $T;
	mkdir 'box';
	create('o.qcow2', 'qcow2', '1M', {data_file => 'x' x 200});
	unlink 'x' x 200;
	base('outside.raw', 'raw', 1048576);
	must(qw(ln -s ../outside.raw box/link.raw));
	my $image = slurp('o.qcow2');
	my %why = ('../outside.raw' => qr/out of the folder/, "$here/outside.raw" => qr/out of the folder/, 'link.raw' => qr/out of the folder/,
		'/dev/null' => qr/no regular file/, '../box' => qr/no regular file/);
	for my $name (sort keys %why) {
		my $field = $name . "\0" x (200 - length $name);
		spew('box/i.qcow2', $image =~ s/x{200}/$field/r);
		refused("data file $name", qr/EPERM.*data file name leads.*$why{$name}/, 'box/i.qcow2');
	}
	spew('box/i.qcow2', $image =~ s/x{200}/"$here\/box\/in.raw" . "\0" x (200 - length "$here\/box\/in.raw")/er);
	base('box/in.raw', 'raw', 1048576);
	is((ours([], 'box/i.qcow2'))[0], 0, 'an absolute name in the folder of the image');
}

# ---- snapshots ----

sub test_snapshots {
	for my $options ({}, {compat => '0.10', cluster_size => 4096}, {extended_l2 => 'on', compression_type => 'zstd'}) {
		my $size = 512 * 1501;
		my $name = 'snapshots, ' . words($options);
		unlink 'i.qcow2';
		create('i.qcow2', 'qcow2', $size, $options);
		my @names = ('first', '3', 'first', 'a longer name, with "quotes"');
		for my $n (0 .. $#names) {
			io('i.qcow2', 'qcow2', history($size, $options->{cluster_size} // 65536, 12));
			must(qw(qemu-img snapshot -c), $names[$n], 'i.qcow2');
			next if $options->{compat};
			$size += $n % 2 ? -512 * 300 : 512 * 500;
			must(qw(qemu-img resize -q --shrink i.qcow2), $size);
		}
		io('i.qcow2', 'qcow2', history($size, $options->{cluster_size} // 65536, 12));
		compare('i.qcow2', 'qcow2', $name);
		# qemu-img convert -l shows as much of one as the disk is long now, so the oracle is to go back to it
		for my $wanted (1 .. 4, 'first', $names[3]) {
			must(qw(cp i.qcow2 o.qcow2));
			must(qw(qemu-img snapshot -a), $wanted, 'o.qcow2');
			same_contents('i.qcow2', 'qcow2', "$name, $wanted", {snapshot => $wanted, from => 'o.qcow2'});
		}
		refused("$name, none that is there", qr/ENOENT/, '--snapshot', 'second', 'i.qcow2');
		my ($status, $err, $line) = ours(['snapshots'], 'i.qcow2');
		my $info = decode_json(must(qw(qemu-img info --output=json i.qcow2)));
		my @theirs = map sprintf('%s:%s:%d.%09d:%d', @$_{qw(id name date-sec date-nsec vm-state-size)}), @{$info->{snapshots}};
		is(($line // '') =~ s/:\d+(:\d+\.\d+:)/$1/gr, join('', map " $_", @theirs), "$name: list");
	}
	base('base.raw', 'raw', 512 * 700);
	unlink 'i.qcow2';
	create('i.qcow2', 'qcow2', 512 * 900, {backing_file => 'base.raw', backing_fmt => 'raw'});
	io('i.qcow2', 'qcow2', 'write -s p3 70000 65536');
	must(qw(qemu-img snapshot -c s i.qcow2));
	io('i.qcow2', 'qcow2', 'write -s p4 0 256k');
	must(qw(cp i.qcow2 o.qcow2));
	must(qw(qemu-img snapshot -a s o.qcow2));
	same_contents('i.qcow2', 'qcow2', 'a snapshot over a backing file', {snapshot => 's', from => 'o.qcow2'});
}

# ---- qcow ----

sub test_qcow1 {
	try('qcow', {}, 'qcow', $_) for 512 * 1501, 512, 4096 * 600;
	base('base.raw', 'raw', 512 * 700);
	try('qcow with a backing file', {backing_file => 'base.raw', backing_fmt => 'raw'}, 'qcow', 512 * 900);
	base('base.qcow', 'qcow', 512 * 700);
	try('qcow with a qcow', {backing_file => 'base.qcow', backing_fmt => 'qcow'}, 'qcow', 512 * 500);
	base('plain.raw', 'raw', 512 * 1501);
	unlink 'i.qcow';
	run(qw(qemu-img convert -c -O qcow -f raw plain.raw i.qcow)); # writes all, and fails at the very end
	must(qw(qemu-img compare -f qcow -F raw i.qcow plain.raw));
	compare('i.qcow', 'qcow', 'qcow, compressed');
	io('i.qcow', 'qcow', grep !/ -c /, history(512 * 1501, 4096, 20));
	compare('i.qcow', 'qcow', 'qcow, compressed, written to');
}

# ---- what cannot be read ----

sub test_encrypted {
	my @secret = ('--object', 'secret,id=s,data=x', '-o', 'encrypt.key-secret=s');
	my %kinds = (
		'qcow2 with LUKS' => ['qcow2', qw(-o encrypt.format=luks -o encrypt.iter-time=10)],
		'qcow2 with AES' => ['qcow2', qw(-o encrypt.format=aes)],
		'qcow with AES' => ['qcow', qw(-o encrypt.format=aes)],
	);
	for my $name (sort keys %kinds) {
		my ($format, @options) = @{$kinds{$name}};
		my $made = '';
		# on a busy machine qemu may not be able to tell how long its key takes
		for (1 .. 20) {
			unlink 'i.img';
			($made) = run(qw(qemu-img create -q -f), $format, @secret, @options, 'i.img', '1M');
			last if $made eq '0';
		}
		is($made, '0', "$name: made") or next;
		refused($name, qr/EOPNOTSUPP.*(?:AES|LUKS)/, 'i.img');
	}
}

# An image with one compressed cluster, and where its stream is.
sub packed_image {
	my ($type) = @_;
	unlink 'i.qcow2';
	create('i.qcow2', 'qcow2', '1M', {compression_type => $type});
	# text that packs to about a half
	spew('half', join '', map chr(97 + int rand 16), 1 .. 65536);
	io('i.qcow2', 'qcow2', 'write -c -s half 64k 64k');
	my ($status, $err, $line) = ours(['map 65536 65536'], 'i.qcow2');
	return ($line // '') =~ /^compressed (\d+) 65536 -1 (\d+)/ ? ($1, $2) : BAIL_OUT("no compressed cluster: $line$err");
}

sub deflated {
	my ($bytes) = @_;
	require Compress::Raw::Zlib;
	my ($z) = Compress::Raw::Zlib::Deflate->new(-WindowBits => -12, -AppendOutput => 1);
	my $out = '';
	$z->deflate($bytes, $out);
	$z->flush($out);
	return $out;
}

# From a pipe, so that its window is not made as small as the input.
sub zstandard {
	my ($bytes, @options) = @_;
	spew('z', $bytes);
	return must('sh', '-c', 'cat z | zstd -qc "$@"', 'sh', @options);
}

# What is put in the place of the stream is read as qemu reads it, or not at all.
sub test_streams {
	my $text = join '', map "$_ ", 1 .. 20000;
	my $half = substr $text, 0, 32768;
	my %streams = (
		zlib => {'too long' => deflated(substr $text, 0, 70000), 'too short' => deflated($half),
			'a bomb' => deflated("\0" x 8000000), 'exact' => deflated(substr $text, 0, 65536), 'zeros' => "\0" x 100,
			'ones' => "\xff" x 100, 'another method' => zstandard(substr $text, 0, 65536)},
		zstd => {'too long' => zstandard(substr $text, 0, 70000), 'too short' => zstandard($half),
			'a bomb' => zstandard("\0" x 8000000), 'exact' => zstandard(substr $text, 0, 65536), 'zeros' => "\0" x 100,
			'with a checksum' => zstandard(substr($text, 0, 65536), '--check'),
			'two frames' => zstandard($half) . zstandard($half),
			'a large window' => zstandard(substr($text, 0, 65536), '--long=27'),
			'a larger one' => zstandard(substr($text, 0, 65536), '--long=30'),
			'another method' => deflated(substr $text, 0, 65536)},
	);
	for my $type (sort keys %streams) {
		for my $name (sort keys %{$streams{$type}}) {
			my ($at, $packed) = packed_image($type);
			my $stream = $streams{$type}{$name};
			BAIL_OUT("$type, $name: does not fit") if length $stream > $packed;
			my $image = slurp('i.qcow2');
			substr($image, $at, length $stream) = $stream;
			spew('i.qcow2', $image);
			my ($theirs) = run(qw(qemu-img convert -f qcow2 -O raw i.qcow2 qemu.raw));
			if ($theirs eq '0') {
				same_contents('i.qcow2', 'qcow2', "$type, $name");
			} else {
				my ($status, $err, @answers) = ours(['read 65536 512', 'read 0 512'], 'i.qcow2');
				is($answers[0], 'error EUCLEAN', "$type, $name: refused, as by qemu");
				is($answers[1], '0' x 1024, "$type, $name: the rest can be read");
			}
		}
	}
}

test_clusters();
test_refcounts();
test_subclusters();
test_compressed();
test_preallocation();
test_data_files();
test_sizes();
test_cut();
test_bitmaps();
test_backing();
test_raw_as_qcow2();
test_chain();
test_places();
test_bad_names();
test_snapshots();
test_qcow1();
test_encrypted();
test_streams();
done_testing();
