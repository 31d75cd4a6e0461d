// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chain.h"
#include "mapping.h"
#include "msg.h"

#define YEAR_2000 946684800 /* in seconds since 1970 */
#define TOLERANCE 2

/* The search for one parent, over the locators of its child. */
struct search {
	struct image *root;  /* of the chain */
	struct image *child; /* the last one that is open */
	char *tried;	     /* the places where nothing was */
	int code;	     /* of a file that was there, but is not the parent */
	char *why;
};

static int check_loop(const struct image *root, const struct image *parent)
{
	for (const struct image *i = root; i; i = image_next(root, i))
		if (image_same(i, parent))
			return fail(REFUSED, "%s: its chain of parents comes back to %s",
				    root->name, i->name);
	return DONE;
}

/* The child remembers when its parent's file was modified last ("Parent Time Stamp"). FAT, where
 * either may have been, has times of two seconds. */
static bool is_stale(const struct image *child, const struct image *parent)
{
	int64_t known = vdisk_info(child->vd)->parent_time_stamp;
	int64_t modified = image_modified(parent);

	return known && modified && llabs(known + YEAR_2000 - modified) > TOLERANCE;
}

/* A raw file may end inside a sector: qemu reads these last bytes and zeros behind them, and a
 * block device has neither. */
static int check_tail(const struct image *child, const struct image *parent)
{
	const struct vdisk_info *info = vdisk_info(parent->vd);

	if (!info->tail || vdisk_info(child->vd)->virtual_size <= info->virtual_size)
		return DONE;
	return fail(
		REFUSED,
		"%s: the last %llu bytes of its parent %s do not fill a sector: make that longer "
		"on a mounted volume (truncate -s %%512), which does no harm",
		child->name, (unsigned long long)info->tail, parent->name);
}

/* Is this the parent? Where the child names a unique id, it has to be that. */
static int join(struct image *child, struct image *parent, const char *format)
{
	struct vdisk_error err = { 0 };
	int code = image_probe(parent, format, NULL), ret;
	char words[512];

	if (!code)
		code = check_tail(child, parent);
	if (code)
		return code;
	ret = vdisk_set_parent(child->vd, parent->vd, &err);
	child->stale = is_stale(child, parent);
	if (ret == -ELOOP)
		return fail(REFUSED, "%s: a chain has at most %d images", child->name,
			    VDISK_CHAIN_MAX);
	if (!ret)
		return DONE;
	if (!err.problem)
		return image_fail(child, -ret, &err);
	vdisk_error_text(&err, words, sizeof(words));
	return fail(exit_code_of(-ret), "%s with %s as its parent: %s", child->name, parent->name,
		    words);
}

/* Takes parent over on DONE. */
static int adopt(struct image *root, struct image *child, struct image *parent, const char *format)
{
	int code = check_loop(root, parent);

	if (!code)
		code = join(child, parent, format);
	if (code)
		return code;
	child->parent = must_alloc(sizeof(*child->parent));
	*child->parent = *parent;
	return DONE;
}

static int open_named(struct image *root, struct image *child, const char *spec)
{
	struct vdisk_locator *l = must_alloc(sizeof(*l));
	bool said = !vdisk_parent_locator(child->vd, 0, l);
	struct image parent;
	int code = image_open(spec, &parent);

	if (!code) {
		code = adopt(root, child, &parent, said ? l->format : NULL);
		if (code)
			image_close(&parent);
	}
	free(l);
	return code;
}

/* The folder of path and below it the locator's parts; an absolute locator from the root. NULL when
 * it leaves the volume. */
static char *path_beside(const char *path, const struct vdisk_locator *l)
{
	char *out = text_copy(l->absolute ? "" : path);
	char *parts = text_copy(l->path), *save = NULL;
	bool inside = true;

	if (*out)
		*strrchr(out, '/') = '\0';
	for (char *p = strtok_r(parts, "/", &save); p && inside; p = strtok_r(NULL, "/", &save)) {
		char *longer;

		if (!strcmp(p, "."))
			continue;
		if (!strcmp(p, "..")) {
			inside = *out;
			if (inside)
				*strrchr(out, '/') = '\0';
			continue;
		}
		longer = text("%s/%s", out, p);
		free(out);
		out = longer;
	}
	free(parts);
	if (inside)
		return out;
	free(out);
	return NULL;
}

