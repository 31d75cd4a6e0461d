// SPDX-License-Identifier: GPL-2.0-or-later
/* close, list and status: what is done with open mappings. */
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "bases.h"
#include "mapping.h"
#include "overlay.h"
#include "parts.h"
#include "utf8.h"
#include "verb.h"

json_t *json_text(const char *s)
{
	json_t *j = s ? json_string(s) : json_null();
	char *mended;

	if (j)
		return j;
	mended = text_copy(s);
	utf8_mend(mended);
	j = json_string(mended);
	free(mended);
	return j;
}

json_t *json_must(json_t *j)
{
	if (!j)
		exit(fail(SYSTEM, "cannot build the JSON: no memory"));
	return j;
}

/* jansson escapes the controls of ASCII. What else acts on a terminal can only be in a string; a
 * piece of the output is whole characters. */
static int put_piece(const char *piece, size_t size, void *ctx)
{
	char *copy;
	size_t len = 0;
	uint32_t c;

	(void)ctx;
	while (len < size && !(piece[len] & 0x80) && piece[len] != 0x7f)
		len++;
	if (fwrite(piece, 1, len, stdout) < len)
		return -1;
	copy = text("%.*s", (int)(size - len), piece + len);
	for (const char *p = copy; *p; p += len) {
		len = utf8_next(p, &c);
		if (c >= 0x7f && utf8_acts(c))
			printf("\\u%04x", c);
		else
			fwrite(p, 1, len, stdout);
	}
	free(copy);
	return ferror(stdout) ? -1 : 0;
}

int json_put(json_t *j, size_t flags)
{
	return json_dump_callback(j, put_piece, NULL, flags);
}

int print_json(json_t *j)
{
	int ret;

	json_must(j);
	ret = json_put(j, JSON_INDENT(2));
	json_decref(j);
	putchar('\n');
	return ret ? fail(SYSTEM, "cannot print JSON") : finish_stdout();
}

struct removal {
	const struct dm_device *device;
	const struct dm_devices *all;
	bool deferred;
};

/* The partitions and what is below them, or nothing. */
static int remove_device(void *ctx)
{
	const struct removal *r = ctx;
	struct dm_device bare;
	int code = parts_remove(r->device, r->all, r->deferred);

	if (!code)
		code = dm_read(r->device->name, &bare); /* the partitions do not use it any more */
	if (code)
		return code == NOT_FOUND ? DONE : code;
	code = bases_remove(&bare, r->deferred);
	if (code)
		parts_restore(r->device, r->all);
	dm_device_free(&bare);
	return code;
}

static int close_device(const struct dm_device *d, const struct dm_devices *all, bool deferred)
{
	char *users = deferred || d->open_count < 1 ? NULL : parts_users(d, all);
	int code;

	if (users)
		code = fail(BUSY, "%s is in use: %s (--deferred closes it when that ends)", d->name,
			    users);
	else
		code = mapping_change(remove_device, &(struct removal){ d, all, deferred });
	free(users);
	return code;
}

static int close_one(const char *name, bool deferred)
{
	struct dm_devices all;
	struct dm_device d;
	struct mapping m;
	int code = mapping_read(name, &d, &m);

	if (code)
		return code;
	code = dm_read_all(&all);
	if (!code) {
		code = close_device(&d, &all, deferred);
		dm_devices_free(&all);
	}
	if (!code && m.fenced)
		code = mapping_sweep();
	mapping_free(&m);
	dm_device_free(&d);
	return code;
}

int verb_close(int argc, char **argv, const struct options *opt)
{
	int first = dm_need();

	if (!first)
		first = mapping_lock();
	if (first)
		return first;
	for (int i = 0; i < argc; i++) {
		int code = close_one(argv[i], opt->deferred);

		if (!first)
			first = code;
	}
	return first;
}

/* What the target vdisk says of itself: "rw 12/64 40960 …", DESIGN.md section 4. */
struct state {
	char mode[16];
	char allocated[24], total[24], room[24]; /* "-" where it is not known */
};

