// SPDX-License-Identifier: GPL-2.0-or-later
/* A counter for each cluster of an image file. */
#include "check-qcow.h"

#define USES	  4 /* bits of them, below the count */
#define SMALL_MAX (UINT16_MAX >> USES)
#define LARGE_MAX (UINT64_MAX >> USES)

int vdisk_refs_init(struct refs *r, u64 clusters)
{
	*r = (struct refs){ .n = clusters };
	r->small = calloc(clusters, sizeof(*r->small));
	return r->small ? 0 : -ENOMEM;
}

void vdisk_refs_free(struct refs *r)
{
	free(r->small);
	free(r->large);
	*r = (struct refs){ 0 };
}

static int widen(struct refs *r)
{
	r->large = calloc(r->n, sizeof(*r->large));
	if (!r->large)
		return -ENOMEM;
	for (u64 i = 0; i < r->n; i++)
		r->large[i] = r->small[i];
	free(r->small);
	r->small = NULL;
	return 0;
}

static u64 value(const struct refs *r, u64 cluster)
{
	return r->large ? r->large[cluster] : r->small[cluster];
}

u64 vdisk_refs_count(const struct refs *r, u64 cluster)
{
	return value(r, cluster) >> USES;
}

u32 vdisk_refs_uses(const struct refs *r, u64 cluster)
{
	return value(r, cluster) & ((1 << USES) - 1);
}

int vdisk_refs_add(struct refs *r, u64 cluster, u32 uses, u64 times)
{
	u64 count = vdisk_refs_count(r, cluster);

	count = times > LARGE_MAX - count ? LARGE_MAX : count + times;
	if (count > SMALL_MAX && !r->large && widen(r))
		return -ENOMEM;
	if (r->large)
		r->large[cluster] = count << USES | vdisk_refs_uses(r, cluster) | uses;
	else
		r->small[cluster] = (u16)(count << USES | vdisk_refs_uses(r, cluster) | uses);
	return 0;
}

void vdisk_refs_drop(struct refs *r, u64 cluster)
{
	if (!vdisk_refs_count(r, cluster))
		return;
	if (r->large)
		r->large[cluster] -= 1 << USES;
	else
		r->small[cluster] = (u16)(r->small[cluster] - (1 << USES));
}
