// SPDX-License-Identifier: GPL-2.0-or-later
/* Room in the file of a qcow or qcow2: refcount.h tells how it is found. */
#include "engine.h"
#include "refcount.h"

/* As large a refcount table as qemu takes. */
#define TABLE_BYTES_MAX (8U << 20)

/* ---- how much is free ---- */

/* Zeros among the counts of a metadata block. */
static u64 count_free(const struct vdisk *vd, const u8 *data, u64 cluster, u64 end)
{
	u64 n = 0;

	for (; cluster < end; cluster++)
		n += !vdisk_refcount_get(vd, data, cluster);
	return n;
}

static u64 whole_clusters(const struct vdisk *vd)
{
	return vd->io.size >> vd->qcow.cluster_bits;
}

/* The free clusters from `cluster` on, as far as one metadata block or refcount block goes: to
 * *end. */
static int look_at_counts(const struct vdisk *vd, u64 cluster, u64 *end, u64 *n,
			  struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 index = cluster >> qcow_block_shift(q), all = whole_clusters(vd), block = 0, at;
	const u8 *data;
	int ret =
		index < qcow_table_entries(q) ? vdisk_refcount_load(vd, index, &block, answer) : 0;

	if (ret)
		return ret;
	*end = ((cluster >> qcow_meta_shift(vd)) + 1) << qcow_meta_shift(vd);
	if (!block)
		*end = (index + 1) << qcow_block_shift(q);
	if (*end > all)
		*end = all;
	*n = *end - cluster;
	if (!block)
		return 0;
	at = qcow_meta_block(vd, block, cluster);
	data = vd->meta->peek(vd->meta, at);
	if (!data)
		return qcow_need(vd, at, block + qcow_cluster_bytes(q), answer);
	*n = count_free(vd, data, cluster, *end);
	return 0;
}

int vdisk_qcow_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer)
{
	u64 end, n;

	while (space->cursor < whole_clusters(vd)) {
		int ret = look_at_counts(vd, space->cursor, &end, &n, answer);

		if (ret)
			return ret;
		space->free += n;
		space->allocated += end - space->cursor - n;
		space->cursor = end;
	}
	space->known = true;
	return 0;
}

u64 vdisk_qcow_room(const struct vdisk *vd, const struct vdisk_space *space)
{
	u64 taken = vd->qcow.alloc ? vd->qcow.alloc->taken : 0;

	return space->free > taken ? (space->free - taken) << vd->qcow.cluster_bits : 0;
}

/* ---- version 1: room is behind everything ---- */

static void used_up_to(struct vdisk_space *space, u64 end)
{
	if (space->next < end)
		space->next = end;
}

/* What the entries of one cluster of the disk point to. */
static void use_entry(const struct vdisk *vd, struct vdisk_space *space, const struct qcow_entry *e)
{
	const struct qcow *q = &vd->qcow;
	u64 offset;
	u32 packed;

	if (!e->value)
		return;
	space->allocated++;
	if (e->value & QCOW1_COMPRESSED) {
		vdisk_qcow_compressed(vd, e->value, &offset, &packed);
		used_up_to(space, offset + packed);
	} else {
		used_up_to(space, e->value + qcow_cluster_bytes(q));
	}
}

/* Tables cannot be the same: there are no more of them than the file has room for. */
static int use_l2_table(const struct vdisk *vd, struct vdisk_space *space,
			const struct qcow_entry *e, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 bytes = (u64)q->entry_bytes << q->l2_bits;

	used_up_to(space, e->table + bytes);
	if (++space->tables > divide(vd->io.size, (u32)bytes))
		return qcow_damaged(e->l1_at, e->table, answer);
	return 0;
}

int vdisk_qcow1_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 all = (vd->info.virtual_size + qcow_cluster_bytes(q) - 1) >> q->cluster_bits;

	used_up_to(space, q->fixed_end);
	while (space->cursor < all) {
		struct qcow_entry e;
		int ret = vdisk_qcow_load(vd, space->cursor << q->cluster_bits, &e, answer);

		if (ret)
			return ret;
		if (e.table == VDISK_NOWHERE) {
			space->cursor = ((space->cursor >> q->l2_bits) + 1) << q->l2_bits;
			continue;
		}
		if (!(space->cursor & ((1ULL << q->l2_bits) - 1))) {
			ret = use_l2_table(vd, space, &e, answer);
			if (ret)
				return ret;
		}
		use_entry(vd, space, &e);
		space->cursor++;
	}
	space->next = round_up_to(space->next, (u32)qcow_cluster_bytes(q));
	space->end = vd->io.size;
	space->known = true;
	return 0;
}

