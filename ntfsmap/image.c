// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blk.h"
#include "image.h"
#include "msg.h"

const struct image image_none = { .fd = -1, .loop = -1 };

static char *table_device(const struct where *at)
{
	char *out, *p;

	if (at->is_block)
		return text("%u:%u", major(at->rdev), minor(at->rdev));
	p = out = must_alloc(2 * strlen(at->path) + 1);
	for (const char *s = at->path; *s; s++) {
		if (strchr(" \t\n\\", *s)) /* device-mapper's own escape */
			*p++ = '\\';
		*p++ = *s;
	}
	return out;
}

static void use_file(struct image *img)
{
	const struct volume *vol = img->vol;

	img->name = text("%s:%s%s%s", vol->device, img->file->path, *img->file->stream ? ":" : "",
			 img->file->stream);
	img->where =
		(struct where){ vol->device, vol->is_block, vol->rdev, vol->device_bytes / 512 };
	img->logical_block = vol->logical_block;
	img->io = (struct vdisk_io){ .ctx = img->file,
				     .size = img->file->data_size,
				     .read = ntfs_file_read };
	img->device = table_device(&img->where);
}

static int open_ntfs(struct image *img)
{
	int code = volume_open(img->src.device, &img->vol);

	if (!code)
		code = volume_find(img->vol, img->src.path, &img->file);
	if (!code)
		use_file(img);
	return code;
}

static int open_plain(struct image *img)
{
	int ret, block = 512;
	struct stat st;

	img->name = text_copy(img->src.device);
	img->fd = open(img->src.device, O_RDONLY | O_CLOEXEC);
	if (img->fd < 0 || fstat(img->fd, &st))
		return fail_errno(errno, "cannot open %s", img->src.device);
	posix_fadvise(img->fd, 0, 0, POSIX_FADV_DONTNEED); /* see ntfs-device.c */
	ret = vdisk_file_io(img->fd, &img->io);
	if (ret)
		return fail_errno(-ret, "%s", img->name);
	if (S_ISBLK(st.st_mode) && ioctl(img->fd, BLKSSZGET, &block))
		return fail_errno(errno, "%s", img->name);
	img->where = (struct where){ img->src.device, S_ISBLK(st.st_mode), st.st_rdev,
				     img->io.size / 512 };
	img->logical_block = (uint32_t)block;
	img->device = table_device(&img->where);
	if (img->io.size / 512)
		vdisk_extents_add(&img->whole, 0, img->io.size / 512);
	return DONE;
}

int image_open(const char *spec, struct image *img)
{
	int code;

	*img = image_none;
	code = source_resolve(spec, &img->src);
	if (!code)
		code = img->src.kind == SOURCE_NTFS ? open_ntfs(img) : open_plain(img);
	if (code)
		image_close(img);
	return code;
}

int image_open_beside(const struct image *other, const char *path, struct image *img)
{
	int code;

	*img = image_none;
	img->src = (struct source){ SOURCE_NTFS, text_copy(other->src.device), text_copy(path) };
	img->vol = other->vol;
	img->shares_volume = true;
	code = volume_find(img->vol, path, &img->file);
	if (code)
		image_close(img);
	else
		use_file(img);
	return code;
}

/* Another volume may well have a file in the same record. */
static int check_serial(const struct volume *vol, uint64_t serial)
{
	if (vol->serial == serial)
		return DONE;
	return fail(DAMAGED,
		    "%s holds another volume now: its serial number is %016" PRIX64
		    ", and was %016" PRIX64,
		    vol->device, vol->serial, serial);
}

int image_open_id(const char *device, const struct file_id *id, struct image *img)
{
	int code;

	*img = image_none;
	img->src = (struct source){ SOURCE_NTFS, text_copy(device), NULL };
	code = volume_open(device, &img->vol);
	if (!code)
		code = check_serial(img->vol, id->serial);
	if (!code)
		code = volume_find_record(img->vol, id->record, id->sequence, id->stream_hash,
					  &img->file);
	if (code) {
		image_close(img);
		return code;
	}
	use_file(img);
	return DONE;
}

const struct vdisk_extents *image_extents(const struct image *img)
{
	return img->file ? &img->file->extents : &img->whole;
}

