// SPDX-License-Identifier: GPL-2.0-or-later
/* The references to the clusters of a qcow or qcow2: who points where. */
#include "check-qcow.h"

#define PIECE 65536 /* of an L1 table */

/* qcow2.txt, "Header": autoclear bit 0, the bitmaps extension is valid */
#define AUTOCLEAR_BITMAPS 1

void vdisk_qcheck_fault(struct qcheck *c, struct vdisk_fault fault)
{
	if (fault.kind == VDISK_FAULT_LEAK)
		c->found.leaks += !fault.fixed;
	else
		c->found.errors += !fault.fixed;
	if (c->report && !c->silent)
		c->report(c->ctx, &fault);
}

int vdisk_qcheck_read(const struct qcheck *c, u64 offset, void *buf, u64 length)
{
	const struct vdisk_io *io = &c->vd->io;
	u64 there = offset < io->size ? io->size - offset : 0;

	if (there > length)
		there = length;
	memset((u8 *)buf + there, 0, length - there);
	return there ? vdisk_read(io, offset, buf, there) : 0;
}

int vdisk_qcheck_write(const struct qcheck *c, u64 offset, const void *buf, u64 length)
{
	const struct vdisk_io *io = &c->vd->io;
	u64 there = offset < io->size ? io->size - offset : 0;

	if (there > length)
		there = length;
	return there ? io->write(io->ctx, offset, buf, there) : 0;
}

/* ---- the header ---- */

/* qcow2.txt, "Header": byte offsets of the fields */
static void read_header2(struct qcheck *c, const u8 *h)
{
	c->l1_entries = get_be32(h + 36);
	c->l1_offset = get_be64(h + 40);
	c->refcount_table = get_be64(h + 48);
	c->table_clusters = get_be32(h + 56);
	c->snapshots = get_be32(h + 60);
	c->snapshots_offset = get_be64(h + 64);
	if (c->version == 2)
		return;
	c->incompatible = get_be64(h + 72);
	c->autoclear = get_be64(h + 88);
}

int vdisk_qcheck_begin(struct qcheck *c, struct vdisk *vd)
{
	const struct qcow *q = &vd->qcow;
	u64 table = (u64)q->entry_bytes << q->l2_bits;
	u8 h[104];
	int ret;

	c->vd = vd;
	c->version = q->version;
	c->bits = q->cluster_bits;
	c->cluster = 1U << c->bits;
	c->clusters = round_up_to(vd->io.size, c->cluster) >> c->bits;
	if (c->clusters >= INT32_MAX)
		return -EFBIG;
	ret = vdisk_qcheck_read(c, 0, h, sizeof(h));
	if (ret)
		return ret;
	if (c->version == 1) {
		c->l1_offset = q->l1_offset;
		c->l1_entries = q->l1_entries;
	} else {
		read_header2(c, h);
		c->block_bits = c->bits + 3 - q->refcount_order;
	}
	c->buf = malloc(table > c->cluster ? table : c->cluster);
	/* one more: the last table or compressed cluster may end past the end of the file */
	return c->buf ? vdisk_refs_init(&c->refs, c->clusters + 1) : -ENOMEM;
}

void vdisk_qcheck_end(struct qcheck *c)
{
	vdisk_refs_free(&c->refs);
	free(c->tables);
	free(c->buf);
	free(c->table);
	free(c->block_state);
	free(c->block.data);
}

/* ---- counting ---- */

/* Does the range end more than a part of a cluster behind the end of the file? */
static bool outside(const struct qcheck *c, u64 offset, u64 length)
{
	u64 end, size = c->vd->io.size;

	return add_overflows(offset, length, &end) || (end > size && end - size >= c->cluster);
}

int vdisk_qcheck_mark(struct qcheck *c, u64 offset, u64 length, u32 uses, u64 times, bool *inside)
{
	*inside = !outside(c, offset, length);
	if (!length || !*inside)
		return 0;
	for (u64 i = offset >> c->bits; i <= (offset + length - 1) >> c->bits; i++)
		if (vdisk_refs_add(&c->refs, i, uses, times))
			return -ENOMEM;
	return 0;
}

