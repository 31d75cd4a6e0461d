// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blk.h"
#include "mapping.h"
#include "msg.h"

#define LOCK_FILE "/run/ntfsmap.lock"

static void upper(char *s)
{
	for (; *s; s++)
		*s = (char)toupper((unsigned char)*s);
}

static void lower(char *s)
{
	for (; *s; s++)
		*s = (char)tolower((unsigned char)*s);
}

char *mapping_uuid(const struct image *img, const char *name, enum mapping_role role)
{
	static const char *const ours_of[] = { DM_OURS,	  DM_BASE,   DM_DATA,
					       DM_REPAIR, DM_ORIGIN, DM_COW };
	const char *ours = ours_of[role];
	bool frozen = img->snapshot && !img->plan.format;
	char *format = text("%s%s", vdisk_info(img->vd)->format, frozen ? "s" : "");
	char *file = image_id(img);
	char *uuid;

	upper(format);
	if (file)
		uuid = text("%s%s-%s%s", ours, format, file, name);
	else
		uuid = text("%s%s-%s-%s", ours, format,
			    img->src.kind == SOURCE_FILE ? "FILE" : "DEVICE", name);
	free(file);
	free(format);
	return uuid;
}

char *mapping_memory_uuid(const char *name)
{
	return text(DM_COW "TMPFS-%s", name);
}

char *mapping_host_uuid(const struct volume *vol, const char *name)
{
	return text(DM_OURS "HOST-%016" PRIX64 "-%s", vol->serial, name);
}

static bool is_repair(const char *uuid)
{
	return !strncmp(uuid, DM_REPAIR, strlen(DM_REPAIR));
}

