/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A SOURCE that is open: the file, where it lies, and the image in it. */
#ifndef NTFSMAP_IMAGE_H
#define NTFSMAP_IMAGE_H

#include "ntfs.h"
#include "plan.h"
#include "source.h"
#include "users.h"

struct image {
	struct source src;
	char *name;	    /* for messages: DEVICE:/path */
	struct volume *vol; /* SOURCE_NTFS */
	bool shares_volume; /* vol is that of the image whose parent this is */
	struct ntfs_file *file;
	int fd;		    /* the others */
	struct where where; /* what the extents are on; path belongs to src */
	uint32_t logical_block;
	struct vdisk_io io;
	struct vdisk *vd;	    /* after image_probe() */
	struct vdisk_extents whole; /* the others: one piece */
	struct users users;	    /* after safety_look(): who else uses the file's place */
	/* a differencing image, after chain_open(); owned */
	struct image *parent;
	bool stale;	    /* the parent's file was modified after this image was made */
	struct image *data; /* the data file of a qcow2, a raw image; after chain_open(); owned */
	char *snapshot;	    /* the id of the one that is open, or NULL */
	/* for tables */
	char *device;	  /* how one names where the extents are */
	int loop;	  /* keeps a loop device that open made until device-mapper has it */
	struct plan plan; /* after layout_plan() */
};

extern const struct image image_none; /* nothing is open */

/* Resolve spec and open the file. */
int image_open(const char *spec, struct image *img);

/* The same for a file on the volume of another image, which must stay open as long. */
int image_open_beside(const struct image *other, const char *path, struct image *img);

/* What never changes about a file on NTFS: names may. */
struct file_id {
	uint64_t serial; /* of the volume */
	uint64_t record; /* of the MFT */
	uint16_t sequence;
	uint32_t stream_hash; /* ntfs_stream_hash() */
};

/* The same for a file that an open mapping names. DAMAGED when it is not there any more. device is
 * copied. */
int image_open_id(const char *device, const struct file_id *id, struct image *img);

/* Open the image in the file. format NULL: what it looks like; a name that promises a format which
 * the contents are not is an error then. snapshot: the id or name of the internal snapshot to open
 * instead, or NULL. */
int image_probe(struct image *img, const char *format, const char *snapshot);

/* The files of a chain one after the other: root, its data file, its parent, the parent's data
 * file, and so on. NULL: there are no more. */
struct image *image_next(const struct image *root, const struct image *img);

/* Where the file lies, in sectors. */
const struct vdisk_extents *image_extents(const struct image *img);

/* What UUIDs call a file on NTFS: "SERIAL-RECORD-SEQUENCE-STREAM-"; NULL for others. The caller
 * frees. */
char *image_id(const struct image *img);

/* When its file was modified last, in seconds since 1970, UTC; 0: not known. */
int64_t image_modified(const struct image *img);

/* Are both the same file or device? */
bool image_same(const struct image *a, const struct image *b);

/* fail() for what libvdisk returned (a positive errno) about the image. */
int image_fail(const struct image *img, int error, const struct vdisk_error *err);

/* The parents and data files too. */
void image_close(struct image *img);

#endif
