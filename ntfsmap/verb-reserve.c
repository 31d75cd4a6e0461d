// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reserve: room inside a dynamic or differencing VHD. The only verb that writes to a file: the file
 * is made longer and the footer moves to its new end. The blocks that are there stay where they
 * are. At every moment the image can be read, by the footer at its end or by the copy of it that
 * such an image begins with:
 *
 *   grow      with real allocation; durable. The footer is no longer at the end: the copy counts
 *   footer    to the new end; durable. Both are there
 *   old one   zeroed, as it is inside the new room now
 *
 * That is as good as the file system's own word. NTFS has no journal under ntfs-3g: after a power
 * cut while the file grows it may need chkdsk before the file can be read.
 *
 * What the file would look like is asked of libvdisk before anything is written: struct future is
 * the file with its new length, with the footer at its end or without.
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
#include "users.h"
#include "verb.h"

#define FOOTER	   512
#define COOKIE	   8	/* bytes, that it begins with */
#define ALIGNMENT  4096 /* of the file's new end, for disks with blocks of that size */
#define CHUNK	   (1 << 20)
#define ALL	   UINT64_MAX
#define NTFS_MAGIC 0x5346544e /* the old and the new kernel driver */
#define NTFS3	   0x7366746e
#define MAX_TRIES  4

struct future {
	int fd;
	uint64_t now, size; /* of the file: as it is, as it will be */
	bool with_footer;
	uint8_t footer[FOOTER];
};

struct job {
	const char *path;
	int fd;
	struct vdisk_io io; /* the file as it is, for reading */
	bool footer_lost;
	uint64_t block_size, total, placed; /* blocks of the disk */
	uint64_t wanted;		    /* room, in blocks */
	uint64_t room;			    /* that there will be, in bytes */
	uint64_t footer_at;		    /* where it is now */
	struct future future;
};

