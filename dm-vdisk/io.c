// SPDX-License-Identifier: GPL-2.0-or-later
/* Bios that the worker sends: parts of the user's, and those that the engine's actions take. */
#include <linux/vmalloc.h>

#include "dm-vdisk.h"

/* --- jobs: several bios for one purpose --- */

void dmv_job_init(struct dmv_job *job, struct dmv *d, void (*end)(struct dmv_job *job))
{
	job->d = d;
	atomic_set(&job->pieces, 1);
	job->status = BLK_STS_OK;
	job->end = end;
	job->action = NULL;
}

void dmv_job_put(struct dmv_job *job, blk_status_t status)
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
	dmv_job_put(job, status);
}

static void submit_piece(struct dmv_job *job, struct bio *bio, bio_end_io_t *end_io)
{
	atomic_inc(&job->pieces);
	bio->bi_private = job;
	bio->bi_end_io = end_io;
	submit_bio_noacct(bio);
}

static void job_submit(struct dmv_job *job, struct bio *bio)
{
	submit_piece(job, bio, piece_ended);
}

/* Of a piece that counts as a user of its place by itself. */
static void user_ended(struct bio *bio)
{
	struct dmv_job *job = bio->bi_private;

	dmv_release(job->held); /* first: the device may be gone with its last bio */
	piece_ended(bio);
}

void dmv_send_part(struct dmv_job *job, struct bio *bio, u64 skip, u64 length,
		   struct block_device *bdev, sector_t sector, bool fua)
{
	struct dmv *d = job->d;
	struct bio *part = bio_alloc_clone(bdev, bio, GFP_NOIO, &d->bios);

	bio_trim(part, skip >> SECTOR_SHIFT, length >> SECTOR_SHIFT);
	part->bi_iter.bi_sector = sector;
	/* The engine says whether the request's FUA is better done here or by a commit; and nobody
	 * would poll for our part. */
	part->bi_opf &= ~(REQ_FUA | REQ_POLLED | REQ_NOWAIT);
	if (fua)
		part->bi_opf |= REQ_FUA;
	if (d->parent && bdev == d->parent->bdev) {
		job_submit(job, part);
		return;
	}
	dmv_hold_too(job->held);
	submit_piece(job, part, user_ended);
}

void dmv_zero_part(struct bio *bio, u64 skip, u64 length)
{
	struct bvec_iter iter = bio->bi_iter, at;
	struct bio_vec vec;

	bio_advance_iter(bio, &iter, skip);
	iter.bi_size = length;
	__bio_for_each_segment(vec, bio, at, iter)
		memzero_bvec(&vec);
}

