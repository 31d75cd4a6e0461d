// SPDX-License-Identifier: GPL-2.0-or-later
/* verify: is an open mapping where the volume says that the file is, and may it be written? */
#include <stdlib.h>
#include <string.h>

#include "chain.h"
#include "layout.h"
#include "mapping.h"
#include "overlay.h"
#include "verb.h"

/* The first sector at which two tables differ; false when they do not. */
static bool first_difference(const struct plan *live, const struct plan *disk, uint64_t *sector)
{
	struct vdisk_extent a, b;

	for (*sector = 0;; *sector += a.count < b.count ? a.count : b.count) {
		bool in_live = vdisk_extents_at(&live->lines, *sector, &a);
		bool in_disk = vdisk_extents_at(&disk->lines, *sector, &b);

		if (!in_live && !in_disk)
			return false;
		if (!in_live || !in_disk || a.device != b.device)
			return true;
	}
}

static void describe_place(const struct plan *plan, uint64_t sector, char *buf, size_t size)
{
	struct vdisk_extent e;

	if (!vdisk_extents_at(&plan->lines, sector, &e))
		snprintf(buf, size, "ends there");
	else if (e.device == VDISK_HOLE)
		snprintf(buf, size, "reads zeros");
	else
		snprintf(buf, size, "uses sector %llu",
			 (unsigned long long)plan_sector_of(e.device));
}

static int compare_lines(const struct dm_device *d, const struct image *img,
			 const struct plan *live)
{
	const struct plan *disk = &img->plan;
	char a[64], b[64];
	uint64_t sector;
	bool grew;

	if (!first_difference(live, disk, &sector))
		return DONE;
	grew = sector == live->lines.sectors;
	describe_place(live, sector, a, sizeof(a));
	describe_place(disk, sector, b, sizeof(b));
	return fail(DAMAGED, "%s: at sector %llu%s the open mapping %s, but %s now %s: %s", d->name,
		    (unsigned long long)sector, live->format ? " of the file" : "", a, img->name, b,
		    grew ? "it only grew, `ntfsmap reload` follows"
			 : "what is written goes where the file no longer is, close it at once");
}

/* The table of an overlay's store begins behind the label. */
static int cut_label(struct image *store)
{
	struct plan rest;
	int code = overlay_rest(&store->plan, &rest);

	plan_free(&store->plan);
	store->plan = rest;
	return code;
}

static int compare(const struct dm_device *d, struct image *img)
{
	struct plan live;
	int code;

	if (!dm_plan_of(d, &live))
		return fail(DAMAGED, "%s: the live table has targets that ntfsmap does not make",
			    d->name);
	code = layout_plan(img, d->readonly, !live.format && layout_needs_vdisk(img));
	if (!code && dm_is_cow(d))
		code = cut_label(img);
	if (!code)
		code = compare_lines(d, img, &live);
	if (!code && live.format &&
	    (live.sectors != img->plan.sectors || live.file_bytes != img->plan.file_bytes))
		code = fail(DAMAGED,
			    "%s: the open mapping is a disk of %llu bytes in a file of %llu, but "
			    "%s now is one of %llu in %llu: `ntfsmap reload` follows",
			    d->name, (unsigned long long)live.sectors * 512,
			    (unsigned long long)live.file_bytes, img->name,
			    (unsigned long long)img->plan.sectors * 512,
			    (unsigned long long)img->plan.file_bytes);
	plan_free(&live);
	return code;
}

/* A copy of the child's volume has the same files in the same places: the tables do not differ. */
static int compare_volume(const struct dm_device *base, const struct image *img,
			  const struct image *child)
{
	struct mapping m;
	int code = DONE;

	if (!base || !img->file || !child->file || img->vol->serial != child->vol->serial ||
	    !mapping_of(base, &m))
		return DONE;
	if (!mapping_same_place(&m, child))
		code = fail(DAMAGED,
			    "%s: the parent is on %s, a copy of the volume on %s that %s is on: "
			    "unless --parent named it, close both at once",
			    base->name, m.device ? m.device : "?", child->where.path, child->name);
	mapping_free(&m);
	return code;
}

