// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the engine asks of qcow and qcow2: what a unit needs, and the entries that link it. A unit
 * is a cluster. Entries are qcow2.txt, "L1 table entry", "L2 table entry", "Standard Cluster
 * Descriptor", "Compressed Clusters Descriptor" and "Extended L2 Entries".
 */
#include "engine.h"
#include "refcount.h"

#define ALL_ZEROS (0xffffffffULL << QCOW_SUBCLUSTERS)

static u64 l1_index(const struct qcow *q, u64 unit)
{
	return unit >> q->l2_bits;
}

static u64 table_bytes(const struct qcow *q)
{
	return (u64)q->entry_bytes << q->l2_bits;
}

/* ---- before the first write ---- */

int vdisk_qcow_begin_writing(struct vdisk *vd, u32 units)
{
	const struct qcow *q = &vd->qcow;

	vd->fill = q->entry_bytes == 16 ? 1U << (q->cluster_bits - 5) : 1U << q->cluster_bits;
	/* Version 2 cannot say "zeros" where a backing file would show through; a raw data file
	 * has to hold them. */
	vd->can_zero = q->version == 3 && !q->data_raw;
	vd->can_discard = vd->can_zero || (q->version == 2 && !q->has_parent);
	vd->touch = q->version == 3 && q->autoclear;
	return vdisk_qcow_begin(vd, units);
}

/* ---- what a unit needs ---- */

/* Its L2 table, if there is none that may be changed. */
static int reserve_table(struct vdisk *vd, struct vdisk_space *space, u64 index,
			 struct vdisk_map *answer)
{
	struct qcow_alloc *a = vd->qcow.alloc;
	u64 l1 = l1_index(&vd->qcow, index), home;
	struct qcow_entry e;
	int ret;

	if (vdisk_qcow_plain_entry(vd, index << vd->unit_shift) != VDISK_NOWHERE ||
	    vdisk_qcow_new_table(vd, l1))
		return 0;
	ret = vdisk_qcow_load(vd, index << vd->unit_shift, &e, answer);
	if (ret || (e.table != VDISK_NOWHERE && !e.table_shared))
		return ret;
	if (a->n_tables == a->max_tables)
		return -EBUSY;
	ret = vdisk_qcow_take(vd, space, table_bytes(&vd->qcow), &home, answer);
	if (ret)
		return ret;
	a->tables[a->n_tables++] =
		(struct qcow_new_table){ .l1_index = l1, .home = home, .old = e.table };
	return 0;
}

int vdisk_qcow_reserve(struct vdisk *vd, struct vdisk_space *space, u64 index, u64 *home,
		       struct vdisk_map *answer)
{
	const struct qcow_alloc *a = vd->qcow.alloc;
	int ret;

	/* Each unit may give up a cluster and a table. */
	if (a->dropped - a->counted + 2 * a->max_tables + 2 > a->ring)
		return -EBUSY;
	ret = reserve_table(vd, space, index, answer);
	if (ret || !home)
		return ret;
	if (!vd->qcow.has_data)
		return vdisk_qcow_take(vd, space, 1ULL << vd->unit_shift, home, answer);
	*home = index << vd->unit_shift; /* as qemu has it, also when the file is not raw */
	return 0;
}

/* ---- linking ---- */

/* The n-th new table of this commit, or NULL. */
static const struct qcow_new_table *sealed_table(const struct qcow *q, u32 n)
{
	const struct qcow_alloc *a = q->alloc;

	return n < a->n_tables && a->tables[n].sealed ? &a->tables[n] : NULL;
}

/* For find_entry(), where the table of the unit is not the image's own yet. */
static int find_entry_slowly(struct vdisk *vd, const struct vdisk_unit *unit, u64 *at,
			     struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_new_table *t = vdisk_qcow_new_table(vd, l1_index(q, unit->index));
	u64 inside = unit->index & ((1ULL << q->l2_bits) - 1);
	struct qcow_entry e = { .table = VDISK_NOWHERE };
	int ret;

	if (!t) {
		ret = vdisk_qcow_load(vd, unit->index << vd->unit_shift, &e, answer);
		if (ret)
			return ret;
		if (e.table == VDISK_NOWHERE)
			return -EIO; /* reserve() has seen to it that there is one */
	}
	*at = (t ? t->home : e.table) + inside * q->entry_bytes;
	return 0;
}

/* Where the entry of a unit is now, or will be when its new table is linked. */
static int find_entry(struct vdisk *vd, const struct vdisk_unit *unit, u64 *at,
		      struct vdisk_map *answer)
{
	*at = vdisk_qcow_plain_entry(vd, unit->index << vd->unit_shift);
	return *at != VDISK_NOWHERE ? 0 : find_entry_slowly(vd, unit, at, answer);
}

static int link_place(struct vdisk *vd, const struct vdisk_unit *unit, u32 n, u64 *block,
		      struct vdisk_map *answer)
{
	const struct qcow_new_table *t = sealed_table(&vd->qcow, n);
	u64 at;
	int ret = 0;

	if (unit ? n != 0 : !t)
		return -ENOENT;
	if (unit)
		ret = find_entry(vd, unit, &at, answer);
	else
		at = vd->qcow.l1_offset + 8 * t->l1_index;
	if (ret)
		return ret;
	*block = vdisk_block_of(vd->meta, at);
	if (!unit)
		return 0;
	vd->qcow.alloc->entry = at;
	return VDISK_LAST;
}

