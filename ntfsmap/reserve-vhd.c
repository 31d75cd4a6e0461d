// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reserve in a dynamic or differencing VHD: the file is made longer and the footer moves to its new
 * end. The blocks that are there stay where they are. At every moment the image can be read, by the
 * footer at its end or by the copy of it that such an image begins with:
 *
 *   grow      with real allocation; durable. The footer is no longer at the end: the copy counts
 *   footer    to the new end; durable. Both are there
 *   old one   zeroed, as it is inside the new room now
 */
#include <errno.h>
#include <string.h>

#include "reserve.h"

#define FOOTER	  RESERVE_FOOTER
#define ALIGNMENT RESERVE_ALIGNMENT
#define COOKIE	  8 /* bytes, that it begins with */
#define MAX_TRIES 4

/* How much room there would be. */
static int try_size(struct job *job, uint64_t size)
{
	struct vdisk_usage usage;
	struct vdisk *vd;
	int ret;

	job->future.size = size;
	ret = reserve_open_future(&job->future, "vhd", true, &vd);
	if (ret)
		return reserve_fail_tables(job, ret);
	ret = vdisk_usage(vd, &usage);
	vdisk_close(vd);
	if (ret)
		return reserve_fail_tables(job, ret);
	job->room = usage.room;
	job->placed = (usage.allocated + job->block_size - 1) / job->block_size;
	return DONE;
}

/* While the footer moves, the copy at the start has to do. */
static int check_copy(struct job *job, bool copy_differs)
{
	struct vdisk *vd;
	int ret = copy_differs ? -EUCLEAN : reserve_open_future(&job->future, "vhd", false, &vd);

	if (!ret)
		vdisk_close(vd);
	if (ret == -EUCLEAN || ret == -EOPNOTSUPP)
		return fail(DAMAGED,
			    "%s: the copy of the footer at its start %s, and is needed while the "
			    "footer at the end moves: attach it once in Windows, or make a new "
			    "image (qemu-img convert -O vpc)",
			    job->path, copy_differs ? "does not say the same" : "is damaged");
	return ret ? reserve_fail_tables(job, ret) : DONE;
}

/* The one at the end, of 512 bytes or as old programs wrote it without the last; else the copy. */
static int read_footer(struct job *job)
{
	struct future *f = &job->future;
	uint8_t last[FOOTER + 1] = { 0 };
	int ret = job->io.read(job->io.ctx, 0, f->footer, FOOTER);
	size_t cut;

	if (ret || job->footer_lost)
		return ret;
	ret = job->io.read(job->io.ctx, f->now - FOOTER, last, FOOTER);
	cut = memcmp(last, f->footer, COOKIE) ? 1 : 0;
	job->footer_at = f->now - FOOTER + cut;
	memcpy(f->footer, last + cut, FOOTER);
	return ret;
}

/* A footer may be lost because the file was cut short, and blocks with it: longer, the file would
 * have zeros in their place, and nothing would tell. */
static int check_end(const struct job *job, struct vdisk *vd)
{
	struct vdisk_found found = { 0 };
	int ret = vdisk_info(vd)->footer_lost ? vdisk_check(vd, NULL, NULL, &found) : 0;

	if (ret)
		return reserve_fail_tables(job, ret);
	if (found.errors)
		return fail(DAMAGED,
			    "%s: its footer is lost, and %llu entries of its tables point where no "
			    "data are: it was cut short, and `ntfsmap check` says what is missing",
			    job->path, (unsigned long long)found.errors);
	return DONE;
}

/* Blocks begin on a boundary and have a bitmap in front. */
static uint64_t longer_by(const struct job *job, uint64_t blocks)
{
	uint64_t bitmap = job->block_size / 512 / 8;

	bitmap = (bitmap + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	return blocks * (job->block_size + bitmap);
}

/* The new size of the file, in job->future. */
static int choose_size(struct job *job, uint64_t bytes)
{
	bool whole = !job->footer_lost && job->future.now % FOOTER == 0;
	uint64_t size = whole ? job->future.now : job->future.size;
	int code = try_size(job, size);

	if (code)
		return code;
	job->wanted = reserve_blocks(job, bytes);
	for (int i = 0; !code && job->room / job->block_size < job->wanted; i++) {
		if (i == MAX_TRIES)
			return fail(REFUSED, "%s: a VHD cannot be long enough for that", job->path);
		size += longer_by(job, job->wanted - job->room / job->block_size) +
			(i ? 0 : longer_by(job, 1) - job->block_size + 2 * ALIGNMENT);
		size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
		code = try_size(job, size);
	}
	return code;
}

static int forget_old_footer(const struct job *job)
{
	int error = reserve_zero(job, job->footer_at, job->future.now);

	return error ? error : reserve_sync(job);
}

static int move_footer(const struct job *job)
{
	int error = reserve_write(job, job->future.footer, FOOTER, job->future.size - FOOTER);

	if (!error)
		error = reserve_sync(job);
	if (error)
		return fail_errno(error,
				  "%s: cannot write the footer; the image is whole by the copy at "
				  "its start, and this command can be given again",
				  job->path);
	error = job->footer_lost ? 0 : forget_old_footer(job);
	return error ? fail_errno(error, "%s: cannot zero the old footer", job->path) : DONE;
}

/* Longer if need be, and with a footer at its end. */
static int resize(struct job *job, uint64_t bytes)
{
	int code = choose_size(job, bytes);

	if (code)
		return code;
	if (job->future.size == job->future.now && !job->footer_lost) {
		note("%s: there is room for %s already", job->path, human_size(job->room));
		return DONE;
	}
	code = reserve_grow(job);
	if (!code)
		code = move_footer(job);
	if (code)
		return code;
	if (job->footer_lost)
		note("%s: its footer was lost, and is back", job->path);
	reserve_told(job);
	return DONE;
}

int reserve_vhd(struct job *job, struct vdisk *vd, uint64_t bytes)
{
	const struct vdisk_info *info = vdisk_info(vd);
	int ret, code;

	job->footer_lost = info->footer_lost;
	code = check_end(job, vd);
	if (code)
		return code;
	ret = read_footer(job);
	if (ret)
		return fail_errno(-ret, "%s: cannot read its footer", job->path);
	job->future.size = (job->future.now + 2 * FOOTER - 1) / FOOTER * FOOTER;
	code = check_copy(job, info->copy_differs);
	return code ? code : resize(job, bytes);
}
