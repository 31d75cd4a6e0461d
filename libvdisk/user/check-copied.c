// SPDX-License-Identifier: GPL-2.0-or-later
/* The COPIED flags of the L1 table in use and its L2 tables, and correcting entries. */
#include "check-qcow.h"

static void entry_fault(struct qcheck *c, enum vdisk_fault_kind kind, u64 at, u64 index, u64 home,
			bool fixed, const char *problem)
{
	vdisk_qcheck_fault(c, (struct vdisk_fault){ .kind = kind,
						    .fixed = fixed,
						    .entry = at,
						    .index = index,
						    .home = home,
						    .problem = problem,
						    .other = VDISK_NOWHERE });
}

static const char *flag_problem(u64 value)
{
	return value & QCOW_COPIED ? "says that its cluster is not shared"
				   : "says that its cluster is shared";
}

/* The flag is set exactly when the refcount is 1. In a data file nothing is shared. */
static int judge(struct qcheck *c, u64 at, u64 index, u64 value, bool guest)
{
	u64 count = 1, home = value & QCOW_OFFSET;
	int ret = 0;

	if (!guest || !c->vd->qcow.has_data)
		ret = vdisk_qcheck_refcount(c, home >> c->bits, &count);
	if (ret)
		return ret == -EUCLEAN ? 0 : ret;
	if ((count == 1) != !!(value & QCOW_COPIED))
		entry_fault(c, VDISK_FAULT_COPIED, at, index, home, false, flag_problem(value));
	return 0;
}

static bool has_place(const struct qcheck *c, u64 value)
{
	enum entry_kind kind = vdisk_qcheck_kind(c, value);

	return kind == ENTRY_DATA || kind == ENTRY_ZERO_HOME;
}

static int judge_l2(struct qcheck *c, const struct l2_table *t)
{
	const struct qcow *q = &c->vd->qcow;
	int ret = vdisk_qcheck_read(c, t->offset, c->buf, (u64)q->entry_bytes << q->l2_bits);

	for (u64 i = 0; i < 1ULL << q->l2_bits && !ret; i++) {
		u64 value = get_be64(c->buf + i * q->entry_bytes);

		if (has_place(c, value))
			ret = judge(c, t->offset + i * q->entry_bytes, t->first + i, value, true);
	}
	return ret;
}

/* ---- all L1 entries, in pieces of a sector ---- */

#define PIECE 512

typedef int entry_fn(struct qcheck *c, u64 at, u64 index, u64 *value, u32 what);

static int each_l1(struct qcheck *c, entry_fn *fn, u32 what)
{
	u8 piece[PIECE];

	for (u64 done = 0; done < 8 * c->l1_entries; done += PIECE) {
		u64 left = 8 * c->l1_entries - done, n = left < PIECE ? left : PIECE;
		bool changed = false;
		int ret = vdisk_qcheck_read(c, c->l1_offset + done, piece, PIECE);

		for (u64 i = 0; i < n && !ret; i += 8) {
			u64 value = get_be64(piece + i), old = value;

			ret = fn(c, c->l1_offset + done + i, (done + i) / 8 << c->vd->qcow.l2_bits,
				 &value, what);
			put_be(piece + i, 8, value);
			changed |= value != old;
		}
		if (!ret && changed)
			ret = vdisk_qcheck_write(c, c->l1_offset + done, piece, PIECE);
		if (ret)
			return ret;
	}
	return 0;
}

static int judge_l1(struct qcheck *c, u64 at, u64 index, u64 *value, u32 what)
{
	(void)what;
	return *value & QCOW_OFFSET ? judge(c, at, index, *value, false) : 0;
}

int vdisk_qcheck_copied(struct qcheck *c)
{
	int ret = each_l1(c, judge_l1, 0);

	for (size_t i = 0; i < c->n_tables && !ret; i++)
		if (c->tables[i].active)
			ret = judge_l2(c, &c->tables[i]);
	return ret;
}

/* ---- correcting ---- */

