// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Called by systemd at boot and at daemon-reload, systemd.generator(7): /etc/ntfsmaptab in the
 * words of units. For each entry, in the folder that systemd names:
 *
 *   ntfsmap@NAME.service.d/            what its unit waits for, what waits for it, when it ends
 *   dev-mapper-NAME.device.{requires,d}/   whoever wants the device gets the unit started; so too
 *                                      for its partitions and links that /etc/fstab names
 *   DEVICE.device.{wants,d}/           the volume: when it appears the unit starts; how long it is
 *                                      waited for
 *   ntfsmap.target.{requires,wants}/   and with it at boot
 *
 * No mistake in a file may end the boot: what is wrong is said, and left out. systemd has no
 * standard error for generators, so it is said to the kernel's log, which the journal reads.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../ntfsmap/msg.h"
#include "../ntfsmap/process.h"
#include "../ntfsmap/tab.h"
#include "unit-name.h"

#define FSTAB_FILE	"/etc/fstab"
#define IN_INITRAMFS	"/etc/initrd-release"
#define TEMPLATE	UNITDIR "/ntfsmap@.service"
#define TARGET		UNITDIR "/ntfsmap.target"
#define DEFAULT_TIMEOUT 90  /* seconds: systemd's own for a device */
#define OPENING_TIME	300 /* and more until an image is open: the whole MFT is read */

/* What of a line of fstab matters here. */
struct fs_line {
	char *spec, *dir;
	char *node; /* of spec, or NULL */
	bool noauto, swap;
};

struct fstab {
	struct fs_line *v;
	size_t n;
};

struct output {
	const char *dest;
	const struct tab *tab;
	const struct fstab *fstab;
};

static char *without_quotes(const char *spec)
{
	char *out = must_alloc(strlen(spec) + 1), *p = out;

	for (; *spec; spec++)
		if (*spec != '"')
			*p++ = *spec;
	return out;
}

static void read_fstab(const char *file, struct fstab *fstab)
{
	FILE *f = setmntent(file, "re");
	struct mntent *m;

	*fstab = (struct fstab){ 0 };
	if (!f) {
		if (errno != ENOENT)
			fail_errno(errno, "cannot read %s", file);
		return;
	}
	while ((m = getmntent(f))) {
		struct fs_line *line;

		fstab->v = must_regrow(fstab->v, fstab->n + 1, sizeof(*fstab->v));
		line = &fstab->v[fstab->n++];
		line->spec = without_quotes(m->mnt_fsname);
		line->dir = text_copy(m->mnt_dir);
		line->node = unit_node_of(line->spec);
		line->swap = !strcmp(m->mnt_type, "swap");
		line->noauto = hasmntopt(m, "noauto") != NULL;
	}
	endmntent(f);
}

static void free_fstab(struct fstab *fstab)
{
	for (size_t i = 0; i < fstab->n; i++) {
		free(fstab->v[i].spec);
		free(fstab->v[i].dir);
		free(fstab->v[i].node);
	}
	free(fstab->v);
}

/* Below dest, in a folder that is made. */
static FILE *new_file(const struct output *out, const char *folder, const char *name)
{
	char *path = text("%s/%s", out->dest, folder), *file = text("%s/%s", path, name);
	FILE *f = NULL;

	if (mkdir(path, 0755) && errno != EEXIST)
		fail_errno(errno, "cannot make %s", path);
	else if (!(f = fopen(file, "we")))
		fail_errno(errno, "cannot write %s", file);
	free(path);
	free(file);
	return f;
}

static void close_file(FILE *f, const char *folder)
{
	int error = ferror(f) ? EIO : 0;

	if (fclose(f) || error)
		fail_errno(error ? error : errno, "cannot write into %s", folder);
}

/* A file of settings for the section [Unit] of that unit. */
static PRINTF(4, 5) void add_settings(const struct output *out, const char *unit, const char *name,
				      const char *fmt, ...)
{
	char *folder = text("%s.d", unit);
	FILE *f = new_file(out, folder, name);
	va_list ap;

	if (f) {
		va_start(ap, fmt);
		fputs("# Made by ntfsmap-generator\n[Unit]\n", f);
		vfprintf(f, fmt, ap);
		va_end(ap);
		close_file(f, folder);
	}
	free(folder);
}

/* how: "requires" or "wants". */
static void add_link(const struct output *out, const char *unit, const char *how,
		     const char *wanted, const char *file)
{
	char *folder = text("%s/%s.%s", out->dest, unit, how);
	char *path = text("%s/%s", folder, wanted);

	if (mkdir(folder, 0755) && errno != EEXIST)
		fail_errno(errno, "cannot make %s", folder);
	else if (symlink(file, path) && errno != EEXIST)
		fail_errno(errno, "cannot make the link %s", path);
	free(folder);
	free(path);
}

