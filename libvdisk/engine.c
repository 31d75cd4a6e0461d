// SPDX-License-Identifier: GPL-2.0-or-later
/* Allocation and commit: the order of things is told in engine.h. */
#include "engine.h"

#define UNITS_MIN 4
#define UNITS_MAX 128

/* ---- queues ---- */

static void push(struct vdisk_queue *q, struct vdisk_req *req)
{
	req->next = NULL;
	if (q->first)
		q->last->next = req;
	else
		q->first = req;
	q->last = req;
}

static struct vdisk_req *pop(struct vdisk_queue *q)
{
	struct vdisk_req *req = q->first;

	if (req)
		q->first = req->next;
	return req;
}

static void move_all(struct vdisk_queue *from, struct vdisk_queue *to)
{
	if (!from->first)
		return;
	if (to->first)
		to->last->next = from->first;
	else
		to->first = from->first;
	to->last = from->last;
	from->first = NULL;
}

/* ---- mode ---- */

const char *vdisk_mode_name(enum vdisk_mode mode)
{
	static const char *const names[] = { "rw", "out_of_space", "ro", "needs_check", "fail" };

	return names[mode];
}

void vdisk_engine_set_mode(struct vdisk_engine *e, enum vdisk_mode mode)
{
	if (mode <= e->mode)
		return;
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
static void drop_unit(struct vdisk_engine *e, struct vdisk_unit *u)
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

static u64 unit_bytes(const struct vdisk_engine *e)
{
	return 1ULL << e->vd->unit_shift;
}

static u64 inside(const struct vdisk_engine *e, u64 offset)
{
	return offset & (unit_bytes(e) - 1);
}

static bool is_covered(const struct vdisk_unit *u, u64 sector)
{
	return u->covered[sector / 8] & (0x80 >> sector % 8);
}

static void cover(struct vdisk_engine *e, struct vdisk_unit *u, const struct vdisk_req *req)
{
	u64 sector = inside(e, req->offset) / VDISK_SECTOR;
	u64 end = sector + req->length / VDISK_SECTOR;

	for (; sector < end; sector++)
		u->covered[sector / 8] |= 0x80 >> sector % 8;
}

/* From byte `at` of the unit on, at most to `end`: how many bytes are covered, or not, like it. */
static u64 same_cover(const struct vdisk_unit *u, u64 at, u64 end)
{
	u64 sector = at / VDISK_SECTOR;
	bool covered = is_covered(u, sector);

	do {
		sector++;
	} while (sector < end / VDISK_SECTOR && is_covered(u, sector) == covered);
	return sector * VDISK_SECTOR - at;
}

/* ---- maps ---- */

static void found_bad_entry(struct vdisk_engine *e, int error, const struct vdisk_map *answer)
{
	e->ops->bad_entry(e, answer);
	if (error == -EUCLEAN)
		vdisk_engine_set_mode(e, VDISK_MODE_NEEDS_CHECK);
}

static int map_now(struct vdisk_engine *e, u64 offset, u64 length, struct vdisk_map *answer)
{
	int ret = vdisk_image_map(e->vd, offset, length, answer);

	if (ret == -EUCLEAN || ret == -EOPNOTSUPP)
		found_bad_entry(e, ret, answer);
	return ret;
}

static int map_fetching(struct vdisk_engine *e, u64 offset, u64 length, struct vdisk_map *answer)
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
	if (!u)
		return map_now(e, offset, length, answer);
	length = same_cover(u, at, at + length);
	if (!is_covered(u, at / VDISK_SECTOR))
		return map_now(e, offset, length, answer);
	*answer = (struct vdisk_map){ VDISK_DATA, u->home + at, length, VDISK_NOWHERE, 0 };
	return 0;
}

/* ---- room ---- */

/* Read on in the tables as far as one fetch goes. */
static int search_step(struct vdisk_engine *e)
{
	struct vdisk_map m = { .home = VDISK_NOWHERE };
	int ret = e->vd->format->scan(e->vd, &e->space, &m);

	if (ret == -EAGAIN)
		return e->ops->fetch(e, &m);
	if (ret == -EUCLEAN)
		found_bad_entry(e, ret, &m);
	return ret;
}

/* ---- writes ---- */

