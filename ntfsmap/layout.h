/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From an image and the place of its file to a table. */
#ifndef NTFSMAP_LAYOUT_H
#define NTFSMAP_LAYOUT_H

#include "image.h"

/* Where one piece of the disk of an image and its parents is. */
struct place {
	const struct image *img; /* whose file holds it, a data file's too; NULL: zeros */
	uint64_t offset;	 /* in this file, bytes */
	uint64_t length;
	unsigned int depth; /* 0: the image itself answered, 1: its parent, … */
	bool compressed;    /* the bytes at offset have to be unpacked */
};

/* The bytes [at, at + length) of the virtual disk: one answer, at most that long. 0 or -errno. */
int layout_place(struct image *img, uint64_t at, uint64_t length, struct place *place);

/* The sector of the file from which on a reader must see zeros; UINT64_MAX without one. */
uint64_t layout_valid_sectors(const struct image *img);

/* Needs the image the target vdisk? Raw and fixed images do not, and --static does without it. */
bool layout_needs_vdisk(const struct image *img);

/* Build img->plan. For the target vdisk the devices of parent and data file are added by the
 * caller. as_static: of linear and zero only, with the parents in it, and read-only. */
int layout_plan(struct image *img, bool readonly, bool as_static);

/* Build a plan for img, for each of its parents, which are read-only, and for their data files. */
int layout_chain(struct image *img, bool readonly, bool as_static);

#endif
