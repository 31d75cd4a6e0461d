// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merge and revert: what becomes of what an overlay holds.
 *
 * A merge is done by the kernel, chunk by chunk: the chunk is written to the image and flushed,
 * then its entry in the store is cleared. At any moment image and store together show the same
 * disk, so after a crash the overlay opens as before, and another merge goes on. But the image
 * alone is neither the old nor the new disk meanwhile: the label of the store says so, and revert
 * refuses.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain.h"
#include "layout.h"
#include "mapping.h"
#include "overlay.h"
#include "progress.h"

#define PAUSE 100000 /* microseconds between two looks */
#define TRIES 50

/* An open overlay, and what it becomes. */
struct change {
	struct dm_devices all;
	struct dm_device top;
	const struct dm_device *origin, *cow;
	struct mapping store_mapping;
	struct image store;
	struct plan now;	 /* the table of top */
	struct plan below;	 /* of origin, afterwards */
	bool change_below;	 /* it has to be replaced */
	struct plan whole, rest; /* of the store, with its label and without */
	/* afterwards */
	bool wipe, merging;
	int64_t modified;
};

/* ---- opening and closing one ---- */

static void change_free(struct change *c)
{
	image_close(&c->store);
	mapping_free(&c->store_mapping);
	plan_free(&c->now);
	plan_free(&c->below);
	plan_free(&c->whole);
	plan_free(&c->rest);
	dm_device_free(&c->top);
	dm_devices_free(&c->all);
}

static bool in_memory(const struct change *c)
{
	return c->store_mapping.kind == MAPPING_MEMORY;
}

/* udev looks into a device for a moment after it was written to. */
static void wait_for_udev(struct dm_device *d)
{
	struct dm_device now;

	for (int i = 0; i < TRIES && d->open_count > 0; i++) {
		usleep(PAUSE);
		if (dm_read(d->name, &now))
			return;
		d->open_count = now.open_count;
		dm_device_free(&now);
	}
}

/* Nobody may be there while its contents change, or while it has no table for a moment. */
static int refuse_used(struct dm_device *d)
{
	bool merging = d->n && !strcmp(d->lines[0].type, "snapshot-merge");
	char *users = d->open_count > 0 ? dm_users(d) : NULL;
	int code = DONE;

	if (!users)
		wait_for_udev(d);
	if (d->open_count > 0)
		code = fail(BUSY, "%s is in use%s%s: %s", d->name, users ? ": " : "",
			    users ? users : "",
			    merging ? "its merge cannot be ended meanwhile, and what is written to "
				      "it may go into the image: end that, then merge it again"
				    : "end that first (partitions of it count: close it, and open "
				      "it without them)");
	free(users);
	return code;
}

/* The store is written through its device, whose table must still be right: then the label can be
 * reached by one with the label in it, which goes through the same loop device, if there is one. */
static int open_store(struct change *c)
{
	struct plan live;
	int code = mapping_open_image(&c->store_mapping, &c->store);

	if (!code)
		code = image_probe(&c->store, "raw", NULL);
	if (code || !dm_plan_of(c->cow, &live))
		return code ? code
			    : fail(REFUSED, "%s has a table that ntfsmap does not make",
				   c->cow->name);
	if (live.n_devices) {
		free(c->store.device);
		c->store.device = text_copy(live.devices[0]);
	}
	code = layout_plan(&c->store, false, false);
	if (!code)
		code = overlay_rest(&c->store.plan, &c->rest);
	if (!code && !plan_same(&c->rest, &live))
		code = fail(REFUSED,
			    "%s: the store is not where it was: `ntfsmap verify %s` shows more",
			    c->cow->name, c->cow->name);
	c->whole = c->store.plan;
	c->store.plan = (struct plan){ 0 };
	plan_free(&live);
	return code;
}

static int find_parts(struct change *c)
{
	struct dm_parts parts = dm_parts_of(&c->top);

	c->origin = dm_find(&c->all, parts.parent);
	c->cow = dm_find(&c->all, parts.data);
	if (!dm_plan_of(&c->top, &c->now) || !c->origin || !c->cow || !dm_is_origin(c->origin) ||
	    !dm_is_cow(c->cow) || !mapping_of(c->cow, &c->store_mapping))
		return fail(REFUSED, "%s: the devices below it are none of ours", c->top.name);
	return in_memory(c) ? DONE : open_store(c);
}

