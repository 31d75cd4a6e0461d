// SPDX-License-Identifier: GPL-2.0-or-later
/* vdisk_check() and vdisk_repair(); VHD: every table entry, alone and against all others. */
#include "check-qcow.h"

struct found {
	u64 home, index;
};

struct check {
	struct vdisk *vd;
	void (*report)(void *ctx, const struct vdisk_fault *fault);
	void *ctx;
	struct found *v;
	size_t n, room;
	struct vdisk_found *found;
};

static void report(struct check *c, const struct vdisk_fault *fault)
{
	c->found->errors++;
	if (c->report)
		c->report(c->ctx, fault);
}

static int remember(struct check *c, u64 home, u64 index)
{
	if (c->n == c->room) {
		size_t room = c->room ? 2 * c->room : 1024;
		struct found *v = reallocarray(c->v, room, sizeof(*v));

		if (!v)
			return -ENOMEM;
		c->v = v;
		c->room = room;
	}
	c->v[c->n++] = (struct found){ home, index };
	return 0;
}

static u64 entry_offset(const struct check *c, u64 index)
{
	return c->vd->vhd.bat_offset + 4 * index;
}

/* Where the unit at offset is, if it has a place; *length: how far the answer goes. */
static int look(struct check *c, u64 offset, u64 left, u64 *length)
{
	u64 unit = 1ULL << c->vd->unit_shift;
	u64 index = offset >> c->vd->unit_shift;
	struct vdisk_map m;
	int ret = vdisk_host_map(host_of(c->vd), offset, left, &m);

	*length = left < unit ? left : unit;
	if (ret == -EUCLEAN || ret == -EOPNOTSUPP) {
		report(c,
		       &(struct vdisk_fault){
			       .kind = VDISK_FAULT_ENTRY,
			       .entry = m.offset,
			       .index = index,
			       .home = m.home,
			       .problem = "points outside the file's data, into a header or into "
					  "a table",
			       .other = VDISK_NOWHERE });
		return 0;
	}
	if (ret)
		return ret;
	if (m.kind == VDISK_DATA)
		return remember(c, m.offset, index);
	if (m.home != VDISK_NOWHERE)
		return remember(c, m.home, index);
	/* Many units without a place are one answer; one that is not linked yet is many. */
	if (m.length > unit)
		*length = m.length - (offset + m.length) % unit;
	return 0;
}

static int by_home(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->home != y->home)
		return x->home < y->home ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* Neighbours in the file that overlap, each with what is in front of its data. */
static void compare(struct check *c)
{
	u64 unit = (1ULL << c->vd->unit_shift) + c->vd->vhd.bitmap_bytes;

	if (c->n) /* without, v may be NULL */
		qsort(c->v, c->n, sizeof(*c->v), by_home);
	for (size_t i = 1; i < c->n; i++) {
		const struct found *a = &c->v[i - 1], *b = &c->v[i];

		if (b->home - a->home >= unit)
			continue;
		report(c, &(struct vdisk_fault){ .kind = VDISK_FAULT_OVERLAP,
						 .entry = entry_offset(c, b->index),
						 .index = b->index,
						 .home = b->home,
						 .problem = "shares bytes with another block",
						 .other = a->index });
	}
}

static int check_vhd(struct vdisk *vd, void (*report_fault)(void *, const struct vdisk_fault *),
		     void *ctx, struct vdisk_found *found)
{
	struct check c = { .vd = vd, .report = report_fault, .ctx = ctx, .found = found };
	u64 length;
	int ret = 0;

	for (u64 at = 0; at < vd->info.virtual_size && !ret; at += length)
		ret = look(&c, at, vd->info.virtual_size - at, &length);
	if (!ret)
		compare(&c);
	free(c.v);
	return ret;
}

static bool is_qcow(const struct vdisk *vd)
{
	return vd->format == &vdisk_qcow || vd->format == &vdisk_qcow2;
}

int vdisk_check(struct vdisk *vd, void (*report_fault)(void *, const struct vdisk_fault *),
		void *ctx, struct vdisk_found *found)
{
	struct host *h = host_of(vd);
	int ret;

	*found = (struct vdisk_found){ 0 };
	if (!vd->unit_shift)
		return 0;
	pthread_mutex_lock(&h->lock);
	ret = is_qcow(vd) ? vdisk_qcow_check(vd, report_fault, ctx, found)
			  : check_vhd(vd, report_fault, ctx, found);
	pthread_mutex_unlock(&h->lock);
	return ret;
}

/* What is cached may be of before. */
static void forget_all(struct host *h)
{
	vdisk_cache_exit(&h->cache);
	vdisk_cache_init(&h->cache, &h->vd->io);
}

int vdisk_repair(struct vdisk *vd, enum vdisk_repair_level level,
		 void (*report_fault)(void *, const struct vdisk_fault *), void *ctx,
		 struct vdisk_found *found)
{
	struct host *h = host_of(vd);
	int ret;

	*found = (struct vdisk_found){ 0 };
	if (vd->format != &vdisk_qcow2)
		return -EOPNOTSUPP;
	if (!vd->io.write || !vd->io.flush)
		return -EROFS;
	pthread_mutex_lock(&h->lock);
	ret = -EBUSY;
	if (!h->engine) {
		vd->readonly = true;
		ret = vdisk_qcow_repair(vd, level, report_fault, ctx, found);
		forget_all(h);
	}
	pthread_mutex_unlock(&h->lock);
	return ret;
}
