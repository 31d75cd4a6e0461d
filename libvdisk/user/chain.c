// SPDX-License-Identifier: GPL-2.0-or-later
/* An image in an ordinary file, with its parents. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "host.h"

static int open_one(const char *path, int flags, const struct vdisk_options *options,
		    struct vdisk **vd, struct vdisk_error *err)
{
	/* A locator may name a pipe: not to be waited for. */
	int fd = open(path, (flags & VDISK_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	struct vdisk_io io;
	int ret;

	if (fd < 0)
		return -errno;
	ret = vdisk_file_io(fd, &io);
	if (!ret)
		ret = vdisk_open(&io, options, vd, err);
	if (ret)
		close(fd);
	return ret;
}

static int close_one(struct vdisk *vd)
{
	int fd = (int)(intptr_t)vd->io.ctx;
	int ret = vdisk_close(vd);

	close(fd);
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

/* A path beside the child: a relative locator as it is, an absolute one by its last part, because
 * where its drive is mounted only the user knows. */
static bool beside(const char *child, const struct vdisk_locator *l, char *path, size_t size)
{
	const char *slash = strrchr(child, '/');
	const char *name = l->path;
	int folder = slash ? (int)(slash - child + 1) : 0;

	if (l->absolute)
		name = strrchr(name, '/') + 1;
	return (size_t)snprintf(path, size, "%.*s%s", folder, child, name) < size;
}

/* The first locator behind which a file is that has the right unique id. Not found: what was
 * wrong with the last one that is there. */
static int find_parent(struct vdisk *vd, const char *child, char *path, size_t size,
		       struct vdisk **parent, struct vdisk_error *err)
{
	struct vdisk_locator l;
	int last = vdisk_fail(err, -ENOENT,
			      (struct vdisk_error){ .field = "parent locators",
						    .problem = "name no file that is there",
						    .advice = "name the parent" });

	for (unsigned int n = 0;; n++) {
		int ret = vdisk_parent_locator(vd, n, &l);

		if (ret)
			return ret == -ENOENT ? last : ret;
		if (!beside(child, &l, path, size))
			continue;
		ret = open_one(path, 0, NULL, parent, err);
		if (!ret) {
			ret = vdisk_set_parent(vd, *parent, err);
			if (!ret)
				return 0;
			close_one(*parent);
		}
		if (ret != -ENOENT)
			last = ret;
	}
}

static int take_parent(struct vdisk *vd, const char *path, struct vdisk **parent,
		       struct vdisk_error *err)
{
	int ret = open_one(path, 0, NULL, parent, err);

	if (!ret) {
		ret = vdisk_set_parent(vd, *parent, err);
		if (ret)
			close_one(*parent);
	}
	return ret;
}

int vdisk_open_file(const char *path, int flags, const struct vdisk_options *options,
		    struct vdisk **out, struct vdisk_error *err)
{
	const char *parent_path = options ? options->parent : NULL;
	char child[4096], next[4096];
	struct vdisk *vd, *parent;
	unsigned int n = 1;
	int ret = open_one(path, flags, options, &vd, err);

	if (ret)
		return ret;
	*out = vd;
	if ((size_t)snprintf(child, sizeof(child), "%s", path) >= sizeof(child))
		ret = -ENAMETOOLONG;
	while (!ret && vd->info.needs_parent) {
		if (n++ == VDISK_CHAIN_MAX) {
			ret = -ELOOP; /* a file that is its own grandparent ends here too */
			break;
		}
		if (parent_path && vd == *out) {
			snprintf(next, sizeof(next), "%s", parent_path);
			ret = take_parent(vd, next, &parent, err);
		} else {
			ret = find_parent(vd, child, next, sizeof(next), &parent, err);
		}
		if (!ret) {
			memcpy(child, next, sizeof(child));
			vd = parent;
		}
	}
	if (ret)
		vdisk_close_files(*out);
	return ret;
}
