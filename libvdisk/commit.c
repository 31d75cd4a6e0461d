// SPDX-License-Identifier: GPL-2.0-or-later
/* The commit, from state to state: engine.h tells the order of things. */
#include "engine-private.h"

static void part_done(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	(void)a;
	e->busy--;
	if (error && !e->error)
		e->error = error;
}

static void start_part(struct vdisk_engine *e, struct vdisk_action *a)
{
	e->busy++;
	e->ops->start(e, a);
}

static void start_flush(struct vdisk_engine *e)
{
	e->flush = (struct vdisk_action){ .kind = VDISK_ACT_FLUSH, .done = part_done };
	start_part(e, &e->flush);
}

static void write_head(struct vdisk_engine *e, struct vdisk_unit *u)
{
	if (!e->vd->head_bytes)
		return;
	u->action = (struct vdisk_action){ .kind = VDISK_ACT_WRITE,
					   .offset = u->home - e->vd->head_bytes,
					   .length = e->vd->head_bytes,
					   .buf = u->head,
					   .done = part_done };
	start_part(e, &u->action);
}

/* ---- filling ---- */

static void fill_next(struct vdisk_engine *e, struct vdisk_unit *u);

/* What could not be copied is lost to this unit; what could not be written stops everything. */
static void fill_done(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	struct vdisk_unit *u = a->owner;

	if (a->kind == VDISK_ACT_COPY) {
		u->error = error;
		error = 0;
	}
	part_done(e, a, error);
	if (e->error || u->error)
		return;
	cover(u, a->offset - u->home, a->length);
	fill_next(e, u);
}

/* Has anything been written to what is filled together with byte `at`? */
static bool grain_is_used(struct vdisk_engine *e, const struct vdisk_unit *u, u64 at)
{
	u64 start = round_down_to(at, e->vd->fill);

	return is_covered(u, start / VDISK_SECTOR) ||
	       same_cover(u, start, start + e->vd->fill) < e->vd->fill;
}

/* Data that are in their place already must not be touched: others may write there now. */
static bool is_missing(const struct vdisk_unit *u, const struct vdisk_map *m)
{
	return u->fresh || m->kind != VDISK_DATA;
}

/* Must a new place have what the tables say about the old one, even if nobody wrote near? */
static bool is_kept(const struct vdisk_unit *u, const struct vdisk_map *m)
{
	return u->fresh &&
	       (m->kind == VDISK_DATA || m->kind == VDISK_SHARED || m->kind == VDISK_COMPRESSED);
}

/* What the tables say about a part of the unit; zeros where the disk has ended. */
static int old_contents(struct vdisk_engine *e, const struct vdisk_unit *u, u64 at, u64 length,
			struct vdisk_map *m)
{
	u64 disk = (u->index << e->vd->unit_shift) + at, size = e->vd->info.virtual_size;

	*m = (struct vdisk_map){ .kind = VDISK_ZERO, .length = length, .home = VDISK_NOWHERE };
	if (disk >= size)
		return 0;
	return vdisk_engine_map_tables(e, disk, length < size - disk ? length : size - disk, m);
}

static void start_fill_action(struct vdisk_engine *e, struct vdisk_unit *u, u64 at,
			      const struct vdisk_map *m)
{
	u->action = (struct vdisk_action){ .kind = m->kind == VDISK_ZERO ? VDISK_ACT_ZERO
									 : VDISK_ACT_COPY,
					   .guest = true,
					   .offset = u->home + at,
					   .length = m->length,
					   .from = *m,
					   .disk = (u->index << e->vd->unit_shift) + at,
					   .owner = u,
					   .done = fill_done };
	start_part(e, &u->action);
}

/* How much of the unit can be filled: a place that it had already may be cut off by the end of the
 * file, behind that of the disk; a data file need not be longer than the disk. */
static u64 fill_end(const struct vdisk_engine *e, const struct vdisk_unit *u)
{
	const struct vdisk *vd = e->vd;
	u64 disk = vd->info.virtual_size - (u->index << vd->unit_shift), file = unit_bytes(e);

	if (disk > unit_bytes(e))
		disk = unit_bytes(e);
	if (vd->info.needs_data)
		return disk;
	if (!u->fresh && vd->io.size - u->home < file)
		file = round_down_to(vd->io.size - u->home, vd->meta->block);
	return disk > file ? disk : file;
}

