// SPDX-License-Identifier: GPL-2.0-or-later
/* info and cat: verbs that only look. They show what they can of files that must not be mapped,
 * too. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "blk.h"
#include "chain.h"
#include "info-qcow.h"
#include "verb.h"

static char *uuid_text(const uint8_t *u)
{
	return text("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
		    u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
		    u[13], u[14], u[15]);
}

static json_t *uuid_json(const uint8_t *uuid, bool known)
{
	char *words = known ? uuid_text(uuid) : NULL;
	json_t *j = words ? json_string(words) : json_null();

	free(words);
	return j;
}

static json_t *file_json(const struct ntfs_file *f)
{
	return json_pack("{s:o, s:o, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:b, s:o}", "path",
			 json_text(f->path), "stream", json_text(f->stream), "mft_record",
			 (json_int_t)f->record, "mft_sequence", f->sequence, "size",
			 (json_int_t)f->data_size, "allocated", (json_int_t)f->allocated_size,
			 "valid_data", (json_int_t)f->initialized_size, "holes",
			 (json_int_t)f->holes * 512, "runs", (json_int_t)f->extents.n, "resident",
			 f->resident, "runs_problem", json_text(f->runs_problem));
}

static json_t *volume_json(const struct volume *vol)
{
	char serial[20];

	snprintf(serial, sizeof(serial), "%016llX", (unsigned long long)vol->serial);
	return json_pack("{s:o, s:s, s:o, s:i, s:I}", "device", json_text(vol->device), "serial",
			 serial, "label", json_text(vol->label), "cluster_size",
			 (int)vol->cluster_size, "clusters", (json_int_t)vol->clusters);
}

static json_t *image_json(struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);
	struct vdisk_usage usage;
	json_t *j = json_must(json_pack(
		"{s:s, s:s?, s:I, s:I, s:s, s:o, s:b, s:I, s:I}", "format", info->format,
		"subformat", info->subformat, "virtual_size", (json_int_t)info->virtual_size,
		"file_size", (json_int_t)info->file_size, "creator", info->creator, "uuid",
		uuid_json(info->uuid, info->has_uuid), "saved_state", info->saved_state,
		"geometry_size", (json_int_t)info->chs_size, "current_size",
		(json_int_t)info->current_size));

	if (!info->block_size)
		return j;
	json_object_set_new(j, "block_size", json_integer(info->block_size));
	if (!vdisk_usage(vd, &usage)) {
		json_object_set_new(j, "allocated", json_integer((json_int_t)usage.allocated));
		json_object_set_new(j, "room", json_integer((json_int_t)usage.room));
	}
	info_qcow_json(j, vd);
	if (strcmp(info->format, "vhd"))
		return j;
	json_object_set_new(j, "footer_lost", json_boolean(info->footer_lost));
	json_object_set_new(j, "copy_lost", json_boolean(info->copy_lost));
	json_object_set_new(j, "copy_differs", json_boolean(info->copy_differs));
	if (info->needs_parent)
		json_object_set_new(j, "parent_uuid", uuid_json(info->parent_uuid, true));
	return j;
}

/* The parents, the nearest first. A chain that is not complete says why it ends. */
static json_t *parents_json(const struct image *img, const char *missing)
{
	json_t *list = json_array();

	for (; img->parent; img = img->parent)
		json_array_append_new(
			list, json_must(json_pack("{s:o, s:b, s:o}", "source",
						  json_text(img->parent->name), "stale", img->stale,
						  "image", image_json(img->parent->vd))));
	if (missing)
		json_array_append_new(list, json_must(json_pack("{s:n, s:o}", "source", "problem",
								json_text(missing))));
	return list;
}

/* Its data file has not been found. */
static bool needs_data(const struct image *img)
{
	return vdisk_info(img->vd)->needs_data && !img->data;
}

