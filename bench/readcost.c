// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * readcost: direct reads of 4 KiB, and what one of them takes in nanoseconds, for each round. In a
 * machine that counts instructions one is one instruction.
 *
 *   readcost ROUNDS PLACES DEVICE...
 *
 * The file PLACES has an offset in bytes on each line; they are read in that order, each from the
 * next one of the devices. Prints a line for each round: the first is cold.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LENGTH 4096

static uint64_t *places;
static size_t n_places;

static void die(const char *what)
{
	fprintf(stderr, "readcost: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void read_places(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t room = 0;
	uint64_t at;

	if (!f)
		die(path);
	while (fscanf(f, "%" SCNu64, &at) == 1) {
		if (n_places == room) {
			room = room ? 2 * room : 256;
			places = reallocarray(places, room, sizeof(*places));
			if (!places)
				die(path);
		}
		places[n_places++] = at;
	}
	fclose(f);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static int *open_all(int n, char **names)
{
	int *fds = calloc(n, sizeof(*fds));

	if (!fds)
		die("memory");
	for (int i = 0; i < n; i++) {
		fds[i] = open(names[i], O_RDONLY | O_DIRECT);
		if (fds[i] < 0)
			die(names[i]);
	}
	return fds;
}

int main(int argc, char **argv)
{
	int rounds = argc > 3 ? atoi(argv[1]) : 0, n = argc - 3, *fds;
	uint64_t start;
	void *buf;

	if (rounds < 1) {
		fputs("usage: readcost ROUNDS PLACES DEVICE...\n", stderr);
		return 2;
	}
	read_places(argv[2]);
	fds = open_all(n, argv + 3);
	errno = posix_memalign(&buf, LENGTH, LENGTH);
	if (errno || !n_places)
		die("no places, or no memory");
	memset(buf, 0, LENGTH); /* its page is there before the first read */
	while (rounds--) {
		start = now();
		for (size_t i = 0; i < n_places; i++)
			if (pread(fds[i % n], buf, LENGTH, places[i]) != LENGTH)
				die(argv[3 + i % n]);
		printf("%.1f\n", (double)(now() - start) / n_places);
	}
	free(buf);
	free(fds);
	free(places);
	return 0;
}