/* Beside a plain file: an absolute path is one of another system, its last part may be here. */
static char *file_beside(const char *path, const struct vdisk_locator *l)
{
	const char *slash = strrchr(path, '/');
	const char *last = strrchr(l->path, '/');

	return text("%.*s/%s", slash ? (int)(slash - path) : 1, slash ? path : ".",
		    l->absolute && last ? last + 1 : l->path);
}

static void note_tried(struct search *s, const char *where)
{
	char *longer = text("%s%s%s", s->tried, *s->tried ? ", " : "", where);

	free(s->tried);
	s->tried = longer;
}

/* Is path, which is not from an image, in the folder of file or below it? */
static bool is_below(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	size_t folder = slash ? (size_t)(slash - file) + 1 : 0;

	return folder && !strncmp(path, file, folder);
}

/* Could who made the image read that, or write its data, himself? Else root would do it for him.
 * What belongs to root came from root. */
static bool may_name(const struct stat *own, const struct stat *other, bool data)
{
	return !own->st_uid || other->st_uid == own->st_uid || (!data && other->st_mode & S_IROTH);
}

/* The folder is asked of what is open, as who owns one on the way may change it at any time. */
static bool is_in_folder(const struct image *child, int fd)
{
	char *link = text("/proc/self/fd/%d", fd), *real = realpath(link, NULL);
	bool is = real && is_below(child->src.device, real);

	free(link);
	free(real);
	return is;
}

/* Whatever a name says, and whatever links are on its way, it leads to no device, and to no other
 * file system; and to data only in the image's own folder. */
static int check_plain(const struct image *child, const struct image *other, const char *path,
		       bool data)
{
	const char *option = data ? "--data SOURCE" : "--parent SOURCE";
	struct stat st, own;

	if (fstat(child->fd, &own) || other->fd < 0 || fstat(other->fd, &st) ||
	    own.st_dev != st.st_dev)
		return fail(REFUSED,
			    "%s: it names %s, which is on another file system: %s takes that",
			    child->name, path, option);
	if (data && !is_in_folder(child, other->fd))
		return fail(REFUSED,
			    "%s: it names the data file %s, which is not in its folder: if that is "
			    "what you want, %s takes it",
			    child->name, path, option);
	if (!may_name(&own, &st, data))
		return fail(REFUSED,
			    "%s: it belongs to user %u and names %s, which belongs to user %u and "
			    "is not for all to %s: if that is what you want, %s takes it",
			    child->name, own.st_uid, path, st.st_uid, data ? "write" : "read",
			    option);
	return DONE;
}

/* Devices are not even opened. */
static int look_before(const struct image *child, const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return NOT_FOUND;
	if (!S_ISREG(st.st_mode))
		return fail(REFUSED, "%s: it names %s, which is no regular file", child->name,
			    path);
	return DONE;
}

static int open_beside(const struct image *child, const char *path, bool data, struct image *other)
{
	int code;

	if (child->file)
		return image_open_beside(child, path, other);
	code = look_before(child, path);
	if (!code)
		code = image_open(path, other);
	if (code)
		return code;
	code = check_plain(child, other, path, data);
	if (code)
		image_close(other);
	return code;
}

/* Where the locator says the other file is; NULL when it leaves the volume. */
static char *place_of(const struct image *child, const struct vdisk_locator *l)
{
	return child->file ? path_beside(child->file->path, l) : file_beside(child->src.device, l);
}

static bool try_locator(struct search *s, const struct vdisk_locator *l)
{
	const struct image *child = s->child;
	char *path = place_of(child, l);
	struct image parent;
	int code;

	if (!path) {
		path = text("%s (which leaves the volume)", l->path);
		note_tried(s, path);
		free(path);
		return false;
	}
	msg_hush(true);
	code = open_beside(child, path, false, &parent);
	if (code == NOT_FOUND) {
		note_tried(s, path);
	} else {
		if (!code) {
			code = adopt(s->root, s->child, &parent, l->format);
			if (code)
				image_close(&parent);
		}
		if (code && !s->why) {
			s->code = code;
			s->why = text_copy(failure_text());
		}
	}
	msg_hush(false);
	free(path);
	return !code;
}

