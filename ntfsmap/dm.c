// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <libdevmapper.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dm.h"
#include "mounts.h"
#include "msg.h"

static char library_error[256]; /* libdevmapper's first complaint */
static int library_errno;	/* and the errno that it was about */

static PRINTF(5, 6) void log_line(int level, const char *file, int line, int dm_errno,
				  const char *fmt, ...)
{
	int error = errno; /* still that of the ioctl: later it is lost in the library's rollback */
	char buf[256];
	va_list ap;

	(void)file, (void)line, (void)dm_errno;
	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	if ((level & 7) > 3) { /* no error; the upper bits say where to write */
		debug("libdevmapper: %s", buf);
		return;
	}
	if (!library_errno && strstr(buf, "ioctl"))
		library_errno = error;
	if (!library_error[0])
		snprintf(library_error, sizeof(library_error), "%s", buf);
	debug("libdevmapper: %s", buf);
}

static struct dm_task *new_task(int type, const char *name)
{
	struct dm_task *t;

	dm_log_with_errno_init(log_line);
	library_error[0] = '\0';
	library_errno = 0;
	t = dm_task_create(type);
	if (!t || (name && !dm_task_set_name(t, name))) {
		if (t)
			dm_task_destroy(t);
		return NULL;
	}
	return t;
}

static int task_error(struct dm_task *t)
{
	int error = t ? dm_task_get_errno(t) : 0;

	if (library_errno)
		return library_errno;
	return error ? error : ENODEV; /* the library found out before it asked the kernel */
}

static int fail_task(int error, const char *what, const char *name)
{
	if (error == EBUSY)
		return fail(BUSY, "%s %s: busy (%s)", what, name, library_error);
	return fail(error == EEXIST ? BUSY : SYSTEM, "%s %s: %s (%s)", what, name, strerror(error),
		    library_error[0] ? library_error : "no more is known; see dmesg");
}

bool dm_present(void)
{
	FILE *f = fopen("/proc/devices", "re");
	char line[128];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, " device-mapper\n") != NULL;
	if (f)
		fclose(f);
	return found;
}

int dm_need(void)
{
	struct dm_task *t;
	int error = 0;

	if (geteuid())
		return fail(SYSTEM, "looking at and changing device-mapper devices needs root");
	t = new_task(DM_DEVICE_VERSION, NULL); /* loads the module when it can */
	if (!t || !dm_task_run(t))
		error = task_error(t);
	if (t)
		dm_task_destroy(t);
	if (error)
		return fail(SYSTEM,
			    "the kernel's device-mapper cannot be used (%s): try `modprobe dm-mod`",
			    strerror(error));
	return DONE;
}

int dm_check_name(const char *name)
{
	const char *fault = name_fault(name);

	return fault ? fail(USAGE, "\"%s\" cannot be a device's name: %s", name, fault) : DONE;
}

static void add_line(struct dm_line **lines, size_t *n, struct dm_line line)
{
	if ((*n & (*n - 1)) == 0) /* grow at powers of two */
		*lines = must_regrow(*lines, *n ? *n * 2 : 1, sizeof(**lines));
	(*lines)[(*n)++] = line;
}

static void take_table(struct dm_task *t, struct dm_line **lines, size_t *n)
{
	void *next = NULL;

	do {
		uint64_t start = 0, count = 0;
		char *type = NULL, *params = NULL;

		next = dm_get_next_target(t, next, &start, &count, &type, &params);
		if (type)
			add_line(lines, n,
				 (struct dm_line){ start, count, text_copy(type),
						   text_copy(params ? params : "") });
	} while (next);
}

static void read_waiting(struct dm_device *d)
{
	struct dm_task *t = new_task(DM_DEVICE_TABLE, NULL);

	if (t && dm_task_set_major(t, (int)major(d->dev)) &&
	    dm_task_set_minor(t, (int)minor(d->dev)) && dm_task_query_inactive_table(t) &&
	    dm_task_run(t))
		take_table(t, &d->waiting, &d->n_waiting);
	if (t)
		dm_task_destroy(t);
}

