/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The I/O seam: how a format sees an image's tables. Metadata is cached by the host in blocks of
 * `block` bytes (the device's logical block, so that guest data beside a table is never read into
 * the cache nor written back from it). Blocks are named by their offset in the image file.
 */
#ifndef VDISK_META_H
#define VDISK_META_H

#include "port.h"

/* A block in the host's cache. The host embeds it; the engine alone changes what is in it. */
struct vdisk_block {
	u64 offset; /* in the image file, bytes; a multiple of the block size */
	u8 *data;
	/* the engine's, while the block is dirty */
	struct vdisk_block *next_dirty;
	bool dirty;
};

struct vdisk_meta {
	u32 block; /* bytes: a power of two, at least 512 */
	/*
	 * The contents of the block at offset, or NULL when it is not in the cache. Never sleeps.
	 * The kernel calls it under rcu_read_lock() and the pointer is good until the matching
	 * unlock; in user space it is good until the next block is fetched.
	 */
	const u8 *(*peek)(struct vdisk_meta *meta, u64 offset);
};

/* The block that byte `offset` of the file is in. */
static inline u64 vdisk_block_of(const struct vdisk_meta *meta, u64 offset)
{
	return round_down_to(offset, meta->block);
}

#endif