static int open_located(struct image *root, struct image *child)
{
	struct search s = { .root = root, .child = child, .tried = text_copy("") };
	struct vdisk_locator *l = must_alloc(sizeof(*l));
	bool found = false;
	int code = DONE, ret = 0;

	for (unsigned int n = 0; !found && !ret && child->src.kind != SOURCE_DEVICE; n++) {
		ret = vdisk_parent_locator(child->vd, n, l);
		found = !ret && try_locator(&s, l);
	}
	if (found)
		code = DONE;
	else if (ret == -EOPNOTSUPP)
		code = fail(
			REFUSED,
			"%s: its backing file is said to be of the format \"%s\", which is not "
			"supported: convert that, and `qemu-img rebase -u` a copy to the result",
			child->name, vdisk_info(child->vd)->backing_format);
	else if (ret && ret != -ENOENT)
		code = fail_errno(-ret, "%s: cannot read where its parent is", child->name);
	else if (s.why)
		code = fail(s.code, "%s: its parent cannot be used: %s", child->name, s.why);
	else
		code = fail(NOT_FOUND,
			    "%s: its parent was not found (%s%s): --parent SOURCE names it",
			    child->name,
			    *s.tried ? "looked for " : "it names none that could be here", s.tried);
	free(s.tried);
	free(s.why);
	free(l);
	return code;
}

/* ---- the data file ---- */

/* Takes data over on DONE. It is raw, whatever is in it. */
static int adopt_data(struct image *root, struct image *img, struct image *data)
{
	struct vdisk_error err = { 0 };
	int code = check_loop(root, data), ret;

	if (!code)
		code = image_probe(data, "raw", NULL);
	if (code)
		return code;
	ret = vdisk_set_data(img->vd, &data->io, &err);
	if (ret)
		return image_fail(img, -ret, &err);
	img->data = must_alloc(sizeof(*img->data));
	*img->data = *data;
	return DONE;
}

static int open_data_named(struct image *root, struct image *img, const char *spec)
{
	struct image data;
	int code = image_open(spec, &data);

	if (code)
		return code;
	code = adopt_data(root, img, &data);
	if (code)
		image_close(&data);
	return code;
}

/* A file that is to be written, and that only the image names, lies beside it. */
static int check_written(const struct image *img, const char *path)
{
	if (!img->file || is_below(img->file->path, path))
		return DONE;
	return fail(REFUSED,
		    "%s: it names the data file %s, which would be written and is not in its "
		    "folder: if that is what you want, --data SOURCE takes it",
		    img->name, path);
}

static int open_data_at(struct image *root, struct image *img, const char *path, bool readonly)
{
	struct image data;
	int code = readonly ? DONE : check_written(img, path);

	if (code)
		return code;
	code = open_beside(img, path, true, &data);
	if (code == NOT_FOUND)
		return fail(NOT_FOUND, "%s keeps its data in another file, and %s is not there%s",
			    img->name, path, img == root ? ": --data SOURCE names it" : "");
	if (code)
		return code;
	code = adopt_data(root, img, &data);
	if (code)
		image_close(&data);
	return code;
}

static int open_data(struct image *root, struct image *img, bool readonly)
{
	struct vdisk_locator *l = must_alloc(sizeof(*l));
	int code, ret = vdisk_data_locator(img->vd, l);
	char *path = NULL;

	if (!ret && img->src.kind != SOURCE_DEVICE)
		path = place_of(img, l);
	if (path)
		code = open_data_at(root, img, path, readonly);
	else
		code = fail(NOT_FOUND,
			    "%s keeps its data in another file, and names none that could be "
			    "here%s",
			    img->name, img == root ? ": --data SOURCE names it" : "");
	free(path);
	free(l);
	return code;
}

static bool needs_data(const struct image *img)
{
	return vdisk_info(img->vd)->needs_data && !img->data;
}

static bool needs_parent(const struct image *img)
{
	return vdisk_info(img->vd)->needs_parent && !img->parent;
}

static int check_given(const struct image *img, const struct chain_sources *given)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	if (given->parent && !info->needs_parent)
		return fail(USAGE, "%s has no parent: --parent is for images that have one",
			    img->name);
	if (given->data && !info->needs_data)
		return fail(USAGE, "%s has no data file: --data is for images that have one",
			    img->name);
	return DONE;
}

/* The data file of one image of the chain. */
static int open_data_of(struct image *root, struct image *img, const struct chain_sources *given)
{
	if (!needs_data(img))
		return DONE;
	if (img == root && given->data)
		return open_data_named(root, img, given->data);
	return open_data(root, img, given->readonly || img != root);
}

int chain_open(struct image *img, const struct chain_sources *given)
{
	int code = check_given(img, given);
	unsigned int length = 1;

	for (struct image *i = img; i && !code; i = i->parent, length++) {
		code = open_data_of(img, i, given);
		if (code || !needs_parent(i))
			continue;
		if (length == VDISK_CHAIN_MAX)
			code = fail(REFUSED, "%s: a chain has at most %d images", img->name,
				    VDISK_CHAIN_MAX);
		else if (i == img && given->parent)
			code = open_named(img, i, given->parent);
		else
			code = open_located(img, i);
	}
	return code;
}