char *image_id(const struct image *img)
{
	const struct ntfs_file *f = img->file;

	return f ? text("%016" PRIX64 "-%" PRIx64 "-%x-%x-", img->vol->serial, f->record,
			f->sequence, ntfs_stream_hash(f->stream))
		 : NULL;
}

int64_t image_modified(const struct image *img)
{
	struct stat st;

	if (img->file)
		return img->file->modified;
	return img->fd < 0 || fstat(img->fd, &st) || !S_ISREG(st.st_mode) ? 0 : st.st_mtime;
}

struct ending {
	const char *suffix;
	const char *format; /* that such a name promises */
};

static const struct ending endings[] = {
	{ ".vhd", "vhd" },   { ".avhd", "vhd" },    { ".vhdx", "vhdx" }, { ".avhdx", "vhdx" },
	{ ".qcow", "qcow" }, { ".qcow2", "qcow2" }, { ".vmdk", "vmdk" }, { ".vdi", "vdi" },
};

/* Ventoy's plug-in has images end in .vtoy behind their own ending. */
static const char *promised_format(const char *name)
{
	size_t len = strlen(name);

	if (len > 5 && !strcasecmp(name + len - 5, ".vtoy"))
		len -= 5;
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		size_t n = strlen(endings[i].suffix);

		if (len > n && !strncasecmp(name + len - n, endings[i].suffix, n))
			return endings[i].format;
	}
	return NULL;
}

/* A damaged header makes an image look raw, and a raw disk would be written over its tables. A
 * VMware flat extent is raw and says so. */
static int check_promise(const struct image *img)
{
	const char *promise = promised_format(img->name);
	size_t len = strlen(img->name);

	if (!promise || strcmp(vdisk_info(img->vd)->format, "raw") ||
	    (len > 10 && !strcasecmp(img->name + len - 10, "-flat.vmdk")))
		return DONE;
	return fail(
		DAMAGED,
		"%s is named like a %s image, but has no %s header or footer: it is damaged, or "
		"raw (then say so: --format raw)",
		img->name, promise, promise);
}

int image_fail(const struct image *img, int error, const struct vdisk_error *err)
{
	char words[512];

	if (!err->problem)
		return fail_errno(error, "cannot read %s", img->name);
	vdisk_error_text(err, words, sizeof(words));
	return fail(exit_code_of(error), "%s: %s", img->name, words);
}

/* Someone who names a volume means a file on it, not the volume as a disk. */
static int refuse_volume(const struct image *img)
{
	return fail(
		REFUSED,
		"%s is an NTFS volume: name a file on it (%s:/path), use `ntfsmap host` to look "
		"at it, or say --format raw if it is meant as a disk",
		img->name, img->name);
}

static char *list_snapshots(struct vdisk *vd)
{
	struct vdisk_snapshot *s = must_alloc(sizeof(*s));
	char *list = text_copy("");

	for (unsigned int n = 0; !vdisk_get_snapshot(vd, n, s); n++) {
		char *longer = text("%s%s%s (\"%s\")", list, n ? ", " : "", s->id, s->name);

		free(list);
		list = longer;
	}
	free(s);
	return list;
}

/* No snapshot was opened, as there is none of that name. */
static int fail_snapshot(struct image *img, const char *format, const char *name)
{
	struct vdisk_error err = { 0 };
	int ret = img->vd ? 0
			  : vdisk_open(&img->io, &(struct vdisk_options){ .format = format },
				       &img->vd, &err);
	char *list;
	int code;

	if (ret)
		return image_fail(img, -ret, &err);
	if (strcmp(vdisk_info(img->vd)->format, "qcow2"))
		return fail(USAGE, "%s is a %s image: only a qcow2 has snapshots in it", img->name,
			    vdisk_info(img->vd)->format);
	list = list_snapshots(img->vd);
	code = fail(NOT_FOUND, "%s has no snapshot \"%s\"; it has %s", img->name, name,
		    *list ? list : "none at all");
	free(list);
	return code;
}

/* As vdisk_get_snapshot() tells a name, which has lost what no terminal should get and what is too
 * long for it. false: that has changed it, or may have made another name the same. */
static bool shown_name(const char *name, char *shown, size_t size)
{
	bool same = strlen(name) < size - 1;

	snprintf(shown, size, "%s", name);
	for (char *p = shown; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
		same &= *p != '?';
	}
	return same;
}

