// SPDX-License-Identifier: GPL-2.0-or-later
/* up and down: what /etc/ntfsmaptab and the kernel command line name. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blk.h"
#include "hostview.h"
#include "mapping.h"
#include "parts.h"
#include "tab.h"
#include "verb.h"

#define INITRD_TIMEOUT 90     /* seconds, as systemd waits for a device */
#define NOTE_AFTER     2      /* seconds: what takes longer is said */
#define POLL	       250000 /* microseconds */

/* The initramfs' hooks make it when root has come: boot/initramfs/runtime.sh. */
#define INITRD_STOP "/run/ntfsmap-initrd/stop"

struct run {
	const struct options *opt;
	struct tab tab;
	time_t start; /* all wait from here, so that waiting does not add up */
};

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static const char *tab_file(const struct options *opt)
{
	return opt->tab ? opt->tab : TAB_FILE;
}

/* udev and the initramfs ask whether or not there is a table. */
static int read_tab(const struct options *opt, struct tab *tab)
{
	bool may_miss = !opt->tab && (opt->device || opt->initrd);
	int code = tab_read(tab_file(opt), may_miss, tab), more = DONE;

	if (opt->initrd)
		more = tab_read_cmdline(TAB_CMDLINE, tab);
	return code ? code : more;
}

/* Is what a SOURCE lies on there? Says nothing. */
static int look_for(const char *source)
{
	struct source src;
	int code;

	msg_hush(true);
	code = source_resolve(source, &src);
	msg_hush(false);
	source_free(&src);
	return code;
}

/* The first SOURCE that is not there yet, or NULL. */
static const char *missing_source(const struct tab_entry *e)
{
	for (unsigned int i = 0; i < TAB_SOURCES; i++)
		if (tab_source(e, i) && look_for(tab_source(e, i)) == NOT_FOUND)
			return tab_source(e, i);
	return NULL;
}

/* -1: it does not wait. */
static int timeout_of(const struct tab_entry *e, const struct options *opt)
{
	return e->timeout < 0 && opt->initrd ? INITRD_TIMEOUT : e->timeout;
}

static void note_waiting(const char *source, int timeout)
{
	char *volume = tab_volume(source);

	if (timeout)
		note("waiting for %s, for %d seconds at most", volume, timeout);
	else
		note("waiting for %s, for as long as it takes", volume);
	free(volume);
}

/* A system that has its root without us runs somewhere else: its disk in a virtual machine, say.
 * And one whose root lies in what we have opened can start: blk_find() would not see that. */
static bool root_is_here(void)
{
	char *root = tab_parameter(TAB_CMDLINE, "root=");
	char *value = root ? strchr(root, '=') : NULL;
	bool here;
	dev_t dev;

	if (!root || *root == '/' || !value) {
		here = root && blk_dev_of(root, &dev);
	} else {
		*value = '\0';
		here = blk_is_there(root, value + 1);
	}
	free(root);
	return here;
}

/* Why nobody waits in the initramfs, or NULL. */
static const char *reason_to_stop(void)
{
	if (!access(INITRD_STOP, F_OK))
		return "the system starts without it";
	return root_is_here() ? "the root file system is" : NULL;
}

/* *skip: there is nothing to open here. What cannot be waited for is found missing by who opens. */
static int wait_for(const struct tab_entry *e, const struct run *r, bool *skip)
{
	int timeout = timeout_of(e, r->opt);
	const char *missing, *stop;
	bool noted = false;

	*skip = false;
	if (timeout < 0 && !r->opt->device)
		return DONE;
	while ((missing = missing_source(e))) {
		time_t waited = now() - r->start;

		if (timeout < 0) { /* with --device, which was for another of its SOURCEs */
			note("%s is not here yet: it is opened when that appears", missing);
			*skip = true;
			return DONE;
		}

		stop = r->opt->initrd ? reason_to_stop() : NULL;
		if (stop) {
			note("%s is not here, and %s: nothing to do", missing, stop);
			*skip = true;
			return DONE;
		}
		if (timeout && waited >= timeout)
			return fail(NOT_FOUND, "%s has not appeared within %d seconds (timeout=)",
				    missing, timeout);
		if (!noted && waited >= NOTE_AFTER) {
			note_waiting(missing, timeout);
			noted = true;
		}
		usleep(POLL);
	}
	return DONE;
}

static int entry_options(const struct tab_entry *e, struct options *opt)
{
	int code = DONE;

	*opt = (struct options){
		.req = {
			.readonly = e->readonly || e->as_static || e->snapshot,
			.as_static = e->as_static,
			.quick = e->quick,
			.parent = e->parent,
			.data = e->data,
			.snapshot = e->snapshot,
		},
		.partitions = e->partitions,
		.overlay = e->overlay,
	};
	if (e->format)
		code = request_format(&opt->req, "format=", e->format);
	for (size_t i = 0; i < e->n_allow && !code; i++)
		code = request_allow(&opt->req, "allow=", e->allow[i]);
	return code;
}

