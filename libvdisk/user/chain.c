// SPDX-License-Identifier: GPL-2.0-or-later
/* An image in an ordinary file, with its parents and its data file. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#define PATH_BYTES 4096

static int fd_of(const struct vdisk_io *io)
{
	return (int)(intptr_t)io->ctx;
}

/* A pipe is not to be waited for. */
static int open_path(const char *path, int flags, struct vdisk_io *io)
{
	int fd = open(path, (flags & VDISK_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	int ret;

	if (fd < 0)
		return -errno;
	ret = vdisk_file_io(fd, io);
	if (ret)
		close(fd);
	return ret;
}

static int close_one(struct vdisk *vd)
{
	struct vdisk_io image = vd->io, data = host_of(vd)->data;
	int ret = vdisk_close(vd);

	if (data.read)
		close(fd_of(&data));
	close(fd_of(&image));
	return ret;
}

int vdisk_close_files(struct vdisk *vd)
{
	int ret = 0;

	while (vd) {
		struct vdisk *parent = vdisk_parent(vd);
		int one = close_one(vd);

		if (!ret)
			ret = one;
		vd = parent;
	}
	return ret;
}

/* ---- files that an image names ---- */

/* How a path is made of a name. */
enum place { AS_IT_IS, IN_FOLDER, LAST_PART };

/*
 * The n-th place where one may be: relative to the child's folder. An absolute path is tried as it
 * is if it is one of Linux, and then by its last part in the child's folder, because where a drive
 * is mounted only the user knows. false: no more.
 */
static bool get_place(const struct vdisk_locator *l, bool posix, unsigned int n, enum place *place)
{
	enum place places[2];
	unsigned int count = 0;

	if (!l->absolute)
		places[count++] = IN_FOLDER;
	if (l->absolute && posix)
		places[count++] = AS_IT_IS;
	if (l->absolute)
		places[count++] = LAST_PART;
	if (n >= count)
		return false;
	*place = places[n];
	return true;
}

static void make_path(const char *child, const char *name, enum place place, char *path,
		      size_t size)
{
	const char *slash = strrchr(child, '/');
	int folder = slash && place != AS_IT_IS ? (int)(slash - child + 1) : 0;

	if (place == LAST_PART)
		name = strrchr(name, '/') + 1;
	if ((size_t)snprintf(path, size, "%.*s%s", folder, child, name) >= size)
		path[0] = '\0'; /* too long for a file to be there */
}

static int next_name(struct vdisk *vd, enum vdisk_other other, unsigned int n,
		     struct vdisk_locator *l, bool *posix, struct vdisk_error *err)
{
	if (other == VDISK_BACKING_FILE)
		return vdisk_next_locator(vd, n, l, posix, err);
	l->format = NULL;
	return vdisk_other_file(vd, other, n, l, posix, err);
}

static int not_there(enum vdisk_other other, const char *name, struct vdisk_error *err)
{
	bool data = other == VDISK_DATA_FILE;
	struct vdisk_error what = { .field = data ? "data file name" : "parent locators",
				    .problem = "name no file that is there",
				    .advice =
					    data ? "put it beside the image" : "name the parent" };

	vdisk_quote(name, strlen(name), &what);
	return vdisk_fail(err, -ENOENT, what);
}

/* Is file in the folder of the image at child, or below it, links followed? */
static bool is_below(const char *child, const char *file)
{
	char *own = realpath(child, NULL), *real = realpath(file, NULL);
	const char *slash = own ? strrchr(own, '/') : NULL;
	bool below = slash && real && !strncmp(real, own, (size_t)(slash - own) + 1);

	free(own);
	free(real);
	return below;
}

/* A hostile image can name anything: it gets no device, nothing of another file system, and as a
 * place for its data nothing outside its folder. */
static int check_named(struct vdisk *vd, enum vdisk_other other, const char *child,
		       const char *path, struct vdisk_error *err)
{
	bool data = other == VDISK_DATA_FILE;
	struct vdisk_error what = { .field = data ? "data file name" : "parent locators" };
	struct stat st, own;

	if (stat(path, &st))
		return -errno;
	if (fstat(fd_of(&vd->io), &own))
		return -errno;
	if (!S_ISREG(st.st_mode))
		what.problem = "leads to what is no regular file";
	else if (st.st_dev != own.st_dev)
		what.problem = "leads to another file system";
	else if (data && !is_below(child, path))
		what.problem = "leads out of the folder of the image";
	else
		return 0;
	what.advice = data ? "put it beside the image" : "name the parent";
	vdisk_quote(path, strlen(path), &what);
	return vdisk_fail(err, -EPERM, what);
}

/* What to do with a file that was named. -ENOENT, and no words in err: there is none. */
typedef int (*attempt)(struct vdisk *vd, const char *path, const char *format, int flags,
		       struct vdisk_error *err);

/* The first file that will do; path is its name then. None: what was wrong with the last one that
 * is there. */
static int find_file(struct vdisk *vd, enum vdisk_other other, const char *child, int flags,
		     attempt take, char *path, size_t size, struct vdisk_error *err)
{
	struct vdisk_locator l = { 0 };
	struct vdisk_error one = { 0 }, why = { 0 };
	int ret = 0, last = -ENOENT;
	enum place place;
	bool posix;

	for (unsigned int n = 0; !ret; n++) {
		ret = next_name(vd, other, n, &l, &posix, &one);
		for (unsigned int i = 0; !ret && get_place(&l, posix, i, &place); i++) {
			int taken;

			make_path(child, l.path, place, path, size);
			taken = check_named(vd, other, child, path, &one);
			if (!taken)
				taken = take(vd, path, l.format, flags, &one);
			if (!taken)
				return 0;
			if (taken != -ENOENT || one.problem) {
				last = taken;
				why = one;
			}
			one = (struct vdisk_error){ 0 };
		}
	}
	if (ret != -ENOENT || one.problem)
		return vdisk_fail(err, ret, one);
	if (last == -ENOENT && !why.problem)
		return not_there(other, l.path, err);
	return vdisk_fail(err, last, why);
}

/* Writing to the disk must not change the tables that tell where it is. */
static bool same_file(const struct vdisk_io *a, const struct vdisk_io *b)
{
	struct stat x, y;

	return !fstat(fd_of(a), &x) && !fstat(fd_of(b), &y) && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static int take_data(struct vdisk *vd, const char *path, const char *format, int flags,
		     struct vdisk_error *err)
{
	struct vdisk_io io;
	int ret = open_path(path, flags, &io);

	(void)format; /* it is raw */
	if (ret)
		return ret;
	if (same_file(&io, &vd->io))
		ret = vdisk_fail(err, -EUCLEAN,
				 (struct vdisk_error){ .field = "data file name",
						       .problem = "is that of the image itself" });
	else
		ret = vdisk_set_data(vd, &io, err);
	if (ret)
		close(fd_of(&io));
	return ret;
}

/* An image without its parent. */
static int open_one(const char *path, int flags, const struct vdisk_options *options,
		    struct vdisk **vd, struct vdisk_error *err)
{
	char data[PATH_BYTES];
	struct vdisk_io io;
	int ret = open_path(path, flags, &io);

	if (ret)
		return ret;
	ret = vdisk_open(&io, options, vd, err);
	if (ret) {
		close(fd_of(&io));
		return ret;
	}
	if ((*vd)->info.needs_data)
		ret = find_file(*vd, VDISK_DATA_FILE, path, flags, take_data, data, sizeof(data),
				err);
	if (ret)
		close_one(*vd);
	return ret;
}

static int take_parent(struct vdisk *vd, const char *path, const char *format, int flags,
		       struct vdisk_error *err)
{
	struct vdisk_options options = { .format = format };
	struct vdisk *parent;
	int ret = open_one(path, flags, &options, &parent, err);

	if (!ret) {
		ret = vdisk_set_parent(vd, parent, err);
		if (ret)
			close_one(parent);
	}
	return ret;
}

/* What the user names may have been converted: its format is the image's word only if that is one
 * of ours. Else what it looks like. */
static int take_named(struct vdisk *vd, const char *path, struct vdisk_error *err)
{
	const char *format = NULL;

	if (vdisk_backing_format(vd, &format, NULL))
		format = NULL;
	return take_parent(vd, path, format, 0, err);
}

int vdisk_open_file(const char *path, int flags, const struct vdisk_options *options,
		    struct vdisk **out, struct vdisk_error *err)
{
	const char *parent = options ? options->parent : NULL;
	char child[PATH_BYTES], next[PATH_BYTES];
	unsigned int n = 1;
	struct vdisk *vd;
	int ret = open_one(path, flags, options, out, err);

	if (ret)
		return ret;
	if ((size_t)snprintf(child, sizeof(child), "%s", path) >= sizeof(child))
		ret = -ENAMETOOLONG;
	for (vd = *out; !ret && vd->info.needs_parent; vd = vdisk_parent(vd)) {
		bool named = parent && vd == *out;

		if (n++ == VDISK_CHAIN_MAX)
			ret = -ELOOP; /* a file that is its own grandparent ends here too */
		else if (named)
			ret = take_named(vd, parent, err);
		else
			ret = find_file(vd, VDISK_BACKING_FILE, child, 0, take_parent, next,
					sizeof(next), err);
		if (ret)
			break;
		snprintf(child, sizeof(child), "%s", named ? parent : next);
	}
	if (ret)
		vdisk_close_files(*out);
	return ret;
}
