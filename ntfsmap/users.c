// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One idea: a sector range of any device is expanded into pieces of the devices at the bottom (a
 * disk, or a file behind a loop device), and two uses collide where pieces of the same bottom
 * overlap.
 *
 * struct node     what lies directly below a device; cached, as there may be 100 000 extents. A
 *                 vdisk device is a bottom for what lies on it: where a sector of its disk is in
 *                 the file only the target knows, and nobody else can write to the file
 * struct piece    a range of a bottom
 * expand()        range -> pieces
 * ours            our own pieces, sorted
 * claim()         expand somebody's range and look for overlaps with ours
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blk.h"
#include "msg.h"
#include "users.h"

#define MAX_DEPTH 16

struct bottom {
	dev_t dev; /* of the block device, or of the file system that holds the file */
	ino_t ino; /* of the file, else 0 */
};

struct piece {
	struct bottom bottom;
	uint64_t start, count;
};

enum node_kind { NODE_BOTTOM, NODE_OFFSET, NODE_TABLE };

struct node {
	dev_t dev;
	enum node_kind kind;
	struct bottom bottom;
	dev_t below; /* NODE_OFFSET: a partition, or a loop device over a block device */
	uint64_t offset;
	uint64_t sectors;	       /* of the device; 0: not known */
	const struct dm_device *table; /* NODE_TABLE: a device-mapper device of linear lines */
	bool ours_goes_through;
};

struct search {
	struct dm_devices dms;
	struct node *nodes;
	size_t n_nodes;
	struct piece *ours;
	size_t n_ours;
	bool marking; /* expanding our own extents */
	/* the claim at hand */
	bool hit;
};

typedef void (*piece_fn)(struct search *s, const struct piece *p);

static uint64_t number_attr(dev_t dev, const char *name)
{
	char *value = blk_attr(dev, name);
	uint64_t number = value ? strtoull(value, NULL, 10) : 0;

	free(value);
	return number;
}

static bool parse_dev(const char *value, dev_t *dev)
{
	unsigned int maj, min;

	if (!value || sscanf(value, "%u:%u", &maj, &min) != 2)
		return false;
	*dev = makedev(maj, min);
	return true;
}

static bool all_linear(const struct dm_device *d)
{
	uint64_t offset;
	dev_t dev;

	for (size_t i = 0; i < d->n; i++)
		if (!dm_linear_line(&d->lines[i], &dev, &offset))
			return false;
	return d->n > 0;
}

static bool learn_partition(struct node *n)
{
	char *whole = blk_attr(n->dev, "partition");
	bool is = whole != NULL;
	char *parent = is ? blk_attr(n->dev, "../dev") : NULL;

	if (is && parse_dev(parent, &n->below)) {
		n->kind = NODE_OFFSET;
		n->offset = number_attr(n->dev, "start");
	}
	free(whole);
	free(parent);
	return is;
}

/* The kernel knows the file itself, whatever its name and wherever it is mounted. */
static bool learn_loop(struct node *n)
{
	char *node = major(n->dev) == LOOP_MAJOR ? blk_node(n->dev) : NULL;
	int fd = node ? open(node, O_RDONLY | O_CLOEXEC) : -1;
	struct loop_info64 info;
	bool known = fd >= 0 && !ioctl(fd, LOOP_GET_STATUS64, &info);
	char *file = known ? blk_attr(n->dev, "loop/backing_file") : NULL;
	struct stat st;

	if (known) {
		n->offset = info.lo_offset / 512;
		n->bottom = (struct bottom){ (dev_t)info.lo_device, (ino_t)info.lo_inode };
	}
	if (file && !stat(file, &st) && S_ISBLK(st.st_mode)) {
		n->kind = NODE_OFFSET;
		n->below = st.st_rdev;
	}
	if (fd >= 0)
		close(fd);
	free(file);
	free(node);
	return known;
}

static void learn_dm(struct search *s, struct node *n)
{
	for (size_t i = 0; i < s->dms.n; i++)
		if (s->dms.v[i].dev == n->dev && all_linear(&s->dms.v[i])) {
			n->kind = NODE_TABLE;
			n->table = &s->dms.v[i];
		}
}

static struct node *node_of(struct search *s, dev_t dev)
{
	struct node *n;

	for (size_t i = 0; i < s->n_nodes; i++)
		if (s->nodes[i].dev == dev)
			return &s->nodes[i];
	s->nodes = must_regrow(s->nodes, s->n_nodes + 1, sizeof(*s->nodes));
	n = &s->nodes[s->n_nodes++];
	*n = (struct node){ .dev = dev, .kind = NODE_BOTTOM, .bottom = { dev, 0 } };
	n->sectors = number_attr(dev, "size");
	if (!learn_partition(n) && !learn_loop(n))
		learn_dm(s, n);
	return n;
}

