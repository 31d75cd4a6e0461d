// SPDX-License-Identifier: GPL-2.0-or-later
/* Refcounts: where they are, and what a commit does to them. */
#include "engine.h"
#include "refcount.h"

/* qcow2.txt, "Header": offsets of the fields that a commit changes. */
enum header_field {
	H_REFCOUNT_TABLE = 48,
	H_REFCOUNT_TABLE_CLUSTERS = 56,
	H_INCOMPATIBLE = 72,
	H_AUTOCLEAR = 88,
};

#define INCOMPATIBLE_CORRUPT (1ULL << 1)

/* ---- where a count is ---- */

u64 vdisk_refcount_get(const struct vdisk *vd, const u8 *data, u64 cluster)
{
	u32 order = vd->qcow.refcount_order;
	u64 i = cluster & ((1ULL << qcow_meta_shift(vd)) - 1);

	switch (order) {
	case 4:
		return get_be16(data + 2 * i);
	case 5:
		return get_be32(data + 4 * i);
	case 6:
		return get_be64(data + 8 * i);
	default: /* the first is in the least significant bits */
		return data[i >> (3 - order)] >> ((i << order) & 7) & ((1U << (1U << order)) - 1);
	}
}

static void set_count(const struct vdisk *vd, u8 *data, u64 cluster, u64 count)
{
	u32 order = vd->qcow.refcount_order, bytes = order < 3 ? 1 : 1U << (order - 3);
	u64 i = cluster & ((1ULL << qcow_meta_shift(vd)) - 1);
	u32 shift = (i << order) & 7;
	u8 *p = data + (i << order >> 3);

	if (order < 3) {
		u8 mask = (u8)(((1U << (1U << order)) - 1) << shift);

		*p = (u8)((*p & ~mask) | (count << shift & mask));
		return;
	}
	while (bytes--) {
		p[bytes] = (u8)count;
		count >>= 8;
	}
}

static u64 largest_count(const struct qcow *q)
{
	u32 bits = 1U << q->refcount_order;

	return bits == 64 ? ~0ULL : (1ULL << bits) - 1;
}

/* Entry `index` of the refcount table, as it is in the file. */
static int load_entry(const struct vdisk *vd, u64 index, u64 *block, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 at = q->refcount_table + 8 * index, from = vdisk_block_of(vd->meta, at);
	const u8 *data = vd->meta->peek(vd->meta, from);

	if (!data)
		return qcow_need(vd, at, q->refcount_table + 8 * qcow_table_entries(q), answer);
	*block = load_be64(data + (at - from)) & ~511ULL; /* bits 0 to 8 are reserved */
	if (*block && (*block & (qcow_cluster_bytes(q) - 1) ||
		       !vdisk_qcow_sound(vd, *block, qcow_cluster_bytes(q)) ||
		       *block + qcow_cluster_bytes(q) > vd->io.size))
		return qcow_damaged(at, *block, answer);
	return 0;
}

int vdisk_refcount_load(const struct vdisk *vd, u64 index, u64 *block, struct vdisk_map *answer)
{
	struct qcow_alloc *a = vd->qcow.alloc;
	int ret;

	if (a && a->known_block && a->known_index == index) {
		*block = a->known_block;
		return 0;
	}
	ret = load_entry(vd, index, block, answer);
	if (a && !ret && *block) {
		a->known_index = index;
		a->known_block = *block;
	}
	return ret;
}

struct qcow_new_block *vdisk_refcount_new_block(const struct vdisk *vd, u64 index)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	for (u32 i = 0; a && i < a->n_blocks; i++)
		if (a->blocks[i].index == index)
			return &a->blocks[i];
	return NULL;
}

