/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who else uses the sectors that we want to map: mounted file systems, device-mapper tables whoever
 * made them, loop devices, and programs that hold the device exclusively. Partitions, loop devices
 * and linear tables are followed down to the disk, so that it does not matter by which name
 * somebody came there.
 */
#ifndef NTFSMAP_USERS_H
#define NTFSMAP_USERS_H

#include "dm.h"
#include "mounts.h"
#include "ntfs.h"

enum mount_state { MOUNT_NONE, MOUNT_READONLY, MOUNT_WRITABLE };

struct users {
	enum mount_state mounted; /* the volume, under any name */
	char *mount_point;
	bool claimed;	  /* device-mapper cannot take the device: a mount holds it */
	bool tables_read; /* false: writer and reader are not known, only root may look */
	bool perhaps;	  /* then: some device-mapper device uses the volume's device or disk */
	bool held;	  /* somebody else holds it exclusively */
	char *writer;	  /* who maps some of the sectors read-write, or NULL */
	char *reader;	  /* who maps some of them read-only */
	bool base;	  /* then: as a parent of what is open, which writing would destroy */
};

/* The device or regular file that the volume or image is on. */
struct where {
	const char *path;
	bool is_block;
	dev_t rdev;
	uint64_t sectors; /* of the device */
};

/*
 * Find out for these extents of the device (sectors; NULL: all of it). The mapping called except
 * (may be NULL) does not count. self is what UUIDs of ours have between format and name for the
 * file; NULL: they do not name it.
 */
int users_find(const struct where *at, const struct vdisk_extents *extents, const char *self,
	       const char *except, struct users *u);
void users_free(struct users *u);

#endif
