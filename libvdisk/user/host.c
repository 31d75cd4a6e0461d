// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening and closing in user space, and the engine's actions done one after the other. */
#include "host.h"

#define ENGINE_MEMORY (1 << 20)

int vdisk_open(const struct vdisk_io *io, const struct vdisk_options *options, struct vdisk **vd,
	       struct vdisk_error *err)
{
	struct host *h = calloc(1, sizeof(*h));
	int ret;

	if (!h)
		return -ENOMEM;
	vdisk_cache_init(&h->cache, io);
	ret = vdisk_image_open(io, &h->cache.meta, options, &h->vd, err);
	if (ret) {
		free(h);
		return ret;
	}
	pthread_mutex_init(&h->lock, NULL);
	h->vd->host = h;
	*vd = h->vd;
	return 0;
}

int vdisk_close(struct vdisk *vd)
{
	struct host *h;
	int ret = 0;

	if (!vd)
		return 0;
	h = host_of(vd);
	if (h->engine) {
		ret = vdisk_flush(vd);
		vdisk_engine_exit(h->engine);
		free(h->engine);
	}
	vdisk_cache_exit(&h->cache);
	pthread_mutex_destroy(&h->lock);
	free(h);
	vdisk_image_close(vd);
	return ret;
}

/* ---- the engine's operations ---- */

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

static const struct vdisk_engine_ops ops = { start, complete,	  fetch,    pin,
					     unpin, mode_changed, bad_entry };

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
	const struct vdisk_io *io = &h->vd->io;

	if (a->req->op == VDISK_REQ_ZEROES)
		return write_zeros(io, a->offset, a->length);
	return io->write(io->ctx, a->offset, h->payload + (a->req->offset - h->payload_offset),
			 a->length);
}