static char *unit_of_entry(const struct tab_entry *e)
{
	char *instance = unit_escape(e->name), *unit = text("ntfsmap@%s.service", instance);

	free(instance);
	return unit;
}

/* Is it /dev/mapper/NAME, /dev/ntfsmap/NAME or one of its partitions? */
static bool is_device_of(const char *spec, const struct tab_entry *e)
{
	static const char *const folders[] = { "/dev/mapper/", "/dev/ntfsmap/" };
	size_t len = strlen(e->name);

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		const char *rest = spec + strlen(folders[i]);

		if (strncmp(spec, folders[i], strlen(folders[i])) || strncmp(rest, e->name, len))
			continue;
		rest += len;
		if (!*rest)
			return true;
		return e->partitions && !strncmp(rest, "-part", 5) &&
		       isdigit((unsigned char)rest[5]) && !rest[5 + strspn(rest + 5, "0123456789")];
	}
	return false;
}

/*
 * A device that the entry makes: wanting it starts the unit. It is waited for longer than the
 * volume, and not for ever: a partition may not be there. (It has no After= on the unit: at
 * shutdown it would be waited for to vanish before the unit ends, which is what makes it vanish.)
 * f gets the unit's own side: blockdev@.target is what a mount waits for, and what waits for the
 * mount to end; see systemd.special(7).
 */
static void add_device(const struct output *out, const struct tab_entry *e, const char *spec,
		       FILE *f)
{
	char *stem = unit_escape_path(spec), *device = text("%s.device", stem);
	char *unit = unit_of_entry(e), *name = text("50-%s.conf", unit);
	int timeout = e->timeout < 0 ? DEFAULT_TIMEOUT : e->timeout;

	add_link(out, device, "requires", unit, TEMPLATE);
	if (timeout)
		add_settings(out, device, name, "JobRunningTimeoutSec=%d\n",
			     timeout + OPENING_TIME);
	else
		add_settings(out, device, name, "JobRunningTimeoutSec=infinity\n");
	fprintf(f, "Wants=blockdev@%s.target\nBefore=blockdev@%s.target\n", stem, stem);
	free(stem);
	free(device);
	free(unit);
	free(name);
}

/* The unit ends after what uses it. When a volume is unplugged, blockdev@.target has no end, and
 * orders nothing. */
static void add_user(const struct fs_line *line, FILE *f)
{
	char *stem = unit_escape_path(line->swap ? line->spec : line->dir);

	fprintf(f, "Before=%s.%s\n", stem, line->swap ? "swap" : "mount");
	free(stem);
}

static void add_devices(const struct output *out, const struct tab_entry *e, FILE *f)
{
	char *own = text("/dev/mapper/%s", e->name);

	add_device(out, e, own, f);
	for (size_t i = 0; i < out->fstab->n; i++) {
		const struct fs_line *line = &out->fstab->v[i];

		if (!is_device_of(line->spec, e))
			continue;
		if (strcmp(line->spec, own))
			add_device(out, e, line->spec, f);
		if (!e->attach)
			add_user(line, f);
	}
	free(own);
}

/* The node of the device that SOURCE is on, or NULL. */
static char *node_of_source(const char *source)
{
	char *volume = tab_volume(source), *node = unit_node_of(volume);

	free(volume);
	return node;
}

static bool needs_node(const struct tab_entry *e, const char *node)
{
	bool needs = false;

	for (unsigned int i = 0; i < TAB_SOURCES && !needs; i++) {
		const char *source = tab_source(e, i);
		char *other = source ? node_of_source(source) : NULL;

		needs = other && !strcmp(node, other);
		free(other);
	}
	return needs;
}

/* The longest that an entry on that device wants to wait for it. */
static int timeout_of(const struct output *out, const char *node)
{
	int longest = -1;

	for (size_t i = 0; i < out->tab->n; i++) {
		const struct tab_entry *e = &out->tab->v[i];

		if (e->timeout >= 0 && longest && needs_node(e, node))
			longest = !e->timeout || e->timeout > longest ? e->timeout : longest;
	}
	return longest;
}

static void add_path(const char *path, FILE *f)
{
	char *quoted = unit_quote(path);

	fprintf(f, "RequiresMountsFor=%s\n", quoted);
	free(quoted);
}

/* The folder must be there; what is mounted on it is the unit's own doing. */
static void add_mount_point(const char *point, FILE *f)
{
	char *parent = text("%.*s", (int)(strrchr(point, '/') - point), point);

	add_path(*parent ? parent : "/", f);
	free(parent);
}

