// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests, pending units and what the host calls; commit.c does the rest. */
#include "engine-private.h"

#define UNITS_MIN 4
#define UNITS_MAX 1024
/* Of the disk, in units that are pending at the same time: a commit may have to fill as much. */
#define PENDING_BYTES (256U << 20)

/* ---- mode ---- */

const char *vdisk_mode_name(enum vdisk_mode mode)
{
	static const char *const names[] = { "rw", "out_of_space", "ro", "needs_check", "fail" };

	return names[mode];
}

void vdisk_engine_set_mode(struct vdisk_engine *e, enum vdisk_mode mode)
{
	bool room_again = mode == VDISK_MODE_RW && e->mode == VDISK_MODE_OUT_OF_SPACE;

	if (mode <= e->mode && !room_again)
		return;
	if (mode == VDISK_MODE_NEEDS_CHECK && !e->readonly)
		e->vd->mark_corrupt = true;
	WRITE_ONCE(e->mode, mode);
	e->ops->mode_changed(e);
}

/* ---- pending units ---- */

static struct vdisk_unit **bucket_of(struct vdisk_engine *e, u64 index)
{
	return &e->buckets[index & (VDISK_BUCKETS - 1)];
}

bool vdisk_engine_maybe_pending(const struct vdisk_engine *e, u64 index)
{
	return load_acquire(&e->buckets[index & (VDISK_BUCKETS - 1)]) != NULL;
}

static struct vdisk_unit *find_unit(struct vdisk_engine *e, u64 index)
{
	struct vdisk_unit *u = *bucket_of(e, index);

	while (u && u->index != index)
		u = u->next;
	return u;
}

static struct vdisk_unit *add_unit(struct vdisk_engine *e, u64 index, u64 home, bool fresh)
{
	struct vdisk_unit *u = e->free;

	e->free = u->next;
	memset(u->head, 0, e->unit_memory);
	u->index = index;
	u->home = home;
	u->fresh = fresh;
	u->clear = false;
	u->error = 0;
	u->sealed = false;
	u->writes = 0;
	u->filled = 0;
	u->used = true;
	u->next = *bucket_of(e, index);
	WRITE_ONCE(e->n_pending, e->n_pending + 1);
	store_release(bucket_of(e, index), u);
	if (e->n_pending >= e->n_units / 2)
		e->commit_wanted = true;
	return u;
}

/* Who sees the bucket empty sees the tables that were changed before. */
void vdisk_engine_drop_unit(struct vdisk_engine *e, struct vdisk_unit *u)
{
	struct vdisk_unit **link = bucket_of(e, u->index);

	while (*link != u)
		link = &(*link)->next;
	store_release(link, u->next);
	u->used = false;
	u->sealed = false;
	u->next = e->free;
	e->free = u;
	WRITE_ONCE(e->n_pending, e->n_pending - 1);
	move_all(&u->waiting, &e->ready);
}

/* ---- maps ---- */

void vdisk_engine_bad_entry(struct vdisk_engine *e, int error, const struct vdisk_map *answer)
{
	e->ops->bad_entry(e, answer);
	if (error == -EUCLEAN)
		vdisk_engine_set_mode(e, VDISK_MODE_NEEDS_CHECK);
}

static int map_now(struct vdisk_engine *e, u64 offset, u64 length, struct vdisk_map *answer)
{
	int ret = vdisk_image_map(e->vd, offset, length, answer);

	if (ret == -EUCLEAN || ret == -EOPNOTSUPP)
		vdisk_engine_bad_entry(e, ret, answer);
	return ret;
}

int vdisk_engine_map_tables(struct vdisk_engine *e, u64 offset, u64 length,
			    struct vdisk_map *answer)
{
	int ret = map_now(e, offset, length, answer);

	while (!ret && answer->kind == VDISK_NEED) {
		ret = e->ops->fetch(e, answer);
		if (!ret)
			ret = map_now(e, offset, length, answer);
	}
	return ret;
}

