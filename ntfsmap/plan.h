/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What device-mapper is told about one device: lines of the stock targets `linear` and `zero`, or
 * one line of the target `vdisk`, `snapshot`, `snapshot-merge` or `error`.
 *
 * GRUB takes a device whose table begins with `linear` for a partition of the disk below, and so
 * cannot find what it is asked for inside an image. Where the disk has a partition table, its first
 * sectors are therefore a stripe of one, which maps as `linear` does.
 */
#ifndef NTFSMAP_PLAN_H
#define NTFSMAP_PLAN_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "../libvdisk/extents.h"
#include "../libvdisk/vdisk.h"

#define PLAN_DEVICES   (2 * VDISK_CHAIN_MAX + 1)
#define PLAN_MAX_WORDS 524288 /* device-mapper splits a line into no more arguments */
#define PLAN_CHUNK     64     /* sectors that the target snapshot copies at once */

struct plan {
	/*
	 * In sectors; .device is a place, see below, or VDISK_HOLE, which reads as zeros.
	 * linear and zero: .file is the virtual disk's sector. vdisk: .file is the image file's.
	 */
	struct vdisk_extents lines;
	char *devices[PLAN_DEVICES]; /* how a table names them: "8:2", or an escaped path */
	size_t n_devices;	     /* in the order of their first use in lines */
	bool readonly;
	/* The disk has a partition table: the stripe at its start has chunks of so many sectors. 0:
	 * no stripe. dm_plan_of() does not tell. */
	uint32_t stripe;
	/* of the target vdisk only */
	char *format; /* NULL: linear and zero */
	uint64_t sectors;
	uint64_t file_bytes; /* of the image file */
	char *parent;	     /* the parent's device, or NULL */
	char *data;	     /* the data file's device, or NULL */
	char *snapshot;	     /* the id of the snapshot that is shown, or NULL */
	/* of the targets snapshot and snapshot-merge, and error, with sectors, only */
	char *origin; /* the device below, or NULL */
	char *cow;    /* the copy-on-write store's device */
	bool merging; /* snapshot-merge */
	bool error;   /* all I/O fails */
};

/* A place: a sector of one of the plan's devices, whose index is in the top 8 bits. */
static inline uint64_t plan_place(size_t device, uint64_t sector)
{
	return (uint64_t)device << 56 | sector;
}

static inline size_t plan_device_of(uint64_t place)
{
	return (size_t)(place >> 56);
}

static inline uint64_t plan_sector_of(uint64_t place)
{
	return place & (UINT64_MAX >> 8);
}

/* One line of the table. params is the caller's to free. */
struct plan_target {
	uint64_t start, count;
	const char *type;
	char *params;
};

/* The size of the device, in sectors. */
uint64_t plan_sectors(const struct plan *plan);

/* Append count sectors that lie at this sector of the device; NULL: zeros. -E2BIG when there are
 * too many devices, else as vdisk_extents_add() does. */
int plan_add(struct plan *plan, const char *device, uint64_t sector, uint64_t count);

/* The first piece whose place or length is no multiple of block (bytes), or NULL. */
const struct vdisk_extent *plan_misaligned(const struct plan *plan, uint32_t block);

/* Do both say the same? What the devices are called does not count, as a loop device may stand for
 * one; a parent and a data file do. */
bool plan_same(const struct plan *a, const struct plan *b);

/* How many lines the table has, and each of them. */
size_t plan_targets(const struct plan *plan);
void plan_target(const struct plan *plan, size_t i, struct plan_target *target);

/* The arguments of its longest line. */
size_t plan_words(const struct plan *plan);

/* One line each; concise: as `dmsetup create --concise` has them, with commas between them and a
 * backslash before what means something there. Returns false when f fails. */
bool plan_print(const struct plan *plan, FILE *f, bool concise);

void plan_free(struct plan *plan);

#endif
