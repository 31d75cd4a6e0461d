// SPDX-License-Identifier: GPL-2.0-or-later
/* What the lines of a live table say. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "blk.h"
#include "dm.h"
#include "msg.h"

bool dm_parse_device(const char *word, dev_t *dev)
{
	unsigned int maj, min;
	int n = 0;

	if (sscanf(word, "%u:%u%n", &maj, &min, &n) != 2 || word[n])
		return blk_dev_of(word, dev);
	*dev = makedev(maj, min);
	return true;
}

bool dm_linear_line(const struct dm_line *line, dev_t *dev, uint64_t *offset)
{
	unsigned int maj, min;

	if (!strcmp(line->type, "linear")) {
		if (sscanf(line->params, "%u:%u %" SCNu64, &maj, &min, offset) != 3)
			return false;
	} else if (strcmp(line->type, "striped") ||
		   sscanf(line->params, "1 %*u %u:%u %" SCNu64, &maj, &min, offset) != 3) {
		return false;
	}
	*dev = makedev(maj, min);
	return true;
}

static char *device_number(const char *word)
{
	dev_t dev;

	if (!word || !dm_parse_device(word, &dev))
		return NULL;
	return text("%u:%u", major(dev), minor(dev));
}

/* The word of a feature that names a device; twice is once too often. */
static bool next_device(char **rest, char **device)
{
	if (*device)
		return false;
	*device = device_number(strsep(rest, " "));
	return *device;
}

static bool next_number(char **rest, uint64_t *value)
{
	char *word = strsep(rest, " "), *end;

	if (!word || *word < '0' || *word > '9')
		return false;
	*value = strtoull(word, &end, 10);
	return !*end;
}

/* The features that say what is mapped; others are about how. */
static bool take_features(char **rest, struct plan *plan)
{
	uint64_t n;

	if (!next_number(rest, &n))
		return false;
	while (n--) {
		const char *word = strsep(rest, " ");

		if (!word)
			return false;
		if (!strcmp(word, "read_only"))
			plan->readonly = true;
		if (!strcmp(word, "file_bytes")) {
			if (!n-- || !next_number(rest, &plan->file_bytes))
				return false;
		} else if (!strcmp(word, "parent")) {
			if (!n-- || !next_device(rest, &plan->parent))
				return false;
		} else if (!strcmp(word, "data")) {
			if (!n-- || !next_device(rest, &plan->data))
				return false;
		} else if (!strcmp(word, "snapshot")) {
			word = strsep(rest, " ");
			if (!n-- || plan->snapshot || !word)
				return false;
			plan->snapshot = text_copy(word);
		}
	}
	return true;
}

static bool take_devices(char **rest, struct plan *plan)
{
	uint64_t n;

	if (!next_number(rest, &n) || n > PLAN_DEVICES)
		return false;
	while (plan->n_devices < n) {
		char *device = device_number(strsep(rest, " "));

		if (!device)
			return false;
		plan->devices[plan->n_devices++] = device;
	}
	return true;
}

static bool take_extents(char **rest, struct plan *plan)
{
	uint64_t n;

	if (!next_number(rest, &n))
		return false;
	while (n--) {
		const char *word = strsep(rest, " ");
		uint64_t sector, count;
		unsigned int device;

		if (!word ||
		    sscanf(word, "%u:%" SCNu64 "+%" SCNu64, &device, &sector, &count) != 3 ||
		    device >= plan->n_devices || sector != plan_sector_of(sector) ||
		    vdisk_extents_add(&plan->lines, plan_place(device, sector), count))
			return false;
	}
	return true;
}

bool dm_vdisk_line(const struct dm_line *line, struct plan *plan)
{
	char *copy, *rest;
	bool ok;

	*plan = (struct plan){ .sectors = line->count };
	if (strcmp(line->type, "vdisk"))
		return false;
	rest = copy = text_copy(line->params);
	plan->format = text_copy(strsep(&rest, " "));
	ok = take_features(&rest, plan) && take_devices(&rest, plan) && take_extents(&rest, plan);
	if (ok && !plan->file_bytes)
		plan->file_bytes = plan->lines.sectors * VDISK_SECTOR;
	if (!ok)
		plan_free(plan);
	free(copy);
	return ok;
}