static json_t *info_json(const struct image *img, const char *missing)
{
	json_t *j = json_must(json_pack("{s:o, s:o}", "source", json_text(img->name), "image",
					image_json(img->vd)));

	if (needs_data(img))
		json_object_set_new(j, "data_file_problem", json_text(missing));
	else if (vdisk_info(img->vd)->needs_parent)
		json_object_set_new(j, "parents", parents_json(img, missing));
	if (img->data)
		json_object_set_new(j, "data_file", json_text(img->data->name));
	if (img->file) {
		json_object_set_new(j, "file", json_must(file_json(img->file)));
		json_object_set_new(j, "volume", json_must(volume_json(img->vol)));
	}
	return j;
}

static void print_size(const char *what, uint64_t bytes)
{
	printf("%-15s %llu bytes (%s)\n", what, (unsigned long long)bytes, human_size(bytes));
}

static void print_file(const struct ntfs_file *f)
{
	printf("%-15s %s, %llu clusters of %u bytes, serial %016llX\n",
	       "volume:", shown(f->vol->device), (unsigned long long)f->vol->clusters,
	       f->vol->cluster_size, (unsigned long long)f->vol->serial);
	printf("%-15s record %llu, sequence %u\n", "MFT:", (unsigned long long)f->record,
	       f->sequence);
	print_size("allocated:", f->allocated_size);
	print_size("valid data:", f->initialized_size);
	if (f->holes)
		print_size("holes:", f->holes * 512);
	if (f->runs == RUNS_GOOD)
		printf("%-15s %zu\n", "runs:", f->extents.n);
	else
		printf("%-15s %s\n", "runs:",
		       f->resident	 ? "none, resident"
		       : f->runs_problem ? f->runs_problem
					 : "none");
}

static void print_blocks(const struct image *img)
{
	const struct vdisk_info *info = vdisk_info(img->vd);
	struct vdisk_usage usage;
	int ret;

	if (!info->block_size)
		return;
	print_size("block size:", info->block_size);
	ret = vdisk_usage(img->vd, &usage);
	if (ret) {
		printf("%-15s damaged tables (%s): see ntfsmap check\n",
		       "allocated:", strerror(-ret));
		return;
	}
	print_size("allocated:", usage.allocated);
	print_size("room left:", usage.room);
	if (info->footer_lost)
		printf("%-15s lost at the end of the file: see ntfsmap check\n", "footer:");
}

static void print_parents(const struct image *img, const char *missing)
{
	for (; img->parent; img = img->parent) {
		const struct vdisk_info *info = vdisk_info(img->parent->vd);

		printf("%-15s %s (%s%s%s)%s\n", "parent:", shown(img->parent->name), info->format,
		       info->subformat ? " " : "", info->subformat ? info->subformat : "",
		       img->stale ? ", changed after its child was made" : "");
	}
	if (missing && strcmp(vdisk_info(img->vd)->format, "vhd")) {
		printf("%-15s not found: %s\n",
		       needs_data(img) ? "data file:" : "parent:", missing);
	} else if (missing) {
		char *uuid = uuid_text(vdisk_info(img->vd)->parent_uuid);

		printf("%-15s not found, unique id %s: %s\n", "parent:", uuid, missing);
		free(uuid);
	}
}

static void print_info(const struct image *img, const char *missing)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	printf("%-15s %s\n", "source:", shown(img->name));
	printf("%-15s %s%s%s\n", "format:", info->format, info->subformat ? " " : "",
	       info->subformat ? info->subformat : "");
	print_size("virtual size:", info->virtual_size);
	print_size("file size:", info->file_size);
	print_blocks(img);
	info_qcow_print(img->vd);
	if (*info->creator)
		printf("%-15s \"%s\"\n", "creator:", info->creator);
	if (info->has_uuid) {
		char *uuid = uuid_text(info->uuid);

		printf("%-15s %s\n", "unique id:", uuid);
		free(uuid);
	}
	if (info->chs_size && info->chs_size != info->current_size)
		printf("%-15s current size %llu, disk geometry %llu\n",
		       "sizes:", (unsigned long long)info->current_size,
		       (unsigned long long)info->chs_size);
	print_parents(img, missing);
	if (img->file)
		print_file(img->file);
}

