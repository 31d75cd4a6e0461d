// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reserve: room inside an image. The only verb beside `check --repair` that writes to a file: the
 * file is made longer, with real allocation, and nothing that is in it moves. What else has to be
 * done is the format's: reserve-vhd.c, reserve-qcow.c.
 *
 * That is as good as the file system's own word. NTFS has no journal under ntfs-3g: after a power
 * cut while the file grows it may need chkdsk before the file can be read.
 *
 * What the file would look like is asked of libvdisk before anything is written: struct future is
 * the file with its new length.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "blk.h"
#include "holder.h"
#include "reserve.h"
#include "users.h"
#include "verb.h"

#define CHUNK	   (1 << 20)
#define NTFS_MAGIC 0x5346544e /* the old and the new kernel driver */
#define NTFS3	   0x7366746e

static int parse_size(const char *word, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned long long n;
	char *end;

	if (!strcmp(word, "all")) {
		*bytes = RESERVE_ALL;
		return DONE;
	}
	errno = 0;
	n = strtoull(word, &end, 10);
	suffix = *end ? strchr(suffixes, *end) : NULL;
	if (*word < '0' || *word > '9' || errno || !n || (*end && (!suffix || end[1])))
		return fail(USAGE,
			    "\"%s\" is no size: a number of bytes, with K, M, G or T, or all",
			    word);
	for (int i = 0; suffix && i <= suffix - suffixes; i++) {
		if (n > UINT64_MAX / 2 / 1024)
			return fail(USAGE, "the size %s is too large", word);
		n *= 1024;
	}
	*bytes = n;
	return DONE;
}

/* ---- the file, and that nobody else has it ---- */

static int refuse_kind(const char *path)
{
	struct source src;
	int code = source_resolve(path, &src);

	if (!code)
		code = fail(REFUSED,
			    "%s: reserve makes a file longer, which only a mounted file system can "
			    "do: start Windows or shut it down fully, mount the volume read-write "
			    "and name the file by its path there",
			    path);
	source_free(&src);
	return code;
}

static int open_file(struct job *job)
{
	struct stat st;

	if (stat(job->path, &st) || !S_ISREG(st.st_mode))
		return refuse_kind(job->path);
	job->fd = open(job->path, O_RDWR | O_CLOEXEC);
	if (job->fd < 0 && errno == EROFS)
		return fail(REFUSED, "%s is on a file system that is mounted read-only", job->path);
	if (job->fd < 0)
		return fail_errno(errno, "cannot open %s for writing", job->path);
	if ((uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size)
		warn("%s is sparse already: such a file can be mapped read-only at most, unless it "
		     "is copied in full",
		     job->path);
	return DONE;
}

static int lock_file(const struct job *job)
{
	char *holder = holder_lock(job->fd, 0);
	int code =
		holder ? fail(BUSY, "%s is in use by %s: end that first", job->path, holder) : DONE;

	free(holder);
	return code;
}

/* NTFS remembers how far a file was written, and what lies behind that mark cannot be mapped. */
static bool needs_writing(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) || fs.f_type == FUSE_SUPER_MAGIC || fs.f_type == NTFS_MAGIC ||
	       fs.f_type == NTFS3;
}

/* A volume that was mounted read-only may have been opened through a loop device, and mounted
 * read-write since. What grows then may take clusters that have been written from below. */
static int check_volume(const struct job *job)
{
	struct users users = { 0 };
	struct stat st;
	struct where at = { .is_block = true };
	char *node, *sectors;
	int code = DONE;

	if (!needs_writing(job->fd) || fstat(job->fd, &st) || !major(st.st_dev))
		return DONE;
	at.rdev = st.st_dev;
	at.path = node = blk_node(st.st_dev);
	sectors = blk_attr(st.st_dev, "size");
	at.sectors = sectors ? strtoull(sectors, NULL, 10) : 0;
	if (node)
		code = users_find(&at, NULL, NULL, NULL, &users);
	if (!code && (users.writer || users.reader))
		code = fail(REFUSED,
			    "%s is on %s, and %s maps clusters of that volume: close it first",
			    job->path, node, users.writer ? users.writer : users.reader);
	else if (!code && users.perhaps)
		code = fail(REFUSED,
			    "%s is on %s, which a device-mapper device uses, and only root can see "
			    "how: run this as root",
			    job->path, node);
	users_free(&users);
	free(node);
	free(sectors);
	return code;
}

/* ---- what it is, and what it will be ---- */

static int future_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	const struct future *f = ctx;
	uint64_t end = offset + len, tail = f->size - RESERVE_FOOTER;
	size_t have = offset >= f->now ? 0 : end <= f->now ? len : (size_t)(f->now - offset);

	memset((char *)buf + have, 0, len - have);
	for (size_t done = 0; done < have;) {
		ssize_t n = pread(f->fd, (char *)buf + done, have - done, (off_t)(offset + done));

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	if (f->with_footer && end > tail) {
		uint64_t from = offset > tail ? offset : tail;

		memcpy((char *)buf + (from - offset), f->footer + (from - tail), end - from);
	}
	return 0;
}