static void end_req(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	e->ops->complete(e, req, error);
}

static void end_reqs(struct vdisk_engine *e, struct vdisk_queue *q, int error)
{
	struct vdisk_req *req;

	while ((req = pop(q)))
		end_req(e, req, error);
}

static void finish_in_unit(struct vdisk_engine *e, struct vdisk_req *req, int error)
{
	struct vdisk_unit *u = req->unit;

	u->writes--;
	if (!error)
		cover(e, u, req);
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
					     .offset = offset,
					     .length = req->length,
					     .req = req,
					     .done = data_done };
	e->ops->start(e, &req->action);
}

static void write_to_unit(struct vdisk_engine *e, struct vdisk_req *req, struct vdisk_unit *u)
{
	if (u->sealed) {
		push(&u->waiting, req);
		return;
	}
	u->writes++;
	req->unit = u;
	start_data(e, req, u->home + inside(e, req->offset));
}

/* Room for a unit that has none. The search for it has ended. */
static int take_room(struct vdisk_engine *e, u64 *home)
{
	int ret = e->vd->format->take(e->vd, &e->space, home);

	if (ret == -ENOSPC)
		vdisk_engine_set_mode(e, VDISK_MODE_OUT_OF_SPACE);
	return ret;
}

/* May a unit be added to the image, or why not? */
static int may_grow(struct vdisk_engine *e)
{
	if (e->mode >= VDISK_MODE_NEEDS_CHECK)
		return -EIO;
	if (!e->no_grow)
		return 0;
	vdisk_engine_set_mode(e, VDISK_MODE_OUT_OF_SPACE);
	return -ENOSPC;
}

static void write_to_fresh_unit(struct vdisk_engine *e, struct vdisk_req *req)
{
	int ret = may_grow(e);
	u64 home;

	if (!ret && !e->space.known) {
		push(&e->seeking, req);
		return;
	}
	if (!ret)
		ret = take_room(e, &home);
	if (ret)
		end_req(e, req, ret);
	else
		write_to_unit(e, req, add_unit(e, req->offset >> e->vd->unit_shift, home, true));
}

/* A write to where the tables do not say DATA: through a pending unit. */
static void write_to_new_unit(struct vdisk_engine *e, struct vdisk_req *req,
			      const struct vdisk_map *m)
{
	u64 home = m->kind == VDISK_DATA ? m->offset : m->home;

	if (!e->free) {
		push(&e->starved, req);
		e->commit_wanted = true;
	} else if (home == VDISK_NOWHERE) {
		write_to_fresh_unit(e, req);
	} else {
		home -= inside(e, req->offset);
		write_to_unit(e, req, add_unit(e, req->offset >> e->vd->unit_shift, home, false));
	}
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
	u = find_unit(e, req->offset >> e->vd->unit_shift);
	if (u) {
		write_to_unit(e, req, u);
		return;
	}
	ret = map_fetching(e, req->offset, req->length, &m);
	if (ret)
		end_req(e, req, -EIO);
	else if (m.kind == VDISK_DATA && m.length == req->length)
		start_data(e, req, m.offset);
	else if (m.kind == VDISK_ZERO && m.length == req->length && req->op == VDISK_REQ_ZEROES)
		end_req(e, req, 0);
	else
		write_to_new_unit(e, req, &m);
}

static void start_request(struct vdisk_engine *e, struct vdisk_req *req)
{
	req->unit = NULL;
	if (req->op == VDISK_REQ_FLUSH)
		push(&e->flushes, req);
	else
		start_write(e, req);
}

/* ---- commit ---- */

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

static void fill_next(struct vdisk_engine *e, struct vdisk_unit *u);

static void fill_done(struct vdisk_engine *e, struct vdisk_action *a, int error)
{
	part_done(e, a, error);
	if (!error)
		fill_next(e, a->owner);
}

