// SPDX-License-Identifier: GPL-2.0-or-later
/* The refcounts of a qcow2 and what they should be. qcow2.txt, "Host cluster management". */
#include "check-qcow.h"

#define TABLE_MAX      (8U << 20)
#define ENTRY_RESERVED 0x1ffULL

/* ---- one refcount ---- */

u64 vdisk_qcheck_max(const struct qcheck *c)
{
	u32 order = c->vd->qcow.refcount_order;

	return order == 6 ? UINT64_MAX : (1ULL << (1U << order)) - 1;
}

/* Those of less than a byte begin at the least significant bit. */
u64 vdisk_qcheck_get(const u8 *block, u32 order, u64 i)
{
	switch (order) {
	case 3:
		return block[i];
	case 4:
		return get_be16(block + 2 * i);
	case 5:
		return get_be32(block + 4 * i);
	case 6:
		return get_be64(block + 8 * i);
	default:
		return block[i << order >> 3] >> (i << order & 7) & ((1U << (1U << order)) - 1);
	}
}

void vdisk_qcheck_put(u8 *block, u32 order, u64 i, u64 count)
{
	u32 shift = i << order & 7, mask;
	u8 *p = block + (i << order >> 3);

	if (order >= 3) {
		put_be(p, 1U << (order - 3), count);
		return;
	}
	mask = ((1U << (1U << order)) - 1) << shift;
	*p = (u8)((*p & ~mask) | (count << shift & mask));
}

/* ---- the table and its blocks ---- */

static void bad_block(struct qcheck *c, u64 i, const char *problem)
{
	c->block_state[i] = BLOCK_BAD;
	vdisk_qcheck_fault(c, (struct vdisk_fault){ .kind = VDISK_FAULT_ENTRY,
						    .entry = c->refcount_table + 8 * i,
						    .index = VDISK_NOWHERE,
						    .home = c->table[i],
						    .problem = problem,
						    .other = VDISK_NOWHERE });
}

static int count_block(struct qcheck *c, u64 i)
{
	u64 offset = c->table[i];
	bool inside;
	int ret;

	if (offset & ENTRY_RESERVED) {
		bad_block(c, i, "of the refcount table has bits set that are reserved");
		return 0;
	}
	if (in_cluster(c, offset)) {
		bad_block(c, i, "of the refcount table points into the middle of a cluster");
		return 0;
	}
	if (offset >> c->bits >= c->clusters) {
		bad_block(c, i, "of the refcount table points behind the end of the file");
		return 0;
	}
	ret = vdisk_qcheck_mark(c, offset, c->cluster, REF_TABLE, 1, &inside);
	if (!ret && vdisk_refs_count(&c->refs, offset >> c->bits) != 1)
		bad_block(c, i, "of the refcount table points at what is used otherwise");
	return ret;
}

int vdisk_qcheck_blocks(struct qcheck *c)
{
	u64 bytes = c->table_clusters << c->bits;
	bool inside;
	int ret;

	if (bytes > TABLE_MAX || in_cluster(c, c->refcount_table))
		return -EUCLEAN;
	c->table_entries = bytes / 8;
	c->table = calloc(c->table_entries + 1, sizeof(*c->table));
	c->block_state = calloc(c->table_entries + 1, 1);
	c->block.data = malloc(c->cluster);
	c->block.index = VDISK_NOWHERE;
	if (!c->table || !c->block_state || !c->block.data)
		return -ENOMEM;
	ret = vdisk_qcheck_mark(c, c->refcount_table, bytes, REF_TABLE, 1, &inside);
	if (!ret && !inside)
		return -EUCLEAN;
	if (!ret)
		ret = vdisk_qcheck_read(c, c->refcount_table, c->table, bytes);
	for (u64 i = 0; i < c->table_entries && !ret; i++) {
		c->table[i] = get_be64(&c->table[i]);
		if (c->table[i])
			ret = count_block(c, i);
	}
	return ret;
}

int vdisk_qcheck_write_block(struct qcheck *c)
{
	int ret;

	if (!c->block.dirty)
		return 0;
	ret = vdisk_qcheck_write(c, c->block.offset, c->block.data, c->cluster);
	if (!ret)
		c->block.dirty = false;
	return ret;
}

static int load_block(struct qcheck *c, u64 index)
{
	struct refblock *b = &c->block;
	int ret = vdisk_qcheck_write_block(c);

	if (ret)
		return ret;
	b->index = VDISK_NOWHERE;
	b->offset = index < c->table_entries ? c->table[index] & ~ENTRY_RESERVED : 0;
	b->state = REFBLOCK_NONE;
	if (b->offset && in_cluster(c, b->offset)) {
		b->state = REFBLOCK_UNREADABLE;
	} else if (b->offset && b->offset >> c->bits < c->clusters) {
		ret = vdisk_qcheck_read(c, b->offset, b->data, c->cluster);
		b->state = REFBLOCK_HERE;
	}
	if (!ret)
		b->index = index;
	return ret;
}

