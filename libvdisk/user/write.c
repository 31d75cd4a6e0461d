// SPDX-License-Identifier: GPL-2.0-or-later
/* Writing in user space: the engine's actions, done one after the other. */
#include "host.h"

#define ENGINE_MEMORY (1 << 20)
#define COPY_BYTES    65536

static struct host *host_of_engine(struct vdisk_engine *e)
{
	return e->host;
}

static void start(struct vdisk_engine *e, struct vdisk_action *a)
{
	struct host *h = host_of_engine(e);

	a->next = NULL;
	if (h->first)
		h->last->next = a;
	else
		h->first = a;
	h->last = a;
}

static void complete(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	struct host *h = host_of_engine(e);

	(void)req; /* there is one at a time */
	h->completed = true;
	h->error = error;
}

static int fetch(struct vdisk_engine *e, const struct vdisk_map *need)
{
	return vdisk_cache_fetch(&host_of_engine(e)->cache, need->offset, NULL);
}

static int pin(struct vdisk_engine *e, u64 offset, struct vdisk_block **block)
{
	struct cache_entry *entry;
	int ret = vdisk_cache_fetch(&host_of_engine(e)->cache, offset, &entry);

	if (ret)
		return ret;
	entry->pins++;
	*block = &entry->block;
	return 0;
}

static void unpin(struct vdisk_engine *e, struct vdisk_block *block)
{
	(void)e;
	((struct cache_entry *)block)->pins--;
}

/* Users learn both from the error of the call. */
static void mode_changed(struct vdisk_engine *e)
{
	(void)e;
}

static void bad_entry(struct vdisk_engine *e, const struct vdisk_map *answer)
{
	(void)e, (void)answer;
}

static void forget(struct vdisk_engine *e, u64 offset, u64 length)
{
	vdisk_cache_forget(&host_of_engine(e)->cache, offset, length);
}

static const struct vdisk_engine_ops ops = { start, complete, fetch,	    pin,
					     unpin, forget,   mode_changed, bad_entry };

/* ---- actions ---- */

static const struct vdisk_io *file_of(const struct host *h, const struct vdisk_action *a)
{
	return a->guest && h->vd->info.needs_data ? &h->data : &h->vd->io;
}

static int write_zeros(const struct vdisk_io *io, u64 offset, u64 length)
{
	static const u8 zeros[65536];

	while (length) {
		size_t n = length < sizeof(zeros) ? length : sizeof(zeros);
		int ret = io->write(io->ctx, offset, zeros, n);

		if (ret)
			return ret;
		offset += n;
		length -= n;
	}
	return 0;
}

static int write_payload(struct host *h, const struct vdisk_action *a)
{
	const struct vdisk_io *io = file_of(h, a);

	if (a->req->op == VDISK_REQ_ZEROES)
		return write_zeros(io, a->offset, a->length);
	return io->write(io->ctx, a->offset, h->payload + (a->req->offset - h->payload_offset),
			 a->length);
}

/* A metadata block. The file may end inside of its last one: what is behind that reads as zeros,
 * and cannot be anything else. */
static int write_block(const struct vdisk_io *io, const struct vdisk_action *a)
{
	u64 there = a->offset < io->size ? io->size - a->offset : 0;
	const u8 *bytes = a->buf;

	if (there > a->length)
		there = a->length;
	for (u64 i = there; i < a->length; i++)
		if (bytes[i])
			return -ENOSPC;
	return there ? io->write(io->ctx, a->offset, bytes, there) : 0;
}

/* Tables are copied inside the image file; all else may come from anywhere. */
static int read_source(struct host *h, const struct vdisk_action *a, u64 at, u64 length, u8 *buf)
{
	struct vdisk_map m = a->from;

	m.length = length;
	if (m.kind != VDISK_COMPRESSED)
		m.offset += at;
	if (!a->guest)
		return vdisk_read(&h->vd->io, m.offset, buf, length);
	return vdisk_host_read_answer(h, &m, buf, a->disk + at);
}

static int copy(struct host *h, const struct vdisk_action *a)
{
	const struct vdisk_io *io = file_of(h, a);
	u64 n = a->length < COPY_BYTES ? a->length : COPY_BYTES;
	u8 *buf = malloc(n);
	int ret = buf ? 0 : -ENOMEM;

	for (u64 at = 0; at < a->length && !ret; at += n) {
		if (n > a->length - at)
			n = a->length - at;
		ret = read_source(h, a, at, n, buf);
		if (!ret)
			ret = io->write(io->ctx, a->offset + at, buf, n);
	}
	free(buf);
	return ret;
}

/* Data first: the tables that point to it may be written next. */
static int flush_all(const struct host *h)
{
	const struct vdisk_io *io = &h->vd->io;
	int ret = h->vd->info.needs_data ? h->data.flush(h->data.ctx) : 0;

	return ret ? ret : io->flush(io->ctx);
}

/* No table knows how long the data file is. */
static bool has_no_room(const struct host *h, const struct vdisk_action *a)
{
	const struct vdisk_io *io = file_of(h, a);

	return io == &h->data && a->kind < VDISK_ACT_FLUSH &&
	       (a->offset > io->size || a->length > io->size - a->offset);
}

