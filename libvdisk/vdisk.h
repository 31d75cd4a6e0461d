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
 *   -EIO, …      what the reader returned
 *   -ENOMEM, -EINVAL
 * Nothing here locks: a struct vdisk may be used by several threads as long as nobody closes it.
 */
#ifndef VDISK_H
#define VDISK_H

#include <stddef.h>
#include <stdint.h>

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
	const char *subformat; /* "fixed", or NULL where a format has only one */
	uint64_t virtual_size; /* bytes, a multiple of VDISK_SECTOR */
	uint64_t file_size;
	uint64_t tail;	  /* bytes at the end of the file that no whole sector holds (raw) */
	char creator[5];  /* VHD: Creator Application, printable characters only, or "" */
	uint8_t uuid[16]; /* VHD: Unique Id, in the order of the file */
	int has_uuid;
	int saved_state;       /* VHD: belongs to a virtual machine in a saved state */
	uint64_t chs_size;     /* VHD: bytes of the disk geometry; 0 where there is none */
	uint64_t current_size; /* VHD: Current Size */
};

enum vdisk_kind {
	VDISK_DATA, /* the bytes are at `offset` of the image file and may be overwritten there */
};

/* One answer of vdisk_map(): `length` bytes of the virtual disk that are of one kind. */
struct vdisk_map {
	enum vdisk_kind kind;
	uint64_t offset;
	uint64_t length;
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
void vdisk_close(struct vdisk *vd);

/* Valid until vdisk_close(). */
const struct vdisk_info *vdisk_info(const struct vdisk *vd);

/*
 * Where the bytes [offset, offset + length) of the virtual disk are. The answer is of one kind and
 * at most length long, but never shorter than it has to be. -EINVAL for an empty range or one that
 * is not inside the virtual size.
 */
int vdisk_map(const struct vdisk *vd, uint64_t offset, uint64_t length, struct vdisk_map *answer);

/* Read len bytes of the virtual disk at offset, all or an error. User space only. */
int vdisk_pread(const struct vdisk *vd, void *buf, size_t len, uint64_t offset);

/* Fill io for a descriptor of a regular file or a block device, which stays the caller's and must
 * outlive the image. User space only. */
int vdisk_file_io(int fd, struct vdisk_io *io);

/* Put the error in words, without a line feed: "offset 1536: footer.checksum does not …". Returns
 * what snprintf() returns. User space only. */
int vdisk_error_text(const struct vdisk_error *err, char *buf, size_t size);

#ifdef __cplusplus
}
#endif

#endif