static struct state read_state(const struct dm_device *d)
{
	char *params = dm_is_vdisk(d) ? dm_state(d->name) : NULL;
	struct state s = { 0 };

	if (params && sscanf(params, "%15s %23[0-9-]/%23[0-9-] %23s", s.mode, s.allocated, s.total,
			     s.room) != 4)
		s = (struct state){ 0 };
	free(params);
	return s;
}

static json_t *number_json(const char *number, int unit)
{
	return *number >= '0' && *number <= '9' ? json_integer(strtoll(number, NULL, 10) * unit)
						: json_null();
}

/* The target learns it at the first write that needs room; until then the file tells. */
static json_t *room_json(const struct dm_device *d, const struct mapping *m, const struct state *s)
{
	struct vdisk_usage usage;
	struct image img;
	bool known = false;

	if (d->readonly)
		return json_null();
	if (*s->room != '-')
		return number_json(s->room, 512);
	msg_hush(true);
	if (!mapping_open_image(m, &img)) {
		known = !image_probe(&img, m->format, NULL) && !vdisk_usage(img.vd, &usage);
		image_close(&img);
	}
	msg_hush(false);
	return known ? json_integer((json_int_t)usage.room) : json_null();
}

/* Good where there is none. */
static struct overlay_usage read_usage(const struct dm_device *d)
{
	struct overlay_usage u = { .mode = OVERLAY_GOOD };

	if (dm_is_overlay(d))
		overlay_usage(d, &u);
	return u;
}

static json_t *overlay_room(const struct overlay_usage *u)
{
	if (u->mode == OVERLAY_FULL)
		return json_integer(0);
	return u->mode == OVERLAY_GOOD ? json_integer((json_int_t)(u->total - u->used) * 512)
				       : json_null();
}

/* The SOURCE of the store, for people. */
static char *store_source(const char *device, const struct dm_devices *all)
{
	const struct dm_device *cow;
	struct mapping m;
	char *source = NULL;
	dev_t dev;

	if (!dm_parse_device(device, &dev))
		return NULL;
	cow = dm_find(all, dev);
	if (cow && mapping_of(cow, &m)) {
		source = mapping_source(&m);
		mapping_free(&m);
	}
	return source;
}

static json_t *overlay_json(const struct dm_device *d, const struct dm_devices *all,
			    const struct plan *plan, const struct overlay_usage *u)
{
	static const char *const words[] = { "good", "full", "invalid", "stuck", "unknown" };
	bool known = u->mode == OVERLAY_GOOD;
	char *source;
	json_t *j;

	if (!dm_is_overlay(d))
		return json_null();
	source = store_source(plan->cow, all);
	j = json_must(json_pack("{s:o, s:s, s:b, s:o, s:o}", "store", json_text(source), "state",
				words[u->mode], "merging", u->merging, "used",
				known ? json_integer((json_int_t)u->used * 512) : json_null(),
				"size",
				known ? json_integer((json_int_t)u->total * 512) : json_null()));
	free(source);
	return j;
}

static const char *mode_of(const struct dm_device *d, const struct state *s,
			   const struct overlay_usage *u)
{
	if (!d->live)
		return "half";
	if (dm_is_fenced(d) || u->mode == OVERLAY_INVALID)
		return "fail";
	if (u->mode == OVERLAY_FULL)
		return "out_of_space";
	if (u->merging)
		return "merging"; /* what is written may go into the image */
	if (*s->mode && strcmp(s->mode, "-") && (!d->readonly || strcmp(s->mode, "rw")))
		return s->mode;
	return d->readonly ? "ro" : "rw";
}

static json_t *part_json(const struct partition *p)
{
	char *users = dm_users(p->device);
	json_t *j = json_must(json_pack(
		"{s:i, s:s, s:I, s:I, s:i, s:o}", "number", (int)p->number, "name", p->device->name,
		"start", (json_int_t)p->start * 512, "size", (json_int_t)p->count * 512, "users",
		p->device->open_count, "used_by", json_text(users)));

	free(users);
	return j;
}

