// SPDX-License-Identifier: GPL-2.0-or-later
#include "extents.h"

static int make_room(struct vdisk_extents *x)
{
	size_t room = x->room ? x->room * 2 : 16;
	struct vdisk_extent *v;

	if (x->n < x->room)
		return 0;
	v = vdisk_zalloc(room * sizeof(*v));
	if (!v)
		return -ENOMEM;
	if (x->n)
		memcpy(v, x->v, x->n * sizeof(*v));
	vdisk_free(x->v);
	x->v = v;
	x->room = room;
	return 0;
}

static bool continues(const struct vdisk_extent *last, u64 device)
{
	if (device == VDISK_HOLE || last->device == VDISK_HOLE)
		return device == last->device;
	return last->device + last->count == device;
}

int vdisk_extents_add(struct vdisk_extents *x, u64 device, u64 count)
{
	u64 end;
	int ret;

	if (!count)
		return -EINVAL;
	if (add_overflows(x->sectors, count, &end) ||
	    (device != VDISK_HOLE && add_overflows(device, count, &end)))
		return -EOVERFLOW;
	if (x->n && continues(&x->v[x->n - 1], device)) {
		x->v[x->n - 1].count += count;
		x->sectors += count;
		return 0;
	}
	ret = make_room(x);
	if (ret)
		return ret;
	x->v[x->n++] = (struct vdisk_extent){ x->sectors, device, count };
	x->sectors += count;
	return 0;
}

bool vdisk_extents_at(const struct vdisk_extents *x, u64 file, struct vdisk_extent *piece)
{
	size_t low = 0, high = x->n;

	if (file >= x->sectors)
		return false;
	/* Invariant: v[low].file <= file < v[high].file, so it ends when they are neighbours. */
	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (x->v[mid].file <= file)
			low = mid;
		else
			high = mid;
	}
	*piece = x->v[low];
	piece->count -= file - piece->file;
	if (piece->device != VDISK_HOLE)
		piece->device += file - piece->file;
	piece->file = file;
	return true;
}

void vdisk_extents_free(struct vdisk_extents *x)
{
	vdisk_free(x->v);
	memset(x, 0, sizeof(*x));
}
