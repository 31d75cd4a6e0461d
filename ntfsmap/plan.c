// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>

#include "msg.h"
#include "plan.h"

/* Append the device's sectors behind one answer of the image. */
static int append_data(struct plan *plan, const struct vdisk_extents *file, uint64_t sector,
		       uint64_t count)
{
	struct vdisk_extent piece;
	int ret;

	while (count) {
		if (!vdisk_extents_at(file, sector, &piece))
			return -EUCLEAN;
		if (piece.count > count)
			piece.count = count;
		ret = vdisk_extents_add(&plan->lines, piece.device, piece.count);
		if (ret)
			return ret;
		sector += piece.count;
		count -= piece.count;
	}
	return 0;
}

int plan_build(struct vdisk *vd, const struct vdisk_extents *file, struct plan *plan)
{
	uint64_t size = vdisk_info(vd)->virtual_size;
	struct vdisk_map m;
	int ret;

	for (uint64_t at = 0; at < size; at += m.length) {
		ret = vdisk_map(vd, at, size - at, &m);
		if (!ret)
			ret = append_data(plan, file, m.offset / VDISK_SECTOR,
					  m.length / VDISK_SECTOR);
		if (ret)
			return ret;
	}
	return 0;
}

int plan_zero_from(struct plan *plan, uint64_t byte)
{
	struct vdisk_extents old = plan->lines;
	uint64_t keep = byte / VDISK_SECTOR;
	struct vdisk_extent piece;
	int ret = 0;

	if (keep >= old.sectors)
		return 0;
	plan->lines = (struct vdisk_extents){ 0 };
	for (uint64_t at = 0; at < keep && !ret; at += piece.count) {
		vdisk_extents_at(&old, at, &piece);
		if (piece.count > keep - at)
			piece.count = keep - at;
		ret = vdisk_extents_add(&plan->lines, piece.device, piece.count);
	}
	if (!ret)
		ret = vdisk_extents_add(&plan->lines, VDISK_HOLE, old.sectors - keep);
	vdisk_extents_free(&old);
	return ret;
}

const struct vdisk_extent *plan_misaligned(const struct plan *plan, uint32_t block)
{
	uint64_t sectors = block / VDISK_SECTOR;

	/* the lines follow each other from 0, so whole lengths make whole offsets on the disk */
	for (size_t i = 0; i < plan->lines.n; i++) {
		const struct vdisk_extent *line = &plan->lines.v[i];

		if (line->count % sectors || (line->device != VDISK_HOLE && line->device % sectors))
			return line;
	}
	return NULL;
}

const char *plan_target(const struct plan *plan, const struct vdisk_extent *line, char **params)
{
	if (line->device == VDISK_HOLE) {
		*params = text_copy("");
		return "zero";
	}
	*params = text("%s %" PRIu64, plan->device, line->device);
	return "linear";
}

bool plan_print(const struct plan *plan, FILE *f, const char *separator)
{
	for (size_t i = 0; i < plan->lines.n; i++) {
		const struct vdisk_extent *line = &plan->lines.v[i];
		const char *before = i ? separator : "";

		if (line->device == VDISK_HOLE)
			fprintf(f, "%s%" PRIu64 " %" PRIu64 " zero", before, line->file,
				line->count);
		else
			fprintf(f, "%s%" PRIu64 " %" PRIu64 " linear %s %" PRIu64, before,
				line->file, line->count, plan->device, line->device);
	}
	fputc('\n', f);
	return !ferror(f);
}

void plan_free(struct plan *plan)
{
	vdisk_extents_free(&plan->lines);
	free(plan->device);
	*plan = (struct plan){ 0 };
}