static int read_device(struct dm_task *t, const char *name, struct dm_device *d)
{
	struct dm_info info;
	const char *uuid;
	int error = 0;

	*d = (struct dm_device){ 0 };
	if (!t || !dm_task_run(t) || !dm_task_get_info(t, &info))
		error = task_error(t);
	if (!error && info.exists) {
		uuid = dm_task_get_uuid(t);
		d->name = text_copy(name);
		d->uuid = text_copy(uuid ? uuid : "");
		d->dev = makedev(info.major, info.minor);
		d->open_count = info.open_count;
		d->readonly = info.read_only;
		d->suspended = info.suspended;
		d->live = info.live_table;
		d->deferred = info.deferred_remove;
		take_table(t, &d->lines, &d->n);
		if (d->n)
			d->sectors = d->lines[d->n - 1].start + d->lines[d->n - 1].count;
	}
	if (t)
		dm_task_destroy(t);
	if (error && error != ENXIO)
		return fail_task(error, "cannot read the table of", name);
	if (d->name && info.inactive_table)
		read_waiting(d);
	return d->name ? DONE : NOT_FOUND;
}

int dm_read(const char *name, struct dm_device *d)
{
	return read_device(new_task(DM_DEVICE_TABLE, name), name, d);
}

/* By number: the name may have changed meanwhile, or be one that the library would not take. */
static int read_numbered(const struct dm_names *names, struct dm_device *d)
{
	struct dm_task *t = new_task(DM_DEVICE_TABLE, NULL);

	if (t && (!dm_task_set_major(t, (int)major(names->dev)) ||
		  !dm_task_set_minor(t, (int)minor(names->dev)))) {
		dm_task_destroy(t);
		t = NULL;
	}
	return read_device(t, names->name, d);
}

static int read_each(struct dm_names *names, struct dm_devices *all)
{
	uint32_t next = 0;

	if (!names || !names->dev)
		return DONE;
	do {
		struct dm_device d;
		int code;

		names = (struct dm_names *)((char *)names + next);
		next = names->next;
		code = read_numbered(names, &d);
		if (code == NOT_FOUND)
			continue; /* gone meanwhile */
		if (code)
			return code;
		all->v = must_regrow(all->v, all->n + 1, sizeof(*all->v));
		all->v[all->n++] = d;
	} while (next);
	return DONE;
}

int dm_read_all(struct dm_devices *all)
{
	struct dm_task *t;
	int code = DONE;

	*all = (struct dm_devices){ 0 };
	if (!dm_present())
		return DONE;
	t = new_task(DM_DEVICE_LIST, NULL);
	if (!t || !dm_task_run(t))
		code = fail_errno(task_error(t), "cannot list the device-mapper devices");
	else
		code = read_each(dm_task_get_names(t), all);
	if (t)
		dm_task_destroy(t);
	if (code)
		dm_devices_free(all);
	return code;
}

static void free_lines(struct dm_line *lines, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(lines[i].type);
		free(lines[i].params);
	}
	free(lines);
}

bool dm_is_base(const struct dm_device *d)
{
	return !strncmp(d->uuid, DM_BASE, strlen(DM_BASE));
}

bool dm_is_origin(const struct dm_device *d)
{
	return !strncmp(d->uuid, DM_ORIGIN, strlen(DM_ORIGIN));
}

bool dm_is_cow(const struct dm_device *d)
{
	return !strncmp(d->uuid, DM_COW, strlen(DM_COW));
}

bool dm_is_part(const struct dm_device *d)
{
	return dm_is_base(d) || dm_is_origin(d) || dm_is_cow(d) ||
	       !strncmp(d->uuid, DM_DATA, strlen(DM_DATA));
}

const char *dm_partition(const char *uuid, unsigned int *number)
{
	unsigned int found;
	int n = 0;

	if (sscanf(uuid, "part%u-%n", &found, &n) != 1 || !n)
		return NULL;
	if (number)
		*number = found;
	return uuid + n;
}

bool dm_is_partition_of(const struct dm_device *d, const struct dm_device *disk)
{
	const char *uuid = dm_partition(d->uuid, NULL);

	return uuid && *uuid && !strcmp(uuid, disk->uuid);
}

const struct dm_device *dm_find(const struct dm_devices *all, dev_t dev)
{
	for (size_t i = 0; i < all->n; i++)
		if (all->v[i].dev == dev)
			return &all->v[i];
	return NULL;
}