int reserve_open_future(struct future *f, const char *format, bool with_footer, struct vdisk **vd)
{
	struct vdisk_io io = { .ctx = f, .size = f->size, .read = future_read };

	f->with_footer = with_footer;
	return vdisk_open(&io, &(struct vdisk_options){ .format = format }, vd, NULL);
}

int reserve_fail_tables(const struct job *job, int ret)
{
	if (ret == -EUCLEAN)
		return fail(DAMAGED, "%s: its tables are damaged: `ntfsmap check` says where",
			    job->path);
	return fail_errno(-ret, "%s: cannot read its tables", job->path);
}

uint64_t reserve_blocks(const struct job *job, uint64_t bytes)
{
	uint64_t all = job->total > job->placed ? job->total - job->placed : 0;

	if (bytes == RESERVE_ALL || (bytes - 1) / job->block_size + 1 > all)
		return all;
	return (bytes - 1) / job->block_size + 1;
}

/* What has to be known of it in any format. */
static int open_image(struct job *job, struct vdisk **vd)
{
	const struct vdisk_info *info;
	struct vdisk_error err = { 0 };
	char words[512];
	int ret = vdisk_file_io(job->fd, &job->io);

	job->io.write = NULL;
	if (!ret)
		ret = vdisk_open(&job->io, NULL, vd, &err);
	if (ret && err.problem)
		vdisk_error_text(&err, words, sizeof(words));
	if (ret)
		return err.problem ? fail(exit_code_of(-ret), "%s: %s", job->path, words)
				   : fail_errno(-ret, "cannot read %s", job->path);
	info = vdisk_info(*vd);
	job->block_size = info->block_size;
	job->future = (struct future){ .fd = job->fd, .now = info->file_size };
	if (info->block_size)
		job->total = (info->virtual_size + info->block_size - 1) / info->block_size;
	return DONE;
}

static int reserve(struct job *job, uint64_t bytes)
{
	struct vdisk *vd;
	int code = open_image(job, &vd);

	if (code)
		return code;
	if (!job->block_size)
		code = fail(
			REFUSED,
			"%s is no dynamic or differencing VHD, qcow or qcow2: nothing in it can "
			"grow",
			job->path);
	else if (!strcmp(vdisk_info(vd)->format, "vhd"))
		code = reserve_vhd(job, vd, bytes);
	else
		code = reserve_qcow(job, vd, bytes);
	vdisk_close(vd);
	return code;
}

/* ---- doing it ---- */

int reserve_write(const struct job *job, const void *buf, size_t len, uint64_t offset)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(job->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? errno : EIO;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int reserve_zero(const struct job *job, uint64_t from, uint64_t end)
{
	char *zeros = must_alloc(CHUNK);
	int error = 0;

	while (from < end && !error) {
		size_t len = end - from < CHUNK ? end - from : CHUNK;

		error = reserve_write(job, zeros, len, from);
		from += len;
	}
	free(zeros);
	return error;
}

int reserve_sync(const struct job *job)
{
	return fsync(job->fd) ? errno : 0;
}

int reserve_grow(const struct job *job)
{
	const struct future *f = &job->future;
	int error;

	if (needs_writing(job->fd)) /* ntfs-3g would write all of it to allocate it, too */
		error = reserve_zero(job, f->now, f->size);
	else
		error = posix_fallocate(job->fd, (off_t)f->now, (off_t)(f->size - f->now));
	if (!error)
		error = reserve_sync(job);
	if (!error)
		return DONE;
	if (ftruncate(job->fd, (off_t)f->now))
		warn("%s: cannot be cut to its old length again: %s", job->path, strerror(errno));
	return fail_errno(error, "%s: cannot make it %llu bytes longer", job->path,
			  (unsigned long long)(f->size - f->now));
}

void reserve_told(const struct job *job)
{
	note("%s: there is room for %s now, in a file that is %s longer", job->path,
	     human_size(job->room), human_size(job->future.size - job->future.now));
}

int verb_reserve(int argc, char **argv, const struct options *opt)
{
	struct job job = { .path = argv[0], .fd = -1 };
	uint64_t bytes = 0;
	int code = parse_size(argv[1], &bytes);

	(void)argc, (void)opt;
	if (!code)
		code = open_file(&job);
	if (!code)
		code = lock_file(&job);
	if (!code)
		code = check_volume(&job);
	if (!code)
		code = reserve(&job, bytes);
	if (job.fd >= 0)
		close(job.fd);
	return code;
}