/* *users: of the disk and its partitions, which are no users of their disk. */
static json_t *parts_json(const struct dm_device *d, const struct dm_devices *all, int *users)
{
	json_t *list = json_must(json_array());
	struct partitions parts;

	parts_over(d, all, &parts);
	*users = d->open_count;
	for (size_t i = 0; i < parts.n; i++) {
		const struct partition *p = &parts.v[i];

		*users += p->device->open_count - (p->count ? 1 : 0);
		json_array_append_new(list, part_json(p));
	}
	free(parts.v);
	return list;
}

/* What list and status tell about one mapping. */
static json_t *describe(const struct dm_device *d, const struct dm_devices *all,
			const struct mapping *m)
{
	struct state state = read_state(d);
	struct overlay_usage u = read_usage(d);
	char *source = mapping_source(m);
	char *users = parts_users(d, all);
	int n_users;
	json_t *parts = parts_json(d, all, &n_users);
	struct plan plan = { 0 };
	bool ours = dm_plan_of(d, &plan);
	json_t *j = json_must(json_pack(
		"{s:s, s:o, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:i, s:o, s:s, s:i, s:o, s:s?, s:b}",
		"name", d->name, "source", json_text(source), "kind",
		m->base			  ? "base"
		: m->data		  ? "data"
		: m->origin		  ? "origin"
		: m->cow		  ? "cow"
		: m->kind == MAPPING_HOST ? "host"
					  : "image",
		"format", m->format, "mode", mode_of(d, &state, &u), "size",
		(json_int_t)d->sectors * 512, "room",
		dm_is_overlay(d) ? overlay_room(&u) : room_json(d, m, &state), "allocated",
		number_json(state.allocated, 1), "total", number_json(state.total, 1), "users",
		n_users, "used_by", json_text(users), "uuid", d->uuid, "extents",
		(int)(ours && !plan.origin ? plan.lines.n : d->n), "table_device",
		json_text(m->device), "parent", plan.parent, "suspended", d->suspended));

	json_object_set_new(j, "partitions", parts);
	json_object_set_new(j, "overlay", overlay_json(d, all, &plan, &u));
	json_object_set_new(j, "data", json_text(plan.data));
	json_object_set_new(j, "snapshot", json_text(plan.snapshot));
	plan_free(&plan);
	free(source);
	free(users);
	return j;
}

static const char *str(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? shown(s) : "-";
}

static size_t column(json_t *list, const char *key, size_t width)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		size_t len = strlen(str(json_array_get(list, i), key));

		if (len > width)
			width = len;
	}
	return width;
}

/* "1.5 GiB", or "-" where it is not known. */
static const char *size_text(json_t *j, const char *key)
{
	json_t *size = json_object_get(j, key);

	return json_is_integer(size) ? human_size((unsigned long long)json_integer_value(size))
				     : "-";
}

/* What list says of devices that are there for others. */
static const char *part_text(const char *kind)
{
	if (!strcmp(kind, "base"))
		return "parent, ";
	if (!strcmp(kind, "origin"))
		return "below an overlay, ";
	if (!strcmp(kind, "cow"))
		return "store of an overlay, ";
	return strcmp(kind, "data") ? "" : "data file, ";
}

static void print_list(json_t *list)
{
	int name = (int)column(list, "name", 4), source = (int)column(list, "source", 6);
	int mode = (int)column(list, "mode", 4);

	if (json_array_size(list))
		printf("%-*s  %-*s  %-6s  %-*s  %10s  %8s  %5s\n", name, "NAME", source, "SOURCE",
		       "FORMAT", mode, "MODE", "SIZE", "ROOM", "USERS");
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *j = json_array_get(list, i);
		const char *what = part_text(str(j, "kind"));

		printf("%-*s  %-*s  %-6s  %-*s  %10s  %8s  %5lld%s%s%s\n", name, str(j, "name"),
		       source, str(j, "source"), str(j, "format"), mode, str(j, "mode"),
		       size_text(j, "size"), size_text(j, "room"),
		       (long long)json_integer_value(json_object_get(j, "users")),
		       *what ? "  " : "", what, *what ? str(j, "used_by") : "");
	}
}

