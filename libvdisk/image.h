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

/* Room inside the file, found by reading all tables once. Bytes of the image file. */
struct vdisk_space {
	u64 next;      /* the first free byte behind everything that is used */
	u64 end;       /* nothing may be put at or behind this one */
	u64 allocated; /* units of the virtual disk that have a place */
	u64 cursor;    /* the format's: how far the search has come */
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

	/* The rest is for formats that allocate (vd->unit_shift is not 0); engine.h calls it. */

	/*
	 * Read on from space->cursor, as far as cached blocks go. 0: all is read and space->known;
	 * -EAGAIN: answer is VDISK_NEED, a block has to be fetched first; -EUCLEAN: an entry is
	 * damaged, as vdisk_image_map() has it.
	 */
	int (*scan)(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer);
	/* Take room for one unit: *home is where its first byte goes. -ENOSPC. */
	int (*take)(const struct vdisk *vd, struct vdisk_space *space, u64 *home);
	/* How much is left, in bytes of the virtual disk. */
	u64 (*room)(const struct vdisk *vd, const struct vdisk_space *space);
	/*
	 * The n-th metadata block that makes the unit's sectors reachable: its offset in the file,
	 * or VDISK_NOWHERE when there are no more.
	 */
	u64 (*link_block)(const struct vdisk *vd, const struct vdisk_unit *unit, u32 n);
	/* Change that block's contents so; false when there was nothing to change. Others read it
	 * meanwhile: whole words or bytes only. */
	bool (*link)(const struct vdisk *vd, const struct vdisk_unit *unit, u32 n, u8 *data);
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
	bool differencing;
	struct vdisk_range fixed[3 + VHD_LOCATORS]; /* footer copy, header, BAT, locators */
	u32 n_fixed;
	struct {
		u32 code, length;
		u64 offset;
	} locators[VHD_LOCATORS];
};

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
	u64 fixed_end; /* of all of them */
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
	u32 unit_shift;	 /* log2 of the bytes that get a place together; 0: the format is flat */
	u32 head_bytes;	 /* that a new unit has in front of its home: its bitmap */
	bool fill_zeros; /* what is not covered of a new unit must be zeroed before it is linked */
	bool readonly;	 /* whatever the device can: a snapshot, or refcounts in doubt */
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
 * Read and validate the headers, as vdisk_open() does. meta must outlive the image. May sleep. On success *vd is the caller's: vdisk_image_close().
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