static void bad_entry(struct qcheck *c, u64 entry, u64 index, u64 home, const char *problem)
{
	vdisk_qcheck_fault(c, (struct vdisk_fault){ .kind = VDISK_FAULT_ENTRY,
						    .entry = entry,
						    .index = index,
						    .home = home,
						    .problem = problem,
						    .other = VDISK_NOWHERE });
}

/* What an entry at `entry` of the file points at. */
static int count_target(struct qcheck *c, u64 entry, u64 index, u64 offset, u64 length, u32 uses,
			u64 times)
{
	bool inside;
	int ret = vdisk_qcheck_mark(c, offset, length, uses, times, &inside);

	if (!inside || (length && offset >= c->vd->io.size)) {
		c->lost = true;
		bad_entry(c, entry, index, offset, "points behind the end of the file");
	}
	return ret;
}

static bool taken(const struct qcheck *c, u64 offset, u64 length)
{
	if (!length || outside(c, offset, length))
		return false;
	for (u64 i = offset >> c->bits; i <= (offset + length - 1) >> c->bits; i++)
		if (vdisk_refs_uses(&c->refs, i) & REF_TABLE)
			return true;
	return false;
}

/* A table that is named once, at `named` of the file. *mine: it is nobody else's. */
static int count_table(struct qcheck *c, u64 named, u64 offset, u64 length, bool *mine)
{
	*mine = !taken(c, offset, length);
	if (*mine)
		return count_target(c, named, VDISK_NOWHERE, offset, length, REF_TABLE, 1);
	c->lost = true;
	bad_entry(c, named, VDISK_NOWHERE, offset, "points into another table");
	return 0;
}

/* ---- L1 tables ---- */

