/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VHD images in memory, made without a line of libvdisk's. */
#ifndef CRASH_IMAGE_H
#define CRASH_IMAGE_H

#include "../../libvdisk/port.h"

/* The contents of a sector: 64 times the same number, which says whose it is. */
#define STAMP_STALE  0xdeadULL	  /* nobody's: what was on the disk before */
#define STAMP_PARENT (1ULL << 40) /* + sector: the parent's */
#define STAMP_CHILD  (1ULL << 41) /* + sector: the image's from the beginning */

struct recipe {
	bool differencing;
	u32 block;	  /* bytes */
	u32 blocks;	  /* of the virtual disk */
	u32 last_sectors; /* of the last block */
	u32 room;	  /* for so many blocks, about */
	u32 align;	  /* of data in the file */
};

struct made {
	u8 *file;
	u64 file_size;
	u64 *stamps; /* what each sector of the virtual disk holds */
	u64 sectors;
	u64 bat;
	u8 *parent; /* a fixed VHD, or NULL */
	u64 parent_size;
};

void image_make(const struct recipe *r, struct made *m);
void image_free(struct made *m);

void stamp_sector(u8 *sector, u64 stamp);
/* The number, or ~0 when the sector is not of one piece. */
u64 stamp_of(const u8 *sector);

#endif
