/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2 images in memory, made without a line of libvdisk's. */
#ifndef CRASH_QCOW_IMAGE_H
#define CRASH_QCOW_IMAGE_H

#include "image.h"

struct qcow_recipe {
	u32 version, cluster_bits, refcount_order;
	u64 sectors, parent_sectors; /* of the disk; of the backing file, 0: none */
	bool extended, packed, lazy;
	bool data_file, data_raw; /* the clusters are in a file of their own */
	bool bitmap, unknown;	  /* autoclear bits that are set */
	u32 snapshots;
	u32 room;   /* free clusters behind what is used */
	u32 filler; /* at least so many clusters are in use, or have leaked */
	u32 ragged; /* bytes of a last cluster that the end of the file cuts off */
};

/* Fills m->file, ->data, ->parent, ->stamps and the snapshots. */
void qcow_make(const struct qcow_recipe *r, struct made *m);

#endif
