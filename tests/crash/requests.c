// SPDX-License-Identifier: GPL-2.0-or-later
/* The user: writes, zeros, discards, flushes and reads. */
#include "crash.h"

u8 *payload(const struct op *op)
{
	u8 *data = calloc(1, op->req.length);

	if (!data)
		abort();
	for (u64 at = 0; at < op->req.length && op->req.op == VDISK_REQ_WRITE; at += SECTOR)
		stamp_sector(data + at, op->serial);
	return data;
}

static struct op *make_op(void)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op)
		abort();
	run.n_ops++;
	return op;
}

/* ---- the end of a request ---- */

static void end_flush(struct op *op, int error)
{
	if (error)
		model_flush_failed(&run.model);
	else
		model_flushed(&run.model, op->snapshot);
}

static void end_write(struct op *op, int error)
{
	u64 first = op->req.offset / SECTOR, count = op->req.length / SECTOR;

	model_end(&run.model, first, count,
		  !error ? DONE
		  : op->started || op->req.op == VDISK_REQ_DISCARD ||
				  (op->req.op == VDISK_REQ_ZEROES && error != -ENOSPC)
			  ? MAYBE
			  : NEVER);
	if (!error && op->req.fua)
		model_durable(&run.model, first, count, op->serial);
}

void end_op(struct op *op, int error)
{
	if (error && error != -ENOSPC && !run.failing)
		fail("request failed with %d", error);
	run.n_ops--;
	if (op->req.op == VDISK_REQ_DISCARD && !error) {
		op->next = run.discarded;
		run.discarded = op;
		return;
	}
	if (op->req.op == VDISK_REQ_FLUSH)
		end_flush(op, error);
	else
		end_write(op, error);
	free(op->snapshot);
	free(op);
}

/* ---- writes ---- */

static struct op *begin_op(enum vdisk_req_op what, u64 at, u64 length)
{
	struct op *op = make_op();

	op->req.op = what;
	op->req.offset = at;
	op->req.length = length;
	op->serial = model_begin(&run.model, at / SECTOR, length / SECTOR, what != VDISK_REQ_WRITE);
	return op;
}

static void fly_to(struct op *op, u64 place)
{
	struct disk *disk = &run.disks[run.n_disks - 1];
	u8 *data = payload(op);

	op->started = true;
	fly((struct flight){
		.op = op, .disk = disk, .write = disk_write(disk, place, data, op->req.length) });
	free(data);
}

/* The file may lie in pieces: where one ends, the rest of the write is given back. */
static u64 keep_some(u64 at, u64 length)
{
	u64 kept = (1 + random_below(length / run.align)) * run.align;
	u64 rest = round_up_to(at + kept, 1U << run.vd->unit_shift);

	if (random_below(3))
		return length;
	if (rest < at + length)
		vdisk_engine_end_write(&run.engine, rest, at + length - rest, -EIO);
	return kept;
}

/* So does the kernel with new places, as many together as there are: up to three units here. */
static bool written_at_once(u64 at, u64 length)
{
	u64 place, left = run.vd->info.virtual_size - at;
	struct op *op;

	if (random_below(3) == 0)
		length += random_below(3) << run.vd->unit_shift;
	if (length > left)
		length = left;
	if (random_below(4) == 0 || model_busy(&run.model, at / SECTOR, length / SECTOR))
		return false;
	length = vdisk_engine_begin_write(&run.engine, at, length, &place);
	if (!length)
		return false;
	length = keep_some(at, length);
	op = begin_op(VDISK_REQ_WRITE, at, length);
	op->at_once = true;
	at_once_taken++;
	fly_to(op, place);
	return true;
}

/* The kernel's fast path: what is mapped goes to its place without asking the engine. */
static bool written_in_place(struct op *op)
{
	struct vdisk_map m;

	if (run.engine.mode == VDISK_MODE_FAIL || run.vd->touch || random_below(4) == 0)
		return false;
	if (vdisk_image_map(run.vd, op->req.offset, op->req.length, &m) || m.kind != VDISK_DATA ||
	    m.length < op->req.length || (op->req.fua && vdisk_engine_dirty(&run.engine)))
		return false;
	fly_to(op, m.offset);
	return true;
}

static enum vdisk_req_op some_op(void)
{
	switch (random_below(10)) {
	case 0:
	case 1:
		return VDISK_REQ_ZEROES;
	case 2:
		return run.vd->can_discard ? VDISK_REQ_DISCARD : VDISK_REQ_WRITE;
	default:
		return VDISK_REQ_WRITE;
	}
}

