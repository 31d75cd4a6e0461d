/* SPDX-License-Identifier: GPL-2.0-or-later */
/* device-mapper, through libdevmapper. */
#ifndef NTFSMAP_DM_H
#define NTFSMAP_DM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "name.h"
#include "plan.h"

#define DM_OURS	    "NTFSMAP-"	      /* every UUID of ours begins so */
#define DM_BASE	    DM_OURS "BASE-"   /* of the parents of an open image, and their data files */
#define DM_DATA	    DM_OURS "DATA-"   /* of the data file of an open image */
#define DM_REPAIR   DM_OURS "REPAIR-" /* of `check --repair`, as long as that runs */
#define DM_ORIGIN   DM_OURS "ORIGIN-" /* of an image below its overlay */
#define DM_COW	    DM_OURS "COW-"    /* of the copy-on-write store of an overlay */
#define DM_UUID_MAX 128

struct dm_line {
	uint64_t start, count; /* sectors */
	char *type, *params;
};

struct dm_device {
	char *name, *uuid;
	dev_t dev;
	int open_count;
	bool readonly, suspended, live; /* live: has a table */
	bool deferred;			/* goes when its last user does */
	uint64_t sectors;
	struct dm_line *lines;
	size_t n;
	struct dm_line *waiting; /* loaded, not yet resumed */
	size_t n_waiting;
};

struct dm_devices {
	struct dm_device *v;
	size_t n;
};

/* Is the driver there? Without it nothing is mapped. Says nothing. */
bool dm_present(void);
/* fail() unless the driver is there and we may use it. */
int dm_need(void);

/* NOT_FOUND without a message when there is no such device. */
int dm_read(const char *name, struct dm_device *d);
/* All devices with their tables, in the kernel's order. */
int dm_read_all(struct dm_devices *all);
void dm_device_free(struct dm_device *d);
void dm_devices_free(struct dm_devices *all);

/* Is it the device of a parent? */
bool dm_is_base(const struct dm_device *d);
/* Is it the device of an image below its overlay; of an overlay's store? */
bool dm_is_origin(const struct dm_device *d);
bool dm_is_cow(const struct dm_device *d);
/* Is it one that is there for another only: one of these, or of a data file? */
bool dm_is_part(const struct dm_device *d);
/* What stands behind "partN-" in the UUID of a partition, as ntfsmap and kpartx make them: the UUID
 * of its disk. NULL for what is no partition. number may be NULL. */
const char *dm_partition(const char *uuid, unsigned int *number);
/* Is it a partition of that disk? */
bool dm_is_partition_of(const struct dm_device *d, const struct dm_device *disk);
/* The device with that number, or NULL. */
const struct dm_device *dm_find(const struct dm_devices *all, dev_t dev);

/* dm-table.c: what a table of ours says. */
/* The lines as one plan, its devices as numbers; false when there is a target in it that ntfsmap
 * does not make. */
bool dm_plan_of(const struct dm_device *d, struct plan *plan);
/* The device and first sector of a linear line (or a stripe of one); false for other targets. */
bool dm_linear_line(const struct dm_line *line, dev_t *dev, uint64_t *offset);
bool dm_is_vdisk(const struct dm_device *d);
/* Is it one of ours with an overlay, the target snapshot or snapshot-merge? */
bool dm_is_overlay(const struct dm_device *d);
/* Does its table fail all I/O, as `dmsetup wipe_table` leaves it? */
bool dm_is_fenced(const struct dm_device *d);
/* The devices that the table names beside that of the file, 0: none. Of an overlay the image below
 * is the parent, and its store the data file. */
struct dm_parts {
	dev_t parent, data;
};
struct dm_parts dm_parts_of(const struct dm_device *d);
/* Does the table name, or that of a device-mapper device which it names, one that is()? */
bool dm_any_below(const struct dm_devices *all, const struct dm_device *d,
		  bool (*is)(dev_t dev, void *ctx), void *ctx);
/* A line of the target vdisk; false for other targets. plan is the caller's to free. */
bool dm_vdisk_line(const struct dm_line *line, struct plan *plan);
/* "8:3" or a path; false for what is no block device. */
bool dm_parse_device(const char *word, dev_t *dev);

/* What `dmsetup status` says of the first line; NULL: nothing. The caller frees. */
char *dm_state(const char *name);

/* hidden: udev shall not look for file systems in it, nor link its UUID. dev may be NULL. */
int dm_create(const char *name, const char *uuid, const struct plan *plan, bool hidden, dev_t *dev);
int dm_reload(const char *name, const struct plan *plan, bool hidden);
/* deferred: only for a device that is in use; it goes when that ends. */
int dm_remove(const char *name, bool deferred);

/* Is the name one that can be used as it is? */
int dm_check_name(const char *name);

/* What holds the device open, for people: "mounted on /mnt", "used by dm-3", or NULL. Its
 * partitions do not count. */
char *dm_users(const struct dm_device *d);

#endif