int vdisk_engine_map(struct vdisk_engine *e, u64 offset, u64 length, struct vdisk_map *answer)
{
	u64 at = inside(e, offset);
	struct vdisk_unit *u = find_unit(e, offset >> e->vd->unit_shift);

	if (length > unit_bytes(e) - at)
		length = unit_bytes(e) - at;
	if (!u || u->clear)
		return map_now(e, offset, length, answer);
	length = same_cover(u, at, at + length);
	if (!is_covered(u, at / VDISK_SECTOR))
		return map_now(e, offset, length, answer);
	*answer = (struct vdisk_map){ VDISK_DATA, u->home + at, length, VDISK_NOWHERE, 0 };
	return 0;
}

/* ---- writes ---- */

static void end_req(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	e->ops->complete(e, req, error);
}

void vdisk_engine_end_reqs(struct vdisk_engine *e, struct vdisk_queue *q, int error)
{
	struct vdisk_req *req;

	while ((req = pop(q)))
		end_req(e, req, error);
}

/* A write to bytes [at, at + length) of the unit has ended. */
static void end_in_unit(struct vdisk_engine *e, struct vdisk_unit *u, u64 at, u64 length, int error)
{
	u->writes--;
	if (u->sealed)
		e->draining--;
	if (!error)
		cover(u, at, length);
}

static void finish_in_unit(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	struct vdisk_unit *u = req->unit;

	end_in_unit(e, u, inside(e, req->offset), req->length, error);
	if (error || !req->fua)
		end_req(e, req, error);
	else /* the commit that has sealed the unit still waits for this write */
		push(u->sealed ? &e->flushing : &e->flushes, req);
}

static void data_done(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	if (a->req->unit)
		finish_in_unit(e, a->req, error);
	else /* in place: a mapping that is not durable still has its unit */
		end_req(e, a->req, error);
}

static void start_data(struct vdisk_engine *e, struct vdisk_req *req, u64 offset)
{
	req->action = (struct vdisk_action){ .kind = VDISK_ACT_DATA,
					     .fua = req->fua && !req->unit,
					     .guest = true,
					     .offset = offset,
					     .length = req->length,
					     .req = req,
					     .done = data_done };
	e->ops->start(e, &req->action);
}

static void write_to_unit(struct vdisk_engine *e, struct vdisk_req *req, struct vdisk_unit *u)
{
	if (u->sealed || u->clear || req->op == VDISK_REQ_DISCARD) {
		push(&u->waiting, req);
		e->commit_wanted = true;
		return;
	}
	u->writes++;
	req->unit = u;
	start_data(e, req, u->home + inside(e, req->offset));
}

/* ---- writes that change tables ---- */

/* May a unit be added to the image, or why not? */
static int may_grow(struct vdisk_engine *e)
{
	if (e->mode >= VDISK_MODE_NEEDS_CHECK)
		return -EIO;
	return e->no_grow ? -ENOSPC : 0;
}

/* There was no room for the request: a discard can do without. */
static void end_without_room(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	if (req->op == VDISK_REQ_DISCARD)
		error = 0;
	else if (error == -ENOSPC)
		vdisk_engine_set_mode(e, VDISK_MODE_OUT_OF_SPACE);
	end_req(e, req, error);
}

/* Have a place for a unit, or for its tables only if home is NULL; false: the request waits, or has
 * ended. */
static bool find_room(struct vdisk_engine *e, struct vdisk_req *req, u64 *home)
{
	u64 index = req->offset >> e->vd->unit_shift;
	struct vdisk_map m = { .home = VDISK_NOWHERE };
	int ret = may_grow(e);

	if (!ret)
		ret = e->vd->format->reserve(e->vd, &e->space, index, home, &m);
	switch (ret) {
	case 0:
		e->counting = true;
		if (home)
			vdisk_engine_set_mode(e, VDISK_MODE_RW);
		return true;
	case -EAGAIN:
		e->need = m;
		push(&e->seeking, req);
		return false;
	case -EBUSY:
		push(&e->roomless, req);
		e->commit_wanted = true;
		return false;
	case -EUCLEAN:
		vdisk_engine_bad_entry(e, ret, &m);
		ret = -EIO;
	}
	end_without_room(e, req, ret);
	return false;
}

