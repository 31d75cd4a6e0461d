// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "holder.h"
#include "loop.h"
#include "msg.h"

#define TRIES 10
#define PAUSE 50000 /* microseconds */

static bool has_qemu_lock(int fd)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		return !fcntl(fd, F_OFD_GETLK, &all) && all.l_type != F_UNLCK;
	return fcntl(fd, F_OFD_SETLK, &all) && (errno == EAGAIN || errno == EACCES);
}

/* flock() is between us and util-linux; the other kind of lock is qemu's. */
static char *find_holder(int fd, dev_t except)
{
	struct stat st;

	if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return text_copy("another program (it holds a lock)");
	if (has_qemu_lock(fd))
		return text_copy("another program (it holds a lock, as qemu does)");
	return fstat(fd, &st) ? NULL : loop_over(&st, except);
}

/* A loop device that was closed just now may take a moment to go, and another ntfsmap that only
 * looks holds the lock for one. */
char *holder_lock(int fd, dev_t except)
{
	char *who = find_holder(fd, except);

	for (int i = 0; who && i < TRIES; i++) {
		usleep(PAUSE);
		free(who);
		who = find_holder(fd, except);
	}
	return who;
}

void holder_unlock(int fd)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	fcntl(fd, F_OFD_SETLK, &all);
	flock(fd, LOCK_UN);
}
