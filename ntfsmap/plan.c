// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "msg.h"
#include "plan.h"

#define STRIPE_MAX 2048 /* sectors; GRUB looks at the first line only */

static bool has_one_line(const struct plan *plan)
{
	return plan->format || plan->origin || plan->error;
}

uint64_t plan_sectors(const struct plan *plan)
{
	return has_one_line(plan) ? plan->sectors : plan->lines.sectors;
}

static int find_device(struct plan *plan, const char *device, size_t *index)
{
	for (*index = 0; *index < plan->n_devices; (*index)++)
		if (!strcmp(plan->devices[*index], device))
			return 0;
	if (plan->n_devices == PLAN_DEVICES)
		return -E2BIG;
	plan->devices[plan->n_devices++] = text_copy(device);
	return 0;
}

int plan_add(struct plan *plan, const char *device, uint64_t sector, uint64_t count)
{
	size_t index;
	int ret;

	if (!device)
		return vdisk_extents_add(&plan->lines, VDISK_HOLE, count);
	if (sector != plan_sector_of(sector))
		return -EOVERFLOW;
	ret = find_device(plan, device, &index);
	return ret ? ret : vdisk_extents_add(&plan->lines, plan_place(index, sector), count);
}

const struct vdisk_extent *plan_misaligned(const struct plan *plan, uint32_t block)
{
	uint64_t sectors = block / VDISK_SECTOR;

	/* the lines follow each other from 0, so whole lengths make whole offsets on the disk */
	for (size_t i = 0; i < plan->lines.n; i++) {
		const struct vdisk_extent *line = &plan->lines.v[i];

		if (line->count % sectors ||
		    (line->device != VDISK_HOLE && plan_sector_of(line->device) % sectors))
			return line;
	}
	return NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

bool plan_same(const struct plan *a, const struct plan *b)
{
	return same_text(a->format, b->format) && same_text(a->parent, b->parent) &&
	       same_text(a->data, b->data) && same_text(a->snapshot, b->snapshot) &&
	       same_text(a->origin, b->origin) && same_text(a->cow, b->cow) &&
	       a->sectors == b->sectors && a->file_bytes == b->file_bytes &&
	       a->lines.n == b->lines.n &&
	       (!a->lines.n || !memcmp(a->lines.v, b->lines.v, a->lines.n * sizeof(*a->lines.v)));
}

/*
 * The length of the stripe at the start of the disk; 0: there is none. A stripe is whole chunks,
 * and I/O is cut where a chunk ends: so it is short. Chunks are small, as programs align what they
 * make to them.
 */
static uint64_t stripe_sectors(const struct plan *plan)
{
	const struct vdisk_extent *first = plan->lines.v;

	if (!plan->stripe || plan->format || !plan->lines.n || first->device == VDISK_HOLE)
		return 0;
	if (first->count <= plan->stripe)
		return first->count;
	if (first->count > STRIPE_MAX)
		return STRIPE_MAX;
	return first->count - first->count % plan->stripe;
}

size_t plan_targets(const struct plan *plan)
{
	uint64_t stripe = stripe_sectors(plan);

	if (has_one_line(plan))
		return 1;
	return plan->lines.n + (stripe && stripe < plan->lines.v[0].count);
}

static bool gives_file_bytes(const struct plan *plan)
{
	return plan->file_bytes != plan->lines.sectors * VDISK_SECTOR;
}

static size_t feature_words(const struct plan *plan)
{
	return (plan->readonly ? 1 : 0) + (gives_file_bytes(plan) ? 2 : 0) +
	       (plan->parent ? 2 : 0) + (plan->data ? 2 : 0) + (plan->snapshot ? 2 : 0);
}

size_t plan_words(const struct plan *plan)
{
	if (!plan->format)
		return stripe_sectors(plan) ? 4 : 2;
	return 4 + feature_words(plan) + plan->n_devices + plan->lines.n;
}

/* The arguments of the target vdisk, as DESIGN.md section 4 has them. */
static char *vdisk_params(const struct plan *plan)
{
	char *buf = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&buf, &len);
	bool good = f;

	if (f) {
		fprintf(f, "%s %zu", plan->format, feature_words(plan));
		if (plan->readonly)
			fputs(" read_only", f);
		if (gives_file_bytes(plan))
			fprintf(f, " file_bytes %" PRIu64, plan->file_bytes);
		if (plan->parent)
			fprintf(f, " parent %s", plan->parent);
		if (plan->data)
			fprintf(f, " data %s", plan->data);
		if (plan->snapshot)
			fprintf(f, " snapshot %s", plan->snapshot);
		fprintf(f, " %zu", plan->n_devices);
		for (size_t i = 0; i < plan->n_devices; i++)
			fprintf(f, " %s", plan->devices[i]);
		fprintf(f, " %zu", plan->lines.n);
		for (size_t i = 0; i < plan->lines.n; i++)
			fprintf(f, " %zu:%" PRIu64 "+%" PRIu64,
				plan_device_of(plan->lines.v[i].device),
				plan_sector_of(plan->lines.v[i].device),
				(uint64_t)plan->lines.v[i].count);
		good = !ferror(f);
		good = !fclose(f) && good;
	}
	if (!good)
		out_of_memory();
	return buf;
}