static struct vdisk_unit *new_unit(struct vdisk_engine *e, const struct vdisk_req *req, u64 home,
				   bool fresh)
{
	return add_unit(e, req->offset >> e->vd->unit_shift, home, fresh);
}

/* Does all of the unit that belongs to the disk lie in the file, from home on? */
static bool home_is_whole(struct vdisk_engine *e, const struct vdisk_req *req, u64 home)
{
	u64 start = req->offset - inside(e, req->offset);
	u64 left = e->vd->info.virtual_size - start;

	if (left > unit_bytes(e))
		left = unit_bytes(e);
	return e->vd->info.needs_data || home + left <= e->vd->io.size;
}

/* A write to where the tables do not say DATA: through a pending unit. */
static void write_to_new_unit(struct vdisk_engine *e, struct vdisk_req *req,
			      const struct vdisk_map *m)
{
	u64 home = m->kind == VDISK_DATA ? m->offset : m->home;

	if (!e->free) {
		push(&e->starved, req);
		e->commit_wanted = true;
		return;
	}
	if (home != VDISK_NOWHERE) {
		home -= inside(e, req->offset);
		if (home_is_whole(e, req, home)) {
			write_to_unit(e, req, new_unit(e, req, home, false));
			return;
		}
	}
	if (find_room(e, req, &home))
		write_to_unit(e, req, new_unit(e, req, home, true));
}

/* Can the tables say it? Only of what is filled together as a whole; a compressed unit is one. */
static bool can_clear(struct vdisk_engine *e, const struct vdisk_req *req,
		      const struct vdisk_map *m)
{
	u64 end = req->offset + req->length;
	u32 grain = e->vd->fill;

	if (!(req->op == VDISK_REQ_ZEROES ? e->vd->can_zero : e->vd->can_discard))
		return false;
	if (req->op == VDISK_REQ_DISCARD || m->kind == VDISK_COMPRESSED)
		grain = (u32)unit_bytes(e);
	return !(req->offset & (grain - 1)) &&
	       (!(end & (grain - 1)) || end == e->vd->info.virtual_size);
}

/* The commit that it begins answers it. */
static void clear_unit(struct vdisk_engine *e, struct vdisk_req *req)
{
	struct vdisk_unit *u;

	if (!e->free) {
		push(&e->starved, req);
		e->commit_wanted = true;
		return;
	}
	if (!find_room(e, req, NULL))
		return;
	u = new_unit(e, req, VDISK_NOWHERE, false);
	u->clear = true;
	u->unmap = req->op == VDISK_REQ_DISCARD;
	cover(u, inside(e, req->offset), req->length);
	push(&e->flushes, req);
}

/* Nothing is pending there, and the tables say this of where it begins. */
static void write_by_map(struct vdisk_engine *e, struct vdisk_req *req, const struct vdisk_map *m)
{
	bool whole = m->length == req->length, write = req->op != VDISK_REQ_DISCARD;

	if (whole && m->kind == VDISK_ZERO && (!write || req->op == VDISK_REQ_ZEROES) &&
	    (write || m->home == VDISK_NOWHERE))
		end_req(e, req, 0);
	else if (!write && m->kind == VDISK_PARENT)
		end_req(e, req, 0); /* a hint: it would need room */
	else if (req->op != VDISK_REQ_WRITE && can_clear(e, req, m) && !may_grow(e))
		clear_unit(e, req); /* else as data: that may need no room */
	else if (!write)
		end_req(e, req, 0);
	else if (whole && m->kind == VDISK_DATA)
		start_data(e, req, m->offset);
	else
		write_to_new_unit(e, req, m);
}

static void start_write(struct vdisk_engine *e, struct vdisk_req *req)
{
	struct vdisk_unit *u;
	struct vdisk_map m;
	int ret;

	if (e->readonly || e->mode == VDISK_MODE_FAIL) {
		end_req(e, req, e->readonly ? -EROFS : -EIO);
		return;
	}
	if (e->vd->touch) {
		push(&e->gated, req);
		e->commit_wanted = true;
		return;
	}
	u = find_unit(e, req->offset >> e->vd->unit_shift);
	if (u) {
		write_to_unit(e, req, u);
		return;
	}
	ret = vdisk_engine_map_tables(e, req->offset, req->length, &m);
	if (ret)
		end_req(e, req, -EIO);
	else
		write_by_map(e, req, &m);
}

