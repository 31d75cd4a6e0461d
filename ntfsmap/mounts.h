/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is mounted: /proc/self/mountinfo, see proc(5). */
#ifndef NTFSMAP_MOUNTS_H
#define NTFSMAP_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct mount {
	dev_t dev;
	char *root;  /* of the mount in its file system */
	char *point; /* where it is mounted */
	char *type;
	char *source;
	bool writable; /* the file system, whatever this one mount allows */
};

struct mounts {
	struct mount *v;
	size_t n;
};

/* Empty where there is no /proc. */
void mounts_read(struct mounts *m);
void mounts_free(struct mounts *m);

/* The mount that an absolute path without links lies in, whose st_dev is dev; NULL if there is
 * none. A mount that another one hides is not taken. */
const struct mount *mounts_of_path(const struct mounts *m, const char *path, dev_t dev);

#endif
