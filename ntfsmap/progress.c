// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "msg.h"
#include "progress.h"

void progress_start(struct progress *p, const char *what)
{
	*p = (struct progress){ .what = what, .percent = -1 };
	p->wanted = !opt_quiet && isatty(STDERR_FILENO);
	clock_gettime(CLOCK_MONOTONIC, &p->start);
}

static bool is_slow(const struct progress *p)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - p->start.tv_sec - (now.tv_nsec < p->start.tv_nsec) >= 1;
}

void progress_step(struct progress *p, uint64_t done, uint64_t all)
{
	int percent = all ? (int)(100.0 * (double)done / (double)all) : 100;

	if (!p->wanted || percent == p->percent || !is_slow(p))
		return;
	fprintf(stderr, "\r%s: %3d %%", p->what, percent);
	fflush(stderr);
	p->percent = percent;
}

void progress_end(struct progress *p)
{
	if (p->percent >= 0)
		fprintf(stderr, "\r%*s\r", (int)strlen(p->what) + 7, "");
	p->percent = -1;
}
