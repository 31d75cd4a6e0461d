// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine's host: one worker for each device, the only caller of the engine. It sleeps on an
 * ordered workqueue until something is in d->events: bios that the hot path could not map, actions
 * and metadata reads that have ended, requests to commit. Completions only put things there.
 *
 * Nothing here waits for memory that only the worker could free. Bios come from a set whose bios
 * are freed by their completion; jobs and fetches are freed by the worker, so when there is none
 * the work waits in a list (`starting`, `starved`) and goes on when one has ended. Reads of the
 * parent are sent and forgotten until they end: a chain of devices never waits inside a worker.
 * The worker does wait for reads of its own device's metadata when the engine asks (fetch, pin).
 */
#include <linux/sched/mm.h>
#include <linux/vmalloc.h>

#include "dm-vdisk.h"

/* A caller that waits for its request. */
struct dmv_call {
	struct dmv_req r;
	struct list_head list;
	struct completion ended;
	int error;
};

/* Under events.lock: once it is let go the worker may run, and the device be gone. */
static void kick(struct dmv *d)
{
	lockdep_assert_held(&d->events.lock);
	queue_work(d->wq, &d->work);
}

void dmv_defer(struct dmv *d, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	bio_list_add(&d->events.bios, bio);
	kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

/* --- jobs: several bios for one purpose --- */

/* With one piece, the caller's own: job_put() when all others are under way. */
static void job_init(struct dmv_job *job, struct dmv *d, void (*end)(struct dmv_job *job))
{
	job->d = d;
	atomic_set(&job->pieces, 1);
	job->status = BLK_STS_OK;
	job->end = end;
	job->action = NULL;
}

static void job_put(struct dmv_job *job, blk_status_t status)
{
	if (status)
		WRITE_ONCE(job->status, status);
	if (atomic_dec_and_test(&job->pieces))
		job->end(job);
}

static void piece_ended(struct bio *bio)
{
	struct dmv_job *job = bio->bi_private;
	blk_status_t status = bio->bi_status;

	bio_put(bio);
	job_put(job, status);
}

static void job_submit(struct dmv_job *job, struct bio *bio)
{
	atomic_inc(&job->pieces);
	bio->bi_private = job;
	bio->bi_end_io = piece_ended;
	submit_bio_noacct(bio);
}

/* length bytes of the bio, from `skip` on, go to or come from a device. */
static void send_part(struct dmv_job *job, struct bio *bio, u64 skip, u64 length,
		      struct block_device *bdev, sector_t sector, bool fua)
{
	struct bio *part = bio_alloc_clone(bdev, bio, GFP_NOIO, &job->d->bios);

	bio_trim(part, skip >> SECTOR_SHIFT, length >> SECTOR_SHIFT);
	part->bi_iter.bi_sector = sector;
	/* The engine says whether the request's FUA is better done here or by a commit; and nobody
	 * would poll for our part. */
	part->bi_opf &= ~(REQ_FUA | REQ_POLLED | REQ_NOWAIT);
	if (fua)
		part->bi_opf |= REQ_FUA;
	job_submit(job, part);
}

/* The same for bytes of the image file, wherever its extents are. */
static void send_to_file(struct dmv_job *job, struct bio *bio, u64 skip, u64 offset, u64 length,
			 bool fua)
{
	struct dmv *d = job->d;
	sector_t sector;
	u64 n;

	for (; length; skip += n, offset += n, length -= n) {
		n = dmv_locate(d, offset, length, &sector);
		if (!n) {
			WRITE_ONCE(job->status, BLK_STS_IOERR);
			return;
		}
		send_part(job, bio, skip, n, d->dev->bdev, sector, fua);
	}
}

/* --- actions of the engine --- */

static struct page *page_of(const void *buf)
{
	return is_vmalloc_addr(buf) ? vmalloc_to_page(buf) : virt_to_page(buf);
}

/* Fill a bio with n bytes from buf, or with zeros. There is room for all vectors. */
static void add_bytes(struct bio *bio, const u8 *buf, u64 n)
{
	while (n) {
		u32 at = buf ? offset_in_page(buf) : 0;
		u32 len = min_t(u64, n, PAGE_SIZE - at);

		__bio_add_page(bio, buf ? page_of(buf) : ZERO_PAGE(0), len, at);
		n -= len;
		if (buf)
			buf += len;
	}
}

/* Write buf, or zeros if it is NULL, to the file. */
static void write_file(struct dmv_job *job, u64 offset, u64 length, const u8 *buf, blk_opf_t flags)
{
	struct dmv *d = job->d;
	sector_t sector;
	struct bio *bio;
	u64 n;

	for (; length; offset += n, length -= n) {
		/* One page less than a bio can hold: buf may begin inside of one. */
		n = min_t(u64, length, (BIO_MAX_VECS - 1) * PAGE_SIZE);
		n = dmv_locate(d, offset, n, &sector);
		if (!n) {
			WRITE_ONCE(job->status, BLK_STS_IOERR);
			return;
		}
		bio = bio_alloc_bioset(d->dev->bdev, DIV_ROUND_UP(n, PAGE_SIZE) + 1,
				       REQ_OP_WRITE | flags, GFP_NOIO, &d->bios);
		bio->bi_iter.bi_sector = sector;
		add_bytes(bio, buf, n);
		if (buf)
			buf += n;
		job_submit(job, bio);
	}
}

static void write_payload(struct dmv_job *job, struct vdisk_action *a)
{
	struct dmv_bio *b = container_of(a->req, struct dmv_bio, req.req);
	struct bio *bio = dmv_bio_from(b);

	if (bio_op(bio) == REQ_OP_WRITE)
		send_to_file(job, bio, 0, a->offset, a->length, a->fua);
	else
		write_file(job, a->offset, a->length, NULL, REQ_SYNC | (a->fua ? REQ_FUA : 0));
}

static void flush_device(struct dmv_job *job)
{
	job_submit(job,
		   bio_alloc_bioset(job->d->dev->bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC,
				    GFP_NOIO, &job->d->bios));
}

static void action_ended(struct dmv_job *job)
{
	struct dmv *d = job->d;
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	job->next = d->events.done;
	d->events.done = job;
	kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

static void perform(struct dmv_job *job, struct vdisk_action *a)
{
	job_init(job, job->d, action_ended);
	job->action = a;
	switch (a->kind) {
	case VDISK_ACT_DATA:
		write_payload(job, a);
		break;
	case VDISK_ACT_ZERO:
		write_file(job, a->offset, a->length, NULL, REQ_SYNC);
		break;
	case VDISK_ACT_WRITE:
		write_file(job, a->offset, a->length, a->buf, REQ_META | REQ_SYNC);
		break;
	case VDISK_ACT_FLUSH:
		flush_device(job);
		break;
	}
	job_put(job, BLK_STS_OK);
}

/* The job of a bio's own data is in the bio; of the others there may be none at the moment. */
static struct dmv_job *get_job(struct dmv *d, struct vdisk_action *a)
{
	struct dmv_job *job;

	if (a->kind == VDISK_ACT_DATA)
		job = &container_of(a->req, struct dmv_bio, req.req)->job;
	else
		job = mempool_alloc(&d->jobs, GFP_NOWAIT | __GFP_NOWARN);
	if (job)
		job->d = d;
	return job;
}

static void start_actions(struct dmv *d)
{
	struct vdisk_action *a;
	struct dmv_job *job;

	while (d->starting) {
		a = d->starting;
		job = get_job(d, a);
		if (!job)
			return; /* one that is under way brings us here again */
		d->starting = a->next;
		perform(job, a);
	}
}

static void finish_action(struct dmv *d, struct dmv_job *job)
{
	struct vdisk_action *a = job->action;
	int error = blk_status_to_errno(job->status);

	if (a->kind != VDISK_ACT_DATA)
		mempool_free(job, &d->jobs);
	d->acting--;
	vdisk_engine_done(&d->engine, a, error);
}

/* --- bios that the hot path could not map --- */

static void zero_part(struct bio *bio, u64 skip, u64 length)
{
	struct bvec_iter iter = bio->bi_iter, at;
	struct bio_vec vec;

	bio_advance_iter(bio, &iter, skip);
	iter.bi_size = length;
	__bio_for_each_segment(vec, bio, at, iter)
		memzero_bvec(&vec);
}

/* One piece of a read, from the parent or of zeros. */
static void read_elsewhere(struct dmv_job *job, struct bio *bio, u64 offset, u64 skip,
			   const struct vdisk_map *answer)
{
	struct dmv *d = job->d;
	u64 end = answer->kind == VDISK_PARENT ? dmv_parent_bytes(d) : 0;
	u64 there = offset < end ? min_t(u64, answer->length, end - offset) : 0;

	if (there)
		send_part(job, bio, skip, there, d->parent->bdev, offset >> SECTOR_SHIFT, false);
	if (there < answer->length)
		zero_part(bio, skip + there, answer->length - there);
}

static void bio_job_ended(struct dmv_job *job)
{
	dmv_end_bio(dmv_bio_from(container_of(job, struct dmv_bio, job)), job->status);
}

/* Reads and discards, piece by piece. The answer is that of the first piece. */
static void serve(struct dmv *d, struct bio *bio, struct vdisk_map *answer)
{
	u64 start = dmv_offset(d, bio), length = bio->bi_iter.bi_size, at = 0;
	bool read = bio_op(bio) == REQ_OP_READ;
	struct dmv_job *job = &dmv_bio_of(bio)->job;
	int ret = 0;

	job_init(job, d, bio_job_ended);
	while (!ret) {
		if (answer->kind == VDISK_NEED) {
			/* Rare: not of the first piece. */
			ret = dmv_fetch_now(&d->engine, answer);
			answer->length = 0;
		} else if (answer->kind == VDISK_DATA) {
			if (read || d->passdown)
				send_to_file(job, bio, at, answer->offset, answer->length, false);
		} else if (read) {
			read_elsewhere(job, bio, start + at, at, answer);
		}
		at += answer->length;
		if (at == length)
			break;
		if (!ret)
			ret = vdisk_engine_map(&d->engine, start + at, length - at, answer);
	}
	job_put(job, ret ? BLK_STS_IOERR : BLK_STS_OK);
}

static void bio_req_ended(struct dmv_req *r, int error)
{
	struct bio *bio = dmv_bio_from(container_of(r, struct dmv_bio, req));

	dmv_end_bio(bio, errno_to_blk_status(error));
}

static void submit_bio_request(struct dmv *d, struct bio *bio, enum vdisk_req_op op)
{
	struct dmv_req *r = &dmv_bio_of(bio)->req;

	r->end = bio_req_ended;
	r->req = (struct vdisk_req){ .op = op };
	if (op != VDISK_REQ_FLUSH) {
		r->req.fua = bio->bi_opf & REQ_FUA;
		r->req.offset = dmv_offset(d, bio);
		r->req.length = bio->bi_iter.bi_size;
	}
	vdisk_engine_submit(&d->engine, &r->req);
}

void dmv_process(struct dmv *d, struct bio *bio)
{
	struct vdisk_map answer;
	int ret;

	if (!bio_sectors(bio)) {
		submit_bio_request(d, bio, VDISK_REQ_FLUSH);
		return;
	}
	ret = vdisk_engine_map(&d->engine, dmv_offset(d, bio), bio->bi_iter.bi_size, &answer);
	if (ret)
		dmv_end_bio(bio, BLK_STS_IOERR); /* whatever is wrong with the entry */
	else if (answer.kind == VDISK_NEED)
		dmv_park(d, bio, &answer);
	else if (bio_op(bio) == REQ_OP_WRITE)
		submit_bio_request(d, bio, VDISK_REQ_WRITE);
	else if (bio_op(bio) == REQ_OP_WRITE_ZEROES)
		submit_bio_request(d, bio, VDISK_REQ_ZEROES);
	else
		serve(d, bio, &answer);
}

/* --- what the engine calls --- */

static void op_start(struct vdisk_engine *e, struct vdisk_action *a)
{
	struct dmv *d = e->host;

	a->next = NULL;
	if (d->starting)
		d->starting_last->next = a;
	else
		d->starting = a;
	d->starting_last = a;
	d->acting++;
}

static void op_complete(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	struct dmv_req *r = container_of(req, struct dmv_req, req);

	r->end(r, error);
}

static void op_unpin(struct vdisk_engine *e, struct vdisk_block *block)
{
	struct dmv *d = e->host;

	dmv_cache_unpin(&d->cache, block);
}

static void op_mode_changed(struct vdisk_engine *e)
{
	struct dmv *d = e->host;

	DMWARN("%s: mode %s", dmv_name(d), vdisk_mode_name(e->mode));
	if (e->mode == VDISK_MODE_NEEDS_CHECK || e->mode == VDISK_MODE_FAIL)
		d->sticky = e->mode;
	WRITE_ONCE(d->shown.mode, e->mode);
	dm_table_event(d->ti->table);
}

static void op_bad_entry(struct vdisk_engine *e, const struct vdisk_map *answer)
{
	struct dmv *d = e->host;

	DMERR_LIMIT("%s: the table entry at offset %llu of the file cannot point to %llu: check it",
		    dmv_name(d), answer->offset, answer->home);
}

static const struct vdisk_engine_ops engine_ops = {
	.start = op_start,
	.complete = op_complete,
	.fetch = dmv_fetch_now,
	.pin = dmv_pin_now,
	.unpin = op_unpin,
	.mode_changed = op_mode_changed,
	.bad_entry = op_bad_entry,
};

/* --- the worker --- */

static void take_events(struct dmv *d, struct dmv_events *ev)
{
	spin_lock_irq(&d->events.lock);
	ev->bios = d->events.bios;
	bio_list_init(&d->events.bios);
	ev->done = d->events.done;
	d->events.done = NULL;
	ev->fetched = d->events.fetched;
	d->events.fetched = NULL;
	INIT_LIST_HEAD(&ev->calls);
	list_splice_init(&d->events.calls, &ev->calls);
	ev->commit = d->events.commit;
	d->events.commit = false;
	d->events.at_rest = false;
	spin_unlock_irq(&d->events.lock);
}

static void handle_events(struct dmv *d, struct dmv_events *ev)
{
	struct dmv_fetch *f;
	struct dmv_call *call, *next;
	struct dmv_job *job;
	struct bio *bio;

	/* What ended first: it makes room for what comes. */
	while ((job = ev->done)) {
		ev->done = job->next;
		finish_action(d, job);
	}
	while ((f = ev->fetched)) {
		ev->fetched = f->next;
		dmv_finish_fetch(d, f);
	}
	dmv_unstarve(d);
	while ((bio = bio_list_pop(&ev->bios)))
		dmv_process(d, bio);
	list_for_each_entry_safe(call, next, &ev->calls, list)
		vdisk_engine_submit(&d->engine, &call->r.req);
	if (ev->commit)
		vdisk_engine_commit(&d->engine);
}

/* For the status, which must not wait for anything. */
static void show(struct dmv *d)
{
	const struct vdisk_space *space = &d->engine.space;
	u64 room = U64_MAX;

	if (d->engine.no_grow || d->engine.readonly)
		room = 0;
	else if (space->known)
		room = d->vd->format->room(d->vd, space) >> SECTOR_SHIFT;
	WRITE_ONCE(d->shown.mode, d->engine.mode);
	WRITE_ONCE(d->shown.allocated, space->known ? space->allocated : U64_MAX);
	WRITE_ONCE(d->shown.total,
		   DIV_ROUND_UP_ULL(d->vd->info.virtual_size, 1ULL << d->vd->unit_shift));
	WRITE_ONCE(d->shown.room, room);
	WRITE_ONCE(d->shown.commits, d->engine.commits);
}

static void do_work(struct work_struct *work)
{
	struct dmv *d = container_of(work, struct dmv, work);
	unsigned int noio = memalloc_noio_save();
	struct dmv_events ev;
	bool dirty = false, rest = true, searching = false;

	mutex_lock(&d->engine_lock);
	take_events(d, &ev);
	if (d->vd) {
		handle_events(d, &ev);
		/* In steps, so that others need not wait until it has ended. */
		searching = vdisk_engine_search(&d->engine);
		start_actions(d);
		show(d);
		dirty = vdisk_engine_dirty(&d->engine) && d->engine.mode != VDISK_MODE_FAIL;
		rest = !searching && !d->acting && d->engine.state == VDISK_IDLE;
	}
	mutex_unlock(&d->engine_lock);
	if (dirty && !READ_ONCE(d->leaving))
		queue_delayed_work(d->wq, &d->timer, HZ);
	spin_lock_irq(&d->events.lock);
	if (searching)
		kick(d);
	d->events.at_rest = rest;
	spin_unlock_irq(&d->events.lock);
	wake_up_all(&d->idle);
	memalloc_noio_restore(noio);
}

static void do_timer(struct work_struct *work)
{
	dmv_commit(container_of(to_delayed_work(work), struct dmv, timer));
}

void dmv_commit(struct dmv *d)
{
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	d->events.commit = true;
	kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

static bool at_rest(struct dmv *d)
{
	bool rest;

	spin_lock_irq(&d->events.lock);
	rest = d->events.at_rest && !d->events.commit;
	spin_unlock_irq(&d->events.lock);
	return rest;
}

void dmv_commit_wait(struct dmv *d, unsigned long timeout)
{
	dmv_commit(d);
	wait_event_timeout(d->idle, at_rest(d), timeout);
}

static void call_ended(struct dmv_req *r, int error)
{
	struct dmv_call *call = container_of(r, struct dmv_call, r);

	call->error = error;
	complete(&call->ended);
}

int dmv_flush(struct dmv *d)
{
	struct dmv_call call = { .r.req.op = VDISK_REQ_FLUSH, .r.end = call_ended };

	lockdep_assert_held(&d->open_lock);
	if (!d->vd)
		return d->failed ? -EIO : 0;
	init_completion(&call.ended);
	spin_lock_irq(&d->events.lock);
	list_add_tail(&call.list, &d->events.calls);
	kick(d);
	spin_unlock_irq(&d->events.lock);
	wait_for_completion(&call.ended);
	return call.error;
}

void dmv_drop_cache(struct dmv *d)
{
	mutex_lock(&d->engine_lock);
	dmv_cache_drop(&d->cache);
	mutex_unlock(&d->engine_lock);
}

/* --- opening and closing --- */

int dmv_host_open(struct dmv *d, struct vdisk_error *err)
{
	const struct vdisk_io io = { .ctx = d, .size = d->file_bytes, .read = dmv_read_file };
	const struct vdisk_options options = { .format = d->format };
	struct vdisk *vd;
	int ret;

	ret = vdisk_image_open(&io, &d->cache.meta, &options, &vd, err);
	if (ret)
		return ret;
	vd->host = d;
	if (d->parent)
		vd->granule = max(d->block, bdev_logical_block_size(d->parent->bdev));
	ret = dmv_check_image(d, vd);
	if (ret)
		goto close;
	memset(&d->engine, 0, sizeof(d->engine));
	ret = vdisk_engine_init(&d->engine, vd, &engine_ops, d, DMV_ENGINE_BYTES);
	if (ret)
		goto close;
	d->engine.no_grow = d->no_grow;
	/* Directly: nothing has changed that anybody would have to be told. */
	d->engine.readonly = d->ro;
	d->engine.mode = d->ro ? VDISK_MODE_RO : VDISK_MODE_RW;
	if (d->sticky > d->engine.mode)
		d->engine.mode = d->sticky;
	mutex_lock(&d->engine_lock);
	d->vd = vd;
	show(d);
	mutex_unlock(&d->engine_lock);
	return 0;

close:
	vdisk_image_close(vd);
	return ret;
}

static void forget_image(struct dmv *d)
{
	mutex_lock(&d->engine_lock);
	vdisk_engine_exit(&d->engine);
	vdisk_image_close(d->vd);
	d->vd = NULL;
	dmv_cache_drop(&d->cache);
	mutex_unlock(&d->engine_lock);
}

void dmv_host_close(struct dmv *d)
{
	int tries;

	lockdep_assert_held(&d->open_lock);
	if (!d->vd)
		return;
	for (tries = 0; tries < 3; tries++) {
		dmv_commit_wait(d, MAX_SCHEDULE_TIMEOUT);
		if (!vdisk_engine_dirty(&d->engine) || d->engine.mode == VDISK_MODE_FAIL)
			break;
	}
	cancel_delayed_work_sync(&d->timer);
	flush_work(&d->work);
	if (vdisk_engine_dirty(&d->engine)) {
		DMERR("%s: what was written last cannot be committed: it is lost with the device",
		      dmv_name(d));
		mutex_lock(&d->engine_lock);
		vdisk_engine_set_mode(&d->engine, VDISK_MODE_FAIL);
		mutex_unlock(&d->engine_lock);
		return;
	}
	forget_image(d);
}

/* On failure: dmv_host_exit(), which frees what there is. */
int dmv_host_init(struct dmv *d)
{
	int ret;

	INIT_WORK(&d->work, do_work);
	INIT_DELAYED_WORK(&d->timer, do_timer);
	INIT_LIST_HEAD(&d->events.calls);
	spin_lock_init(&d->events.lock);
	bio_list_init(&d->events.bios);
	init_waitqueue_head(&d->idle);
	ret = dmv_fetches_init(d);
	if (ret)
		return ret;
	ret = bioset_init(&d->bios, 16, 0, BIOSET_NEED_BVECS);
	if (ret)
		return ret;
	ret = mempool_init_kmalloc_pool(&d->jobs, 8, sizeof(struct dmv_job));
	if (ret)
		return ret;
	d->wq = alloc_ordered_workqueue("vdisk/%s", WQ_MEM_RECLAIM, dmv_name(d));
	return d->wq ? 0 : -ENOMEM;
}

void dmv_host_exit(struct dmv *d)
{
	if (d->wq) {
		WRITE_ONCE(d->leaving, true);
		flush_work(&d->work);
		cancel_delayed_work_sync(&d->timer);
		destroy_workqueue(d->wq);
	}
	if (d->vd)
		forget_image(d);
	mempool_exit(&d->jobs);
	bioset_exit(&d->bios);
	dmv_fetches_exit(d);
}