/* The refcount block that counts a cluster, also if it is not reachable yet; 0: none. */
static int find_block(const struct vdisk *vd, u64 cluster, u64 *block, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_growth *g = &q->alloc->growth;
	u64 index = cluster >> qcow_block_shift(q);
	const struct qcow_new_block *b = vdisk_refcount_new_block(vd, index);

	*block = 0;
	if (b)
		*block = b->home;
	else if (g->sealed && index >= g->first_block && index - g->first_block < g->blocks)
		*block = g->home + ((index - g->first_block) << q->cluster_bits);
	else if (index < qcow_table_entries(q))
		return vdisk_refcount_load(vd, index, block, answer);
	return 0;
}

/* ---- counting in a commit ---- */

/* What a commit counts that belongs to no unit: clusters [first, last] up or down by one; or
 * entries of a larger refcount table. */
struct counted {
	u64 first, last;
	int delta; /* 0: entries, first and last are their indexes */
};

static u64 clusters_up_to(const struct qcow *q, u64 offset)
{
	return offset >> q->cluster_bits;
}

static u64 growth_table(const struct qcow *q)
{
	const struct qcow_growth *g = &q->alloc->growth;

	return g->home + ((u64)g->blocks << q->cluster_bits);
}

static struct counted one_up(const struct qcow *q, u64 home)
{
	u64 cluster = clusters_up_to(q, home);

	return (struct counted){ cluster, cluster, 1 };
}

/* Of the n-th in a list of what is sealed. */
static bool count_growth(const struct qcow *q, u32 n, struct counted *c)
{
	const struct qcow_growth *g = &q->alloc->growth;
	u64 first = clusters_up_to(q, g->home);

	if (!g->sealed || n > 1)
		return false;
	if (!n)
		*c = (struct counted){ first, first + g->blocks + g->clusters - 1, 1 };
	else
		*c = (struct counted){ g->first_block, g->first_block + g->blocks - 1, 0 };
	return true;
}

/* The n-th of all; the lists do not change while a commit counts, but grow at their ends. */
static bool count_object(const struct qcow *q, u32 n, struct counted *c)
{
	const struct qcow_alloc *a = q->alloc;
	const struct vdisk_range *r;

	for (u32 i = 0; i < a->n_tables && a->tables[i].sealed; i++)
		if (!n--) {
			*c = one_up(q, a->tables[i].home);
			return true;
		}
	for (u32 i = 0; i < a->n_blocks && a->blocks[i].sealed; i++)
		if (!n--) {
			*c = one_up(q, a->blocks[i].home);
			return true;
		}
	if (count_growth(q, n, c))
		return true;
	if (a->growth.sealed)
		n -= 2;
	if (n >= a->applying - a->counted)
		return false;
	r = &a->drops[(a->counted + n) & (a->ring - 1)];
	if (r->offset & QCOW_NOT_COUNTED) {
		*c = (struct counted){ 1, 0, -1 }; /* nothing */
		return true;
	}
	*c = (struct counted){ clusters_up_to(q, r->offset),
			       clusters_up_to(q, r->offset + r->length - 1), -1 };
	return true;
}

/* The metadata block of a cluster's count. -ENOENT: nothing counts it. */
static int count_place(const struct vdisk *vd, u64 cluster, u64 *block, struct vdisk_map *answer)
{
	u64 refcounts;
	int ret = find_block(vd, cluster, &refcounts, answer);

	if (ret)
		return ret;
	if (!refcounts)
		return -ENOENT;
	*block = qcow_meta_block(vd, refcounts, cluster);
	return 0;
}

/* Where the counting is: the block, or -ENOENT past the end of this object. */
static int place_in_object(struct vdisk *vd, const struct counted *c, u64 *block,
			   struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	int ret = -ENOENT;

	while (a->at.cluster <= c->last && ret == -ENOENT) {
		if (!c->delta) {
			*block = vdisk_block_of(vd->meta, growth_table(q) + 8 * a->at.cluster);
			return 0;
		}
		ret = count_place(vd, a->at.cluster, block, answer);
		if (ret == -ENOENT) /* a place was given up that was never counted */
			a->at.cluster = ((a->at.cluster >> qcow_block_shift(q)) + 1)
					<< qcow_block_shift(q);
	}
	return ret;
}