static void expand(struct search *s, dev_t dev, uint64_t start, uint64_t count, int depth,
		   piece_fn fn);

static void expand_table(struct search *s, const struct dm_device *d, uint64_t start,
			 uint64_t count, int depth, piece_fn fn)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct dm_line *line = &d->lines[i];
		uint64_t low = line->start > start ? line->start : start;
		uint64_t end = line->start + line->count;
		uint64_t offset;
		dev_t below;

		if (end > start + count)
			end = start + count;
		if (low < end && dm_linear_line(line, &below, &offset))
			expand(s, below, offset + (low - line->start), end - low, depth + 1, fn);
	}
}

static void expand(struct search *s, dev_t dev, uint64_t start, uint64_t count, int depth,
		   piece_fn fn)
{
	struct node *at = node_of(s, dev);
	struct node n;
	struct piece p;

	at->ours_goes_through |= s->marking;
	n = *at; /* the array may move */
	if (n.sectors && start >= n.sectors)
		return; /* a use of all of a device ends where the device does */
	if (n.sectors && count > n.sectors - start)
		count = n.sectors - start;
	p = (struct piece){ n.bottom, start + n.offset, count };

	if (n.kind == NODE_OFFSET && depth < MAX_DEPTH)
		expand(s, n.below, start + n.offset, count, depth + 1, fn);
	else if (n.kind == NODE_TABLE && depth < MAX_DEPTH)
		expand_table(s, n.table, start, count, depth, fn);
	else
		fn(s, &p);
}

static void add_ours(struct search *s, const struct piece *p)
{
	if ((s->n_ours & (s->n_ours - 1)) == 0)
		s->ours = must_regrow(s->ours, s->n_ours ? s->n_ours * 2 : 1, sizeof(*s->ours));
	s->ours[s->n_ours++] = *p;
}

static int compare_bottoms(const struct bottom *a, const struct bottom *b)
{
	if (a->dev != b->dev)
		return a->dev < b->dev ? -1 : 1;
	return (a->ino > b->ino) - (a->ino < b->ino);
}

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	int order = compare_bottoms(&x->bottom, &y->bottom);

	return order ? order : (x->start > y->start) - (x->start < y->start);
}

/* Ours do not overlap each other, so among those that begin before the end of p the last one also
 * ends last: it alone decides. */
static void test_overlap(struct search *s, const struct piece *p)
{
	size_t low = 0, high = s->n_ours;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = compare_bottoms(&s->ours[mid].bottom, &p->bottom);

		if (order < 0 || (!order && s->ours[mid].start < p->start + p->count))
			low = mid + 1;
		else
			high = mid;
	}
	if (low && !compare_bottoms(&s->ours[low - 1].bottom, &p->bottom) &&
	    s->ours[low - 1].start + s->ours[low - 1].count > p->start)
		s->hit = true;
}

static bool claims(struct search *s, dev_t dev, uint64_t start, uint64_t count)
{
	s->hit = false;
	expand(s, dev, start, count, 0, test_overlap);
	return s->hit;
}

/* Extents in a regular file that holds a volume: the file is the bottom. */
static void learn_ours_in_file(struct search *s, const struct where *at,
			       const struct vdisk_extents *extents)
{
	struct bottom bottom;
	struct stat st;

	if (stat(at->path, &st))
		return;
	bottom = (struct bottom){ st.st_dev, st.st_ino };
	for (size_t i = 0; extents && i < extents->n; i++)
		if (extents->v[i].device != VDISK_HOLE)
			add_ours(s, &(struct piece){ bottom, extents->v[i].device,
						     extents->v[i].count });
	if (!extents)
		add_ours(s, &(struct piece){ bottom, 0, at->sectors });
}

static void learn_ours(struct search *s, const struct where *at,
		       const struct vdisk_extents *extents)
{
	s->marking = true;
	if (!at->is_block)
		learn_ours_in_file(s, at, extents);
	else if (!extents)
		expand(s, at->rdev, 0, at->sectors, 0, add_ours);
	for (size_t i = 0; at->is_block && extents && i < extents->n; i++)
		if (extents->v[i].device != VDISK_HOLE)
			expand(s, at->rdev, extents->v[i].device, extents->v[i].count, 0, add_ours);
	s->marking = false;
	if (s->n_ours)
		qsort(s->ours, s->n_ours, sizeof(*s->ours), compare_pieces);
}

/* A target that is not followed claims every device that it names, whole. */
static bool opaque_claims(struct search *s, const struct dm_line *line)
{
	char *copy = text_copy(line->params), *rest = copy, *word;
	bool hit = false;
	dev_t dev;

	while (!hit && (word = strsep(&rest, " ")))
		if (strchr(word, ':') && parse_dev(word, &dev))
			hit = claims(s, dev, 0, UINT64_MAX / 4);
	free(copy);
	return hit;
}

