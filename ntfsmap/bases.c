// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "bases.h"
#include "mapping.h"
#include "msg.h"

struct made {
	char *names[2 * VDISK_CHAIN_MAX]; /* each with a data file at most */
	size_t n;
	enum mapping_role role; /* of the image itself */
};

/* "NAME-data", "NAME-data2", "NAME-base1": without a number for 0. */
static char *part_name(const char *name, const char *suffix, unsigned int n)
{
	return n ? text("%s-%s%u", name, suffix, n) : text("%s-%s", name, suffix);
}

char *base_name(const char *name, unsigned int depth)
{
	return depth ? part_name(name, "base", depth) : text_copy(name);
}

char *data_name(const char *owner)
{
	return part_name(owner, "data", 0);
}

static int make(const struct image *img, const char *name, enum mapping_role role,
		struct made *made, dev_t *dev)
{
	char *uuid = mapping_uuid(img, name, role);
	int code = strlen(uuid) > DM_UUID_MAX
			   ? fail(USAGE, "the name \"%s\" is too long for a device", name)
			   : dm_create(name, uuid, &img->plan, role != ROLE_IMAGE, dev);

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

/* NAME may have been opened before with other files, which others share now. */
static char *free_name(const struct dm_devices *all, const struct made *made, const char *name,
		       const char *suffix, unsigned int n)
{
	char *own = part_name(name, suffix, n);

	while (is_taken(all, made, own)) {
		free(own);
		own = part_name(name, suffix, ++n);
	}
	return own;
}

/* The device of a parent, or of its data file: one that is open already, or a new one. Or that of
 * an image's own data file. */
static int make_part(const struct dm_devices *all, const struct image *img, char *own,
		     enum mapping_role role, struct made *made, dev_t *dev)
{
	const struct dm_device *open = role == ROLE_BASE ? mapping_find_base(all, img) : NULL;
	int code = DONE;

	if (open) {
		note("%s is open already as %s, which is shared", img->name, open->name);
		*dev = open->dev;
	} else {
		code = make(img, own, role, made, dev);
	}
	free(own);
	return code;
}

static void set_device(char **slot, dev_t dev)
{
	free(*slot);
	*slot = text("%u:%u", major(dev), minor(dev));
}

static int make_data(const struct dm_devices *all, struct image *img, const char *name,
		     unsigned int depth, struct made *made)
{
	char *owner = base_name(name, depth);
	char *own = free_name(all, made, owner, "data", 0);
	dev_t dev;
	int code = make_part(all, img->data, own, depth ? ROLE_BASE : ROLE_DATA, made, &dev);

	if (!code)
		set_device(&img->plan.data, dev);
	free(owner);
	return code;
}

/* Depth first: a device needs the numbers of those that it reads. */
static int make_chain(const struct dm_devices *all, struct image *img, const char *name,
		      unsigned int depth, struct made *made, dev_t *dev)
{
	int code = DONE;
	dev_t parent;

	if (img->data && img->plan.format)
		code = make_data(all, img, name, depth, made);
	if (!code && img->parent && img->plan.format) {
		code = make_chain(all, img->parent, name, depth + 1, made, &parent);
		if (!code)
			set_device(&img->plan.parent, parent);
	}
	if (code)
		return code;
	if (!depth)
		return make(img, name, made->role, made, dev);
	return make_part(all, img, free_name(all, made, name, "base", depth), ROLE_BASE, made, dev);
}

int bases_create(struct image *img, const char *name, enum mapping_role role)
{
	struct dm_devices all = { 0 };
	struct made made = { .role = role };
	int code = img->parent || img->data ? dm_read_all(&all) : DONE;
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

/* A device goes, and with it those parts that nobody else uses. One of the users that were counted
 * has just gone. A part that is told to wait goes with the last of the images that share it. */
static int remove_tree(const struct dm_devices *all, const struct dm_device *d, bool in_use)
{
	struct dm_parts parts = dm_parts_of(d);
	const dev_t devs[] = { parts.data, parts.parent };
	int code = dm_remove(d->name, in_use);

	for (size_t i = 0; i < ARRAY_SIZE(devs) && !code; i++) {
		const struct dm_device *part = devs[i] ? dm_find(all, devs[i]) : NULL;

		if (part && dm_is_part(part) && (in_use || part->open_count <= 1))
			code = remove_tree(all, part, in_use);
	}
	return code;
}

int bases_remove(const struct dm_device *d, bool deferred)
{
	struct dm_devices all;
	int code = dm_read_all(&all);

	if (!code)
		code = remove_tree(&all, d, deferred && d->open_count > 0);
	dm_devices_free(&all);
	return code;
}
