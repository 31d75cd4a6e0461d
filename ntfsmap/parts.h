/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The partitions of an open disk: devices NAME-part1, …, each one linear line over NAME, with the
 * UUID "part1-" + that of NAME. udev and libblkid know what that means, and kpartx does the same:
 * what it made over NAME is treated alike.
 *
 * Numbers and sizes are those that the kernel gives to the partitions of a disk. An extended
 * partition is as long as its first two sectors, so that nobody makes a file system in it.
 */
#ifndef NTFSMAP_PARTS_H
#define NTFSMAP_PARTS_H

#include "dm.h"
#include "image.h"

struct partition {
	unsigned int number;
	uint64_t start, count;		/* sectors */
	const struct dm_device *device; /* of one that is there; else NULL */
};

struct partitions {
	struct partition *v;
	size_t n;
};

/* Has the disk in the image a partition table, as far as its contents can be read? */
bool parts_in_image(struct image *img);

/* Those that are there, by number. v is the caller's to free. */
void parts_over(const struct dm_device *disk, const struct dm_devices *all,
		struct partitions *parts);

/* What uses the disk or one of its partitions, for people, or NULL: dm_users(). */
char *parts_users(const struct dm_device *disk, const struct dm_devices *all);

/* Has somebody it or one of its partitions open? They themselves do not count. */
bool parts_in_use(const struct dm_device *disk, const struct dm_devices *all);

/* The rest is called inside mapping_change(). */

/* Make all that the partition table of NAME names, or none. No table: a note. */
int parts_create(const char *name);

/* Where NAME has some: make them what the table says now. BUSY, with none of them changed, when one
 * that is in use would move, shrink or go, or when somebody has the name of a new one. When the
 * kernel fails in the middle, those before it are changed; the next call does the others. *changed
 * is set if something was, and else left alone. */
int parts_update(const char *name, bool *changed);

/* Take all away, or none. deferred: one that is in use goes when that ends. */
int parts_remove(const struct dm_device *disk, const struct dm_devices *all, bool deferred);

/* Make again what parts_remove() took. */
int parts_restore(const struct dm_device *disk, const struct dm_devices *all);

#endif
