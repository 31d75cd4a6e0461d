// SPDX-License-Identifier: GPL-2.0-or-later
/* table, and the way from SOURCE to a table that open and reload share with it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bases.h"
#include "chain.h"
#include "layout.h"
#include "mapping.h"
#include "tab.h"
#include "verb.h"

static void warn_of_image(const struct image *img)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	if (info->tail)
		warn("%s: the last %llu bytes do not fill a sector and are not part of the disk",
		     img->name, (unsigned long long)info->tail);
	if (info->saved_state)
		warn("%s: it belongs to a virtual machine in a saved state, which will not expect "
		     "changes",
		     img->name);
}

/* Wrong tables may be read, as far as they go; writing with them destroys more. */
static int check_tables(struct image *img, const struct request *req)
{
	struct facts facts = { 0 };
	int code;

	if (req->readonly || req->as_static)
		return DONE;
	safety_look_tables(img, req, &facts);
	code = safety_enforce(img, &facts);
	facts_free(&facts);
	return code;
}

/* A file beside the image's own, which live (or NULL) maps now. Its volume has been looked at with
 * that of the image: only objections are told. */
static int check_file(struct image *img, struct request req, const struct dm_device *live)
{
	struct facts facts = { 0 };
	struct mapping m = { 0 };
	int code;

	if (live && mapping_of(live, &m)) {
		req.except = live->name;
		req.except_loop = m.table_dev;
	}
	warn_of_image(img);
	code = safety_look(img, &req, &facts);
	if (!code && safety_verdict(&facts))
		code = safety_enforce(img, &facts);
	facts_free(&facts);
	mapping_free(&m);
	return code;
}

static void warn_of_stale(const struct image *img)
{
	if (img->stale)
		warn("%s: its parent %s was changed after it was made: what they show together may "
		     "be damaged",
		     img->name, img->parent->name);
}

/* Data files and parents. */
static int check_files(struct image *img, const struct request *req)
{
	struct request own = *req, parent = safety_of_parent(req);
	const struct dm_device *live = req->live;
	int code = DONE;

	for (; img && !code; img = img->parent, own = parent) {
		if (img->data)
			code = check_file(img->data, safety_of_data(&own),
					  chain_data_device(live, req->devices));
		if (code || !img->parent)
			continue;
		warn_of_stale(img);
		live = chain_device(live, req->devices, 1);
		code = check_file(img->parent, parent, live);
	}
	return code;
}

int prepare(struct image *img, const struct request *req)
{
	struct chain_sources given = { req->parent, req->data, req->readonly };
	struct facts facts = { 0 };
	int code = safety_look(img, req, &facts);

	if (!code)
		code = safety_enforce(img, &facts);
	facts_free(&facts);
	if (!code)
		code = image_probe(img, req->format, req->snapshot);
	if (code)
		return code;
	warn_of_image(img);
	code = check_tables(img, req);
	if (!code)
		code = req->live ? chain_open_live(img, req->live, req->devices)
				 : chain_open(img, &given);
	if (!code)
		code = chain_check_places(img);
	return code ? code : check_files(img, req);
}

int finish_stdout(void)
{
	if (fflush(stdout) || ferror(stdout))
		return fail_errno(errno, "cannot write to standard output");
	return DONE;
}

/* As much as can be written in one piece: all, unless it is a pipe that cannot be made so large
 * (only root may go beyond a limit); then whole lines that a pipe takes at once. */
static size_t piece_of(const char *buf, size_t len, bool whole)
{
	const char *last;

	if (whole || len <= PIPE_BUF)
		return len;
	last = memrchr(buf, '\n', PIPE_BUF);
	return last ? (size_t)(last + 1 - buf) : len;
}

/* A reader must never get half a table because we were killed, and never half a line: the end of a
 * number would be another place on the disk. */
static int write_whole(const char *buf, size_t len)
{
	int room = fcntl(STDOUT_FILENO, F_GETPIPE_SZ);
	bool whole = room < 0 || fcntl(STDOUT_FILENO, F_SETPIPE_SZ, (int)len) >= (int)len;

	while (len) {
		ssize_t n = write(STDOUT_FILENO, buf, piece_of(buf, len, whole));

		if (n < 0 && errno != EINTR)
			return fail_errno(errno, "cannot write the table");
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
	}
	return DONE;
}

/* One device of a line for `dmsetup create --concise`. */
static bool print_concise(struct image *img, FILE *f, const char *own, enum mapping_role role)
{
	char *uuid = mapping_uuid(img, own, role);
	bool good;

	fprintf(f, "%s,%s,,%s,", own, uuid, img->plan.readonly ? "ro" : "rw");
	good = plan_print(&img->plan, f, true);
	free(uuid);
	return good;
}