/* The next piece that nobody wrote, or at the end the head. */
static void fill_next(struct vdisk_engine *e, struct vdisk_unit *u)
{
	u64 at = u->filled, length;

	if (at < unit_bytes(e) && is_covered(u, at / VDISK_SECTOR))
		at += same_cover(u, at, unit_bytes(e));
	if (at == unit_bytes(e)) {
		memset(u->covered, 0xff, e->cover_bytes);
		write_head(e, u);
		return;
	}
	length = same_cover(u, at, unit_bytes(e));
	u->filled = at + length;
	u->action = (struct vdisk_action){ .kind = VDISK_ACT_ZERO,
					   .offset = u->home + at,
					   .length = length,
					   .owner = u,
					   .done = fill_done };
	start_part(e, &u->action);
}

static void seal(struct vdisk_engine *e)
{
	e->commit_wanted = false;
	e->error = 0;
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].used)
			e->units[i].sealed = true;
	move_all(&e->flushes, &e->flushing);
	WRITE_ONCE(e->state, VDISK_DRAIN);
}

static bool nothing_covered(const struct vdisk_engine *e, const struct vdisk_unit *u)
{
	for (u32 i = 0; i < e->cover_bytes; i++)
		if (u->covered[i])
			return false;
	return true;
}

/* All sealed units are quiet? A unit whose writes have all failed goes as it came. */
static bool drained(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed && e->units[i].writes)
			return false;
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed && nothing_covered(e, &e->units[i]))
			drop_unit(e, &e->units[i]);
	return true;
}

static struct vdisk_unit *next_sealed(struct vdisk_engine *e)
{
	while (e->link_unit < e->n_units && !e->units[e->link_unit].sealed)
		e->link_unit++;
	return e->link_unit < e->n_units ? &e->units[e->link_unit] : NULL;
}

static void start_fill(struct vdisk_engine *e)
{
	e->link_unit = 0;
	e->link_n = 0;
	e->linking = next_sealed(e) != NULL;
	for (u32 i = 0; i < e->n_units; i++) {
		struct vdisk_unit *u = &e->units[i];

		if (!u->sealed || !u->fresh)
			continue;
		if (e->vd->fill_zeros)
			fill_next(e, u);
		else
			write_head(e, u);
	}
	WRITE_ONCE(e->state, VDISK_FILL);
}

/* Change one metadata block. It stays pinned until it has been written. */
static int link_block(struct vdisk_engine *e, const struct vdisk_unit *u, u64 offset, u32 *n_dirty)
{
	struct vdisk_block *b;
	int ret = e->ops->pin(e, offset, &b);

	if (ret)
		return ret;
	if (!e->vd->format->link(e->vd, u, e->link_n, b->data) || b->dirty) {
		e->ops->unpin(e, b); /* one pin for a dirty block is enough */
		return 0;
	}
	b->dirty = true;
	b->next_dirty = e->dirty;
	e->dirty = b;
	(*n_dirty)++;
	return 0;
}

static void unpin_written(struct vdisk_engine *e)
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
	struct vdisk_action *a = e->links;

	for (struct vdisk_block *b = e->dirty; b; b = b->next_dirty, a++) {
		*a = (struct vdisk_action){ .kind = VDISK_ACT_WRITE,
					    .offset = b->offset,
					    .length = e->vd->meta->block,
					    .buf = b->data,
					    .done = part_done };
		start_part(e, a);
	}
}

/* Link as many units as one batch of dirty blocks allows. */
static void link_batch(struct vdisk_engine *e)
{
	struct vdisk_unit *u;
	u32 n_dirty = 0;

	while (n_dirty < VDISK_LINK_BATCH && !e->error && (u = next_sealed(e))) {
		u64 offset = e->vd->format->link_block(e->vd, u, e->link_n);

		if (offset == VDISK_NOWHERE) {
			e->link_unit++;
			e->link_n = 0;
			continue;
		}
		e->error = link_block(e, u, offset, &n_dirty);
		e->link_n++;
	}
	write_dirty(e);
}

static void finish_commit(struct vdisk_engine *e)
{
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].sealed)
			drop_unit(e, &e->units[i]);
	if (e->linking)
		e->commits++;
	WRITE_ONCE(e->state, VDISK_IDLE);
	end_reqs(e, &e->flushing, 0);
	move_all(&e->starved, &e->ready);
}

/* Nobody can tell what is durable now. What was not linked stays pending and can be read; blocks
 * that could not be written stay pinned. Only a flush with nothing behind it is forgiven. */
