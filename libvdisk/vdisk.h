/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libvdisk - the block tables of virtual disk images.
 *
 * An image is read through a struct vdisk_io that the caller fills in, so that the file may be a
 * descriptor, an attribute of an unmounted NTFS volume, or a block device in the kernel.
 *
 * All offsets and lengths are bytes unless a name says sectors (always 512 bytes). Functions
 * return 0 or a negative errno:
 *   -EUCLEAN     the image is damaged: the error says which field
 *   -EOPNOTSUPP  the image is sound, but of a kind that is not supported
 *   -EIO, …      what the reader or writer returned
 *   -ENOSPC      no room inside the image file for a new block
 *   -EROFS       the image cannot be written
 *   -ENOMEM, -EINVAL
 * A struct vdisk may be used by several threads, as long as nobody closes it.
 */
#ifndef VDISK_H
#define VDISK_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stddef.h>
#include <stdint.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define VDISK_SECTOR 512

struct vdisk;

/* The image file. Must stay valid until vdisk_close(). */
struct vdisk_io {
	void *ctx;
	uint64_t size; /* bytes of the image file */
	/* Fill buf with exactly len bytes from offset; 0 or a negative errno. Never called with a
	 * range that is not inside size. */
	int (*read)(void *ctx, uint64_t offset, void *buf, size_t len);
	/* The same for writing; NULL: the image is read-only. Never makes the file longer. */
	int (*write)(void *ctx, uint64_t offset, const void *buf, size_t len);
	/* What was written before is durable when this returns. Must be there if write is. */
	int (*flush)(void *ctx);
};

/* How the values of an error are best shown. */
enum vdisk_show {
	VDISK_SHOW_NONE,
	VDISK_SHOW_DECIMAL,
	VDISK_SHOW_HEX,
	VDISK_SHOW_TEXT, /* up to 8 characters, the first in the most significant byte */
};

/* What is wrong with an image, and where. The pointers are to constants. */
struct vdisk_error {
	const char *field;   /* "footer.checksum"; NULL when no single field is to blame */
	const char *problem; /* "does not match the footer"; NULL: nothing to report */
	const char *advice;  /* what to do about it, or NULL */
	uint64_t offset;     /* of the field in the image file */
	uint64_t found;
	uint64_t expected;
	enum vdisk_show show;
	char detail[48]; /* of the image's own words, printable ASCII, or "" */
};

struct vdisk_info {
	const char *format; /* the name that vdisk_options takes: "raw", "vhd", "qcow2", "qcow" */
	const char *subformat; /* "fixed", …, or NULL where a format has only one */
	uint64_t virtual_size; /* bytes, a multiple of VDISK_SECTOR */
	uint64_t file_size;
	uint64_t tail;	     /* bytes at the end of the file that no whole sector holds (raw) */
	uint32_t block_size; /* bytes that get their place in the file together; 0: all is there */
	int needs_parent;    /* a differencing image: vdisk_set_parent() before reading */
	/* VHD */
	char creator[5];  /* Creator Application, printable characters only, or "" */
	uint8_t uuid[16]; /* Unique Id, in the order of the file */
	int has_uuid;
	int saved_state;       /* belongs to a virtual machine in a saved state */
	uint64_t chs_size;     /* bytes of the disk geometry; 0 where there is none */
	uint64_t current_size; /* Current Size */
	uint32_t time_stamp;   /* seconds since the year 2000, UTC */
	uint8_t parent_uuid[16];
	/* when the parent's file was modified last, as the child knows it; 0: it does not */
	uint32_t parent_time_stamp;
	int footer_lost;  /* only the copy at the start of the file is good: no room is taken */
	int copy_lost;	  /* only the footer at the end is good: other programs refuse that */
	int copy_differs; /* footer and copy are both good and do not say the same */
	/* qcow and qcow2 */
	uint32_t version;	  /* of the header; 1: qcow */
	uint32_t refcount_bits;	  /* qcow2 */
	uint32_t subcluster_size; /* bytes; 0 without extended L2 entries */
	const char *compression;  /* of compressed clusters: "zlib", "zstd" */
	uint32_t snapshots;	  /* internal ones */
	uint32_t bitmaps;	  /* persistent ones: cleared by the first write */
	int needs_data;		  /* the clusters are in another file: vdisk_set_data() */
	int data_raw;		  /* which is the raw disk as well */
	int lazy_refcounts;	  /* the header allows them; they are not used here */
	int dirty;		  /* its refcounts may be wrong: read-only until repaired */
	int corrupt;		  /* marked as damaged: read-only until repaired */
	int snapshot;		  /* a snapshot is what is open: read-only */
	char backing_format[16];  /* as the header has it, printable characters only, or "" */
};

