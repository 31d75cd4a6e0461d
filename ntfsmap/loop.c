// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blk.h"
#include "loop.h"
#include "msg.h"

#define TRIES 64 /* others may take the free device before we do */

static int open_backing(const char *file, bool readonly, int *fd)
{
	dev_t dev;

	*fd = open(file, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_DIRECT);
	if (*fd < 0 && errno == EINVAL) /* a file system without direct I/O */
		*fd = open(file, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (*fd >= 0)
		return DONE;
	if ((errno == EPERM || errno == EBUSY) && blk_dev_of(file, &dev))
		return fail(BUSY,
			    "%s is mounted, and this kernel lets nobody write beside a mount (%s): "
			    "unmount it, or mount a view made by `ntfsmap host` in its place",
			    file, strerror(errno));
	return fail_errno(errno, "cannot open %s", file);
}

/* The loop device's blocks must not be smaller than those below, for direct I/O and for 4Kn. */
static uint32_t block_size(int fd)
{
	struct stat st;
	int size;

	if (!fstat(fd, &st) && S_ISBLK(st.st_mode) && !ioctl(fd, BLKSSZGET, &size) && size > 0)
		return (uint32_t)size;
	return 512;
}

static int open_free_loop(int control, bool readonly, char **path)
{
	int n = ioctl(control, LOOP_CTL_GET_FREE);
	int fd;

	if (n < 0)
		return -1;
	free(*path);
	*path = text("/dev/loop%d", n);
	fd = open(*path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) { /* no udev to make the node */
		dev_t dev = makedev(LOOP_MAJOR, (unsigned int)n);

		if (!mknod(*path, S_IFBLK | 0600, dev) || errno == EEXIST)
			fd = open(*path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	}
	return fd;
}

static int configure(int fd, int backing, bool readonly, const char *file)
{
	struct loop_config config = { .fd = (uint32_t)backing, .block_size = block_size(backing) };

	config.info.lo_flags =
		LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | (readonly ? LO_FLAGS_READ_ONLY : 0);
	snprintf((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", file);
	return ioctl(fd, LOOP_CONFIGURE, &config);
}

static int attach(int control, int backing, const char *file, bool readonly, int *fd, char **path)
{
	for (int i = 0; i < TRIES; i++) {
		int error;

		*fd = open_free_loop(control, readonly, path);
		if (*fd < 0)
			break;
		if (!configure(*fd, backing, readonly, file))
			return DONE;
		error = errno;
		close(*fd);
		errno = error;
		if (error != EBUSY)
			break;
	}
	return fail_errno(errno, "cannot put a loop device over %s", file);
}

int loop_attach(const char *file, bool readonly, int same, int *fd, char **path)
{
	int control, backing, code;

	*path = NULL;
	code = open_backing(file, readonly, &backing);
	if (code)
		return code;
	code = blk_check_same(file, same, backing);
	control = code ? -1 : open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (!code && control < 0)
		code = fail_errno(errno, "/dev/loop-control (try `modprobe loop`)");
	else if (!code)
		code = attach(control, backing, file, readonly, fd, path);
	if (control >= 0)
		close(control);
	close(backing);
	if (code)
		free(*path);
	return code;
}

static bool is_over(const char *name, const struct stat *file, dev_t except)
{
	char *path = text("/dev/%s", name), *backing = NULL;
	struct stat st;
	bool is = false;
	dev_t dev;

	if (blk_dev_of(path, &dev) && dev != except)
		backing = blk_attr(dev, "loop/backing_file");
	if (backing)
		is = !stat(backing, &st) && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
	free(backing);
	free(path);
	return is;
}

char *loop_over(const struct stat *file, dev_t except)
{
	DIR *dir = opendir("/sys/block");
	char *found = NULL;
	struct dirent *d;

	while (dir && !found && (d = readdir(dir)))
		if (!strncmp(d->d_name, "loop", 4) && is_over(d->d_name, file, except))
			found = text("/dev/%s", d->d_name);
	if (dir)
		closedir(dir);
	return found;
}

int loop_refresh_size(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int code = DONE;

	if (fd < 0 || ioctl(fd, LOOP_SET_CAPACITY, 0))
		code = fail_errno(errno, "%s: cannot learn the new size", path);
	if (fd >= 0)
		close(fd);
	return code;
}
