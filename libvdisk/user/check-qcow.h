/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking and repairing qcow and qcow2: every reference to every cluster of the file is counted
 * and compared with what the refcount blocks say. Needs memory for the clusters of the file, not
 * for the disk; each table is read once, however many entries point to it, so that no image takes
 * longer than its size.
 *
 *   check-refs.c      the counters
 *   check-qcow.c      counts the references
 *   check-refcount.c  refcount table and blocks; compares
 *   check-copied.c    entries that do not say whether their cluster is shared; corrects them
 *   repair-qcow.c     the steps of a repair, in the order that a power cut may end
 *   repair-room.c     new refcount blocks and a new refcount table
 */
#ifndef VDISK_USER_CHECK_QCOW_H
#define VDISK_USER_CHECK_QCOW_H

#include "../qcow.h"
#include "host.h"

/* What clusters are used for. */
#define REF_TABLE  1 /* header, L1, refcounts, snapshots, bitmaps: nothing else may be there */
#define REF_L2	   2
#define REF_DATA   4
#define REF_PACKED 8 /* compressed: several may be in one cluster */

/* A counter and the REF_ bits for each cluster of the file. */
struct refs {
	u16 *small; /* or, when a count did not fit: */
	u64 *large;
	u64 n;
};

int vdisk_refs_init(struct refs *r, u64 clusters);
void vdisk_refs_free(struct refs *r);
/* -ENOMEM */
int vdisk_refs_add(struct refs *r, u64 cluster, u32 uses, u64 times);
void vdisk_refs_drop(struct refs *r, u64 cluster);
u64 vdisk_refs_count(const struct refs *r, u64 cluster);
u32 vdisk_refs_uses(const struct refs *r, u64 cluster);

/* An L2 table that something points to. */
struct l2_table {
	u64 offset;
	u64 first; /* block of the disk that its first entry is for */
	u64 times; /* how many L1 entries point to it */
	bool active;
};

/* The refcount block that was looked at last. */
struct refblock {
	u8 *data;
	u64 index;  /* in the refcount table; VDISK_NOWHERE: none */
	u64 offset; /* of the file */
	enum { REFBLOCK_NONE, REFBLOCK_UNREADABLE, REFBLOCK_HERE } state;
	bool dirty;
};

#define BLOCK_GOOD   0 /* or there is none */
#define BLOCK_BAD    1 /* it cannot be used: what it said is not known */
#define BLOCK_NEW    2 /* there was none, and will be one */
#define BLOCK_REMADE 3 /* it was bad, and will be good */

struct qcheck {
	struct vdisk *vd;
	bool silent; /* faults are counted, not reported */
	bool fixing; /* entries that will be cleared are counted as if they were */
	void (*report)(void *ctx, const struct vdisk_fault *fault);
	void *ctx;
	struct vdisk_found found;
	/* the header */
	u32 version, bits, cluster; /* cluster size, as log2 and in bytes */
	u64 clusters;		    /* of the file */
	u64 l1_offset, l1_entries;
	u64 snapshots_offset, snapshots;
	u64 incompatible, autoclear;
	u64 refcount_table;
	u64 table_clusters;
	/* what was found */
	struct refs refs;
	struct l2_table *tables;
	size_t n_tables, room_tables;
	u8 *buf; /* an L2 table */
	/* An entry is damaged, and what it pointed at is unknown: places that nothing points at
	 * may be what it lost. */
	bool lost;
	bool lowering; /* leaks will be given back */
	/* refcounts */
	u64 *table; /* the refcount table */
	u64 table_entries;
	u8 *block_state; /* of each entry of the table: BLOCK_ */
	u32 block_bits;	 /* log2 of the refcounts in a block */
	struct refblock block;
};

/* ---- check-qcow.c ---- */

