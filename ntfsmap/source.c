// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blk.h"
#include "mounts.h"
#include "msg.h"
#include "ntfs.h"
#include "source.h"

bool source_looks_like(const char *arg)
{
	return strpbrk(arg, "/:=") != NULL;
}

static void set(struct source *src, enum source_kind kind, const char *device, const char *path)
{
	src->kind = kind;
	src->device = text_copy(device);
	src->path = path ? text_copy(path) : NULL;
}

/* A view made by `ntfsmap host` stands for the partition below it. */
static char *below_view(const char *device)
{
	dev_t dev, below = 0;
	char *node;

	if (blk_dev_of(device, &dev) && blk_is_view(dev))
		below = blk_only_slave(dev);
	node = below ? blk_node(below) : NULL;
	return node ? node : text_copy(device);
}

static bool begins_path(const char *colon)
{
	return colon[1] == '/' || colon[1] == '\\';
}

/* UUID=…:/path and its like. */
static int resolve_tag(const char *spec, const char *equals, struct source *src)
{
	char *tag = text("%.*s", (int)(equals - spec), spec);
	const char *colon = strchr(equals, ':');
	char *value = NULL, *device = NULL;
	int code;

	while (colon && !begins_path(colon))
		colon = strchr(colon + 1, ':');
	value = colon ? text("%.*s", (int)(colon - equals - 1), equals + 1) : text_copy(equals + 1);
	code = blk_find(tag, value, &device);
	if (!code)
		set(src, colon ? SOURCE_NTFS : SOURCE_DEVICE, device, colon ? colon + 1 : NULL);
	free(device);
	free(value);
	free(tag);
	return code;
}

static const char *tag_equals(const char *spec)
{
	static const char *const tags[] = { "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=" };

	for (size_t i = 0; i < ARRAY_SIZE(tags); i++)
		if (!strncmp(spec, tags[i], strlen(tags[i])))
			return spec + strlen(tags[i]) - 1;
	return NULL;
}

struct letter_search {
	const char *path;
	char *found;
};

static void look_for_path(const char *device, void *ctx)
{
	struct letter_search *s = ctx;
	struct ntfs_file *file = NULL;
	struct volume *vol = NULL;
	char *longer;

	if (volume_open(device, &vol))
		return;
	if (!volume_find(vol, s->path, &file)) {
		longer = text("%s%s UUID=%016llX:%s (%s)", s->found, *s->found ? "," : "",
			      (unsigned long long)vol->serial, file->path, device);
		free(s->found);
		s->found = longer;
	}
	ntfs_file_close(file);
	volume_close(vol);
}

/* D:\x.vhd: the letters are Windows' own, but the path may be found. */
static int fail_drive_letter(const char *spec)
{
	struct letter_search s = { .path = spec + 2, .found = text_copy("") };

	msg_hush(true);
	blk_each_ntfs(look_for_path, &s);
	msg_hush(false);
	if (*s.found)
		fail(NOT_FOUND,
		     "%s: drive letters are known to Windows only; this path exists on:%s", spec,
		     s.found);
	else
		fail(NOT_FOUND,
		     "%s: drive letters are known to Windows only, and no NTFS volume here holds "
		     "such a path: write DEVICE:/path or UUID=…:/path (lsblk -f shows both)",
		     spec);
	free(s.found);
	return NOT_FOUND;
}

static bool is_drive_letter(const char *spec)
{
	return isalpha((unsigned char)spec[0]) && spec[1] == ':' && begins_path(spec + 1);
}

/* DEVICE:/path, where DEVICE may hold colons itself. */
static bool resolve_device_path(const char *spec, struct source *src)
{
	for (const char *colon = strchr(spec, ':'); colon; colon = strchr(colon + 1, ':')) {
		char *device;
		struct stat st;
		bool found;

		if (!begins_path(colon))
			continue;
		device = text("%.*s", (int)(colon - spec), spec);
		found = !stat(device, &st) && (S_ISBLK(st.st_mode) || S_ISREG(st.st_mode));
		if (found) {
			char *real = below_view(device);

			set(src, SOURCE_NTFS, real, colon + 1);
			free(real);
		}
		free(device);
		if (found)
			return true;
	}
	return false;
}

/* The block device (or image file) of a mounted NTFS volume, NULL for other file systems. */
static char *ntfs_device_of(const struct mount *m)
{
	char *node = blk_node(m->dev);
	char *device = node ? below_view(node) : NULL;

	free(node);
	if (!device && !strncmp(m->type, "fuse", 4) && m->source[0] == '/')
		device = text_copy(m->source);
	if (device && blk_is_ntfs(device))
		return device;
	free(device);
	return NULL;
}

/* The path on the volume: what lies below the mount point, below the mount's root. */
static char *path_on_volume(const struct mount *m, const char *path)
{
	const char *rest = path + (strcmp(m->point, "/") ? strlen(m->point) : 0);

	return text("%s%s", strcmp(m->root, "/") ? m->root : "", rest);
}

static int resolve_existing(const char *path, const char *stream, struct source *src)
{
	char *real = realpath(path, NULL);
	const struct mount *m;
	struct mounts mounts;
	char *device = NULL;
	struct stat st;

	if (!real || stat(real, &st)) {
		free(real);
		return fail_errno(errno, "%s", path);
	}
	if (S_ISBLK(st.st_mode)) {
		set(src, SOURCE_DEVICE, real, NULL);
		free(real);
		return DONE;
	}
	mounts_read(&mounts);
	m = mounts_of_path(&mounts, real, st.st_dev);
	if (m)
		device = ntfs_device_of(m);
	if (device) {
		char *inside = path_on_volume(m, real);
		char *full = text("%s%s%s", inside, stream ? ":" : "", stream ? stream : "");

		set(src, SOURCE_NTFS, device, full);
		free(inside);
		free(full);
	} else {
		set(src, SOURCE_FILE, real, NULL);
	}
	mounts_free(&mounts);
	free(device);
	free(real);
	if (src->kind == SOURCE_FILE && (stream || !S_ISREG(st.st_mode)))
		return fail(REFUSED, "%s is %s", path,
			    stream ? "not on an NTFS volume: there are no streams"
				   : "neither a regular file nor a block device");
	return DONE;
}

/* /mnt/win/file:stream, where the file exists and the whole word does not. */
static bool resolve_stream(const char *spec, struct source *src, int *code)
{
	const char *slash = strrchr(spec, '/');
	const char *colon = strchr(slash ? slash : spec, ':');
	char *path;
	bool exists;

	if (!colon)
		return false;
	path = text("%.*s", (int)(colon - spec), spec);
	exists = !access(path, F_OK);
	if (exists)
		*code = resolve_existing(path, colon + 1, src);
	free(path);
	return exists;
}

int source_resolve(const char *spec, struct source *src)
{
	const char *equals = tag_equals(spec);
	int code;

	*src = (struct source){ 0 };
	if (equals)
		return resolve_tag(spec, equals, src);
	if (!access(spec, F_OK))
		return resolve_existing(spec, NULL, src);
	if (resolve_device_path(spec, src))
		return DONE;
	if (is_drive_letter(spec))
		return fail_drive_letter(spec);
	if (resolve_stream(spec, src, &code))
		return code;
	return fail(
		NOT_FOUND,
		"%s: no such file or device (a SOURCE is DEVICE:/path, UUID=…:/path, a path below "
		"a mounted NTFS volume, an image file or a block device)",
		spec);
}

void source_free(struct source *src)
{
	free(src->device);
	free(src->path);
	*src = (struct source){ 0 };
}
