// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "layout.h"
#include "msg.h"
#include "parts.h"

#define STRIPE_CHUNK 4096 /* bytes: no more than what file systems align to anyway */

/* A data file may end before its last cluster does: zeros follow. */
static void place_data(const struct image *img, const struct vdisk_map *m, struct place *p)
{
	const struct image *file = img->data ? img->data : img;
	uint64_t left = m->offset < file->io.size ? file->io.size - m->offset : 0;

	if (img->data && !left)
		return;
	p->img = file;
	p->offset = m->offset;
	p->compressed = m->kind == VDISK_COMPRESSED;
	if (img->data && p->length > left)
		p->length = (left + VDISK_SECTOR - 1) / VDISK_SECTOR * VDISK_SECTOR;
}

int layout_place(struct image *img, uint64_t at, uint64_t length, struct place *p)
{
	*p = (struct place){ .length = length };
	for (; img; img = img->parent) {
		uint64_t size = vdisk_info(img->vd)->virtual_size;
		struct vdisk_map m;
		int ret;

		if (at >= size)
			break; /* past the end of a parent its child answers, with zeros */
		if (p->length > size - at)
			p->length = size - at;
		ret = vdisk_map(img->vd, at, p->length, &m);
		if (ret)
			return ret;
		p->length = m.length;
		if (m.kind == VDISK_DATA || m.kind == VDISK_SHARED || m.kind == VDISK_COMPRESSED)
			place_data(img, &m, p);
		if (m.kind != VDISK_PARENT)
			return 0;
		p->depth++;
	}
	if (!img)
		return -EINVAL; /* the parent was not opened */
	p->depth--;
	return 0;
}

bool layout_needs_vdisk(const struct image *img)
{
	return vdisk_info(img->vd)->block_size != 0;
}

uint64_t layout_valid_sectors(const struct image *img)
{
	const struct ntfs_file *f = img->file;

	if (!f || f->initialized_size >= f->data_size)
		return UINT64_MAX;
	return (f->initialized_size + VDISK_SECTOR - 1) / VDISK_SECTOR;
}

/* Append count sectors of the image's file. -EUCLEAN past the end of its extents. When writing with
 * a short valid data length was allowed, what Windows would not see is mapped too, so that what is
 * written can be read again. */
static int add_file(struct plan *plan, const struct image *img, uint64_t sector, uint64_t count)
{
	uint64_t valid = plan->readonly ? layout_valid_sectors(img) : UINT64_MAX;
	struct vdisk_extent piece;
	int ret = 0;

	while (count && !ret) {
		if (!vdisk_extents_at(image_extents(img), sector, &piece))
			return -EUCLEAN;
		if (piece.count > count)
			piece.count = count;
		if (sector >= valid)
			piece.device = VDISK_HOLE;
		else if (piece.count > valid - sector)
			piece.count = valid - sector;
		ret = plan_add(plan, piece.device == VDISK_HOLE ? NULL : img->device, piece.device,
			       piece.count);
		sector += piece.count;
		count -= piece.count;
	}
	return ret;
}

static int fail_layout(const struct image *img, int ret)
{
	if (ret == -E2BIG)
		return fail(REFUSED, "%s: its chain of images is too long", img->name);
	if (ret == -EUCLEAN)
		return fail(DAMAGED,
			    "%s: an entry of its tables points where no data can be: `ntfsmap "
			    "check` names it, and a copy saves what can be read",
			    img->name);
	return fail_errno(-ret, "%s: cannot lay out the table", img->name);
}

/* What no line can be made for. */
static int refuse_place(const struct place *p, uint64_t at)
{
	if (p->compressed)
		return fail(REFUSED,
			    "%s: byte %llu of the disk is in a compressed cluster (at byte %llu of "
			    "the file), which only the target vdisk can unpack; or convert a copy: "
			    "qemu-img convert -O qcow2",
			    p->img->name, (unsigned long long)at, (unsigned long long)p->offset);
	return fail(REFUSED,
		    "%s: it ends at byte %llu, inside a sector of the disk, and a table has no "
		    "place for that boundary (ntfsmap cat reads it right)",
		    p->img->name, (unsigned long long)p->img->io.size);
}

static bool has_line(const struct place *p)
{
	return !p->img || (!p->compressed && p->offset <= p->img->io.size &&
			   p->length <= p->img->io.size - p->offset);
}

