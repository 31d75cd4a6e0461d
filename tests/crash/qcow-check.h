/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A qcow2 image as the specification has it (QEMU, docs/interop/qcow2.txt), read without a line of
 * libvdisk's: who uses which cluster, whether the refcounts say so, what each sector holds.
 */
#ifndef CRASH_QCOW_CHECK_H
#define CRASH_QCOW_CHECK_H

#include "../../libvdisk/port.h"

/* "Header": offsets of the fields in bytes. */
enum {
	Q_VERSION = 4,
	Q_BACKING = 8,
	Q_BACKING_LENGTH = 16,
	Q_CLUSTER_BITS = 20,
	Q_SIZE = 24,
	Q_L1_SIZE = 36,
	Q_L1 = 40,
	Q_REFCOUNT_TABLE = 48,
	Q_REFCOUNT_CLUSTERS = 56,
	Q_SNAPSHOTS = 60,
	Q_SNAPSHOT_TABLE = 64,
	Q_INCOMPATIBLE = 72,
	Q_COMPATIBLE = 80,
	Q_AUTOCLEAR = 88,
	Q_REFCOUNT_ORDER = 96,
	Q_HEADER_LENGTH = 100,
};

#define Q_DATA_FILE  (1ULL << 2) /* incompatible */
#define Q_EXTENDED   (1ULL << 4)
#define Q_DATA_RAW   (1ULL << 1) /* autoclear */
#define Q_COPIED     (1ULL << 63)
#define Q_COMPRESSED (1ULL << 62)
#define Q_ZERO	     1ULL
#define Q_OFFSET     0x00fffffffffffe00ULL

enum qcow_use {
	USED_NOT,
	USED_HEADER,
	USED_REFCOUNT_TABLE,
	USED_REFCOUNT_BLOCK,
	USED_L1,
	USED_L2,
	USED_DATA,
	USED_PACKED,
	USED_SNAPSHOTS,
	USED_BITMAP,
};

struct qcow_view {
	const u8 *file;
	u64 size, clusters; /* of the file; the last may be cut off */
	u64 cluster, virtual_size;
	u32 version, cluster_bits, entry_bytes, refcount_order;
	u64 per_table; /* entries of an L2 table */
	u64 l1, l1_size, refcount_table, refcount_clusters;
	u32 snapshots;
	u64 autoclear;
	bool data_file, extended;
	u64 *refcounts;	  /* what the image says */
	u32 *refs;	  /* what it uses */
	u8 *kinds, *seen; /* enum qcow_use; how often by the active tables */
	char problem[200];
};

/* Look at the header, and at all tables. What is wrong first is told in v->problem. */
void qcow_look(struct qcow_view *v, const u8 *file, u64 size);
void qcow_forget(struct qcow_view *v);

/* Do the refcounts and COPIED bits agree with the tables, leaks aside? */
void qcow_check_counts(struct qcow_view *v);
u64 qcow_leaks(const struct qcow_view *v);

/* The n-th snapshot's L1 table. */
void qcow_snapshot(const struct qcow_view *v, u32 n, u64 *l1, u64 *l1_size);

/* Inflate the compressed cluster of this L2 entry; false: it cannot be. */
bool qcow_inflate(const u8 *stream, u64 length, u8 *out, u64 cluster);

/* What the sectors hold through this L1 table, as stamps; holes have the parent's stamps up to
 * its end. */
void qcow_read(struct qcow_view *v, u64 l1, u64 l1_size, u64 parent_sectors, const u8 *data,
	       u64 *stamps, u64 sectors);

void qcow_put(u8 *p, int bytes, u64 value);
void qcow_put_refcount(u8 *block, u32 order, u64 i, u64 value);

#endif