/* Takes the lock. */
static int change_open(const char *name, struct change *c)
{
	struct mapping m;
	int code = dm_need();

	*c = (struct change){ .store = image_none, .modified = -1 };
	if (!code)
		code = mapping_lock();
	if (!code)
		code = mapping_read(name, &c->top, &m);
	if (code)
		return code;
	mapping_free(&m);
	if (dm_is_fenced(&c->top))
		code = fail(REFUSED, "%s: all I/O fails: close it and open it again", c->top.name);
	else if (!dm_is_overlay(&c->top))
		code = fail(REFUSED, "%s has no overlay: it was opened without --overlay",
			    c->top.name);
	if (!code)
		code = refuse_used(&c->top);
	if (!code)
		code = dm_read_all(&c->all);
	if (!code)
		code = find_parts(c);
	if (code)
		change_free(c);
	return code;
}

/* ---- the change ---- */

/* The label is outside of the store's table: for a moment nobody uses that, and it has all. */
static int rewrite_store(const struct change *c)
{
	char *node = text("/dev/mapper/%s", c->cow->name);
	int code = DONE, back;

	if (in_memory(c)) {
		if (c->wipe)
			code = store_wipe(node, 0);
	} else {
		code = dm_reload(c->cow->name, &c->whole, true);
		if (!code && c->wipe)
			code = store_wipe(node, STORE_HEAD);
		if (!code)
			code = store_set_state(node, c->merging ? STORE_MERGING : STORE_IN_USE,
					       c->modified);
		back = dm_reload(c->cow->name, &c->rest, true);
		code = code ? code : back;
	}
	free(node);
	return code;
}

/* The kernel did not take the merge, so nothing was merged; better the overlay than a device whose
 * I/O fails. The label stays: whether an earlier merge had begun is not known here. */
static void be_plain_again(struct change *c)
{
	c->now.merging = false;
	if (!dm_reload(c->top.name, &c->now, false))
		warn("%s: no merge is going on; it is the overlay that it was, and can be merged "
		     "when what is said above is put right",
		     c->top.name);
}

/* Each step leaves something that can be opened again after a crash: before the label says that a
 * merge has begun nothing is merged, and before it says that it is over, the store is empty. */
static int make_change(void *ctx)
{
	struct change *c = ctx;
	struct plan error = { .error = true, .sectors = plan_sectors(&c->now) };
	int back, code = dm_reload(c->top.name, &error, true);

	if (code)
		return code;
	if (c->change_below)
		code = dm_reload(c->origin->name, &c->below, true);
	if (!code)
		code = rewrite_store(c);
	if (!code)
		c->now.merging = c->merging;
	back = dm_reload(c->top.name, &c->now, false);
	if (back && c->now.merging)
		be_plain_again(c);
	return code ? code : back;
}

/* ---- merge ---- */

/* What it holds would be in no place that survives: a merge that stops half-way, for lack of room
 * or because of a crash, could never be ended. */
static int refuse_memory(const struct change *c)
{
	if (in_memory(c))
		return fail(REFUSED,
			    "%s: what its overlay holds is in memory only, and a merge that stops "
			    "half-way would leave the image half changed: copy /dev/mapper/%s to "
			    "another file, or open the image with a store on a disk",
			    c->top.name, c->top.name);
	return DONE;
}

/* A merge that finds no room stops, and the image alone is neither the old nor the new disk until
 * there is some. Where the chunks of the overlay have a place in the image already is not known, so
 * only what cannot fit at all is refused. */
static int check_room(const struct change *c, const struct image *img)
{
	uint64_t size = vdisk_info(img->vd)->virtual_size, held;
	struct overlay_usage u;
	struct vdisk_usage has;

	overlay_usage(&c->top, &u);
	if (u.mode != OVERLAY_GOOD || u.used <= u.tables || vdisk_usage(img->vd, &has) ||
	    has.allocated + has.room >= size)
		return DONE;
	held = (u.used - u.tables) * VDISK_SECTOR;
	if (held > has.allocated + has.room + (uint64_t)PLAN_CHUNK * VDISK_SECTOR)
		return fail(REFUSED,
			    "%s: the overlay holds %llu bytes, and the image has %llu with a place "
			    "in the file and room for %llu more: close it, make room with `ntfsmap "
			    "reserve`, open it with the same overlay and merge it then",
			    img->name, (unsigned long long)held, (unsigned long long)has.allocated,
			    (unsigned long long)has.room);
	if (held > has.room)
		warn("%s: the overlay holds %llu bytes, and the image has room for %llu: should "
		     "the others have no place in the file yet, the merge stops, and goes on "
		     "after `ntfsmap reserve`",
		     img->name, (unsigned long long)held, (unsigned long long)has.room);
	return DONE;
}