static bool print_data(struct image *img, FILE *f, const char *owner, enum mapping_role role)
{
	char *own = data_name(owner);
	bool good = print_concise(img->data, f, own, role);

	fputc(';', f);
	img->plan.data = text("/dev/mapper/%s", own);
	free(own);
	return good;
}

/* Data files and parents first; they are called by their nodes. */
static bool print_chain(struct image *img, FILE *f, const char *name, unsigned int depth)
{
	enum mapping_role role = depth ? ROLE_BASE : ROLE_IMAGE;
	char *own = base_name(name, depth);
	bool good = true;

	if (img->data && img->plan.format)
		good = print_data(img, f, own, depth ? ROLE_BASE : ROLE_DATA);
	if (good && img->parent && img->plan.format) {
		char *parent = base_name(name, depth + 1);

		good = print_chain(img->parent, f, name, depth + 1);
		fputc(';', f);
		img->plan.parent = text("/dev/mapper/%s", parent);
		free(parent);
	}
	good = good && print_concise(img, f, own, role);
	free(own);
	return good;
}

static int print_table(struct image *img, const char *name)
{
	char *buf = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&buf, &len);
	bool good;
	int code;

	if (!f)
		return fail_errno(errno, "cannot print the table");
	good = name ? print_chain(img, f, name, 0) : plan_print(&img->plan, f, false);
	fputc('\n', f);
	good = !ferror(f) && good;
	good = !fclose(f) && good;
	code = good ? write_whole(buf, len) : fail_errno(ENOMEM, "cannot print the table");
	free(buf);
	return code;
}

static int refuse_claimed(const struct image *img)
{
	return fail(
		BUSY,
		"%s is mounted on %s, so device-mapper cannot take it: unmount it, or unmount it "
		"and mount the view that `ntfsmap host %s NAME` makes; `ntfsmap open` works now",
		img->where.path, img->users.mount_point, img->where.path);
}

static int check_usage(const struct options *opt, int argc)
{
	const char *word = opt->req.as_static  ? "static"
			   : opt->req.snapshot ? "snapshot=ID"
					       : "readonly";

	if (argc != (opt->concise ? 2 : 1))
		return fail(USAGE, "table needs %s",
			    opt->concise ? "NAME and SOURCE" : "one SOURCE");
	if (!opt->concise && (opt->req.readonly || opt->req.as_static))
		return fail(USAGE,
			    "the lines of a plain table cannot say that the device is read-only: "
			    "ntfsmap table --%s --concise NAME SOURCE | dmsetup create --concise, "
			    "or ntfsmap open --%s SOURCE NAME",
			    word, word);
	return DONE;
}

/* What else keeps the table from being used. */
static int check_printable(const struct image *img, const char *name)
{
	const struct image *root = img;

	if (image_next(img, img) && !name)
		return fail(REFUSED,
			    "%s has a %s, so it takes several devices: ntfsmap table --concise "
			    "NAME SOURCE | dmsetup create --concise, or ntfsmap open SOURCE NAME",
			    img->name, img->data ? "data file" : "parent");
	if (img->parent)
		note("make the devices at once: until they are there, nothing keeps a parent from "
		     "being opened read-write, which would destroy %s",
		     img->name);
	for (; img; img = image_next(root, img)) {
		if (img->users.claimed)
			return refuse_claimed(img);
		if (!img->where.is_block && tab_has_control(img->where.path))
			return fail(REFUSED,
				    "%s: there is a control character in it, which a table cannot "
				    "have: rename the file",
				    img->where.path);
		if (!img->where.is_block && !img->shares_volume)
			note("%s is a regular file, and device-mapper needs a block device: "
			     "`ntfsmap open` makes one, or replace the name by that of a loop "
			     "device",
			     img->where.path);
	}
	return DONE;
}

int verb_table(int argc, char **argv, const struct options *opt)
{
	const char *name = opt->concise ? argv[0] : NULL;
	struct image img;
	int code = check_usage(opt, argc);

	if (!code && name)
		code = dm_check_name(name);
	if (!code)
		code = image_open(argv[argc - 1], &img);
	if (code)
		return code;
	code = prepare(&img, &opt->req);
	if (!code)
		code = check_printable(&img, name);
	if (!code)
		code = layout_chain(&img, opt->req.readonly, opt->req.as_static);
	if (!code)
		code = print_table(&img, name);
	image_close(&img);
	return code;
}