#define VDISK_NOWHERE UINT64_MAX

enum vdisk_kind {
	VDISK_DATA,   /* the bytes are at `offset` of the image file and may be overwritten there */
	VDISK_ZERO,   /* reads as zeros */
	VDISK_PARENT, /* the bytes are the parent's at the same place, zeros past its end */
	VDISK_NEED,   /* not for users: a metadata block must be read first */
	VDISK_SHARED, /* as DATA, but others share the bytes: never to be overwritten there */
	/* `packed` bytes at `offset` (no multiple of anything) are a deflate or zstd stream, as
	 * vdisk_info.compression says; what it unpacks to is the whole block of block_size bytes
	 * that the answer is part of */
	VDISK_COMPRESSED,
};

/* One answer of vdisk_map(): `length` bytes of the virtual disk that are of one kind. */
struct vdisk_map {
	enum vdisk_kind kind;
	/* DATA, SHARED, COMPRESSED: where in the image file, or, if vdisk_info.needs_data, in the
	 * data file. NEED: the metadata block, and `length` bytes from there on are of the same
	 * table. */
	uint64_t offset;
	uint64_t length;
	/* ZERO, PARENT: the place that these bytes have already in the file, or VDISK_NOWHERE. */
	uint64_t home;
	uint32_t packed; /* COMPRESSED; never past the end of the file */
};

/*
 * Name the format of the image, "raw" when nothing else is recognised. *name is a constant. The
 * name may be of a format that vdisk_open() does not support. -EOPNOTSUPP when the file looks like
 * two formats at once.
 */
int vdisk_probe(const struct vdisk_io *io, const char **name, struct vdisk_error *err);

/* How an image is opened; all zeros, or no structure at all, is what most want. The strings need
 * live no longer than the call. */
struct vdisk_options {
	const char *format;   /* NULL: what vdisk_probe() finds */
	const char *snapshot; /* qcow2: the id of an internal snapshot, or its name; read-only */
	const char *parent; /* vdisk_open_file(): the path of the parent, whatever the image says */
};

/*
 * Read and validate the headers. io is copied, its ctx must outlive the image. *vd belongs to the
 * caller: vdisk_close(). options and err may be NULL; err is filled for -EUCLEAN, -EOPNOTSUPP and
 * for -ENOENT: there is no such snapshot.
 */
int vdisk_open(const struct vdisk_io *io, const struct vdisk_options *options, struct vdisk **vd,
	       struct vdisk_error *err);

/*
 * Make durable what was written, and forget the image. Returns what vdisk_flush() returns; the
 * image is gone in any case. The parent is not closed. vd may be NULL.
 */
int vdisk_close(struct vdisk *vd);

/* Valid until vdisk_close(). */
const struct vdisk_info *vdisk_info(const struct vdisk *vd);

/*
 * Where the bytes [offset, offset + length) of the virtual disk are. The answer is of one kind and
 * at most length long, but never shorter than it has to be. -EINVAL for an empty range or one that
 * is not inside the virtual size; -EUCLEAN for a table entry that points where no data can be.
 */
int vdisk_map(struct vdisk *vd, uint64_t offset, uint64_t length, struct vdisk_map *answer);

