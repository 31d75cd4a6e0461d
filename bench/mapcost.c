// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mapcost: asks libvdisk where bytes of a disk are, and prints the processor time of one answer in
 * nanoseconds.
 *
 *   mapcost IMAGE CALLS PLACES LENGTH
 *
 * The calls go around PLACES random places, the same in each run, whose tables are read before.
 * Without calls it prints nothing: what is left when a run with fewer is taken away from one with
 * more is the cost of the calls alone, whatever counts it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../libvdisk/vdisk.h"

static uint64_t state = 88172645463325252;

/* xorshift64 */
static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static void map(struct vdisk *vd, uint64_t offset, uint64_t length)
{
	struct vdisk_map answer;
	int ret = vdisk_map(vd, offset, length, &answer);

	if (!ret)
		return;
	fprintf(stderr, "mapcost: offset %" PRIu64 ": %s\n", offset, strerror(-ret));
	exit(1);
}

static void go_around(struct vdisk *vd, const uint64_t *places, uint64_t n, uint64_t length,
		      uint64_t calls)
{
	for (uint64_t i = 0, at = 0; i < calls; i++, at = at + 1 < n ? at + 1 : 0)
		map(vd, places[at], length);
}

int main(int argc, char **argv)
{
	struct vdisk_error err = { 0 };
	uint64_t calls, n, length, size, start, *places;
	struct vdisk *vd;
	char text[1024];
	int ret;

	if (argc != 5) {
		fputs("usage: mapcost IMAGE CALLS PLACES LENGTH\n", stderr);
		return 2;
	}
	calls = strtoull(argv[2], NULL, 0);
	n = strtoull(argv[3], NULL, 0);
	length = strtoull(argv[4], NULL, 0);
	ret = vdisk_open_file(argv[1], 0, NULL, &vd, &err);
	if (ret) {
		vdisk_error_text(&err, text, sizeof(text));
		fprintf(stderr, "mapcost: %s: %s: %s\n", argv[1], strerror(-ret), text);
		return 1;
	}
	size = vdisk_info(vd)->virtual_size;
	places = calloc(n, sizeof(*places));
	if (!n || !places || !length || size < length) {
		fputs("mapcost: no places\n", stderr);
		return 1;
	}
	for (uint64_t i = 0; i < n; i++)
		places[i] = next_random() % (size / length) * length;
	go_around(vd, places, n, length, n);
	start = now();
	go_around(vd, places, n, length, calls);
	if (calls)
		printf("%.2f\n", (double)(now() - start) / calls);
	free(places);
	return vdisk_close_files(vd) ? 1 : 0;
}