static void add_timeout(const struct output *out, const char *device, const char *node)
{
	int timeout = timeout_of(out, node);

	if (timeout > 0)
		add_settings(out, device, "50-ntfsmap-timeout.conf", "JobRunningTimeoutSec=%d\n",
			     timeout);
	else if (!timeout)
		add_settings(out, device, "50-ntfsmap-timeout.conf",
			     "JobRunningTimeoutSec=infinity\n");
}

/* Where SOURCE is: a device that is waited for, or a path. */
static void add_source(const struct output *out, const struct tab_entry *e, const char *source,
		       FILE *f)
{
	char *volume = tab_volume(source), *node = unit_node_of(volume), *stem, *device;

	if (!node && *volume == '/')
		add_path(volume, f);
	else if (!node)
		fail(USAGE,
		     "%s: %s cannot be waited for: write the volume's UUID with all 16 digits, or "
		     "a path that begins with /",
		     e->where, volume);
	free(volume);
	if (!node)
		return;
	stem = unit_escape_path(node);
	device = text("%s.device", stem);
	/* The end of what the initramfs has opened is not systemd's. */
	fprintf(f, "%s=%s\nAfter=%s\n", e->attach ? "Requires" : "BindsTo", device, device);
	add_timeout(out, device, node);
	if (source == e->source && !e->noauto) {
		char *unit = unit_of_entry(e);

		add_link(out, device, "wants", unit, TEMPLATE);
		free(unit);
	}
	free(node);
	free(stem);
	free(device);
}

static void add_entry(const struct output *out, const struct tab_entry *e)
{
	char *unit = unit_of_entry(e), *folder = text("%s.d", unit);
	FILE *f = new_file(out, folder, "50-ntfsmaptab.conf");

	if (!f)
		goto out;
	fprintf(f, "# Made by ntfsmap-generator from %s\n[Unit]\nSourcePath=%.*s\n", e->where,
		(int)(strrchr(e->where, ':') - e->where), e->where);
	for (unsigned int i = 0; i < TAB_SOURCES; i++)
		if (tab_source(e, i))
			add_source(out, e, tab_source(e, i), f);
	if (e->host)
		add_mount_point(e->host, f);
	add_devices(out, e, f);
	if (!e->noauto && !e->nofail)
		fputs("Before=ntfsmap.target\n", f);
	if (e->attach)
		fputs("[Service]\nExecStop=\n", f);
	else
		fputs("Conflicts=umount.target\nBefore=umount.target\n", f);
	close_file(f, folder);
	if (!e->noauto)
		add_link(out, "ntfsmap.target", e->nofail ? "wants" : "requires", unit, TEMPLATE);
out:
	free(folder);
	free(unit);
}

static bool same_node(const char *a, const char *b)
{
	char *x = realpath(a, NULL), *y = realpath(b, NULL);
	bool same = !strcmp(a, b) || (x && y && !strcmp(x, y));

	free(x);
	free(y);
	return same;
}

/* A volume that is mounted cannot be mapped, and the other way round. */
static void warn_of_mounts(const struct output *out, const struct tab_entry *e)
{
	char *node = node_of_source(e->source);

	for (size_t i = 0; node && i < out->fstab->n; i++) {
		const struct fs_line *line = &out->fstab->v[i];

		if (line->node && !line->noauto && same_node(line->node, node))
			warn("%s: %s lies on %s, which " FSTAB_FILE
			     " mounts on %s: only one of both can "
			     "have it. Take the line out of " FSTAB_FILE ", or give it noauto; "
			     "host=%s in ntfsmaptab(5) shows the other files of the volume there",
			     e->where, e->name, line->spec, line->dir, line->dir);
	}
	free(node);
}

static void say_to_kernel_log(void)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);

	if (fd >= 0) {
		dup2(fd, STDERR_FILENO);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	const char *tab_file = getenv("NTFSMAP_TAB"), *fstab_file = getenv("NTFSMAP_FSTAB");
	struct fstab fstab;
	struct tab tab;
	struct output out = { .dest = argv[1], .tab = &tab, .fstab = &fstab };

	process_guard();
	if (argc != 2 && argc != 4)
		return fail(USAGE, "usage: ntfsmap-generator FOLDER, by systemd");
	if (!access(IN_INITRAMFS, F_OK))
		return DONE; /* `ntfsmap up --initrd` does it there */
	if (!tab_file)
		say_to_kernel_log();
	tab_read(tab_file ? tab_file : TAB_FILE, true, &tab); /* it has said what is wrong */
	read_fstab(fstab_file ? fstab_file : FSTAB_FILE, &fstab);
	for (size_t i = 0; i < tab.n; i++) {
		add_entry(&out, &tab.v[i]);
		warn_of_mounts(&out, &tab.v[i]);
	}
	if (tab.n)
		add_link(&out, "sysinit.target", "wants", "ntfsmap.target", TARGET);
	free_fstab(&fstab);
	tab_free(&tab);
	return DONE;
}