/* How much of the disk has a place in the file, and how much more can get one; bytes of the
 * virtual disk. Reads all tables. Flat images: all and none. */
struct vdisk_usage {
	uint64_t allocated;
	uint64_t room;
};

int vdisk_usage(struct vdisk *vd, struct vdisk_usage *usage);

/* The rest is for user space only. */

/* Read len bytes of the virtual disk at offset, all or an error. */
int vdisk_pread(struct vdisk *vd, void *buf, size_t len, uint64_t offset);

/*
 * Write len bytes at offset, whole sectors (-EINVAL otherwise), all or an error. Durable after
 * vdisk_flush(). -EROFS without vdisk_io.write or after a table could not be written; -ENOSPC.
 */
int vdisk_pwrite(struct vdisk *vd, const void *buf, size_t len, uint64_t offset);

/* The same for zeros: takes no room where the disk reads as zeros already. */
int vdisk_write_zeroes(struct vdisk *vd, uint64_t len, uint64_t offset);

/* The range need not be kept: what was there may read as zeros, and its place be free for others.
 * A hint, of which only whole blocks are taken. */
int vdisk_discard(struct vdisk *vd, uint64_t len, uint64_t offset);

/* What was written before is durable, and can be found, when this returns. */
int vdisk_flush(struct vdisk *vd);

/*
 * Where an image says its parent is: the n-th of its locators in the order in which they should be
 * tried, relative ones first; a qcow2 has its backing file, and a second one if that may be a path
 * of Windows. UTF-8, with '/' between the parts; an absolute path has lost its drive ("C:") and
 * begins with '/'. -ENOENT when there are no more; names that cannot be used ("nbd://…") are left
 * out. -EOPNOTSUPP: the backing file is said to be of a format that is not supported.
 */
struct vdisk_locator {
	char path[2048];
	int absolute;
	const char *format; /* that the parent has to be opened as, or NULL: probe; a constant */
};

int vdisk_parent_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator);

/*
 * Give an image its parent, which stays the caller's and must outlive it. -EUCLEAN (with err) when
 * the parent's unique id is not the one that the child names; a qcow2 names none. -ELOOP: parent is
 * vd, its chain is longer than VDISK_CHAIN_MAX, or vd has a parent already. Whether the parent was
 * changed meanwhile tells parent_time_stamp.
 */
#define VDISK_CHAIN_MAX 32

int vdisk_set_parent(struct vdisk *vd, struct vdisk *parent, struct vdisk_error *err);

/* The parent that was set, or NULL. */
struct vdisk *vdisk_parent(const struct vdisk *vd);

/* Where an image says its data file is (vdisk_info.needs_data). -ENOENT: nowhere. */
int vdisk_data_locator(struct vdisk *vd, struct vdisk_locator *locator);

/* Give the image its data file. io is copied; its ctx must outlive the image. -EUCLEAN (with err)
 * when it can be written and is too short for an image whose data file is raw: past the end of it
 * zeros are read, and nothing can be written. -EINVAL: the image needs none, or has it already. */
int vdisk_set_data(struct vdisk *vd, const struct vdisk_io *io, struct vdisk_error *err);

/* The n-th internal snapshot of a qcow2. -ENOENT when there are no more. */
struct vdisk_snapshot {
	char id[64], name[256]; /* printable UTF-8 or '?' */
	uint64_t virtual_size;
	uint64_t seconds; /* since 1970, UTC */
	uint32_t nanoseconds;
	uint64_t vm_state_size; /* bytes of the saved state of a virtual machine */
};

int vdisk_get_snapshot(struct vdisk *vd, unsigned int n, struct vdisk_snapshot *snapshot);

