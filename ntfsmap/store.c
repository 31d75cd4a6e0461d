// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The order in which a store is emptied: first the target's header, one sector, without which the
 * rest means nothing; then the beginning of its table of chunks, which the target would take for
 * valid if the power went between its own two writes. A store without that header is emptied again
 * before it is used.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "blk.h"
#include "msg.h"
#include "store.h"

#define BLOCK	      4096 /* every disk takes writes of that size */
#define CHUNK	      ((uint64_t)PLAN_CHUNK * VDISK_SECTOR)
#define LEAST	      (2u << 20) /* bytes of a store */
#define MUST_BE_ZERO  (1u << 20) /* of one that is new */
#define LABEL_MAGIC   "ntfsmap overlay\n"
#define LABEL_VERSION 1

/* One sector, so that it is written as a whole or not at all. Little-endian. */
struct label {
	char magic[16];
	uint32_t version;
	uint32_t state; /* 0: in use, 1: a merge has begun */
	uint64_t bytes; /* of the image's disk */
	int64_t modified;
	char origin[460]; /* which image, see origin_text() */
	uint32_t crc;	  /* CRC-32 of what is before it */
	uint32_t unused;
};

_Static_assert(sizeof(struct label) == VDISK_SECTOR, "a label is a sector");

/* The header of the target snapshot, and an entry of its table of chunks: drivers/md/
 * dm-snap-persistent.c. Little-endian. */
struct snap_header {
	uint32_t magic, valid, version, chunk_sectors;
};

struct snap_entry {
	uint64_t old_chunk, new_chunk;
};

#define SNAP_MAGIC   0x70416e53
#define SNAP_VERSION 1

/* ---- what is said about an image ---- */

/* Every file system has an inode of that number. Its f_fsid would tell them apart, but XFS, FAT and
 * others make that from the number of their device, and another one after the next boot would keep
 * people from what is in their store. */
static char *file_text(const struct stat *st)
{
	char *node = blk_node(st->st_dev), *uuid = node ? blk_uuid(node) : NULL;
	char *id = text("FILE-%s%s%llx", uuid ? uuid : "", uuid ? "-" : "",
			(unsigned long long)st->st_ino);

	free(node);
	free(uuid);
	return id;
}

/* What stays the same about it as long as it is the same disk. */
static char *origin_text(const struct image *img)
{
	char *id = image_id(img), *origin;
	struct stat st;

	if (!id && img->src.kind == SOURCE_FILE && !fstat(img->fd, &st))
		id = file_text(&st);
	origin = text("%s%s%s", id ? id : "DEVICE", img->snapshot ? "@" : "",
		      img->snapshot ? img->snapshot : "");
	free(id);
	return origin;
}

static uint32_t label_crc(const struct label *l)
{
	return (uint32_t)crc32(0, (const Bytef *)l, offsetof(struct label, crc));
}

/* ---- reading ---- */

static int read_store(const struct image *store, uint64_t at, void *buf, size_t len)
{
	int ret = store->io.read(store->io.ctx, at, buf, len);

	return ret ? fail_errno(-ret, "cannot read %s", store->name) : DONE;
}

static bool is_zero(const char *buf, size_t len)
{
	return !*buf && !memcmp(buf, buf + 1, len - 1);
}

static int refuse_contents(const struct image *store)
{
	char *what = store->file ? NULL : blk_contents(store->where.path);
	int code = fail(REFUSED,
			"%s holds something else%s%s: if it is not needed any more, fill its first "
			"MiB with zeros, and it is taken for a new store",
			store->name, what ? ": " : "", what ? what : "");

	free(what);
	return code;
}

/* Nothing that anybody could miss. */
static int check_new(const struct image *store)
{
	char *buf = must_alloc(MUST_BE_ZERO), *what;
	int code = read_store(store, 0, buf, MUST_BE_ZERO);

	if (!code && !is_zero(buf, MUST_BE_ZERO))
		code = refuse_contents(store);
	free(buf);
	what = code || store->file ? NULL : blk_contents(store->where.path);
	if (what)
		code = fail(REFUSED, "%s holds something else: %s (wipefs removes it)", store->name,
			    what);
	free(what);
	return code;
}

static bool has_label(const struct label *l)
{
	return !memcmp(l->magic, LABEL_MAGIC, sizeof(l->magic));
}

static int check_label(const struct image *store, const struct label *l)
{
	if (le32toh(l->version) != LABEL_VERSION)
		return fail(REFUSED,
			    "%s is a store of version %u, and this ntfsmap knows version %d: use "
			    "the one that made it",
			    store->name, le32toh(l->version), LABEL_VERSION);
	if (le32toh(l->crc) == label_crc(l) && le32toh(l->state) <= 1)
		return DONE;
	return fail(DAMAGED,
		    "%s: the label of the store is damaged (checksum %08x, its bytes give %08x): "
		    "to begin anew, fill its first MiB with zeros",
		    store->name, le32toh(l->crc), label_crc(l));
}

/* What the target has there. */
static int look_inside(const struct image *store, bool *empty)
{
	struct snap_header h;
	struct snap_entry first;
	int code = read_store(store, STORE_HEAD, &h, sizeof(h));

	*empty = !h.magic;
	if (code || *empty)
		return code;
	if (le32toh(h.magic) != SNAP_MAGIC || le32toh(h.version) != SNAP_VERSION ||
	    le32toh(h.chunk_sectors) != PLAN_CHUNK)
		return fail(DAMAGED,
			    "%s: byte %d does not begin a snapshot of version %d with chunks of %d "
			    "sectors: to begin anew, fill its first MiB with zeros",
			    store->name, STORE_HEAD, SNAP_VERSION, PLAN_CHUNK);
	if (!h.valid)
		return fail(DAMAGED,
			    "%s: the kernel has given the store up, as writing to it failed: what "
			    "it held is lost. To begin anew, fill its first MiB with zeros",
			    store->name);
	code = read_store(store, STORE_HEAD + CHUNK, &first, sizeof(first));
	*empty = !first.new_chunk;
	return code;
}

