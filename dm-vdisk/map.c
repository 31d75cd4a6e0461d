// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hot path. A bio whose place is known goes on at once: no lock, no allocation, no waiting.
 * All else goes to the worker; reads and writes are trimmed to their unit first, because a bio can
 * be trimmed only here.
 *
 * Nearly all bios are reads or writes of units that have their places: map_plain() is for these,
 * and asks as little as it can. What it does not understand, the rest of this file does.
 *
 * What the tables say is not enough where they do not say DATA: the unit may have been written to,
 * and be linked by a commit later. So the pending units are asked BEFORE the tables: "not pending"
 * then means that the answer was true at the time it was given.
 *
 * Of formats that give places up, a bio that goes on to a place counts as its user until it ends;
 * one that goes on to the parent does not.
 */
#include "dm-vdisk.h"

/* Units that one answer may span: all of them have to be asked for. */
#define UNITS_AT_ONCE 16

static u64 to_unit_end(struct dmv *d, u64 offset)
{
	u64 unit = 1ULL << d->vd->unit_shift;

	return unit - (offset & (unit - 1));
}

static void trim(struct bio *bio, u64 length)
{
	if (length < bio->bi_iter.bi_size)
		dm_accept_partial_bio(bio, length >> SECTOR_SHIFT);
}

/* Zeros and discards are walked as they are: they may be a million units. */
static int defer_unit(struct dmv *d, struct bio *bio, u64 offset)
{
	if (bio_has_data(bio))
		trim(bio, to_unit_end(d, offset));
	dmv_defer(d, bio);
	return DM_MAPIO_SUBMITTED;
}

static int finished(struct bio *bio)
{
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/* To the image file, as far as it lies in one piece on the device. */
static int remap(struct dmv *d, struct bio *bio, u64 offset, u64 length)
{
	sector_t sector;
	u64 there = dmv_locate_data(d, offset, length, &sector);

	if (!there && dmv_is_past_data(d, bio)) {
		trim(bio, length);
		zero_fill_bio(bio);
		return finished(bio);
	}
	if (!there) {
		DMERR_LIMIT("%s: offset %llu of the %s is outside of its %s", dmv_name(d), offset,
			    d->data ? "data file" : "image file", d->data ? "device" : "extents");
		return DM_MAPIO_KILL;
	}
	trim(bio, there);
	bio_set_dev(bio, dmv_data(d)->bdev);
	bio->bi_iter.bi_sector = sector;
	return DM_MAPIO_REMAPPED;
}

/* Where the disk has no place of its own in the file, a read is the parent's or zeros. */
static int read_elsewhere(struct dmv *d, struct bio *bio, u64 offset, const struct vdisk_map *m)
{
	u64 end = m->kind == VDISK_PARENT ? dmv_parent_bytes(d) : 0;

	if (offset >= end) {
		trim(bio, m->length);
		zero_fill_bio(bio);
		return finished(bio);
	}
	trim(bio, min_t(u64, m->length, end - offset));
	bio_set_dev(bio, d->parent->bdev);
	bio->bi_iter.bi_sector = offset >> SECTOR_SHIFT;
	return DM_MAPIO_REMAPPED;
}

/*
 * The pointer that led to the data may not be durable yet. Asking after the tables were read is
 * right: when the commit that changed them has ended by now, it is.
 */
static bool may_not_be_durable(struct dmv *d)
{
	smp_rmb(); /* the tables, then the state; finish_commit() changes it after them */
	return vdisk_engine_dirty(&d->engine);
}

/* The image file ends inside of the unit: a write to it may need another place. */
static bool is_cut_off(struct dmv *d, u64 offset, const struct vdisk_map *m)
{
	return !d->data && d->vd->format->quiet && m->offset + to_unit_end(d, offset) > d->file_end;
}

/* Has the engine to see it, although its place is known? */
static bool is_engines(struct dmv *d, struct bio *bio, u64 offset, const struct vdisk_map *m,
		       bool maybe)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return maybe && (m->kind != VDISK_DATA || is_cut_off(d, offset, m));
	case REQ_OP_DISCARD:
		return d->vd->can_discard;
	case REQ_OP_WRITE_ZEROES:
		if (d->vd->can_zero)
			return true;
		break;
	default:
		break;
	}
	if (m->kind != VDISK_DATA || READ_ONCE(d->vd->touch) || is_cut_off(d, offset, m))
		return true;
	return bio->bi_opf & REQ_FUA && may_not_be_durable(d);
}