static void start_request(struct vdisk_engine *e, struct vdisk_req *req)
{
	req->unit = NULL;
	if (req->op == VDISK_REQ_FLUSH)
		push(&e->flushes, req);
	else
		start_write(e, req);
}

/* ---- writes without a request ---- */

/* The pending unit that these bytes of one unit can be written to now, made if need be; or NULL. */
static struct vdisk_unit *unit_at_once(struct vdisk_engine *e, u64 offset, u64 length)
{
	u64 index = offset >> e->vd->unit_shift, home;
	struct vdisk_unit *u = find_unit(e, index);
	struct vdisk_map m;

	if (u)
		return u->sealed || u->clear ? NULL : u;
	if (!e->free || may_grow(e) || vdisk_image_map(e->vd, offset, length, &m))
		return NULL;
	if ((m.kind != VDISK_ZERO && m.kind != VDISK_PARENT) || m.home != VDISK_NOWHERE)
		return NULL;
	if (e->vd->format->reserve(e->vd, &e->space, index, &home, &m))
		return NULL;
	e->counting = true;
	return add_unit(e, index, home, true);
}

/* Nobody has to be woken or told, or goes first. */
static bool can_write_at_once(const struct vdisk_engine *e)
{
	return !e->readonly && e->mode == VDISK_MODE_RW && !e->vd->touch && !e->starved.first &&
	       !e->seeking.first && !e->roomless.first;
}

u64 vdisk_engine_begin_write(struct vdisk_engine *e, u64 offset, u64 length, u64 *place)
{
	u64 done, part;

	if (!can_write_at_once(e))
		return 0;
	/* Two units with a head never lie together. */
	for (done = 0; done < length && (!done || !e->vd->head_bytes); done += part) {
		u64 at = inside(e, offset + done);
		struct vdisk_unit *u;

		part = length - done < unit_bytes(e) - at ? length - done : unit_bytes(e) - at;
		u = unit_at_once(e, offset + done, part);
		if (!u || (done && u->home != *place + done))
			break; /* one that was made stays, for the rest of the write most likely */
		if (!done)
			*place = u->home + at;
		u->writes++;
	}
	return done;
}

void vdisk_engine_end_write(struct vdisk_engine *e, u64 offset, u64 length, int error)
{
	u64 end = offset + length, part;

	for (; offset < end; offset += part) {
		u64 at = inside(e, offset);

		part = end - offset < unit_bytes(e) - at ? end - offset : unit_bytes(e) - at;
		end_in_unit(e, find_unit(e, offset >> e->vd->unit_shift), at, part, error);
	}
}

bool vdisk_engine_wants_step(const struct vdisk_engine *e)
{
	return e->commit_wanted && e->state == VDISK_IDLE;
}

/* ---- what the host calls ---- */

/* Those that waited for a unit, as many as there are; of those that waited for room, as many as
 * find it: there may be very many of both. */
static void start_waiting(struct vdisk_engine *e)
{
	struct vdisk_req *req;

	while (e->free && (req = pop(&e->starved)))
		start_request(e, req);
	while (e->retry && (req = pop(&e->roomless))) {
		start_request(e, req);
		e->retry = e->roomless.last != req || !e->roomless.first;
	}
	e->retry = false;
}

static void engine_step(struct vdisk_engine *e)
{
	struct vdisk_req *req;

	do {
		while ((req = pop(&e->ready)))
			start_request(e, req);
		start_waiting(e);
	} while (vdisk_commit_advance(e));
}

void vdisk_engine_submit(struct vdisk_engine *e, struct vdisk_req *req)
{
	push(&e->ready, req);
	engine_step(e);
}

void vdisk_engine_done(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	a->done(e, a, error);
	engine_step(e);
}

