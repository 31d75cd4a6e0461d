// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "info-qcow.h"

/* The paths of other files, as the image names them; NULL: none, or none that can be used. The
 * caller frees. */
static char *backing_path(struct vdisk *vd)
{
	struct vdisk_locator *l = must_alloc(sizeof(*l));
	char *path = vdisk_parent_locator(vd, 0, l) ? NULL : text_copy(l->path);

	free(l);
	return path;
}

static char *data_path(struct vdisk *vd)
{
	struct vdisk_locator *l = must_alloc(sizeof(*l));
	char *path = vdisk_data_locator(vd, l) ? NULL : text_copy(l->path);

	free(l);
	return path;
}

/* qemu's name for a version. */
static const char *compat_of(const struct vdisk_info *info)
{
	return info->version < 3 ? "0.10" : "1.1";
}

/* ---- JSON ---- */

static json_t *snapshots_json(struct vdisk *vd)
{
	struct vdisk_snapshot *s = must_alloc(sizeof(*s));
	json_t *list = json_array();

	for (unsigned int n = 0; !vdisk_get_snapshot(vd, n, s); n++)
		json_array_append_new(
			list, json_must(json_pack("{s:o, s:o, s:I, s:I, s:I, s:I}", "id",
						  json_text(s->id), "name", json_text(s->name),
						  "vm-state-size", (json_int_t)s->vm_state_size,
						  "date-sec", (json_int_t)s->seconds, "date-nsec",
						  (json_int_t)s->nanoseconds, "virtual-size",
						  (json_int_t)s->virtual_size)));
	free(s);
	return list;
}

static json_t *specific_json(struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);
	char *data = data_path(vd);
	json_t *j = json_must(json_pack("{s:s, s:i, s:s?, s:b, s:b, s:b}", "compat",
					compat_of(info), "refcount-bits", (int)info->refcount_bits,
					"compression-type", info->compression, "lazy-refcounts",
					info->lazy_refcounts, "extended-l2",
					info->subcluster_size != 0, "corrupt", info->corrupt));

	if (info->needs_data) {
		json_object_set_new(j, "data-file", json_text(data));
		json_object_set_new(j, "data-file-raw", json_boolean(info->data_raw));
	}
	free(data);
	return json_must(json_pack("{s:s, s:o}", "type", info->format, "data", j));
}

void info_qcow_json(json_t *j, struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);
	char *backing = backing_path(vd);

	if (!info->version)
		return;
	json_object_set_new(j, "version", json_integer(info->version));
	json_object_set_new(j, "cluster-size", json_integer(info->block_size));
	if (info->needs_parent) {
		json_object_set_new(j, "backing-filename", json_text(backing));
		json_object_set_new(j, "backing-filename-format",
				    json_text(*info->backing_format ? info->backing_format : NULL));
	}
	free(backing);
	if (!info->refcount_bits)
		return;
	json_object_set_new(j, "dirty-flag", json_boolean(info->dirty));
	json_object_set_new(j, "bitmaps", json_integer(info->bitmaps));
	json_object_set_new(j, "snapshots", snapshots_json(vd));
	json_object_set_new(j, "format-specific", specific_json(vd));
}

/* ---- text ---- */

static void print_date(const struct vdisk_snapshot *s)
{
	time_t seconds = (time_t)s->seconds;
	char words[32] = "?";
	struct tm tm;

	if (localtime_r(&seconds, &tm))
		strftime(words, sizeof(words), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%-19s", words);
}

static void print_snapshots(struct vdisk *vd)
{
	struct vdisk_snapshot *s = must_alloc(sizeof(*s));

	for (unsigned int n = 0; !vdisk_get_snapshot(vd, n, s); n++) {
		if (!n)
			printf("%-15s %-6s %-20s %-19s %10s %10s\n", "snapshots:", "ID", "NAME",
			       "DATE", "VM STATE", "DISK");
		printf("%-15s %-6s %-20s ", "", shown(s->id), shown(s->name));
		print_date(s);
		printf(" %10s %10s\n", human_size(s->vm_state_size), human_size(s->virtual_size));
	}
	free(s);
}

static void print_other_files(struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);
	char *backing = backing_path(vd), *data = data_path(vd);

	if (info->needs_parent)
		printf("%-15s %s (%s)\n",
		       "backing file:", backing ? shown(backing) : "none of ours",
		       *info->backing_format ? info->backing_format : "format not said");
	if (info->needs_data)
		printf("%-15s %s%s\n", "data file:", data ? shown(data) : "none of ours",
		       info->data_raw ? " (raw disk)" : "");
	free(backing);
	free(data);
}

void info_qcow_print(struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);

	if (!info->version)
		return;
	printf("%-15s %u\n", "version:", info->version);
	print_other_files(vd);
	if (!info->refcount_bits)
		return;
	printf("%-15s %u bits%s\n", "refcounts:", info->refcount_bits,
	       info->lazy_refcounts ? ", lazy ones allowed" : "");
	printf("%-15s %s\n", "compression:", info->compression);
	if (info->subcluster_size)
		printf("%-15s %u bytes (extended L2 entries)\n",
		       "subclusters:", info->subcluster_size);
	if (info->dirty || info->corrupt)
		printf("%-15s %s%s%s: see ntfsmap check\n", "marked:", info->dirty ? "dirty" : "",
		       info->dirty && info->corrupt ? ", " : "", info->corrupt ? "corrupt" : "");
	if (info->bitmaps)
		printf("%-15s %u\n", "bitmaps:", info->bitmaps);
	print_snapshots(vd);
}