/* The bytes are in the file. */
static int map_data(struct dmv *d, struct bio *bio, u64 offset, const struct vdisk_map *m,
		    bool maybe)
{
	if (is_engines(d, bio, offset, m, maybe))
		return defer_unit(d, bio, offset);
	if (bio_op(bio) == REQ_OP_DISCARD && (!d->passdown || m->kind != VDISK_DATA)) {
		trim(bio, m->length);
		return finished(bio);
	}
	return remap(d, bio, m->offset, m->length);
}

/* Nothing is there: zeros, or the parent's. */
static int map_nowhere(struct dmv *d, struct bio *bio, u64 offset, const struct vdisk_map *m,
		       bool maybe)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		if (maybe)
			break;
		return read_elsewhere(d, bio, offset, m);
	case REQ_OP_DISCARD:
		if (d->vd->can_discard && (maybe || m->home != VDISK_NOWHERE))
			break;
		trim(bio, m->length);
		return finished(bio);
	case REQ_OP_WRITE_ZEROES:
		if (maybe || m->kind != VDISK_ZERO)
			break;
		trim(bio, m->length);
		return finished(bio);
	default:
		break;
	}
	return defer_unit(d, bio, offset);
}

/* May one of the units be pending? *length is cut to what was asked for. */
static bool maybe_pending(struct dmv *d, u64 offset, u64 *length)
{
	u32 shift = d->vd->unit_shift;
	u64 unit = offset >> shift, last;

	*length = min(*length, to_unit_end(d, offset) + ((UNITS_AT_ONCE - 1ULL) << shift));
	for (last = (offset + *length - 1) >> shift; unit <= last; unit++)
		if (vdisk_engine_maybe_pending(&d->engine, unit))
			return true;
	return false;
}

/* Not a write that would be refused anyway, and none to an image that is in doubt. */
static bool refused(struct dmv *d, struct bio *bio)
{
	enum vdisk_mode mode = READ_ONCE(d->engine.mode);

	return op_is_write(bio_op(bio)) && (d->engine.readonly || mode == VDISK_MODE_FAIL);
}

/* An empty bio: what was written before shall be durable. */
static int map_flush(struct dmv *d, struct bio *bio)
{
	/* The second one is for the data device alone: whatever the first has to wait for. */
	if (d->data && dm_bio_get_target_bio_nr(bio)) {
		bio_set_dev(bio, d->data->bdev);
		return DM_MAPIO_REMAPPED;
	}
	if (vdisk_engine_dirty(&d->engine) || READ_ONCE(d->engine.mode) == VDISK_MODE_FAIL) {
		dmv_defer(d, bio);
		return DM_MAPIO_SUBMITTED;
	}
	bio_set_dev(bio, d->dev->bdev);
	return DM_MAPIO_REMAPPED;
}

static int map_range(struct dmv *d, struct bio *bio)
{
	u64 offset = dmv_offset(d, bio), length = bio->bi_iter.bi_size;
	struct vdisk_map m;
	bool maybe;
	int ret;

	/* It is for the engine most likely, which takes one unit. */
	if (bio_op(bio) == REQ_OP_WRITE && d->vd->plain)
		length = min(length, to_unit_end(d, offset));
	maybe = maybe_pending(d, offset, &length);

	rcu_read_lock();
	ret = vdisk_image_map(d->vd, offset, length, &m);
	rcu_read_unlock();
	/* A damaged entry is the worker's: only there the engine can be told. */
	if (ret || m.kind == VDISK_NEED) {
		this_cpu_inc(d->stats->misses);
		return defer_unit(d, bio, offset);
	}
	this_cpu_inc(d->stats->hits);
	switch (m.kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		return map_data(d, bio, offset, &m, maybe);
	case VDISK_COMPRESSED:
		return defer_unit(d, bio, offset);
	default:
		return map_nowhere(d, bio, offset, &m, maybe);
	}
}

