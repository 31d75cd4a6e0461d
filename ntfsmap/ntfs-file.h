/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between the ntfs-*.c files. */
#ifndef NTFSMAP_NTFS_FILE_H
#define NTFSMAP_NTFS_FILE_H

#include "ntfs-lib.h"
#include "ntfs.h"

/* Read what struct ntfs_file holds. Takes ni over, also when it fails. stream may be NULL. */
int ntfs_file_load(struct volume *vol, ntfs_inode *ni, const char *path, const char *stream,
		   bool extend, struct ntfs_file **file);

/* The extents without holes, sorted by their place on the device. The caller frees. */
struct vdisk_extent *extents_by_device(const struct vdisk_extents *x, size_t *n);

/* The name of the $DATA stream with that hash, NULL if there is none. */
char *ntfs_stream_by_hash(ntfs_inode *ni, uint32_t hash);

#endif