/* Whole units now and then; most zeros and discards are of whole ones. */
static u64 some_range(enum vdisk_req_op op, u64 *length)
{
	u64 unit = 1ULL << run.vd->unit_shift, size = run.vd->info.virtual_size;
	u64 at = random_below(size / run.align) * run.align, left;

	if (random_below(op == VDISK_REQ_WRITE ? 20 : 3) == 0)
		at -= at % unit;
	left = unit - at % unit < size - at ? unit - at % unit : size - at;
	*length = left;
	if (at % unit == 0 && random_below(2))
		return at;
	*length = (1 + random_below(left / run.align)) * run.align;
	if (random_below(3))
		*length = run.align;
	return at;
}

void submit_write(void)
{
	enum vdisk_req_op what = some_op();
	u64 length, at = some_range(what, &length);
	struct op *op;

	if (!length || model_busy(&run.model, at / SECTOR, length / SECTOR))
		return;
	if (what == VDISK_REQ_WRITE && written_at_once(at, length))
		return;
	op = begin_op(what, at, length);
	op->req.fua = what != VDISK_REQ_DISCARD && !random_below(10);
	if (what != VDISK_REQ_DISCARD && written_in_place(op))
		return;
	vdisk_engine_submit(&run.engine, &op->req);
}

void submit_flush(void)
{
	struct op *op = make_op();

	op->req.op = VDISK_REQ_FLUSH;
	op->snapshot = model_snapshot(&run.model);
	vdisk_engine_submit(&run.engine, &op->req);
}

/* ---- reads ---- */

static int engine_map(u64 offset, struct vdisk_map *m)
{
	int ret;

	do {
		ret = vdisk_engine_map(&run.engine, offset, SECTOR, m);
		if (!ret && m->kind == VDISK_NEED)
			fetch_block(m);
	} while (!ret && m->kind == VDISK_NEED);
	return ret;
}

/* Where a read of one sector goes now. */
static struct vdisk_map map_sector(u64 sector)
{
	u64 offset = sector * SECTOR;
	bool maybe = vdisk_engine_maybe_pending(&run.engine, offset >> run.vd->unit_shift);
	struct vdisk_map m;
	int ret = vdisk_image_map(run.vd, offset, SECTOR, &m);

	if (ret)
		fail("map of sector %llu: %d", (unsigned long long)sector, ret);
	if (m.kind == VDISK_NEED || (m.kind != VDISK_DATA && maybe))
		ret = engine_map(offset, &m);
	if (ret || m.kind == VDISK_NEED)
		fail("engine's map of sector %llu: %d", (unsigned long long)sector, ret);
	return m;
}

static u64 read_sector(u64 sector)
{
	struct vdisk_map m = map_sector(sector);

	return read_answer(&m, sector);
}

/* What is read may have moved meanwhile, but must be still there. */
void end_reading(struct reading *r)
{
	u64 stamp = read_answer(&r->map, r->sector);

	if (!model_could_read(&run.model, r->sector, stamp, r->oldest, r->then))
		fail("a read of sector %llu that was under way got %llx",
		     (unsigned long long)r->sector, (unsigned long long)stamp);
	free(r);
}

static void begin_reading(u64 sector)
{
	struct reading *r = calloc(1, sizeof(*r));

	if (!r)
		abort();
	r->sector = sector;
	r->oldest = model_oldest(&run.model, sector, &r->then);
	r->map = map_sector(sector);
	fly((struct flight){ .reading = r });
}

void read_some(void)
{
	for (int i = 0; i < 8; i++) {
		u64 sector = random_below(run.model.n), stamp;

		if (model_busy(&run.model, sector, 1))
			continue; /* anything may be seen while it is written */
		stamp = read_sector(sector);
		if (!model_reads(&run.model, sector, stamp))
			fail("sector %llu reads as %llx", (unsigned long long)sector,
			     (unsigned long long)stamp);
		if (run.n_flights < 32)
			begin_reading(sector);
	}
}

/* A discard is a hint. Where it was taken there are zeros, and there must be zeros from now on;
 * where it was not, nothing may have changed. */
void look_at_discards(void)
{
	struct op *op;

	while ((op = run.discarded)) {
		u64 first = op->req.offset / SECTOR, count = op->req.length / SECTOR;

		run.discarded = op->next;
		for (u64 i = first; i < first + count; i++) {
			bool taken = read_sector(i) == 0;

			discards_taken += taken && i == first;
			model_end(&run.model, i, 1, taken ? DONE : NEVER);
		}
		free(op);
	}
}