static void fail_commit(struct vdisk_engine *e)
{
	if (e->linking)
		vdisk_engine_set_mode(e, VDISK_MODE_FAIL);
	WRITE_ONCE(e->state, VDISK_IDLE);
	end_reqs(e, &e->flushing, e->error);
	for (u32 i = 0; i < e->n_units; i++)
		if (e->units[i].used)
			move_all(&e->units[i].waiting, &e->ready);
	move_all(&e->starved, &e->ready);
}

static void to_flush(struct vdisk_engine *e, enum vdisk_commit_state state)
{
	WRITE_ONCE(e->state, state);
	start_flush(e);
}

/* A state of the commit has ended, and nothing of it is under way any more: on to the next. */
static void advance(struct vdisk_engine *e)
{
	switch (e->state) {
	case VDISK_IDLE:
		seal(e);
		break;
	case VDISK_DRAIN:
		start_fill(e);
		break;
	case VDISK_FILL:
		to_flush(e, e->linking ? VDISK_FLUSH_DATA : VDISK_FLUSH_LINKS);
		break;
	case VDISK_FLUSH_DATA:
		WRITE_ONCE(e->state, VDISK_LINK);
		link_batch(e);
		break;
	case VDISK_LINK:
		unpin_written(e);
		if (next_sealed(e))
			link_batch(e);
		else
			to_flush(e, VDISK_FLUSH_LINKS);
		break;
	case VDISK_FLUSH_LINKS:
		finish_commit(e);
		break;
	}
}

/* Is there a reason to start a commit? */
static bool can_start(struct vdisk_engine *e)
{
	if (e->mode == VDISK_MODE_FAIL)
		end_reqs(e, &e->flushes, -EIO);
	else if (e->flushes.first || (e->commit_wanted && e->n_pending))
		return true;
	return false;
}

/* One state further, if the last one has ended. */
static bool advanced(struct vdisk_engine *e)
{
	if (e->busy || (e->state == VDISK_IDLE && !can_start(e)) ||
	    (e->state == VDISK_DRAIN && !drained(e)))
		return false;
	if (e->error && e->state != VDISK_IDLE)
		fail_commit(e);
	else
		advance(e);
	return true;
}

static void engine_step(struct vdisk_engine *e)
{
	struct vdisk_req *req;

	do {
		while ((req = pop(&e->ready)))
			start_request(e, req);
	} while (advanced(e));
}

/* ---- what the host calls ---- */

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
	e->commit_wanted = e->n_pending != 0;
	engine_step(e);
}

bool vdisk_engine_search(struct vdisk_engine *e)
{
	int ret;

	if (!e->seeking.first)
		return false;
	ret = e->space.known ? 0 : search_step(e);
	if (ret)
		end_reqs(e, &e->seeking, -EIO);
	else if (e->space.known)
		move_all(&e->seeking, &e->ready);
	engine_step(e);
	return e->seeking.first != NULL;
}

bool vdisk_engine_dirty(const struct vdisk_engine *e)
{
	return READ_ONCE(e->n_pending) || READ_ONCE(e->state) != VDISK_IDLE;
}

int vdisk_engine_init(struct vdisk_engine *e, struct vdisk *vd, const struct vdisk_engine_ops *ops,
		      void *host, size_t memory_limit)
{
	u64 sectors = 1ULL << (vd->unit_shift - 9);
	u64 n;

	e->vd = vd;
	e->ops = ops;
	e->host = host;
	e->cover_bytes = (u32)round_up_to(sectors / 8, VDISK_SECTOR);
	e->unit_memory = vd->head_bytes > e->cover_bytes ? vd->head_bytes : e->cover_bytes;
	n = divide(memory_limit, e->unit_memory);
	e->n_units = n < UNITS_MIN ? UNITS_MIN : n > UNITS_MAX ? UNITS_MAX : (u32)n;
	e->units = vdisk_zalloc(e->n_units * sizeof(*e->units));
	e->heads = vdisk_zalloc((size_t)e->n_units * e->unit_memory);
	if (!e->units || !e->heads) {
		vdisk_engine_exit(e);
		return -ENOMEM;
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
	unpin_written(e);
	vdisk_free(e->units);
	vdisk_free(e->heads);
	e->units = NULL;
	e->heads = NULL;
}
