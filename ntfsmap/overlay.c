// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "bases.h"
#include "blk.h"
#include "layout.h"
#include "loop.h"
#include "mapping.h"
#include "overlay.h"

#define HEAD_SECTORS (STORE_HEAD / VDISK_SECTOR)

const struct overlay overlay_none = { .store = { .fd = -1, .loop = -1 }, .memory = -1 };

/* ---- a store in memory ---- */

/* Room for every chunk of the image and their tables; but no more than half of the memory, so that
 * a full store is what the overlay meets, and not a machine without memory. */
static uint64_t memory_sectors(uint64_t image_sectors)
{
	uint64_t most = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) /
			VDISK_SECTOR / 2;
	uint64_t all = image_sectors + image_sectors / 1024 + 8 * (uint64_t)PLAN_CHUNK;

	return (all < most ? all : most) / PLAN_CHUNK * PLAN_CHUNK;
}

static int plan_memory(struct overlay *o, const char *loop, uint64_t sectors)
{
	char *device;
	dev_t dev;
	int ret;

	if (!blk_dev_of(loop, &dev))
		return fail(SYSTEM, "%s has vanished", loop);
	device = text("%u:%u", major(dev), minor(dev));
	ret = plan_add(&o->whole, device, 0, sectors);
	free(device);
	return ret ? fail_errno(-ret, "cannot lay out the store") : DONE;
}

static int open_memory(struct overlay *o, const struct image *origin)
{
	uint64_t sectors = memory_sectors(vdisk_info(origin->vd)->virtual_size / VDISK_SECTOR);
	int fd = memfd_create("ntfsmap-overlay", MFD_CLOEXEC), code;
	char *file, *loop;

	if (fd < 0 || ftruncate(fd, (off_t)(sectors * VDISK_SECTOR))) {
		code = fail_errno(errno, "cannot make a store in memory");
		if (fd >= 0)
			close(fd);
		return code;
	}
	file = text("/proc/self/fd/%d", fd);
	code = loop_attach(file, false, -1, &o->memory, &loop);
	close(fd); /* the loop device has it */
	free(file);
	if (code)
		return code;
	code = plan_memory(o, loop, sectors);
	free(loop);
	if (!code)
		note("%s: what is written goes to memory, at most %s of it, and is gone when the "
		     "device is closed",
		     origin->name, human_size(sectors * VDISK_SECTOR));
	return code;
}

/* ---- a store in a file or device ---- */

static int check_places(const struct image *origin, const struct image *store)
{
	for (const struct image *i = origin; i; i = image_next(origin, i))
		if (image_same(i, store))
			return fail(REFUSED,
				    "%s is the image itself, or belongs to it: the overlay needs a "
				    "store of its own",
				    store->name);
	return DONE;
}

static void note_state(const struct overlay *o, const struct image *origin)
{
	if (o->state == STORE_MERGING)
		note("%s: a merge of %s was interrupted: what is read is right, and `ntfsmap "
		     "merge` goes on with it; until that is done, nothing else may use the image",
		     o->store.name, origin->name);
	else if (o->state == STORE_IN_USE)
		note("%s: going on with what was written over %s", o->store.name, origin->name);
	else
		note("%s: a new store for what is written over %s", o->store.name, origin->name);
}

static int open_store(struct overlay *o, const char *spec, struct image *origin,
		      const struct options *opt)
{
	struct request req = opt->req;
	struct image *store = &o->store;
	int code = image_open(spec, store);

	if (code)
		return code;
	req.readonly = req.as_static = false;
	req.hold = !opt->test;
	req.format = req.parent = req.data = req.snapshot = NULL;
	code = check_places(origin, store);
	if (!code)
		code = prepare(store, &req);
	if (!code)
		code = store_look(store, origin, &o->state);
	if (!code && !opt->test)
		code = attach_loops(store, false);
	if (!code)
		code = layout_plan(store, false, false);
	if (code)
		return code;
	o->whole = store->plan;
	store->plan = (struct plan){ 0 };
	note_state(o, origin);
	return DONE;
}