static bool add_line(struct plan *plan, const struct dm_line *line)
{
	uint64_t offset;
	char *name;
	dev_t dev;
	int ret;

	if (line->start != plan->lines.sectors)
		return false;
	if (!strcmp(line->type, "zero"))
		return !plan_add(plan, NULL, 0, line->count);
	if (!dm_linear_line(line, &dev, &offset))
		return false;
	name = text("%u:%u", major(dev), minor(dev));
	ret = plan_add(plan, name, offset, line->count);
	free(name);
	return !ret;
}

bool dm_is_vdisk(const struct dm_device *d)
{
	return d->n == 1 && !strcmp(d->lines[0].type, "vdisk");
}

/* "ORIGIN COW PO 64", and features behind it. */
static bool snapshot_line(const struct dm_line *line, struct plan *plan)
{
	bool merging = !strcmp(line->type, "snapshot-merge");
	char *copy, *rest;

	*plan = (struct plan){ .sectors = line->count, .merging = merging };
	if (!merging && strcmp(line->type, "snapshot"))
		return false;
	rest = copy = text_copy(line->params);
	plan->origin = device_number(strsep(&rest, " "));
	plan->cow = device_number(strsep(&rest, " "));
	free(copy);
	if (plan->origin && plan->cow)
		return true;
	plan_free(plan);
	return false;
}

bool dm_is_overlay(const struct dm_device *d)
{
	return d->n == 1 && !strncmp(d->uuid, DM_OURS, strlen(DM_OURS)) &&
	       (!strcmp(d->lines[0].type, "snapshot") ||
		!strcmp(d->lines[0].type, "snapshot-merge"));
}

bool dm_is_fenced(const struct dm_device *d)
{
	return d->n == 1 && !strcmp(d->lines[0].type, "error");
}

bool dm_plan_of(const struct dm_device *d, struct plan *plan)
{
	bool ok = true;

	if (d->n == 1 && (dm_vdisk_line(&d->lines[0], plan) || snapshot_line(&d->lines[0], plan))) {
		plan->readonly = d->readonly;
		return true;
	}
	*plan = (struct plan){ .readonly = d->readonly };
	for (size_t i = 0; i < d->n && ok; i++)
		ok = add_line(plan, &d->lines[i]);
	if (!ok)
		plan_free(plan);
	return ok;
}

static dev_t number_of(const char *device)
{
	dev_t dev;

	return device && dm_parse_device(device, &dev) ? dev : 0;
}

struct dm_parts dm_parts_of(const struct dm_device *d)
{
	struct dm_parts parts = { 0 };
	struct plan plan;

	if (!dm_plan_of(d, &plan))
		return parts;
	parts.parent = number_of(plan.origin ? plan.origin : plan.parent);
	parts.data = number_of(plan.cow ? plan.cow : plan.data);
	plan_free(&plan);
	return parts;
}

/* The words MAJOR:MINOR of a line, whatever its target: numbers with a colon mean nothing else in
 * any of them but the extents of vdisk, which have a '+' behind. */
static bool next_below(const char **rest, dev_t *dev)
{
	unsigned int maj, min;
	char word[24]; /* sscanf() takes the length of what it is given, and a line has MiB */
	int n;

	while (**rest) {
		size_t len = strcspn(*rest, " ");
		bool is = len < sizeof(word);

		if (is) {
			memcpy(word, *rest, len);
			word[len] = '\0';
			is = sscanf(word, "%u:%u%n", &maj, &min, &n) == 2 && !word[n];
		}
		*rest += len + strspn(*rest + len, " ");
		if (is) {
			*dev = makedev(maj, min);
			return true;
		}
	}
	return false;
}

bool dm_any_below(const struct dm_devices *all, const struct dm_device *d,
		  bool (*is)(dev_t dev, void *ctx), void *ctx)
{
	dev_t dev, last = 0; /* neighbouring lines are mostly on the same */

	for (size_t i = 0; i < d->n; i++) {
		const char *rest = d->lines[i].params;

		while (next_below(&rest, &dev)) {
			const struct dm_device *below = dev == last ? NULL : dm_find(all, dev);

			if (dev != last && is(dev, ctx))
				return true;
			if (below && dm_any_below(all, below, is, ctx))
				return true;
			last = dev;
		}
	}
	return false;
}
