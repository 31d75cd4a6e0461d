/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who else has a regular file: a program that locked it, or a loop device over it. */
#ifndef NTFSMAP_HOLDER_H
#define NTFSMAP_HOLDER_H

#include <sys/types.h>

/*
 * Lock the file as qemu and util-linux do and look for loop devices over it. NULL, or who has it,
 * for people; the caller frees. The locks go with fd, or by holder_unlock(). A descriptor that
 * cannot write only finds out whether qemu's kind of lock is there. The loop device except (0:
 * none) does not count.
 */
char *holder_lock(int fd, dev_t except);
void holder_unlock(int fd);

#endif