static int refuse_merge(const struct image *img, const struct plan *live)
{
	if (img->snapshot)
		return fail(REFUSED, "%s: it is a snapshot, into which nothing can be written",
			    img->name);
	if (!live->format && layout_needs_vdisk(img))
		return fail(REFUSED,
			    "%s was opened with --static, which only reads: close it and open it "
			    "again without",
			    img->name);
	if (img->data)
		return fail(REFUSED,
			    "%s has a data file, which the merge would have to write to: not "
			    "supported; copy the disk to a new image",
			    img->name);
	return DONE;
}

static int lay_out_writable(struct change *c, struct image *img, const struct plan *live)
{
	int code = refuse_merge(img, live);

	if (!code)
		code = attach_loops(img, false);
	if (!code)
		code = layout_plan(img, false, false);
	if (!code && live->parent)
		img->plan.parent = text_copy(live->parent);
	if (!code && !plan_same(&img->plan, live))
		code = fail(REFUSED,
			    "%s is not where it was, or has another size: `ntfsmap verify %s` "
			    "shows more",
			    img->name, c->origin->name);
	c->below = img->plan;
	c->change_below = true;
	img->plan = (struct plan){ 0 };
	return code;
}

/* All that an open for writing would ask about the image, and its table for that. */
static int prepare_origin(struct change *c, const struct options *opt, struct image *img)
{
	struct request req = opt->req;
	struct mapping m;
	struct plan live;
	int code;

	if (!mapping_of(c->origin, &m) || !dm_plan_of(c->origin, &live)) {
		mapping_free(&m);
		return fail(REFUSED, "%s has a table that ntfsmap does not make", c->origin->name);
	}
	req.hold = true;
	req.format = m.format;
	req.snapshot = m.snapshot;
	req.except = c->origin->name;
	req.except_loop = m.table_dev;
	req.live = dm_is_vdisk(c->origin) ? c->origin : NULL;
	req.devices = &c->all;
	code = mapping_refuse_frozen(&m);
	if (!code)
		code = mapping_open_image(&m, img);
	if (!code)
		code = prepare(img, &req);
	if (!code)
		code = lay_out_writable(c, img, &live);
	if (!code)
		code = check_room(c, img);
	plan_free(&live);
	mapping_free(&m);
	return code;
}

static int begin_merge(struct change *c, const struct options *opt)
{
	struct image img = image_none;
	int code = refuse_memory(c);

	if (!code)
		code = prepare_origin(c, opt, &img);
	c->merging = true;
	if (!code)
		code = mapping_change(make_change, c);
	image_close(&img);
	return code;
}

static int fail_stuck(const char *name, enum overlay_mode mode)
{
	if (mode == OVERLAY_STUCK)
		return fail(
			SYSTEM,
			"%s: the merge met an error (dmesg says which; a dynamic image may have "
			"no room left, see `ntfsmap reserve`): nothing is lost. Close it, put "
			"that right, open it with the same overlay and merge it again",
			name);
	if (mode == OVERLAY_INVALID)
		return fail(SYSTEM, "%s: writing to the store failed, and the kernel gave it up",
			    name);
	return fail(SYSTEM, "%s is not being merged any more: it was closed or changed", name);
}

static void look(const char *name, struct overlay_usage *u)
{
	struct dm_device d;

	*u = (struct overlay_usage){ .mode = OVERLAY_UNKNOWN };
	if (!dm_read(name, &d) && dm_is_overlay(&d))
		overlay_usage(&d, u);
	dm_device_free(&d);
}

/* Who ends a merge, or begins it, puts another table there for a moment, with the lock. */
static void look_again(const char *name, struct overlay_usage *u)
{
	if (mapping_lock())
		return;
	look(name, u);
	mapping_unlock();
}

/* The kernel does it, and goes on when we are ended. *last: how it was found. DONE also where it is
 * an overlay again, as another ntfsmap waited, too, and was faster. */
