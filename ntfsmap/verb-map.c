// SPDX-License-Identifier: GPL-2.0-or-later
/* map: the extents of the virtual disk as qemu-img map has them, with their places on the device in
 * addition. */
#include <errno.h>
#include <stdlib.h>

#include "chain.h"
#include "layout.h"
#include "verb.h"

/* A piece that is in one place. All in bytes. */
struct extent {
	uint64_t start, length;
	unsigned int depth;
	const struct image *img; /* whose file holds it; NULL: zeros */
	bool own;		 /* img: the image itself, not its data file or a parent */
	bool compressed;	 /* img: the bytes have to be unpacked; no places are told */
	bool hole;		 /* img: the file has no cluster there, or it is not valid */
	uint64_t offset;	 /* img: in the file */
	uint64_t device;	 /* img, no hole: on the device */
};

struct output {
	json_t *list; /* NULL: a text */
	struct extent last;
};

static json_t *extent_json(const struct extent *e)
{
	bool data = e->img && !e->hole;
	json_t *j = json_must(json_pack("{s:I, s:I, s:i, s:b, s:b, s:b, s:b}", "start",
					(json_int_t)e->start, "length", (json_int_t)e->length,
					"depth", (int)e->depth, "present", !e->hole, "zero", !data,
					"data", data, "compressed", e->compressed));

	if (data && !e->own)
		json_object_set_new(j, "source", json_text(e->img->name));
	if (data && !e->compressed) {
		json_object_set_new(j, "offset", json_integer((json_int_t)e->offset));
		json_object_set_new(j, "device", json_text(e->img->where.path));
		json_object_set_new(j, "device_offset", json_integer((json_int_t)e->device));
	}
	return j;
}

static void put_last(struct output *out)
{
	const struct extent *e = &out->last;

	if (!e->length)
		return;
	if (out->list)
		json_array_append_new(out->list, extent_json(e));
	else if (e->compressed)
		printf("0x%-16llx  0x%-16llx  %-18s  %s\n", (unsigned long long)e->start,
		       (unsigned long long)e->length, "compressed", shown(e->img->where.path));
	else if (e->img && !e->hole)
		printf("0x%-16llx  0x%-16llx  0x%-16llx  %s\n", (unsigned long long)e->start,
		       (unsigned long long)e->length, (unsigned long long)e->device,
		       shown(e->img->where.path));
}

static bool continues(const struct extent *a, const struct extent *b)
{
	if (a->img != b->img || a->hole != b->hole || a->depth != b->depth ||
	    a->compressed != b->compressed)
		return false;
	return !a->img || a->hole || a->compressed ||
	       (a->offset + a->length == b->offset && a->device + a->length == b->device);
}

static void put(struct output *out, const struct extent *e)
{
	if (out->last.length && continues(&out->last, e)) {
		out->last.length += e->length;
		return;
	}
	put_last(out);
	out->last = *e;
}

/* One answer of the images, cut where the file's own extents are. */
static int put_file(struct output *out, struct extent e)
{
	const struct vdisk_extents *x = image_extents(e.img);
	uint64_t valid = layout_valid_sectors(e.img);
	uint64_t left = e.length;
	struct vdisk_extent piece;

	for (; left; left -= e.length) {
		if (!vdisk_extents_at(x, e.offset / VDISK_SECTOR, &piece))
			return -EUCLEAN;
		e.length = piece.count * VDISK_SECTOR < left ? piece.count * VDISK_SECTOR : left;
		e.hole = piece.device == VDISK_HOLE || e.offset / VDISK_SECTOR >= valid;
		if (!e.hole && e.length / VDISK_SECTOR > valid - e.offset / VDISK_SECTOR)
			e.length = (valid - e.offset / VDISK_SECTOR) * VDISK_SECTOR;
		e.device = e.hole ? 0 : piece.device * VDISK_SECTOR;
		put(out, &e);
		e.start += e.length;
		e.offset += e.length;
	}
	return 0;
}

static int walk(struct image *img, struct output *out)
{
	uint64_t size = vdisk_info(img->vd)->virtual_size;
	struct place p;
	int ret = 0;

	for (uint64_t at = 0; at < size && !ret; at += p.length) {
		struct extent e;

		ret = layout_place(img, at, size - at, &p);
		e = (struct extent){ .start = at, .length = p.length, .depth = p.depth };
		if (ret)
			return fail_errno(-ret, "%s: cannot map byte %llu (see ntfsmap check)",
					  img->name, (unsigned long long)at);
		e.img = p.img;
		e.own = p.img == img;
		e.compressed = p.compressed;
		e.offset = p.offset;
		if (p.img && !p.compressed)
			ret = put_file(out, e);
		else
			put(out, &e);
	}
	put_last(out);
	return ret ? fail_errno(-ret, "%s: its file ends before its data", img->name) : DONE;
}

/* Its bytes must be in clusters. */
static int need_clusters(const struct image *img)
{
	const struct ntfs_file *f = img->file;

	if (f && f->resident)
		return fail(REFUSED, "%s is inside its MFT record and has no clusters", img->name);
	if (f && f->attr_flags & ATTR_COMPRESSED)
		return fail(REFUSED, "%s is compressed: its clusters do not hold its bytes",
			    img->name);
	if (f && f->runs != RUNS_GOOD)
		return fail(DAMAGED, "%s: %s", img->name, f->runs_problem);
	return DONE;
}

int verb_map(int argc, char **argv, const struct options *opt)
{
	struct output out = { .list = opt->json ? json_array() : NULL };
	struct image img;
	int code = open_disk(argv[0], &opt->req, &img);

	(void)argc;
	if (code) {
		json_decref(out.list);
		return code;
	}
	for (const struct image *i = &img; i && !code; i = image_next(&img, i))
		code = need_clusters(i);
	if (!code && !opt->json)
		printf("%-18s  %-18s  %-18s  %s\n", "Offset", "Length", "Mapped to", "File");
	if (!code)
		code = walk(&img, &out);
	if (!code && opt->json)
		code = print_json(json_incref(out.list));
	json_decref(out.list);
	image_close(&img);
	return code ? code : finish_stdout();
}
