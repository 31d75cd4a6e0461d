// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Checking a qcow or qcow2, and repairing a qcow2. The steps of a repair, so that a power cut leaves
 * nothing worse than there was; what a step has written is durable before the next, but that the
 * first two may be mixed:
 *
 *   raise    counts that are too low go up; new refcount blocks and a new table are written where
 *            nothing else is
 *   clear    entries: COPIED goes where the cluster is shared, and places that cannot be
 *   link     the table, or the header, points to what is new
 *   lower    counts that are too high go down
 *   set      entries: COPIED where the cluster is not shared
 *   header   when a second check has found no error: nothing is in doubt any more
 */
#include "check-qcow.h"

#define SECTOR 512

/* qcow2.txt, "Header" */
#define REFCOUNT_TABLE_AT 48 /* its offset, and its clusters */
#define INCOMPATIBLE_AT	  72
#define AUTOCLEAR_AT	  88
#define IN_DOUBT	  3ULL /* incompatible bits 0, dirty, and 1, corrupt */
#define AUTOCLEAR_KNOWN	  3ULL /* bitmaps, which a repair does not make wrong; raw data file */

/* All that a check does, but for beginning and ending. */
static int look(struct qcheck *c)
{
	int ret = vdisk_qcheck_count(c);

	if (ret)
		return ret;
	if (c->version == 1) {
		vdisk_qcheck_shared(c);
		return 0;
	}
	ret = vdisk_qcheck_blocks(c);
	if (!ret)
		ret = vdisk_qcheck_compare(c);
	return ret ? ret : vdisk_qcheck_copied(c);
}

int vdisk_qcow_check(struct vdisk *vd, report_fn *report, void *ctx, struct vdisk_found *found)
{
	struct qcheck c = { .report = report, .ctx = ctx };
	int ret = vdisk_qcheck_begin(&c, vd);

	if (!ret)
		ret = look(&c);
	*found = c.found;
	vdisk_qcheck_end(&c);
	return ret;
}

/* ---- steps ---- */

static int flush(const struct qcheck *c)
{
	return c->vd->io.flush(c->vd->io.ctx);
}

static void repaired(struct qcheck *c, struct vdisk_fault fault)
{
	fault.fixed = 1;
	fault.index = fault.other = VDISK_NOWHERE;
	vdisk_qcheck_fault(c, fault);
}

/* What a new block says of a cluster. If something was lost, what nothing refers to may be that,
 * and the old block, that knew, is bad. */
static int first_count(struct qcheck *c, u64 index, u64 cluster, u64 *count)
{
	bool blank = true;
	int ret = 0;

	*count = cluster <= c->clusters ? vdisk_refs_count(&c->refs, cluster) : 0;
	if (*count > vdisk_qcheck_max(c))
		*count = vdisk_qcheck_max(c);
	if (!*count && c->lost && c->block_state[index] == BLOCK_REMADE && cluster < c->clusters)
		ret = vdisk_qcheck_blank(c, cluster, &blank);
	if (!blank)
		*count = 1;
	return ret;
}

static int write_new_block(struct qcheck *c, u64 index)
{
	u64 n = 1ULL << c->block_bits, count;
	u32 order = c->vd->qcow.refcount_order;
	u8 *data = calloc(1, c->cluster);
	int ret = data ? 0 : -ENOMEM;

	for (u64 i = 0; i < n && !ret; i++) {
		ret = first_count(c, index, index * n + i, &count);
		if (!ret)
			vdisk_qcheck_put(data, order, i, count);
	}
	if (!ret)
		ret = vdisk_qcheck_write(c, c->table[index], data, c->cluster);
	free(data);
	if (!ret)
		repaired(c, (struct vdisk_fault){
				    .kind = VDISK_FAULT_ENTRY,
				    .entry = c->refcount_table + 8 * index,
				    .home = c->table[index],
				    .problem = "of the refcount table has a new block" });
	return ret;
}

