/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a format implements. A format knows bits and offsets: it does no I/O but through
 * vdisk_read() while it opens and struct vdisk_meta afterwards, prints nothing and trusts nothing
 * that it reads.
 */
#ifndef VDISK_IMAGE_H
#define VDISK_IMAGE_H

#include "meta.h"
#include "port.h"
#include "vdisk.h"

struct vdisk_unit;

/* The steps of a commit that change tables, in this order; each is durable before the next. */
enum vdisk_phase {
	VDISK_PHASE_COUNT, /* who else could take the new places sees that they are taken; places
			    * that were given up by an earlier commit are given back */
	VDISK_PHASE_ROOT,  /* headers, and what makes new tables of the first step reachable */
	VDISK_PHASE_LINK,  /* the pointers to data and to new tables of pointers */
};

#define VDISK_LAST 1 /* vdisk_format.place */

/* vdisk_format.state */
#define VDISK_WORK    1 /* a commit would change something, even without units */
#define VDISK_DROPPED 2 /* places were given up: call quiet() when nobody uses them any more */
#define VDISK_OWED    4 /* places were given up that are not given back yet */

/* Bytes of the image file to be zeroed, or copied from elsewhere in it. */
struct vdisk_region {
	u64 offset, length;
	u64 from; /* VDISK_NOWHERE: zeros */
};

/* Room inside the file, found by reading all tables once. */
struct vdisk_space {
	u64 next;      /* byte of the file: the first free one behind everything that is used */
	u64 end;       /* nothing may be put at or behind this one */
	u64 free;      /* qcow2: clusters, when known */
	u64 allocated; /* units that have a place; qcow2: clusters of the file that are in use */
	u64 cursor;    /* the format's: how far the search has come */
	u64 tables;    /* qcow: L2 tables that it has seen */
	bool known;    /* the search has ended */
};

struct vdisk_format {
	const char *name;
	/* Does the image look like this format? 1 yes, 0 no, or a negative errno of the reader.
	 * NULL: never, it has to be named. */
	int (*probe)(const struct vdisk_io *io);
	/* Headers to vd->info, every field that is used validated. Reads headers only. */
	int (*open)(struct vdisk *vd, const struct vdisk_options *options, struct vdisk_error *err);
	/*
	 * vdisk_image_map() with a range that was checked already. May answer less than could be
	 * said (one table entry), never sleeps.
	 */
	int (*map)(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);

	/* The rest is for formats that allocate (vd->unit_shift is not 0); the engine calls it, one
	 * caller at a time. What is not needed may be NULL, but for scan, room, reserve, place and
	 * change. Whoever reads a block that is not cached says so: -EAGAIN, and answer is
	 * VDISK_NEED; he is called again when it is there. -EUCLEAN: an entry is damaged, as
	 * vdisk_image_map() has it. */

	/* Before the first write, for at most `units` pending ones at a time; and when there will
	 * be no more. -ENOMEM. */
	int (*begin)(struct vdisk *vd, u32 units);
	void (*end)(struct vdisk *vd);

	/* Read on from space->cursor, as far as cached blocks go. 0: all is read and space->known;
	 * or -EAGAIN, -EUCLEAN. */
	int (*scan)(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer);
	/* How much is left, in bytes of the virtual disk. */
	u64 (*room)(const struct vdisk *vd, const struct vdisk_space *space);

	/*
	 * Find room for what unit `index` needs: *home, where its first byte goes, unless home is
	 * NULL, and tables. It belongs to the next commit, which links it. 0; -EAGAIN; -EBUSY: ask
	 * again when a commit has ended; -ENOSPC; -EUCLEAN.
	 */
	int (*reserve)(struct vdisk *vd, struct vdisk_space *space, u64 index, u64 *home,
		       struct vdisk_map *answer);
	/* The unit, whose home was reserved, goes without having been linked. With unit->error,
	 * somebody may be reading there what was written. */
	void (*unreserve)(struct vdisk *vd, struct vdisk_space *space, struct vdisk_unit *unit);

	/* A commit begins: what was reserved until now, and units that are `sealed`, belong to it.
	 * It ends well: all of it is durable. (When it fails the engine asks for nothing more.) */
	void (*seal)(struct vdisk *vd);
	void (*committed)(struct vdisk *vd, struct vdisk_space *space);
	/* The n-th region that has to be made before tables are changed; false: no more. */
	bool (*prepare)(const struct vdisk *vd, u32 n, struct vdisk_region *region);
	/*
	 * The n-th metadata block that this step of the commit changes for a unit, or, if unit is
	 * NULL, for what belongs to none. 0, or VDISK_LAST if it is known to be the last one;
	 * -ENOENT: there are no more; -EAGAIN, -EUCLEAN.
	 */
	int (*place)(struct vdisk *vd, enum vdisk_phase phase, const struct vdisk_unit *unit, u32 n,
		     u64 *block, struct vdisk_map *answer);
	/* Change that block's contents so; false when there was nothing to change. Others read it
	 * meanwhile: whole words or bytes only, or inside of vd->seq. */
	bool (*change)(struct vdisk *vd, struct vdisk_space *space, enum vdisk_phase phase,
		       const struct vdisk_unit *unit, u32 n, u8 *data);

	/* VDISK_WORK, … */
	u32 (*state)(const struct vdisk *vd);
	/* No I/O is under way any more that was mapped before VDISK_DROPPED was seen. */
	void (*quiet)(struct vdisk *vd);
};

/* A range of the image file that holds headers or tables: no unit may lie there. */
struct vdisk_range {
	u64 offset, length;
};

#define VHD_LOCATORS 8

