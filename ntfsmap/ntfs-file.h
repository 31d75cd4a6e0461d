/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between ntfs-path.c, which finds inodes, and ntfs-file.c, which reads them. */
#ifndef NTFSMAP_NTFS_FILE_H
#define NTFSMAP_NTFS_FILE_H

#include "ntfs-lib.h"
#include "ntfs.h"

/* Read what struct ntfs_file holds. Takes ni over, also when it fails. stream may be NULL. */
int ntfs_file_load(struct volume *vol, ntfs_inode *ni, const char *path, const char *stream,
		   bool extend, struct ntfs_file **file);

/* The name of the $DATA stream with that hash, NULL if there is none. */
char *ntfs_stream_by_hash(ntfs_inode *ni, uint32_t hash);

#endif
