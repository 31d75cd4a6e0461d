// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine under power cuts: random histories of writes, discards, flushes and reads, in which
 * every action of the engine ends when chance wants it. At any moment the power may go; what is
 * left of the devices must be a sound image, and each sector must hold what was flushed or
 * something later, never something that nobody wrote.
 *
 *   crash [--seed=N] [--rounds=N] [--format=vhd|qcow2] [--break=PART] [--dump=FOLDER]
 *
 * --break leaves out a part of the work to show that its absence is found: flush-data, flush-root,
 * flush-links, zero, copy, prepare, count, head, quiesce. --dump writes some of the images that
 * power cuts left, and what must be readable.
 */
#include <stdarg.h>

#include "crash.h"

static u64 seed;

void fail(const char *fmt, ...)
{
	va_list ap;

	printf("FOUND (seed %llu): ", (unsigned long long)seed);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	exit(1);
}

static const struct family *family_of(const char *name)
{
	return !strcmp(name, "vhd") ? &vhd_family : !strcmp(name, "qcow2") ? &qcow_family : NULL;
}

int main(int argc, char **argv)
{
	const struct family *only = NULL;
	u64 rounds = 200, first = 20260101;

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--seed=", 7))
			first = strtoull(argv[i] + 7, NULL, 0);
		else if (!strncmp(argv[i], "--rounds=", 9))
			rounds = strtoull(argv[i] + 9, NULL, 0);
		else if (!strncmp(argv[i], "--format=", 9) && family_of(argv[i] + 9))
			only = family_of(argv[i] + 9);
		else if (!strncmp(argv[i], "--break=", 8))
			broken = argv[i] + 8;
		else if (!strncmp(argv[i], "--dump=", 7))
			dump_folder = argv[i] + 7;
		else
			return 2;
	}
	for (u64 i = 0; i < rounds; i++) {
		seed = first + i;
		random_seed(seed * 2654435761ULL);
		one_round(only ? only : random_below(3) ? &qcow_family : &vhd_family, seed);
	}
	printf("%llu power cuts survived, %llu discards taken, %llu writes at once (seeds %llu to "
	       "%llu)\n",
	       (unsigned long long)cuts, (unsigned long long)discards_taken,
	       (unsigned long long)at_once_taken, (unsigned long long)first,
	       (unsigned long long)(first + rounds - 1));
	return 0;
}
