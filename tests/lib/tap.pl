# SPDX-License-Identifier: GPL-2.0-or-later
# For tests in perl: `require` this from package main. $T is a folder of the test's own, removed at its end; $top is the
# top of the project, $seed what TEST_SEED says.
#
#   slurp PATH, spew PATH BYTES
#   run COMMAND ARG...    (status or what ended it, standard output, standard error); ends by itself
#   must COMMAND ARG...   bails out unless it succeeds; returns standard output
#   have COMMAND          is it there?
#   need COMMAND...       skips all when one is not
#   pick LIST             one of them
#   sanitised TARGET...   ('', their paths) or (why there are none): `bin/ntfsmap` and others of the Makefile
use strict;
use warnings;
use File::Temp qw(tempdir);
use FindBin;
use POSIX ();
use Test::More;
use Time::HiRes qw(setitimer ITIMER_PROF);

our $top = "$FindBin::RealBin/..";
our $T = tempdir("test.XXXXXX", TMPDIR => 1, CLEANUP => 1);
our $seed = $ENV{TEST_SEED} // 20061011;
our $ntfsmap = "$top/build/bin/ntfsmap";
use constant SECONDS => 10;       # of its own
use constant MOST_SECONDS => 100; # of anyone's, on a busy machine

$ENV{PATH} = "$top/build/bin:$ENV{PATH}:/usr/local/sbin:/usr/sbin:/sbin";
$SIG{$_} = sub { exit 130 } for qw(HUP INT PIPE TERM); # so that $T is removed

sub slurp {
	my ($path) = @_;
	open my $file, '<:raw', $path or die "$path: $!";
	local $/;
	return <$file> // '';
}

sub spew {
	my ($path, $bytes) = @_;
	open my $file, '>:raw', $path or die "$path: $!";
	print $file $bytes;
	close $file or die "$path: $!";
}

# In a child: no longer than a command may take.
sub limit_and_exec {
	setitimer(ITIMER_PROF, SECONDS); # both survive the exec
	alarm MOST_SECONDS;
	exec @_ or POSIX::_exit(127);
}

sub how_it_ended {
	my $signal = $? & 127;
	return 'taking too long' if $signal == POSIX::SIGALRM || $signal == POSIX::SIGPROF;
	return $signal ? "signal $signal" : $? >> 8;
}

# Standard output goes to $T/out, the rest to $T/err.
sub run_quietly {
	my @command = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid) {
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$T/out";
		open STDERR, '>', "$T/err";
		limit_and_exec(@command);
	}
	waitpid $pid, 0;
	return how_it_ended();
}

sub run {
	my $status = run_quietly(@_);
	return ($status, slurp("$T/out"), slurp("$T/err"));
}

sub must {
	my ($status, $out, $err) = run(@_);
	BAIL_OUT("@_: $status\n$err") if $status;
	return $out;
}

sub have {
	my ($command) = @_;
	return $command =~ m{/} ? -x $command : scalar grep -x "$_/$command", split /:/, $ENV{PATH};
}

sub need {
	for (@_) {
		next if have($_);
		plan(skip_all => s{^\Q$top\E/}{}r . ' is not installed');
	}
}

sub pick {
	return $_[rand @_];
}

sub sanitised {
	my @targets = map "$T/asan/$_", @_;
	my $cc = $ENV{CC} // 'cc';
	my @flags = ('-fsanitize=address,undefined', qw(-fno-sanitize-recover=all -O1 -g));
	delete @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
	spew("$T/probe.c", 'int main(void) { return 0; }');
	my ($status) = run($cc, @flags, '-o', "$T/probe", "$T/probe.c");
	return "$cc has no -fsanitize=address,undefined" if $status || (run("$T/probe"))[0];
	return 'make is not installed' if !have('make');
	$ENV{ASAN_OPTIONS} = 'exitcode=99:detect_leaks=0';
	$ENV{UBSAN_OPTIONS} = 'exitcode=99:print_stacktrace=1';
	# An alarm is for programs that read hostile input, not for compilers.
	my $log = `make -s -j2 -C '$top' 'B=$T/asan' HARDEN= 'CFLAGS=@flags' @targets 2>&1 </dev/null`;
	return ('', @targets) if !$?;
	diag($log);
	fail('the sanitised programs compile');
	return 'they do not compile';
}

1;