/* The target vdisk claims the place of its whole file. */
static bool file_claims(struct search *s, const struct plan *plan)
{
	bool hit = false;
	dev_t dev;

	for (size_t i = 0; i < plan->lines.n && !hit; i++) {
		const struct vdisk_extent *e = &plan->lines.v[i];

		if (dm_parse_device(plan->devices[plan_device_of(e->device)], &dev))
			hit = claims(s, dev, plan_sector_of(e->device), e->count);
	}
	return hit;
}

static bool line_claims(struct search *s, const struct dm_line *line)
{
	struct plan plan;
	uint64_t offset;
	dev_t below;
	bool hit;

	if (dm_linear_line(line, &below, &offset))
		return claims(s, below, offset, line->count);
	if (!dm_vdisk_line(line, &plan))
		return opaque_claims(s, line);
	hit = file_claims(s, &plan);
	plan_free(&plan);
	return hit;
}

static bool lines_claim(struct search *s, const struct dm_line *lines, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (line_claims(s, &lines[i]))
			return true;
	return false;
}

/* A table that is loaded and waits for its resume counts like a live one. */
static bool device_claims(struct search *s, const struct dm_device *d)
{
	return lines_claim(s, d->lines, d->n) || lines_claim(s, d->waiting, d->n_waiting);
}

static void set_once(char **slot, char *value)
{
	if (*slot)
		free(value);
	else
		*slot = value;
}

/* Does a --static mapping, which has no devices for parents and data files, read the file as one?
 * The UUID names the child. Where it names no file, only what can be an image as a whole cannot be
 * a parent. */
static bool reads_as_parent(const struct dm_device *d, const char *self)
{
	static const char *const chained[] = { "VHD-", "QCOW-", "QCOW2-", "QCOW2S-" };
	const char *format = d->uuid + strlen(DM_OURS);

	if (strncmp(d->uuid, DM_OURS, strlen(DM_OURS)) || dm_is_vdisk(d))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(chained); i++) {
		size_t len = strlen(chained[i]);

		if (!strncmp(format, chained[i], len))
			return self ? strncmp(format + len, self, strlen(self)) : d->n > 1;
	}
	return false;
}

static void set_reader(struct users *u, const struct dm_device *d, const char *self)
{
	bool parent = dm_is_base(d) || dm_is_origin(d) || reads_as_parent(d, self);

	if (parent && !u->base) { /* it counts for more than others */
		free(u->reader);
		u->reader = NULL;
	}
	u->base |= parent;
	set_once(&u->reader, text("/dev/mapper/%s", d->name));
}

/* What reads or writes a parent or data file through another device has it too: that device may be
 * the very one that we stand on. */
static void find_part(struct search *s, const struct dm_device *d, const char *device, bool data,
		      const char *except, struct users *u)
{
	const struct dm_device *part;
	dev_t dev;

	if (!device || !dm_parse_device(device, &dev))
		return;
	part = dm_find(&s->dms, dev);
	if ((part && except && !strcmp(part->name, except)) || !claims(s, dev, 0, UINT64_MAX / 4))
		return;
	if (data && !d->readonly) {
		set_once(&u->writer, text("/dev/mapper/%s", d->name));
		return;
	}
	u->base |= !data || dm_is_base(d);
	set_once(&u->reader, text("/dev/mapper/%s", d->name));
}

static void find_parts(struct search *s, const struct dm_device *d, const struct dm_line *lines,
		       size_t n, const char *except, struct users *u)
{
	for (size_t i = 0; i < n; i++) {
		struct plan plan;

		if (!dm_vdisk_line(&lines[i], &plan))
			continue;
		find_part(s, d, plan.parent, false, except, u);
		find_part(s, d, plan.data, true, except, u);
		plan_free(&plan);
	}
}

/* After those who map the place themselves, who say more about it. */
static void find_users_of_parts(struct search *s, const char *except, struct users *u)
{
	for (size_t i = 0; i < s->dms.n; i++) {
		const struct dm_device *d = &s->dms.v[i];

		if (except && !strcmp(d->name, except))
			continue;
		find_parts(s, d, d->lines, d->n, except, u);
		find_parts(s, d, d->waiting, d->n_waiting, except, u);
	}
}

/* Its disk says it for it, unless the volume itself stands on that. */
static bool disk_answers(struct search *s, const struct dm_device *d)
{
	for (size_t i = 0; i < s->dms.n; i++)
		if (dm_is_partition_of(d, &s->dms.v[i]))
			return !node_of(s, s->dms.v[i].dev)->ours_goes_through;
	return false;
}