/* What is written goes to the store that is open, and would be missed in that of the entry. */
static int compare_store(const struct tab_entry *e, const struct mapping *m)
{
	bool memory = !strcmp(e->overlay, "tmpfs"), same = m->kind == MAPPING_MEMORY;
	struct image store;
	char *source;
	int code = DONE;

	if (!memory) {
		code = image_open(e->overlay, &store);
		same = !code && mapping_is_of(m, &store);
		if (!code)
			image_close(&store);
	}
	if (code || same)
		return code;
	source = mapping_source(m);
	code = fail(BUSY,
		    "it is open already, but its overlay is in %s, and not in %s: close it first",
		    source, e->overlay);
	free(source);
	return code;
}

static int compare_overlay(const struct tab_entry *e, const struct dm_device *d)
{
	const struct dm_device *cow;
	struct dm_devices all;
	struct mapping m;
	int code;

	/* else somebody writes to the image who was to write to the overlay */
	if (dm_is_overlay(d) != (e->overlay != NULL))
		return fail(BUSY, "it is open already, but %s an overlay: close it first",
			    e->overlay ? "without" : "with");
	if (!e->overlay)
		return DONE;
	code = dm_read_all(&all);
	if (code)
		return code;
	cow = dm_find(&all, dm_parts_of(d).data);
	if (cow && mapping_of(cow, &m)) {
		code = compare_store(e, &m);
		mapping_free(&m);
	} else {
		code = fail(BUSY,
			    "it is open already, but its overlay is in no store of ntfsmap's: "
			    "close it first");
	}
	dm_devices_free(&all);
	return code;
}

/* A snapshot that was laid out with --static does not tell which it is. */
static int compare_snapshot(const struct tab_entry *e, const struct mapping *m, struct image *img)
{
	bool same = !e->snapshot == !(m->snapshot || m->frozen);
	char *open;
	int code = DONE;

	if (same && e->snapshot && !m->frozen) { /* that of the entry may be a name, not an id */
		code = image_probe(img, m->format, e->snapshot);
		same = !code && !strcmp(img->snapshot, m->snapshot);
	}
	if (code || same)
		return code;
	open = text("%s%s",
		    m->snapshot ? "the snapshot "
		    : m->frozen ? "a snapshot"
				: "the image",
		    m->snapshot ? m->snapshot : "");
	code = fail(BUSY, "it is open already, but shows %s, and not %s%s: close it first", open,
		    e->snapshot ? "the snapshot " : "the image", e->snapshot ? e->snapshot : "");
	free(open);
	return code;
}

static int compare_image(const struct tab_entry *e, const struct mapping *m)
{
	struct image img;
	char *source;
	int code = image_open(e->source, &img);

	if (code)
		return code;
	if (mapping_is_of(m, &img)) {
		code = compare_snapshot(e, m, &img);
	} else {
		source = mapping_source(m);
		code = fail(BUSY,
			    "it is open already, but from %s, and not from %s: close it first",
			    source, e->source);
		free(source);
	}
	image_close(&img);
	return code;
}

static int compare_open(const struct tab_entry *e, const struct dm_device *d)
{
	struct mapping m;
	int code;

	if (!mapping_of(d, &m))
		return fail(BUSY, "/dev/mapper/%s exists already, and ntfsmap has not made it",
			    d->name);
	code = compare_overlay(e, d);
	if (!code)
		code = compare_image(e, &m);
	if (!code && !e->overlay && !d->readonly && (e->readonly || e->as_static || e->snapshot))
		code = fail(BUSY, "it is open already, but can be written, and the entry says that "
				  "it is read-only (ro, static, snapshot=): close it first");
	mapping_free(&m);
	return code;
}

/* Is NAME open already, as what the entry says? Anything else that has the name is in the way. */
static int is_open(const struct tab_entry *e, bool *open)
{
	struct dm_device d;
	char *users;
	int code = dm_read(e->name, &d);

	*open = false;
	if (code)
		return code == NOT_FOUND ? DONE : code;
	if (d.deferred) {
		users = dm_users(&d);
		code = fail(BUSY,
			    "it was closed, and goes when nobody uses it any more (%s): then it "
			    "can be opened again",
			    users ? users : "some program has it open");
		free(users);
	} else {
		code = compare_open(e, &d);
	}
	*open = !code;
	dm_device_free(&d);
	return code;
}

static int mount_host(const struct tab_entry *e)
{
	struct source src;
	int code = source_resolve(e->source, &src);

	if (!code && src.kind != SOURCE_NTFS)
		code = fail(REFUSED, "host=%s: the image is not on an NTFS volume", e->host);
	if (!code)
		code = hostview_up(src.device, e->host);
	source_free(&src);
	return code;
}

