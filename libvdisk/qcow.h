/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow (version 1) and qcow2 (versions 2 and 3): QEMU, docs/interop/qcow2.txt. Both have two levels
 * of tables: the L1 table, whose entries point to L2 tables, whose entries point to clusters.
 *
 *   qcow2.c          headers of versions 2 and 3, header extensions
 *   qcow1.c          the header of version 1
 *   qcow-snapshot.c  internal snapshots
 *   qcow-map.c       look-up in the two tables
 *   qcow-write.c  what the engine asks for: what a unit needs, and the pointers to it
 *   space.c       room in the file
 *   refcount.c    refcounts
 */
#ifndef VDISK_QCOW_H
#define VDISK_QCOW_H

#include "image.h"

/* qcow2.txt, "L1 table entry" and "Standard Cluster Descriptor" */
#define QCOW_COPIED	(1ULL << 63) /* the refcount is 1: may be overwritten */
#define QCOW_COMPRESSED (1ULL << 62)
#define QCOW_ZERO	(1ULL << 0) /* version 3, without subclusters */
#define QCOW_OFFSET	0x00fffffffffffe00ULL
/* version 1 has one flag, in bit 63 */
#define QCOW1_COMPRESSED (1ULL << 63)
#define QCOW1_OFFSET	 (QCOW1_COMPRESSED - 1)

#define QCOW_SUBCLUSTERS 32

/* What the tables say about one cluster of the disk, as they have it. */
struct qcow_entry {
	u64 l1_at, l1;	   /* the L1 entry's place in the file, and the entry */
	u64 table;	   /* the L2 table, or VDISK_NOWHERE */
	bool table_shared; /* it must not be changed where it is */
	u64 at;		   /* the L2 entry's place; VDISK_NOWHERE without a table */
	u64 value;	   /* the L2 entry: 0 without a table */
	u64 bits;	   /* with subclusters: its second word */
};

/*
 * Load the entries for byte `offset` of the disk, from the cache. 0; -EAGAIN: answer is VDISK_NEED;
 * -EUCLEAN: the L1 entry cannot be, and answer->offset and ->home say so, as vdisk_image_map()
 * does. The L2 entry is not judged.
 */
int vdisk_qcow_load(const struct vdisk *vd, u64 offset, struct qcow_entry *e,
		    struct vdisk_map *answer);

/* Does a cluster, or a table of `length` bytes, that begins here lie in the file, apart from fixed
 * ranges? The last one may end past the end of the file. */
bool vdisk_qcow_sound(const struct vdisk *vd, u64 offset, u64 length);

/* Where the bytes of a compressed cluster are, from its L2 entry; *packed ends with the file. */
void vdisk_qcow_compressed(const struct vdisk *vd, u64 value, u64 *offset, u32 *packed);

/* vdisk_format.map of both */
int vdisk_qcow_map(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);

/* Version 2 and up, while opening, at last: vdisk.plain, if it can be used. */
void vdisk_qcow_use_plain(struct vdisk *vd);

/* Where the L2 entry for that byte of the disk is, if its table is the image's own and a look-up in
 * the cache of L1 entries says so; or VDISK_NOWHERE. */
u64 vdisk_qcow_plain_entry(struct vdisk *vd, u64 offset);

/* ---- qcow-snapshot.c: internal snapshots ---- */

/* What is read of an entry of the snapshot table. */
struct qcow_snapshot {
	u64 l1_offset;
	u32 l1_entries;
	u64 disk_size; /* bytes; 0: not told */
	u64 state_size;
	u32 seconds, nanoseconds;
	u64 id_offset, name_offset; /* in the file */
	u32 id_length, name_length;
	u64 end, next; /* of this entry, and where the next one is */
};

/* Read the entry at `at`: the first one is at snapshots_offset. -EUCLEAN with err. */
int vdisk_qcow_read_snapshot(struct vdisk *vd, u64 at, struct qcow_snapshot *s,
			     struct vdisk_error *err);
/* While opening: snapshots_end. */
int vdisk_qcow_find_snapshots_end(struct vdisk *vd, struct vdisk_error *err);
/* While opening: the snapshot with this id, or name, is what the disk is. -ENOENT with err. */
int vdisk_qcow_use_snapshot(struct vdisk *vd, const char *name, struct vdisk_error *err);

/* ---- the rest of vdisk_format ---- */

/* qcow-write.c, */
int vdisk_qcow_begin_writing(struct vdisk *vd, u32 units);
int vdisk_qcow_reserve(struct vdisk *vd, struct vdisk_space *space, u64 index, u64 *home,
		       struct vdisk_map *answer);
int vdisk_qcow_place(struct vdisk *vd, enum vdisk_phase phase, const struct vdisk_unit *unit, u32 n,
		     u64 *block, struct vdisk_map *answer);
bool vdisk_qcow_change(struct vdisk *vd, struct vdisk_space *space, enum vdisk_phase phase,
		       const struct vdisk_unit *unit, u32 n, u8 *data);
/* space.c, */
void vdisk_qcow_end(struct vdisk *vd);
int vdisk_qcow_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer);
u64 vdisk_qcow_room(const struct vdisk *vd, const struct vdisk_space *space);
int vdisk_qcow1_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer);
u64 vdisk_qcow1_room(const struct vdisk *vd, const struct vdisk_space *space);
/* refcount.c */
void vdisk_qcow_unreserve(struct vdisk *vd, struct vdisk_space *space, struct vdisk_unit *unit);
void vdisk_qcow_seal(struct vdisk *vd);
void vdisk_qcow_committed(struct vdisk *vd, struct vdisk_space *space);
bool vdisk_qcow_prepare(const struct vdisk *vd, u32 n, struct vdisk_region *region);
u32 vdisk_qcow_state(const struct vdisk *vd);
void vdisk_qcow_quiet(struct vdisk *vd);

#endif