/* What is wrong with an image, in one place. */
enum vdisk_fault_kind {
	VDISK_FAULT_ENTRY,    /* a table entry that cannot be */
	VDISK_FAULT_OVERLAP,  /* the bytes are another block's or a table's too */
	VDISK_FAULT_REFCOUNT, /* qcow2: a cluster has more references than its refcount says */
	VDISK_FAULT_COPIED,   /* qcow2: an entry says wrongly whether its cluster is shared */
	VDISK_FAULT_LEAK,     /* qcow2: a cluster has fewer references: only its room is lost */
	VDISK_FAULT_HEADER,   /* what the header says of the whole image */
};

struct vdisk_fault {
	enum vdisk_fault_kind kind;
	int fixed;	/* it was wrong, and has been repaired */
	uint64_t entry; /* its place in the image file, or VDISK_NOWHERE */
	uint64_t index; /* of the block of the virtual disk, or VDISK_NOWHERE */
	uint64_t home;	/* the place in the image file that it is about, or VDISK_NOWHERE */
	const char *problem;
	uint64_t other;		  /* the block that it shares bytes with, or VDISK_NOWHERE */
	uint64_t found, expected; /* REFCOUNT, LEAK: the refcount, and the references */
};

/* How many faults there are, leaks apart from all others; after a repair, those that are left, and
 * how many there were more before. */
struct vdisk_found {
	uint64_t errors, leaks;
	uint64_t errors_fixed, leaks_fixed;
};

/*
 * Look at every table entry, and at the refcounts if the format has any. report() (may be NULL) is
 * called for each fault. Reads the file as it is: who has written makes that durable first.
 * -EFBIG: the file has too many clusters.
 */
int vdisk_check(struct vdisk *vd, void (*report)(void *ctx, const struct vdisk_fault *fault),
		void *ctx, struct vdisk_found *found);

enum vdisk_repair_level {
	VDISK_REPAIR_LEAKS, /* give back what nobody uses */
	VDISK_REPAIR_ALL,   /* and correct refcounts and flags, making them anew if need be */
};

/*
 * Check, and repair what can be repaired without losing data: qcow2 only. The header stops saying
 * that the image is in doubt when a second check finds no error. report() is called for each thing
 * that was changed, and for each fault that is left. A power cut at any moment leaves what another
 * repair mends. Afterwards the image is read-only: close it and open it again. -EBUSY: it has been
 * written to since it was opened. -ENOSPC: no room in the file for refcounts that have to be made
 * anew; then, and after -EOPNOTSUPP and -EROFS, nothing was changed.
 */
int vdisk_repair(struct vdisk *vd, enum vdisk_repair_level level,
		 void (*report)(void *ctx, const struct vdisk_fault *fault), void *ctx,
		 struct vdisk_found *found);

/* Put the fault in words, without a line feed. Returns what snprintf() returns. */
int vdisk_fault_text(const struct vdisk_fault *fault, char *buf, size_t size);

/* Fill io for a descriptor of a regular file or a block device, which stays the caller's and must
 * outlive the image. It can write if the descriptor can. */
int vdisk_file_io(int fd, struct vdisk_io *io);

/*
 * Open the image file at path and, for a differencing image, its parents (read-only), as the
 * locators say: relative to the image's folder, absolute ones by their last part in that folder
 * (a qcow2's first as they are); and its data file in the same way. What an image names is taken
 * only if it is a regular file on the same file system, a data file only in the image's folder or
 * below it: -EPERM (with err). options are for the image; its parents are what they look like, or
 * what the image says they are. The whole chain belongs to the caller: vdisk_close_files().
 * -ENOENT (with err) when no parent, or no data file, is found.
 */
#define VDISK_WRITE 1

int vdisk_open_file(const char *path, int flags, const struct vdisk_options *options,
		    struct vdisk **vd, struct vdisk_error *err);
int vdisk_close_files(struct vdisk *vd);

/* Put the error in words, without a line feed: "offset 1536: footer.checksum does not …". Returns
 * what snprintf() returns. */
int vdisk_error_text(const struct vdisk_error *err, char *buf, size_t size);

#ifdef __cplusplus
}
#endif

#endif