/* From byte `at` on, find the next piece that has to be filled. false: there is none. */
static bool find_gap(struct vdisk_engine *e, struct vdisk_unit *u, u64 *at, struct vdisk_map *m)
{
	u64 last = fill_end(e, u);

	while (*at < last && e->vd->fill) {
		u64 end = round_down_to(*at, e->vd->fill) + e->vd->fill;
		u64 same = same_cover(u, *at, end < last ? end : last);

		m->length = same;
		if (!is_covered(u, *at / VDISK_SECTOR)) {
			u->error = old_contents(e, u, *at, same, m);
			if (u->error)
				return false;
			if (is_missing(u, m) && (grain_is_used(e, u, *at) || is_kept(u, m)))
				return true;
		}
		*at += m->length;
	}
	return false;
}

/* The next piece that nobody wrote, or at the end the head. */
static void fill_next(struct vdisk_engine *e, struct vdisk_unit *u)
{
	struct vdisk_map m = { .length = 0 };
	u64 at = u->filled;

	if (find_gap(e, u, &at, &m)) {
		u->filled = at + m.length;
		start_fill_action(e, u, at, &m);
		return;
	}
	if (u->error || !u->fresh)
		return;
	if (e->vd->fill == unit_bytes(e))
		memset(u->covered, 0xff, e->cover_bytes); /* what stands for no sector too */
	write_head(e, u);
}

static void start_fill(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed && !e->units[i].clear)
			fill_next(e, &e->units[i]);
}

/* ---- sealing ---- */

static void seal(struct vdisk_engine *e)
{
	e->commit_wanted = false;
	e->error = 0;
	e->draining = 0;
	for (u32 i = 0; i < e->n_units; i++) {
		if (!e->units[i].used)
			continue;
		e->units[i].sealed = true;
		e->draining += e->units[i].writes;
	}
	if (e->vd->format->seal)
		e->vd->format->seal(e->vd);
	move_all(&e->flushes, &e->flushing);
}

static bool nothing_covered(const struct vdisk_engine *e, const struct vdisk_unit *u)
{
	for (u32 sector = 0; sector < 8 * e->cover_bytes; sector += 64)
		if (cover_word(u, sector))
			return false;
	return true;
}

/* The unit will not be linked. */
static void give_unit_up(struct vdisk_engine *e, struct vdisk_unit *u)
{
	if (u->fresh && e->vd->format->unreserve)
		e->vd->format->unreserve(e->vd, &e->space, u);
	vdisk_engine_drop_unit(e, u);
}

/* A unit whose writes have all failed goes as it came. */
static void drop_untouched(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed && nothing_covered(e, &e->units[i]))
			give_unit_up(e, &e->units[i]);
}

/* Nor is one that could not be filled: what was written there is lost, and its flush shall know. */
static void drop_failed(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++) {
		if (!e->units[i].sealed || !e->units[i].error)
			continue;
		e->lost = -EIO;
		give_unit_up(e, &e->units[i]);
	}
}

/* Is there anything for a commit to do? */
bool vdisk_commit_has_work(const struct vdisk_engine *e)
{
	return e->n_pending || (e->vd->touch && e->gated.first) || format_state(e) & VDISK_WORK;
}

/* ---- changing tables ---- */

/* Make as many new tables as there are actions. */
static void prepare_batch(struct vdisk_engine *e)
{
	struct vdisk_region r;

	for (u32 i = 0; i < VDISK_BATCH; i++, e->at_n++) {
		if (!e->vd->format->prepare || !e->vd->format->prepare(e->vd, e->at_n, &r))
			return;
		e->ops->forget(e, r.offset, r.length);
		e->batch[i] = (struct vdisk_action){
			.kind = r.from == VDISK_NOWHERE ? VDISK_ACT_ZERO : VDISK_ACT_COPY,
			.offset = r.offset,
			.length = r.length,
			.from = { .kind = VDISK_DATA, .offset = r.from, .length = r.length },
			.done = part_done
		};
		start_part(e, &e->batch[i]);
	}
}

/* Change one metadata block. It stays pinned until it has been written. */
static int edit_block(struct vdisk_engine *e, enum vdisk_phase phase, const struct vdisk_unit *u,
		      u64 offset, u32 *n_dirty)
{
	struct vdisk_block *b = e->dirty;
	bool changed, held = b && b->offset == offset; /* mostly: units lie side by side */
	int ret = held ? 0 : e->ops->pin(e, offset, &b);

	if (ret)
		return ret;
	changed = e->vd->format->change(e->vd, &e->space, phase, u, e->at_n, b->data);
	if (e->vd->mark_corrupt) /* it may have found that refcounts are wrong */
		vdisk_engine_set_mode(e, VDISK_MODE_NEEDS_CHECK);
	if (!changed || b->dirty) {
		if (!held)
			e->ops->unpin(e, b); /* one pin for a dirty block is enough */
		return 0;
	}
	b->dirty = true;
	b->next_dirty = e->dirty;
	e->dirty = b;
	(*n_dirty)++;
	return 0;
}