static int by_offset(const void *a, const void *b)
{
	const struct l2_table *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Each table once. */
static void merge_tables(struct qcheck *c)
{
	size_t n = 0;

	if (c->n_tables)
		qsort(c->tables, c->n_tables, sizeof(*c->tables), by_offset);
	for (size_t i = 0; i < c->n_tables; i++) {
		struct l2_table *last = n ? &c->tables[n - 1] : NULL;

		if (!last || last->offset != c->tables[i].offset) {
			c->tables[n++] = c->tables[i];
			continue;
		}
		last->times += c->tables[i].times;
		if (c->tables[i].active && !last->active)
			last->first = c->tables[i].first;
		last->active |= c->tables[i].active;
	}
	c->n_tables = n;
}

static int remember_table(struct qcheck *c, u64 offset, u64 first, bool active)
{
	if (c->n_tables == c->room_tables)
		merge_tables(c);
	if (2 * c->n_tables >= c->room_tables) {
		size_t room = c->room_tables ? 2 * c->room_tables : 1024;
		struct l2_table *v = reallocarray(c->tables, room, sizeof(*v));

		if (!v && c->n_tables == c->room_tables)
			return -ENOMEM;
		if (v) {
			c->tables = v;
			c->room_tables = room;
		}
	}
	c->tables[c->n_tables++] = (struct l2_table){ offset, first, 1, active };
	return 0;
}

static int count_l1_entry(struct qcheck *c, u64 at, u64 index, u64 value, bool active)
{
	const struct qcow *q = &c->vd->qcow;
	u64 offset = value & (c->version == 1 ? UINT64_MAX : QCOW_OFFSET);
	u64 length = (u64)q->entry_bytes << q->l2_bits, first = index << q->l2_bits;
	bool inside, whole;
	int ret;

	if (c->version > 1 && value & QCOW_L1_RESERVED)
		bad_entry(c, at, first, offset, "has bits set that are reserved");
	if (!offset)
		return 0;
	ret = vdisk_qcheck_mark(c, offset, length, REF_L2, 1, &inside);
	if (!inside)
		bad_entry(c, at, first, offset, "points behind the end of the file");
	whole = inside && offset + length <= c->vd->io.size;
	if (inside && !whole) /* what it does not have any more cannot be told: it is not read */
		bad_entry(c, at, first, offset,
			  "points at a table that the end of the file cuts off");
	if (in_cluster(c, offset))
		bad_entry(c, at, first, offset, "points into the middle of a cluster");
	c->lost |= !whole || in_cluster(c, offset);
	if (!inside || in_cluster(c, offset))
		return ret;
	return ret ? ret : remember_table(c, offset, first, active);
}

static int count_l1(struct qcheck *c, u64 named, u64 offset, u64 entries, bool active)
{
	u8 piece[PIECE];
	bool mine;
	int ret = count_table(c, named, offset, 8 * entries, &mine);

	if (!mine || outside(c, offset, 8 * entries))
		return ret;
	for (u64 i = 0; i < entries && !ret; i++) {
		u64 at = 8 * i % PIECE, left = 8 * (entries - i), value;

		if (!at)
			ret = vdisk_qcheck_read(c, offset + 8 * i, piece,
						left < PIECE ? left : PIECE);
		value = ret ? 0 : get_be64(piece + at);
		if (value)
			ret = count_l1_entry(c, offset + 8 * i, i, value, active);
	}
	return ret;
}

/* ---- L2 tables ---- */

enum entry_kind vdisk_qcheck_kind(const struct qcheck *c, u64 value)
{
	bool subclusters = c->vd->qcow.entry_bytes == 16;

	if (c->version == 1)
		return !value			  ? ENTRY_UNALLOCATED
		       : value & QCOW1_COMPRESSED ? ENTRY_PACKED
						  : ENTRY_DATA;
	if (value & QCOW_COMPRESSED)
		return ENTRY_PACKED;
	if (value & QCOW_ZERO && !subclusters)
		return value & QCOW_OFFSET ? ENTRY_ZERO_HOME : ENTRY_ZERO;
	if (value & QCOW_OFFSET || (c->vd->qcow.has_data && value & QCOW_COPIED))
		return ENTRY_DATA;
	return ENTRY_UNALLOCATED;
}

bool vdisk_qcheck_clearable(const struct qcheck *c, u64 value, u64 bits)
{
	enum entry_kind kind = vdisk_qcheck_kind(c, value);

	if (c->version < 3 || !in_cluster(c, value & QCOW_OFFSET))
		return false;
	if (c->vd->qcow.entry_bytes == 16)
		return kind == ENTRY_DATA && !(bits & UINT32_MAX);
	return kind == ENTRY_ZERO_HOME;
}

/* qcow2.txt, "Compressed Clusters Descriptor"; version 1 counts in bytes */
static int count_packed(struct qcheck *c, const struct l2_table *t, u64 at, u64 index, u64 value,
			u64 bits)
{
	u32 shift = c->version == 1 ? 63 - c->bits : 62 - (c->bits - 8);
	u64 offset = value & ((1ULL << shift) - 1);
	u64 length = value >> shift;

	if (c->version == 1) {
		length &= c->cluster - 1;
		return count_target(c, at, index, offset, length, REF_PACKED, t->times);
	}
	length = ((length & ((1U << (c->bits - 8)) - 1)) + 1) * 512 - offset % 512;
	if (value & QCOW_COPIED)
		bad_entry(c, at, index, offset, "is compressed, but marked as not shared");
	if (c->vd->qcow.has_data || bits) {
		bad_entry(c, at, index, offset,
			  bits ? "is compressed and has subclusters"
			       : "is compressed, in an image with a data file");
		c->lost = true;
		return 0;
	}
	return count_target(c, at, index, offset, length, REF_PACKED, t->times);
}

static int count_place(struct qcheck *c, const struct l2_table *t, u64 at, u64 index, u64 value,
		       u64 bits)
{
	u64 offset = value & (c->version == 1 ? QCOW1_OFFSET : QCOW_OFFSET);

	if (bits >> 32 & bits)
		bad_entry(c, at, index, offset, "says of a subcluster that it is data and zeros");
	if (c->version == 1 && offset % VDISK_SECTOR) {
		bad_entry(c, at, index, offset, "points into the middle of a sector");
		c->lost = true;
	}
	if (c->version > 1 && in_cluster(c, offset)) {
		bad_entry(c, at, index, offset, "points into the middle of a cluster");
		if (vdisk_qcheck_clearable(c, value, bits)) {
			if (c->fixing)
				return 0;
		} else {
			c->lost = true;
		}
	}
	if (c->vd->qcow.has_data)
		return 0;
	return count_target(c, at, index, offset, c->cluster, REF_DATA, t->times);
}

static int count_l2_entry(struct qcheck *c, const struct l2_table *t, u64 i)
{
	const struct qcow *q = &c->vd->qcow;
	const u8 *p = c->buf + i * q->entry_bytes;
	u64 at = t->offset + i * q->entry_bytes, index = t->first + i;
	u64 value = get_be64(p), bits = q->entry_bytes == 16 ? get_be64(p + 8) : 0;
	enum entry_kind kind = vdisk_qcheck_kind(c, value);

	if (c->version > 1 && kind != ENTRY_PACKED && value & QCOW_L2_RESERVED)
		bad_entry(c, at, index, value & QCOW_OFFSET, "has bits set that are reserved");
	if (c->version == 2 && (kind == ENTRY_ZERO || kind == ENTRY_ZERO_HOME))
		bad_entry(c, at, index, value & QCOW_OFFSET,
			  "says that it reads as zeros, which version 2 has no bit for");
	switch (kind) {
	case ENTRY_PACKED:
		return count_packed(c, t, at, index, value, bits);
	case ENTRY_DATA:
	case ENTRY_ZERO_HOME:
		return count_place(c, t, at, index, value, bits);
	default:
		if (bits & UINT32_MAX) {
			bad_entry(c, at, index, 0, "has subclusters with data, but no place");
			c->lost = true;
		}
		return 0;
	}
}

static int count_l2(struct qcheck *c, const struct l2_table *t)
{
	const struct qcow *q = &c->vd->qcow;
	u64 n = 1ULL << q->l2_bits, of_disk = (c->vd->info.virtual_size - 1) >> c->bits;
	int ret = vdisk_qcheck_read(c, t->offset, c->buf, q->entry_bytes * n);

	/* Without refcounts, what lies behind the end of the disk is nobody's: it may be taken. */
	if (c->version == 1 && of_disk - t->first < n)
		n = of_disk - t->first + 1;
	for (u64 i = 0; i < n && !ret; i++)
		ret = count_l2_entry(c, t, i);
	return ret;
}

/* ---- snapshots and bitmaps ---- */

/* qcow2.txt, "Snapshots": the fixed part of an entry, and its variable parts */
#define SNAPSHOT_HEAD  40
#define SNAPSHOT_EXTRA 16 /* that version 3 asks for */
#define L1_MAX	       (32U << 20)

static int count_snapshot(struct qcheck *c, u64 at, const u8 *head)
{
	u64 l1 = get_be64(head), entries = get_be32(head + 8);

	if (c->version > 2 && get_be32(head + 36) < SNAPSHOT_EXTRA)
		bad_entry(c, at, VDISK_NOWHERE, l1, "is a snapshot without its size");
	if (!in_cluster(c, l1) && 8 * entries <= L1_MAX)
		return count_l1(c, at, l1, entries, false);
	bad_entry(c, at, VDISK_NOWHERE, l1, "is a snapshot whose L1 table cannot be");
	c->lost = true;
	return 0;
}

static int count_snapshots(struct qcheck *c)
{
	u64 at = c->snapshots_offset;
	u8 head[SNAPSHOT_HEAD];
	bool mine;
	int ret = 0;

	if (c->snapshots && c->vd->qcow.has_data)
		bad_entry(c, 60, VDISK_NOWHERE, at,
			  "counts snapshots, though there is a data file");
	for (u64 i = 0; i < c->snapshots && !ret; i++) {
		if (outside(c, at, SNAPSHOT_HEAD)) {
			bad_entry(c, 60, VDISK_NOWHERE, at, "counts more snapshots than there are");
			c->lost = true;
			break;
		}
		ret = vdisk_qcheck_read(c, at, head, SNAPSHOT_HEAD);
		if (!ret)
			ret = count_snapshot(c, at, head);
		at += SNAPSHOT_HEAD + (u64)get_be32(head + 36) + get_be16(head + 12) +
		      get_be16(head + 14);
		at = (at + 7) & ~7ULL;
	}
	return ret || !c->snapshots
		       ? ret
		       : count_table(c, 64, c->snapshots_offset, at - c->snapshots_offset, &mine);
}

/* qcow2.txt, "Bitmap table": bits 9 to 55 are a cluster's place */
static int count_bitmap_table(struct qcheck *c, u64 at, u64 offset, u64 entries)
{
	u8 word[8];
	bool mine;
	int ret = count_table(c, at, offset, 8 * entries, &mine);

	if (!mine || outside(c, offset, 8 * entries))
		return ret;
	for (u64 i = 0; i < entries && !ret; i++) {
		u64 entry, home;

		ret = vdisk_qcheck_read(c, offset + 8 * i, word, 8);
		entry = ret ? 0 : get_be64(word);
		home = entry & QCOW_OFFSET;
		if (entry & ~(QCOW_OFFSET | 1) || in_cluster(c, home) || (home && entry & 1))
			bad_entry(c, offset + 8 * i, VDISK_NOWHERE, home,
				  "of a bitmap has bits set that are reserved");
		else if (home)
			ret = count_target(c, offset + 8 * i, VDISK_NOWHERE, home, c->cluster,
					   REF_TABLE, 1);
	}
	return ret;
}

/* qcow2.txt, "Bitmap directory": the fixed part of an entry, and its variable parts. When the
 * autoclear bit is clear nobody may use them: leaks. */
#define BITMAP_HEAD 24

static int count_bitmaps(struct qcheck *c)
{
	u64 at = c->vd->qcow.bitmaps_directory, length = c->vd->qcow.bitmaps_directory_size;
	u64 end = at + length;
	u8 head[BITMAP_HEAD];
	bool mine;
	int ret;

	if (!length || !(c->autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	ret = count_table(c, at, at, length, &mine);
	if (!mine || outside(c, at, length))
		return ret;
	while (!ret && end - at >= BITMAP_HEAD) {
		ret = vdisk_qcheck_read(c, at, head, BITMAP_HEAD);
		if (ret)
			return ret;
		ret = count_bitmap_table(c, at, get_be64(head), get_be32(head + 8));
		length = BITMAP_HEAD + (u64)get_be16(head + 18) + get_be32(head + 20);
		length = (length + 7) & ~7ULL;
		if (length > end - at)
			break;
		at += length;
	}
	if (!ret && at != end)
		bad_entry(c, at, VDISK_NOWHERE, at, "is a bitmap that ends behind its directory");
	return ret;
}

/* ---- all ---- */

/* Version 1 has its L1 table behind the header, where it ends. */
static int count_headers(struct qcheck *c)
{
	u64 length = c->version == 1 && c->vd->qcow.fixed_end ? c->vd->qcow.fixed_end : c->cluster;
	bool inside;

	return vdisk_qcheck_mark(c, 0, length, REF_TABLE, 1, &inside);
}

static int count_l1_of_version_1(struct qcheck *c)
{
	u8 word[8];
	int ret = 0;

	for (u64 i = 0; i < c->l1_entries && !ret; i++) {
		ret = vdisk_qcheck_read(c, c->l1_offset + 8 * i, word, 8);
		if (!ret && get_be64(word))
			ret = count_l1_entry(c, c->l1_offset + 8 * i, i, get_be64(word), true);
	}
	return ret;
}

int vdisk_qcheck_count(struct qcheck *c)
{
	int ret = count_headers(c);

	if (!ret)
		ret = c->version == 1 ? count_l1_of_version_1(c)
				      : count_l1(c, 40, c->l1_offset, c->l1_entries, true);
	if (!ret && c->version > 1)
		ret = count_snapshots(c);
	if (!ret && c->version > 1)
		ret = count_bitmaps(c);
	merge_tables(c);
	for (size_t i = 0; i < c->n_tables && !ret; i++)
		ret = count_l2(c, &c->tables[i]);
	return ret;
}