static int open_entry(const struct tab_entry *e, const struct run *r)
{
	struct options opt;
	bool skip = false, open = false;
	int code = entry_options(e, &opt);

	if (!code)
		code = wait_for(e, r, &skip);
	if (code || skip)
		return code;
	code = dm_need();
	if (!code)
		code = mapping_lock();
	if (!code)
		code = is_open(e, &open);
	if (!code && open)
		note("is up already");
	else if (!code)
		code = open_device(e->source, e->name, &opt);
	/* not in the initramfs: its folder is on a root that comes later */
	if (!code && e->host && !r->opt->initrd && mount_host(e))
		warn("host=%s is not mounted; the image is open without it", e->host);
	return code;
}

/* In a process of its own: it has the lock while it works, not while others wait for devices. */
static int apart(int (*work)(const struct tab_entry *e, const struct run *r),
		 const struct tab_entry *e, const struct run *r)
{
	pid_t parent = getpid(), child;
	int status;

	fflush(stdout);
	child = fork();
	if (child < 0)
		return fail_errno(errno, "cannot start a process");
	if (!child) {
		char *about = text("%s: %s", e->where, e->name);
		int code;

		/* Who ends up wants an end of the waiting. */
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(SYSTEM);
		msg_about(about);
		code = work(e, r);
		_exit(code ? code : finish_stdout());
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return fail_errno(errno, "lost the process for %s", e->name);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return fail(SYSTEM, "%s: %s: the process was killed (signal %d)", e->where, e->name,
		    WTERMSIG(status));
}

static int up_entry(const struct tab_entry *e, const struct run *r)
{
	int code = apart(open_entry, e, r);

	if (!code || !e->nofail)
		return code;
	note("%s: %s: going on without it (nofail)", e->where, e->name);
	return DONE;
}

/* Both are the same device; a tag that several have is for who opens to refuse. */
static bool lies_on(const char *source, dev_t dev)
{
	char *volume = tab_volume(source);
	struct source src;
	dev_t found;
	bool on;
	int code;

	msg_hush(true);
	code = source_resolve(volume, &src);
	msg_hush(false);
	if (code)
		on = code == REFUSED && *volume != '/';
	else
		on = blk_dev_of(src.device, &found) && found == dev;
	source_free(&src);
	free(volume);
	return on;
}

static bool is_named(const char *name, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return false;
}

/* Every NAME must be one of the table's: DONE, or the failure of the last that is not. */
static int check_names(const struct run *r, int argc, char **argv)
{
	int code = DONE;

	for (int i = 0; i < argc; i++)
		if (!tab_find(&r->tab, argv[i]))
			code = fail(NOT_FOUND, "%s names no \"%s\"%s", tab_file(r->opt), argv[i],
				    r->tab.incomplete ? " in a line that can be used" : "");
	return code;
}

static int check_usage(const struct options *opt, int argc)
{
	if ((argc > 0) + (opt->device != NULL) + opt->initrd > 1)
		return fail(USAGE, "NAME, --device and --initrd cannot be combined");
	return DONE;
}

static bool is_wanted(const struct tab_entry *e, const struct run *r, dev_t dev, int argc,
		      char **argv)
{
	if (argc)
		return is_named(e->name, argc, argv);
	if (e->noauto || (r->opt->initrd && !e->attach))
		return false;
	if (!r->opt->device)
		return true;
	for (unsigned int i = 0; i < TAB_SOURCES; i++)
		if (tab_source(e, i) && lies_on(tab_source(e, i), dev))
			return true;
	return false;
}

/* A mistake in another line counts where all lines were asked for, and in the initramfs when it has
 * left nothing to open there: who reads the status has nothing else to show then. */
static bool entries_decide(const struct run *r, int argc)
{
	bool any = false;

	for (size_t i = 0; i < r->tab.n; i++)
		any |= r->tab.v[i].attach && !r->tab.v[i].noauto;
	return argc || r->opt->device || (r->opt->initrd && any);
}

static int begin(struct run *r, const struct options *opt, int argc, char **argv)
{
	int code = check_usage(opt, argc);

	*r = (struct run){ .opt = opt, .start = now() };
	if (code)
		return code;
	code = read_tab(opt, &r->tab);
	/* What was asked for decides, and not a mistake in another line: that has been said. */
	if (code && r->tab.incomplete && entries_decide(r, argc))
		code = DONE;
	return code ? code : check_names(r, argc, argv);
}

int verb_up(int argc, char **argv, const struct options *opt)
{
	struct run r;
	int first = begin(&r, opt, argc, argv);
	dev_t dev = 0;

	if (!first && opt->device && !blk_dev_of(opt->device, &dev))
		first = fail(NOT_FOUND, "--device %s: no such block device", opt->device);
	for (size_t i = 0; i < r.tab.n && (dev || !opt->device); i++) {
		int code = DONE;

		if (is_wanted(&r.tab.v[i], &r, dev, argc, argv))
			code = up_entry(&r.tab.v[i], &r);
		if (!first)
			first = code;
	}
	tab_free(&r.tab);
	return first;
}

/* Does another entry that is open want the same folder? */
static bool is_shared(const struct tab_entry *e, const struct run *r)
{
	bool shared = false;

	for (size_t i = 0; i < r->tab.n && !shared; i++) {
		const struct tab_entry *other = &r->tab.v[i];
		struct dm_device d;

		if (other == e || !other->host || strcmp(other->host, e->host) ||
		    dm_read(other->name, &d))
			continue;
		shared = true;
		dm_device_free(&d);
	}
	return shared;
}

static int close_host(const struct tab_entry *e, const struct run *r)
{
	int code;

	if (!e->host || is_shared(e, r))
		return DONE;
	code = hostview_unmount(e->host, false);
	return code ? code : hostview_close_unused();
}

static int close_entry(const struct tab_entry *e, const struct run *r)
{
	struct options opt = { 0 };
	char *name = e->name;
	struct dm_device d;
	int code = dm_need();

	if (!code)
		code = mapping_lock();
	if (code)
		return code;
	code = dm_read(name, &d);
	if (!code) {
		dm_device_free(&d);
		code = verb_close(1, &name, &opt);
	} else if (code == NOT_FOUND) {
		code = DONE;
	}
	return code ? code : close_host(e, r);
}

/* The device that goes, or has gone. */
struct leaving {
	const char *path;
	dev_t dev; /* 0: it has no number any more */
};

/* A loop device that open put over it. */
static bool is_loop_over(dev_t dev, const struct leaving *l)
{
	char *file = blk_attr(dev, "loop/backing_file");
	size_t len = strlen(l->path);
	dev_t below;
	bool is = file && ((!strncmp(file, l->path, len) && (!file[len] || file[len] == ' ')) ||
			   (l->dev && blk_dev_of(file, &below) && below == l->dev));

	free(file);
	return is;
}

/* Without a number: all that is not there any more. The kernel does not give a number away while a
 * table has it. */
static bool is_leaving(dev_t dev, void *ctx)
{
	const struct leaving *l = ctx;
	char *size;

	if (is_loop_over(dev, l))
		return true;
	if (l->dev)
		return dev == l->dev;
	size = blk_attr(dev, "size");
	free(size);
	return !size;
}

static int give_up(const struct tab_entry *e, const struct dm_device *d,
		   const struct dm_devices *all, struct leaving *l)
{
	struct options opt = { .deferred = true };
	bool in_use = parts_in_use(d, all);
	char *users = in_use ? parts_users(d, all) : NULL, *name = e->name;
	int code = verb_close(1, &name, &opt);

	if (!code && in_use)
		warn("%s goes while it is in use (%s): it is closed when that ends, and what has "
		     "not been written by then is lost",
		     l->path, users ? users : "some program has it open");
	else if (!code)
		note("closed, as %s goes", l->path);
	free(users);
	return code;
}

static int leave_entry(const struct tab_entry *e, const struct run *r)
{
	struct leaving l = { .path = r->opt->device };
	const struct dm_device *d = NULL, *view;
	struct dm_devices all = { 0 };
	int code = dm_need(), more = DONE;

	if (!blk_dev_of(l.path, &l.dev) && !dm_parse_device(l.path, &l.dev))
		l.dev = 0;
	if (!code)
		code = mapping_lock();
	if (!code)
		code = dm_read_all(&all);
	if (code)
		return code;
	for (size_t i = 0; i < all.n; i++)
		if (!strcmp(all.v[i].name, e->name) && !all.v[i].deferred)
			d = &all.v[i];
	if (d && dm_any_below(&all, d, is_leaving, &l))
		code = give_up(e, d, &all, &l);
	view = e->host ? dm_find(&all, hostview_on(e->host)) : NULL;
	if (view && dm_any_below(&all, view, is_leaving, &l)) {
		more = hostview_unmount(e->host, true);
		if (!more)
			more = hostview_close_unused();
	}
	dm_devices_free(&all);
	return code ? code : more;
}

int verb_down(int argc, char **argv, const struct options *opt)
{
	struct run r;
	int first = begin(&r, opt, argc, argv);

	for (size_t i = r.tab.n; i-- > 0;) {
		const struct tab_entry *e = &r.tab.v[i];
		int code;

		if (argc && !is_named(e->name, argc, argv))
			continue;
		code = apart(opt->device ? leave_entry : close_entry, e, &r);
		if (!first)
			first = code;
	}
	tab_free(&r.tab);
	return first;
}