int overlay_open(struct overlay *o, const char *spec, struct image *origin,
		 const struct options *opt)
{
	*o = overlay_none;
	if (strcmp(spec, "tmpfs"))
		return open_store(o, spec, origin, opt);
	return opt->test ? DONE : open_memory(o, origin);
}

void overlay_close(struct overlay *o)
{
	image_close(&o->store);
	plan_free(&o->whole);
	if (o->memory >= 0)
		close(o->memory);
	*o = overlay_none;
}

/* ---- devices ---- */

int overlay_rest(const struct plan *whole, struct plan *rest)
{
	uint64_t skip = HEAD_SECTORS;
	int ret = 0;

	*rest = (struct plan){ 0 };
	for (size_t i = 0; i < whole->lines.n && !ret; i++) {
		const struct vdisk_extent *line = &whole->lines.v[i];
		uint64_t cut = line->count < skip ? line->count : skip;

		skip -= cut;
		if (cut < line->count)
			ret = plan_add(rest, whole->devices[plan_device_of(line->device)],
				       plan_sector_of(line->device) + cut, line->count - cut);
	}
	return ret ? fail_errno(-ret, "cannot lay out the store") : DONE;
}

static int create_store(const struct overlay *o, const struct image *origin, const char *name,
			dev_t *dev)
{
	bool memory = o->memory >= 0, begin = !memory && o->state == STORE_EMPTY;
	char *node = text("/dev/mapper/%s", name);
	char *uuid = memory ? mapping_memory_uuid(name) : mapping_uuid(&o->store, name, ROLE_COW);
	struct plan rest = { 0 };
	int code = memory ? DONE : overlay_rest(&o->whole, &rest);

	if (!code)
		code = dm_create(name, uuid, begin || memory ? &o->whole : &rest, true, dev);
	if (!code && begin) {
		code = store_begin(node, origin);
		if (!code)
			code = dm_reload(name, &rest, true);
		if (code)
			dm_remove(name, false);
	}
	plan_free(&rest);
	free(uuid);
	free(node);
	return code;
}

static int create_top(const struct image *origin, const char *name, dev_t below, dev_t cow)
{
	char *uuid = mapping_uuid(origin, name, ROLE_IMAGE);
	struct plan plan = { .sectors = plan_sectors(&origin->plan) };
	int code;

	plan.origin = text("%u:%u", major(below), minor(below));
	plan.cow = text("%u:%u", major(cow), minor(cow));
	code = dm_create(name, uuid, &plan, false, NULL);
	plan_free(&plan);
	free(uuid);
	return code;
}

int overlay_create(struct overlay *o, struct image *origin, const char *name)
{
	char *below = text("%s-origin", name), *cow = text("%s-cow", name);
	struct dm_device d = { 0 };
	dev_t cow_dev;
	int code = bases_create(origin, below, ROLE_ORIGIN);

	if (!code) {
		code = dm_read(below, &d);
		if (!code)
			code = create_store(o, origin, cow, &cow_dev);
		if (!code) {
			code = create_top(origin, name, d.dev, cow_dev);
			if (code)
				dm_remove(cow, false);
		}
		if (code && d.name)
			bases_remove(&d, false);
	}
	dm_device_free(&d);
	free(below);
	free(cow);
	return code;
}

void overlay_usage(const struct dm_device *d, struct overlay_usage *u)
{
	char *state = dm_state(d->name);

	*u = (struct overlay_usage){ .mode = OVERLAY_UNKNOWN,
				     .merging = !strcmp(d->lines[0].type, "snapshot-merge") };
	if (!state)
		return;
	if (sscanf(state, "%" SCNu64 "/%" SCNu64 " %" SCNu64, &u->used, &u->total, &u->tables) == 3)
		u->mode = OVERLAY_GOOD;
	else if (!strcmp(state, "Overflow"))
		u->mode = OVERLAY_FULL;
	else if (!strcmp(state, "Invalid"))
		u->mode = OVERLAY_INVALID;
	else if (!strcmp(state, "Merge failed"))
		u->mode = OVERLAY_STUCK;
	free(state);
}