/* Count all references. 0 or an errno; faults are reported. */
int vdisk_qcheck_count(struct qcheck *c);
/* Start from the header of the file; the image's open headers are not changed. */
int vdisk_qcheck_begin(struct qcheck *c, struct vdisk *vd);
void vdisk_qcheck_end(struct qcheck *c);
void vdisk_qcheck_fault(struct qcheck *c, struct vdisk_fault fault);
/* Read or write a part of the file; past its end are zeros, which are not written. */
int vdisk_qcheck_read(const struct qcheck *c, u64 offset, void *buf, u64 length);
int vdisk_qcheck_write(const struct qcheck *c, u64 offset, const void *buf, u64 length);
/* Count references to the clusters of [offset, offset + length). False: it is not in the file. */
int vdisk_qcheck_mark(struct qcheck *c, u64 offset, u64 length, u32 uses, u64 times, bool *inside);

enum entry_kind { ENTRY_UNALLOCATED, ENTRY_ZERO, ENTRY_DATA, ENTRY_ZERO_HOME, ENTRY_PACKED };
enum entry_kind vdisk_qcheck_kind(const struct qcheck *c, u64 value);
/* An entry with a place that is not a cluster's, and without data there: it can be cleared. */
bool vdisk_qcheck_clearable(const struct qcheck *c, u64 value, u64 bits);

/* qcow2.txt, "L1 table entry", "Standard Cluster Descriptor": reserved bits */
#define QCOW_L1_RESERVED 0x7f000000000001ffULL
#define QCOW_L2_RESERVED 0x3f000000000001feULL

static inline bool in_cluster(const struct qcheck *c, u64 offset)
{
	return offset & (c->cluster - 1);
}

static inline void put_be(u8 *p, u32 bytes, u64 value)
{
	while (bytes--) {
		p[bytes] = (u8)value;
		value >>= 8;
	}
}

/* ---- check-refcount.c ---- */

/* Read the refcount table, and count the references to the blocks. */
int vdisk_qcheck_blocks(struct qcheck *c);
/* Compare all counts. */
int vdisk_qcheck_compare(struct qcheck *c);
/* What the file says of a cluster; -EUCLEAN: its block cannot be read. */
int vdisk_qcheck_refcount(struct qcheck *c, u64 cluster, u64 *count);
int vdisk_qcheck_set_refcount(struct qcheck *c, u64 cluster, u64 count);
/* Write the block that was changed last. */
int vdisk_qcheck_write_block(struct qcheck *c);
void vdisk_qcheck_shared(struct qcheck *c);
u64 vdisk_qcheck_max(const struct qcheck *c);
u64 vdisk_qcheck_get(const u8 *block, u32 order, u64 i);
void vdisk_qcheck_put(u8 *block, u32 order, u64 i, u64 count);

/* ---- check-copied.c ---- */

/* Compare the COPIED flags of the L1 table in use and its L2 tables with the refcounts. */
int vdisk_qcheck_copied(struct qcheck *c);

/* What may be changed in entries. */
#define FIX_CLEAR 1 /* what keeps a place from being freed, and COPIED where it must not be */
#define FIX_SET	  2 /* COPIED */

/* Correct the entries of all tables that can be; what is changed is reported. */
int vdisk_qcheck_fix_entries(struct qcheck *c, u32 what);

/* ---- repair-room.c ---- */

/* What has to be made anew. */
struct rebuild {
	u64 *blocks; /* entries of the table whose blocks are new */
	size_t n, room;
	bool relink;		   /* entries of the table change */
	bool new_table;		   /* and it goes elsewhere: */
	u64 table, table_clusters; /* of the file, and how many */
	u64 cursor;
	bool any; /* no cluster is left that was free before: take leaked ones */
};

/* Find places for what is missing or cannot be used: refcount blocks, or the table too. Changes
 * c->table and the counts, and nothing in the file. -ENOSPC. */
int vdisk_qcheck_blank(struct qcheck *c, u64 cluster, bool *blank);
int vdisk_qcheck_plan(struct qcheck *c, struct rebuild *r);

/* ---- repair-qcow.c ---- */

typedef void report_fn(void *ctx, const struct vdisk_fault *fault);

int vdisk_qcow_check(struct vdisk *vd, report_fn *report, void *ctx, struct vdisk_found *found);
int vdisk_qcow_repair(struct vdisk *vd, enum vdisk_repair_level level, report_fn *report, void *ctx,
		      struct vdisk_found *found);

#endif