void vdisk_commit_unpin(struct vdisk_engine *e)
{
	while (e->dirty) {
		struct vdisk_block *b = e->dirty;

		e->dirty = b->next_dirty;
		b->dirty = false;
		e->ops->unpin(e, b);
	}
}

static void write_dirty(struct vdisk_engine *e)
{
	struct vdisk_action *a = e->batch;

	for (struct vdisk_block *b = e->dirty; b; b = b->next_dirty, a++) {
		*a = (struct vdisk_action){ .kind = VDISK_ACT_WRITE,
					    .offset = b->offset,
					    .length = e->vd->meta->block,
					    .buf = b->data,
					    .done = part_done };
		start_part(e, a);
	}
}

/* The sealed units one after the other, and at last what belongs to none. false: the end. */
static bool at_something(struct vdisk_engine *e, struct vdisk_unit **u)
{
	while (e->at_unit < e->n_units && !e->units[e->at_unit].sealed)
		e->at_unit++;
	*u = e->at_unit < e->n_units ? &e->units[e->at_unit] : NULL;
	return e->at_unit <= e->n_units;
}

static void begin_step(struct vdisk_engine *e, enum vdisk_commit_state state)
{
	e->at_unit = 0;
	e->at_n = 0;
	e->edits = 0;
	WRITE_ONCE(e->state, state);
}

static void to_next_unit(struct vdisk_engine *e)
{
	e->at_unit++;
	e->at_n = 0;
}

/* One change of this step, or on to the next unit. */
static int edit_next(struct vdisk_engine *e, enum vdisk_phase phase, const struct vdisk_unit *u,
		     u32 *n_dirty)
{
	struct vdisk_map m = { .home = VDISK_NOWHERE };
	u64 offset;
	int ret = e->vd->format->place(e->vd, phase, u, e->at_n, &offset, &m);
	bool last = ret == VDISK_LAST;

	if (ret == -EAGAIN)
		return e->ops->fetch(e, &m);
	if (ret == -ENOENT) {
		to_next_unit(e);
		return 0;
	}
	if (ret == -EUCLEAN)
		vdisk_engine_bad_entry(e, ret, &m);
	if (ret >= 0)
		ret = edit_block(e, phase, u, offset, n_dirty);
	if (last)
		to_next_unit(e);
	else
		e->at_n++;
	return ret;
}

/* As many changes as one batch of dirty blocks allows. */
static void edit_batch(struct vdisk_engine *e, enum vdisk_phase phase)
{
	struct vdisk_unit *u;
	u32 n_dirty = 0;

	while (n_dirty < VDISK_BATCH && !e->error && at_something(e, &u))
		e->error = edit_next(e, phase, u, &n_dirty);
	e->edits += n_dirty;
	write_dirty(e);
}

/* ---- from step to step ---- */

static void quiesced(struct vdisk_engine *e, struct vdisk_action *a, int error);

/* Places that this commit has given up: who uses them still? */
static void start_quiesce(struct vdisk_engine *e)
{
	if (e->quiescing || !(format_state(e) & VDISK_DROPPED))
		return;
	e->quiescing = true;
	e->quiesce = (struct vdisk_action){ .kind = VDISK_ACT_QUIESCE, .done = quiesced };
	e->ops->start(e, &e->quiesce);
}

static void quiesced(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	(void)a, (void)error;
	e->quiescing = false;
	e->vd->format->quiet(e->vd);
	start_quiesce(e);
	if (e->roomless.first)
		e->commit_wanted = true;
}

/* What was lost, by this commit or by one that nobody waited for, a flush is told, once. */
static void answer_flushes(struct vdisk_engine *e)
{
	int lost = e->lost;

	for (const struct vdisk_req *req = e->flushing.first; req; req = req->next)
		if (req->op == VDISK_REQ_FLUSH)
			e->lost = 0;
	vdisk_engine_end_reqs(e, &e->flushing, lost);
}

static void finish_commit(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed)
			vdisk_engine_drop_unit(e, &e->units[i]);
	if (e->linking) {
		e->commits++;
		if (e->vd->format->committed)
			e->vd->format->committed(e->vd, &e->space);
	}
	WRITE_ONCE(e->state, VDISK_IDLE);
	answer_flushes(e);
	e->retry = true;
	if (!e->vd->touch)
		move_all(&e->gated, &e->ready);
	start_quiesce(e);
}