/* What a line of a table can carry, and what no other id is shown as. */
static bool is_good_id(const char *id)
{
	size_t n = strlen(id);

	for (size_t i = 0; i < n; i++)
		if (id[i] <= ' ' || id[i] >= 0x7f || id[i] == '\\' || id[i] == '?')
			return false;
	return n && n < sizeof(((struct vdisk_snapshot *)NULL)->id) - 1;
}

/* How many snapshots are shown with this id or name; *id is that of the first one. */
static unsigned int count_snapshots(struct vdisk *vd, bool by_name, const char *shown, char **id)
{
	struct vdisk_snapshot *s = must_alloc(sizeof(*s));
	unsigned int found = 0;

	for (unsigned int n = 0; !vdisk_get_snapshot(vd, n, s); n++) {
		if (strcmp(by_name ? s->name : s->id, shown))
			continue;
		if (!found++) {
			free(*id);
			*id = text_copy(s->id);
		}
	}
	free(s);
	return found;
}

/*
 * A table calls it by its id, as names may be anything. The library has found it, by its id and
 * then by its name; here is found which one that was. Never may the table say nothing, which would
 * be the disk itself, or mean another one.
 */
static int learn_snapshot(struct image *img, const char *name)
{
	char shown[sizeof(((struct vdisk_snapshot *)NULL)->name)], *id = NULL, *unused = NULL;
	bool exact = shown_name(name, shown, sizeof(shown));
	unsigned int found = count_snapshots(img->vd, false, shown, &id);

	if (!found) {
		found = count_snapshots(img->vd, true, shown, &id);
		if (exact && found)
			found = 1; /* the first one of that name is meant */
	}
	if (found == 1 && is_good_id(id) && count_snapshots(img->vd, false, id, &unused) == 1)
		img->snapshot = id;
	else
		free(id);
	free(unused);
	if (img->snapshot)
		return DONE;
	return fail(REFUSED,
		    "%s: the snapshot \"%s\" has no id of its own that a table can say: convert it "
		    "to an image (qemu-img convert -O qcow2 -l snapshot.name=NAME)",
		    img->name, shown);
}

int image_probe(struct image *img, const char *format, const char *snapshot)
{
	struct vdisk_options options = { .format = format, .snapshot = snapshot };
	struct vdisk_error err = { 0 };
	int ret;

	if (!format && !img->file && blk_is_ntfs(img->src.device))
		return refuse_volume(img);
	ret = vdisk_open(&img->io, &options, &img->vd, &err);
	if (snapshot && (ret == -ENOENT || (!ret && !vdisk_info(img->vd)->snapshot)))
		return fail_snapshot(img, format, snapshot);
	if (ret)
		return image_fail(img, -ret, &err);
	if (snapshot && learn_snapshot(img, snapshot))
		return REFUSED;
	return format ? DONE : check_promise(img);
}

struct image *image_next(const struct image *root, const struct image *img)
{
	for (const struct image *i = root; i; i = i->parent) {
		if (img == i)
			return i->data ? i->data : i->parent;
		if (img == i->data)
			return i->parent;
	}
	return NULL;
}

bool image_same(const struct image *a, const struct image *b)
{
	struct stat x, y;

	if (a->file && b->file)
		return a->vol->serial == b->vol->serial && a->file->record == b->file->record &&
		       !strcmp(a->file->stream, b->file->stream);
	return a->fd >= 0 && b->fd >= 0 && !fstat(a->fd, &x) && !fstat(b->fd, &y) &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void image_close(struct image *img)
{
	vdisk_close(img->vd);
	if (img->parent)
		image_close(img->parent);
	free(img->parent);
	if (img->data)
		image_close(img->data);
	free(img->data);
	free(img->snapshot);
	plan_free(&img->plan);
	users_free(&img->users);
	vdisk_extents_free(&img->whole);
	ntfs_file_close(img->file);
	if (!img->shares_volume)
		volume_close(img->vol);
	if (img->fd >= 0)
		close(img->fd);
	if (img->loop >= 0)
		close(img->loop);
	source_free(&img->src);
	free(img->name);
	free(img->device);
	*img = image_none;
}