/* Windows can compress or encrypt a file where it lies: the same clusters, other bytes in them. */
static int check_contents(const struct image *img)
{
	const struct ntfs_file *f = img->file;

	if (f && f->runs != RUNS_GOOD)
		return fail(DAMAGED, "%s: %s", img->name,
			    f->runs_problem ? f->runs_problem : "it has no runs now");
	if (f && f->attr_flags & (ATTR_COMPRESSED | ATTR_ENCRYPTED))
		return fail(DAMAGED,
			    "%s is %s by NTFS now, so its clusters do not hold its bytes: close it "
			    "at once",
			    img->name, f->attr_flags & ATTR_ENCRYPTED ? "encrypted" : "compressed");
	return DONE;
}

/*
 * Where the file lies is what the MFT says; Windows may have work pending that changes that, or may
 * have made something of the file that must not be written. --allow lifts what was lifted when it
 * was opened.
 */
static int check_safety(const struct dm_device *d, const struct image *img,
			const struct request *asked)
{
	struct request req = *asked;
	struct facts facts = { 0 };
	int code = DONE;

	if (d->readonly || !img->file)
		return DONE;
	req.quick = true; /* a pass over the MFT takes too long while a wrong table is live */
	safety_look_file(img->file, &req, &facts);
	for (size_t i = 0; i < facts.n && !code; i++) {
		const struct fact *f = &facts.v[i];

		if (f->code && strcmp(f->name, "readonly")) /* whoever opened it, writes on */
			code = fail(f->code == REFUSED ? DAMAGED : f->code, "%s: %s%s%s", img->name,
				    f->text, f->allow ? "; if it was opened so: --allow=" : "",
				    f->allow ? f->allow : "");
	}
	facts_free(&facts);
	return code;
}

/* The device that the image's data file is behind, if it has one. */
static int compare_data(const struct dm_device *d, const struct dm_devices *all, struct image *data,
			const struct request *asked)
{
	const struct dm_device *device = chain_data_device(d, all);
	int code = check_contents(data);

	if (!code && device)
		code = compare(device, data);
	return code || !device ? code : check_safety(device, data, asked);
}

static int verify_chain(const struct dm_device *d, const struct dm_devices *all,
			const struct mapping *m, struct image *img, const struct request *asked)
{
	bool live = dm_is_vdisk(d);
	int code = check_contents(img);

	if (!code)
		code = image_probe(img, m->format, m->snapshot);
	if (!code)
		code = live ? chain_open_live(img, d, all)
			    : chain_open(img, &(struct chain_sources){ .readonly = true });
	for (size_t depth = 0; img && !code; depth++) {
		code = compare(chain_device(d, all, depth), img);
		if (!code)
			code = check_safety(chain_device(d, all, depth), img, asked);
		if (!code && live && img->data)
			code = compare_data(chain_device(d, all, depth), all, img->data, asked);
		if (!code && live && img->parent)
			code = compare_volume(chain_device(d, all, depth + 1), img->parent, img);
		img = live ? img->parent : NULL;
	}
	return code;
}

static int verify_image(const struct dm_device *d, const struct mapping *m,
			const struct request *asked)
{
	struct dm_devices all;
	struct image img;
	int code = mapping_refuse_frozen(m);

	if (!code)
		code = mapping_open_image(m, &img);
	if (code)
		return code;
	code = dm_read_all(&all);
	if (!code) {
		code = verify_chain(d, &all, m, &img, asked);
		dm_devices_free(&all);
	}
	image_close(&img);
	return code;
}

/* A view is of the volume that it was, and of all of it. */
static int verify_view(const struct dm_device *d, const struct mapping *m)
{
	struct volume *vol;
	int code;

	if (!m->device)
		return fail(m->fenced ? DAMAGED : NOT_FOUND, "%s: %s", d->name,
			    m->fenced ? "all I/O fails, as its table was replaced: close it"
				      : "the device below it is gone");
	code = volume_open(m->device, &vol);
	if (code)
		return code;
	if (vol->serial != m->file.serial || vol->device_bytes / 512 != d->sectors)
		code = fail(DAMAGED, "%s: %s holds another volume now, or has another size",
			    d->name, m->device);
	volume_close(vol);
	return code;
}

static int verify_mapping(const struct dm_device *d, const struct mapping *m,
			  const struct request *asked);