/* ---- where the files lie ---- */

struct part {
	const struct image *img;
	uint64_t start, count; /* sectors */
};

struct parts {
	struct part *v;
	size_t n;
};

static bool on_same_device(const struct image *a, const struct image *b)
{
	if (a->where.is_block && b->where.is_block)
		return a->where.rdev == b->where.rdev;
	return !strcmp(a->where.path, b->where.path);
}

static void add_parts(struct parts *parts, const struct image *img)
{
	const struct vdisk_extents *x = image_extents(img);

	parts->v = must_regrow(parts->v, parts->n + x->n + 1, sizeof(*parts->v));
	for (size_t i = 0; i < x->n; i++)
		if (x->v[i].device != VDISK_HOLE)
			parts->v[parts->n++] = (struct part){ img, x->v[i].device, x->v[i].count };
}

static int compare_parts(const void *a, const void *b)
{
	const struct part *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* In the order of their places each must begin behind the one before it. */
static int check_parts(const struct parts *parts)
{
	for (size_t i = 1; i < parts->n; i++) {
		const struct part *a = &parts->v[i - 1], *b = &parts->v[i];

		if (b->start - a->start < a->count)
			return fail(DAMAGED,
				    "%s and %s have the same clusters (from sector %llu of %s on): "
				    "the volume is damaged, let Windows run chkdsk",
				    a->img->name, b->img->name, (unsigned long long)b->start,
				    b->img->where.path);
	}
	return DONE;
}

/* Those on the device of first, which is the first one there. */
static int check_device(const struct image *root, const struct image *first)
{
	struct parts parts = { 0 };
	int code;

	for (const struct image *i = root; i; i = image_next(root, i)) {
		if (!on_same_device(i, first))
			continue;
		if (i != first && !parts.n)
			return DONE; /* looked at before */
		add_parts(&parts, i);
	}
	if (parts.n)
		qsort(parts.v, parts.n, sizeof(*parts.v), compare_parts);
	code = check_parts(&parts);
	free(parts.v);
	return code;
}

int chain_check_places(const struct image *root)
{
	int code = DONE;

	for (const struct image *i = root; i && !code; i = image_next(root, i))
		code = check_device(root, i);
	return code;
}

/* ---- by the live tables ---- */

static const struct dm_device *live_parent(const struct dm_device *d, const struct dm_devices *all)
{
	dev_t dev = dm_parts_of(d).parent;

	return dev ? dm_find(all, dev) : NULL;
}

const struct dm_device *chain_data_device(const struct dm_device *d, const struct dm_devices *all)
{
	dev_t dev = d ? dm_parts_of(d).data : 0;

	return dev ? dm_find(all, dev) : NULL;
}

static int open_live_data(struct image *root, struct image *img, const struct dm_device *device)
{
	struct image data;
	struct mapping m;
	int code;

	if (!device || !mapping_of(device, &m))
		return fail(REFUSED, "%s: its data file in the live table is none of ours",
			    img->name);
	code = mapping_open_image(&m, &data);
	if (!code) {
		code = adopt_data(root, img, &data);
		if (code)
			image_close(&data);
	}
	mapping_free(&m);
	return code;
}

static int open_base(struct image *root, struct image *child, const struct dm_device *base)
{
	struct image parent;
	struct mapping m;
	int code;

	if (!base || !mapping_of(base, &m))
		return fail(REFUSED, "%s: its parent in the live table is none of ours",
			    child->name);
	code = mapping_open_image(&m, &parent);
	if (!code) {
		code = adopt(root, child, &parent, m.format);
		if (code)
			image_close(&parent);
	}
	mapping_free(&m);
	return code;
}

const struct dm_device *chain_device(const struct dm_device *d, const struct dm_devices *all,
				     size_t depth)
{
	while (d && depth--)
		d = live_parent(d, all);
	return d;
}

int chain_open_live(struct image *img, const struct dm_device *d, const struct dm_devices *all)
{
	for (struct image *i = img; i; i = i->parent) {
		int code = needs_data(i) ? open_live_data(img, i, chain_data_device(d, all)) : DONE;

		if (code)
			return code;
		if (!needs_parent(i))
			continue;
		d = live_parent(d, all);
		code = open_base(img, i, d);
		if (code)
			return code;
	}
	return DONE;
}
