// SPDX-License-Identifier: GPL-2.0-or-later
/* open, reload and host: the verbs that make or change devices. */
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "bases.h"
#include "blk.h"
#include "chain.h"
#include "layout.h"
#include "loop.h"
#include "mapping.h"
#include "overlay.h"
#include "parts.h"
#include "verb.h"

struct creation {
	const char *name;
	struct overlay *overlay; /* or NULL */
	struct image *img;	 /* or a view: */
	const char *uuid;
	const struct plan *plan;
	bool partitions;
};

/* All or nothing, with its partitions. */
static int create_image(const struct creation *c)
{
	struct dm_device d;
	int code = c->overlay ? overlay_create(c->overlay, c->img, c->name)
			      : bases_create(c->img, c->name, ROLE_IMAGE);

	if (code || !c->partitions)
		return code;
	code = parts_create(c->name);
	if (code && !dm_read(c->name, &d)) {
		bases_remove(&d, false);
		dm_device_free(&d);
	}
	return code;
}

static int create(void *ctx)
{
	const struct creation *c = ctx;

	if (c->img)
		return create_image(c);
	return dm_create(c->name, c->uuid, c->plan, true, NULL);
}

static int refuse_existing(const char *name)
{
	struct dm_device d;
	int code = dm_read(name, &d);

	if (code)
		return code == NOT_FOUND ? DONE : code;
	dm_device_free(&d);
	return fail(BUSY, "/dev/mapper/%s exists already", name);
}

/* Before anything is looked at: may we, and is the name free? */
static int begin(const char *name)
{
	int code = dm_check_name(name);

	if (!code)
		code = dm_need();
	if (!code)
		code = mapping_lock();
	if (!code)
		code = refuse_existing(name);
	return code;
}

/* A regular file needs a loop device; so does a device that a mount has claimed. */
static int through_loop(struct image *img, bool readonly)
{
	char *path;
	dev_t dev;
	int fd, code = loop_attach(img->where.path, readonly, img->fd, &fd, &path);

	if (code)
		return code;
	img->loop = fd;
	if (!blk_dev_of(path, &dev)) {
		code = fail(SYSTEM, "%s has vanished", path);
	} else {
		free(img->device);
		img->device = text("%u:%u", major(dev), minor(dev));
		debug("%s is used through %s", img->where.path, path);
	}
	free(path);
	return code;
}

/* Where it is needed, and once for a file or device that several images of the chain are on. The
 * child's may be read-write: a table can be read-only on that. */
int attach_loops(struct image *img, bool readonly)
{
	struct image *first = img;
	int code = DONE;

	for (; img && !code; img = image_next(first, img)) {
		if (img->where.is_block && !img->users.claimed)
			continue;
		if (img != first && !strcmp(img->where.path, first->where.path)) {
			free(img->device);
			img->device = text_copy(first->device);
			continue;
		}
		code = through_loop(img, readonly || (img != first && img != first->data));
		if (!code && img->users.claimed)
			note("%s is mounted on %s: going through a loop device, at about twice the "
			     "cost, and while this is open nobody must mount the volume "
			     "read-write, which nothing prevents; `ntfsmap host` makes a view that "
			     "can be mounted instead",
			     img->where.path, img->users.mount_point);
	}
	return code;
}

static void note_room(const struct image *img)
{
	struct vdisk_usage u;

	if (img->plan.readonly || !img->plan.format || img->data || vdisk_usage(img->vd, &u))
		return; /* with a data file, the room is for tables */
	if (u.room)
		note("%s: %s have a place in the file, and there is room for %s more", img->name,
		     human_size(u.allocated), human_size(u.room));
	else if (u.allocated < vdisk_info(img->vd)->virtual_size)
		note("%s: %s have a place in the file, and there is no room for more: writing "
		     "elsewhere will fail (`ntfsmap reserve` makes room on a mounted volume)",
		     img->name, human_size(u.allocated));
}

/* It is written to as the image is, wherever the image says that it is. */
static void note_data(const struct image *img)
{
	for (; img; img = img->parent)
		if (img->data)
			note("%s: the data are in %s", img->name, img->data->name);
}

