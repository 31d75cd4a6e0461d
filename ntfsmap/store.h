/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lies in the copy-on-write store of an overlay: in front a label of ours, which says whose
 * overlay it is, then what the kernel's target snapshot keeps there by itself. That is durable
 * before a write to the overlay is; but it does not say to what its chunks belong.
 */
#ifndef NTFSMAP_STORE_H
#define NTFSMAP_STORE_H

#include "image.h"

#define STORE_HEAD 65536 /* bytes for the label; the target has the rest */

enum store_state {
	STORE_EMPTY,
	STORE_IN_USE,
	STORE_MERGING, /* the image has a part of it already */
};

/*
 * Is it one for this image, or empty? Both are open and probed. REFUSED where it holds something
 * else or is another image's, DAMAGED where it cannot be used any more.
 */
int store_look(const struct image *store, const struct image *origin, enum store_state *state);

/* What its label says, whoever it belongs to. */
int store_read_state(const struct image *store, enum store_state *state);

/* The following write to a block device with the whole store; durable when they return. */

/* Empty it, and make it that of the image. */
int store_begin(const char *node, const struct image *origin);

/* Change the label. modified: of the image's file, as by image_modified(); -1: as it was. */
int store_set_state(const char *node, enum store_state state, int64_t modified);

/* Drop what the target keeps from this byte of the device on. No table may have it meanwhile. */
int store_wipe(const char *node, uint64_t at);

#endif