int verb_list(int argc, char **argv, const struct options *opt)
{
	json_t *list = json_array();
	struct dm_devices all;
	struct mapping m;
	int code = dm_present() ? dm_need() : DONE;

	(void)argc, (void)argv;
	if (!code)
		code = dm_read_all(&all);
	if (code) {
		json_decref(list);
		return code;
	}
	for (size_t i = 0; i < all.n; i++) {
		if (!mapping_of(&all.v[i], &m))
			continue;
		json_array_append_new(list, describe(&all.v[i], &all, &m));
		mapping_free(&m);
	}
	dm_devices_free(&all);
	if (opt->json)
		return print_json(list);
	print_list(list);
	json_decref(list);
	return finish_stdout();
}

static void print_parts(json_t *parts)
{
	for (size_t i = 0; i < json_array_size(parts); i++) {
		json_t *p = json_array_get(parts, i);

		printf("part %-4lld /dev/mapper/%s, %s at byte %lld\n",
		       (long long)json_integer_value(json_object_get(p, "number")), str(p, "name"),
		       size_text(p, "size"),
		       (long long)json_integer_value(json_object_get(p, "start")));
	}
}

static void print_overlay(json_t *j)
{
	if (!json_is_object(j))
		return;
	printf("overlay:  %s, %s", str(j, "store"), str(j, "state"));
	if (json_is_integer(json_object_get(j, "used")))
		printf(", %s", size_text(j, "used"));
	if (json_is_integer(json_object_get(j, "size")))
		printf(" of %s used", size_text(j, "size"));
	puts(json_is_true(json_object_get(j, "merging")) ? ", being merged" : "");
}

static void print_status(const struct dm_device *d, const struct mapping *m, json_t *j)
{
	int users = (int)json_integer_value(json_object_get(j, "users"));

	printf("name:     %s%s\nsource:   %s\nformat:   %s\nmode:     %s%s\n", shown(d->name),
	       m->base	   ? " (the parent of other images)"
	       : m->data   ? " (the data file of another)"
	       : m->origin ? " (below an overlay)"
	       : m->cow	   ? " (the store of an overlay)"
			   : "",
	       str(j, "source"), m->format, str(j, "mode"), d->suspended ? " (suspended)" : "");
	printf("size:     %llu (%s)\nroom:     %s\nextents:  %lld\n",
	       (unsigned long long)d->sectors * 512, human_size(d->sectors * 512),
	       size_text(j, "room"), (long long)json_integer_value(json_object_get(j, "extents")));
	printf("device:   %u:%u on %u:%u\n", major(d->dev), minor(d->dev), major(m->table_dev),
	       minor(m->table_dev));
	print_overlay(json_object_get(j, "overlay"));
	if (json_is_string(json_object_get(j, "parent")))
		printf("parent:   %s\n", str(j, "parent"));
	if (json_is_string(json_object_get(j, "data")))
		printf("data:     %s\n", str(j, "data"));
	if (json_is_string(json_object_get(j, "snapshot")))
		printf("snapshot: %s\n", str(j, "snapshot"));
	print_parts(json_object_get(j, "partitions"));
	printf("users:    %d%s%s\nuuid:     %s\n", users, users ? ", " : "",
	       users ? str(j, "used_by") : "", shown(d->uuid));
}

int verb_status(int argc, char **argv, const struct options *opt)
{
	struct dm_devices all;
	struct dm_device d;
	struct mapping m;
	json_t *j;
	int code = mapping_read(argv[0], &d, &m);

	(void)argc;
	if (code)
		return code;
	code = dm_read_all(&all);
	if (!code) {
		j = describe(&d, &all, &m);
		dm_devices_free(&all);
		if (opt->json) {
			code = print_json(json_incref(j));
		} else {
			print_status(&d, &m, j);
			code = finish_stdout();
		}
		json_decref(j);
	}
	mapping_free(&m);
	dm_device_free(&d);
	return code;
}