/* What a device is there for; the rest of its UUID, or NULL: it is none of ours. */
static const char *parse_role(const char *uuid, struct mapping *m)
{
	struct {
		const char *prefix;
		bool *flag;
	} roles[] = {
		{ DM_BASE, &m->base }, { DM_DATA, &m->data }, { DM_ORIGIN, &m->origin },
		{ DM_COW, &m->cow },   { DM_REPAIR, NULL },   { DM_OURS, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
		size_t len = strlen(roles[i].prefix);

		if (strncmp(uuid, roles[i].prefix, len))
			continue;
		if (roles[i].flag)
			*roles[i].flag = true;
		return uuid + len;
	}
	return NULL;
}

static bool parse_uuid(const char *uuid, struct mapping *m)
{
	unsigned int sequence;
	const char *rest;
	int n = 0;

	uuid = parse_role(uuid, m);
	if (!uuid)
		return false;
	if (sscanf(uuid, "%7[A-Z0-9]-%n", m->format, &n) != 1 || !n)
		return false;
	lower(m->format);
	m->frozen = !strcmp(m->format, "qcow2s");
	if (m->frozen)
		m->format[strlen("qcow2")] = '\0';
	rest = uuid + n;
	if (!strcmp(m->format, "host")) {
		m->kind = MAPPING_HOST;
		return sscanf(rest, "%16" SCNx64 "-", &m->file.serial) == 1;
	}
	if (!strcmp(m->format, "tmpfs")) {
		m->kind = MAPPING_MEMORY;
		return m->cow;
	}
	if (!strncmp(rest, "FILE-", 5) || !strncmp(rest, "DEVICE-", 7)) {
		m->kind = *rest == 'F' ? MAPPING_FILE : MAPPING_DEVICE;
		return true;
	}
	m->kind = MAPPING_NTFS;
	if (sscanf(rest, "%16" SCNx64 "-%" SCNx64 "-%x-%x-", &m->file.serial, &m->file.record,
		   &sequence, &m->file.stream_hash) != 4)
		return false;
	m->file.sequence = (uint16_t)sequence;
	return true;
}

static void read_table(const struct dm_device *d, struct mapping *m);

/* The image below an overlay; a device below that is no overlay again. */
static void read_origin(const char *device, struct mapping *m)
{
	struct dm_device below;
	dev_t dev;
	char *name = dm_parse_device(device, &dev) ? blk_attr(dev, "dm/name") : NULL;

	if (name && !dm_read(name, &below)) {
		if (!dm_is_overlay(&below))
			read_table(&below, m);
		dm_device_free(&below);
	}
	free(name);
}

/* What the table says: the first device, whether there are more, the snapshot. */
static void read_table(const struct dm_device *d, struct mapping *m)
{
	struct plan plan;

	if (!dm_plan_of(d, &plan))
		return;
	if (plan.origin)
		read_origin(plan.origin, m);
	else if (plan.n_devices && !dm_parse_device(plan.devices[0], &m->table_dev))
		m->table_dev = 0;
	m->several |= plan.n_devices > 1;
	if (plan.snapshot)
		m->snapshot = text_copy(plan.snapshot);
	plan_free(&plan);
}

static bool attr_is_zero(dev_t dev, const char *name)
{
	char *value = blk_attr(dev, name);
	bool zero = value && !strcmp(value, "0");

	free(value);
	return zero;
}

/* What a table means by a device: a loop device over a whole file stands for the file, as open puts
 * such a device there by itself. */
static char *device_below(dev_t dev)
{
	char *file = NULL;

	if (attr_is_zero(dev, "loop/offset") && attr_is_zero(dev, "loop/sizelimit"))
		file = blk_attr(dev, "loop/backing_file");
	return file ? file : blk_node(dev);
}

bool mapping_of(const struct dm_device *d, struct mapping *m)
{
	*m = (struct mapping){ 0 };
	if (!parse_uuid(d->uuid, m))
		return false;
	m->fenced = dm_is_fenced(d);
	read_table(d, m);
	if (m->table_dev)
		m->device = device_below(m->table_dev);
	return true;
}

void mapping_free(struct mapping *m)
{
	free(m->device);
	free(m->snapshot);
	*m = (struct mapping){ 0 };
}

/* Are both paths the same block device or the same file? */
static bool same_node(const char *a, const char *b)
{
	struct stat x, y;

	if (!a || !b || stat(a, &x) || stat(b, &y))
		return false;
	return S_ISBLK(x.st_mode) ? S_ISBLK(y.st_mode) && x.st_rdev == y.st_rdev
				  : x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool mapping_same_place(const struct mapping *m, const struct image *img)
{
	char *below = img->where.is_block ? device_below(img->where.rdev) : NULL;
	bool same = same_node(m->device, below ? below : img->where.path);

	free(below);
	return same;
}

/* A copy of a disk has its serial numbers, too. */
bool mapping_is_of(const struct mapping *m, const struct image *img)
{
	if (m->kind == MAPPING_HOST || (m->kind == MAPPING_NTFS) != (img->file != NULL))
		return false;
	if (img->file &&
	    (m->file.serial != img->vol->serial || m->file.record != img->file->record ||
	     m->file.sequence != img->file->sequence ||
	     m->file.stream_hash != ntfs_stream_hash(img->file->stream)))
		return false;
	return mapping_same_place(m, img);
}

static bool is_base_of(const struct dm_device *d, const struct image *img)
{
	struct plan live;
	struct mapping m;
	bool same;

	if (!d->live || !d->readonly || d->deferred || !mapping_of(d, &m))
		return false;
	same = m.base && mapping_is_of(&m, img) && dm_plan_of(d, &live);
	if (same) {
		same = plan_same(&live, &img->plan);
		plan_free(&live);
	}
	mapping_free(&m);
	return same;
}

const struct dm_device *mapping_find_base(const struct dm_devices *all, const struct image *img)
{
	for (size_t i = 0; i < all->n; i++)
		if (is_base_of(&all->v[i], img))
			return &all->v[i];
	return NULL;
}

int mapping_refuse_frozen(const struct mapping *m)
{
	if (m->frozen)
		return fail(REFUSED,
			    "it was opened with --static from a snapshot, and its table cannot say "
			    "from which: close it and open it again");
	return DONE;
}

int mapping_open_image(const struct mapping *m, struct image *img)
{
	*img = image_none;
	if (m->fenced)
		return fail(DAMAGED,
			    "all I/O fails, as its table was replaced when the file was found not "
			    "to be there any more: close it and open it again");
	if (!m->device)
		return fail(NOT_FOUND, "the device below the mapping is gone");
	if (m->several)
		return fail(REFUSED,
			    "it was opened with --static from several files, and its table cannot "
			    "say from which: close it and open it again");
	if (m->kind != MAPPING_NTFS)
		return image_open(m->device, img);
	return image_open_id(m->device, &m->file, img);
}

char *mapping_source(const struct mapping *m)
{
	const char *device = m->device ? m->device : "?";
	struct image img;
	char *source;
	int code;

	if (m->several)
		return text("%s, …", device);
	if (m->kind == MAPPING_MEMORY)
		return text_copy("tmpfs");
	if (m->kind != MAPPING_NTFS)
		return text_copy(device);
	msg_hush(true);
	code = mapping_open_image(m, &img);
	msg_hush(false);
	if (code)
		return text("%s:(MFT record %" PRIu64 ")", device, m->file.record);
	source = text_copy(img.name);
	image_close(&img);
	return source;
}

static const char *bare_name(const char *name)
{
	static const char dir[] = "/dev/mapper/";

	return strncmp(name, dir, strlen(dir)) ? name : name + strlen(dir);
}

int mapping_read(const char *name, struct dm_device *d, struct mapping *m)
{
	int code = dm_need();

	if (!code)
		code = dm_check_name(bare_name(name));
	if (!code)
		code = dm_read(bare_name(name), d);
	if (code == NOT_FOUND)
		return fail(NOT_FOUND, "%s is not open (`ntfsmap list` shows what is)", name);
	if (code)
		return code;
	if (mapping_of(d, m))
		return DONE;
	if (dm_partition(d->uuid, NULL))
		fail(REFUSED, "%s is a partition, and belongs to the device below it: name that",
		     name);
	else
		fail(REFUSED,
		     "%s was not made by `ntfsmap open` (its UUID is \"%s\"): dmsetup can handle "
		     "it",
		     name, d->uuid);
	dm_device_free(d);
	return REFUSED;
}

/*
 * NAME of NAME-origin or NAME-cow is there and has a table. It names neither of them for a moment
 * while a merge begins or ends, and for good when it was fenced; but what a store in memory holds
 * is nowhere else.
 */
static bool has_overlay(const struct dm_device *d)
{
	const char *suffix = dm_is_origin(d) ? "-origin" : "-cow";
	size_t len = strlen(d->name), cut = strlen(suffix);
	struct dm_device top;
	char *name;
	bool has = false;

	if ((!dm_is_origin(d) && !dm_is_cow(d)) || len <= cut ||
	    strcmp(d->name + len - cut, suffix))
		return false;
	name = text("%.*s", (int)(len - cut), d->name);
	if (!dm_read(name, &top)) {
		has = top.live && !strncmp(top.uuid, DM_OURS, strlen(DM_OURS));
		dm_device_free(&top);
	}
	free(name);
	return has;
}

/* A repair that still runs has the lock. */
static bool looks_left(const struct dm_device *d)
{
	const char *disk = dm_partition(d->uuid, NULL);
	bool ours = !strncmp(disk ? disk : d->uuid, DM_OURS, strlen(DM_OURS));

	if (d->open_count)
		return false;
	return (ours && !d->live) || is_repair(d->uuid) || (dm_is_part(d) && !has_overlay(d));
}

/* dmsetup may be making one of ours from a table of ours at this moment, without our lock: it gets
 * its table, and a base its child, in no time, so look again before taking it for a ruin. */
static bool is_ruin(const struct dm_device *d)
{
	struct dm_device again;
	bool ruin;

	if (!looks_left(d))
		return false;
	usleep(500000);
	if (dm_read(d->name, &again))
		return false;
	ruin = looks_left(&again) && !strcmp(again.uuid, d->uuid);
	dm_device_free(&again);
	return ruin;
}

static const char *part_text(const struct dm_device *d)
{
	if (dm_is_base(d))
		return "a parent";
	if (dm_is_origin(d))
		return "what was below an overlay,";
	return dm_is_cow(d) ? "the store of an overlay" : "a data file";
}

int mapping_sweep(void)
{
	struct dm_devices all;
	bool removed = false;
	int code = dm_read_all(&all);

	for (size_t i = 0; !code && i < all.n; i++) {
		const struct dm_device *d = &all.v[i];

		if (!is_ruin(d))
			continue;
		if (d->live && is_repair(d->uuid))
			note("removing %s, which a killed `ntfsmap check --repair` left", d->name);
		else if (d->live)
			note("removing %s, %s that no open image uses", d->name, part_text(d));
		else
			note("removing %s, which an interrupted ntfsmap left without a table",
			     d->name);
		code = dm_remove(d->name, false);
		removed |= d->live;
	}
	dm_devices_free(&all);
	return !code && removed ? mapping_sweep() : code; /* the parent of a parent */
}

static int lock_fd = -1;

int mapping_lock(void)
{
	int fd;

	if (lock_fd >= 0)
		return DONE;
	fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail_errno(errno, "cannot open the lock %s", LOCK_FILE);
	if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		note("waiting for another ntfsmap that changes devices");
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return fail_errno(errno, "cannot take the lock %s", LOCK_FILE);
	lock_fd = fd;
	return mapping_sweep();
}

void mapping_unlock(void)
{
	close(lock_fd);
	lock_fd = -1;
}

int mapping_change(int (*change)(void *ctx), void *ctx)
{
	pid_t child;
	int status;

	fflush(stdout);
	fflush(stderr);
	child = fork();
	if (child < 0)
		return fail_errno(errno, "cannot start a process");
	if (!child) {
		setsid(); /* no Ctrl-C, no hang-up */
		_exit(change(ctx));
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return fail_errno(errno, "lost the process that changes the device");
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return fail(SYSTEM, "the process that changes the device was killed (signal %d)",
		    WTERMSIG(status));
}