void dm_device_free(struct dm_device *d)
{
	free_lines(d->lines, d->n);
	free_lines(d->waiting, d->n_waiting);
	free(d->name);
	free(d->uuid);
	*d = (struct dm_device){ 0 };
}

void dm_devices_free(struct dm_devices *all)
{
	for (size_t i = 0; i < all->n; i++)
		dm_device_free(&all->v[i]);
	free(all->v);
	*all = (struct dm_devices){ 0 };
}

static bool has_target(const char *type)
{
	struct dm_task *t = new_task(DM_DEVICE_LIST_VERSIONS, NULL);
	struct dm_versions *v = t && dm_task_run(t) ? dm_task_get_versions(t) : NULL;
	bool found = false;
	uint32_t next = 0;

	if (v)
		do {
			v = (struct dm_versions *)((char *)v + next);
			next = v->next;
			found = !strcmp(v->name, type);
		} while (next && !found);
	if (t)
		dm_task_destroy(t);
	return found;
}

/* The kernel has asked for the module of a target that it did not know before it says EINVAL. */
static int fail_table(int error, const char *what, const char *name, const struct plan *plan)
{
	char *said = text_copy(library_error);
	int code;

	if (error != EINVAL)
		code = fail_task(error, what, name);
	else if (plan->format && !has_target("vdisk"))
		code = fail(SYSTEM,
			    "%s %s: this kernel has no target vdisk: `make module && make "
			    "modules_install && modprobe dm-vdisk` in the sources of ntfsmap; for "
			    "reading only, `ntfsmap open --static` does without",
			    what, name);
	else if (plan->origin)
		code = fail(SYSTEM,
			    "%s %s: the kernel refused the overlay (%s); dmesg says why, and it "
			    "needs the target snapshot: modprobe dm-snapshot",
			    what, name, said);
	else if (plan->format)
		code = fail(SYSTEM, "%s %s: the target vdisk refused the table (%s): see dmesg",
			    what, name, said);
	else
		code = fail(SYSTEM,
			    "%s %s: the kernel refused the table (%s); dmesg says why, and holes "
			    "need the target zero: modprobe dm-zero",
			    what, name, said);
	free(said);
	return code;
}

static bool add_targets(struct dm_task *t, const struct plan *plan)
{
	bool ok = true;

	for (size_t i = 0; i < plan_targets(plan) && ok; i++) {
		struct plan_target line;

		plan_target(plan, i, &line);
		ok = dm_task_add_target(t, line.start, line.count, line.type, line.params);
		free(line.params);
	}
	return ok && (!plan->readonly || dm_task_set_ro(t));
}

/* Run with a cookie, so that udev has made the nodes and links when this returns; where udevd does
 * not run the library makes and removes the node itself. */
static int run_with_cookie(struct dm_task *t, uint16_t flags)
{
	uint32_t cookie = 0;
	int error = 0;

	if (!dm_task_set_cookie(t, &cookie, flags))
		return ENOMEM;
	if (!dm_task_run(t))
		error = task_error(t);
	dm_udev_wait(cookie);
	return error;
}

/* udev forgets at every change what it was told about a device. */
static uint16_t udev_flags(bool hidden)
{
	return hidden ? DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG |
				DM_UDEV_LOW_PRIORITY_FLAG
		      : 0;
}

int dm_create(const char *name, const char *uuid, const struct plan *plan, bool hidden, dev_t *dev)
{
	struct dm_task *t = new_task(DM_DEVICE_CREATE, name);
	int error = ENOMEM;
	struct dm_info info;

	if (t && dm_task_set_uuid(t, uuid) && add_targets(t, plan) &&
	    dm_task_set_add_node(t, DM_ADD_NODE_ON_CREATE))
		error = run_with_cookie(t, udev_flags(hidden));
	if (!error && dev)
		*dev = dm_task_get_info(t, &info) ? makedev(info.major, info.minor) : 0;
	if (t)
		dm_task_destroy(t);
	dm_lib_release();
	return error ? fail_table(error, "cannot make the device", name, plan) : DONE;
}

static int load_table(const char *name, const struct plan *plan)
{
	struct dm_task *t = new_task(DM_DEVICE_RELOAD, name);
	int error = ENOMEM;

	if (t && add_targets(t, plan))
		error = dm_task_run(t) ? 0 : task_error(t);
	if (t)
		dm_task_destroy(t);
	return error ? fail_table(error, "cannot load the new table of", name, plan) : DONE;
}

