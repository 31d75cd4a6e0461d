// SPDX-License-Identifier: GPL-2.0-or-later
#include <blkid/blkid.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blk.h"
#include "msg.h"

char *blk_attr(dev_t dev, const char *name)
{
	char *path = text("/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;

	free(path);
	if (!f)
		return NULL;
	if (getline(&line, &room, f) < 0) {
		free(line);
		line = NULL;
	} else {
		line[strcspn(line, "\n")] = '\0';
	}
	fclose(f);
	return line;
}

bool blk_dev_of(const char *path, dev_t *dev)
{
	struct stat st;

	if (stat(path, &st) || !S_ISBLK(st.st_mode))
		return false;
	*dev = st.st_rdev;
	return true;
}

int blk_check_same(const char *name, int before, int now)
{
	struct stat x, y;

	if (before < 0)
		return DONE;
	if (fstat(before, &x) || fstat(now, &y))
		return fail_errno(errno, "%s", name);
	if (x.st_dev == y.st_dev && x.st_ino == y.st_ino)
		return DONE;
	return fail(BUSY, "%s was another file a moment ago: who renames files there?", name);
}

static bool is_node_of(const char *path, dev_t dev)
{
	dev_t found;

	return blk_dev_of(path, &found) && found == dev;
}

static char *kernel_name(dev_t dev)
{
	char *link = text("/sys/dev/block/%u:%u", major(dev), minor(dev));
	char *target = realpath(link, NULL);
	const char *slash = target ? strrchr(target, '/') : NULL;
	char *name = slash ? text_copy(slash + 1) : NULL;

	free(link);
	free(target);
	for (char *p = name; p && *p; p++)
		if (*p == '!') /* sysfs' way to write a slash */
			*p = '/';
	return name;
}

char *blk_node(dev_t dev)
{
	char *mapped = blk_attr(dev, "dm/name");
	char *name = mapped ? NULL : kernel_name(dev);
	char *path = mapped ? text("/dev/mapper/%s", mapped) : name ? text("/dev/%s", name) : NULL;

	free(mapped);
	free(name);
	if (path && !is_node_of(path, dev)) {
		free(path);
		path = text("/dev/block/%u:%u", major(dev), minor(dev));
		if (!is_node_of(path, dev)) {
			free(path);
			path = NULL;
		}
	}
	return path;
}

bool blk_is_ours(dev_t dev)
{
	char *uuid = blk_attr(dev, "dm/uuid");
	const char *p = uuid;
	bool ours;

	if (p && !strncmp(p, "part", 4)) {
		p += 4;
		while (isdigit((unsigned char)*p))
			p++;
		p += *p == '-';
	}
	ours = p && !strncmp(p, "NTFSMAP-", 8);
	free(uuid);
	return ours;
}

bool blk_is_view(dev_t dev)
{
	char *uuid = blk_attr(dev, "dm/uuid");
	bool view = uuid && !strncmp(uuid, "NTFSMAP-HOST-", 13);

	free(uuid);
	return view;
}

bool blk_is_part(dev_t dev)
{
	static const char *const prefixes[] = { "NTFSMAP-BASE-", "NTFSMAP-DATA-", "NTFSMAP-ORIGIN-",
						"NTFSMAP-COW-" };
	char *uuid = blk_attr(dev, "dm/uuid");
	bool part = false;

	for (size_t i = 0; uuid && i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		part |= !strncmp(uuid, prefixes[i], strlen(prefixes[i]));
	free(uuid);
	return part;
}

bool blk_is_readonly(dev_t dev)
{
	char *value = blk_attr(dev, "ro");
	bool readonly = value && !strcmp(value, "1");

	free(value);
	return readonly;
}

dev_t blk_only_slave(dev_t dev)
{
	char *path = text("/sys/dev/block/%u:%u/slaves", major(dev), minor(dev));
	DIR *dir = opendir(path);
	struct dirent *d;
	unsigned int maj, min;
	dev_t found = 0;
	int n = 0;

	while (dir && (d = readdir(dir))) {
		char *file, *value;

		if (d->d_name[0] == '.')
			continue;
		n++;
		file = text("slaves/%s/dev", d->d_name);
		value = blk_attr(dev, file);
		if (value && sscanf(value, "%u:%u", &maj, &min) == 2)
			found = makedev(maj, min);
		free(file);
		free(value);
	}
	if (dir)
		closedir(dir);
	free(path);
	return n == 1 ? found : 0;
}

bool blk_is_ntfs(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char oem[8];
	bool is;

	if (fd < 0)
		return false;
	is = pread(fd, oem, sizeof(oem), 3) == sizeof(oem) && !memcmp(oem, "NTFS    ", 8);
	close(fd);
	return is;
}

/* A loop device over a block device repeats that device's tags (our own way around a mount). */
static bool is_copy(dev_t dev)
{
	char *backing = blk_attr(dev, "loop/backing_file");
	dev_t below;
	bool copy = blk_is_ours(dev) || (backing && blk_dev_of(backing, &below));

	free(backing);
	return copy;
}

struct search {
	const char *tag;   /* libblkid's name */
	const char *value; /* as the user wrote it, or the hex digits of an NTFS UUID */
	bool short_uuid;   /* 8 digits: the end of a serial number, as Windows shows it */
	char *found[8];
	size_t n;
};

/* Hex digits of value in lower case without 0x and '-', NULL when it is no NTFS UUID. */
static char *ntfs_uuid_digits(const char *value)
{
	char *out = must_alloc(strlen(value) + 1);
	size_t n = 0;

	if (value[0] == '0' && (value[1] == 'x' || value[1] == 'X'))
		value += 2;
	for (; *value; value++)
		if (isxdigit((unsigned char)*value))
			out[n++] = (char)tolower((unsigned char)*value);
		else if (*value != '-' || n != 4)
			break;
	if (*value || (n != 16 && n != 8)) {
		free(out);
		return NULL;
	}
	return out;
}

static bool tag_matches(const struct search *s, const char *found)
{
	size_t len = strlen(found);

	if (s->short_uuid)
		return len == 16 && !strcasecmp(found + 8, s->value);
	if (!strcmp(s->tag, "LABEL") || !strcmp(s->tag, "PART_ENTRY_NAME"))
		return !strcmp(found, s->value);
	return !strcasecmp(found, s->value);
}

static blkid_probe new_probe(const char *device)
{
	blkid_probe pr = blkid_new_probe_from_filename(device);

	if (!pr)
		return NULL;
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
						      BLKID_SUBLKS_LABEL);
	blkid_probe_enable_partitions(pr, 1);
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_ENTRY_DETAILS);
	if (blkid_do_safeprobe(pr) < 0) {
		blkid_free_probe(pr);
		return NULL;
	}
	return pr;
}

