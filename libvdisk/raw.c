// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Raw images: the file is the disk. A tail that does not fill a sector is not part of the disk, as
 * with loop devices: the rest of that sector would show what lies behind the end of the file.
 */
#include "image.h"

static int raw_open(struct vdisk *vd, const struct vdisk_options *options, struct vdisk_error *err)
{
	(void)options;
	vd->info.tail = vd->io.size % VDISK_SECTOR;
	vd->info.virtual_size = vd->io.size - vd->info.tail;
	if (vd->info.virtual_size)
		return 0;
	return vdisk_fail(err, -EUCLEAN,
			  (struct vdisk_error){ .field = "file size",
						.problem = "is less than one sector",
						.found = vd->io.size,
						.expected = VDISK_SECTOR,
						.show = VDISK_SHOW_DECIMAL });
}

const struct vdisk_format vdisk_raw = {
	.name = "raw",
	.open = raw_open,
	.map = vdisk_map_flat,
};
