# SPDX-License-Identifier: GPL-2.0-or-later
# tests/tools/vdiskio from perl: `require` this from package main, after tap.pl.
#
#   start IMAGE OPTION...          vdiskio, to be asked line by line
#   ask IO LINE                    its answer
#   stop IO                        the last answer, and how it ended
#   payload OFFSET LENGTH WORD     what its `write` writes
use strict;
use warnings;
use IO::Handle;

our ($top, $T);
our $vdiskio = "$top/build/tests/vdiskio";

sub start {
	my ($image, @options) = @_;
	pipe my $in, my $to or die;
	pipe my $from, my $out or die;
	my $pid = fork // die "fork: $!";
	if (!$pid) {
		open STDIN, '<&', $in;
		open STDOUT, '>&', $out;
		open STDERR, '>', "$T/err";
		close $_ for $to, $from;
		limit_and_exec($vdiskio, @options, $image);
	}
	close $_ for $in, $out;
	$to->autoflush;
	return {pid => $pid, to => $to, from => $from};
}

sub ask {
	my ($io, $line) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print {$io->{to}} "$line\n";
	my $answer = readline $io->{from};
	return defined $answer ? $answer =~ s/\n\z//r : 'nothing';
}

# The last answer, and how it ended.
sub stop {
	my ($io) = @_;
	local $SIG{PIPE} = 'IGNORE';
	close $io->{to};
	my $last = readline $io->{from};
	waitpid $io->{pid}, 0;
	return ($last // "nothing\n") . how_it_ended();
}

# What vdiskio's write writes.
sub payload {
	my ($offset, $length, $word) = @_;
	return pack 'N*', map { ($word, $_) } $offset / 8 .. ($offset + $length) / 8 - 1;
}

1;
