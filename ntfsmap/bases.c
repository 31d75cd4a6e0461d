// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "bases.h"
#include "mapping.h"
#include "msg.h"

struct made {
	char *names[VDISK_CHAIN_MAX];
	size_t n;
};

char *base_name(const char *name, unsigned int depth)
{
	return depth ? text("%s-base%u", name, depth) : text_copy(name);
}

static int make(const struct image *img, const char *name, bool base, struct made *made, dev_t *dev)
{
	char *uuid = mapping_uuid(img, name, base);
	int code =
		strlen(uuid) > 128
			? fail(USAGE, "the name \"%s\" is too long for a differencing image", name)
			: dm_create(name, uuid, &img->plan, base, dev);

	if (!code)
		made->names[made->n++] = text_copy(name);
	free(uuid);
	return code;
}

static bool is_taken(const struct dm_devices *all, const struct made *made, const char *name)
{
	for (size_t i = 0; i < all->n; i++)
		if (!strcmp(all->v[i].name, name))
			return true;
	for (size_t i = 0; i < made->n; i++)
		if (!strcmp(made->names[i], name))
			return true;
	return false;
}

/* NAME may have been opened before with other parents, which others share now. */
static char *free_base_name(const struct dm_devices *all, const struct made *made, const char *name,
			    unsigned int depth)
{
	char *own = base_name(name, depth);

	while (is_taken(all, made, own)) {
		free(own);
		own = base_name(name, ++depth);
	}
	return own;
}

/* The device of a parent: one that is open already, or a new one. */
static int make_base(const struct dm_devices *all, const struct image *img, const char *name,
		     unsigned int depth, struct made *made, dev_t *dev)
{
	const struct dm_device *open = mapping_find_base(all, img);

	if (!open) {
		char *own = free_base_name(all, made, name, depth);
		int code = make(img, own, true, made, dev);

		free(own);
		return code;
	}
	note("%s is open already as %s, which is shared", img->name, open->name);
	*dev = open->dev;
	return DONE;
}

/* Depth first: a device needs the number of its parent's. */
static int make_chain(const struct dm_devices *all, struct image *img, const char *name,
		      unsigned int depth, struct made *made, dev_t *dev)
{
	if (img->parent && img->plan.format) {
		dev_t parent;
		int code = make_chain(all, img->parent, name, depth + 1, made, &parent);
		if (code)
			return code;
		free(img->plan.parent);
		img->plan.parent = text("%u:%u", major(parent), minor(parent));
	}
	return depth ? make_base(all, img, name, depth, made, dev)
		     : make(img, name, false, made, dev);
}

int bases_create(struct image *img, const char *name)
{
	struct dm_devices all = { 0 };
	struct made made = { 0 };
	int code = img->parent ? dm_read_all(&all) : DONE;
	dev_t dev;

	if (!code)
		code = make_chain(&all, img, name, 0, &made, &dev);
	for (size_t i = made.n; i-- > 0;) {
		if (code)
			dm_remove(made.names[i], false);
		free(made.names[i]);
	}
	dm_devices_free(&all);
	return code;
}

/* The number of the parent that the table names, 0 without one. */
static dev_t parent_of(const struct dm_device *d)
{
	struct plan plan;
	dev_t dev = 0;

	if (!dm_plan_of(d, &plan))
		return 0;
	if (plan.parent && !dm_parse_device(plan.parent, &dev))
		dev = 0;
	plan_free(&plan);
	return dev;
}

int bases_remove(const struct dm_device *d, bool deferred)
{
	bool in_use = deferred && d->open_count > 0;
	struct dm_devices all;
	int code = dm_read_all(&all);
	const struct dm_device *base;
	dev_t dev = parent_of(d);

	if (!code)
		code = dm_remove(d->name, in_use);
	/* One of the users that were counted has just gone. A base that is told to wait goes with
	 * the last of the images that share it. */
	while (!code && dev && (base = dm_find(&all, dev)) && dm_is_base(base) &&
	       (in_use || base->open_count <= 1)) {
		dev = parent_of(base);
		code = dm_remove(base->name, in_use);
	}
	dm_devices_free(&all);
	return code;
}