/* All is known: say it, and make the devices. */
static int finish_open(struct image *img, const struct options *opt, struct creation *c)
{
	int code = DONE;

	note_room(img);
	note_data(img);
	if (opt->test)
		note("%s could be opened", img->name);
	else
		code = mapping_change(create, c);
	if (!code && !opt->test)
		printf("/dev/mapper/%s\n", c->name);
	return code;
}

static int open_image(struct image *img, const struct options *opt, const char *name)
{
	bool readonly = opt->req.readonly || opt->overlay;
	struct overlay overlay = overlay_none;
	struct creation c = { .name = name, .img = img, .partitions = opt->partitions };
	struct request req = opt->req;
	int code;

	req.hold = !opt->test;
	req.readonly = readonly;
	req.base |= opt->overlay != NULL; /* nobody may change it below the overlay */
	code = prepare(img, &req);
	if (!code && !opt->test)
		code = attach_loops(img, readonly);
	if (!code)
		code = layout_chain(img, readonly, opt->req.as_static);
	if (!code && opt->overlay) {
		c.overlay = &overlay;
		code = overlay_open(&overlay, opt->overlay, img, opt);
	}
	if (!code)
		code = finish_open(img, opt, &c);
	overlay_close(&overlay);
	return code;
}

int open_device(const char *source, const char *name, const struct options *opt)
{
	struct image img;
	int code = opt->test ? dm_check_name(name) : begin(name);

	if (!code)
		code = image_open(source, &img);
	if (code)
		return code;
	code = open_image(&img, opt, name);
	image_close(&img); /* from now on the device keeps its loop devices */
	return code;
}

int verb_open(int argc, char **argv, const struct options *opt)
{
	int code = open_device(argv[0], argv[1], opt);

	(void)argc;
	return code ? code : finish_stdout();
}

struct replacement {
	const char *name;
	const struct plan *plan;
	bool hidden;
};

static int replace(void *ctx)
{
	const struct replacement *r = ctx;

	return dm_reload(r->name, r->plan, r->hidden);
}

/* The new table goes through the same loop device, if there is one. */
static void keep_device(struct image *img, const struct plan *live)
{
	if (!live->n_devices)
		return;
	free(img->device);
	img->device = text_copy(live->devices[0]);
}

static int reload_device(const struct dm_device *d, struct image *img, bool *changed)
{
	struct replacement r = { d->name, &img->plan, dm_is_part(d) };
	struct plan live;
	int code;

	if (!dm_plan_of(d, &live))
		return fail(REFUSED, "%s has a table that ntfsmap does not make", d->name);
	keep_device(img, &live);
	code = layout_plan(img, d->readonly, !live.format && layout_needs_vdisk(img));
	if (!code && live.parent)
		img->plan.parent = text_copy(live.parent);
	if (!code && live.data)
		img->plan.data = text_copy(live.data);
	if (!code && !plan_same(&img->plan, &live)) {
		if (plan_sectors(&img->plan) < plan_sectors(&live))
			code = fail(REFUSED,
				    "%s is %llu bytes long, and its file holds only %llu now: "
				    "close it and open it again",
				    d->name, (unsigned long long)plan_sectors(&live) * 512,
				    (unsigned long long)plan_sectors(&img->plan) * 512);
		else
			code = mapping_change(replace, &r);
		*changed = true;
	}
	plan_free(&live);
	return code;
}

/* What it reads first: while one of these waits, so do those who read it. */
static int reload_chain(const struct dm_device *d, const struct dm_devices *all, struct image *img,
			bool *changed)
{
	const struct dm_device *base = chain_device(d, all, 1), *data = chain_data_device(d, all);
	int code = DONE;

	if (data && img->data)
		code = reload_device(data, img->data, changed);
	if (!code && base && img->parent)
		code = reload_chain(base, all, img->parent, changed);
	return code ? code : reload_device(d, img, changed);
}

struct parts_change {
	const char *name;
	bool changed; /* anything, until now */
};

/* By a process of its own: what it says is the end. */
static int update_parts(void *ctx)
{
	struct parts_change *c = ctx;
	int code = parts_update(c->name, &c->changed);

	if (!code && !c->changed)
		note("%s: nothing has changed", c->name);
	return code;
}

