/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images in memory, made without a line of libvdisk's: VHD here, qcow2 in qcow-image.h. */
#ifndef CRASH_IMAGE_H
#define CRASH_IMAGE_H

#include "../../libvdisk/port.h"

/* The contents of a sector: 64 times the same number, which says whose it is. */
#define STAMP_STALE  0xdeadULL	  /* nobody's: what was on the disk before */
#define STAMP_PARENT (1ULL << 40) /* + sector: the parent's */
#define STAMP_CHILD  (1ULL << 41) /* + sector: the image's from the beginning */
#define STAMP_LATER  (1ULL << 42) /* + sector: written when there was a snapshot; twice: two */

#define SNAPSHOTS_MAX 2

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
	u8 *parent; /* or NULL: a fixed VHD; a raw image */
	u64 parent_size, parent_sectors;
	u64 bat; /* VHD */
	/* qcow2 */
	u8 *data; /* the data file, or NULL */
	u64 data_size;
	u32 n_snapshots;
	u64 *snapshots[SNAPSHOTS_MAX]; /* what each sector holds */
};

void image_make(const struct recipe *r, struct made *m);
void image_free(struct made *m);

void stamp_sector(u8 *sector, u64 stamp);
/* The number, or ~0 when the sector is not of one piece. */
u64 stamp_of(const u8 *sector);

#endif
