// SPDX-License-Identifier: GPL-2.0-or-later
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/fs.h>

#include "msg.h"
#include "parts.h"

#define PARTS_MAX 255	    /* the kernel's own limit, for disks that it scans itself */
#define END_BYTES (1 << 20) /* at both ends of a disk are the tables; entries of a GPT, too */

/* ---- reading a table ---- */

/*
 * A table counts in the sectors of the disk that it was made for, and the image may lie on one with
 * others. A GPT is found with its own size only. An MBR does not tell: the device's size is tried
 * first, as it is what the kernel takes. NULL: no table.
 */
static blkid_partlist find_table(blkid_probe probe, unsigned int sector)
{
	const unsigned int sizes[] = { sector, 512, 4096 };
	blkid_partlist list = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(sizes) && !list; i++) {
		if (i && sizes[i] == sector)
			continue;
		if (blkid_probe_set_sectorsize(probe, sizes[i]))
			continue;
		blkid_reset_probe(probe);
		blkid_probe_enable_partitions(probe, 1);
		list = blkid_probe_get_partitions(probe);
		if (list && !blkid_partlist_get_table(list))
			list = NULL;
	}
	return list;
}

static blkid_probe new_probe(int fd)
{
	blkid_probe probe = blkid_new_probe();

	if (probe && blkid_probe_set_device(probe, fd, 0, 0)) {
		blkid_free_probe(probe);
		probe = NULL;
	}
	return probe;
}

/* Bytes [at, at + len) of the disk, to the same place of the file. */
static bool copy_end(struct image *img, int fd, uint64_t at, size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at);
	/* without memory behind it, what is written to p would end the program */
	bool good = p != MAP_FAILED && !posix_fallocate(fd, (off_t)at, (off_t)len) &&
		    !vdisk_pread(img->vd, p, len, at);

	if (p != MAP_FAILED)
		munmap(p, len);
	return good;
}