static int parse_size(const char *word, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned long long n;
	char *end;

	if (!strcmp(word, "all")) {
		*bytes = ALL;
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
	uint64_t end = offset + len, tail = f->size - FOOTER;
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

static int open_future(struct future *f, bool with_footer, struct vdisk **vd)
{
	struct vdisk_io io = { .ctx = f, .size = f->size, .read = future_read };

	f->with_footer = with_footer;
	return vdisk_open(&io, &(struct vdisk_options){ .format = "vhd" }, vd, NULL);
}

static int fail_tables(const struct job *job, int ret)
{
	if (ret == -EUCLEAN)
		return fail(DAMAGED, "%s: its tables are damaged: `ntfsmap check` says where",
			    job->path);
	return fail_errno(-ret, "%s: cannot read its tables", job->path);
}

/* How much room there would be. */
static int try_size(struct job *job, uint64_t size)
{
	struct vdisk_usage usage;
	struct vdisk *vd;
	int ret;

	job->future.size = size;
	ret = open_future(&job->future, true, &vd);
	if (ret)
		return fail_tables(job, ret);
	ret = vdisk_usage(vd, &usage);
	vdisk_close(vd);
	if (ret)
		return fail_tables(job, ret);
	job->room = usage.room;
	job->placed = (usage.allocated + job->block_size - 1) / job->block_size;
	return DONE;
}

/* While the footer moves, the copy at the start has to do. */
static int check_copy(struct job *job, bool copy_differs)
{
	struct vdisk *vd;
	int ret = copy_differs ? -EUCLEAN : open_future(&job->future, false, &vd);

	if (!ret)
		vdisk_close(vd);
	if (ret == -EUCLEAN || ret == -EOPNOTSUPP)
		return fail(DAMAGED,
			    "%s: the copy of the footer at its start %s, and is needed while the "
			    "footer at the end moves: attach it once in Windows, or make a new "
			    "image (qemu-img convert -O vpc)",
			    job->path, copy_differs ? "does not say the same" : "is damaged");
	return ret ? fail_tables(job, ret) : DONE;
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
		return fail_tables(job, ret);
	if (found.errors)
		return fail(DAMAGED,
			    "%s: its footer is lost, and %llu entries of its tables point where no "
			    "data are: it was cut short, and `ntfsmap check` says what is missing",
			    job->path, (unsigned long long)found.errors);
	return DONE;
}

static int look_at_image(struct job *job)
{
	const struct vdisk_info *info;
	struct vdisk_error err = { 0 };
	struct vdisk *vd;
	char words[512];
	bool differs;
	int code, ret = vdisk_file_io(job->fd, &job->io);

	job->io.write = NULL;
	if (!ret)
		ret = vdisk_open(&job->io, NULL, &vd, &err);
	if (ret && err.problem)
		vdisk_error_text(&err, words, sizeof(words));
	if (ret)
		return err.problem ? fail(exit_code_of(-ret), "%s: %s", job->path, words)
				   : fail_errno(-ret, "cannot read %s", job->path);
	info = vdisk_info(vd);
	job->block_size = info->block_size;
	job->footer_lost = info->footer_lost;
	differs = info->copy_differs;
	job->future = (struct future){ .fd = job->fd, .now = info->file_size };
	if (info->block_size)
		job->total = (info->virtual_size + info->block_size - 1) / info->block_size;
	if (strcmp(info->format, "vhd") || !info->block_size)
		code = fail(REFUSED, "%s is no dynamic or differencing VHD: nothing in it can grow",
			    job->path);
	else
		code = check_end(job, vd);
	vdisk_close(vd);
	if (code)
		return code;
	ret = read_footer(job);
	if (ret)
		return fail_errno(-ret, "%s: cannot read its footer", job->path);
	job->future.size = (job->future.now + 2 * FOOTER - 1) / FOOTER * FOOTER;
	return check_copy(job, differs);
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
	job->wanted = job->total - job->placed;
	if (bytes != ALL && (bytes + job->block_size - 1) / job->block_size < job->wanted)
		job->wanted = (bytes + job->block_size - 1) / job->block_size;
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

/* ---- doing it ---- */

static int write_all(const struct job *job, const void *buf, size_t len, uint64_t offset)
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

static int write_zeros(const struct job *job, uint64_t from, uint64_t end)
{
	char *zeros = must_alloc(CHUNK);
	int error = 0;

	while (from < end && !error) {
		size_t len = end - from < CHUNK ? end - from : CHUNK;

		error = write_all(job, zeros, len, from);
		from += len;
	}
	free(zeros);
	return error;
}

static int sync_file(const struct job *job)
{
	return fsync(job->fd) ? errno : 0;
}

/* A failure leaves the file as it was. */
static int grow(const struct job *job)
{
	const struct future *f = &job->future;
	int error;

	if (needs_writing(job->fd)) /* ntfs-3g would write all of it to allocate it, too */
		error = write_zeros(job, f->now, f->size);
	else
		error = posix_fallocate(job->fd, (off_t)f->now, (off_t)(f->size - f->now));
	if (!error)
		error = sync_file(job);
	if (!error)
		return DONE;
	if (ftruncate(job->fd, (off_t)f->now))
		warn("%s: cannot be cut to its old length again: %s", job->path, strerror(errno));
	return fail_errno(error, "%s: cannot make it %llu bytes longer", job->path,
			  (unsigned long long)(f->size - f->now));
}

static int forget_old_footer(const struct job *job)
{
	int error = write_zeros(job, job->footer_at, job->future.now);

	return error ? error : sync_file(job);
}

static int move_footer(const struct job *job)
{
	int error = write_all(job, job->future.footer, FOOTER, job->future.size - FOOTER);

	if (!error)
		error = sync_file(job);
	if (error)
		return fail_errno(error,
				  "%s: cannot write the footer; the image is whole by the copy at "
				  "its start, and this command can be given again",
				  job->path);
	error = job->footer_lost ? 0 : forget_old_footer(job);
	return error ? fail_errno(error, "%s: cannot zero the old footer", job->path) : DONE;
}

static int reserve(struct job *job, uint64_t bytes)
{
	int code = choose_size(job, bytes);

	if (code)
		return code;
	if (job->future.size == job->future.now && !job->footer_lost) {
		note("%s: there is room for %s already", job->path, human_size(job->room));
		return DONE;
	}
	code = grow(job);
	if (!code)
		code = move_footer(job);
	if (code)
		return code;
	if (job->footer_lost)
		note("%s: its footer was lost, and is back", job->path);
	note("%s: there is room for %s now, in a file that is %s longer", job->path,
	     human_size(job->room), human_size(job->future.size - job->future.now));
	return DONE;
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
		code = look_at_image(&job);
	if (!code)
		code = reserve(&job, bytes);
	if (job.fd >= 0)
		close(job.fd);
	return code;
}
