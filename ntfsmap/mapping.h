/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Open mappings. Nothing about them is kept in files: the device-mapper UUID says what was mapped,
 * the live table where it is, and the volume itself by which name.
 *
 *   NTFSMAP-<FORMAT>-<volume serial>-<MFT record>-<sequence>-<stream>-<name>   a file on NTFS;
 *           stream is ntfs_stream_hash(), 0 for the unnamed one
 *   NTFSMAP-<FORMAT>-FILE-<name>, NTFSMAP-<FORMAT>-DEVICE-<name>                   others
 *   NTFSMAP-BASE-…                        the same for the parents of an open image, and their
 *                                         data files
 *   NTFSMAP-DATA-…                        the same for the data file of an open image
 *   NTFSMAP-REPAIR-…                      the same for an image that is being repaired
 *   NTFSMAP-ORIGIN-…                      the same for an image below its overlay; the overlay
 *                                         has the UUID that the image would have
 *   NTFSMAP-COW-…                         the same for the store of an overlay
 *   NTFSMAP-COW-TMPFS-<name>              one in memory
 *   NTFSMAP-HOST-<volume serial>-<name>   a view of a volume
 *
 * FORMAT is QCOW2S for a snapshot that --static has laid out, as its table cannot say so.
 */
#ifndef NTFSMAP_MAPPING_H
#define NTFSMAP_MAPPING_H

#include "dm.h"
#include "image.h"

enum mapping_kind { MAPPING_NTFS, MAPPING_FILE, MAPPING_DEVICE, MAPPING_HOST, MAPPING_MEMORY };

struct mapping {
	enum mapping_kind kind;
	bool base;	     /* the parent of open images */
	bool data;	     /* the data file of an open image */
	bool origin;	     /* below its overlay */
	bool cow;	     /* the store of an overlay */
	bool frozen;	     /* --static of a snapshot: of which is not known */
	bool several;	     /* --static of a chain on several devices: device is one of them */
	char format[8];	     /* in lower case, as vdisk_open() takes it; "host" for a view */
	struct file_id file; /* of a view the serial number only */
	bool fenced;	     /* its table fails all I/O: dm_is_fenced() */
	char *device; /* the volume, the image's device or its file, through a loop device or not */
	dev_t table_dev; /* what the table names: the device or the loop device over it */
	char *snapshot;	 /* that the table names, or NULL */
};

/* What a device is made for. */
enum mapping_role { ROLE_IMAGE, ROLE_BASE, ROLE_DATA, ROLE_REPAIR, ROLE_ORIGIN, ROLE_COW };

/* The caller frees. */
char *mapping_uuid(const struct image *img, const char *name, enum mapping_role role);
char *mapping_memory_uuid(const char *name); /* of a store in memory */
char *mapping_host_uuid(const struct volume *vol, const char *name);

/* What an open device maps; false when it is none of ours. */
bool mapping_of(const struct dm_device *d, struct mapping *m);
void mapping_free(struct mapping *m);

/* Does the mapping lie on the device or file that the volume or image img is on? */
bool mapping_same_place(const struct mapping *m, const struct image *img);

/* Does it map the file or device that img is? */
bool mapping_is_of(const struct mapping *m, const struct image *img);

/* An open base that maps the file of img as img->plan has it, or NULL. */
const struct dm_device *mapping_find_base(const struct dm_devices *all, const struct image *img);

/* fail() for the layout of a snapshot: it cannot be made again. */
int mapping_refuse_frozen(const struct mapping *m);

/* Open what is mapped, as it is on the disk now. Not for views. */
int mapping_open_image(const struct mapping *m, struct image *img);

/* "DEVICE:/path" for people, however little can be found out. The caller frees. */
char *mapping_source(const struct mapping *m);

/* Read NAME (or /dev/mapper/NAME) and refuse what is not ours. */
int mapping_read(const char *name, struct dm_device *d, struct mapping *m);

/*
 * Only one ntfsmap changes devices at a time, until mapping_unlock() or the end of the program; who
 * has the lock may take it again. Takes away what one that was killed in the middle of it left
 * behind: a device of ours that never got a table, one that is there for others and that nobody
 * uses, or the device of a repair.
 */
int mapping_lock(void);
void mapping_unlock(void);

/* The same once more, with the lock, after a device went whose table does not say any more what was
 * there for it. */
int mapping_sweep(void);

/* Run change(ctx) in a process of its own that no signal to this one reaches, so that a device is
 * made as a whole or not at all. */
int mapping_change(int (*change)(void *ctx), void *ctx);

#endif
