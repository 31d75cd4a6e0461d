/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The library's own host of formats and engine: metadata cache, actions, locking. */
#ifndef VDISK_USER_HOST_H
#define VDISK_USER_HOST_H

#include <pthread.h>

#include "../engine.h"

#define CACHE_BLOCK   512
#define CACHE_BUCKETS 1024
#define CACHE_BLOCKS  8192 /* that stay: 4 MiB */

struct cache_entry {
	struct vdisk_block block;
	struct cache_entry *next;
	unsigned int pins;
	u8 data[CACHE_BLOCK] __attribute__((aligned(8))); /* entries are loaded as words */
};

struct cache {
	struct vdisk_meta meta; /* first: peek() gets this one */
	struct cache_entry *buckets[CACHE_BUCKETS];
	unsigned int n;
	struct vdisk_io io;
};

/* A cluster that was compressed, unpacked. */
struct inflated {
	u64 offset; /* of the packed bytes in the image file */
	u32 packed;
	u8 *data; /* NULL: the slot is free */
};

#define INFLATED 4 /* that stay */

struct host {
	struct vdisk *vd;
	pthread_mutex_t lock; /* of everything here; a child's is taken before its parent's */
	struct cache cache;
	struct vdisk_engine *engine;	   /* from the first write on */
	struct vdisk_action *first, *last; /* what the engine wants done */
	struct vdisk *parent;
	struct vdisk_io data; /* the data file, if the image has one */
	struct inflated inflated[INFLATED];
	u32 next_inflated; /* the slot to be taken next */
	const u8 *payload; /* of the request under way */
	u64 payload_offset;
	bool completed;
	int error;
};

static inline struct host *host_of(const struct vdisk *vd)
{
	return vd->host;
}

void vdisk_cache_init(struct cache *c, const struct vdisk_io *io);
void vdisk_cache_exit(struct cache *c);

/* Bring the metadata block at offset into the cache; *entry may be NULL. Throws others out. */
int vdisk_cache_fetch(struct cache *c, u64 offset, struct cache_entry **entry);

/* What is cached of this part of the file goes; nobody holds it. */
void vdisk_cache_forget(struct cache *c, u64 offset, u64 length);

/* Commit all that there is, and what is owed, and be done with the engine. */
int vdisk_host_close_engine(struct host *h);

/* Does the range go past the end of the disk? */
bool vdisk_host_outside(const struct vdisk *vd, u64 len, u64 offset);

/* Read the m->length bytes of an answer about byte `offset` of the disk. Locked. */
int vdisk_host_read_answer(struct host *h, const struct vdisk_map *m, u8 *buf, u64 offset);

/* Read m->length bytes about byte `offset` of the disk from the compressed cluster they are in.
 * -EUCLEAN when what is stored there does not unpack to a whole cluster. Locked. */
int vdisk_inflate(struct host *h, const struct vdisk_map *m, u8 *buf, u64 offset);

/* This part of the image file is written to: what was unpacked from there goes. */
void vdisk_inflate_forget(struct host *h, u64 offset, u64 length);

/* The files beside its own that a qcow or qcow2 names, names.c. */
enum vdisk_other { VDISK_BACKING_FILE, VDISK_DATA_FILE };

/*
 * The n-th way to understand such a name: as on Linux (*posix), then as on Windows. -ENOENT: there
 * are no more; err says why if there is none at all. The format is not filled in.
 */
int vdisk_other_file(struct vdisk *vd, enum vdisk_other other, unsigned int n,
		     struct vdisk_locator *locator, bool *posix, struct vdisk_error *err);

/* vdisk_parent_locator(), which says why there is none at all, and whether the path is one of
 * Linux. */
int vdisk_next_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator, bool *posix,
		       struct vdisk_error *err);

/* The backing file's format in our words; *format is NULL when the image does not say. */
int vdisk_backing_format(const struct vdisk *vd, const char **format, struct vdisk_error *err);

/* The image's own words, for a message. */
void vdisk_quote(const char *text, size_t length, struct vdisk_error *what);

/* "C:/x" becomes "/x". false: "//server/share/x", which is on another machine, or not absolute. */
bool vdisk_strip_drive(char *path);

/* vdisk_image_map(), with what is missing fetched, and what is pending laid over it. Locked. */
int vdisk_host_map(struct host *h, u64 offset, u64 length, struct vdisk_map *answer);

#endif
