/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One line on a terminal, "WHAT: NN %", for what takes longer than a second. It is gone at the end.
 * Elsewhere, and with --quiet, nothing. */
#ifndef NTFSMAP_PROGRESS_H
#define NTFSMAP_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
	const char *what; /* ASCII, stays the caller's */
	struct timespec start;
	bool wanted;
	int percent; /* that is on the screen; -1: nothing is */
};

void progress_start(struct progress *p, const char *what);
void progress_step(struct progress *p, uint64_t done, uint64_t all);
void progress_end(struct progress *p);

#endif
