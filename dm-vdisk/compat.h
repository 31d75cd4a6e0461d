/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What differs between the kernels that this builds for, 6.1 to 7.2. Only this file asks which. */
#ifndef DM_VDISK_COMPAT_H
#define DM_VDISK_COMPAT_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/version.h>

#define KERNEL_SINCE(a, b) (LINUX_VERSION_CODE >= KERNEL_VERSION(a, b, 0))

/* How a device is opened. */
#if KERNEL_SINCE(6, 5)
#define dmv_mode_t   blk_mode_t
#define COMPAT_READ  BLK_OPEN_READ
#define COMPAT_WRITE BLK_OPEN_WRITE
#else
#define dmv_mode_t   fmode_t
#define COMPAT_READ  FMODE_READ
#define COMPAT_WRITE FMODE_WRITE
#endif

/* A shrinker was a member of its owner's structure before it was an object of its own. */
typedef unsigned long compat_shrink_fn(struct shrinker *s, struct shrink_control *sc);

#if KERNEL_SINCE(6, 7)
static inline struct shrinker *compat_shrinker_new(compat_shrink_fn *count, compat_shrink_fn *scan,
						   void *owner)
{
	struct shrinker *s = shrinker_alloc(0, "dm-vdisk");

	if (!s)
		return NULL;
	s->count_objects = count;
	s->scan_objects = scan;
	s->private_data = owner;
	shrinker_register(s);
	return s;
}

static inline void *compat_shrinker_owner(struct shrinker *s)
{
	return s->private_data;
}

static inline void compat_shrinker_free(struct shrinker *s)
{
	shrinker_free(s);
}
#else
struct compat_shrinker {
	struct shrinker s;
	void *owner;
};

static inline struct shrinker *compat_shrinker_new(compat_shrink_fn *count, compat_shrink_fn *scan,
						   void *owner)
{
	struct compat_shrinker *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return NULL;
	c->s.count_objects = count;
	c->s.scan_objects = scan;
	c->s.seeks = DEFAULT_SEEKS;
	c->owner = owner;
	if (register_shrinker(&c->s, "dm-vdisk")) {
		kfree(c);
		return NULL;
	}
	return &c->s;
}

static inline void *compat_shrinker_owner(struct shrinker *s)
{
	return container_of(s, struct compat_shrinker, s)->owner;
}

static inline void compat_shrinker_free(struct shrinker *s)
{
	if (!s)
		return;
	unregister_shrinker(s);
	kfree(container_of(s, struct compat_shrinker, s));
}
#endif

/* Discards of any size. Newer kernels compute the first limit from the second. */
static inline void compat_any_discard(struct queue_limits *limits, unsigned int granularity)
{
	limits->max_discard_sectors = UINT_MAX >> SECTOR_SHIFT;
	limits->max_hw_discard_sectors = UINT_MAX >> SECTOR_SHIFT;
	limits->discard_granularity = granularity;
	limits->discard_alignment = 0;
}

/* A write-zeroes that unmaps is not offered: it must be none of ours or all. */
static inline void compat_no_unmap(struct queue_limits *limits)
{
#if KERNEL_SINCE(6, 17)
	limits->max_hw_wzeroes_unmap_sectors = 0;
#endif
}

#endif
