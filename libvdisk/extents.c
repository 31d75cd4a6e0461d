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

/* About one entry for each extent. The last one is for who looks at the end of the last range. */
int vdisk_extents_index(struct vdisk_extents *x)
{
	u64 ranges;
	size_t i = 0;

	if (x->n > UINT32_MAX - 1)
		return -EOVERFLOW;
	if (x->n < 2)
		return 0;
	x->shift = 0;
	while (x->sectors >> x->shift > 2 * (u64)x->n)
		x->shift++;
	ranges = ((x->sectors - 1) >> x->shift) + 1;
	x->index = vdisk_zalloc((ranges + 1) * sizeof(*x->index));
	if (!x->index)
		return -ENOMEM;
	for (u64 range = 0; range < ranges; range++) {
		while (x->v[i].file + x->v[i].count <= range << x->shift)
			i++;
		x->index[range] = (u32)i;
	}
	x->index[ranges] = (u32)(x->n - 1);
	return 0;
}

bool vdisk_extents_at(const struct vdisk_extents *x, u64 file, struct vdisk_extent *piece)
{
	const struct vdisk_extent *v = vdisk_extents_find(x, file);

	if (!v)
		return false;
	*piece = *v;
	piece->count -= file - piece->file;
	if (piece->device != VDISK_HOLE)
		piece->device += file - piece->file;
	piece->file = file;
	return true;
}

void vdisk_extents_free(struct vdisk_extents *x)
{
	vdisk_free(x->v);
	vdisk_free(x->index);
	memset(x, 0, sizeof(*x));
}