static void user_ended(struct bio *bio)
{
	struct dmv_hook *hook = bio->bi_private;

	dmv_release(hook->held); /* first: the device may be gone with its last bio */
	dmv_end_hooked(bio);
}

/* Who holds a group does so until the bio, which goes on now, has ended. */
static void end_as_user(struct bio *bio, struct percpu_ref *held)
{
	dmv_hook(bio, user_ended)->held = held;
}

/* It went on to the parent's device. */
static bool is_parents(struct dmv *d, struct bio *bio)
{
	return d->parent && bio->bi_bdev == d->parent->bdev;
}

/* Of formats that give places up. (An end_io of the target would cost the others something.) */
static int map_as_user(struct dmv *d, struct bio *bio)
{
	struct percpu_ref *held = dmv_hold(d);
	int ret = map_range(d, bio);

	if (ret != DM_MAPIO_REMAPPED) {
		dmv_release(held);
		return ret;
	}
	/* The parent gives no place up, and may take its time. */
	if (is_parents(d, bio)) {
		dmv_release(held);
		return ret;
	}
	end_as_user(bio, held);
	return ret;
}

/* Is it a read, or a write that nothing stands in the way of? */
static bool is_plain(struct dmv *d, struct bio *bio)
{
	if (bio_op(bio) == REQ_OP_READ)
		return d->vd->plain;
	return bio_op(bio) == REQ_OP_WRITE && d->vd->plain && !(bio->bi_opf & REQ_FUA) &&
	       !READ_ONCE(d->vd->touch) && !refused(d, bio);
}

/* Where that byte of the disk is in the file, and how many of *length bytes lie together there;
 * under RCU. VDISK_NOWHERE: not known. */
static u64 find_plain(struct dmv *d, u64 offset, u64 *length)
{
	struct vdisk *vd = d->vd;
	u64 place = vd->plain(vd, offset), left = to_unit_end(d, offset);

	if (unlikely(*length > left) && place != VDISK_NOWHERE)
		*length = vd->plain_run ? vd->plain_run(vd, offset, place, *length) : left;
	return place;
}

/* false: it is not plain, or its place is not known. */
static bool map_plain(struct dmv *d, struct bio *bio)
{
	u64 length = bio->bi_iter.bi_size, place, skip;
	const struct vdisk_extent *piece;
	struct percpu_ref *held = NULL;

	if (!is_plain(d, bio))
		return false;
	rcu_read_lock();
	if (d->users.wanted)
		held = dmv_hold_rcu(d);
	place = find_plain(d, dmv_offset(d, bio), &length);
	rcu_read_unlock();
	/* VDISK_NOWHERE is not in the file; all of the other units is. */
	piece = vdisk_extents_find(&d->extents, place >> SECTOR_SHIFT);
	if (unlikely(!piece)) {
		dmv_release(held);
		return false;
	}
	this_cpu_inc(d->stats->hits);
	skip = (place >> SECTOR_SHIFT) - piece->file;
	trim(bio, min(length, (piece->count - skip) << SECTOR_SHIFT));
	bio_set_dev(bio, d->dev->bdev);
	bio->bi_iter.bi_sector = piece->device + skip;
	if (held)
		end_as_user(bio, held);
	return true;
}

int dmv_map(struct dm_target *ti, struct bio *bio)
{
	struct dmv *d = ti->private;

	if (unlikely(!d->vd))
		return DM_MAPIO_KILL;
	if (bio->bi_opf & REQ_PREFLUSH)
		return map_flush(d, bio);
	if (unlikely(!bio_sectors(bio)))
		return finished(bio);
	if (likely(map_plain(d, bio)))
		return DM_MAPIO_REMAPPED;
	if (refused(d, bio))
		return DM_MAPIO_KILL;
	/* What its tables do not call plain has no place yet most likely. */
	if (bio_op(bio) == REQ_OP_WRITE && d->vd->plain && dmv_write_now(d, bio))
		return DM_MAPIO_REMAPPED;
	switch (bio_op(bio)) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		return unlikely(d->users.wanted) ? map_as_user(d, bio) : map_range(d, bio);
	default:
		return DM_MAPIO_KILL;
	}
}