/* Or the next resume, whoever does it, would put it in place. */
static void drop_waiting_table(const char *name)
{
	struct dm_task *t = new_task(DM_DEVICE_CLEAR, name);

	if (t && !dm_task_run(t))
		warn("%s still has a table that waits: dmsetup clear %s", name, name);
	if (t)
		dm_task_destroy(t);
}

int dm_reload(const char *name, const struct plan *plan, bool hidden)
{
	struct dm_task *t;
	int code = load_table(name, plan);
	int error = ENOMEM;

	if (code)
		return code;
	t = new_task(DM_DEVICE_RESUME, name); /* suspends the old table, then swaps */
	if (t)
		error = run_with_cookie(t, udev_flags(hidden));
	if (t)
		dm_task_destroy(t);
	dm_lib_release();
	if (!error)
		return DONE;
	code = fail_task(error, "cannot resume", name);
	drop_waiting_table(name);
	return code;
}

char *dm_state(const char *name)
{
	struct dm_task *t = new_task(DM_DEVICE_STATUS, name);
	uint64_t start, count;
	char *type = NULL, *params = NULL, *state = NULL;

	/* no flush: looking must not wait for anything */
	if (t && dm_task_no_flush(t) && dm_task_run(t)) {
		dm_get_next_target(t, NULL, &start, &count, &type, &params);
		if (type && params)
			state = text_copy(params);
	}
	if (t)
		dm_task_destroy(t);
	return state;
}

int dm_remove(const char *name, bool deferred)
{
	struct dm_task *t = new_task(DM_DEVICE_REMOVE, name);
	int error = ENOMEM;

	/* udev may have it open for a moment: retry. A deferred removal leaves the node to udev
	 * where that runs; elsewhere the library takes it away at once, or it would name the next
	 * device. */
	if (t && (deferred ? dm_task_deferred_remove(t) : dm_task_retry_remove(t)))
		error = run_with_cookie(t, deferred && dm_udev_get_sync_support()
						   ? DM_UDEV_DISABLE_LIBRARY_FALLBACK
						   : 0);
	if (t)
		dm_task_destroy(t);
	dm_lib_release();
	if (!error || error == ENXIO) /* gone meanwhile is gone */
		return DONE;
	return fail_task(error, "cannot close", name);
}

static char *append(char *list, char *item)
{
	char *longer = list ? text("%s, %s", list, item) : text_copy(item);

	free(list);
	free(item);
	return longer;
}

/* One word of what sysfs says about a holder. The caller frees. */
static char *holder_attr(const char *kernel_name, const char *attr)
{
	char *path = text("/sys/block/%s/dm/%s", kernel_name, attr);
	FILE *f = fopen(path, "re");
	char word[DM_UUID_MAX + 1];
	bool known = f && fscanf(f, "%128s", word) == 1;

	if (f)
		fclose(f);
	free(path);
	return known ? text_copy(word) : NULL;
}

static char *append_holder(char *users, const char *kernel_name, const char *own_uuid)
{
	char *uuid = holder_attr(kernel_name, "uuid"), *name = holder_attr(kernel_name, "name");
	const char *disk = uuid ? dm_partition(uuid, NULL) : NULL;

	if (!disk || strcmp(disk, own_uuid))
		users = append(users, name ? text("used by /dev/mapper/%s", name)
					   : text("used by %s", kernel_name));
	free(uuid);
	free(name);
	return users;
}

static char *holders_of(const struct dm_device *d, char *users)
{
	char *path = text("/sys/dev/block/%u:%u/holders", major(d->dev), minor(d->dev));
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			users = append_holder(users, entry->d_name, d->uuid);
	if (dir)
		closedir(dir);
	free(path);
	return users;
}

char *dm_users(const struct dm_device *d)
{
	struct mounts mounts;
	char *users = NULL;

	mounts_read(&mounts);
	for (size_t i = 0; i < mounts.n; i++)
		if (mounts.v[i].dev == d->dev)
			users = append(users, text("mounted on %s", mounts.v[i].point));
	mounts_free(&mounts);
	return holders_of(d, users);
}
