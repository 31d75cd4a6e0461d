// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "blk.h"
#include "hostview.h"
#include "mapping.h"
#include "mounts.h"
#include "process.h"
#include "verb.h"

static char *view_name(uint64_t serial)
{
	return text("host-%016" PRIX64, serial);
}

/* The view below a mount, 0 for what is none: FUSE may hide the device behind a number of its own,
 * but names it. */
static dev_t view_of(const struct mount *m)
{
	dev_t dev;

	if (blk_is_view(m->dev))
		return m->dev;
	if (!strncmp(m->type, "fuse", 4) && blk_dev_of(m->source, &dev) && blk_is_view(dev))
		return dev;
	return 0;
}

/* What is mounted on the folder and seen there: the last one. */
static const struct mount *mount_on(const struct mounts *mounts, const char *point)
{
	for (size_t i = mounts->n; i-- > 0;)
		if (!strcmp(mounts->v[i].point, point))
			return &mounts->v[i];
	return NULL;
}

static const struct mount *mount_of(const struct mounts *mounts, dev_t view)
{
	for (size_t i = 0; i < mounts->n; i++)
		if (view_of(&mounts->v[i]) == view)
			return &mounts->v[i];
	return NULL;
}

static int find_folder(const char *point, char **real)
{
	struct stat st;

	*real = realpath(point, NULL);
	if (!*real || stat(*real, &st))
		return fail_errno(errno, "host=%s: the folder to mount on", point);
	if (!S_ISDIR(st.st_mode))
		return fail(REFUSED, "host=%s is no folder", point);
	return DONE;
}

/* Is it mounted there already? Anything else there, or the view elsewhere, is in the way: a second
 * ntfs-3g cannot open the device. */
static int look_at_mounts(const char *point, dev_t view, bool *mounted)
{
	const struct mount *there, *elsewhere;
	struct mounts mounts;
	int code = DONE;

	mounts_read(&mounts);
	there = mount_on(&mounts, point);
	elsewhere = view ? mount_of(&mounts, view) : NULL;
	*mounted = there && view && view_of(there) == view;
	if (!*mounted && there)
		code = fail(BUSY, "host=%s: %s is mounted there already", point, there->source);
	else if (!*mounted && elsewhere)
		code = fail(BUSY,
			    "host=%s: the view of this volume is mounted on %s already: name that "
			    "folder in all entries of the volume, and bind it where else it is "
			    "wanted (mount --bind)",
			    point, elsewhere->point);
	mounts_free(&mounts);
	return code;
}

/* The view, if it is there, and if it is of this very device. */
static int find_view(const char *name, const struct volume *vol, dev_t *view)
{
	struct dm_device d;
	struct mapping m;
	int code = dm_read(name, &d);

	*view = 0;
	if (code)
		return code == NOT_FOUND ? DONE : code;
	if (!mapping_of(&d, &m) || m.kind != MAPPING_HOST || m.table_dev != vol->rdev)
		code = fail(BUSY,
			    "/dev/mapper/%s is there already, and is no view of %s: close it first",
			    name, vol->device);
	else if (d.deferred)
		code = fail(BUSY, "%s is about to be closed: try again when it is gone", name);
	else
		*view = d.dev;
	mapping_free(&m);
	dm_device_free(&d);
	return code;
}

static int mount_view(const char *name, const char *point)
{
	char *node = text("/dev/mapper/%s", name);
	/* each in turn, until one is there */
	const char *const argv[] = {
		"mount", "-t", "ntfs-3g,ntfs3,ntfs", "-o", "ro", "--", node, point, NULL,
	};
	int code = process_run(argv);

	if (code == SYSTEM)
		fail(SYSTEM, "host=%s: cannot mount %s there: see above", point, node);
	free(node);
	return code;
}

/* Of the device, opened and locked. */
static int bring_up(struct volume *vol, const char *point)
{
	char *name = view_name(vol->serial);
	bool mounted = false;
	dev_t view;
	int code = find_view(name, vol, &view);

	if (!code)
		code = look_at_mounts(point, view, &mounted);
	if (!code && !view)
		code = open_view(vol->device, name);
	if (!code && !mounted)
		code = mount_view(name, point);
	free(name);
	return code;
}

int hostview_up(const char *device, const char *point)
{
	struct volume *vol = NULL;
	char *real = NULL;
	int code = mapping_lock();

	if (!code)
		code = find_folder(point, &real);
	if (!code)
		code = volume_open(device, &vol);
	if (!code) {
		code = bring_up(vol, real);
		volume_close(vol);
		if (code)
			hostview_close_unused();
	}
	free(real);
	return code;
}

/* A dead mount has no path any more, but a line. */
static char *folder_of(const char *point)
{
	char *real = realpath(point, NULL);

	return real ? real : text_copy(point);
}

dev_t hostview_on(const char *point)
{
	char *folder = folder_of(point);
	const struct mount *there;
	struct mounts mounts;
	dev_t view;

	mounts_read(&mounts);
	there = mount_on(&mounts, folder);
	view = there ? view_of(there) : 0;
	mounts_free(&mounts);
	free(folder);
	return view;
}

int hostview_unmount(const char *point, bool lazy)
{
	char *folder = folder_of(point);
	const char *const argv[] = { "umount", lazy ? "-l" : "--", folder, NULL };
	int code = DONE;

	if (hostview_on(point) && process_run(argv))
		code = fail(BUSY, "host=%s: cannot unmount it: see above", point);
	free(folder);
	return code;
}

static bool is_unused(const struct dm_device *d, const struct mounts *mounts)
{
	struct mapping m;
	bool unused = false;
	char *name;

	if (!mapping_of(d, &m))
		return false;
	if (m.kind == MAPPING_HOST && !d->deferred) {
		name = view_name(m.file.serial);
		unused = !strcmp(name, d->name) && !mount_of(mounts, d->dev);
		free(name);
	}
	mapping_free(&m);
	return unused;
}

int hostview_close_unused(void)
{
	struct options opt = { .deferred = true }; /* a file system may take a moment to go */
	struct dm_devices all;
	struct mounts mounts;
	int code = mapping_lock();

	if (!code)
		code = dm_read_all(&all);
	if (code)
		return code;
	mounts_read(&mounts);
	for (size_t i = 0; i < all.n && !code; i++)
		if (is_unused(&all.v[i], &mounts))
			code = verb_close(1, &all.v[i].name, &opt);
	mounts_free(&mounts);
	dm_devices_free(&all);
	return code;
}
