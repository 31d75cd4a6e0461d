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

/* What is wrong with an image, and where. All strings are constants. */
struct vdisk_error {
	const char *field;   /* "footer.checksum"; NULL when no single field is to blame */
	const char *problem; /* "does not match the footer"; NULL: nothing to report */
	const char *advice;  /* what to do about it, or NULL */
	uint64_t offset;     /* of the field in the image file */
	uint64_t found;
	uint64_t expected;
	enum vdisk_show show;
};

struct vdisk_info {
	const char *format;    /* the name that vdisk_open() takes: "raw", "vhd" */
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
};

#define VDISK_NOWHERE UINT64_MAX

enum vdisk_kind {
	VDISK_DATA,   /* the bytes are at `offset` of the image file and may be overwritten there */
	VDISK_ZERO,   /* reads as zeros */
	VDISK_PARENT, /* the bytes are the parent's at the same place, zeros past its end */
	VDISK_NEED,   /* not for users: a metadata block must be read first */
};

/* One answer of vdisk_map(): `length` bytes of the virtual disk that are of one kind. */
struct vdisk_map {
	enum vdisk_kind kind;
	/* DATA: where in the image file. NEED: the metadata block, and `length` bytes from there on
	 * are of the same table. */
	uint64_t offset;
	uint64_t length;
	/* ZERO, PARENT: the place that the unit has already in the file, or VDISK_NOWHERE. */
	uint64_t home;
};

/*
 * Name the format of the image, "raw" when nothing else is recognised. *name is a constant. The
 * name may be of a format that vdisk_open() does not support. -EOPNOTSUPP when the file looks like
 * two formats at once.
 */
int vdisk_probe(const struct vdisk_io *io, const char **name, struct vdisk_error *err);

/*
 * Read and validate the headers. format is "raw", "vhd" or NULL for what vdisk_probe() finds. io
 * is copied, its ctx must outlive the image. *vd belongs to the caller: vdisk_close(). err may be
 * NULL; it is filled for -EUCLEAN and -EOPNOTSUPP.
 */
int vdisk_open(const struct vdisk_io *io, const char *format, struct vdisk **vd,
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

/* What was written before is durable, and can be found, when this returns. */
int vdisk_flush(struct vdisk *vd);

/*
 * Where a differencing image says its parent is: the n-th of its locators in the order in which
 * they should be tried, relative ones first. UTF-8, with '/' between the parts; an absolute path
 * has lost its drive ("C:") and begins with '/'. -ENOENT when there are no more; names that cannot
 * be used are left out.
 */
struct vdisk_locator {
	char path[2048];
	int absolute;
};

int vdisk_parent_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator);

/*
 * Give a differencing image its parent, which stays the caller's and must outlive it. -EUCLEAN
 * (with err) when its unique id is not the one that the child names. -ELOOP: parent is vd, its
 * chain is longer than VDISK_CHAIN_MAX, or vd has a parent already. Whether the parent was changed
 * meanwhile tells parent_time_stamp.
 */
#define VDISK_CHAIN_MAX 32

int vdisk_set_parent(struct vdisk *vd, struct vdisk *parent, struct vdisk_error *err);

/* The parent that was set, or NULL. */
struct vdisk *vdisk_parent(const struct vdisk *vd);

/*
 * Look at every table entry: those that point outside the file or into a table, and those that
 * share bytes with another. report() is called for each. Returns the number of entries that are
 * wrong or a negative errno.
 */
struct vdisk_fault {
	uint64_t entry; /* its place in the image file */
	uint64_t index; /* of the block of the virtual disk */
	uint64_t home;	/* where it points in the image file */
	const char *problem;
	uint64_t other; /* the block that it shares bytes with, or VDISK_NOWHERE */
};

int vdisk_check(struct vdisk *vd, void (*report)(void *ctx, const struct vdisk_fault *fault),
		void *ctx);

/* Fill io for a descriptor of a regular file or a block device, which stays the caller's and must
 * outlive the image. It can write if the descriptor can. */
int vdisk_file_io(int fd, struct vdisk_io *io);

/*
 * Open the image file at path and, for a differencing image, its parents (read-only), as the
 * locators say: relative to the image's folder, absolute ones by their last part in that folder.
 * parent names the first one instead, if it is not NULL. format as vdisk_open() has it. The whole
 * chain belongs to the caller: vdisk_close_files(). -ENOENT (with err) when no parent is found.
 */
#define VDISK_WRITE 1

int vdisk_open_file(const char *path, int flags, const char *format, const char *parent,
		    struct vdisk **vd, struct vdisk_error *err);
int vdisk_close_files(struct vdisk *vd);

/* Put the error in words, without a line feed: "offset 1536: footer.checksum does not …". Returns
 * what snprintf() returns. */
int vdisk_error_text(const struct vdisk_error *err, char *buf, size_t size);

#ifdef __cplusplus
}
#endif

#endif