/* What is new was not wrong before. */
static int count_new(struct qcheck *c, u64 offset)
{
	u64 cluster = offset >> c->bits;

	if (c->block_state[cluster >> c->block_bits] != BLOCK_GOOD)
		return 0; /* its new block says it */
	return vdisk_qcheck_set_refcount(c, cluster, 1);
}

static int raise(struct qcheck *c)
{
	u64 max = vdisk_qcheck_max(c);
	int ret = 0;

	for (u64 i = 0; i <= c->clusters && !ret; i++) {
		u64 found, count = vdisk_refs_count(&c->refs, i);

		if (!count || c->block_state[i >> c->block_bits] != BLOCK_GOOD)
			continue;
		ret = vdisk_qcheck_refcount(c, i, &found);
		if (ret || found >= count || found == max)
			continue;
		ret = vdisk_qcheck_set_refcount(c, i, count < max ? count : max);
		repaired(c, (struct vdisk_fault){
				    .kind = VDISK_FAULT_REFCOUNT,
				    .entry = VDISK_NOWHERE,
				    .home = i << c->bits,
				    .problem = "had more references than its refcount said",
				    .found = found,
				    .expected = count });
	}
	return ret ? ret : vdisk_qcheck_write_block(c);
}

/* The whole table, to where it is or will be: big-endian only on the way. */
static int write_table(struct qcheck *c, u64 offset)
{
	u8 piece[SECTOR];
	int ret = 0;

	for (u64 i = 0; i < c->table_entries && !ret; i += SECTOR / 8) {
		for (u64 j = 0; j < SECTOR / 8; j++)
			put_be(piece + 8 * j, 8, c->table[i + j]);
		ret = vdisk_qcheck_write(c, offset + 8 * i, piece, SECTOR);
	}
	return ret;
}

/* Of the header's first sector, so that it is changed at once. */
static int change_header(struct qcheck *c, u32 at, const u8 *value, u32 length)
{
	u8 sector[SECTOR];
	int ret = vdisk_qcheck_read(c, 0, sector, SECTOR);

	if (ret)
		return ret;
	memcpy(sector + at, value, length);
	ret = vdisk_qcheck_write(c, 0, sector, SECTOR);
	return ret ? ret : flush(c);
}

static int move_table(struct qcheck *c, const struct rebuild *r)
{
	u8 value[12];

	put_be(value, 8, r->table);
	put_be(value + 8, 4, r->table_clusters);
	repaired(c, (struct vdisk_fault){ .kind = VDISK_FAULT_HEADER,
					  .entry = REFCOUNT_TABLE_AT,
					  .home = r->table,
					  .problem = "has a new refcount table" });
	return change_header(c, REFCOUNT_TABLE_AT, value, sizeof(value));
}

static int link_blocks(struct qcheck *c, const struct rebuild *r)
{
	int ret;

	if (!r->relink)
		return 0;
	if (r->new_table)
		return move_table(c, r);
	ret = write_table(c, c->refcount_table);
	return ret ? ret : flush(c);
}

static int make_room(struct qcheck *c, struct rebuild *r)
{
	int ret = 0;

	for (size_t i = 0; i < r->n && !ret; i++)
		ret = write_new_block(c, r->blocks[i]);
	for (size_t i = 0; i < r->n && !ret; i++)
		ret = count_new(c, c->table[r->blocks[i]]);
	for (u64 i = 0; i < r->table_clusters && !ret; i++)
		ret = count_new(c, r->table + (i << c->bits));
	if (!ret && r->new_table)
		ret = write_table(c, r->table);
	if (!ret)
		ret = raise(c);
	for (size_t i = 0; i < r->n; i++)
		c->block_state[r->blocks[i]] = BLOCK_GOOD;
	c->block.index = VDISK_NOWHERE; /* it may be one that is new now */
	return ret;
}