void vdisk_engine_commit(struct vdisk_engine *e)
{
	e->commit_wanted = vdisk_commit_has_work(e);
	engine_step(e);
}

void vdisk_engine_fail(struct vdisk_engine *e)
{
	vdisk_engine_set_mode(e, VDISK_MODE_FAIL);
	vdisk_commit_stop(e);
	engine_step(e);
}

/* How much is left is not needed to write, but users want to know. A step of counting it. */
static void count_step(struct vdisk_engine *e)
{
	struct vdisk_map m = { .home = VDISK_NOWHERE };
	int ret = e->vd->format->scan(e->vd, &e->space, &m);

	if (ret == -EAGAIN)
		ret = e->ops->fetch(e, &m);
	else if (ret == -EUCLEAN)
		vdisk_engine_bad_entry(e, ret, &m);
	if (ret || e->space.known)
		e->counting = false;
}

bool vdisk_engine_search(struct vdisk_engine *e)
{
	if (e->seeking.first) {
		int ret = e->ops->fetch(e, &e->need);

		if (ret)
			vdisk_engine_end_reqs(e, &e->seeking, -EIO);
		else
			move_all(&e->seeking, &e->ready);
	} else if (e->counting && e->state == VDISK_IDLE) {
		count_step(e);
	}
	engine_step(e);
	return e->seeking.first || (e->counting && e->state == VDISK_IDLE);
}

bool vdisk_engine_dirty(const struct vdisk_engine *e)
{
	return READ_ONCE(e->n_pending) || READ_ONCE(e->state) != VDISK_IDLE || READ_ONCE(e->lost);
}

bool vdisk_engine_unsettled(const struct vdisk_engine *e)
{
	return e->n_pending || e->state != VDISK_IDLE || e->quiescing ||
	       format_state(e) & (VDISK_WORK | VDISK_OWED);
}

static u32 how_many_units(const struct vdisk_engine *e, size_t memory)
{
	u64 n = divide(memory, (u32)sizeof(*e->units) + e->unit_memory);
	u64 most = PENDING_BYTES >> e->vd->unit_shift;

	if (most > UNITS_MAX)
		most = UNITS_MAX;
	if (n > most)
		n = most;
	return n < UNITS_MIN ? UNITS_MIN : (u32)n;
}

int vdisk_engine_init(struct vdisk_engine *e, struct vdisk *vd, const struct vdisk_engine_ops *ops,
		      void *host, size_t memory_limit)
{
	u64 sectors = 1ULL << (vd->unit_shift - 9);
	int ret = -ENOMEM;

	e->vd = vd;
	e->ops = ops;
	e->host = host;
	e->readonly = vd->readonly;
	/* A head ends with the bits, in whole sectors. */
	e->cover_bytes = (u32)round_up_to(sectors, vd->head_bytes ? 8 * VDISK_SECTOR : 64) / 8;
	e->unit_memory = vd->head_bytes > e->cover_bytes ? vd->head_bytes : e->cover_bytes;
	e->n_units = how_many_units(e, memory_limit);
	e->units = vdisk_zalloc(e->n_units * sizeof(*e->units));
	e->heads = vdisk_zalloc((size_t)e->n_units * e->unit_memory);
	if (e->units && e->heads)
		ret = vd->format->begin ? vd->format->begin(vd, e->n_units) : 0;
	if (ret) {
		vdisk_engine_exit(e);
		return ret;
	}
	for (u32 i = 0; i < e->n_units; i++) {
		struct vdisk_unit *u = &e->units[i];

		u->head = e->heads + (size_t)i * e->unit_memory;
		u->covered = u->head + e->unit_memory - e->cover_bytes;
		u->next = e->free;
		e->free = u;
	}
	return 0;
}

void vdisk_engine_exit(struct vdisk_engine *e)
{
	vdisk_commit_unpin(e);
	if (e->vd->format->end)
		e->vd->format->end(e->vd);
	vdisk_free(e->units);
	vdisk_free(e->heads);
	e->units = NULL;
	e->heads = NULL;
}