static int perform(struct host *h, const struct vdisk_action *a)
{
	const struct vdisk_io *io = file_of(h, a);

	if (io == &h->vd->io && a->kind < VDISK_ACT_FLUSH)
		vdisk_inflate_forget(h, a->offset, a->length);
	if (has_no_room(h, a))
		return -ENOSPC;
	switch (a->kind) {
	case VDISK_ACT_DATA:
		return write_payload(h, a);
	case VDISK_ACT_ZERO:
		return write_zeros(io, a->offset, a->length);
	case VDISK_ACT_WRITE:
		return write_block(io, a);
	case VDISK_ACT_COPY:
		return copy(h, a);
	case VDISK_ACT_FLUSH:
		return flush_all(h);
	case VDISK_ACT_QUIESCE:
		return 0; /* nothing is read or written but by one call at a time */
	}
	return -EINVAL;
}

static int make_engine(struct host *h)
{
	int ret;

	h->engine = calloc(1, sizeof(*h->engine));
	if (!h->engine)
		return -ENOMEM;
	ret = vdisk_engine_init(h->engine, h->vd, &ops, h, ENGINE_MEMORY);
	if (ret) {
		free(h->engine);
		h->engine = NULL;
	}
	return ret;
}

/* Do what the engine wants until nothing is left to do. */
static void run(struct host *h)
{
	while (vdisk_engine_search(h->engine) || h->first) {
		struct vdisk_action *a = h->first;

		if (!a)
			continue;
		h->first = a->next;
		vdisk_engine_done(h->engine, a, perform(h, a));
	}
}

static int run_request(struct host *h, struct vdisk_req *req)
{
	h->completed = false;
	vdisk_engine_submit(h->engine, req);
	run(h);
	return h->completed ? h->error : -EIO;
}

/* Also what is owed: places that were given up. */
int vdisk_host_close_engine(struct host *h)
{
	int ret = vdisk_flush(h->vd);

	while (!ret && vdisk_engine_unsettled(h->engine)) {
		vdisk_engine_commit(h->engine);
		run(h);
		if (h->engine->mode == VDISK_MODE_FAIL)
			ret = -EIO;
	}
	vdisk_engine_exit(h->engine);
	free(h->engine);
	return ret;
}

/* ---- writes ---- */

/* By units; a flat image has one. */
static int write_locked(struct host *h, enum vdisk_req_op op, u64 len, u64 offset)
{
	u64 unit = h->vd->unit_shift ? 1ULL << h->vd->unit_shift : VDISK_NOWHERE;
	int ret = h->engine ? 0 : make_engine(h);

	while (len && !ret) {
		struct vdisk_req req = { .op = op, .offset = offset };
		u64 left = unit - (offset & (unit - 1));

		req.length = len < left ? len : left;
		ret = run_request(h, &req);
		offset += req.length;
		len -= req.length;
	}
	return ret;
}

static int write_flat(struct host *h, enum vdisk_req_op op, u64 len, u64 offset)
{
	const struct vdisk_io *io = &h->vd->io;

	if (op == VDISK_REQ_DISCARD)
		return 0;
	if (op == VDISK_REQ_ZEROES)
		return write_zeros(io, offset, len);
	return io->write(io->ctx, offset, h->payload, len);
}

static bool is_writable(const struct vdisk *vd)
{
	const struct host *h = host_of(vd);

	if (!vd->io.write || !vd->io.flush || vd->readonly)
		return false;
	return !vd->info.needs_data ||
	       (h->data.write && h->data.flush && h->data.size >= vd->info.virtual_size);
}

static int write_range(struct vdisk *vd, enum vdisk_req_op op, const void *buf, uint64_t len,
		       uint64_t offset)
{
	struct host *h = host_of(vd);
	int ret;

	if (vdisk_host_outside(vd, len, offset) || len % VDISK_SECTOR || offset % VDISK_SECTOR)
		return -EINVAL;
	if (!is_writable(vd))
		return -EROFS;
	pthread_mutex_lock(&h->lock);
	h->payload = buf;
	h->payload_offset = offset;
	ret = vd->unit_shift ? write_locked(h, op, len, offset) : write_flat(h, op, len, offset);
	pthread_mutex_unlock(&h->lock);
	return ret;
}

int vdisk_pwrite(struct vdisk *vd, const void *buf, size_t len, uint64_t offset)
{
	return write_range(vd, VDISK_REQ_WRITE, buf, len, offset);
}

int vdisk_write_zeroes(struct vdisk *vd, uint64_t len, uint64_t offset)
{
	return write_range(vd, VDISK_REQ_ZEROES, NULL, len, offset);
}

/* A discard is a hint: the formats that cannot say it do nothing. */
int vdisk_discard(struct vdisk *vd, uint64_t len, uint64_t offset)
{
	return write_range(vd, VDISK_REQ_DISCARD, NULL, len, offset);
}

int vdisk_flush(struct vdisk *vd)
{
	struct vdisk_req req = { .op = VDISK_REQ_FLUSH };
	struct host *h = host_of(vd);
	int ret;

	if (!is_writable(vd))
		return 0;
	pthread_mutex_lock(&h->lock);
	ret = h->engine ? run_request(h, &req) : flush_all(h);
	pthread_mutex_unlock(&h->lock);
	return ret;
}
