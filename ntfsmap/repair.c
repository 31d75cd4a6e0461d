// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blk.h"
#include "holder.h"
#include "layout.h"
#include "mapping.h"
#include "repair.h"

#define MOST_FAULTS 10000 /* that JSON tells one by one */

struct job {
	struct image *img;
	const struct options *opt;
	struct vdisk_found found;
	json_t *faults;
};

/* ---- what is said ---- */

static json_t *place_json(uint64_t value)
{
	return value == VDISK_NOWHERE ? json_null() : json_integer((json_int_t)value);
}

static void tell(void *ctx, const struct vdisk_fault *f)
{
	struct job *job = ctx;
	char words[512];

	vdisk_fault_text(f, words, sizeof(words));
	if (!job->opt->json)
		printf("%-8s %s\n", f->fixed ? "repaired" : "left", words);
	else if (json_array_size(job->faults) < MOST_FAULTS)
		json_array_append_new(
			job->faults,
			json_must(json_pack("{s:b, s:b, s:o, s:o, s:o, s:s}", "repaired", f->fixed,
					    "leak", f->kind == VDISK_FAULT_LEAK, "entry",
					    place_json(f->entry), "index", place_json(f->index),
					    "offset", place_json(f->home), "text", words)));
}

static int tell_all(const struct job *job)
{
	const struct vdisk_found *n = &job->found;
	int code = n->errors ? DAMAGED : DONE, ret;

	if (job->opt->json) {
		ret = print_json(json_must(json_pack(
			"{s:o, s:s, s:i, s:I, s:I, s:I, s:I, s:O}", "source",
			json_text(job->img->name), "repair", job->opt->repair, "exit_code", code,
			"errors", (json_int_t)n->errors, "leaks", (json_int_t)n->leaks,
			"errors_repaired", (json_int_t)n->errors_fixed, "leaks_repaired",
			(json_int_t)n->leaks_fixed, "faults", job->faults)));
	} else {
		printf("%s: %llu errors and %llu leaks were repaired, %llu errors and %llu leaks "
		       "are left\n",
		       shown(job->img->name), (unsigned long long)n->errors_fixed,
		       (unsigned long long)n->leaks_fixed, (unsigned long long)n->errors,
		       (unsigned long long)n->leaks);
		ret = finish_stdout();
	}
	return ret ? ret : code;
}

/* ---- doing it ---- */

static int fail_repair(const struct job *job, int error)
{
	if (error == ENOSPC)
		return fail(REFUSED,
			    "%s: its refcounts have to be made anew, and there is no room for them "
			    "in the file: nothing was changed. On a mounted file system, `ntfsmap "
			    "reserve` makes room",
			    job->img->name);
	if (error == EUCLEAN)
		return fail(DAMAGED, "%s: its header is damaged: nothing was changed",
			    job->img->name);
	return fail_errno(error, "%s: the repair has stopped; another one goes on", job->img->name);
}

static int repair_fd(struct job *job, int fd)
{
	enum vdisk_repair_level level =
		strcmp(job->opt->repair, "leaks") ? VDISK_REPAIR_ALL : VDISK_REPAIR_LEAKS;
	struct vdisk_error err = { 0 };
	struct vdisk_io io;
	struct vdisk *vd;
	int ret = vdisk_file_io(fd, &io);

	if (ret)
		return fail_errno(-ret, "%s", job->img->name);
	ret = vdisk_open(&io, &(struct vdisk_options){ .format = job->opt->req.format }, &vd, &err);
	if (ret)
		return image_fail(job->img, -ret, &err);
	job->faults = json_array();
	ret = vdisk_repair(vd, level, tell, job, &job->found);
	vdisk_close(vd);
	ret = ret ? fail_repair(job, -ret) : tell_all(job);
	json_decref(job->faults);
	return ret;
}

/* A regular file or a block device. */
static int repair_plain(struct job *job)
{
	const struct image *img = job->img;
	int fd = open(img->src.device, O_RDWR | O_CLOEXEC | (img->where.is_block ? O_EXCL : 0));
	char *holder = NULL;
	int code;

	if (fd < 0)
		return fail_errno(errno, "cannot open %s for writing", img->src.device);
	code = blk_check_same(img->name, img->fd, fd);
	if (!code && !img->where.is_block)
		holder = holder_lock(fd, 0);
	if (holder)
		code = fail(BUSY, "%s: %s has the file: end that first", img->name, holder);
	if (!code)
		code = repair_fd(job, fd);
	free(holder);
	close(fd);
	return code;
}

/* In a process of its own: the device is made, used and removed, whatever happens to us. */
static int repair_device(void *ctx)
{
	struct job *job = ctx;
	char *name = text("ntfsmap-repair-%d", (int)getpid());
	char *uuid = mapping_uuid(job->img, name, ROLE_REPAIR),
	     *node = text("/dev/mapper/%s", name);
	int fd, removed, code = dm_create(name, uuid, &job->img->plan, true, NULL);

	if (!code) {
		fd = open(node, O_RDWR | O_CLOEXEC | O_EXCL);
		code = fd < 0 ? fail_errno(errno, "cannot open %s", node) : repair_fd(job, fd);
		if (fd >= 0)
			close(fd);
		removed = dm_remove(name, false);
		code = code ? code : removed;
	}
	fflush(stdout);
	fflush(stderr);
	free(node);
	free(uuid);
	free(name);
	return code;
}

static int repair_on_volume(struct job *job)
{
	int code = attach_loops(job->img, false);

	if (!code)
		code = layout_plan(job->img, false, false);
	return code ? code : mapping_change(repair_device, job);
}

/* Before anything is made: is it of a kind that can be repaired? */
static int look_at_format(struct image *img, const char *format)
{
	int code = need_readable(img);

	if (!code)
		code = image_probe(img, format, NULL);
	if (!code && strcmp(vdisk_info(img->vd)->format, "qcow2"))
		code = fail(REFUSED,
			    "%s is a %s image, in which there is nothing to repair: qcow2 "
			    "only",
			    img->name, vdisk_info(img->vd)->format);
	vdisk_close(img->vd);
	img->vd = NULL;
	return code;
}

/* What `open` would refuse; then the file as it is, whatever its tables say. */
static int prepare_file(struct image *img, const struct request *req)
{
	struct facts facts = { 0 };
	int code = safety_look(img, req, &facts);

	if (!code)
		code = safety_enforce(img, &facts);
	facts_free(&facts);
	return code ? code : image_probe(img, "raw", NULL);
}

int repair_source(const char *spec, const struct options *opt)
{
	struct image img;
	struct job job = { .img = &img, .opt = opt };
	bool on_volume;
	int code;

	if (opt->req.readonly)
		return fail(USAGE, "--repair writes, and --readonly does not");
	code = image_open(spec, &img);
	if (code)
		return code;
	on_volume = img.src.kind == SOURCE_NTFS;
	code = look_at_format(&img, opt->req.format);
	if (!code && on_volume)
		code = dm_need();
	if (!code && (on_volume || !geteuid())) /* nobody else can open devices */
		code = mapping_lock();
	if (!code)
		code = prepare_file(&img, &opt->req);
	if (!code)
		code = on_volume ? repair_on_volume(&job) : repair_plain(&job);
	image_close(&img);
	return code;
}