static int place_object(struct vdisk *vd, u32 n, u64 *block, struct vdisk_map *answer)
{
	struct qcow_alloc *a = vd->qcow.alloc;
	struct counted c;
	int ret;

	if (!n) {
		a->at.object = 0;
		a->at.begun = false;
	}
	for (;;) {
		if (!count_object(&vd->qcow, a->at.object, &c))
			return -ENOENT;
		if (!a->at.begun)
			a->at.cluster = c.first;
		a->at.begun = true;
		ret = place_in_object(vd, &c, block, answer);
		if (ret != -ENOENT)
			return ret;
		a->at.object++;
		a->at.begun = false;
	}
}

static bool counts_unit(const struct vdisk *vd, const struct vdisk_unit *unit)
{
	return unit->fresh && !vd->qcow.has_data;
}

int vdisk_refcount_place(struct vdisk *vd, const struct vdisk_unit *unit, u32 n, u64 *block,
			 struct vdisk_map *answer)
{
	int ret;

	if (!unit)
		return place_object(vd, n, block, answer);
	if (n || !counts_unit(vd, unit))
		return -ENOENT;
	ret = count_place(vd, clusters_up_to(&vd->qcow, unit->home), block, answer);
	if (!ret)
		return VDISK_LAST;
	return ret == -ENOENT ? -EIO : ret; /* take() has seen to it that something counts it */
}

/* What `space` knows of the cluster has changed, if it has come that far. */
static void tell_space(struct vdisk_space *space, u64 cluster, u64 before, u64 after)
{
	if (!before == !after || cluster >= space->cursor)
		return;
	space->free += after ? -1 : 1;
	space->allocated += after ? 1 : -1;
}

/* A count that cannot go further is wrong already: it stays, and the image is marked. */
static void count(struct vdisk *vd, struct vdisk_space *space, u8 *data, u64 cluster, int delta)
{
	u64 before = vdisk_refcount_get(vd, data, cluster);

	if (before == (delta < 0 ? 0 : largest_count(&vd->qcow))) {
		vd->mark_corrupt = true;
		return;
	}
	set_count(vd, data, cluster, before + delta);
	tell_space(space, cluster, before, before + delta);
}

static void change_entries(struct vdisk *vd, const struct counted *c, u8 *data)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	u64 block = vdisk_block_of(vd->meta, growth_table(q) + 8 * a->at.cluster);

	for (; a->at.cluster <= c->last; a->at.cluster++) {
		u64 at = growth_table(q) + 8 * a->at.cluster;

		if (vdisk_block_of(vd->meta, at) != block)
			break;
		store_be64(data + (at - block),
			   a->growth.home + ((a->at.cluster - c->first) << q->cluster_bits));
	}
}

bool vdisk_refcount_change(struct vdisk *vd, struct vdisk_space *space,
			   const struct vdisk_unit *unit, u8 *data)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	struct counted c;
	u64 end;

	if (unit) {
		count(vd, space, data, clusters_up_to(q, unit->home), 1);
		return true;
	}
	count_object(q, a->at.object, &c);
	if (!c.delta) {
		change_entries(vd, &c, data);
		return true;
	}
	end = ((a->at.cluster >> qcow_meta_shift(vd)) + 1) << qcow_meta_shift(vd);
	for (; a->at.cluster < end && a->at.cluster <= c.last; a->at.cluster++)
		count(vd, space, data, a->at.cluster, c.delta);
	return true;
}

/* ---- what makes the counts reachable ---- */

static bool changes_header(const struct qcow_alloc *a)
{
	return a->growth.sealed || a->touching || a->marking;
}