u64 vdisk_qcow1_room(const struct vdisk *vd, const struct vdisk_space *space)
{
	u64 left = space->next < space->end ? space->end - space->next : 0;

	return left >> vd->qcow.cluster_bits << vd->qcow.cluster_bits;
}

/* ---- taking ---- */

/* The search begins where the last refcount block is: files are mostly filled from the front. */
static int start(const struct vdisk *vd, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	u64 block;
	int ret;

	if (!a->cursor) {
		a->cursor = ((a->clusters - 1) >> qcow_block_shift(q)) + 1;
		if (a->cursor > qcow_table_entries(q))
			a->cursor = qcow_table_entries(q);
	}
	for (;;) {
		ret = vdisk_refcount_load(vd, a->cursor - 1, &block, answer);
		if (ret)
			return ret;
		if (block || a->cursor == 1)
			break;
		a->cursor--;
	}
	a->cursor = (a->cursor - 1) << qcow_block_shift(q);
	a->left = a->clusters;
	a->started = true;
	return 0;
}

static void pass_over(struct qcow_alloc *a, u64 n)
{
	if (n > a->left)
		n = a->left;
	a->left -= n;
	a->cursor += n;
	if (a->cursor >= a->clusters)
		a->cursor -= a->clusters;
}

static bool is_part_of(const struct qcow *q, u64 cluster, const struct vdisk_range *r)
{
	u64 offset = cluster << q->cluster_bits, start = r->offset & ~QCOW_NOT_COUNTED;

	return start < offset + qcow_cluster_bytes(q) && offset < start + r->length;
}

/* Its count says that it is free: but is it being counted down by the running commit, or has it
 * been given up before it was counted? */
static bool is_held(const struct qcow *q, u64 cluster)
{
	const struct qcow_alloc *a = q->alloc;
	u32 end = a->not_counted ? a->dropped : a->applying;

	for (u32 i = a->counted; i != end; i++)
		if (is_part_of(q, cluster, &a->drops[i & (a->ring - 1)]))
			return true;
	return false;
}

/* The table does not reach as far: plan a larger one, at the beginning of what it does not count.
 * false: there can be none. */
static bool plan_growth(struct vdisk *vd)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_growth *g = &q->alloc->growth;
	u64 first = qcow_table_entries(q), start = first << qcow_block_shift(q);
	u64 entries = ((q->alloc->clusters - 1) >> qcow_block_shift(q)) + 1;
	u64 clusters, blocks, length;

	if (entries > TABLE_BYTES_MAX / 8)
		entries = TABLE_BYTES_MAX / 8;
	clusters = (8 * entries + qcow_cluster_bytes(q) - 1) >> q->cluster_bits;
	blocks = divide(clusters, (1U << qcow_block_shift(q)) - 1) + 1;
	length = (blocks + clusters) << q->cluster_bits;
	if (first + blocks > entries || start + blocks + clusters > q->alloc->clusters ||
	    !vdisk_qcow_sound(vd, start << q->cluster_bits, length))
		return false;
	*g = (struct qcow_growth){ .wanted = true,
				   .home = start << q->cluster_bits,
				   .first_block = first,
				   .blocks = (u32)blocks,
				   .clusters = (u32)clusters };
	return true;
}

/* The cursor is where the refcount table ends. */
static int grow(struct vdisk *vd)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	if (a->growth.wanted || a->n_blocks)
		return -EBUSY; /* what is not in the old table yet would be missing in the new */
	if (plan_growth(vd))
		return -EBUSY;
	pass_over(a, a->clusters - a->cursor);
	return 0;
}

/* No refcount block counts the cursor's cluster: it becomes one. None may be missing where headers
 * or tables are. */
static int add_block(struct vdisk *vd, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	u64 home = a->cursor << q->cluster_bits, index = a->cursor >> qcow_block_shift(q);

	if (!vdisk_qcow_sound(vd, home, qcow_cluster_bytes(q)))
		return qcow_damaged(q->refcount_table + 8 * index, home, answer);
	if (a->n_blocks == QCOW_NEW_BLOCKS || a->growth.wanted)
		return -EBUSY;
	a->blocks[a->n_blocks++] = (struct qcow_new_block){ .index = index, .home = home };
	a->taken++;
	pass_over(a, 1);
	return 0;
}

