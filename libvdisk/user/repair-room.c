// SPDX-License-Identifier: GPL-2.0-or-later
/* Room for new refcount blocks and a new refcount table, inside a file that cannot grow. */
#include "check-qcow.h"

/* Nothing can be lost there. */
int vdisk_qcheck_blank(struct qcheck *c, u64 cluster, bool *blank)
{
	int ret = vdisk_qcheck_read(c, cluster << c->bits, c->buf, c->cluster);

	*blank = !ret && !c->buf[0] && !memcmp(c->buf, c->buf + 1, c->cluster - 1);
	return ret;
}

/* Nothing refers to it; and it was free before, or if need be only leaked. */
static int is_free(struct qcheck *c, const struct rebuild *r, u64 cluster, bool *free)
{
	u64 index = cluster >> c->block_bits, count = 1;
	int ret = 0;

	*free = false;
	if (vdisk_refs_count(&c->refs, cluster) || index >= c->table_entries)
		return 0;
	if (r->any && c->lost)
		return vdisk_qcheck_blank(c, cluster, free);
	if (c->block_state[index] == BLOCK_NEW)
		count = 0;
	else if (c->block_state[index] == BLOCK_GOOD)
		ret = vdisk_qcheck_refcount(c, cluster, &count);
	*free = !ret && (r->any || !count);
	return ret;
}

/* n clusters in a row, which lie in the file as a whole. Those that are only leaked are taken last,
 * and if they may be what a damaged entry has lost, only when they hold nothing. */
static int take(struct qcheck *c, struct rebuild *r, u64 n, u64 *cluster)
{
	u64 end = c->vd->io.size >> c->bits, run = 0;
	bool free;

	for (;; r->cursor++) {
		int ret;

		if (r->cursor >= end) {
			if (r->any)
				return -ENOSPC;
			r->any = true;
			r->cursor = run = 0;
		}
		ret = is_free(c, r, r->cursor, &free);
		if (ret)
			return ret;
		run = free ? run + 1 : 0;
		if (run == n)
			break;
	}
	*cluster = ++r->cursor - n;
	for (u64 i = 0; i < n; i++)
		if (vdisk_refs_add(&c->refs, *cluster + i, REF_TABLE, 1))
			return -ENOMEM;
	return 0;
}

/* The block of an entry has to be made anew. */
static int plan_block(struct qcheck *c, struct rebuild *r, u64 index)
{
	if (r->n == r->room) {
		size_t room = r->room ? 2 * r->room : 64;
		u64 *v = reallocarray(r->blocks, room, sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->blocks = v;
		r->room = room;
	}
	c->block_state[index] = c->block_state[index] == BLOCK_BAD ? BLOCK_REMADE : BLOCK_NEW;
	r->blocks[r->n++] = index;
	r->relink = true;
	return 0;
}

/* Cluster `cluster` is used: is there a block for its count? */
static int plan_for(struct qcheck *c, struct rebuild *r, u64 cluster)
{
	u64 index = cluster >> c->block_bits;
	u8 state = c->block_state[index];

	return state == BLOCK_BAD || (state == BLOCK_GOOD && !c->table[index])
		       ? plan_block(c, r, index)
		       : 0;
}

/* Bad blocks do not count any more, and their entries go if nothing needs them. */
static int plan_old(struct qcheck *c, struct rebuild *r)
{
	u64 n = c->clusters + (vdisk_refs_count(&c->refs, c->clusters) != 0);
	int ret = 0;

	for (u64 i = 0; i < c->table_entries; i++) {
		u64 offset = c->table[i];

		if (c->block_state[i] != BLOCK_BAD)
			continue;
		if (!in_cluster(c, offset) && offset >> c->bits < c->clusters)
			vdisk_refs_drop(&c->refs, offset >> c->bits);
		c->table[i] = 0;
		r->relink = true;
	}
	for (u64 i = 0; i < n && !ret; i++)
		if (vdisk_refs_count(&c->refs, i))
			ret = plan_for(c, r, i);
	return ret;
}

/* ---- the table ---- */

static bool table_is_alone(const struct qcheck *c)
{
	for (u64 i = 0; i < c->table_clusters; i++)
		if (vdisk_refs_count(&c->refs, (c->refcount_table >> c->bits) + i) != 1)
			return false;
	return true;
}

/* As many entries as the file has need of. */
static int grow_table(struct qcheck *c, struct rebuild *r)
{
	u64 old = c->table_entries, entries = (c->clusters >> c->block_bits) + 1;
	u64 *table;
	u8 *state;

	r->table_clusters = round_up_to(8 * entries, c->cluster) >> c->bits;
	if (r->table_clusters < c->table_clusters)
		r->table_clusters = c->table_clusters;
	c->table_entries = r->table_clusters << c->bits >> 3;
	table = reallocarray(c->table, c->table_entries, sizeof(*table));
	if (table)
		c->table = table;
	state = realloc(c->block_state, c->table_entries);
	if (state)
		c->block_state = state;
	if (!table || !state)
		return -ENOMEM;
	memset(c->table + old, 0, 8 * (c->table_entries - old));
	memset(c->block_state + old, BLOCK_GOOD, c->table_entries - old);
	r->new_table = r->relink = true;
	return 0;
}

static bool table_is_small(const struct qcheck *c)
{
	for (u64 i = c->clusters + 1; i--;)
		if (vdisk_refs_count(&c->refs, i))
			return i >> c->block_bits >= c->table_entries;
	return false;
}

int vdisk_qcheck_plan(struct qcheck *c, struct rebuild *r)
{
	u64 old = c->refcount_table >> c->bits, n_old = c->table_clusters, cluster = 0;
	int ret = 0;

	if (!table_is_alone(c) || table_is_small(c))
		ret = grow_table(c, r);
	if (!ret)
		ret = plan_old(c, r);
	if (!ret && r->new_table) {
		ret = take(c, r, r->table_clusters, &cluster);
		r->table = cluster << c->bits;
		for (u64 i = 0; i < r->table_clusters && !ret; i++)
			ret = plan_for(c, r, cluster + i);
	}
	/* the place of a new block may need a block of its own: the list grows */
	for (size_t i = 0; i < r->n && !ret; i++) {
		ret = take(c, r, 1, &cluster);
		if (ret)
			break;
		c->table[r->blocks[i]] = cluster << c->bits;
		ret = plan_for(c, r, cluster);
	}
	for (u64 i = 0; i < n_old && !ret && r->new_table; i++)
		vdisk_refs_drop(&c->refs, old + i);
	if (!ret && r->new_table)
		c->refcount_table = r->table;
	return ret;
}