static void find_mappings(struct search *s, const char *self, const char *except, struct users *u)
{
	for (size_t i = 0; i < s->dms.n; i++) {
		const struct dm_device *d = &s->dms.v[i];

		if (except && !strcmp(d->name, except))
			continue;
		if (node_of(s, d->dev)->ours_goes_through) /* the volume itself stands on it */
			continue;
		if (d->readonly && !strncmp(d->uuid, DM_OURS "HOST-", strlen(DM_OURS "HOST-")))
			continue; /* a view of the whole volume, made to live beside us */
		if (disk_answers(s, d))
			continue;
		if (dm_is_overlay(d) && !d->n_waiting)
			continue; /* the devices below it tell */
		if (!device_claims(s, d))
			continue;
		if (d->readonly)
			set_reader(u, d, self);
		else
			set_once(&u->writer, text("/dev/mapper/%s", d->name));
	}
}

static bool mount_claims(struct search *s, const struct mount *m)
{
	struct stat st;

	if (major(m->dev))
		return claims(s, m->dev, 0, UINT64_MAX / 4);
	/* ntfs-3g on a plain file has no device, but names the file */
	if (strncmp(m->type, "fuse", 4) || m->source[0] != '/' || stat(m->source, &st))
		return false;
	if (S_ISBLK(st.st_mode))
		return claims(s, st.st_rdev, 0, UINT64_MAX / 4);
	s->hit = false;
	test_overlap(s, &(struct piece){ { st.st_dev, st.st_ino }, 0, UINT64_MAX / 4 });
	return s->hit;
}

/* A mount on one of the mappings that find_mappings() reports is that mapping's business. */
static bool mount_counts(struct search *s, const struct mount *m)
{
	for (size_t i = 0; i < s->dms.n; i++)
		if (s->dms.v[i].dev == m->dev && !node_of(s, m->dev)->ours_goes_through)
			return false;
	return true;
}

static void find_mounts(struct search *s, const struct where *at, struct users *u)
{
	struct mounts mounts;

	mounts_read(&mounts);
	for (size_t i = 0; i < mounts.n; i++) {
		const struct mount *m = &mounts.v[i];

		if (!mount_counts(s, m) || !mount_claims(s, m))
			continue;
		if (u->mounted == MOUNT_NONE || m->writable) {
			u->mounted = m->writable ? MOUNT_WRITABLE : MOUNT_READONLY;
			free(u->mount_point);
			u->mount_point = text_copy(m->point);
		}
		u->claimed |= at->is_block && m->dev == at->rdev;
	}
	mounts_free(&mounts);
}

static bool has_dm_holder(dev_t dev)
{
	char *path = text("/sys/dev/block/%u:%u/holders", major(dev), minor(dev));
	DIR *dir = opendir(path);
	struct dirent *d;
	bool found = false;

	while (dir && !found && (d = readdir(dir)))
		found = !strncmp(d->d_name, "dm-", 3);
	if (dir)
		closedir(dir);
	free(path);
	return found;
}

/* Without root: does any device-mapper device use this one, or the disk that it is a part of? */
static bool has_dm_holder_here(dev_t dev)
{
	char *parent = blk_attr(dev, "partition") ? blk_attr(dev, "../dev") : NULL;
	bool found = has_dm_holder(dev);
	dev_t disk;

	if (parse_dev(parent, &disk))
		found |= has_dm_holder(disk);
	free(parent);
	return found;
}

/* device-mapper shares a device with itself, so only ask when it does not hold it already. */
static bool is_held(const struct where *at)
{
	int fd;

	if (has_dm_holder(at->rdev))
		return false;
	fd = open(at->path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd < 0)
		return errno == EBUSY;
	close(fd);
	return false;
}

int users_find(const struct where *at, const struct vdisk_extents *extents, const char *self,
	       const char *except, struct users *u)
{
	struct search s = { 0 };
	int code = DONE;

	*u = (struct users){ 0 };
	u->tables_read = geteuid() == 0 || !dm_present();
	u->perhaps = !u->tables_read && at->is_block && has_dm_holder_here(at->rdev);
	if (u->tables_read)
		code = dm_read_all(&s.dms);
	if (code)
		return code;
	learn_ours(&s, at, extents);
	find_mappings(&s, self, except, u);
	find_users_of_parts(&s, except, u);
	find_mounts(&s, at, u);
	if (at->is_block && !u->claimed)
		u->held = is_held(at);
	dm_devices_free(&s.dms);
	free(s.nodes);
	free(s.ours);
	return DONE;
}

void users_free(struct users *u)
{
	free(u->mount_point);
	free(u->writer);
	free(u->reader);
	*u = (struct users){ 0 };
}
