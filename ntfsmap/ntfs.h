/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NTFS, read only: a volume, a file on it, the runs of the file. libntfs-3g is used in the files
 * that include ntfs-lib.h, nowhere else.
 *
 * Nothing here can write: the library gets a device whose write operations answer EROFS, over a
 * descriptor that was opened O_RDONLY.
 */
#ifndef NTFSMAP_NTFS_H
#define NTFSMAP_NTFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../libvdisk/extents.h"

/* The bits of attr_flags below. */
#define ATTR_COMPRESSED 0x00ff
#define ATTR_ENCRYPTED	0x4000
#define ATTR_SPARSE	0x8000

struct ntfs_lib; /* libntfs' own objects, see ntfs-lib.h */

struct volume {
	struct ntfs_lib *lib;
	char *device; /* as it was named */
	int fd;
	int io_error;  /* errno of the last read that failed */
	bool is_block; /* or a regular file that holds a volume */
	dev_t rdev;    /* of the block device */
	uint64_t device_bytes;
	uint32_t logical_block; /* of the device, in bytes; 512 for a regular file */
	uint32_t cluster_size;
	uint32_t mft_record_size;
	uint64_t clusters;
	uint64_t serial;
	uint8_t major, minor;
	bool dirty; /* $Volume says VOLUME_IS_DIRTY */
	char *label;
};

enum runs_state {
	RUNS_NONE,    /* resident or without a stream: there is no runlist */
	RUNS_GOOD,    /* extents is what the file says, validated */
	RUNS_DAMAGED, /* runs_problem says why; extents is empty */
};

struct ntfs_file {
	struct volume *vol;
	void *inode, *attr; /* libntfs' */
	char *path;	    /* as it was asked for, with '/' */
	char *stream;	    /* "" for the unnamed one */
	uint64_t record;    /* of the MFT */
	uint16_t sequence;
	uint32_t file_flags; /* FILE_ATTR_*, from $STANDARD_INFORMATION */
	int64_t modified;    /* its data, in seconds since 1970, UTC */
	uint16_t links;
	bool directory;
	bool extend;	      /* below $Extend, by any of its names */
	bool memory;	      /* hiberfil.sys and its like, by any of its names */
	uint32_t reparse_tag; /* 0: none */
	/* the $DATA attribute, from its record on the disk */
	bool resident;
	uint16_t attr_flags; /* compressed, encrypted, sparse */
	uint64_t data_size, allocated_size, initialized_size;
	enum runs_state runs;
	char *runs_problem;
	uint64_t holes;		      /* sectors */
	struct vdisk_extents extents; /* of the allocated file, on the volume, in sectors */
};

/* Open a volume on a block device or in a regular file. Messages and exit codes are its own. */
int volume_open(const char *device, struct volume **vol);
void volume_close(struct volume *vol);

/*
 * Find path (components separated by '/' or, where no file of that literal name exists, '\'; exact
 * case first, then without; a last `:stream` names an alternate data stream) and read everything
 * about it that struct ntfs_file holds. A file that must not be mapped is not an error here: the
 * safety checks say so. REFUSED for a component that is a reparse point.
 */
int volume_find(struct volume *vol, const char *path, struct ntfs_file **file);

/* The same for a file that an open mapping names: the sequence must fit. stream_hash as in
 * ntfs_stream_hash(). DAMAGED when the record now belongs to something else. */
int volume_find_record(struct volume *vol, uint64_t record, uint16_t sequence, uint32_t stream_hash,
		       struct ntfs_file **file);
void ntfs_file_close(struct ntfs_file *file);

/* Reads what Windows would: holes, and what lies beyond the valid data length, are zeros. 0 or a
 * negative errno. Fits struct vdisk_io. */
int ntfs_file_read(void *file, uint64_t offset, void *buf, size_t len);

/* A short name for a stream in a device-mapper UUID; 0 for the unnamed stream only. */
uint32_t ntfs_stream_hash(const char *stream);

/* Are the clusters of the extents marked in $Bitmap? Counts those that are not. 0 or -errno. */
int volume_bitmap_check(struct volume *vol, const struct vdisk_extents *x, uint64_t *missing,
			uint64_t *first_missing);
/* How many of the extents' clusters $BadClus lists. 0 or -errno. */
int volume_badclus_check(struct volume *vol, const struct vdisk_extents *x, uint64_t *bad);

/* Why something of the volume could not be read, a negative errno: what its device said, as chkdsk
 * would only make a failing disk worse, or else -EUCLEAN. io_error has to be 0 before. */
int volume_read_error(const struct volume *vol);

/* An attribute that has one of the clusters of a file and is not that file's stream. */
struct owner_claim {
	uint64_t record; /* of the MFT, where it is */
	uint16_t sequence;
	uint64_t base;	/* the record that its file begins in; the same if it is no extent record */
	bool same_file; /* as the stream's */
	bool same_stream; /* but the file does not know of this part of it, or has it twice */
	uint32_t type;
	char *name; /* of the attribute, or "" */
	char *file; /* a name of its file, or NULL where the records do not tell it */
	uint64_t lcn;
};

/* What a pass over the whole MFT has found. */
struct owners {
	uint64_t records; /* in use */
	uint64_t claims;  /* of others */
	struct owner_claim first;
	uint64_t unreadable; /* records in use: what they have is not known */
	uint64_t first_unreadable;
	const char *problem; /* of that one */
};

/* Who else has clusters of the file's stream? Its runs must be good. 0 or -errno. */
int volume_owners(const struct ntfs_file *file, struct owners *o);
void owners_free(struct owners *o);

/* "$DATA" and so on; NULL for one that NTFS does not have. */
const char *ntfs_attr_type_name(uint32_t type);

/* The extents without holes, sorted by their place on the device. */
struct sorted_extents {
	struct vdisk_extent *v;
	size_t n;
};

/* Where on the volume a file is described and stored. */
struct file_places {
	struct record_place {
		uint64_t record; /* of the MFT */
		uint64_t lsn;	 /* of the last change that is in it */
	} * v;			 /* its base record and all extent records, sorted */
	size_t n;
	struct sorted_extents clusters, list; /* its data; its attribute list */
};

/* Where the volume's own files are, and the units of it all. */
struct volume_places {
	uint32_t cluster_size, record_size;
	struct vdisk_extents mft, bitmap;
};

/* 0 or -errno; ends with volume_places_free() in any case. */
int volume_places(struct volume *vol, struct volume_places *places);
void volume_places_free(struct volume_places *places);

/* Of a file whose runs are good. 0 or -errno; ends with file_places_free() in any case. */
int ntfs_file_places(struct ntfs_file *f, struct file_places *places);
void file_places_free(struct file_places *places);

struct log_io;

/* The volume's $LogFile. 0 or -errno; ends with volume_log_done() in any case. */
int volume_log_io(struct volume *vol, struct log_io *io);
void volume_log_done(struct log_io *io);

/* Read the beginning of a file in the root directory (any spelling). Returns bytes read, 0 when
 * there is no such file, -errno. *size is the file's. */
long volume_read_root_file(struct volume *vol, const char *name, void *buf, size_t len,
			   uint64_t *size);

#endif
