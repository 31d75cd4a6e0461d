// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading metadata from the image file, by the worker. Two ways: for a bio a read is begun, and the
 * bio parked until it ends, so that many can be under way; for the engine and while the image is
 * opened, the worker waits.
 *
 * A read that is under way while the engine changes one of its blocks would bring the old contents
 * into the cache, if the new ones have been evicted by then: such a read is marked stale.
 */
#include "dm-vdisk.h"

/* Read length bytes, whole blocks inside one extent, and wait. */
static int read_blocks(struct dmv *d, u64 offset, u8 *buf, u32 length)
{
	struct bio_vec vec;
	struct bio bio;
	sector_t sector;
	int ret;

	if (dmv_locate(d, offset, length, &sector) != length)
		return -EIO;
	bio_init(&bio, d->dev->bdev, &vec, 1, REQ_OP_READ | REQ_META | REQ_SYNC);
	bio.bi_iter.bi_sector = sector;
	__bio_add_page(&bio, virt_to_page(buf), length, offset_in_page(buf));
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return ret;
}

/* The first of the blocks may be pinned; the others are read ahead. */
static int read_to_cache(struct dmv *d, u64 offset, u32 length, struct vdisk_block **pinned)
{
	int ret = read_blocks(d, offset, d->fetch_buf, length);
	u32 at;

	d->window = 0;
	if (ret)
		return ret;
	dmv_cache_add(&d->cache, offset, d->fetch_buf, true, pinned);
	for (at = d->block; at < length; at += d->block)
		dmv_cache_add(&d->cache, offset + at, d->fetch_buf + at, false, NULL);
	return 0;
}

/*
 * How much to read from the block on that an answer names: of the same table, in one extent, and up
 * to the first block that is in the cache: that one may be pinned and about to be written, and what
 * is read now must not come back after it has been evicted. 0: it is not in the file.
 */
static u32 fetch_length(struct dmv *d, const struct vdisk_map *need, sector_t *sector)
{
	u64 most = clamp_t(u64, need->length, d->block, max_t(u32, DMV_FETCH_BYTES, d->block));
	u32 length = d->block;

	most = dmv_locate(d, need->offset, most, sector);
	if (most < d->block)
		return 0;
	while (length + d->block <= most && !dmv_cache_has(&d->cache, need->offset + length))
		length += d->block;
	return length;
}

int dmv_fetch_now(struct vdisk_engine *e, const struct vdisk_map *need)
{
	struct dmv *d = e->host;
	sector_t sector;
	u32 length;

	if (dmv_cache_has(&d->cache, need->offset))
		return 0;
	length = fetch_length(d, need, &sector);
	return length ? read_to_cache(d, need->offset, length, NULL) : -EIO;
}

static void fetch_ended(struct bio *bio)
{
	struct dmv_fetch *f = container_of(bio, struct dmv_fetch, bio);
	struct dmv *d = f->d;
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	f->next = d->events.fetched;
	d->events.fetched = f;
	queue_work(d->wq, &d->work); /* under the lock, as kick() has it */
	spin_unlock_irqrestore(&d->events.lock, flags);
}

static bool join_fetch(struct dmv *d, struct bio *bio, u64 offset)
{
	struct dmv_fetch *f;

	list_for_each_entry(f, &d->running_fetches, list) {
		if (offset < f->offset || offset - f->offset >= f->length || f->stale)
			continue;
		bio_list_add(&f->waiting, bio);
		return true;
	}
	return false;
}

/* The bio can be mapped only when the block of `need` is there: begin to read it. */
void dmv_park(struct dmv *d, struct bio *bio, const struct vdisk_map *need)
{
	struct dmv_fetch *f;
	sector_t sector;
	u32 length;

	if (join_fetch(d, bio, need->offset))
		return;
	if (list_empty(&d->free_fetches)) {
		bio_list_add(&d->starved, bio);
		return;
	}
	length = fetch_length(d, need, &sector);
	if (!length) {
		dmv_end_bio(bio, BLK_STS_IOERR);
		return;
	}
	f = list_first_entry(&d->free_fetches, struct dmv_fetch, list);
	list_move(&f->list, &d->running_fetches);
	f->offset = need->offset;
	f->length = length;
	f->stale = false;
	bio_list_init(&f->waiting);
	bio_list_add(&f->waiting, bio);
	bio_init(&f->bio, d->dev->bdev, &f->vec, 1, REQ_OP_READ | REQ_META);
	f->bio.bi_iter.bi_sector = sector;
	f->bio.bi_end_io = fetch_ended;
	__bio_add_page(&f->bio, virt_to_page(f->buf), length, offset_in_page(f->buf));
	submit_bio_noacct(&f->bio);
}