/* Lines of linear and zero for the whole disk. */
static int add_disk(struct plan *plan, struct image *img)
{
	uint64_t size = vdisk_info(img->vd)->virtual_size;
	struct place p;
	int ret = 0;

	for (uint64_t at = 0; at < size && !ret; at += p.length) {
		ret = layout_place(img, at, size - at, &p);
		if (ret)
			break;
		if (!has_line(&p))
			return refuse_place(&p, at);
		if (p.img)
			ret = add_file(plan, p.img, p.offset / VDISK_SECTOR,
				       p.length / VDISK_SECTOR);
		else
			ret = plan_add(plan, NULL, 0, p.length / VDISK_SECTOR);
	}
	return ret ? fail_layout(img, ret) : DONE;
}

static int refuse_alignment(const struct image *img, uint32_t block, const char *what,
			    uint64_t where, uint64_t length, uint64_t at)
{
	return fail(
		REFUSED,
		"%s: %s has logical blocks of %u bytes, but byte %llu of the %s (%llu bytes long) "
		"lies at byte %llu of it: only a loop device or a copy can help",
		img->name, img->where.path, block, (unsigned long long)where, what,
		(unsigned long long)length, (unsigned long long)at);
}

static int check_lines(const struct image *img, const struct plan *plan)
{
	const struct vdisk_extent *line;
	uint32_t block = 0;

	for (const struct image *i = img; i; i = image_next(img, i))
		if (i->logical_block > block)
			block = i->logical_block;
	line = plan_misaligned(plan, block);
	if (!line)
		return DONE;
	return refuse_alignment(img, block, plan->format ? "file" : "virtual disk",
				line->file * 512, line->count * 512,
				plan_sector_of(line->device) * 512);
}

static int plan_stock(struct image *img, struct plan *plan)
{
	int code = add_disk(plan, img);

	if (!code && parts_in_image(img))
		plan->stripe = img->logical_block > STRIPE_CHUNK ? img->logical_block / VDISK_SECTOR
								 : STRIPE_CHUNK / VDISK_SECTOR;
	return code ? code : check_lines(img, plan);
}

/* Clusters of a qcow2 begin on multiples of their size. */
static int check_clusters(const struct image *img, uint32_t block)
{
	const struct vdisk_info *info = vdisk_info(img->vd);
	uint32_t unit = info->subcluster_size ? info->subcluster_size : info->block_size;

	if (unit >= block)
		return DONE;
	return fail(REFUSED,
		    "%s: %s has logical blocks of %u bytes, and the image has %sclusters of %u: "
		    "convert a copy (qemu-img convert -O qcow2 -o cluster_size=64k)",
		    img->name, img->where.path, block, info->subcluster_size ? "sub" : "", unit);
}

/* On a disk of large blocks the image's own units must begin on them. The target looks at every
 * access too; here the user learns it before. */
static int check_units(struct image *img)
{
	uint32_t block = img->logical_block;
	uint64_t size = vdisk_info(img->vd)->virtual_size;
	struct vdisk_map m;

	if (vdisk_info(img->vd)->refcount_bits && check_clusters(img, block))
		return REFUSED;
	if (size % block)
		return fail(REFUSED,
			    "%s: %s has logical blocks of %u bytes, and the disk's %llu bytes do "
			    "not fill them: only a loop device or a copy can help",
			    img->name, img->where.path, block, (unsigned long long)size);
	if (vdisk_info(img->vd)->refcount_bits)
		return DONE;
	for (uint64_t at = 0; block > VDISK_SECTOR && at < size; at += m.length) {
		int ret = vdisk_map(img->vd, at, size - at, &m);

		if (ret)
			return fail_layout(img, ret);
		if (m.kind == VDISK_DATA && (m.offset % block || m.length % block))
			return fail(REFUSED,
				    "%s: %s has logical blocks of %u bytes, but byte %llu of the "
				    "disk lies at byte %llu of the file: only a loop device or a "
				    "copy (qemu-img convert) can help",
				    img->name, img->where.path, block, (unsigned long long)at,
				    (unsigned long long)m.offset);
	}
	return DONE;
}

