// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any text as the lines of a live table: what is taken as one of ours makes a table that says the
 * same, and each sector of it is found where a walk finds it. A line is "START COUNT TYPE PARAMS",
 * as dmsetup shows it.
 */
#include "../../ntfsmap/dm.h"
#include "../../ntfsmap/msg.h"
#include "fuzz.h"

#define MOST 64 /* lines */

struct table {
	char *bytes;
	struct dm_line lines[MOST];
	size_t n;
};

static bool next_word(char **rest, uint64_t *value)
{
	char *word = strsep(rest, " "), *end;

	if (!word)
		return false;
	*value = strtoull(word, &end, 10);
	return end != word && !*end;
}

static void parse(const char *bytes, size_t size, struct table *t)
{
	char *rest = t->bytes = must(size + 1), *line;

	memcpy(t->bytes, bytes, size);
	t->n = 0;
	while (t->n < MOST && (line = strsep(&rest, "\n"))) {
		struct dm_line *l = &t->lines[t->n];

		if (!next_word(&line, &l->start) || !next_word(&line, &l->count))
			continue;
		l->type = strsep(&line, " ");
		if (!l->type)
			continue;
		l->params = line ? line : l->type + strlen(l->type);
		t->n++;
	}
}

static struct dm_device device_of(struct table *t)
{
	return (struct dm_device){
		.name = (char *)"fuzz", .uuid = (char *)DM_OURS "1", .lines = t->lines, .n = t->n
	};
}

static void look_at_piece(const struct vdisk_extents *x, u64 sector, const struct vdisk_extent *e)
{
	const struct vdisk_extent *found_one = vdisk_extents_find(x, sector);
	struct vdisk_extent piece;

	expect(found_one == e, "sector %" PRIu64 " is found elsewhere", sector);
	expect(vdisk_extents_at(x, sector, &piece) && piece.count == e->file + e->count - sector &&
		       (e->device == VDISK_HOLE || piece.device == e->device + sector - e->file),
	       "the piece at sector %" PRIu64 " is another", sector);
}

static void look_at_extents(struct vdisk_extents *x)
{
	u64 next = 0;

	for (int indexed = 0; indexed < 2; indexed++, next = 0) {
		for (size_t i = 0; i < x->n; i++) {
			const struct vdisk_extent *e = &x->v[i];

			expect(e->count && e->file == next, "extent %zu", i);
			next += e->count;
			look_at_piece(x, e->file, e);
			look_at_piece(x, e->file + e->count / 2, e);
			look_at_piece(x, e->file + e->count - 1, e);
		}
		expect(next == x->sectors, "%" PRIu64 " sectors of %" PRIu64, next, x->sectors);
		expect(!vdisk_extents_find(x, next), "there is something behind the end");
		if (!indexed && vdisk_extents_index(x))
			return;
	}
}

static bool is_below(dev_t dev, void *ctx)
{
	(void)dev, (void)ctx;
	return false;
}

/* There and back. */
static void look_at_plan(struct plan *plan)
{
	struct table t;
	struct dm_device d;
	struct plan again;
	char *bytes = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&bytes, &size);

	expect(f && plan_print(plan, f, false) && !fclose(f), "it cannot be printed");
	expect(plan_targets(plan) > MOST || !memchr(bytes, 0, size), "a NUL in a table");
	parse(bytes, size, &t);
	d = device_of(&t);
	if (plan_targets(plan) <= MOST) {
		expect(dm_plan_of(&d, &again), "not taken: %s", bytes);
		expect(plan_same(plan, &again), "another one: %s", bytes);
		plan_free(&again);
	}
	free(t.bytes);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dm_devices all = { 0 };
	struct table t;
	struct dm_device d;
	struct plan plan;
	dev_t dev;
	uint64_t offset;

	parse((const char *)data, size, &t);
	d = device_of(&t);
	for (size_t i = 0; i < t.n; i++)
		dm_linear_line(&t.lines[i], &dev, &offset);
	dm_any_below(&all, &d, is_below, NULL);
	dm_parts_of(&d);
	if (t.n && dm_plan_of(&d, &plan)) {
		expect(plan.format || plan.origin || plan_sectors(&plan) == plan.lines.sectors,
		       "the size of a plan");
		look_at_plan(&plan);
		look_at_extents(&plan.lines);
		plan_free(&plan);
	}
	free(t.bytes);
	return 0;
}
