// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writes that need a new place, or go to one that is not linked yet, without the worker: whoever
 * submits them asks the engine himself if nobody is using it, and sends them on. When they end,
 * what they have written is noted, and the worker tells the engine of many at once. It does so
 * before it serves what came later, so a write that has ended is seen by all reads and flushes.
 */
#include "dm-vdisk.h"

/* false: there is no room for it. */
static bool note(struct dmv_ended *ended, const struct dmv_hook *hook)
{
	if (ended->n == DMV_ENDED)
		return false;
	ended->at[ended->n].offset = hook->offset;
	ended->at[ended->n].length = hook->length;
	ended->n++;
	return true;
}

/* What failed, or cannot be noted, ends when the worker has seen it. */
static void write_ended(struct bio *bio)
{
	struct dmv_hook *hook = bio->bi_private;
	struct dmv *d = hook->d;
	unsigned long flags;
	bool noted;

	dmv_release(hook->held); /* first: the device may be gone with its last bio */
	spin_lock_irqsave(&d->events.lock, flags);
	noted = !bio->bi_status && note(d->events.ended, hook);
	if (!noted)
		bio_list_add(&d->events.unnoted, bio);
	if (!noted || d->events.awaited || d->events.ended->n >= DMV_ENDED / 2)
		dmv_kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
	if (noted)
		dmv_end_hooked(bio);
}

void dmv_end_writes(struct dmv *d, struct dmv_ended *ended, struct bio_list *unnoted)
{
	struct bio *bio;

	while (ended->n) {
		ended->n--;
		vdisk_engine_end_write(&d->engine, ended->at[ended->n].offset,
				       ended->at[ended->n].length, 0);
	}
	while ((bio = bio_list_pop(unnoted))) {
		struct dmv_hook *hook = bio->bi_private;

		vdisk_engine_end_write(&d->engine, hook->offset, hook->length,
				       blk_status_to_errno(bio->bi_status));
		dmv_end_hooked(bio);
	}
}

/* The engine has given `length` bytes at `place` of the file to the bio: as far as they lie in one
 * piece on the device. What is behind that is given back, unit by unit. */
static u64 fit(struct dmv *d, u64 offset, u64 place, u64 length, sector_t *sector)
{
	u64 there = dmv_locate(d, place, length, sector);
	u64 rest = there ? round_up(offset + there, 1ULL << d->vd->unit_shift) : offset;

	if (there < length && rest < offset + length)
		vdisk_engine_end_write(&d->engine, rest, offset + length - rest, -EIO);
	return there;
}

/* Under engine_lock. 0: the worker has to see it. */
static u64 begin(struct dmv *d, u64 offset, u64 length, sector_t *sector)
{
	u64 place;

	length = vdisk_engine_begin_write(&d->engine, offset, length, &place);
	return length ? fit(d, offset, place, length, sector) : 0;
}

/* What is pending is committed soon: at once when it is much, or by the timer. */
static void see_to_commit(struct dmv *d)
{
	unsigned long flags;

	if (vdisk_engine_wants_step(&d->engine)) {
		spin_lock_irqsave(&d->events.lock, flags);
		dmv_kick(d);
		spin_unlock_irqrestore(&d->events.lock, flags);
	} else if (!delayed_work_pending(&d->timer)) {
		queue_delayed_work(d->wq, &d->timer, HZ);
	}
}

bool dmv_write_now(struct dmv *d, struct bio *bio)
{
	u64 offset = dmv_offset(d, bio), length;
	struct percpu_ref *held;
	struct dmv_hook *hook;
	sector_t sector;

	if (bio->bi_opf & REQ_FUA || !mutex_trylock(&d->engine_lock))
		return false;
	held = dmv_hold(d);
	length = begin(d, offset, bio->bi_iter.bi_size, &sector);
	if (length)
		see_to_commit(d);
	mutex_unlock(&d->engine_lock);
	if (!length) {
		dmv_release(held);
		return false;
	}
	this_cpu_inc(d->stats->hits);
	if (length < bio->bi_iter.bi_size)
		dm_accept_partial_bio(bio, length >> SECTOR_SHIFT);
	bio_set_dev(bio, d->dev->bdev);
	bio->bi_iter.bi_sector = sector;
	hook = dmv_hook(bio, write_ended);
	hook->held = held;
	hook->d = d;
	hook->offset = offset;
	hook->length = length;
	return true;
}
