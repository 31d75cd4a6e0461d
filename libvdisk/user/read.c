// SPDX-License-Identifier: GPL-2.0-or-later
/* Reading the virtual disk: the walker of vdisk_map()'s answers in user space. */
#include <errno.h>

#include "../image.h"

int vdisk_pread(const struct vdisk *vd, void *buf, size_t len, uint64_t offset)
{
	struct vdisk_map m;
	u8 *p = buf;
	int ret;

	while (len) {
		ret = vdisk_map(vd, offset, len, &m);
		if (ret)
			return ret;
		ret = vdisk_read(&vd->io, m.offset, p, m.length);
		if (ret)
			return ret;
		p += m.length;
		offset += m.length;
		len -= m.length;
	}
	return 0;
}
