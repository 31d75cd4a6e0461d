/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where an image FILE lies on a device: the list of its extents in file order. One appender builds
 * it and asserts its invariants, one look-up walks it.
 */
#ifndef VDISK_EXTENTS_H
#define VDISK_EXTENTS_H

#include "port.h"

/* The device sector of a piece of the file that has none (a hole): it reads as zeros. */
#define VDISK_HOLE UINT64_MAX

/* All in 512-byte sectors. */
struct vdisk_extent {
	u64 file;
	u64 device; /* or VDISK_HOLE */
	u64 count;  /* never 0 */
};

/* Zero-initialise. v[i + 1].file is v[i].file + v[i].count, and neighbours never touch on the
 * device. */
struct vdisk_extents {
	struct vdisk_extent *v;
	size_t n;
	size_t room;
	u64 sectors; /* of the file that the list covers */
	/* The extent that sector i << shift is in; NULL: there is no index. */
	u32 *index;
	u32 shift;
};

/* Append the next count sectors of the file, which lie at device. Merges with the last extent
 * where both are contiguous. -EINVAL: count is 0; -EOVERFLOW: past the end of 64 bits; -ENOMEM. */
int vdisk_extents_add(struct vdisk_extents *x, u64 device, u64 count);

/*
 * The list is complete: make an index, so that a look-up takes the same time however many extents
 * there are, unless many short ones lie beside long ones. Nothing may be appended afterwards.
 * -ENOMEM; -EOVERFLOW: of more extents than 32 bits can count.
 */
int vdisk_extents_index(struct vdisk_extents *x);

/* The extent that the file's sector `file` is in; NULL past the end. */
static inline const struct vdisk_extent *vdisk_extents_find(const struct vdisk_extents *x, u64 file)
{
	size_t low = 0, high = x->n;

	if (file >= x->sectors)
		return NULL;
	if (x->index) {
		low = x->index[file >> x->shift];
		high = (size_t)x->index[(file >> x->shift) + 1] + 1;
	}
	/* Invariant: v[low].file <= file < v[high].file, so it ends when they are neighbours. */
	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (x->v[mid].file <= file)
			low = mid;
		else
			high = mid;
	}
	return &x->v[low];
}

/* The part of one extent that begins at the file's sector `file`. false past the end. */
bool vdisk_extents_at(const struct vdisk_extents *x, u64 file, struct vdisk_extent *piece);

void vdisk_extents_free(struct vdisk_extents *x);

#endif
