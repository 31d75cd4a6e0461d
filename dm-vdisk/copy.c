// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine's copies, by the worker: piece by piece through a few buffers that were allocated when
 * the image was opened. A copy that finds none waits in a list. What a piece is read from may be
 * the parent's device or the inflater; nobody waits for either: the worker goes on when it is told
 * that the step has ended.
 */
#include "dm-vdisk.h"

static struct dmv_copy *copy_of(struct dmv_job *job)
{
	return container_of(job, struct dmv_copy, job);
}

/* The inflater has the whole block. */
static void take(struct dmv_job *job, const u8 *block)
{
	struct dmv_copy *c = copy_of(job);
	u64 disk = job->action->disk + c->at;

	memcpy(c->buf, block + (disk & (job->d->inflater.block_size - 1)), c->length);
}

static void read_parent(struct dmv_copy *c, u64 disk)
{
	struct dmv *d = c->job.d;
	u64 end = dmv_parent_bytes(d);
	u32 there = disk < end ? min_t(u64, c->length, end - disk) : 0;

	memset(c->buf + there, 0, c->length - there);
	if (there)
		dmv_transfer(&c->job, REQ_OP_READ, d->parent->bdev, disk >> SECTOR_SHIFT, c->buf,
			     there);
}

static void read_piece(struct dmv_copy *c)
{
	const struct vdisk_action *a = c->job.action;
	struct dmv_job *job = &c->job;

	c->writing = false;
	switch (a->from.kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		dmv_transfer_file(job, REQ_OP_READ, a->guest, a->from.offset + c->at, c->length,
				  c->buf);
		break;
	case VDISK_COMPRESSED:
		job->packed_at = a->from.offset;
		job->packed = a->from.packed;
		job->take = take;
		dmv_inflate(job);
		return; /* it puts the job */
	default:
		read_parent(c, a->disk + c->at);
	}
	dmv_job_put(job, BLK_STS_OK);
}

static void write_piece(struct dmv_copy *c)
{
	const struct vdisk_action *a = c->job.action;

	c->writing = true;
	dmv_transfer_file(&c->job, REQ_OP_WRITE | REQ_SYNC, a->guest, a->offset + c->at, c->length,
			  c->buf);
	dmv_job_put(&c->job, BLK_STS_OK);
}

static void begin_step(struct dmv *d, struct dmv_copy *c, struct vdisk_action *a)
{
	dmv_job_init(&c->job, d, dmv_action_ended);
	c->job.action = a;
	c->length = min_t(u64, a->length - c->at, DMV_COPY_BYTES);
}

static void begin_copy(struct dmv *d, struct dmv_copy *c, struct vdisk_action *a)
{
	c->at = 0;
	begin_step(d, c, a);
	read_piece(c);
}

void dmv_copy(struct dmv *d, struct vdisk_action *a)
{
	struct dmv_copies *copies = &d->copies;
	struct dmv_copy *c = copies->free;

	if (c) {
		copies->free = c->next;
		begin_copy(d, c, a);
		return;
	}
	a->next = NULL;
	if (copies->waiting)
		copies->waiting_last->next = a;
	else
		copies->waiting = a;
	copies->waiting_last = a;
}

void dmv_copy_free(struct dmv *d, struct dmv_job *job)
{
	struct dmv_copies *copies = &d->copies;
	struct vdisk_action *a = copies->waiting;
	struct dmv_copy *c = copy_of(job);

	if (a) {
		copies->waiting = a->next;
		begin_copy(d, c, a);
		return;
	}
	c->next = copies->free;
	copies->free = c;
}

bool dmv_copy_goes_on(struct dmv *d, struct dmv_job *job)
{
	struct dmv_copy *c = copy_of(job);
	struct vdisk_action *a = job->action;

	if (job->status)
		return false;
	if (!c->writing) {
		begin_step(d, c, a);
		write_piece(c);
		return true;
	}
	c->at += c->length;
	if (c->at == a->length)
		return false;
	begin_step(d, c, a);
	read_piece(c);
	return true;
}

/* On failure: dmv_copies_close(), which frees what there is. */
int dmv_copies_open(struct dmv *d)
{
	struct dmv_copies *copies = &d->copies;
	struct dmv_copy *c;
	int i;

	copies->all = kcalloc(DMV_COPIES, sizeof(*copies->all), GFP_NOIO);
	if (!copies->all)
		return -ENOMEM;
	for (i = 0; i < DMV_COPIES; i++) {
		c = &copies->all[i];
		c->buf = kmalloc(DMV_COPY_BYTES, GFP_NOIO);
		if (!c->buf)
			return -ENOMEM;
		c->next = copies->free;
		copies->free = c;
	}
	return 0;
}

void dmv_copies_close(struct dmv *d)
{
	struct dmv_copies *copies = &d->copies;
	int i;

	for (i = 0; copies->all && i < DMV_COPIES; i++)
		kfree(copies->all[i].buf);
	kfree(copies->all);
	*copies = (struct dmv_copies){};
}