static int perform(struct host *h, const struct vdisk_action *a)
{
	const struct vdisk_io *io = &h->vd->io;

	switch (a->kind) {
	case VDISK_ACT_DATA:
		return write_payload(h, a);
	case VDISK_ACT_ZERO:
		return write_zeros(io, a->offset, a->length);
	case VDISK_ACT_WRITE:
		return io->write(io->ctx, a->offset, a->buf, a->length);
	case VDISK_ACT_FLUSH:
		return io->flush(io->ctx);
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

/* Give the engine one request and do what it wants until nothing is left to do. */
static int run_request(struct host *h, struct vdisk_req *req)
{
	h->completed = false;
	vdisk_engine_submit(h->engine, req);
	while (vdisk_engine_search(h->engine) || h->first) {
		struct vdisk_action *a = h->first;

		if (!a)
			continue;
		h->first = a->next;
		vdisk_engine_done(h->engine, a, perform(h, a));
	}
	return h->completed ? h->error : -EIO;
}

/* ---- maps ---- */

static int map_once(struct host *h, u64 offset, u64 length, struct vdisk_map *answer)
{
	if (h->engine)
		return vdisk_engine_map(h->engine, offset, length, answer);
	return vdisk_image_map(h->vd, offset, length, answer);
}

int vdisk_host_map(struct host *h, u64 offset, u64 length, struct vdisk_map *answer)
{
	for (;;) {
		int ret = map_once(h, offset, length, answer);

		if (ret || answer->kind != VDISK_NEED)
			return ret;
		ret = vdisk_cache_fetch(&h->cache, answer->offset, NULL);
		if (ret)
			return ret;
	}
}

static bool continues(const struct vdisk_map *m, const struct vdisk_map *next)
{
	if (m->kind != next->kind)
		return false;
	if (m->kind == VDISK_DATA)
		return m->offset + m->length == next->offset;
	if (m->home == VDISK_NOWHERE || next->home == VDISK_NOWHERE)
		return m->home == next->home;
	return m->home + m->length == next->home;
}

static int map_merged(struct host *h, u64 offset, u64 length, struct vdisk_map *answer)
{
	struct vdisk_map next;
	int ret = vdisk_host_map(h, offset, length, answer);

	while (!ret && answer->length < length) {
		/* what comes after may be damaged: this answer is good as far as it goes */
		if (vdisk_host_map(h, offset + answer->length, length - answer->length, &next) ||
		    !continues(answer, &next))
			break;
		answer->length += next.length;
	}
	return ret;
}

int vdisk_map(struct vdisk *vd, uint64_t offset, uint64_t length, struct vdisk_map *answer)
{
	struct host *h = host_of(vd);
	int ret;

	if (!length || offset > vd->info.virtual_size || length > vd->info.virtual_size - offset)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	ret = map_merged(h, offset, length, answer);
	pthread_mutex_unlock(&h->lock);
	return ret;
}

static int count_space(struct host *h, struct vdisk_space *space)
{
	struct vdisk_map need;
	int ret;

	while (!space->known) {
		ret = h->vd->format->scan(h->vd, space, &need);
		if (ret == -EAGAIN)
			ret = vdisk_cache_fetch(&h->cache, need.offset, NULL);
		if (ret)
			return ret;
	}
	return 0;
}

int vdisk_usage(struct vdisk *vd, struct vdisk_usage *usage)
{
	struct host *h = host_of(vd);
	struct vdisk_space own = { 0 }, *space = &own;
	int ret;

	*usage = (struct vdisk_usage){ vd->info.virtual_size, 0 };
	if (!vd->unit_shift)
		return 0;
	pthread_mutex_lock(&h->lock);
	if (h->engine)
		space = &h->engine->space;
	ret = count_space(h, space);
	pthread_mutex_unlock(&h->lock);
	if (ret)
		return ret;
	usage->room = vd->format->room(vd, space);
	if (space->allocated << vd->unit_shift < usage->allocated)
		usage->allocated = space->allocated << vd->unit_shift;
	return 0;
}

/* ---- reads and writes ---- */

static bool outside(const struct vdisk *vd, uint64_t len, uint64_t offset)
{
	return offset > vd->info.virtual_size || len > vd->info.virtual_size - offset;
}

/* What the parent has there; zeros past its end. */
static int read_parent(const struct host *h, u8 *buf, u64 len, u64 offset)
{
	u64 size, n;

	if (!h->parent)
		return -ENOLINK;
	size = h->parent->info.virtual_size;
	n = offset < size ? size - offset : 0;
	if (n > len)
		n = len;
	memset(buf + n, 0, len - n);
	return n ? vdisk_pread(h->parent, buf, n, offset) : 0;
}

static int read_answer(struct host *h, const struct vdisk_map *m, u8 *buf, u64 offset)
{
	switch (m->kind) {
	case VDISK_DATA:
		return vdisk_read(&h->vd->io, m->offset, buf, m->length);
	case VDISK_PARENT:
		return read_parent(h, buf, m->length, offset);
	default:
		memset(buf, 0, m->length);
		return 0;
	}
}

static u64 sectors_around(u64 offset, u64 len)
{
	u64 first = round_down_to(offset, VDISK_SECTOR);

	return round_up_to(offset + len, VDISK_SECTOR) - first;
}

/* Maps are in whole sectors; of the first and last answer the reader may want a part. */
static int read_locked(struct host *h, u8 *buf, u64 len, u64 offset)
{
	while (len) {
		u64 skip = offset % VDISK_SECTOR;
		struct vdisk_map m;
		int ret = vdisk_host_map(h, offset - skip, sectors_around(offset, len), &m);

		if (ret)
			return ret;
		if (m.kind == VDISK_DATA)
			m.offset += skip;
		m.length -= skip;
		if (m.length > len)
			m.length = len;
		ret = read_answer(h, &m, buf, offset);
		if (ret)
			return ret;
		buf += m.length;
		offset += m.length;
		len -= m.length;
	}
	return 0;
}

int vdisk_pread(struct vdisk *vd, void *buf, size_t len, uint64_t offset)
{
	struct host *h = host_of(vd);
	int ret;

	if (outside(vd, len, offset))
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	ret = read_locked(h, buf, len, offset);
	pthread_mutex_unlock(&h->lock);
	return ret;
}

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

	if (op == VDISK_REQ_ZEROES)
		return write_zeros(io, offset, len);
	return io->write(io->ctx, offset, h->payload, len);
}

static int write_range(struct vdisk *vd, enum vdisk_req_op op, const void *buf, uint64_t len,
		       uint64_t offset)
{
	struct host *h = host_of(vd);
	int ret;

	if (outside(vd, len, offset) || len % VDISK_SECTOR || offset % VDISK_SECTOR)
		return -EINVAL;
	if (!vd->io.write || !vd->io.flush)
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

int vdisk_flush(struct vdisk *vd)
{
	struct vdisk_req req = { .op = VDISK_REQ_FLUSH };
	struct host *h = host_of(vd);
	int ret;

	if (!vd->io.write || !vd->io.flush)
		return 0;
	pthread_mutex_lock(&h->lock);
	ret = h->engine ? run_request(h, &req) : vd->io.flush(vd->io.ctx);
	pthread_mutex_unlock(&h->lock);
	return ret;
}