static int check_origin(const struct image *store, const struct image *origin,
			const struct label *l)
{
	uint64_t bytes = vdisk_info(origin->vd)->virtual_size;
	char *want = origin_text(origin);
	int code = DONE;

	if (strncmp(l->origin, want, sizeof(l->origin)))
		code = fail(REFUSED,
			    "%s holds what was written over another image (%.*s, and %s is %s): "
			    "open that with it",
			    store->name, (int)sizeof(l->origin), l->origin, origin->name, want);
	else if (le64toh(l->bytes) != bytes)
		code = fail(REFUSED,
			    "%s holds what was written over %s when that was a disk of %llu bytes, "
			    "and now it has %llu: give it back its size",
			    store->name, origin->name, (unsigned long long)le64toh(l->bytes),
			    (unsigned long long)bytes);
	else if (!l->state && (int64_t)le64toh((uint64_t)l->modified) != image_modified(origin))
		warn("%s was changed after the overlay in %s was begun: what they show together "
		     "may be damaged",
		     origin->name, store->name);
	free(want);
	return code;
}

int store_look(const struct image *store, const struct image *origin, enum store_state *state)
{
	const char *format = vdisk_info(store->vd)->format;
	bool empty = false;
	struct label l;
	int code;

	*state = STORE_EMPTY;
	if (strcmp(format, "raw"))
		return fail(REFUSED, "%s is a %s image, and a store is a plain file or device",
			    store->name, format);
	if (store->io.size < LEAST)
		return fail(REFUSED, "%s has %llu bytes, and a store has at least %u", store->name,
			    (unsigned long long)store->io.size, LEAST);
	code = read_store(store, 0, &l, sizeof(l));
	if (!code && !has_label(&l))
		return check_new(store);
	if (!code)
		code = check_label(store, &l);
	if (!code)
		code = look_inside(store, &empty);
	if (code || empty)
		return code; /* an empty one may be anybody's */
	*state = l.state ? STORE_MERGING : STORE_IN_USE;
	return check_origin(store, origin, &l);
}

int store_read_state(const struct image *store, enum store_state *state)
{
	struct label l;
	int code = read_store(store, 0, &l, sizeof(l));

	if (!code && !has_label(&l))
		return fail(DAMAGED, "%s: the label of the store is gone", store->name);
	if (!code)
		code = check_label(store, &l);
	*state = !code && l.state ? STORE_MERGING : STORE_IN_USE;
	return code;
}

/* ---- writing ---- */

/* The page cache above the device must not keep what is written below it by others. */
static int open_node(const char *node, int *fd)
{
	*fd = open(node, O_RDWR | O_DIRECT | O_CLOEXEC);
	return *fd < 0 ? fail_errno(errno, "cannot open %s", node) : DONE;
}

static void *new_block(size_t size)
{
	void *block = aligned_alloc(BLOCK, size);

	if (block)
		return memset(block, 0, size);
	out_of_memory();
}

static int write_at(const char *node, uint64_t at, const void *block, size_t size)
{
	int fd, code = open_node(node, &fd);
	ssize_t n;

	if (code)
		return code;
	n = pwrite(fd, block, size, (off_t)at);
	if (n != (ssize_t)size || fsync(fd))
		code = fail_errno(n >= 0 && n != (ssize_t)size ? EIO : errno, "cannot write to %s",
				  node);
	close(fd);
	return code;
}

static int write_label(const char *node, struct label *l)
{
	char *block = new_block(BLOCK);
	int code;

	l->crc = htole32(label_crc(l));
	memcpy(block, l, sizeof(*l));
	code = write_at(node, 0, block, BLOCK);
	free(block);
	return code;
}

int store_wipe(const char *node, uint64_t at)
{
	char *zeros = new_block(2 * CHUNK);
	int code = write_at(node, at, zeros, BLOCK);

	if (!code)
		code = write_at(node, at, zeros, 2 * CHUNK);
	free(zeros);
	return code;
}

int store_begin(const char *node, const struct image *origin)
{
	struct label l = { .magic = LABEL_MAGIC, .version = htole32(LABEL_VERSION) };
	char *text_of_origin = origin_text(origin);
	int code = store_wipe(node, STORE_HEAD);

	l.bytes = htole64(vdisk_info(origin->vd)->virtual_size);
	l.modified = (int64_t)htole64((uint64_t)image_modified(origin));
	memcpy(l.origin, text_of_origin, strnlen(text_of_origin, sizeof(l.origin)));
	free(text_of_origin);
	return code ? code : write_label(node, &l);
}

int store_set_state(const char *node, enum store_state state, int64_t modified)
{
	char *block = new_block(BLOCK);
	int fd, code = open_node(node, &fd);
	struct label l;

	if (!code) {
		if (pread(fd, block, BLOCK, 0) != BLOCK)
			code = fail_errno(EIO, "cannot read %s", node);
		close(fd);
	}
	memcpy(&l, block, sizeof(l));
	free(block);
	if (!code && (!has_label(&l) || le32toh(l.crc) != label_crc(&l)))
		code = fail(DAMAGED, "%s: the label of the store is gone", node);
	if (code)
		return code;
	l.state = htole32(state == STORE_MERGING);
	if (modified >= 0)
		l.modified = (int64_t)htole64((uint64_t)modified);
	return write_label(node, &l);
}
