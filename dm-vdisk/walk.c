// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Zeros and discards, by the worker. Such a bio has no payload and so may be as long as the disk:
 * it is not cut to units, which could be a million bios that nobody has memory for, but walked.
 * What it asks of one unit goes to the engine as a request from a small pool; who finds none there
 * waits until one has ended, which is mostly when a commit has.
 */
#include "dm-vdisk.h"

static struct dmv_walk *walk_of(struct bio *bio)
{
	return &dmv_bio_of(bio)->walk;
}

/* One who kept the bio from ending does not any more. */
static void leave(struct bio *bio)
{
	struct dmv_walk *w = walk_of(bio);

	if (!--w->busy)
		dmv_end_bio(bio, errno_to_blk_status(w->error));
}

/* What comes after a unit that failed is not begun any more. */
static void step_ended(struct dmv_req *r, int error)
{
	struct dmv_step *s = container_of(r, struct dmv_step, r);
	struct dmv_walk *w = walk_of(r->bio);

	if (error && !w->error) {
		w->error = error;
		w->at = w->end;
	}
	s->next = s->d->walks.free;
	s->d->walks.free = s;
	leave(r->bio);
}

void dmv_step_passed(struct dmv_job *job)
{
	struct dmv_req *r = container_of(job, struct dmv_req, job);

	dmv_release(job->held);
	step_ended(r, blk_status_to_errno(job->status));
}

/* A discard, of a format that has no use for it: to the device. */
static void pass_down(struct dmv *d, struct dmv_req *r, u64 at, u64 end)
{
	u64 start = dmv_offset(d, r->bio);
	struct vdisk_map m;
	int ret = 0;

	dmv_job_init(&r->job, d, dmv_action_ended);
	r->job.held = dmv_hold(d);
	while (at < end && !ret) {
		ret = vdisk_engine_map(&d->engine, at, end - at, &m);
		if (ret)
			break;
		if (m.kind == VDISK_NEED) {
			ret = dmv_fetch_now(&d->engine, &m);
			continue;
		}
		if (m.kind == VDISK_DATA)
			dmv_send_data(&r->job, r->bio, at - start, m.offset, m.length, false);
		at += m.length;
	}
	dmv_job_put(&r->job, ret ? BLK_STS_IOERR : BLK_STS_OK);
}

/* The bio's next unit, or its part of it. */
static void begin_step(struct dmv *d, struct bio *bio, struct dmv_step *s)
{
	u64 unit = 1ULL << d->vd->unit_shift;
	struct dmv_walk *w = walk_of(bio);
	u64 at = w->at, end = min(w->end, (at & ~(unit - 1)) + unit);
	bool discard = bio_op(bio) == REQ_OP_DISCARD;

	w->at = end;
	w->busy++;
	s->r.bio = bio;
	s->r.end = step_ended;
	if (discard && !d->vd->can_discard) {
		pass_down(d, &s->r, at, end);
		return;
	}
	s->r.req = (struct vdisk_req){ .op = discard ? VDISK_REQ_DISCARD : VDISK_REQ_ZEROES,
				       .fua = bio->bi_opf & REQ_FUA,
				       .offset = at,
				       .length = end - at };
	vdisk_engine_submit(&d->engine, &s->r.req);
}

void dmv_walk(struct dmv *d, struct bio *bio)
{
	u64 at = dmv_offset(d, bio);

	if (bio_op(bio) == REQ_OP_DISCARD && !d->vd->can_discard && !d->passdown) {
		dmv_end_bio(bio, BLK_STS_OK);
		return;
	}
	*walk_of(bio) = (struct dmv_walk){ .at = at, .end = at + bio->bi_iter.bi_size, .busy = 1 };
	bio_list_add(&d->walks.waiting, bio);
}

/* The first one has come to its end, or there is a step for it. */
bool dmv_can_walk(struct dmv *d)
{
	struct bio *bio = bio_list_peek(&d->walks.waiting);

	return bio && (d->walks.free || walk_of(bio)->at == walk_of(bio)->end);
}

void dmv_walk_on(struct dmv *d)
{
	struct dmv_walks *walks = &d->walks;
	int budget = DMV_AT_ONCE;
	struct dmv_step *s;
	struct bio *bio;

	while (dmv_can_walk(d)) {
		bio = bio_list_peek(&walks->waiting);
		if (walk_of(bio)->at == walk_of(bio)->end) {
			bio_list_pop(&walks->waiting);
			leave(bio);
			continue;
		}
		if (!budget--)
			return;
		s = walks->free;
		walks->free = s->next;
		begin_step(d, bio, s);
		cond_resched();
	}
}

/* On failure, and when the image is closed: dmv_walks_close(), which frees what there is. */
int dmv_walks_open(struct dmv *d)
{
	/* Others shall find a free unit too. */
	u32 i, n = d->engine.n_units / 2;
	struct dmv_step *all = vdisk_zalloc(n * sizeof(*all));

	if (!all)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		all[i].d = d;
		all[i].next = i + 1 < n ? &all[i + 1] : NULL;
	}
	d->walks.all = all;
	d->walks.free = all;
	return 0;
}

void dmv_walks_close(struct dmv *d)
{
	vdisk_free(d->walks.all);
	d->walks.all = NULL;
	d->walks.free = NULL;
}