/* The target reads all of the file from the device: it has no zeros to put in its place. */
static int check_whole(const struct image *img)
{
	const struct ntfs_file *f = img->file;

	if (f && f->initialized_size < f->data_size)
		return fail(REFUSED,
			    "%s: only the first %llu of its %llu bytes are valid, and the target "
			    "vdisk cannot read the rest as zeros: in Windows, write the file once; "
			    "`open --static` reads it right",
			    img->name, (unsigned long long)f->initialized_size,
			    (unsigned long long)f->data_size);
	if (f && f->holes)
		return fail(REFUSED,
			    "%s: it is sparse (%llu bytes have no clusters), and the target vdisk "
			    "cannot read them as zeros: in Windows, copy it to a new file; `open "
			    "--static` reads it right",
			    img->name, (unsigned long long)f->holes * 512);
	return DONE;
}

/* The target takes no data file that is too short for a raw disk; and a short one cannot grow
 * when more of the disk is written. */
static int check_data(const struct image *img)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	if (!img->data || (!info->data_raw && img->plan.readonly) ||
	    img->data->io.size / VDISK_SECTOR >= info->virtual_size / VDISK_SECTOR)
		return DONE;
	return fail(
		REFUSED,
		"%s: its data file %s has %llu bytes, less than the disk's %llu: make it longer "
		"(on a mounted volume truncate -s %llu, in Windows fsutil file seteof); %s reads "
		"it "
		"as it is",
		img->name, img->data->name, (unsigned long long)img->data->io.size,
		(unsigned long long)info->virtual_size, (unsigned long long)info->virtual_size,
		info->data_raw ? "`open --static`" : "--readonly");
}

/* No block device has the last bytes of a regular file that do not fill a sector, and what qemu
 * packed last ends anywhere. */
static int check_tail(const struct image *img)
{
	uint64_t tail = img->io.size % VDISK_SECTOR;

	if (img->file || !tail || !vdisk_info(img->vd)->version)
		return DONE;
	return fail(REFUSED,
		    "%s: its last %llu bytes do not fill a sector, and a loop device does not have "
		    "them: `truncate -s %%512` makes it longer, which does no harm",
		    img->name, (unsigned long long)tail);
}

/* The file's own extents, up to the end of the block in which the file ends. */
static int add_extents(struct plan *plan, const struct image *img)
{
	uint64_t block = img->logical_block;
	uint64_t left = (img->io.size + block - 1) / block * (block / VDISK_SECTOR);
	const struct vdisk_extents *x = image_extents(img);
	int ret = 0;

	for (size_t i = 0; i < x->n && left && !ret; i++) {
		uint64_t count = x->v[i].count < left ? x->v[i].count : left;

		ret = plan_add(plan, img->device, x->v[i].device, count);
		left -= count;
	}
	return ret;
}

static int plan_vdisk(struct image *img, struct plan *plan)
{
	const struct vdisk_info *info = vdisk_info(img->vd);
	size_t coming = info->needs_data ? 4 : 2; /* words for a parent, and the data file */
	int code = check_whole(img);
	int ret;

	if (!code)
		code = check_data(img);
	if (!code)
		code = check_tail(img);
	if (code)
		return code;
	ret = add_extents(plan, img);
	if (ret)
		return fail_layout(img, ret);
	plan->format = text_copy(info->format);
	if (img->snapshot)
		plan->snapshot = text_copy(img->snapshot);
	plan->sectors = info->virtual_size / VDISK_SECTOR;
	plan->file_bytes = img->io.size < plan->lines.sectors * VDISK_SECTOR
				   ? img->io.size
				   : plan->lines.sectors * VDISK_SECTOR;
	code = check_lines(img, plan);
	if (!code)
		code = check_units(img);
	if (!code && plan_words(plan) > PLAN_MAX_WORDS - coming)
		code = fail(REFUSED,
			    "%s is in %zu pieces, and device-mapper takes a table of %d arguments "
			    "at most: let Windows defragment the file, or use `open --static`",
			    img->name, plan->lines.n, PLAN_MAX_WORDS);
	return code;
}

int layout_plan(struct image *img, bool readonly, bool as_static)
{
	plan_free(&img->plan);
	img->plan.readonly = readonly || as_static;
	if (as_static || !layout_needs_vdisk(img))
		return plan_stock(img, &img->plan);
	return plan_vdisk(img, &img->plan);
}

int layout_chain(struct image *img, bool readonly, bool as_static)
{
	int code = layout_plan(img, readonly, as_static);

	for (struct image *i = image_next(img, img); i && !as_static && !code;
	     i = image_next(img, i))
		code = layout_plan(i, readonly || i != img->data, false);
	return code;
}