/* A file in memory with both ends of the disk and nothing between them; -1 when that fails. */
static int copy_ends(struct image *img)
{
	uint64_t size = vdisk_info(img->vd)->virtual_size;
	uint64_t tail = size > 2 * END_BYTES ? (size - END_BYTES) / END_BYTES * END_BYTES : 0;
	int fd = memfd_create("ends of a disk", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (!ftruncate(fd, (off_t)size) && copy_end(img, fd, 0, tail ? END_BYTES : (size_t)size) &&
	    (!tail || copy_end(img, fd, tail, (size_t)(size - tail))))
		return fd;
	close(fd);
	return -1;
}

bool parts_in_image(struct image *img)
{
	int fd = vdisk_info(img->vd)->virtual_size ? copy_ends(img) : -1;
	blkid_probe probe = fd < 0 ? NULL : new_probe(fd);
	bool found = probe && find_table(probe, img->logical_block);

	blkid_free_probe(probe);
	if (fd >= 0)
		close(fd);
	return found;
}

static void add(struct partitions *parts, struct partition p)
{
	parts->v = must_regrow(parts->v, parts->n + 1, sizeof(*parts->v));
	parts->v[parts->n++] = p;
}

static int by_number(const void *a, const void *b)
{
	const struct partition *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

static void sort(struct partitions *parts)
{
	if (parts->n)
		qsort(parts->v, parts->n, sizeof(*parts->v), by_number);
}

/* Can that be a device? What the table says is anything. */
static bool is_sound(const struct dm_device *disk, const struct partition *p, unsigned int block)
{
	if (p->start >= disk->sectors || p->count > disk->sectors - p->start) {
		warn("%s: partition %u is left out: it has sectors %" PRIu64 " to %" PRIu64
		     " of a disk of %" PRIu64 "; `sfdisk --verify` says more",
		     disk->name, p->number, p->start, p->start + p->count - 1, disk->sectors);
		return false;
	}
	if (p->start % (block / 512) || p->count % (block / 512)) {
		warn("%s: partition %u is left out: its %" PRIu64 " sectors from %" PRIu64
		     " on are not whole blocks of %u bytes, which the device has; a loop device "
		     "over a copy can have smaller ones",
		     disk->name, p->number, p->count, p->start, block);
		return false;
	}
	if (p->number < 1 || p->number > PARTS_MAX) {
		warn("%s: partition %u is left out: the kernel knows %d on a disk", disk->name,
		     p->number, PARTS_MAX);
		return false;
	}
	return true;
}

static struct partition partition_of(blkid_partition found, unsigned int block)
{
	uint64_t few = block > 1024 ? block / 512 : 2;
	struct partition p = {
		.number = (unsigned int)blkid_partition_get_partno(found),
		.start = (uint64_t)blkid_partition_get_start(found),
		.count = (uint64_t)blkid_partition_get_size(found),
	};

	if (blkid_partition_is_extended(found) && p.count > few)
		p.count = few;
	return p;
}

/* The kernel makes such partitions, too; but whoever uses both mixes their contents. */
static void warn_of_overlaps(const struct dm_device *disk, const struct partitions *parts)
{
	for (size_t i = 0; i < parts->n; i++)
		for (size_t k = i + 1; k < parts->n; k++) {
			const struct partition *a = &parts->v[i], *b = &parts->v[k];

			if (a->start < b->start + b->count && b->start < a->start + a->count)
				warn("%s: partitions %u and %u overlap: use only one of them",
				     disk->name, a->number, b->number);
		}
}

static void take_list(const struct dm_device *disk, blkid_partlist list, unsigned int block,
		      struct partitions *parts)
{
	int n = blkid_partlist_numof_partitions(list);

	for (int i = 0; i < n; i++) {
		blkid_partition found = blkid_partlist_get_partition(list, i);
		struct partition p = partition_of(found, block);

		if (p.count && is_sound(disk, &p, block))
			add(parts, p);
	}
	sort(parts);
	warn_of_overlaps(disk, parts);
}

/* libblkid takes what it cannot read for a disk without a table. */
static int check_readable(const struct dm_device *disk, int fd, unsigned int *block)
{
	char start[4096];

	if (disk->suspended)
		return fail(BUSY, "%s is suspended: its partition table cannot be read",
			    disk->name);
	if (ioctl(fd, BLKSSZGET, block) || pread(fd, start, sizeof(start), 0) < 0)
		return fail_errno(errno, "%s: cannot read its partition table", disk->name);
	return DONE;
}

/* What the table on the disk says; *table: is there one? */
static int read_table(const struct dm_device *disk, struct partitions *parts, bool *table)
{
	char *node = text("/dev/mapper/%s", disk->name);
	int fd = open(node, O_RDONLY | O_CLOEXEC);
	blkid_partlist list = NULL;
	blkid_probe probe = NULL;
	unsigned int block = 0;
	int code = fd < 0 ? fail_errno(errno, "cannot open %s", node)
			  : check_readable(disk, fd, &block);

	*parts = (struct partitions){ 0 };
	if (!code) {
		probe = new_probe(fd);
		if (!probe)
			code = fail(SYSTEM, "%s: libblkid cannot look at it", disk->name);
	}
	if (probe)
		list = find_table(probe, block);
	if (list)
		take_list(disk, list, block, parts);
	*table = list;
	blkid_free_probe(probe);
	if (fd >= 0)
		close(fd);
	free(node);
	return code;
}

/* ---- what is there ---- */

void parts_over(const struct dm_device *disk, const struct dm_devices *all,
		struct partitions *parts)
{
	*parts = (struct partitions){ 0 };
	for (size_t i = 0; i < all->n; i++) {
		const struct dm_device *d = &all->v[i];
		struct partition p = { .device = d };
		dev_t below;

		if (!dm_is_partition_of(d, disk))
			continue;
		dm_partition(d->uuid, &p.number);
		if (d->n == 1 && dm_linear_line(&d->lines[0], &below, &p.start) &&
		    below == disk->dev)
			p.count = d->sectors;
		add(parts, p); /* without a count when it is no part of the disk any more */
	}
	sort(parts);
}

char *parts_users(const struct dm_device *disk, const struct dm_devices *all)
{
	char *users = dm_users(disk);
	struct partitions parts;

	parts_over(disk, all, &parts);
	for (size_t i = 0; i < parts.n; i++) {
		const char *name = parts.v[i].device->name;
		char *own = dm_users(parts.v[i].device), *before = users;

		if (!own)
			continue;
		users = text("%s%s%s is %s", before ? before : "", before ? ", " : "", name, own);
		free(before);
		free(own);
	}
	free(parts.v);
	return users;
}

bool parts_in_use(const struct dm_device *disk, const struct dm_devices *all)
{
	struct partitions parts;
	bool in_use;

	parts_over(disk, all, &parts);
	in_use = disk->open_count > (int)parts.n; /* each has it open once */
	for (size_t i = 0; i < parts.n; i++)
		in_use |= parts.v[i].device->open_count > 0;
	free(parts.v);
	return in_use;
}

/* ---- changing it ---- */

static char *part_name(const struct dm_device *disk, const struct partition *p)
{
	return text("%s-part%u", disk->name, p->number);
}

static int plan_partition(const struct dm_device *disk, const struct partition *p,
			  struct plan *plan)
{
	char *below = text("%u:%u", major(disk->dev), minor(disk->dev));
	int ret;

	*plan = (struct plan){ .readonly = disk->readonly };
	ret = plan_add(plan, below, p->start, p->count);
	free(below);
	return ret ? fail_errno(-ret, "%s: cannot lay out partition %u", disk->name, p->number)
		   : DONE;
}

static int make(const struct dm_device *disk, const struct partition *p, const char *name)
{
	char *uuid = text("part%u-%s", p->number, disk->uuid);
	struct plan plan;
	int code = plan_partition(disk, p, &plan);

	if (!code && strlen(uuid) > DM_UUID_MAX)
		code = fail(USAGE, "the name \"%s\" is too long for a partition", disk->name);
	if (!code)
		code = dm_create(name, uuid, &plan, false, NULL);
	plan_free(&plan);
	free(uuid);
	return code;
}

static int make_all(const struct dm_device *disk, const struct partitions *parts)
{
	int code = DONE;
	size_t n = 0;

	for (; n < parts->n && !code; n += !code) {
		char *name = part_name(disk, &parts->v[n]);

		code = make(disk, &parts->v[n], name);
		free(name);
	}
	while (code && n-- > 0) {
		char *name = part_name(disk, &parts->v[n]);

		dm_remove(name, false);
		free(name);
	}
	return code;
}

int parts_create(const char *name)
{
	struct partitions parts = { 0 };
	struct dm_device disk;
	bool table = false;
	int code = dm_read(name, &disk);

	if (code)
		return code;
	code = read_table(&disk, &parts, &table);
	if (!code && !parts.n)
		note("%s: %s", name, table ? "no partition in its table" : "no partition table");
	if (!code)
		code = make_all(&disk, &parts);
	free(parts.v);
	dm_device_free(&disk);
	return code;
}

static const struct partition *find(const struct partitions *parts, unsigned int number)
{
	for (size_t i = 0; i < parts->n; i++)
		if (parts->v[i].number == number)
			return &parts->v[i];
	return NULL;
}

static int check_update(const struct partitions *live, const struct partitions *disk)
{
	for (size_t i = 0; i < live->n; i++) {
		const struct partition *p = &live->v[i], *now = find(disk, p->number);

		if (p->device->open_count &&
		    (!now || now->start != p->start || now->count < p->count))
			return fail(BUSY,
				    "%s is in use, and the partition table says now that it %s: "
				    "end that, then `ntfsmap reload` follows",
				    p->device->name,
				    !now		     ? "is gone"
				    : now->start != p->start ? "is elsewhere"
							     : "is shorter");
	}
	return DONE;
}

static int reload_part(const struct dm_device *disk, const struct partition *live,
		       const struct partition *now)
{
	struct plan plan;
	int code = plan_partition(disk, now, &plan);

	if (!code)
		code = dm_reload(live->device->name, &plan, false);
	plan_free(&plan);
	return code;
}

/* Who has the name of a partition to come; not one that goes before. */
static bool is_taken(const struct dm_devices *all, const struct partitions *live,
		     const struct partitions *table, const char *name)
{
	for (size_t i = 0; i < live->n; i++)
		if (!strcmp(live->v[i].device->name, name))
			return find(table, live->v[i].number);
	for (size_t i = 0; i < all->n; i++)
		if (!strcmp(all->v[i].name, name))
			return true;
	return false;
}

/* Those that are not there yet, and have a name that can be given to them. */
static int find_fresh(const struct dm_device *disk, const struct dm_devices *all,
		      const struct partitions *live, const struct partitions *table,
		      struct partitions *fresh)
{
	int code = DONE;

	for (size_t i = 0; i < table->n && !code; i++) {
		const struct partition *p = &table->v[i];
		char *name;

		if (find(live, p->number))
			continue;
		add(fresh, *p);
		name = part_name(disk, p);
		if (is_taken(all, live, table, name))
			code = fail(BUSY,
				    "%s: partition %u is new, and /dev/mapper/%s exists already: "
				    "close or rename that, then `ntfsmap reload` follows",
				    disk->name, p->number, name);
		free(name);
	}
	return code;
}

/* The old ones first, as new ones may need their names. */
static int follow(const struct dm_device *disk, const struct dm_devices *all,
		  const struct partitions *live, const struct partitions *table, bool *changed)
{
	struct partitions fresh = { 0 };
	int code = find_fresh(disk, all, live, table, &fresh);

	for (size_t i = 0; i < live->n && !code; i++) {
		const struct partition *p = &live->v[i], *now = find(table, p->number);

		if (now && now->start == p->start && now->count == p->count)
			continue;
		*changed = true;
		code = now ? reload_part(disk, p, now) : dm_remove(p->device->name, false);
	}
	*changed |= !code && fresh.n;
	if (!code)
		code = make_all(disk, &fresh);
	free(fresh.v);
	return code;
}

int parts_update(const char *name, bool *changed)
{
	struct partitions table = { 0 }, live = { 0 };
	struct dm_devices all;
	struct dm_device disk;
	bool found;
	int code = dm_read(name, &disk);

	if (code)
		return code;
	code = dm_read_all(&all);
	if (!code) {
		parts_over(&disk, &all, &live);
		if (live.n)
			code = read_table(&disk, &table, &found);
		if (!code && live.n)
			code = check_update(&live, &table);
		if (!code && live.n)
			code = follow(&disk, &all, &live, &table, changed);
		dm_devices_free(&all);
	}
	free(live.v);
	free(table.v);
	dm_device_free(&disk);
	return code;
}

int parts_restore(const struct dm_device *disk, const struct dm_devices *all)
{
	struct partitions parts;
	struct dm_device there;
	int code = DONE;

	parts_over(disk, all, &parts);
	for (size_t i = 0; i < parts.n && !code; i++) {
		const struct partition *p = &parts.v[i];

		if (!dm_read(p->device->name, &there))
			dm_device_free(&there);
		else if (p->count)
			code = make(disk, p, p->device->name);
	}
	free(parts.v);
	return code;
}

int parts_remove(const struct dm_device *disk, const struct dm_devices *all, bool deferred)
{
	struct partitions parts;
	int code = DONE;

	parts_over(disk, all, &parts);
	for (size_t i = parts.n; i-- > 0 && !code;) {
		const struct dm_device *d = parts.v[i].device;

		code = dm_remove(d->name, deferred && d->open_count > 0);
	}
	free(parts.v);
	if (code)
		parts_restore(disk, all);
	return code;
}