static int lower(struct qcheck *c)
{
	u64 end = c->table_entries << c->block_bits, block = 1ULL << c->block_bits, found;
	int ret = 0;

	for (u64 i = 0; i < end && !ret; i++) {
		u64 index = i >> c->block_bits;
		u64 count = i <= c->clusters ? vdisk_refs_count(&c->refs, i) : 0;

		if (!c->table[index] || c->block_state[index] != BLOCK_GOOD) {
			i = (index + 1) * block - 1;
			continue;
		}
		ret = vdisk_qcheck_refcount(c, i, &found);
		if (ret || found <= count)
			continue;
		ret = vdisk_qcheck_set_refcount(c, i, count);
		repaired(c, (struct vdisk_fault){
				    .kind = VDISK_FAULT_LEAK,
				    .entry = VDISK_NOWHERE,
				    .home = i << c->bits,
				    .problem = "had fewer references than its refcount said",
				    .found = found,
				    .expected = count });
	}
	if (!ret)
		ret = vdisk_qcheck_write_block(c);
	return ret ? ret : flush(c);
}

/* ---- a repair ---- */

/* Bits that we do not know say that what they are about is as the last writer left it. */
static int clear_autoclear(struct qcheck *c)
{
	u8 value[8];

	if (!(c->autoclear & ~AUTOCLEAR_KNOWN))
		return 0;
	c->autoclear &= AUTOCLEAR_KNOWN;
	put_be(value, 8, c->autoclear);
	return change_header(c, AUTOCLEAR_AT, value, sizeof(value));
}

static int correct(struct qcheck *c, enum vdisk_repair_level level, struct rebuild *r)
{
	int ret = clear_autoclear(c);

	c->lowering = !c->lost;
	if (!ret && level == VDISK_REPAIR_ALL) {
		ret = make_room(c, r);
		if (!ret)
			ret = vdisk_qcheck_fix_entries(c, FIX_CLEAR);
		if (!ret)
			ret = flush(c);
		if (!ret)
			ret = link_blocks(c, r);
	}
	if (!ret && c->lowering)
		ret = lower(c);
	if (!ret)
		ret = vdisk_qcheck_fix_entries(c, FIX_SET);
	return ret ? ret : flush(c);
}

/* Whether there is room for it is known before anything is changed. */
static int correct_found(struct qcheck *c, enum vdisk_repair_level level)
{
	struct rebuild r = { 0 };
	int ret = 0;

	if (!c->found.errors && !c->found.leaks)
		return 0;
	c->silent = false; /* from now on faults are what is changed */
	if (level == VDISK_REPAIR_ALL)
		ret = vdisk_qcheck_plan(c, &r);
	if (!ret)
		ret = correct(c, level, &r);
	free(r.blocks);
	return ret;
}

static int end_doubt(struct qcheck *c)
{
	u8 value[8];

	if (c->found.errors || !(c->incompatible & IN_DOUBT))
		return 0;
	repaired(c, (struct vdisk_fault){ .kind = VDISK_FAULT_HEADER,
					  .entry = INCOMPATIBLE_AT,
					  .home = VDISK_NOWHERE,
					  .problem = "said that the image is dirty or corrupt" });
	put_be(value, 8, c->incompatible & ~IN_DOUBT);
	return change_header(c, INCOMPATIBLE_AT, value, sizeof(value));
}

static u64 fewer(u64 before, u64 now)
{
	return before > now ? before - now : 0;
}

int vdisk_qcow_repair(struct vdisk *vd, enum vdisk_repair_level level, report_fn *report, void *ctx,
		      struct vdisk_found *found)
{
	struct qcheck before = { .report = report, .ctx = ctx, .silent = true };
	struct qcheck now = { .report = report, .ctx = ctx };
	int ret = vdisk_qcheck_begin(&before, vd);

	before.fixing = level == VDISK_REPAIR_ALL;
	if (!ret)
		ret = look(&before);
	*found = before.found;
	if (!ret)
		ret = correct_found(&before, level);
	vdisk_qcheck_end(&before);
	if (ret)
		return ret;
	ret = vdisk_qcheck_begin(&now, vd);
	if (!ret)
		ret = look(&now);
	if (!ret)
		ret = end_doubt(&now);
	now.found.errors_fixed = fewer(found->errors, now.found.errors);
	now.found.leaks_fixed = fewer(found->leaks, now.found.leaks);
	*found = now.found;
	vdisk_qcheck_end(&now);
	return ret;
}