int vdisk_qcow_place(struct vdisk *vd, enum vdisk_phase phase, const struct vdisk_unit *unit, u32 n,
		     u64 *block, struct vdisk_map *answer)
{
	if (phase == VDISK_PHASE_LINK)
		return link_place(vd, unit, n, block, answer);
	if (vd->qcow.version == 1)
		return -ENOENT;
	if (phase == VDISK_PHASE_COUNT)
		return vdisk_refcount_place(vd, unit, n, block, answer);
	return unit ? -ENOENT : vdisk_refcount_root_place(vd, n, block);
}

/* Readers see all of an entry or ask again. */
static void store_entry(struct vdisk *vd, u8 *p, u64 value, const u64 *bits)
{
	WRITE_ONCE(vd->seq, vd->seq + 1);
	write_barrier();
	store_be64(p, value);
	if (bits)
		store_be64(p + 8, *bits);
	write_barrier();
	WRITE_ONCE(vd->seq, vd->seq + 1);
}

/* The place that an L2 entry had is given up. Of compressed data whole sectors are counted. */
static void drop_old(struct vdisk *vd, u64 value)
{
	const struct qcow *q = &vd->qcow;
	u32 x = 62 - (q->cluster_bits - 8);
	u64 sectors;

	if (q->version == 1 || q->has_data)
		return;
	if (value & QCOW_COMPRESSED) {
		sectors = ((value & (QCOW_COMPRESSED - 1)) >> x) + 1;
		vdisk_qcow_drop(vd, round_down_to(value & ((1ULL << x) - 1), VDISK_SECTOR),
				sectors * VDISK_SECTOR);
	} else if (value & QCOW_OFFSET) {
		vdisk_qcow_drop(vd, value & QCOW_OFFSET, 1ULL << q->cluster_bits);
	}
}

/* A bit for each subcluster that the unit covers; none without subclusters. */
static u64 covered_subclusters(const struct vdisk *vd, const struct vdisk_unit *unit)
{
	u64 bits = 0;

	if (vd->qcow.entry_bytes == 8)
		return 0;
	for (u32 i = 0; i < QCOW_SUBCLUSTERS; i++) {
		u32 sector = i * (vd->fill / VDISK_SECTOR);

		if (unit->covered[sector / 8] & (0x80 >> sector % 8))
			bits |= 1ULL << i;
	}
	return bits;
}

/* The entry, and with subclusters its second word, of a unit that has been written. What a new
 * place has not been given of the old one lies past the end of the file: zeros. */
static void linked(struct vdisk *vd, const struct vdisk_unit *unit, u64 *value, u64 *bits)
{
	u64 covered = covered_subclusters(vd, unit), past = 0;

	if (unit->fresh) {
		drop_old(vd, *value);
		past = *bits & ~covered & (ALL_ZEROS >> QCOW_SUBCLUSTERS);
	}
	*value = unit->home | (vd->qcow.version == 1 ? 0 : QCOW_COPIED);
	*bits = (*bits & ~past) | past << QCOW_SUBCLUSTERS;
	*bits = (*bits | covered) & ~(covered << QCOW_SUBCLUSTERS);
}

/* The same of one that shall read as zeros: of a cluster of its own the place is kept, unless it is
 * unmapped. */
static void cleared(struct vdisk *vd, const struct vdisk_unit *unit, u64 *value, u64 *bits)
{
	const struct qcow *q = &vd->qcow;
	bool compressed = *value & QCOW_COMPRESSED;
	bool keep = !unit->unmap && !compressed && *value & QCOW_COPIED;
	u64 covered = covered_subclusters(vd, unit);

	if (q->entry_bytes == 16 && !unit->unmap && !compressed) {
		*bits = (*bits | covered << QCOW_SUBCLUSTERS) & ~covered;
		return;
	}
	if (!keep) {
		drop_old(vd, *value);
		*value = 0;
	}
	*bits = ALL_ZEROS;
	if (q->entry_bytes == 8 && q->version == 3)
		*value |= QCOW_ZERO;
}

static bool change_l2(struct vdisk *vd, const struct vdisk_unit *unit, u8 *data)
{
	const struct qcow *q = &vd->qcow;
	bool extended = q->entry_bytes == 16;
	u64 at = q->alloc->entry, value, bits;
	u8 *p = data + (at - vdisk_block_of(vd->meta, at));

	value = load_be64(p);
	bits = extended ? load_be64(p + 8) : 0;
	if (unit->clear)
		cleared(vd, unit, &value, &bits);
	else
		linked(vd, unit, &value, &bits);
	store_entry(vd, p, value, extended ? &bits : NULL);
	return true;
}

static bool change_l1(struct vdisk *vd, u32 n, u8 *data)
{
	const struct qcow *q = &vd->qcow;
	const struct qcow_new_table *t = &q->alloc->tables[n]; /* whose place has been asked for */
	u64 at = q->l1_offset + 8 * t->l1_index;

	store_entry(vd, data + (at - vdisk_block_of(vd->meta, at)),
		    t->home | (q->version == 1 ? 0 : QCOW_COPIED), NULL);
	if (t->old != VDISK_NOWHERE)
		vdisk_qcow_drop(vd, t->old, table_bytes(q));
	return true;
}

bool vdisk_qcow_change(struct vdisk *vd, struct vdisk_space *space, enum vdisk_phase phase,
		       const struct vdisk_unit *unit, u32 n, u8 *data)
{
	if (phase == VDISK_PHASE_COUNT)
		return vdisk_refcount_change(vd, space, unit, data);
	if (phase == VDISK_PHASE_ROOT)
		return vdisk_refcount_root_change(vd, n, data);
	return unit ? change_l2(vd, unit, data) : change_l1(vd, n, data);
}