/* The n-th sealed new block, or NULL. */
static const struct qcow_new_block *sealed_block(const struct qcow_alloc *a, u32 n)
{
	return n < a->n_blocks && a->blocks[n].sealed ? &a->blocks[n] : NULL;
}

static u32 sealed_blocks(const struct qcow_alloc *a)
{
	u32 n = 0;

	while (sealed_block(a, n))
		n++;
	return n;
}

int vdisk_refcount_root_place(struct vdisk *vd, u32 n, u64 *block)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_new_block *b = sealed_block(q->alloc, n);

	if (b)
		*block = vdisk_block_of(vd->meta, q->refcount_table + 8 * b->index);
	else if (n == sealed_blocks(q->alloc) && changes_header(q->alloc))
		*block = 0;
	else
		return -ENOENT;
	return 0;
}

static void store_be32_at(u8 *p, u32 v)
{
	for (int i = 3; i >= 0; i--, v >>= 8)
		p[i] = (u8)v;
}

static void change_header(struct vdisk *vd, u8 *header)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;

	if (a->growth.sealed) {
		store_be64(header + H_REFCOUNT_TABLE, growth_table(q));
		store_be32_at(header + H_REFCOUNT_TABLE_CLUSTERS, a->growth.clusters);
	}
	if (a->touching)
		store_be64(header + H_AUTOCLEAR, get_be64(header + H_AUTOCLEAR) & ~q->autoclear);
	if (a->marking)
		store_be64(header + H_INCOMPATIBLE,
			   get_be64(header + H_INCOMPATIBLE) | INCOMPATIBLE_CORRUPT);
}

bool vdisk_refcount_root_change(struct vdisk *vd, u32 n, u8 *data)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_new_block *b = sealed_block(q->alloc, n);
	u64 at;

	if (!b) {
		change_header(vd, data);
		return true;
	}
	at = q->refcount_table + 8 * b->index;
	store_be64(data + (at - vdisk_block_of(vd->meta, at)), b->home);
	return true;
}

/* ---- beginning and end of a commit ---- */

/* New refcount blocks are zeroed; so is a new refcount table, but for what the old one has. */
static bool prepare_growth(const struct qcow *q, u32 n, struct vdisk_region *r)
{
	const struct qcow_growth *g = &q->alloc->growth;
	u64 blocks = (u64)g->blocks << q->cluster_bits;
	u64 old = (u64)q->refcount_table_clusters << q->cluster_bits;
	u64 table = (u64)g->clusters << q->cluster_bits;

	if (!g->sealed || n > 2)
		return false;
	if (n == 0)
		*r = (struct vdisk_region){ g->home, blocks, VDISK_NOWHERE };
	else if (n == 1)
		*r = (struct vdisk_region){ g->home + blocks, old, q->refcount_table };
	else
		*r = (struct vdisk_region){ g->home + blocks + old, table - old, VDISK_NOWHERE };
	return true;
}

bool vdisk_qcow_prepare(const struct vdisk *vd, u32 n, struct vdisk_region *r)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_alloc *a = q->alloc;
	u64 table = (u64)q->entry_bytes << q->l2_bits;

	for (u32 i = 0; i < a->n_tables && a->tables[i].sealed; i++)
		if (!n--) {
			*r = (struct vdisk_region){ a->tables[i].home, table, a->tables[i].old };
			return true;
		}
	for (u32 i = 0; i < a->n_blocks && a->blocks[i].sealed; i++)
		if (!n--) {
			*r = (struct vdisk_region){ a->blocks[i].home, qcow_cluster_bytes(q),
						    VDISK_NOWHERE };
			return true;
		}
	return prepare_growth(q, n, r);
}

static bool wants_mark(const struct vdisk *vd)
{
	return vd->mark_corrupt && vd->qcow.version == 3 && !vd->qcow.alloc->marked;
}