/* Nobody can tell what is durable now. What was not linked stays pending and can be read; blocks
 * that could not be written stay pinned. Only a flush with nothing behind it is forgiven. */
static void fail_commit(struct vdisk_engine *e)
{
	if (e->linking)
		vdisk_engine_set_mode(e, VDISK_MODE_FAIL);
	WRITE_ONCE(e->state, VDISK_IDLE);
	vdisk_engine_end_reqs(e, &e->flushing, e->error);
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].used)
			move_all(&e->units[i].waiting, &e->ready);
	e->retry = true;
	move_all(&e->starved, &e->ready);
	move_all(&e->gated, &e->ready);
}

static void to_flush(struct vdisk_engine *e, enum vdisk_commit_state state)
{
	WRITE_ONCE(e->state, state);
	start_flush(e);
}

static void to_step(struct vdisk_engine *e, enum vdisk_commit_state state, enum vdisk_phase phase)
{
	begin_step(e, state);
	edit_batch(e, phase);
}

/* More of this step? It is begun; false: the step has ended. */
static bool step_goes_on(struct vdisk_engine *e, enum vdisk_phase phase)
{
	struct vdisk_unit *u;

	vdisk_commit_unpin(e);
	if (!at_something(e, &u))
		return false;
	edit_batch(e, phase);
	return true;
}

static void begin_filling(struct vdisk_engine *e)
{
	drop_untouched(e);
	e->linking = vdisk_commit_has_work(e);
	WRITE_ONCE(e->state, VDISK_FILL);
	start_fill(e);
}

/* All units have their contents; those that have not are left out. */
static void begin_preparing(struct vdisk_engine *e)
{
	drop_failed(e);
	if (!e->linking) {
		to_flush(e, VDISK_FLUSH_LINKS);
		return;
	}
	begin_step(e, VDISK_PREPARE);
	prepare_batch(e);
}

/* A state of the commit has ended, and nothing of it is under way any more: on to the next. */
static void advance(struct vdisk_engine *e)
{
	switch (e->state) {
	case VDISK_IDLE:
		seal(e);
		WRITE_ONCE(e->state, VDISK_DRAIN);
		break;
	case VDISK_DRAIN:
		begin_filling(e);
		break;
	case VDISK_FILL:
		begin_preparing(e);
		break;
	case VDISK_PREPARE:
		prepare_batch(e);
		if (!e->busy)
			to_step(e, VDISK_COUNT, VDISK_PHASE_COUNT);
		break;
	case VDISK_COUNT:
		if (!step_goes_on(e, VDISK_PHASE_COUNT))
			to_flush(e, VDISK_FLUSH_DATA);
		break;
	case VDISK_FLUSH_DATA:
		to_step(e, VDISK_ROOT, VDISK_PHASE_ROOT);
		break;
	case VDISK_ROOT:
		if (step_goes_on(e, VDISK_PHASE_ROOT))
			break;
		if (e->edits)
			to_flush(e, VDISK_FLUSH_ROOT);
		else
			to_step(e, VDISK_LINK, VDISK_PHASE_LINK);
		break;
	case VDISK_FLUSH_ROOT:
		to_step(e, VDISK_LINK, VDISK_PHASE_LINK);
		break;
	case VDISK_LINK:
		if (step_goes_on(e, VDISK_PHASE_LINK))
			break;
		if (e->edits)
			to_flush(e, VDISK_FLUSH_LINKS);
		else
			finish_commit(e);
		break;
	case VDISK_FLUSH_LINKS:
		finish_commit(e);
		break;
	}
}

void vdisk_commit_stop(struct vdisk_engine *e)
{
	if (!e->error)
		e->error = -EIO;
	if (e->state == VDISK_IDLE)
		fail_commit(e);
}

/* Is there a reason to start a commit? */
static bool can_start(struct vdisk_engine *e)
{
	if (e->mode == VDISK_MODE_FAIL)
		vdisk_engine_end_reqs(e, &e->flushes, -EIO);
	else if (e->flushes.first || (e->commit_wanted && vdisk_commit_has_work(e)))
		return true;
	return false;
}

/* One state further, if the last one has ended. */
bool vdisk_commit_advance(struct vdisk_engine *e)
{
	if (e->busy || (e->state == VDISK_IDLE && !can_start(e)) ||
	    (e->state == VDISK_DRAIN && e->draining))
		return false;
	if (e->error && e->state != VDISK_IDLE)
		fail_commit(e);
	else
		advance(e);
	return true;
}