/* Overflow supported: when the store is full, writes fail and all can be read. Else the target
 * gives up the whole store. */
static char *snapshot_params(const struct plan *plan)
{
	return text("%s %s PO %d", plan->origin, plan->cow, PLAN_CHUNK);
}

static void one_target(const struct plan *plan, struct plan_target *t)
{
	*t = (struct plan_target){ .count = plan->sectors };
	if (plan->format) {
		t->type = "vdisk";
		t->params = vdisk_params(plan);
	} else if (plan->error) {
		t->type = "error";
		t->params = text_copy("");
	} else {
		t->type = plan->merging ? "snapshot-merge" : "snapshot";
		t->params = snapshot_params(plan);
	}
}

/* The part of a line that begins skip sectors after its start. */
static void stock_target(const struct plan *plan, const struct vdisk_extent *line, uint64_t skip,
			 struct plan_target *t)
{
	*t = (struct plan_target){ .start = line->file + skip, .count = line->count - skip };
	if (line->device == VDISK_HOLE) {
		t->type = "zero";
		t->params = text_copy("");
	} else {
		t->type = "linear";
		t->params = text("%s %" PRIu64, plan->devices[plan_device_of(line->device)],
				 plan_sector_of(line->device) + skip);
	}
}

static void stripe_target(const struct plan *plan, uint64_t stripe, struct plan_target *t)
{
	const struct vdisk_extent *first = plan->lines.v;
	uint64_t chunk = stripe < plan->stripe ? stripe : plan->stripe;

	*t = (struct plan_target){ .count = stripe, .type = "striped" };
	t->params =
		text("1 %" PRIu64 " %s %" PRIu64, chunk,
		     plan->devices[plan_device_of(first->device)], plan_sector_of(first->device));
}

void plan_target(const struct plan *plan, size_t i, struct plan_target *t)
{
	uint64_t stripe = stripe_sectors(plan);
	size_t extra;

	if (has_one_line(plan)) {
		one_target(plan, t);
		return;
	}
	extra = plan_targets(plan) - plan->lines.n;
	if (!stripe || i > extra)
		stock_target(plan, &plan->lines.v[i - extra], 0, t);
	else if (!i)
		stripe_target(plan, stripe, t);
	else
		stock_target(plan, plan->lines.v, stripe, t);
}

static void print_params(const char *params, FILE *f, bool concise)
{
	for (const char *p = params; *p; p++) {
		if (concise && strchr("\\,;", *p))
			fputc('\\', f);
		fputc(*p, f);
	}
}

bool plan_print(const struct plan *plan, FILE *f, bool concise)
{
	const char *separator = concise ? "," : "\n";

	for (size_t i = 0; i < plan_targets(plan); i++) {
		struct plan_target t;

		plan_target(plan, i, &t);
		fprintf(f, "%s%" PRIu64 " %" PRIu64 " %s%s", i ? separator : "", t.start, t.count,
			t.type, *t.params ? " " : "");
		print_params(t.params, f, concise);
		free(t.params);
	}
	return !ferror(f);
}

void plan_free(struct plan *plan)
{
	vdisk_extents_free(&plan->lines);
	for (size_t i = 0; i < plan->n_devices; i++)
		free(plan->devices[i]);
	free(plan->format);
	free(plan->parent);
	free(plan->data);
	free(plan->snapshot);
	free(plan->origin);
	free(plan->cow);
	*plan = (struct plan){ 0 };
}