/* An open VHD, vhd.c. All in bytes unless it says sectors. */
struct vhd {
	u64 bat_offset;
	u64 data_end;	  /* of the file: blocks end here */
	u64 fixed_end;	  /* of all fixed ranges */
	u32 bat_entries;  /* that the virtual size needs */
	u32 block_shift;  /* log2 of the block size */
	u32 bitmap_bytes; /* in front of each block, whole sectors */
	u64 plain_last;	  /* where the last block can begin that is all there, for vdisk.plain */
	bool differencing;
	struct vdisk_range fixed[3 + VHD_LOCATORS]; /* footer copy, header, BAT, locators */
	u32 n_fixed;
	struct {
		u32 code, length;
		u64 offset;
	} locators[VHD_LOCATORS];
};

#define QCOW_TABLES 1024

/* An open qcow or qcow2, qcow2.c and qcow1.c. All in bytes unless it says otherwise. */
struct qcow {
	u32 version; /* 1: qcow, 2 and 3: qcow2 */
	u32 cluster_bits;
	u32 l2_bits;	 /* log2 of the entries of an L2 table */
	u32 entry_bytes; /* of an L2 entry: 8, or 16 with subclusters */
	u64 l1_offset;	 /* of the table in use: the image's or the snapshot's */
	u64 l1_entries;	 /* that the virtual size needs */
	bool has_parent, has_data, data_raw;
	bool read_only_l1; /* a snapshot's: COPIED says nothing there */
	/* qcow2 */
	u64 refcount_table;
	u32 refcount_table_clusters;
	u32 refcount_order; /* log2 of the bits of a refcount */
	u64 autoclear;	    /* bits that the first write has to clear; 0: none */
	u64 snapshots_offset, snapshots_end;
	u64 bitmaps_directory, bitmaps_directory_size; /* of the header extension, or 0 */
	/* of the header, where no cluster of the disk or a table may lie: header, L1 table,
	 * refcount table, snapshot table, bitmap directory */
	struct vdisk_range fixed[5];
	u32 n_fixed;
	u64 fixed_end;	/* of all of them */
	u64 plain_last; /* where the last cluster can be that is all there, for vdisk.plain */
	u64 tables[QCOW_TABLES]; /* the same: see qcow-map.c */
	/* the name of the backing file, and of the data file */
	u64 backing_offset, data_name_offset;
	u32 backing_length, data_name_length;
	struct qcow_alloc *alloc; /* the engine's, refcount.c; NULL until the first write */
};

struct vdisk {
	const struct vdisk_format *format;
	struct vdisk_io io;
	struct vdisk_meta *meta; /* the host's */
	struct vdisk_info info;
	/* What all devices below can read, bytes: answers that are no multiple are refused. The
	 * metadata block, unless a host with a parent of larger blocks says more. */
	u32 granule;
	/* Of formats that allocate: */
	u32 unit_shift; /* log2 of the bytes that get a place together; 0: the format is flat */
	u32 head_bytes; /* that a new unit has in front of its home: its bitmap */
	/* Bytes, a power of two up to the unit: what is written in part has to be filled up to
	 * that, with what was there before, before it is linked. 0: never. */
	u32 fill;
	/* Zeros, and discards, of whole `fill` bytes can be said in the tables. */
	bool can_zero, can_discard;
	/* The header has to be changed before the first write; changed by the engine only. */
	bool touch;
	/* The engine has found damage: the header shall say so. */
	bool mark_corrupt;
	/* Odd while the engine changes an entry that readers cannot load at once. */
	u32 seq;
	bool readonly; /* whatever the device can: a snapshot, or refcounts in doubt */
	/*
	 * The commonest answer of vdisk_image_map(), as cheap as it gets: the byte of the file
	 * where byte `offset` of the disk is, if all of its unit, or what the disk has of it, is
	 * DATA there. VDISK_NOWHERE: ask map. By any number of callers at once. NULL: always ask.
	 */
	u64 (*plain)(struct vdisk *vd, u64 offset);
	/* How many of `length` bytes, more than are left in the unit, lie together from there on:
	 * not less than are left in it. NULL: no more. */
	u64 (*plain_run)(struct vdisk *vd, u64 offset, u64 place, u64 length);
	union {
		struct vhd vhd;
		struct qcow qcow;
	};
	void *host; /* whoever opened it */
};

extern const struct vdisk_format vdisk_raw;
extern const struct vdisk_format vdisk_vhd;
extern const struct vdisk_format vdisk_qcow;  /* version 1 */
extern const struct vdisk_format vdisk_qcow2; /* versions 2 and 3 */

/*
 * Read and validate the headers, as vdisk_open() does. meta must outlive the image. May sleep. On
 * success *vd is the caller's: vdisk_image_close().
 */
int vdisk_image_open(const struct vdisk_io *io, struct vdisk_meta *meta,
		     const struct vdisk_options *options, struct vdisk **vd,
		     struct vdisk_error *err);
void vdisk_image_close(struct vdisk *vd);

/*
 * One answer, and no waiting: VDISK_NEED when a block is not cached. -EINVAL for a range that is
 * empty or not inside the virtual size; -EUCLEAN when the entry points where no data can be,
 * -EOPNOTSUPP when the data there are not in whole blocks that the device can read:
 * answer->offset is then the entry's place in the file, answer->home what it says. Only reads vd:
 * any number of callers at once.
 */
int vdisk_image_map(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);

/* The only way a format reads while it opens: -EINVAL for a range that is not inside the file. */
int vdisk_read(const struct vdisk_io *io, u64 offset, void *buf, size_t len);

/* Fill err (which may be NULL) and return code. */
int vdisk_fail(struct vdisk_error *err, int code, struct vdisk_error what);

/* For formats whose data lie in one piece at the start of the file. */
int vdisk_map_flat(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);

#endif
