/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Room in a qcow or qcow2 file. A qcow2 counts for each cluster of the file how often it is in use:
 * the refcount table points to refcount blocks, which hold the counts (qcow2.txt, "Host cluster
 * management"). The qcow of version 1 counts nothing: room is behind everything that is used.
 *
 * What is taken is remembered here until a commit has counted it. Who looks for room only goes
 * forward, and comes back to the beginning when nothing is taken: so a cluster whose count is zero
 * is free, and no list of what was taken is needed. What is given up waits in a ring:
 *
 *   [linked, dropped)    its pointer has been replaced, and soon that is durable
 *   [waiting, linked)    it is
 *   [ripe, waiting)      I/O that may be under way there is waited for (VDISK_ACT_QUIESCE)
 *   [applying, ripe)     the next commit counts it down
 *   [counted, applying)  the running commit does: it may be taken when that is durable
 */
#ifndef VDISK_REFCOUNT_H
#define VDISK_REFCOUNT_H

#include "qcow.h"

/* An L2 table that is not linked yet, and the one that it replaces. */
struct qcow_new_table {
	u64 l1_index;
	u64 home;
	u64 old; /* VDISK_NOWHERE: none */
	bool sealed;
};

/* A refcount block that no entry of the refcount table points to yet. */
struct qcow_new_block {
	u64 index; /* of the entry */
	u64 home;
	bool sealed;
};

/* A larger refcount table, behind the refcount blocks of its own place. */
struct qcow_growth {
	bool wanted, sealed;
	u64 home;	 /* of the first new block; the table follows the last one */
	u64 first_block; /* index of that */
	u32 blocks;
	u32 clusters; /* of the table */
};

#define QCOW_NEW_BLOCKS 16

/* In the offset of a place that was given up before anything counted it. */
#define QCOW_NOT_COUNTED 1ULL

struct qcow_alloc {
	u64 clusters; /* that lie in the file as a whole */
	/* the search */
	bool started;
	bool again; /* something that was passed over may be free now */
	u64 cursor; /* the cluster to look at next; while !started an index, see start() */
	u64 left;   /* clusters, of this pass */
	u32 taken, taken_sealed; /* clusters that no commit has counted yet */
	/* for the next commit */
	struct qcow_new_table *tables;
	u32 n_tables, max_tables;
	struct qcow_new_block blocks[QCOW_NEW_BLOCKS];
	u32 n_blocks;
	struct qcow_growth growth;
	/* An entry of the refcount table that was looked up, for the next time: one that is not 0
	 * stays as it is while the image is open, also in a larger table. */
	u64 known_index, known_block;
	bool touching, marking; /* the running commit changes the header */
	bool marked;		/* as corrupt */
	/* a ring of places that were given up: positions only grow */
	struct vdisk_range *drops;
	u32 not_counted; /* of them */
	u32 ring;	 /* a power of two */
	u32 counted, applying, ripe, waiting, linked, dropped;
	/* the L2 entry that is changed next: to pin its block may throw out the L1 block that it
	 * was found with */
	u64 entry;
	/* where the counting of the running commit is */
	struct {
		u32 object; /* of count_object() */
		u64 cluster;
		bool begun;
	} at;
};

/* ---- refcount.c: where counts are ---- */

/* log2 of the clusters that one refcount block counts */
static inline u32 qcow_block_shift(const struct qcow *q)
{
	return q->cluster_bits + 3 - q->refcount_order;
}

static inline u64 qcow_table_entries(const struct qcow *q)
{
	return (u64)q->refcount_table_clusters << (q->cluster_bits - 3);
}

static inline u64 qcow_cluster_bytes(const struct qcow *q)
{
	return 1ULL << q->cluster_bits;
}

/* log2 of the counts in a metadata block */
static inline u32 qcow_meta_shift(const struct vdisk *vd)
{
	return 3 + log2_of(vd->meta->block) - vd->qcow.refcount_order;
}

/* The metadata block that holds the count of a cluster, given its refcount block. */
static inline u64 qcow_meta_block(const struct vdisk *vd, u64 block, u64 cluster)
{
	u64 inside = cluster & ((1ULL << qcow_block_shift(&vd->qcow)) - 1);

	return block + ((inside >> qcow_meta_shift(vd)) * vd->meta->block);
}

/* An answer for a metadata block that is not cached, of a table that ends at table_end. */
static inline int qcow_need(const struct vdisk *vd, u64 offset, u64 table_end,
			    struct vdisk_map *answer)
{
	answer->kind = VDISK_NEED;
	answer->offset = vdisk_block_of(vd->meta, offset);
	answer->length = table_end - answer->offset;
	return -EAGAIN;
}

/* An answer for an entry that cannot be. */
static inline int qcow_damaged(u64 entry, u64 value, struct vdisk_map *answer)
{
	answer->offset = entry;
	answer->home = value;
	return -EUCLEAN;
}

/* The count of a cluster, in the metadata block that holds it. */
u64 vdisk_refcount_get(const struct vdisk *vd, const u8 *data, u64 cluster);
/* Entry `index` of the refcount table: the offset of a block, or 0. As vdisk_format.place. */
int vdisk_refcount_load(const struct vdisk *vd, u64 index, u64 *block, struct vdisk_map *answer);
/* The one with this index that is not reachable yet, or NULL. */
struct qcow_new_block *vdisk_refcount_new_block(const struct vdisk *vd, u64 index);

/* ---- space.c: room ---- */

int vdisk_qcow_begin(struct vdisk *vd, u32 units);

/* A cluster that nobody uses, or with version 1 so many bytes; as vdisk_format.reserve. */
int vdisk_qcow_take(struct vdisk *vd, struct vdisk_space *space, u64 bytes, u64 *home,
		    struct vdisk_map *answer);

/* The bytes [offset, offset + length) of the file have one user less. */
void vdisk_qcow_drop(struct vdisk *vd, u64 offset, u64 length);

struct qcow_new_table *vdisk_qcow_new_table(const struct vdisk *vd, u64 l1_index);

/* ---- refcount.c: steps of a commit; as vdisk_format.seal, .place, … ---- */

int vdisk_refcount_place(struct vdisk *vd, const struct vdisk_unit *unit, u32 n, u64 *block,
			 struct vdisk_map *answer);
bool vdisk_refcount_change(struct vdisk *vd, struct vdisk_space *space,
			   const struct vdisk_unit *unit, u8 *data);
int vdisk_refcount_root_place(struct vdisk *vd, u32 n, u64 *block);
bool vdisk_refcount_root_change(struct vdisk *vd, u32 n, u8 *data);

#endif