static int reload_mapping(const struct dm_device *d, const struct mapping *m,
			  const struct options *opt)
{
	struct request req = opt->req;
	struct dm_devices all;
	bool changed = false;
	struct image img;
	int code;

	req.readonly = d->readonly;
	req.format = m->format;
	req.snapshot = m->snapshot;
	req.except = d->name;
	req.except_loop = m->table_dev;
	req.base = m->base;
	req.live = dm_is_vdisk(d) ? d : NULL;
	req.devices = &all;
	code = mapping_refuse_frozen(m);
	if (!code)
		code = dm_read_all(&all);
	if (code)
		return code;
	code = mapping_open_image(m, &img);
	if (!code) {
		code = prepare(&img, &req);
		if (!code)
			code = reload_chain(d, &all, &img, &changed);
		image_close(&img);
	}
	if (!code)
		code = mapping_change(update_parts, &(struct parts_change){ d->name, changed });
	dm_devices_free(&all);
	return code;
}

/* A loop device over a regular file does not see by itself that the file grew. */
static int refresh_loop(const struct mapping *m)
{
	char *node = m->kind == MAPPING_FILE ? blk_node(m->table_dev) : NULL;
	int code = node ? loop_refresh_size(node) : DONE;

	free(node);
	return code;
}

int verb_reload(int argc, char **argv, const struct options *opt)
{
	struct dm_device d;
	struct mapping m;
	int code = dm_need();

	(void)argc;
	if (!code)
		code = mapping_lock();
	if (!code)
		code = mapping_read(argv[0], &d, &m);
	if (code)
		return code;
	if (dm_is_overlay(&d) || m.origin || m.cow)
		code = fail(REFUSED,
			    "%s has an overlay or belongs to one: close it and open it again",
			    d.name);
	if (m.kind == MAPPING_HOST)
		code = fail(REFUSED, "%s is a view of a volume: there is nothing to reload",
			    d.name);
	if (!code)
		code = refresh_loop(&m);
	if (!code)
		code = reload_mapping(&d, &m, opt);
	mapping_free(&m);
	dm_device_free(&d);
	return code;
}

static int view_plan(const struct volume *vol, struct plan *plan)
{
	char *device;
	int ret;

	*plan = (struct plan){ .readonly = true };
	if (!vol->is_block)
		return fail(REFUSED, "%s is no block device: mount -o ro,loop does the same",
			    vol->device);
	device = text("%u:%u", major(vol->rdev), minor(vol->rdev));
	ret = plan_add(plan, device, 0, vol->device_bytes / 512);
	free(device);
	return ret ? fail(SYSTEM, "%s: no memory", vol->device) : DONE;
}

static int refuse_claimed_view(const struct volume *vol)
{
	struct where at = { vol->device, true, vol->rdev, vol->device_bytes / 512 };
	struct users users;
	int code = users_find(&at, NULL, NULL, NULL, &users);

	if (!code && users.claimed)
		code = fail(BUSY, "%s is mounted on %s: unmount it, make the view, mount the view",
			    vol->device, users.mount_point);
	users_free(&users);
	return code;
}

/* DEVICE may be UUID=… and so on, too. */
static int open_volume(const char *spec, struct volume **vol)
{
	struct source src;
	int code = source_resolve(spec, &src);

	if (!code && src.kind == SOURCE_NTFS)
		code = fail(USAGE, "host takes a device, not a file on it");
	if (!code)
		code = volume_open(src.device, vol);
	source_free(&src);
	return code;
}

int open_view(const char *device, const char *name)
{
	struct creation c = { .name = name };
	struct plan plan = { 0 };
	struct volume *vol;
	char *uuid = NULL;
	int code = begin(name);

	if (!code)
		code = open_volume(device, &vol);
	if (code)
		return code;
	code = view_plan(vol, &plan);
	if (!code)
		code = refuse_claimed_view(vol);
	if (!code) {
		c.uuid = uuid = mapping_host_uuid(vol, name);
		c.plan = &plan;
		code = mapping_change(create, &c);
	}
	free(uuid);
	plan_free(&plan);
	volume_close(vol);
	return code;
}

int verb_host(int argc, char **argv, const struct options *opt)
{
	int code = open_view(argv[0], argv[1]);

	(void)argc, (void)opt;
	if (code)
		return code;
	printf("/dev/mapper/%s\n", argv[1]);
	return finish_stdout();
}