void dmv_finish_fetch(struct dmv *d, struct dmv_fetch *f)
{
	blk_status_t status = f->bio.bi_status;
	struct bio_list waiting = f->waiting;
	struct bio *bio;
	u32 at;

	bio_uninit(&f->bio);
	for (at = 0; !status && !f->stale && at < f->length; at += d->block)
		dmv_cache_add(&d->cache, f->offset + at, f->buf + at, !at, NULL);
	list_move(&f->list, &d->free_fetches);
	/* Now, before others' blocks can push this one out. They may use the fetch again. */
	while ((bio = bio_list_pop(&waiting))) {
		if (status)
			dmv_end_bio(bio, status);
		else
			dmv_process(d, bio);
	}
}

bool dmv_unstarve(struct dmv *d)
{
	int budget = DMV_AT_ONCE;

	while (!list_empty(&d->free_fetches) && !bio_list_empty(&d->starved)) {
		if (!budget--)
			return true;
		dmv_process(d, bio_list_pop(&d->starved));
	}
	return false;
}

/* What is being read now of this range is older than what will be there. */
static void spoil_fetches(struct dmv *d, u64 offset, u64 length)
{
	struct dmv_fetch *f;

	list_for_each_entry(f, &d->running_fetches, list)
		if (offset < f->offset + f->length && f->offset < offset + length)
			f->stale = true;
}

int dmv_pin_now(struct vdisk_engine *e, u64 offset, struct vdisk_block **block)
{
	struct dmv *d = e->host;

	spoil_fetches(d, offset, d->block);
	if (dmv_cache_pin(&d->cache, offset, block))
		return 0;
	return read_to_cache(d, offset, d->block, block);
}

void dmv_forget(struct vdisk_engine *e, u64 offset, u64 length)
{
	struct dmv *d = e->host;

	spoil_fetches(d, offset, length);
	dmv_cache_forget(&d->cache, offset, length);
}

/* Have the block of the byte in fetch_buf, and what follows it. Formats read a table entry by
 * entry: mostly it is there. */
static int open_window(struct dmv *d, u64 offset)
{
	u64 start = round_down(offset, d->block), length;
	sector_t sector;
	int ret;

	if (offset >= d->window_at && offset - d->window_at < d->window)
		return 0;
	d->window = 0;
	length = dmv_locate(d, start, max_t(u32, DMV_FETCH_BYTES, d->block), &sector);
	if (!length)
		return -EIO;
	ret = read_blocks(d, start, d->fetch_buf, length);
	if (ret)
		return ret;
	d->window_at = start;
	d->window = length;
	return 0;
}

int dmv_read_file(void *ctx, u64 offset, void *buf, size_t len)
{
	struct dmv *d = ctx;
	u32 skip, n;
	int ret;

	for (; len; offset += n, buf += n, len -= n) {
		ret = open_window(d, offset);
		if (ret)
			return ret;
		skip = offset - d->window_at;
		n = min_t(size_t, len, d->window - skip);
		memcpy(buf, d->fetch_buf + skip, n);
	}
	return 0;
}

/* On failure: dmv_fetches_exit(), which frees what there is. */
int dmv_fetches_init(struct dmv *d)
{
	size_t size = max_t(u32, DMV_FETCH_BYTES, d->block);
	int i;

	INIT_LIST_HEAD(&d->free_fetches);
	INIT_LIST_HEAD(&d->running_fetches);
	bio_list_init(&d->starved);
	d->fetch_buf = kmalloc(size, GFP_KERNEL);
	d->fetches = kcalloc(DMV_FETCHES, sizeof(*d->fetches), GFP_KERNEL);
	if (!d->fetch_buf || !d->fetches)
		return -ENOMEM;
	for (i = 0; i < DMV_FETCHES; i++) {
		struct dmv_fetch *f = &d->fetches[i];

		f->d = d;
		f->buf = kmalloc(size, GFP_KERNEL);
		if (!f->buf)
			return -ENOMEM;
		list_add(&f->list, &d->free_fetches);
	}
	return 0;
}

void dmv_fetches_exit(struct dmv *d)
{
	int i;

	for (i = 0; d->fetches && i < DMV_FETCHES; i++)
		kfree(d->fetches[i].buf);
	kfree(d->fetches);
	kfree(d->fetch_buf);
}
