// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine's host: one worker for each device, which calls the engine (but for write.c). It
 * sleeps on an ordered workqueue until something is in d->events: bios that the hot path could not
 * map, actions and metadata reads that have ended, requests to commit. Completions only put things
 * there.
 *
 * Nothing here waits for memory that only the worker could free. Bios come from a set whose bios
 * are freed by their completion; jobs and fetches are freed by the worker, so when there is none
 * the work waits in a list (`starting`, `starved`) and goes on when one has ended. Reads of the
 * parent are sent and forgotten until they end: a chain of devices never waits inside a worker.
 * The worker does wait for reads of its own device's metadata when the engine asks (fetch, pin).
 */
#include <linux/sched/mm.h>

#include "dm-vdisk.h"

#define CLOSING_COMMITS 8
#define FAIL_TIMEOUT	(30 * HZ) /* for what is on its way to a device that may hang */

/* A caller that waits for its request. */
struct dmv_call {
	struct dmv_req r;
	struct list_head list;
	struct completion ended;
	int error;
};

void dmv_kick(struct dmv *d)
{
	lockdep_assert_held(&d->events.lock);
	queue_work(d->wq, &d->work);
}

static void add_bio(struct dmv *d, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	bio_list_add(&d->events.bios, bio);
	dmv_kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

void dmv_defer(struct dmv *d, struct bio *bio)
{
	dmv_bio_of(bio)->inflated = false;
	bio->bi_opf &= ~REQ_NOWAIT; /* it does not wait for the worker */
	add_bio(d, bio);
}

/* --- bios that the hot path could not map --- */

/* One piece of a read, from the parent or of zeros. */
static void read_elsewhere(struct dmv_job *job, struct bio *bio, u64 offset, u64 skip,
			   const struct vdisk_map *answer)
{
	struct dmv *d = job->d;
	u64 end = answer->kind == VDISK_PARENT ? dmv_parent_bytes(d) : 0;
	u64 there = offset < end ? min_t(u64, answer->length, end - offset) : 0;

	if (there)
		dmv_send_part(job, bio, skip, there, d->parent->bdev, offset >> SECTOR_SHIFT,
			      false);
	if (there < answer->length)
		dmv_zero_part(bio, skip + there, answer->length - there);
}

static struct bio *bio_of_job(struct dmv_job *job)
{
	return dmv_bio_from(container_of(job, struct dmv_bio, req.job));
}

static void bio_job_ended(struct dmv_job *job)
{
	dmv_end_bio(bio_of_job(job), job->status);
}

/* The bio's part of the block. */
static void take_block(struct dmv_job *job, const u8 *block)
{
	struct bio *bio = bio_of_job(job);
	struct bvec_iter at;
	struct bio_vec vec;

	block += dmv_offset(job->d, bio) & (job->d->inflater.block_size - 1);
	bio_for_each_segment(vec, bio, at)
	{
		memcpy_to_bvec(&vec, block);
		block += vec.bv_len;
	}
}

/* All of the bio was filled from the block; what else it consists of is read once more. */
static void bio_inflated(struct dmv_job *job)
{
	struct bio *bio = bio_of_job(job);
	struct dmv_bio *b = dmv_bio_of(bio);

	dmv_release(job->held); /* first: the device may be gone with its last bio */
	if (b->all_packed || job->status) {
		bio_job_ended(job);
		return;
	}
	b->inflated = true;
	add_bio(job->d, bio);
}

static void read_ended(struct dmv_job *job)
{
	if (!job->packed) {
		bio_job_ended(job);
		return;
	}
	if (job->status) {
		dmv_release(job->held);
		bio_job_ended(job);
		return;
	}
	dmv_job_init(job, job->d, bio_inflated);
	dmv_inflate(job);
}

/* One piece of a read. */
static void serve_piece(struct dmv *d, struct bio *bio, u64 offset, u64 at,
			const struct vdisk_map *answer)
{
	struct dmv_bio *b = dmv_bio_of(bio);
	struct dmv_job *job = &b->req.job;

	switch (answer->kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		dmv_send_data(job, bio, at, answer->offset, answer->length, false);
		break;
	case VDISK_COMPRESSED:
		if (b->inflated)
			break;
		/* A bio lies in one unit, and so all that is compressed of it in one block. */
		job->packed_at = answer->offset;
		job->packed = answer->packed;
		b->all_packed = answer->length == bio->bi_iter.bi_size;
		break;
	default:
		read_elsewhere(job, bio, offset, at, answer);
	}
}

/* Reads, piece by piece. The answer is that of the first piece. */
static void serve(struct dmv *d, struct bio *bio, struct vdisk_map *answer)
{
	u64 start = dmv_offset(d, bio), length = bio->bi_iter.bi_size, at = 0;
	struct dmv_job *job = &dmv_bio_of(bio)->req.job;
	int ret = 0;

	dmv_job_init(job, d, read_ended);
	job->held = dmv_hold(d);
	job->packed = 0;
	job->take = take_block;
	while (!ret) {
		if (answer->kind == VDISK_NEED) {
			/* Rare: not of the first piece. */
			ret = dmv_fetch_now(&d->engine, answer);
			answer->length = 0;
		} else {
			serve_piece(d, bio, start + at, at, answer);
		}
		at += answer->length;
		if (at == length)
			break;
		if (!ret)
			ret = vdisk_engine_map(&d->engine, start + at, length - at, answer);
	}
	/* Pieces that were sent to places of the image count for themselves, so that none has to
	 * wait for the parent; a compressed block is yet to be read, and never the parent's. */
	if (!job->packed)
		dmv_release(job->held);
	dmv_job_put(job, ret ? BLK_STS_IOERR : BLK_STS_OK);
}

static void bio_req_ended(struct dmv_req *r, int error)
{
	dmv_end_bio(r->bio, errno_to_blk_status(error));
}

static void submit_bio_request(struct dmv *d, struct bio *bio, enum vdisk_req_op op)
{
	struct dmv_req *r = &dmv_bio_of(bio)->req;

	r->bio = bio;
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

	cond_resched();
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
	else if (bio_op(bio) == REQ_OP_READ)
		serve(d, bio, &answer);
	else
		dmv_walk(d, bio);
}

/* --- what the engine calls --- */

static void op_start(struct vdisk_engine *e, struct vdisk_action *a)
{
	struct dmv *d = e->host;

	if (a->kind == VDISK_ACT_DATA)
		container_of(a->req, struct dmv_req, req)->job.held = dmv_hold(d);
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
	if (e->mode == VDISK_MODE_NEEDS_CHECK && !e->readonly)
		d->marked = true; /* or will be, by the next commit */
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
	.forget = dmv_forget,
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
	ev->ended = d->events.ended;
	d->events.ended = d->ended + (ev->ended == d->ended);
	ev->unnoted = d->events.unnoted;
	bio_list_init(&d->events.unnoted);
	ev->fetched = d->events.fetched;
	d->events.fetched = NULL;
	INIT_LIST_HEAD(&ev->calls);
	list_splice_init(&d->events.calls, &ev->calls);
	ev->commit = d->events.commit;
	d->events.commit = false;
	ev->unused = d->events.unused;
	d->events.unused = false;
	ev->fail = d->events.fail;
	d->events.fail = false;
	d->events.at_rest = false;
	spin_unlock_irq(&d->events.lock);
}

/* Not more than others can wait for; true: there are more. */
static bool process_some(struct dmv *d, struct bio_list *bios)
{
	int budget = DMV_AT_ONCE;

	while (!bio_list_empty(bios) && budget--)
		dmv_process(d, bio_list_pop(bios));
	if (bio_list_empty(bios))
		return false;
	spin_lock_irq(&d->events.lock);
	bio_list_merge_head(&d->events.bios, bios);
	spin_unlock_irq(&d->events.lock);
	return true;
}

/* true: there is more to be done at once */
static bool handle_events(struct dmv *d, struct dmv_events *ev)
{
	struct dmv_fetch *f;
	struct dmv_call *call, *next;
	struct dmv_job *job;
	bool more;

	/* What ended first: it makes room for what comes. */
	while ((job = ev->done)) {
		ev->done = job->next;
		dmv_finish_action(d, job);
	}
	dmv_end_writes(d, ev->ended, &ev->unnoted);
	if (ev->unused) {
		dmv_inflated_forget(d);
		d->acting--;
		vdisk_engine_done(&d->engine, dmv_quiesced(d), 0);
	}
	if (ev->fail)
		vdisk_engine_fail(&d->engine);
	while ((f = ev->fetched)) {
		ev->fetched = f->next;
		dmv_finish_fetch(d, f);
	}
	more = dmv_unstarve(d);
	more |= process_some(d, &ev->bios);
	list_for_each_entry_safe(call, next, &ev->calls, list)
		vdisk_engine_submit(&d->engine, &call->r.req);
	if (ev->commit)
		vdisk_engine_commit(&d->engine);
	return more;
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

static void do_work(struct work_struct *w)
{
	struct dmv *d = container_of(w, struct dmv, work);
	unsigned int noio = memalloc_noio_save();
	struct dmv_events ev;
	bool work = false, rest = true, more = false, draining = false;

	mutex_lock(&d->engine_lock);
	take_events(d, &ev);
	if (d->vd) {
		more = handle_events(d, &ev);
		dmv_walk_on(d);
		/* In steps, so that others need not wait until it has ended. */
		more |= vdisk_engine_search(&d->engine);
		more |= dmv_can_walk(d); /* on, as a step may have ended meanwhile */
		dmv_start_actions(d);
		show(d);
		work = vdisk_engine_unsettled(&d->engine) && d->engine.mode != VDISK_MODE_FAIL;
		draining = d->engine.state == VDISK_DRAIN;
		rest = !more && !d->acting && d->engine.state == VDISK_IDLE;
	}
	mutex_unlock(&d->engine_lock);
	if (work && !READ_ONCE(d->leaving))
		queue_delayed_work(d->wq, &d->timer, HZ);
	spin_lock_irq(&d->events.lock);
	if (more || (draining && d->events.ended->n))
		dmv_kick(d);
	d->events.awaited = draining;
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
	dmv_kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

static bool at_rest(struct dmv *d)
{
	bool rest;

	spin_lock_irq(&d->events.lock);
	rest = d->events.at_rest && !d->events.commit && !d->events.fail;
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
	dmv_kick(d);
	spin_unlock_irq(&d->events.lock);
	wait_for_completion(&call.ended);
	return call.error;
}

void dmv_fail(struct dmv *d)
{
	lockdep_assert_held(&d->open_lock);
	d->sticky = VDISK_MODE_FAIL;
	if (!d->vd)
		return;
	spin_lock_irq(&d->events.lock);
	d->events.fail = true;
	dmv_kick(d);
	spin_unlock_irq(&d->events.lock);
	wait_event_timeout(d->idle, at_rest(d), FAIL_TIMEOUT);
}

void dmv_drop_cache(struct dmv *d)
{
	mutex_lock(&d->engine_lock);
	dmv_cache_drop(&d->cache);
	mutex_unlock(&d->engine_lock);
}

/* --- opening and closing --- */

/* What all devices can read. */
static u32 granule(struct dmv *d)
{
	u32 block = max(d->block, bdev_logical_block_size(dmv_data(d)->bdev));

	return d->parent ? max(block, bdev_logical_block_size(d->parent->bdev)) : block;
}

static void close_engine(struct dmv *d)
{
	vdisk_engine_exit(&d->engine);
	dmv_inflater_close(d);
	dmv_copies_close(d);
	dmv_walks_close(d);
}

/* Is it in doubt for no other reason than the damage that we have met, and have gone on with? */
static bool only_our_mark(struct dmv *d, const struct vdisk *vd)
{
	return d->marked && vd->info.corrupt && !vd->info.dirty && !vd->info.snapshot;
}

static int open_engine(struct dmv *d, struct vdisk *vd)
{
	struct vdisk_engine *e = &d->engine;
	int ret;

	memset(e, 0, sizeof(*e));
	ret = vdisk_engine_init(e, vd, &engine_ops, d, DMV_ENGINE_BYTES);
	if (ret)
		return ret;
	e->no_grow = d->no_grow;
	/* Directly: nothing has changed that anybody would have to be told. */
	e->readonly = d->ro || (vd->readonly && !only_our_mark(d, vd));
	e->mode = e->readonly ? VDISK_MODE_RO : VDISK_MODE_RW;
	if (d->sticky > e->mode)
		e->mode = d->sticky;
	ret = dmv_inflater_open(d, vd);
	if (!ret && !e->readonly)
		ret = dmv_walks_open(d);
	if (!ret && vd->fill && !e->readonly)
		ret = dmv_copies_open(d);
	if (ret)
		close_engine(d);
	return ret;
}

int dmv_host_open(struct dmv *d, struct vdisk_error *err)
{
	const struct vdisk_io io = { .ctx = d, .size = d->file_bytes, .read = dmv_read_file };
	const struct vdisk_options options = { .format = d->format, .snapshot = d->snapshot };
	struct vdisk *vd;
	int ret;

	d->window = 0; /* of the last time: others may have written since */
	ret = vdisk_image_open(&io, &d->cache.meta, &options, &vd, err);
	if (ret)
		return ret;
	vd->host = d;
	vd->granule = granule(d);
	ret = dmv_check_image(d, vd);
	if (!ret)
		ret = open_engine(d, vd);
	if (ret) {
		vdisk_image_close(vd);
		return ret;
	}
	d->users.wanted = vd->format->quiet;
	mutex_lock(&d->engine_lock);
	d->vd = vd;
	show(d);
	mutex_unlock(&d->engine_lock);
	return 0;
}

static void forget_image(struct dmv *d)
{
	mutex_lock(&d->engine_lock);
	close_engine(d);
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
	/* What a commit has given up, the next one gives back. */
	for (tries = 0; tries < CLOSING_COMMITS; tries++) {
		dmv_commit_wait(d, MAX_SCHEDULE_TIMEOUT);
		if (!vdisk_engine_unsettled(&d->engine) || d->engine.mode == VDISK_MODE_FAIL)
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
	bio_list_init(&d->events.unnoted);
	d->events.ended = d->ended;
	bio_list_init(&d->walks.waiting);
	init_waitqueue_head(&d->idle);
	ret = dmv_fetches_init(d);
	if (!ret)
		ret = dmv_users_init(d);
	if (!ret)
		ret = dmv_inflater_init(d);
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
	dmv_inflater_exit(d);
	dmv_users_exit(d);
	mempool_exit(&d->jobs);
	bioset_exit(&d->bios);
	dmv_fetches_exit(d);
}
