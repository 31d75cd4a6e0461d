// SPDX-License-Identifier: GPL-2.0-or-later
/* open, reload and host: the verbs that make or change devices. */
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blk.h"
#include "loop.h"
#include "mapping.h"
#include "verb.h"

struct creation {
	const char *name;
	const char *uuid;
	const struct plan *plan;
	bool hidden;
};

static int create(void *ctx)
{
	const struct creation *c = ctx;

	return dm_create(c->name, c->uuid, c->plan, c->hidden);
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
static int through_loop(const struct image *img, bool readonly, struct plan *plan, int *fd)
{
	char *path;
	dev_t dev;
	int code = loop_attach(img->where.path, readonly, fd, &path);

	if (code)
		return code;
	if (!blk_dev_of(path, &dev)) {
		code = fail(SYSTEM, "%s has vanished", path);
	} else {
		free(plan->device);
		plan->device = text("%u:%u", major(dev), minor(dev));
		debug("%s is used through %s", img->where.path, path);
	}
	free(path);
	return code;
}

static int make_device(const struct image *img, const struct request *req, const char *name,
		       struct plan *plan, const struct users *users)
{
	char *uuid = mapping_uuid(img, name);
	struct creation c = { name, uuid, plan, false };
	int loop = -1, code = DONE;

	if (!img->where.is_block || users->claimed)
		code = through_loop(img, req->readonly, plan, &loop);
	if (!code && users->claimed)
		note("%s is mounted on %s: going through a loop device, at about twice the cost; "
		     "`ntfsmap host` makes a view that can be mounted instead",
		     img->where.path, users->mount_point);
	if (!code)
		code = mapping_change(create, &c);
	if (loop >= 0)
		close(loop); /* from now on the device keeps it */
	free(uuid);
	return code;
}

int verb_open(int argc, char **argv, const struct options *opt)
{
	struct users users = { 0 };
	struct plan plan = { 0 };
	struct image img;
	int code;

	(void)argc;
	code = opt->test ? dm_check_name(argv[1]) : begin(argv[1]);
	if (!code)
		code = image_open(argv[0], &img);
	if (code)
		return code;
	code = prepare(&img, &opt->req, &plan, &users);
	if (!code && opt->test)
		note("%s could be opened", img.name);
	else if (!code)
		code = make_device(&img, &opt->req, argv[1], &plan, &users);
	if (!code && !opt->test)
		printf("/dev/mapper/%s\n", argv[1]);
	plan_free(&plan);
	users_free(&users);
	image_close(&img);
	return code ? code : finish_stdout();
}

struct replacement {
	const char *name;
	const struct plan *plan;
};

static int replace(void *ctx)
{
	const struct replacement *r = ctx;

	return dm_reload(r->name, r->plan);
}

static bool same_lines(const struct plan *a, const struct plan *b)
{
	return a->lines.n == b->lines.n &&
	       !memcmp(a->lines.v, b->lines.v, a->lines.n * sizeof(*a->lines.v));
}

static int reload_plan(const struct dm_device *d, struct plan *plan)
{
	struct replacement r = { d->name, plan };
	struct plan live;
	dev_t dev;
	int code;

	if (!dm_plan_of(d, &live, &dev))
		return fail(REFUSED, "%s has a table that ntfsmap does not make", d->name);
	free(plan->device);
	plan->device = text_copy(live.device); /* through the same loop device, if there is one */
	if (same_lines(plan, &live)) {
		note("%s: nothing has changed", d->name);
		code = DONE;
	} else if (plan->lines.sectors < live.lines.sectors) {
		code = fail(REFUSED,
			    "%s is %llu bytes long, and its file holds only %llu now: close it and "
			    "open it again",
			    d->name, (unsigned long long)live.lines.sectors * 512,
			    (unsigned long long)plan->lines.sectors * 512);
	} else {
		code = mapping_change(replace, &r);
	}
	plan_free(&live);
	return code;
}

static int reload_mapping(const struct dm_device *d, const struct mapping *m,
			  const struct options *opt)
{
	struct request req = opt->req;
	struct users users = { 0 };
	struct plan plan = { 0 };
	struct image img;
	int code;

	req.readonly = d->readonly;
	req.format = m->format;
	req.except = d->name;
	code = mapping_open_image(m, &img);
	if (code)
		return code;
	code = prepare(&img, &req, &plan, &users);
	if (!code)
		code = reload_plan(d, &plan);
	plan_free(&plan);
	users_free(&users);
	image_close(&img);
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
	*plan = (struct plan){ .readonly = true };
	if (!vol->is_block)
		return fail(REFUSED, "%s is no block device: mount -o ro,loop does the same",
			    vol->device);
	if (vdisk_extents_add(&plan->lines, 0, vol->device_bytes / 512))
		return fail(SYSTEM, "%s: no memory", vol->device);
	plan->device = text("%u:%u", major(vol->rdev), minor(vol->rdev));
	return DONE;
}

static int refuse_claimed_view(const struct volume *vol)
{
	struct where at = { vol->device, true, vol->rdev, vol->device_bytes / 512 };
	struct users users;
	int code = users_find(&at, NULL, NULL, &users);

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

int verb_host(int argc, char **argv, const struct options *opt)
{
	struct creation c = { .name = argv[1], .hidden = true };
	struct plan plan = { 0 };
	struct volume *vol;
	char *uuid = NULL;
	int code = begin(argv[1]);

	(void)argc, (void)opt;
	if (!code)
		code = open_volume(argv[0], &vol);
	if (code)
		return code;
	code = view_plan(vol, &plan);
	if (!code)
		code = refuse_claimed_view(vol);
	if (!code) {
		c.uuid = uuid = mapping_host_uuid(vol, argv[1]);
		c.plan = &plan;
		code = mapping_change(create, &c);
	}
	if (!code)
		printf("/dev/mapper/%s\n", argv[1]);
	free(uuid);
	plan_free(&plan);
	volume_close(vol);
	return code ? code : finish_stdout();
}