int vdisk_qcheck_refcount(struct qcheck *c, u64 cluster, u64 *count)
{
	u64 index = cluster >> c->block_bits;
	int ret = c->block.index == index ? 0 : load_block(c, index);

	*count = 0;
	if (ret || c->block.state == REFBLOCK_NONE)
		return ret;
	if (c->block.state == REFBLOCK_UNREADABLE)
		return -EUCLEAN;
	*count = vdisk_qcheck_get(c->block.data, c->vd->qcow.refcount_order,
				  cluster & ((1ULL << c->block_bits) - 1));
	return 0;
}

int vdisk_qcheck_set_refcount(struct qcheck *c, u64 cluster, u64 count)
{
	u64 old;
	int ret = vdisk_qcheck_refcount(c, cluster, &old);

	if (ret || c->block.state != REFBLOCK_HERE)
		return ret ? ret : -EUCLEAN;
	vdisk_qcheck_put(c->block.data, c->vd->qcow.refcount_order,
			 cluster & ((1ULL << c->block_bits) - 1), count);
	c->block.dirty = true;
	return 0;
}

/* ---- comparing ---- */

static void cluster_fault(struct qcheck *c, u64 cluster, enum vdisk_fault_kind kind, u64 found,
			  u64 expected, const char *problem)
{
	vdisk_qcheck_fault(c, (struct vdisk_fault){ .kind = kind,
						    .entry = VDISK_NOWHERE,
						    .index = VDISK_NOWHERE,
						    .home = cluster << c->bits,
						    .problem = problem,
						    .other = VDISK_NOWHERE,
						    .found = found,
						    .expected = expected });
}

/* Tables lie where nothing else is; a table of data may be shared, but is no data. */
static bool overlaps(const struct qcheck *c, u64 cluster, u64 expected)
{
	u32 uses = vdisk_refs_uses(&c->refs, cluster);

	return (uses & REF_TABLE && (expected > 1 || uses != REF_TABLE)) ||
	       (uses & REF_L2 && uses != REF_L2);
}

static int compare_cluster(struct qcheck *c, u64 cluster)
{
	u64 found, expected = vdisk_refs_count(&c->refs, cluster);
	bool overlap = overlaps(c, cluster, expected);
	int ret = vdisk_qcheck_refcount(c, cluster, &found);

	c->lost |= overlap; /* one of its pointers should point elsewhere */
	if (ret)
		return ret == -EUCLEAN ? 0 : ret; /* the block itself was reported */
	if (found < expected)
		cluster_fault(c, cluster, VDISK_FAULT_REFCOUNT, found, expected,
			      expected > vdisk_qcheck_max(c)
				      ? "has more references than a refcount can say"
				      : "has more references than its refcount says");
	else if (found > expected)
		cluster_fault(c, cluster, VDISK_FAULT_LEAK, found, expected,
			      expected ? "has fewer references than its refcount says"
				       : "counts as used, and nothing refers to it");
	else if (overlap)
		cluster_fault(c, cluster, VDISK_FAULT_OVERLAP, found, expected,
			      "is used by a table and by something else");
	return 0;
}

/* Clusters that the file does not have. */
static int compare_behind(struct qcheck *c, u64 cluster)
{
	u64 found, end = c->table_entries << c->block_bits, block = 1ULL << c->block_bits;
	int ret = 0;

	while (cluster < end && !ret) {
		u64 index = cluster >> c->block_bits;

		if (!c->table[index] || c->block_state[index]) {
			cluster = (index + 1) * block;
			continue;
		}
		ret = vdisk_qcheck_refcount(c, cluster, &found);
		if (!ret && found)
			cluster_fault(c, cluster, VDISK_FAULT_LEAK, found, 0,
				      "counts as used, and is behind the end of the file");
		cluster++;
	}
	return ret;
}

int vdisk_qcheck_compare(struct qcheck *c)
{
	u64 n = c->clusters + (vdisk_refs_count(&c->refs, c->clusters) != 0);
	int ret = 0;

	for (u64 i = 0; i < n && !ret; i++)
		ret = compare_cluster(c, i);
	return ret ? ret : compare_behind(c, n);
}

/* Version 1 has no refcounts, and nothing that is shared but the clusters of compressed data. */
void vdisk_qcheck_shared(struct qcheck *c)
{
	for (u64 i = 0; i < c->clusters; i++) {
		u32 uses = vdisk_refs_uses(&c->refs, i);

		if (uses != REF_PACKED && vdisk_refs_count(&c->refs, i) > 1)
			cluster_fault(c, i, VDISK_FAULT_OVERLAP, 0, vdisk_refs_count(&c->refs, i),
				      "is used by two");
	}
}
