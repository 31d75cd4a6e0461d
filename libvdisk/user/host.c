// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening, closing, maps and reads in user space. */
#include "host.h"

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
	if (h->engine)
		ret = vdisk_host_close_engine(h);
	vdisk_cache_exit(&h->cache);
	vdisk_inflate_forget(h, 0, VDISK_NOWHERE);
	pthread_mutex_destroy(&h->lock);
	free(h);
	vdisk_image_close(vd);
	return ret;
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
	if (m->kind == VDISK_COMPRESSED)
		return false; /* each answer is about one cluster */
	if (m->kind == VDISK_DATA || m->kind == VDISK_SHARED)
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

bool vdisk_host_outside(const struct vdisk *vd, uint64_t len, uint64_t offset)
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

/* The last cluster may begin in the file and end past its end, where zeros are read. */
static int read_file(const struct vdisk_io *io, u64 offset, u8 *buf, u64 len)
{
	u64 n = offset < io->size ? io->size - offset : 0;

	if (n > len)
		n = len;
	memset(buf + n, 0, len - n);
	return n ? vdisk_read(io, offset, buf, n) : 0;
}

static int read_data(struct host *h, const struct vdisk_map *m, u8 *buf)
{
	if (!h->vd->info.needs_data)
		return read_file(&h->vd->io, m->offset, buf, m->length);
	return h->data.read ? read_file(&h->data, m->offset, buf, m->length) : -ENOLINK;
}

int vdisk_host_read_answer(struct host *h, const struct vdisk_map *m, u8 *buf, u64 offset)
{
	switch (m->kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		return read_data(h, m, buf);
	case VDISK_COMPRESSED:
		return vdisk_inflate(h, m, buf, offset);
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
		if (m.kind == VDISK_DATA || m.kind == VDISK_SHARED)
			m.offset += skip;
		m.length -= skip;
		if (m.length > len)
			m.length = len;
		ret = vdisk_host_read_answer(h, &m, buf, offset);
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

	if (vdisk_host_outside(vd, len, offset))
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	ret = read_locked(h, buf, len, offset);
	pthread_mutex_unlock(&h->lock);
	return ret;
}
