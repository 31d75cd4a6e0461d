/* SPDX-License-Identifier: GPL-2.0-or-later */
/* device-mapper, through libdevmapper. */
#ifndef NTFSMAP_DM_H
#define NTFSMAP_DM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "plan.h"

#define DM_OURS	    "NTFSMAP-" /* every UUID of ours begins so */
#define DM_NAME_MAX 60	       /* bytes of a name; it is a part of the UUID, which holds 128 */

struct dm_line {
	uint64_t start, count; /* sectors */
	char *type, *params;
};

struct dm_device {
	char *name, *uuid;
	dev_t dev;
	int open_count;
	bool readonly, suspended, live; /* live: has a table */
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

/* The lines as one plan; false when there is a target in it that ntfsmap does not make, or several
 * devices. */
bool dm_plan_of(const struct dm_device *d, struct plan *plan, dev_t *dev);
/* The device and first sector of a linear line (or a stripe of one); false for other targets. */
bool dm_linear_line(const struct dm_line *line, dev_t *dev, uint64_t *offset);

/* hidden: udev shall not look for file systems in it, nor link its UUID. */
int dm_create(const char *name, const char *uuid, const struct plan *plan, bool hidden);
int dm_reload(const char *name, const struct plan *plan);
/* deferred: only for a device that is in use; it goes when that ends. */
int dm_remove(const char *name, bool deferred);

/* Is the name one that can be used as it is? */
int dm_check_name(const char *name);

/* What holds the device open, for people: "mounted on /mnt", "used by dm-3", or NULL. */
char *dm_users(const struct dm_device *d);

#endif