/* Files that hold no readable image bytes at all. */
int need_readable(const struct image *img)
{
	if (img->file && (img->file->directory || !img->file->attr))
		return fail(REFUSED, "%s is a directory", img->name);
	if (img->file && img->file->attr_flags & ATTR_ENCRYPTED)
		return fail(REFUSED, "%s is encrypted by EFS: in Windows, `cipher /d` on the file",
			    img->name);
	if (img->file && img->file->runs == RUNS_DAMAGED)
		return fail(DAMAGED, "%s: %s", img->name, img->file->runs_problem);
	if (img->file && img->file->reparse_tag)
		return fail(REFUSED,
			    "%s is a reparse point (tag 0x%08x): its contents are elsewhere",
			    img->name, img->file->reparse_tag);
	return DONE;
}

static int open_readable(const char *spec, const struct request *req, struct image *img)
{
	int code = image_open(spec, img);

	if (code)
		return code;
	code = need_readable(img);
	if (!code)
		code = image_probe(img, req->format, req->snapshot);
	if (code)
		image_close(img);
	return code;
}

int verb_info(int argc, char **argv, const struct options *opt)
{
	char *missing = NULL;
	struct image img;
	int code = open_readable(argv[0], &opt->req, &img);

	(void)argc;
	if (code)
		return code;
	msg_hush(true); /* what can be told is told without the parents */
	if (chain_open(&img, &(struct chain_sources){ opt->req.parent, opt->req.data, true }))
		missing = text_copy(failure_text());
	msg_hush(false);
	if (opt->json) {
		code = print_json(info_json(&img, missing));
	} else {
		print_info(&img, missing);
		code = finish_stdout();
	}
	free(missing);
	image_close(&img);
	return code;
}

int open_disk(const char *spec, const struct request *req, struct image *img)
{
	int code = open_readable(spec, req, img);

	if (code)
		return code;
	code = chain_open(img, &(struct chain_sources){ req->parent, req->data, true });
	for (const struct image *i = img; i && !code; i = image_next(img, i))
		code = need_readable(i);
	if (code)
		image_close(img);
	return code;
}

#define CAT_BYTES (1 << 20)

struct progress {
	bool shown;
	struct timespec start;
};

static double seconds_since(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

static void show_progress(const struct progress *p, uint64_t done, uint64_t size)
{
	double seconds = seconds_since(&p->start);
	char bar[31];
	int filled = (int)(done * 30 / size);

	for (int i = 0; i < 30; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[30] = '\0';
	fprintf(stderr, "\r[%s] %3llu%%  %s of %s  %s/s ", bar,
		(unsigned long long)(done * 100 / size), human_size(done), human_size(size),
		human_size(seconds > 0 ? (unsigned long long)((double)done / seconds) : 0));
	if (done == size)
		fputc('\n', stderr);
}

static int cat_image(const struct image *img)
{
	uint64_t size = vdisk_info(img->vd)->virtual_size;
	struct progress p = { .shown = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO) &&
				       !opt_quiet };
	char *buf = must_alloc(CAT_BYTES);
	int code = DONE;

	clock_gettime(CLOCK_MONOTONIC, &p.start);
	for (uint64_t at = 0; at < size && !code;) {
		size_t len = size - at < CAT_BYTES ? size - at : CAT_BYTES;
		int ret = vdisk_pread(img->vd, buf, len, at);

		if (ret)
			code = fail_errno(-ret, "%s: cannot read byte %llu%s", img->name,
					  (unsigned long long)at,
					  ret == -EUCLEAN ? " (see ntfsmap check)" : "");
		else if (fwrite(buf, 1, len, stdout) != len)
			code = fail_errno(errno, "cannot write to standard output");
		at += len;
		if (p.shown && !code)
			show_progress(&p, at, size);
	}
	free(buf);
	return code;
}

int verb_cat(int argc, char **argv, const struct options *opt)
{
	struct image img;
	int code = open_disk(argv[0], &opt->req, &img);

	(void)argc;
	if (code)
		return code;
	signal(SIGPIPE, SIG_DFL); /* `cat | head` is no failure */
	code = cat_image(&img);
	image_close(&img);
	return code ? code : finish_stdout();
}