void vdisk_qcow_seal(struct vdisk *vd)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	for (u32 i = 0; i < a->n_tables; i++)
		a->tables[i].sealed = true;
	for (u32 i = 0; i < a->n_blocks; i++)
		a->blocks[i].sealed = true;
	a->growth.sealed = a->growth.wanted;
	a->taken_sealed = a->taken;
	a->applying = a->ripe;
	a->touching = vd->touch;
	a->marking = wants_mark(vd);
}

/* The old table is given up: the header that points to the new one is durable. */
static void use_grown_table(struct vdisk *vd)
{
	struct qcow *q = &vd->qcow;
	struct qcow_growth *g = &q->alloc->growth;
	u64 old = q->refcount_table, bytes = (u64)q->refcount_table_clusters << q->cluster_bits;
	u64 table = growth_table(q), length = (u64)g->clusters << q->cluster_bits;

	for (u32 i = 0; i < q->n_fixed; i++)
		if (q->fixed[i].offset == old && q->fixed[i].length == bytes)
			q->fixed[i] = (struct vdisk_range){ table, length };
	if (q->fixed_end < table + length)
		q->fixed_end = table + length;
	q->refcount_table = table;
	q->refcount_table_clusters = g->clusters;
	*g = (struct qcow_growth){ .wanted = false };
	vdisk_qcow_drop(vd, old, bytes);
}

static void forget_sealed(struct qcow_alloc *a)
{
	u32 n = 0;

	for (u32 i = 0; i < a->n_tables; i++)
		if (!a->tables[i].sealed)
			a->tables[n++] = a->tables[i];
	a->n_tables = n;
	n = 0;
	for (u32 i = 0; i < a->n_blocks; i++)
		if (!a->blocks[i].sealed)
			a->blocks[n++] = a->blocks[i];
	a->n_blocks = n;
}

void vdisk_qcow_committed(struct vdisk *vd, struct vdisk_space *space)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	(void)space;
	a->taken -= a->taken_sealed;
	a->taken_sealed = 0;
	forget_sealed(a);
	if (a->growth.sealed)
		use_grown_table(vd);
	if (a->touching)
		WRITE_ONCE(vd->touch, false);
	a->marked |= a->marking;
	if (a->counted != a->applying)
		a->again = true;
	for (; a->counted != a->applying; a->counted++)
		if (a->drops[a->counted & (a->ring - 1)].offset & QCOW_NOT_COUNTED)
			a->not_counted--;
	a->linked = a->dropped;
	if (a->waiting == a->ripe)
		a->waiting = a->linked;
}

void vdisk_qcow_unreserve(struct vdisk *vd, struct vdisk_space *space, struct vdisk_unit *unit)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	if (!counts_unit(vd, unit))
		return;
	if (vd->qcow.version == 1) { /* else it is found again when the image is opened next */
		if (!unit->error && space->next == unit->home + qcow_cluster_bytes(&vd->qcow))
			space->next = unit->home;
		return;
	}
	a->taken--;
	if (unit->sealed)
		a->taken_sealed--;
	/* Somebody may be reading there. */
	vdisk_qcow_drop(vd, unit->home | QCOW_NOT_COUNTED, 1ULL << vd->unit_shift);
	a->not_counted++;
}

u32 vdisk_qcow_state(const struct vdisk *vd)
{
	const struct qcow_alloc *a = vd->qcow.alloc;
	u32 state = 0;

	if (!a)
		return 0;
	/* What was given up without having been linked waits for a commit as well. */
	if (a->n_tables || a->n_blocks || a->growth.wanted || a->ripe != a->counted ||
	    a->dropped != a->linked || wants_mark(vd))
		state |= VDISK_WORK;
	if (a->waiting != a->ripe)
		state |= VDISK_DROPPED;
	if (a->dropped != a->counted)
		state |= VDISK_OWED;
	return state;
}

void vdisk_qcow_quiet(struct vdisk *vd)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	a->ripe = a->waiting;
	a->waiting = a->linked;
}
