// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spent: what a command costs, as lines of NAME<tab>VALUE<tab>UNIT.
 *
 *   spent [-n TIMES] NAME COMMAND [ARGUMENT]...
 *
 * Runs it that often (1) with its output thrown away: the least time from start to end, the least
 * processor time of user and system, the largest resident set. Fails when the command does.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct cost {
	double wall, cpu; /* seconds */
	long kib;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
	return t.tv_sec + t.tv_usec / 1e6;
}

static void child(char **argv)
{
	int null = open("/dev/null", O_WRONLY);

	if (null >= 0 && dup2(null, STDOUT_FILENO) >= 0)
		execvp(argv[0], argv);
	fprintf(stderr, "spent: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int run(char **argv, struct cost *cost)
{
	struct rusage usage;
	double start = now();
	pid_t pid = fork();
	int status;

	if (!pid)
		child(argv);
	if (pid < 0 || wait4(pid, &status, 0, &usage) < 0)
		return -1;
	cost->wall = now() - start;
	cost->cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
	cost->kib = usage.ru_maxrss;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct cost least = { 1e9, 1e9, 0 }, cost;
	int option, times = 1;

	while ((option = getopt(argc, argv, "+n:")) == 'n')
		times = atoi(optarg);
	if (option != -1 || argc - optind < 2 || times < 1) {
		fputs("usage: spent [-n TIMES] NAME COMMAND [ARGUMENT]...\n", stderr);
		return 2;
	}
	while (times--) {
		if (run(argv + optind + 1, &cost)) {
			fprintf(stderr, "spent: %s failed\n", argv[optind + 1]);
			return 1;
		}
		least.wall = cost.wall < least.wall ? cost.wall : least.wall;
		least.cpu = cost.cpu < least.cpu ? cost.cpu : least.cpu;
		least.kib = cost.kib > least.kib ? cost.kib : least.kib;
	}
	printf("%s wall\t%.3f\tms\n", argv[optind], least.wall * 1e3);
	printf("%s processor\t%.3f\tms\n", argv[optind], least.cpu * 1e3);
	printf("%s memory\t%ld\tKiB\n", argv[optind], least.kib);
	return 0;
}
