/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An image that is only read, and above it a store for what is written: NAME is the kernel's target
 * snapshot over NAME-origin, the read-only mapping, and NAME-cow, the store without its label.
 */
#ifndef NTFSMAP_OVERLAY_H
#define NTFSMAP_OVERLAY_H

#include "store.h"
#include "verb.h"

struct overlay {
	struct image store; /* image_none: in memory */
	enum store_state state;
	struct plan whole; /* the table of the store, label and all */
	int memory; /* keeps the loop device of a store in memory until device-mapper has it */
};

extern const struct overlay overlay_none;

/* Open the store spec, or "tmpfs", for an image after prepare(), and look whether it may be
 * written and is for that image. */
int overlay_open(struct overlay *o, const char *spec, struct image *origin,
		 const struct options *opt);
void overlay_close(struct overlay *o);

/* Make the devices; origin is laid out. All or nothing. */
int overlay_create(struct overlay *o, struct image *origin, const char *name);

/* The table of NAME-cow, from that of the whole store. */
int overlay_rest(const struct plan *whole, struct plan *rest);

/* What the target says of an open one. */
enum overlay_mode {
	OVERLAY_GOOD,
	OVERLAY_FULL,	 /* writes that need room fail */
	OVERLAY_INVALID, /* a write to the store failed: all I/O fails */
	OVERLAY_STUCK,	 /* a merge met an error */
	OVERLAY_UNKNOWN,
};

struct overlay_usage {
	enum overlay_mode mode;
	bool merging;
	uint64_t used, total, tables; /* sectors, where the mode is good; tables are in used */
};

void overlay_usage(const struct dm_device *d, struct overlay_usage *u);

#endif
