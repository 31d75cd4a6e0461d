/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table: where each sector of the virtual disk lies on the device. */
#ifndef NTFSMAP_PLAN_H
#define NTFSMAP_PLAN_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "../libvdisk/extents.h"
#include "../libvdisk/vdisk.h"

struct plan {
	/* .file is the virtual disk's sector, .device the device's, VDISK_HOLE reads as zeros */
	struct vdisk_extents lines;
	char *device; /* how a table names the device: "8:2", or an escaped path */
	bool readonly;
};

/* Lay the image's translation over the extents of its file. file may have more sectors than the
 * image needs. -EUCLEAN when the image points past the end of the file's extents. */
int plan_build(struct vdisk *vd, const struct vdisk_extents *file, struct plan *plan);

/* For a read-only plan: what lies at or after this byte of the virtual disk is zeros (a flat image
 * whose file has a shorter valid data length). A multiple of the sector size. */
int plan_zero_from(struct plan *plan, uint64_t byte);

/* The first line whose place or length is no multiple of block (bytes), or NULL. */
const struct vdisk_extent *plan_misaligned(const struct plan *plan, uint32_t block);

/* Target type and parameters of a line as in a table; params is the caller's to free. */
const char *plan_target(const struct plan *plan, const struct vdisk_extent *line, char **params);

/* One line each, or with commas between them as --concise has it. Returns false when f fails. */
bool plan_print(const struct plan *plan, FILE *f, const char *separator);

void plan_free(struct plan *plan);

#endif
