// SPDX-License-Identifier: GPL-2.0-or-later
/* libvdisk on a descriptor: the image file's reader, and reads of the virtual disk. */
#include <errno.h>
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
	return 0;
}
