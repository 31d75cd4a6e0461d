/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Loop devices, for what is no block device or must not be claimed. */
#ifndef NTFSMAP_LOOP_H
#define NTFSMAP_LOOP_H

#include <stdbool.h>
#include <sys/stat.h>

/*
 * Put a loop device over a regular file or a block device, with direct I/O and the block size of
 * what is below. It goes away by itself when the last user closes it: keep *fd open until
 * device-mapper has the device. *path is the caller's.
 * same: a descriptor of the file, which must be that still, or -1.
 */
int loop_attach(const char *file, bool readonly, int same, int *fd, char **path);

/* A loop device over this file other than except, "/dev/loop0", or NULL. The caller frees. */
char *loop_over(const struct stat *file, dev_t except);

/* Let a loop device see that its file became longer. */
int loop_refresh_size(const char *path);

#endif