/* What is right with the image below it and with its store is right with an overlay. */
static int verify_overlay(const struct dm_device *d, const struct request *asked)
{
	struct dm_parts parts = dm_parts_of(d);
	const dev_t devs[] = { parts.parent, parts.data };
	struct dm_devices all;
	struct mapping m;
	int code = dm_read_all(&all);

	for (size_t i = 0; i < ARRAY_SIZE(devs) && !code; i++) {
		const struct dm_device *part = dm_find(&all, devs[i]);

		if (!part || !mapping_of(part, &m) || dm_is_overlay(part)) {
			code = fail(DAMAGED, "%s: a device below it is none of ours", d->name);
		} else {
			code = verify_mapping(part, &m, asked);
			mapping_free(&m);
		}
	}
	dm_devices_free(&all);
	return code;
}

static int verify_mapping(const struct dm_device *d, const struct mapping *m,
			  const struct request *asked)
{
	int code;

	msg_hush(true); /* the caller says it, with the name in front */
	if (m->kind == MAPPING_HOST)
		code = verify_view(d, m);
	else if (m->kind == MAPPING_MEMORY)
		code = DONE;
	else if (dm_is_overlay(d))
		code = verify_overlay(d, asked);
	else
		code = verify_image(d, m, asked);
	msg_hush(false);
	return code;
}

/* What failed may be about the volume below: the device that it is about comes first. */
static int say_difference(const char *name, int code)
{
	char *why = text_copy(failure_text());
	size_t n = strlen(name);
	bool named = !strncmp(why, name, n) && why[n] == ':';

	fail(code, "%s%s%s", named ? "" : name, named ? "" : ": ", why);
	free(why);
	return code;
}

static json_t *result_json(const char *name, int code)
{
	return json_must(json_pack("{s:s, s:b, s:i, s:o}", "name", name, "same", !code, "exit_code",
				   code, "difference", json_text(code ? failure_text() : NULL)));
}

/* Prints text, or sets *j where j is not NULL. */
static int verify_one(const struct dm_device *d, const struct mapping *m,
		      const struct request *asked, json_t **j)
{
	int code = verify_mapping(d, m, asked);

	if (j)
		*j = result_json(d->name, code);
	else if (code)
		say_difference(d->name, code);
	else
		printf("%s: the open mapping is what the disk says\n", shown(d->name));
	return code;
}

/* A difference is worse than a comparison that could not be made. */
static int worse(int a, int b)
{
	if (a == DAMAGED || b == DAMAGED)
		return DAMAGED;
	return a > b ? a : b;
}

static int verify_each(const struct dm_devices *all, const struct request *asked, json_t *list)
{
	struct mapping m;
	int worst = DONE;

	for (size_t i = 0; i < all->n; i++) {
		json_t *j = NULL;

		/* without a table it maps nothing: the half of a device that an open left */
		if (!all->v[i].live || !mapping_of(&all->v[i], &m))
			continue;
		worst = worse(worst, verify_one(&all->v[i], &m, asked, list ? &j : NULL));
		if (list)
			json_array_append_new(list, j);
		mapping_free(&m);
	}
	return worst;
}

static int verify_all(const struct options *opt)
{
	struct dm_devices all = { 0 };
	json_t *list = NULL;
	int code = dm_present() ? dm_need() : DONE;

	if (!code)
		code = dm_read_all(&all);
	if (code)
		return code;
	if (opt->json)
		list = json_must(json_array());
	code = verify_each(&all, &opt->req, list);
	dm_devices_free(&all);
	if (list && print_json(list))
		return SYSTEM;
	return code;
}

static int verify_named(const char *name, const struct options *opt)
{
	struct dm_device d;
	struct mapping m;
	json_t *j = NULL;
	int code = mapping_read(name, &d, &m);

	if (code)
		return code;
	code = verify_one(&d, &m, &opt->req, opt->json ? &j : NULL);
	if (j && print_json(j))
		code = SYSTEM;
	mapping_free(&m);
	dm_device_free(&d);
	return code;
}

int verb_verify(int argc, char **argv, const struct options *opt)
{
	int code = argc ? verify_named(argv[0], opt) : verify_all(opt);
	int printed = finish_stdout();

	return code ? code : printed;
}
