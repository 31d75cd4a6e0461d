// SPDX-License-Identifier: GPL-2.0-or-later
/* table, and the way from SOURCE to a table that open and reload share with it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapping.h"
#include "verb.h"

int prepare(struct image *img, const struct request *req, struct plan *plan, struct users *users)
{
	struct facts facts;
	int code = safety_look(img, req, &facts);

	if (!code)
		code = safety_enforce(img, &facts);
	if (!code)
		code = image_probe(img, req->format);
	if (!code && vdisk_info(img->vd)->tail)
		warn("%s: the last %llu bytes do not fill a sector and are not part of the disk",
		     img->name, (unsigned long long)vdisk_info(img->vd)->tail);
	if (!code && vdisk_info(img->vd)->saved_state)
		warn("%s: it belongs to a virtual machine in a saved state, which will not expect "
		     "changes",
		     img->name);
	if (!code)
		code = image_plan(img, req->readonly, plan);
	*users = facts.users;
	facts.users = (struct users){ 0 };
	facts_free(&facts);
	return code;
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

static int print_table(const struct plan *plan, const char *name, const char *uuid)
{
	char *buf = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&buf, &len);
	bool good;
	int code;

	if (!f)
		return fail_errno(errno, "cannot print the table");
	if (name)
		fprintf(f, "%s,%s,,%s,", name, uuid, plan->readonly ? "ro" : "rw");
	good = plan_print(plan, f, name ? "," : "\n");
	good = !fclose(f) && good;
	code = good ? write_whole(buf, len) : fail_errno(ENOMEM, "cannot print the table");
	free(buf);
	return code;
}

static int refuse_claimed(const struct image *img, const struct users *u)
{
	return fail(
		BUSY,
		"%s is mounted on %s, so device-mapper cannot take it: unmount it, or unmount it "
		"and mount the view that `ntfsmap host %s NAME` makes; `ntfsmap open` works now",
		img->where.path, u->mount_point, img->where.path);
}

int verb_table(int argc, char **argv, const struct options *opt)
{
	const char *name = opt->concise ? argv[0] : NULL;
	struct users users = { 0 };
	struct plan plan = { 0 };
	struct image img;
	char *uuid = NULL;
	int code;

	if (argc != (opt->concise ? 2 : 1))
		return fail(USAGE, "table needs %s",
			    opt->concise ? "NAME and SOURCE" : "one SOURCE");
	if (opt->req.readonly && !opt->concise)
		return fail(USAGE,
			    "the lines of a plain table cannot say that the device is read-only: "
			    "ntfsmap "
			    "table --readonly --concise NAME SOURCE | dmsetup create --concise, or "
			    "ntfsmap open --readonly SOURCE NAME");
	code = name ? dm_check_name(name) : DONE;
	if (code)
		return code;
	code = image_open(argv[argc - 1], &img);
	if (code)
		return code;
	code = prepare(&img, &opt->req, &plan, &users);
	if (!code && users.claimed)
		code = refuse_claimed(&img, &users);
	if (!code && !img.where.is_block)
		note("%s is a regular file, and device-mapper needs a block device: `ntfsmap open` "
		     "makes one, or replace the name by that of a loop device",
		     img.where.path);
	if (!code && name)
		uuid = mapping_uuid(&img, name);
	if (!code)
		code = print_table(&plan, name, uuid);
	free(uuid);
	plan_free(&plan);
	users_free(&users);
	image_close(&img);
	return code;
}