/* Go on to a cluster whose count is zero, as far as the metadata block goes. */
static int find_zero(struct vdisk *vd, u64 block, bool *found, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	u64 at = qcow_meta_block(vd, block, a->cursor), c = a->cursor;
	u64 end = ((c >> qcow_meta_shift(vd)) + 1) << qcow_meta_shift(vd);
	const u8 *data = vd->meta->peek(vd->meta, at);

	if (!data)
		return qcow_need(vd, at, block + qcow_cluster_bytes(q), answer);
	if (end > a->clusters)
		end = a->clusters;
	if (end - c > a->left)
		end = c + a->left;
	for (; c < end; c++) {
		if (vdisk_refcount_get(vd, data, c))
			continue;
		*found = !is_held(q, c);
		if (*found)
			break; /* else the end of the commit says that there is something again */
	}
	pass_over(a, c - a->cursor);
	return 0;
}

/* What the cursor is at: go on, or *found. */
static int look(struct vdisk *vd, bool *found, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	u64 index = a->cursor >> qcow_block_shift(q), block;
	int ret;

	if (vdisk_refcount_new_block(vd, index)) {
		*found = true; /* counts of what was taken are in nobody's way: it lies behind */
		return 0;
	}
	if (index >= qcow_table_entries(q))
		return grow(vd);
	ret = vdisk_refcount_load(vd, index, &block, answer);
	if (ret)
		return ret;
	return block ? find_zero(vd, block, found, answer) : add_block(vd, answer);
}

/* Nothing is left of this pass. */
static int next_pass(struct qcow_alloc *a)
{
	if (!a->again)
		return a->dropped != a->counted ? -EBUSY : -ENOSPC;
	if (a->taken)
		return -EBUSY; /* nobody would see that it is */
	a->again = false;
	a->left = a->clusters;
	return 0;
}

static int take_counted(struct vdisk *vd, u64 *home, struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	struct qcow_alloc *a = q->alloc;
	bool found = false;
	int ret = a->started || !a->clusters ? 0 : start(vd, answer);

	while (!ret && !found)
		ret = a->left ? look(vd, &found, answer) : next_pass(a);
	if (ret)
		return ret;
	*home = a->cursor << q->cluster_bits;
	if (!vdisk_qcow_sound(vd, *home, qcow_cluster_bytes(q)))
		return qcow_damaged(q->refcount_table, *home, answer);
	a->taken++;
	pass_over(a, 1);
	return 0;
}

/* Version 1: behind everything else. */
static int take_behind(struct vdisk *vd, struct vdisk_space *space, u64 bytes, u64 *home,
		       struct vdisk_map *answer)
{
	int ret = space->known ? 0 : vd->format->scan(vd, space, answer);

	if (ret)
		return ret;
	if (space->next > space->end || bytes > space->end - space->next)
		return -ENOSPC;
	*home = space->next;
	space->next += round_up_to(bytes, (u32)qcow_cluster_bytes(&vd->qcow));
	return 0;
}

int vdisk_qcow_take(struct vdisk *vd, struct vdisk_space *space, u64 bytes, u64 *home,
		    struct vdisk_map *answer)
{
	if (vd->qcow.version == 1)
		return take_behind(vd, space, bytes, home, answer);
	return take_counted(vd, home, answer);
}

/* ---- giving up ---- */

void vdisk_qcow_drop(struct vdisk *vd, u64 offset, u64 length)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	/* There is room: vdisk_qcow_reserve() has seen to it. */
	if (vd->qcow.version > 1)
		a->drops[a->dropped++ & (a->ring - 1)] = (struct vdisk_range){ offset, length };
}

struct qcow_new_table *vdisk_qcow_new_table(const struct vdisk *vd, u64 l1_index)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	for (u32 i = 0; i < a->n_tables; i++)
		if (a->tables[i].l1_index == l1_index)
			return &a->tables[i];
	return NULL;
}

int vdisk_qcow_begin(struct vdisk *vd, u32 units)
{
	struct qcow_alloc *a = vdisk_zalloc(sizeof(*a));

	if (!a)
		return -ENOMEM;
	vd->qcow.alloc = a;
	a->clusters = whole_clusters(vd);
	a->max_tables = units;
	for (a->ring = 8; a->ring < 4 * units + 8;)
		a->ring *= 2;
	a->tables = vdisk_zalloc(units * sizeof(*a->tables));
	a->drops = vdisk_zalloc(a->ring * sizeof(*a->drops));
	return a->tables && a->drops ? 0 : -ENOMEM; /* the engine calls vdisk_qcow_end() */
}

void vdisk_qcow_end(struct vdisk *vd)
{
	struct qcow_alloc *a = vd->qcow.alloc;

	if (!a)
		return;
	vdisk_free(a->tables);
	vdisk_free(a->drops);
	vdisk_free(a);
	vd->qcow.alloc = NULL;
}
