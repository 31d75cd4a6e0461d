// SPDX-License-Identifier: GPL-2.0-or-later
/* libvdisk on a descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../vdisk.h"

static int fd_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	int fd = (int)(intptr_t)ctx;
	char *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* the file became shorter */
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int fd_write(void *ctx, uint64_t offset, const void *buf, size_t len)
{
	int fd = (int)(intptr_t)ctx;
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int fd_flush(void *ctx)
{
	return fdatasync((int)(intptr_t)ctx) ? -errno : 0;
}

int vdisk_file_io(int fd, struct vdisk_io *io)
{
	uint64_t size;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISREG(st.st_mode))
		size = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return -EINVAL;
	else if (ioctl(fd, BLKGETSIZE64, &size))
		return -errno;
	*io = (struct vdisk_io){ .ctx = (void *)(intptr_t)fd, .size = size, .read = fd_read };
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR) {
		io->write = fd_write;
		io->flush = fd_flush;
	}
	return 0;
}