char *blk_contents(const char *path)
{
	blkid_probe pr = blkid_new_probe_from_filename(path);
	const char *type = NULL;
	char *found = NULL;

	if (!pr)
		return NULL;
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_enable_partitions(pr, 1);
	/* also where several are found, which is an error for the library */
	while (!found && !blkid_do_probe(pr))
		if (!blkid_probe_lookup_value(pr, "TYPE", &type, NULL) ||
		    !blkid_probe_lookup_value(pr, "PTTYPE", &type, NULL))
			found = text_copy(type);
	blkid_free_probe(pr);
	return found;
}

char *blk_uuid(const char *device)
{
	blkid_probe pr = new_probe(device);
	const char *value;
	char *uuid = NULL;

	if (pr && !blkid_probe_lookup_value(pr, "UUID", &value, NULL))
		uuid = text_copy(value);
	blkid_free_probe(pr);
	return uuid;
}

static void search_device(const char *device, void *ctx)
{
	struct search *s = ctx;
	blkid_probe pr = new_probe(device);
	const char *value;

	if (!pr)
		return;
	if (!blkid_probe_lookup_value(pr, s->tag, &value, NULL) && tag_matches(s, value) &&
	    s->n < sizeof(s->found) / sizeof(s->found[0]))
		s->found[s->n++] = text_copy(device);
	blkid_free_probe(pr);
}

static void each_block_device(bool copies, void (*fn)(const char *device, void *ctx), void *ctx)
{
	DIR *dir = opendir("/sys/class/block");
	struct dirent *d;
	unsigned int maj, min;

	while (dir && (d = readdir(dir))) {
		char *path = text("/sys/class/block/%s/dev", d->d_name);
		FILE *f = d->d_name[0] == '.' ? NULL : fopen(path, "re");
		bool known = f && fscanf(f, "%u:%u", &maj, &min) == 2;
		char *size = known ? blk_attr(makedev(maj, min), "size") : NULL;
		char *node;

		if (f)
			fclose(f);
		free(path);
		if (size && strcmp(size, "0") && (copies || !is_copy(makedev(maj, min)))) {
			node = blk_node(makedev(maj, min));
			if (node)
				fn(node, ctx);
			free(node);
		}
		free(size);
	}
	if (dir)
		closedir(dir);
}

struct ntfs_only {
	void (*fn)(const char *device, void *ctx);
	void *ctx;
};

static void call_if_ntfs(const char *device, void *ctx)
{
	struct ntfs_only *o = ctx;

	if (blk_is_ntfs(device))
		o->fn(device, o->ctx);
}

void blk_each_ntfs(void (*fn)(const char *device, void *ctx), void *ctx)
{
	struct ntfs_only only = { fn, ctx };

	each_block_device(false, call_if_ntfs, &only);
}

static int fail_ambiguous(const char *tag, const char *value, const struct search *s)
{
	char *names = text_copy("");

	for (size_t i = 0; i < s->n; i++) {
		char *longer = text("%s%s%s", names, i ? ", " : "", s->found[i]);

		free(names);
		names = longer;
	}
	fail(REFUSED, "%s=%s is on several devices (%s): name the device itself", tag, value,
	     names);
	free(names);
	return REFUSED;
}

/* digits: of an NTFS UUID, or NULL. */
static struct search search_for(const char *tag, const char *value, const char *digits)
{
	return (struct search){
		.tag = !strcmp(tag, "PARTUUID")	   ? "PART_ENTRY_UUID"
		       : !strcmp(tag, "PARTLABEL") ? "PART_ENTRY_NAME"
						   : tag,
		.value = digits ? digits : value,
		.short_uuid = digits && strlen(digits) == 8,
	};
}

static void search_free(struct search *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->found[i]);
}

bool blk_is_there(const char *tag, const char *value)
{
	struct search s = search_for(tag, value, NULL);

	each_block_device(true, search_device, &s);
	search_free(&s);
	return s.n > 0;
}

int blk_find(const char *tag, const char *value, char **device)
{
	char *digits = strcmp(tag, "UUID") ? NULL : ntfs_uuid_digits(value);
	struct search s = search_for(tag, value, digits);
	int code = DONE;

	each_block_device(false, search_device, &s);
	if (s.n == 1)
		*device = text_copy(s.found[0]);
	else if (s.n)
		code = fail_ambiguous(tag, value, &s);
	else
		code = fail(NOT_FOUND, "no block device has %s=%s (lsblk -f shows what there is)%s",
			    tag, value, geteuid() ? "; only root can read them all" : "");
	search_free(&s);
	free(digits);
	return code;
}