void dmv_send_data(struct dmv_job *job, struct bio *bio, u64 skip, u64 offset, u64 length, bool fua)
{
	struct dmv *d = job->d;
	sector_t sector;
	u64 n;

	for (; length; skip += n, offset += n, length -= n) {
		n = dmv_locate_data(d, offset, length, &sector);
		if (!n && dmv_is_past_data(d, bio)) {
			dmv_zero_part(bio, skip, length);
			return;
		}
		if (!n) {
			WRITE_ONCE(job->status, BLK_STS_IOERR);
			return;
		}
		dmv_send_part(job, bio, skip, n, dmv_data(d)->bdev, sector, fua);
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

void dmv_transfer(struct dmv_job *job, blk_opf_t opf, struct block_device *bdev, sector_t sector,
		  const u8 *buf, u64 n)
{
	struct bio *bio = bio_alloc_bioset(bdev, DIV_ROUND_UP(n, PAGE_SIZE) + 1, opf, GFP_NOIO,
					   &job->d->bios);

	bio->bi_iter.bi_sector = sector;
	add_bytes(bio, buf, n);
	job_submit(job, bio);
}

void dmv_transfer_file(struct dmv_job *job, blk_opf_t opf, bool guest, u64 offset, u64 length,
		       const u8 *buf)
{
	struct dmv *d = job->d;
	struct dm_dev *dev = guest ? dmv_data(d) : d->dev;
	sector_t sector;
	u64 n;

	for (; length; offset += n, length -= n) {
		/* One page less than a bio can hold: buf may begin inside of one. */
		n = min_t(u64, length, (BIO_MAX_VECS - 1) * PAGE_SIZE);
		n = guest ? dmv_locate_data(d, offset, n, &sector)
			  : dmv_locate(d, offset, n, &sector);
		if (!n) {
			WRITE_ONCE(job->status, BLK_STS_IOERR);
			return;
		}
		dmv_transfer(job, opf, dev->bdev, sector, buf, n);
		if (buf)
			buf += n;
	}
}

static void write_payload(struct dmv_job *job, struct vdisk_action *a)
{
	struct bio *bio = container_of(a->req, struct dmv_req, req)->bio;

	if (bio_op(bio) == REQ_OP_WRITE)
		dmv_send_data(job, bio, 0, a->offset, a->length, a->fua);
	else
		dmv_transfer_file(job, REQ_OP_WRITE | REQ_SYNC | (a->fua ? REQ_FUA : 0), a->guest,
				  a->offset, a->length, NULL);
}

static void flush_device(struct dmv_job *job, struct dm_dev *dev)
{
	job_submit(job, bio_alloc_bioset(dev->bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC,
					 GFP_NOIO, &job->d->bios));
}

void dmv_action_ended(struct dmv_job *job)
{
	struct dmv *d = job->d;
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	job->next = d->events.done;
	d->events.done = job;
	dmv_kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

/* The last cluster of a data file may end past the file, which may be as long as the disk: what is
 * zeroed there is nobody's. */
static void write_zeros(struct dmv_job *job, const struct vdisk_action *a)
{
	struct dmv *d = job->d;
	u64 end = a->offset + a->length;

	if (a->guest && d->data)
		end = min_t(u64, end, bdev_nr_bytes(d->data->bdev));
	if (a->offset < end)
		dmv_transfer_file(job, REQ_OP_WRITE | REQ_SYNC, a->guest, a->offset,
				  end - a->offset, NULL);
}

static void perform(struct dmv *d, struct dmv_job *job, struct vdisk_action *a)
{
	dmv_job_init(job, d, dmv_action_ended);
	job->action = a;
	switch (a->kind) {
	case VDISK_ACT_DATA:
		write_payload(job, a);
		break;
	case VDISK_ACT_ZERO:
		write_zeros(job, a);
		break;
	case VDISK_ACT_WRITE:
		dmv_transfer_file(job, REQ_OP_WRITE | REQ_META | REQ_SYNC, false, a->offset,
				  a->length, a->buf);
		break;
	case VDISK_ACT_FLUSH:
		if (d->data)
			flush_device(job, d->data);
		flush_device(job, d->dev);
		break;
	default:
		break;
	}
	dmv_job_put(job, BLK_STS_OK);
}

/* The job of a request's own data is in the request; of others there may be none at the moment. */
static struct dmv_job *get_job(struct dmv *d, struct vdisk_action *a)
{
	if (a->kind == VDISK_ACT_DATA)
		return &container_of(a->req, struct dmv_req, req)->job;
	return mempool_alloc(&d->jobs, GFP_NOWAIT | __GFP_NOWARN);
}

void dmv_start_actions(struct dmv *d)
{
	struct vdisk_action *a;
	struct dmv_job *job;

	while ((a = d->starting)) {
		if (a->kind == VDISK_ACT_COPY || a->kind == VDISK_ACT_QUIESCE) {
			d->starting = a->next;
			if (a->kind == VDISK_ACT_COPY)
				dmv_copy(d, a);
			else
				dmv_quiesce(d, a);
			continue;
		}
		job = get_job(d, a);
		if (!job)
			return; /* one that is under way brings us here again */
		d->starting = a->next;
		perform(d, job, a);
	}
}

void dmv_finish_action(struct dmv *d, struct dmv_job *job)
{
	struct vdisk_action *a = job->action;
	int error;

	if (!a) {
		dmv_step_passed(job);
		return;
	}
	if (a->kind == VDISK_ACT_COPY && dmv_copy_goes_on(d, job))
		return;
	error = blk_status_to_errno(job->status);
	if (a->kind == VDISK_ACT_DATA)
		dmv_release(job->held);
	else if (a->kind == VDISK_ACT_COPY)
		dmv_copy_free(d, job);
	else
		mempool_free(job, &d->jobs);
	d->acting--;
	vdisk_engine_done(&d->engine, a, error);
}
