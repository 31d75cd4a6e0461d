/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a format implements. A format knows bits and offsets: it does no I/O but through
 * vdisk_read(), prints nothing and trusts nothing that it reads.
 */
#ifndef VDISK_IMAGE_H
#define VDISK_IMAGE_H

#include "port.h"
#include "vdisk.h"

struct vdisk_format {
	const char *name;
	/* Does the image look like this format? 1 yes, 0 no, or a negative errno of the reader.
	 * NULL: never, it has to be named. */
	int (*probe)(const struct vdisk_io *io);
	/* Headers to vd->info, every field that is used validated. Reads headers only. */
	int (*open)(struct vdisk *vd, struct vdisk_error *err);
	/* vdisk_map() with a range that was checked already. */
	int (*map)(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);
};

struct vdisk {
	const struct vdisk_format *format;
	struct vdisk_io io;
	struct vdisk_info info;
};

extern const struct vdisk_format vdisk_raw;
extern const struct vdisk_format vdisk_vhd;

/* The only way a format reads: -EINVAL for a range that is not inside the file. */
int vdisk_read(const struct vdisk_io *io, u64 offset, void *buf, size_t len);

/* Fill err (which may be NULL) and return code. */
int vdisk_fail(struct vdisk_error *err, int code, struct vdisk_error what);

/* For formats whose data lie in one piece at the start of the file. */
int vdisk_map_flat(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);

#endif