/* COPIED as the refcount is, and only when that is also what was counted: else it is not known. */
static int fix_copied(struct qcheck *c, u64 at, u64 index, u64 *value, u32 what, bool guest)
{
	u64 count = 1, expected = 1, home = *value & QCOW_OFFSET, cluster = home >> c->bits;
	int ret = 0;
	bool one;

	if (!guest || !c->vd->qcow.has_data) {
		ret = vdisk_qcheck_refcount(c, cluster, &count);
		expected = cluster <= c->clusters ? vdisk_refs_count(&c->refs, cluster) : 0;
	}
	if (ret)
		return ret == -EUCLEAN ? 0 : ret;
	one = expected == 1 && (count == 1 || (c->lowering && !(what & FIX_SET)));
	if (one == !!(*value & QCOW_COPIED) || !(what & (one ? FIX_SET : FIX_CLEAR)))
		return 0;
	entry_fault(c, VDISK_FAULT_COPIED, at, index, home, true, flag_problem(*value));
	*value ^= QCOW_COPIED;
	return 0;
}

static void fix_reserved(struct qcheck *c, u64 at, u64 index, u64 *value, u64 mask)
{
	if (!(*value & mask))
		return;
	*value &= ~mask;
	entry_fault(c, VDISK_FAULT_ENTRY, at, index, *value & QCOW_OFFSET, true,
		    "had bits set that are reserved");
}

static int fix_l1(struct qcheck *c, u64 at, u64 index, u64 *value, u32 what)
{
	if (what & FIX_CLEAR)
		fix_reserved(c, at, index, value, QCOW_L1_RESERVED);
	return *value & QCOW_OFFSET ? fix_copied(c, at, index, value, what, false) : 0;
}

/* An entry of any L2 table, in c->buf at p. */
static int fix_l2_entry(struct qcheck *c, const struct l2_table *t, u8 *p, u32 what)
{
	const struct qcow *q = &c->vd->qcow;
	u64 at = t->offset + (u64)(p - c->buf), value = get_be64(p), old = value;
	u64 index = t->first + (u64)(p - c->buf) / q->entry_bytes;
	u64 bits = q->entry_bytes == 16 ? get_be64(p + 8) : 0;
	int ret = 0;

	if (what & FIX_CLEAR && vdisk_qcheck_kind(c, value) != ENTRY_PACKED)
		fix_reserved(c, at, index, &value, QCOW_L2_RESERVED);
	if (what & FIX_CLEAR && vdisk_qcheck_clearable(c, value, bits)) {
		entry_fault(c, VDISK_FAULT_ENTRY, at, index, value & QCOW_OFFSET, true,
			    "reads as zeros, and pointed into the middle of a cluster");
		value = q->entry_bytes == 16 ? 0 : QCOW_ZERO;
	}
	if (what & FIX_CLEAR && vdisk_qcheck_kind(c, value) == ENTRY_PACKED &&
	    value & QCOW_COPIED) {
		entry_fault(c, VDISK_FAULT_ENTRY, at, index, 0, true,
			    "is compressed, and was marked as not shared");
		value &= ~QCOW_COPIED;
	}
	if (t->active && has_place(c, value))
		ret = fix_copied(c, at, index, &value, what, true);
	if (value != old)
		put_be(p, 8, value);
	return ret;
}

/* Whole sectors are written, so that a power cut leaves each entry old or new. */
static int fix_l2(struct qcheck *c, const struct l2_table *t, u32 what)
{
	const struct qcow *q = &c->vd->qcow;
	u64 length = (u64)q->entry_bytes << q->l2_bits;
	int ret;

	if (vdisk_refs_uses(&c->refs, t->offset >> c->bits) != REF_L2)
		return 0; /* it may be data */
	ret = vdisk_qcheck_read(c, t->offset, c->buf, length);
	for (u64 at = 0; at < length && !ret; at += PIECE) {
		u8 before[PIECE];

		memcpy(before, c->buf + at, PIECE);
		for (u64 i = at; i < at + PIECE && !ret; i += q->entry_bytes)
			ret = fix_l2_entry(c, t, c->buf + i, what);
		if (!ret && memcmp(before, c->buf + at, PIECE))
			ret = vdisk_qcheck_write(c, t->offset + at, c->buf + at, PIECE);
	}
	return ret;
}

static bool l1_is_alone(const struct qcheck *c)
{
	u64 end = c->l1_offset + 8 * c->l1_entries;

	for (u64 at = c->l1_offset; at < end; at += c->cluster)
		if (vdisk_refs_count(&c->refs, at >> c->bits) != 1)
			return false;
	return true;
}

int vdisk_qcheck_fix_entries(struct qcheck *c, u32 what)
{
	int ret = l1_is_alone(c) ? each_l1(c, fix_l1, what) : 0;

	for (size_t i = 0; i < c->n_tables && !ret; i++)
		ret = fix_l2(c, &c->tables[i], what);
	return ret;
}