static int wait_for_merge(const char *name, struct overlay_usage *last)
{
	struct overlay_usage u;
	struct progress progress;
	uint64_t first = 0;

	progress_start(&progress, "merging");
	for (;;) {
		look(name, &u);
		if (u.mode == OVERLAY_UNKNOWN)
			look_again(name, &u);
		if (u.mode != OVERLAY_GOOD || !u.merging || u.used <= u.tables)
			break;
		first = first ? first : u.used;
		progress_step(&progress, first - u.used, first);
		usleep(PAUSE);
	}
	progress_end(&progress);
	*last = u;
	return u.mode == OVERLAY_GOOD ? DONE : fail_stuck(name, u.mode);
}

/* It is an overlay again, and nothing has been written since. */
static bool is_ended(const struct overlay_usage *u)
{
	return u->mode == OVERLAY_GOOD && !u->merging && u->used <= u->tables;
}

/* The same where something has: only who ended the merge takes the word from the label. */
static bool says_ended(const struct change *c, const struct overlay_usage *u)
{
	enum store_state state;

	return u->mode == OVERLAY_GOOD && !u->merging && !in_memory(c) &&
	       !store_read_state(&c->store, &state) && state == STORE_IN_USE;
}

static int plan_readonly(struct change *c)
{
	if (!dm_plan_of(c->origin, &c->below))
		return fail(REFUSED, "%s has a table that ntfsmap does not make", c->origin->name);
	c->below.readonly = c->change_below = true;
	return DONE;
}

/* A plain file has another time now. */
static void learn_modified(struct change *c)
{
	struct mapping m;
	struct image img;

	if (!mapping_of(c->origin, &m))
		return;
	msg_hush(true);
	if (!mapping_open_image(&m, &img)) {
		c->modified = image_modified(&img);
		image_close(&img);
	}
	msg_hush(false);
	mapping_free(&m);
}

/* The store is empty; the image is only read again. */
static int end_merge(const char *name)
{
	struct overlay_usage u;
	struct change c;
	int code = change_open(name, &c);

	if (code)
		return code;
	overlay_usage(&c.top, &u);
	if (is_ended(&u) || says_ended(&c, &u)) {
		change_free(&c);
		return DONE;
	}
	if (u.mode != OVERLAY_GOOD || !u.merging || u.used > u.tables)
		code = fail_stuck(c.top.name, u.mode == OVERLAY_GOOD ? OVERLAY_UNKNOWN : u.mode);
	c.wipe = true;
	if (!code)
		code = plan_readonly(&c);
	if (!code) {
		learn_modified(&c);
		code = mapping_change(make_change, &c);
	}
	if (!code)
		note("%s: the image has it all, and the overlay is empty", c.top.name);
	change_free(&c);
	return code;
}

static int refuse_invalid(const struct dm_device *d)
{
	struct overlay_usage u;

	overlay_usage(d, &u);
	return u.mode == OVERLAY_INVALID || u.mode == OVERLAY_STUCK ? fail_stuck(d->name, u.mode)
								    : DONE;
}

int verb_merge(int argc, char **argv, const struct options *opt)
{
	struct overlay_usage last;
	struct change c;
	char *name;
	int code = change_open(argv[0], &c);

	(void)argc;
	if (code)
		return code;
	name = text_copy(c.top.name);
	code = refuse_invalid(&c.top);
	if (!code && !c.now.merging)
		code = begin_merge(&c, opt);
	change_free(&c);
	mapping_unlock(); /* it may take long */
	if (!code)
		code = wait_for_merge(name, &last);
	if (!code && !is_ended(&last))
		code = end_merge(name);
	free(name);
	return code;
}

/* ---- revert ---- */

static int refuse_revert(const struct change *c)
{
	enum store_state state = c->now.merging ? STORE_MERGING : STORE_IN_USE;
	int code = in_memory(c) || c->now.merging ? DONE : store_read_state(&c->store, &state);

	if (!code && state == STORE_MERGING)
		code = fail(REFUSED,
			    "%s: a merge has begun, and the image has a part of it: only `ntfsmap "
			    "merge` can end that",
			    c->top.name);
	return code;
}

int verb_revert(int argc, char **argv, const struct options *opt)
{
	struct change c;
	int code = change_open(argv[0], &c);

	(void)argc, (void)opt;
	if (code)
		return code;
	code = refuse_revert(&c);
	c.wipe = true;
	if (!code)
		code = mapping_change(make_change, &c);
	if (!code)
		note("%s: what was written is dropped, and the overlay is empty", c.top.name);
	change_free(&c);
	return code;
}
