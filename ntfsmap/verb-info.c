// SPDX-License-Identifier: GPL-2.0-or-later
/* info, map, cat and check: the verbs that only look. They show what they can of files that must
 * not be mapped, too. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "blk.h"
#include "verb.h"

static json_t *uuid_json(const struct vdisk_info *info)
{
	const uint8_t *u = info->uuid;
	char buf[40];

	if (!info->has_uuid)
		return json_null();
	snprintf(buf, sizeof(buf),
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		 u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15]);
	return json_string(buf);
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

static json_t *image_json(const struct vdisk_info *info)
{
	return json_pack("{s:s, s:s?, s:I, s:I, s:s, s:o, s:b, s:I, s:I}", "format", info->format,
			 "subformat", info->subformat, "virtual_size",
			 (json_int_t)info->virtual_size, "file_size", (json_int_t)info->file_size,
			 "creator", info->creator, "uuid", uuid_json(info), "saved_state",
			 info->saved_state, "geometry_size", (json_int_t)info->chs_size,
			 "current_size", (json_int_t)info->current_size);
}

static json_t *info_json(const struct image *img)
{
	json_t *j = json_pack("{s:o, s:o}", "source", json_text(img->name), "image",
			      image_json(vdisk_info(img->vd)));

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
	printf("%-15s %s, %llu clusters of %u bytes, serial %016llX\n", "volume:", f->vol->device,
	       (unsigned long long)f->vol->clusters, f->vol->cluster_size,
	       (unsigned long long)f->vol->serial);
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

static void print_info(const struct image *img)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	printf("%-15s %s\n", "source:", img->name);
	printf("%-15s %s%s%s\n", "format:", info->format, info->subformat ? " " : "",
	       info->subformat ? info->subformat : "");
	print_size("virtual size:", info->virtual_size);
	print_size("file size:", info->file_size);
	if (*info->creator)
		printf("%-15s \"%s\"\n", "creator:", info->creator);
	if (info->has_uuid) {
		json_t *uuid = uuid_json(info);

		printf("%-15s %s\n", "unique id:", json_string_value(uuid));
		json_decref(uuid);
	}
	if (info->chs_size && info->chs_size != info->current_size)
		printf("%-15s current size %llu, disk geometry %llu\n",
		       "sizes:", (unsigned long long)info->current_size,
		       (unsigned long long)info->chs_size);
	if (img->file)
		print_file(img->file);
}

/* Files that hold no readable image bytes at all. */
static int need_readable(const struct image *img)
{
	if (img->file && (img->file->directory || !img->file->attr))
		return fail(REFUSED, "%s is a directory", img->name);
	if (img->file && img->file->attr_flags & 0x4000)
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

static int open_readable(const char *spec, const struct options *opt, struct image *img)
{
	int code = image_open(spec, img);

	if (code)
		return code;
	code = need_readable(img);
	if (!code)
		code = image_probe(img, opt->req.format);
	if (code)
		image_close(img);
	return code;
}

int verb_info(int argc, char **argv, const struct options *opt)
{
	struct image img;
	int code = open_readable(argv[0], opt, &img);

	(void)argc;
	if (code)
		return code;
	if (opt->json) {
		code = print_json(info_json(&img));
	} else {
		print_info(&img);
		code = finish_stdout();
	}
	image_close(&img);
	return code;
}

/* One line as qemu-img map has it, with the place on the device in addition. */
static json_t *line_json(const struct image *img, const struct vdisk_extent *line)
{
	bool hole = line->device == VDISK_HOLE;
	json_t *j = json_pack("{s:I, s:I, s:i, s:b, s:b, s:b}", "start",
			      (json_int_t)line->file * 512, "length", (json_int_t)line->count * 512,
			      "depth", 0, "present", !hole, "zero", hole, "data", !hole);

	if (!hole) {
		/* flat formats: the image file's offset is the disk's */
		json_object_set_new(j, "offset", json_integer((json_int_t)line->file * 512));
		json_object_set_new(j, "device", json_text(img->where.path));
		json_object_set_new(j, "device_offset",
				    json_integer((json_int_t)line->device * 512));
	}
	return j;
}

static int print_map(const struct image *img, const struct plan *plan, bool as_json)
{
	json_t *list = as_json ? json_array() : NULL;

	if (!as_json)
		printf("%-18s  %-18s  %-18s  %s\n", "Offset", "Length", "Mapped to", "File");
	for (size_t i = 0; i < plan->lines.n; i++) {
		const struct vdisk_extent *line = &plan->lines.v[i];

		if (as_json)
			json_array_append_new(list, json_must(line_json(img, line)));
		else if (line->device != VDISK_HOLE)
			printf("0x%-16llx  0x%-16llx  0x%-16llx  %s\n",
			       (unsigned long long)line->file * 512,
			       (unsigned long long)line->count * 512,
			       (unsigned long long)line->device * 512, img->where.path);
	}
	return as_json ? print_json(list) : finish_stdout();
}

int verb_map(int argc, char **argv, const struct options *opt)
{
	struct plan plan = { 0 };
	struct image img;
	int code = open_readable(argv[0], opt, &img);

	(void)argc;
	if (code)
		return code;
	if (img.file && img.file->resident)
		code = fail(REFUSED, "%s is inside its MFT record and has no clusters", img.name);
	else if (img.file && img.file->attr_flags & 0xff)
		code = fail(REFUSED, "%s is compressed: its clusters do not hold its bytes",
			    img.name);
	else if (img.file && img.file->runs != RUNS_GOOD)
		code = fail(DAMAGED, "%s: %s", img.name, img.file->runs_problem);
	if (!code)
		code = image_plan(&img, true, &plan);
	if (!code)
		code = print_map(&img, &plan, opt->json);
	plan_free(&plan);
	image_close(&img);
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
			code = fail_errno(-ret, "%s: cannot read byte %llu", img->name,
					  (unsigned long long)at);
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
	int code = open_readable(argv[0], opt, &img);

	(void)argc;
	if (code)
		return code;
	signal(SIGPIPE, SIG_DFL); /* `cat | head` is no failure */
	code = cat_image(&img);
	image_close(&img);
	return code ? code : finish_stdout();
}

static json_t *facts_json(const struct image *img, const struct facts *facts)
{
	json_t *list = json_array();

	for (size_t i = 0; i < facts->n; i++) {
		const struct fact *f = &facts->v[i];

		json_array_append_new(list,
				      json_must(json_pack("{s:s, s:s, s:o, s:s?}", "fact", f->name,
							  "verdict", fact_word(f), "text",
							  json_text(f->text), "allow", f->allow)));
	}
	return json_pack("{s:o, s:b, s:i, s:o}", "source", json_text(img->name), "safe",
			 !safety_verdict(facts), "exit_code", (int)safety_verdict(facts), "facts",
			 list);
}

static void print_fact(const struct fact *f)
{
	bool word = f->allow && !f->lifted;

	printf("%-8s %-13s %s%s%s\n", fact_word(f), f->name, f->text,
	       word ? "; at your own risk: --allow=" : "", word ? f->allow : "");
}

static void print_facts(const struct image *img, const struct request *req,
			const struct facts *facts)
{
	const char *mode = req->readonly ? "read-only" : "read-write";

	for (size_t i = 0; i < facts->n; i++)
		print_fact(&facts->v[i]);
	if (!img->file && img->vol)
		printf("%s: a volume; name a file on it to learn whether it can be mapped\n",
		       img->name);
	else if (safety_verdict(facts))
		printf("%s: must not be mapped %s\n", img->name, mode);
	else
		printf("%s: can be mapped %s\n", img->name, mode);
}

/* `check VOLUME` looks at the volume alone. */
static int open_for_check(const char *spec, const char *format, struct image *img)
{
	int code = image_open(spec, img);

	if (!code && !format && img->src.kind != SOURCE_NTFS && blk_is_ntfs(img->src.device))
		code = volume_open(img->src.device, &img->vol);
	if (code)
		image_close(img);
	return code;
}

/* Is there an image to look at? The facts have said why not. */
static bool has_image(const struct image *img)
{
	bool has;

	if (!img->file)
		return !img->vol;
	if (!img->file->data_size)
		return false;
	msg_hush(true);
	has = !need_readable(img);
	msg_hush(false);
	return has;
}

int verb_check(int argc, char **argv, const struct options *opt)
{
	struct facts facts;
	struct image img;
	int code = open_for_check(argv[0], opt->req.format, &img);

	(void)argc;
	if (code)
		return code;
	code = safety_look(&img, &opt->req, &facts);
	if (!code && has_image(&img))
		safety_look_image(&img, &opt->req, &facts);
	if (!code && opt->json)
		code = print_json(facts_json(&img, &facts));
	else if (!code)
		print_facts(&img, &opt->req, &facts);
	if (!code)
		code = finish_stdout();
	if (!code)
		code = safety_verdict(&facts);
	facts_free(&facts);
	image_close(&img);
	return code;
}
