// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What device-mapper calls, apart from map(): constructor, status, messages, suspend and resume.
 *
 * The constructor only opens devices and checks its arguments; the image is opened at resume,
 * because the table before may still be writing to it. An image that cannot be opened then does
 * not fail the resume, which would leave a suspended device behind whose users hang: it makes a
 * device in mode `fail`, and the log says why.
 */
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/sort.h>

#include "dm-vdisk.h"

#define CACHE_KIB	 16384
#define CACHE_KIB_MAX	 (4 << 20)
#define REBOOT_TIMEOUT	 (10 * HZ)
#define DIGITS_OF_DEVICE 16 /* sizeof(dm_dev.name) */

/* All devices, for the reboot notifier and to find a second writer. */
static DEFINE_MUTEX(devices_lock);
static LIST_HEAD(devices);

/* --- the constructor's arguments --- */

struct parser {
	struct dmv *d;
	struct dm_arg_set as;
	char **error; /* the target's */
};

static int refuse(struct parser *p, char *why)
{
	*p->error = why;
	return -EINVAL;
}

/* Remember an argument for the TABLE status. There is room: see alloc_line(). */
static void remember(struct dmv *d, size_t *end, const char *arg)
{
	*end += sprintf(d->line + *end, "%s%s", *end ? " " : "", arg);
}

static int alloc_line(struct parser *p, unsigned int argc, char **argv)
{
	size_t size = 1;
	unsigned int i;

	for (i = 0; i < argc; i++)
		size += max_t(size_t, strlen(argv[i]), DIGITS_OF_DEVICE) + 1;
	p->d->line = kvmalloc(size, GFP_KERNEL);
	if (!p->d->line) {
		refuse(p, "Not enough memory for the arguments");
		return -ENOMEM;
	}
	p->d->line[0] = 0;
	return 0;
}

static const char *shift(struct parser *p, size_t *end)
{
	const char *arg = dm_shift_arg(&p->as);

	if (arg && end)
		remember(p->d, end, arg);
	return arg;
}

static int parse_number(struct parser *p, size_t *end, u64 low, u64 high, u64 *value, char *why)
{
	const char *arg = shift(p, end);

	if (!arg || kstrtoull(arg, 10, value) || *value < low || *value > high)
		return refuse(p, why);
	return 0;
}

static int open_device(struct parser *p, size_t *end, dmv_mode_t mode, struct dm_dev **dev,
		       char *why)
{
	const char *arg = shift(p, NULL);
	int ret;

	if (!arg)
		return refuse(p, why);
	ret = dm_get_device(p->d->ti, arg, mode, dev);
	if (ret) {
		*dev = NULL;
		DMERR("%s: cannot open %s", dmv_name(p->d), arg);
		refuse(p, why);
		return ret;
	}
	remember(p->d, end, (*dev)->name);
	return 0;
}

static int parse_parent(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;
	int ret;

	if (d->parent)
		return refuse(p, "Feature 'parent' is given twice");
	ret = open_device(p, end, COMPAT_READ, &d->parent,
			  "Cannot open the device of feature 'parent'");
	if (ret)
		return ret;
	if (!bdev_read_only(d->parent->bdev))
		return refuse(p, "Feature 'parent': the device is not read-only");
	return 0;
}

static bool *flag_of(struct dmv *d, const char *name)
{
	if (!strcasecmp(name, "read_only"))
		return &d->read_only;
	if (!strcasecmp(name, "no_grow"))
		return &d->no_grow;
	if (!strcasecmp(name, "ignore_discard"))
		return &d->ignore_discard;
	if (!strcasecmp(name, "no_discard_passdown"))
		return &d->no_passdown;
	return NULL;
}

static int parse_feature(struct parser *p, size_t *end, unsigned int *left)
{
	const char *name = shift(p, end);
	struct dmv *d = p->d;
	u64 value;
	bool *flag;
	int ret;

	(*left)--;
	flag = flag_of(d, name);
	if (flag) {
		*flag = true;
		return 0;
	}
	if (strcasecmp(name, "file_bytes") && strcasecmp(name, "cache_kib") &&
	    strcasecmp(name, "parent") && strcasecmp(name, "data")) {
		DMERR("%s: no such feature: %s", dmv_name(d), name);
		return refuse(p, "Unknown feature");
	}
	if (!*left)
		return refuse(p, "The last feature lacks its value");
	(*left)--;
	if (!strcasecmp(name, "parent"))
		return parse_parent(p, end);
	if (!strcasecmp(name, "data"))
		return refuse(p, "Feature 'data': this format keeps all in one file");
	if (!strcasecmp(name, "file_bytes"))
		return parse_number(p, end, 1, S64_MAX, &d->file_bytes,
				    "Feature 'file_bytes' is not a number of bytes");
	ret = parse_number(p, end, 64, CACHE_KIB_MAX, &value,
			   "Feature 'cache_kib' is not between 64 and 4194304");
	d->cache_kib = value;
	return ret;
}

static int parse_features(struct parser *p, size_t *end)
{
	unsigned int left;
	u64 count;
	int ret;

	ret = parse_number(p, end, 0, 64, &count, "Invalid number of feature arguments");
	if (ret)
		return ret;
	if (count > p->as.argc)
		return refuse(p, "There are fewer feature arguments than their number says");
	for (left = count; left && !ret;)
		ret = parse_feature(p, end, &left);
	return ret;
}

static int parse_devices(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;
	dmv_mode_t mode = d->read_only ? COMPAT_READ : dm_table_get_mode(d->ti->table);
	u64 count;
	int ret;

	ret = parse_number(p, end, 1, U32_MAX, &count, "Invalid number of devices");
	if (ret)
		return ret;
	if (count != 1)
		return refuse(p, "Number of devices: only one is supported");
	ret = open_device(p, end, mode, &d->dev, "Cannot open the device that the file is on");
	if (ret)
		return ret;
	d->block = bdev_logical_block_size(d->dev->bdev);
	return 0;
}

/* INDEX:FIRST+COUNT. Cuts the argument to pieces. */
static bool split_extent(char *arg, u64 *first, u64 *count)
{
	char *colon = strchr(arg, ':'), *plus = strchr(arg, '+');
	u32 index;

	if (!colon || !plus || plus < colon)
		return false;
	*colon = 0;
	*plus = 0;
	return !kstrtou32(arg, 10, &index) && !index && !kstrtoull(colon + 1, 10, first) &&
	       !kstrtoull(plus + 1, 10, count);
}

static int parse_extent(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;
	u64 first, count, sectors = bdev_nr_sectors(d->dev->bdev);
	size_t start = *end;
	char *why = NULL;
	int ret;

	remember(d, end, p->as.argv[0]);
	if (!split_extent((char *)shift(p, NULL), &first, &count))
		why = "An extent is not 0:FIRST+SECTORS";
	else if (!count || first > sectors || count > sectors - first)
		why = "An extent is empty or not inside its device";
	else if ((first | count) & ((d->block >> SECTOR_SHIFT) - 1))
		why = "An extent is not aligned to the logical blocks of its device";
	if (why) {
		DMERR("%s: extent%s on %s with %llu sectors in blocks of %u bytes", dmv_name(d),
		      d->line + start, d->dev->name, sectors, d->block);
		return refuse(p, why);
	}
	ret = vdisk_extents_add(&d->extents, first, count);
	if (ret)
		refuse(p, ret == -ENOMEM ? "Not enough memory for the extents"
					 : "The extents are too long");
	return ret;
}

static int compare_extents(const void *a, const void *b)
{
	u64 x = ((const struct vdisk_extent *)a)->device;
	u64 y = ((const struct vdisk_extent *)b)->device;

	return x < y ? -1 : x > y;
}

/* Two places of the file that are one on the device: a table that is wrong, and would be fatal. */
static int check_overlap(struct parser *p)
{
	const struct vdisk_extents *x = &p->d->extents;
	struct vdisk_extent *v;
	size_t i;
	int ret = 0;

	v = kvmalloc_array(x->n, sizeof(*v), GFP_KERNEL);
	if (!v) {
		refuse(p, "Not enough memory for the extents");
		return -ENOMEM;
	}
	memcpy(v, x->v, x->n * sizeof(*v));
	sort(v, x->n, sizeof(*v), compare_extents, NULL);
	for (i = 1; i < x->n && !ret; i++) {
		if (v[i].device - v[i - 1].device >= v[i - 1].count)
			continue;
		DMERR("%s: extents at sectors %llu and %llu of %s overlap", dmv_name(p->d),
		      v[i - 1].device, v[i].device, p->d->dev->name);
		ret = refuse(p, "Two extents overlap");
	}
	kvfree(v);
	return ret;
}

static int parse_extents(struct parser *p, size_t *end)
{
	u64 count, i;
	int ret;

	ret = parse_number(p, end, 1, U32_MAX, &count, "Invalid number of extents");
	if (ret)
		return ret;
	if (count != p->as.argc)
		return refuse(p, "The number of extents is not that of the arguments that follow");
	for (i = 0; i < count && !ret; i++)
		ret = parse_extent(p, end);
	return ret ?: check_overlap(p);
}

static int check_file_bytes(struct parser *p)
{
	struct dmv *d = p->d;
	const struct vdisk_extents *x = &d->extents;
	u64 before_last = x->v[x->n - 1].file << SECTOR_SHIFT;

	if (!d->file_bytes)
		d->file_bytes = x->sectors << SECTOR_SHIFT;
	if (d->file_bytes > x->sectors << SECTOR_SHIFT || d->file_bytes <= before_last)
		return refuse(p, "Feature 'file_bytes': the file does not end in the last extent");
	d->file_end = round_up(d->file_bytes, d->block);
	if (d->cache_kib < 64 * (d->block >> SECTOR_SHIFT))
		return refuse(p, "Feature 'cache_kib' holds less than 64 blocks of the device");
	return 0;
}

static int parse(struct parser *p, unsigned int argc, char **argv)
{
	struct dmv *d = p->d;
	size_t end = 0;
	const char *format;
	int ret;

	if (argc < 5)
		return refuse(p, "Too few arguments: format, features, device and extents");
	ret = alloc_line(p, argc, argv);
	if (ret)
		return ret;
	format = shift(p, &end);
	if (!strcmp(format, "raw"))
		return refuse(p, "Format 'raw' needs no tables: use the linear target");
	if (strcmp(format, "vhd"))
		return refuse(p, "Unknown format: only 'vhd' is supported");
	d->format = kstrdup(format, GFP_KERNEL);
	if (!d->format)
		return -ENOMEM;
	ret = parse_features(p, &end);
	if (!ret)
		ret = parse_devices(p, &end);
	if (!ret)
		ret = parse_extents(p, &end);
	return ret ?: check_file_bytes(p);
}

/* --- constructor and destructor --- */

static void destroy(struct dmv *d)
{
	dmv_host_exit(d);
	dmv_cache_exit(&d->cache);
	free_percpu(d->stats);
	if (d->parent)
		dm_put_device(d->ti, d->parent);
	if (d->dev)
		dm_put_device(d->ti, d->dev);
	vdisk_extents_free(&d->extents);
	kfree(d->format);
	kvfree(d->line);
	kfree(d);
}

static void describe(struct dmv *d)
{
	struct dm_target *ti = d->ti;

	ti->num_flush_bios = 1;
	ti->flush_supported = true;
	ti->num_discard_bios = !d->ignore_discard;
	ti->discards_supported = !d->ignore_discard;
	ti->num_write_zeroes_bios = 1;
	ti->per_io_data_size = sizeof(struct dmv_bio);
}

static int vdisk_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct parser p = { .as = { argc, argv }, .error = &ti->error };
	struct dmv *d = kzalloc(sizeof(*d), GFP_KERNEL);
	int ret;

	if (!d) {
		ti->error = "Not enough memory";
		return -ENOMEM;
	}
	p.d = d;
	d->ti = ti;
	d->cache_kib = CACHE_KIB;
	d->shown = (struct dmv_shown){ -1, U64_MAX, U64_MAX, U64_MAX, 0 };
	mutex_init(&d->open_lock);
	mutex_init(&d->engine_lock);
	ret = parse(&p, argc, argv);
	if (ret)
		goto bad;
	d->ro = d->read_only || !(dm_table_get_mode(ti->table) & COMPAT_WRITE);
	d->passdown = !d->no_passdown && bdev_max_discard_sectors(d->dev->bdev);
	ti->error = "Not enough memory";
	d->stats = alloc_percpu(struct dmv_stats);
	ret = d->stats ? dmv_host_init(d) : -ENOMEM;
	if (ret)
		goto bad;
	/* Last: from here on the shrinker may come. */
	ret = dmv_cache_init(&d->cache, &d->engine_lock, d->block, d->cache_kib);
	if (ret)
		goto bad;
	ti->error = NULL;
	describe(d);
	ti->private = d;
	mutex_lock(&devices_lock);
	list_add_tail(&d->list, &devices);
	mutex_unlock(&devices_lock);
	return 0;

bad:
	destroy(d);
	return ret;
}

static void vdisk_dtr(struct dm_target *ti)
{
	struct dmv *d = ti->private;

	mutex_lock(&devices_lock);
	list_del(&d->list);
	mutex_unlock(&devices_lock);
	destroy(d);
}

/* --- opening the image --- */

static bool same_file(const struct dmv *a, const struct dmv *b)
{
	return a->dev->bdev->bd_dev == b->dev->bdev->bd_dev &&
	       a->extents.v[0].device == b->extents.v[0].device;
}

/* A device's own table before this one has let go when it was suspended. */
static bool claim_file(struct dmv *d)
{
	struct dmv *other;
	bool free = true;

	mutex_lock(&devices_lock);
	list_for_each_entry(other, &devices, list) {
		if (d->ro || other == d || !other->writer || !same_file(d, other))
			continue;
		DMERR("%s: the file at sector %llu of %s is open for writing already, by %s",
		      dmv_name(d), d->extents.v[0].device, d->dev->name, dmv_name(other));
		free = false;
		break;
	}
	d->writer = free && !d->ro;
	mutex_unlock(&devices_lock);
	return free;
}

static void release_file(struct dmv *d)
{
	mutex_lock(&devices_lock);
	d->writer = false;
	mutex_unlock(&devices_lock);
}

static bool same_identity(const struct dmv *d, const struct vdisk_info *info)
{
	return d->seen_size == info->virtual_size && d->seen_has_uuid == !!info->has_uuid &&
	       !memcmp(d->seen_uuid, info->uuid, sizeof(d->seen_uuid));
}

int dmv_check_image(struct dmv *d, const struct vdisk *vd)
{
	const struct vdisk_info *info = vdisk_info(vd);
	u64 length = (u64)d->ti->len << SECTOR_SHIFT;

	if (!vd->unit_shift)
		DMERR("%s: the image is a %s %s, which needs no tables: use the linear target",
		      dmv_name(d), info->subformat ?: "flat", info->format);
	else if (info->virtual_size != length)
		DMERR("%s: the image is a disk of %llu sectors, but the table says %llu",
		      dmv_name(d), info->virtual_size >> SECTOR_SHIFT, length >> SECTOR_SHIFT);
	else if (info->needs_parent && !d->parent)
		DMERR("%s: a differencing image needs feature 'parent'", dmv_name(d));
	else if (!info->needs_parent && d->parent)
		DMERR("%s: feature 'parent' is given, but the image has none", dmv_name(d));
	else if (d->parent && !bdev_read_only(d->parent->bdev))
		DMERR("%s: the parent %s is not read-only any more", dmv_name(d), d->parent->name);
	else if (d->seen && !same_identity(d, info))
		DMERR("%s: this is another image now (id %pUb instead of %pUb)", dmv_name(d),
		      info->uuid, d->seen_uuid);
	else
		return 0;
	return -EINVAL;
}

static void see_image(struct dmv *d)
{
	const struct vdisk_info *info = vdisk_info(d->vd);

	d->seen = true;
	d->seen_size = info->virtual_size;
	d->seen_has_uuid = info->has_uuid;
	memcpy(d->seen_uuid, info->uuid, sizeof(d->seen_uuid));
}

/* A value of an error as text: the characters of SHOW_TEXT are as hostile as the image. */
static void show_value(char *to, size_t size, enum vdisk_show show, u64 value)
{
	char text[9] = "";
	int i;

	for (i = 0; i < 8; i++)
		text[i] = value >> (56 - 8 * i);
	if (show == VDISK_SHOW_TEXT)
		snprintf(to, size, "\"%*pEp\"", 8, text);
	else if (show == VDISK_SHOW_HEX)
		snprintf(to, size, "0x%llx", value);
	else
		snprintf(to, size, "%llu", value);
}

static void print_error(struct dmv *d, int code, const struct vdisk_error *err)
{
	char found[48], expected[48];

	if (!err->problem) {
		DMERR("%s: cannot open the image: error %d", dmv_name(d), code);
	} else if (err->show == VDISK_SHOW_NONE) {
		DMERR("%s: offset %llu: %s %s", dmv_name(d), err->offset, err->field ?: "the image",
		      err->problem);
	} else {
		show_value(found, sizeof(found), err->show, err->found);
		show_value(expected, sizeof(expected), err->show, err->expected);
		DMERR("%s: offset %llu: %s %s (found %s, expected %s)", dmv_name(d), err->offset,
		      err->field ?: "the image", err->problem, found, expected);
	}
	if (err->advice)
		DMERR("%s: %s", dmv_name(d), err->advice);
}

static void open_image(struct dmv *d)
{
	struct vdisk_error err = {};
	int ret = -EINVAL;

	d->failed = false;
	if (claim_file(d))
		ret = dmv_host_open(d, &err);
	if (!ret) {
		see_image(d);
		return;
	}
	if (ret != -EINVAL || err.problem)
		print_error(d, ret, &err);
	release_file(d);
	d->failed = true;
	DMWARN("%s: mode fail", dmv_name(d));
	WRITE_ONCE(d->shown.mode, VDISK_MODE_FAIL);
	dm_table_event(d->ti->table);
}

static int vdisk_preresume(struct dm_target *ti)
{
	struct dmv *d = ti->private;

	mutex_lock(&d->open_lock);
	if (!d->vd)
		open_image(d);
	mutex_unlock(&d->open_lock);
	return 0;
}

static void vdisk_postsuspend(struct dm_target *ti)
{
	struct dmv *d = ti->private;

	mutex_lock(&d->open_lock);
	dmv_host_close(d);
	/* What stays open then is in mode fail, and does not write. */
	release_file(d);
	mutex_unlock(&d->open_lock);
}

/* --- status and messages --- */

static const char *number(char *to, size_t size, u64 value)
{
	if (value == U64_MAX)
		return "-";
	snprintf(to, size, "%llu", value);
	return to;
}

static struct dmv_stats sum_stats(struct dmv *d)
{
	struct dmv_stats sum = {};
	int cpu;

	for_each_possible_cpu(cpu) {
		sum.hits += per_cpu_ptr(d->stats, cpu)->hits;
		sum.misses += per_cpu_ptr(d->stats, cpu)->misses;
	}
	return sum;
}

static void vdisk_status(struct dm_target *ti, status_type_t type, unsigned int flags, char *result,
			 unsigned int maxlen)
{
	struct dmv *d = ti->private;
	struct dmv_shown s = d->shown;
	struct dmv_stats stats;
	unsigned int sz = 0;
	char a[24], b[24], c[24];

	switch (type) {
	case STATUSTYPE_INFO:
		stats = sum_stats(d);
		DMEMIT("%s %s/%s %s %llu/%u %llu %llu %llu",
		       s.mode < 0 ? "-" : vdisk_mode_name(s.mode),
		       number(a, sizeof(a), s.allocated), number(b, sizeof(b), s.total),
		       number(c, sizeof(c), s.room), dmv_cache_kib(&d->cache), d->cache_kib,
		       stats.hits, stats.misses, s.commits);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s", d->line);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",format=%s,read_only=%c;", d->format, d->ro ? 'y' : 'n');
		break;
	}
}

static int vdisk_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
			 unsigned int maxlen)
{
	struct dmv *d = ti->private;
	int ret = 0;

	if (argc == 1 && !strcasecmp(argv[0], "flush")) {
		mutex_lock(&d->open_lock);
		ret = dmv_flush(d);
		mutex_unlock(&d->open_lock);
	} else if (argc == 1 && !strcasecmp(argv[0], "drop_cache")) {
		dmv_drop_cache(d);
	} else {
		DMERR("%s: no such message: there are 'flush' and 'drop_cache'", dmv_name(d));
		ret = -EINVAL;
	}
	return ret;
}

/* --- limits --- */

static int report_device(struct dm_target *ti, iterate_devices_callout_fn fn, struct dm_dev *dev,
			 void *data)
{
	sector_t whole = round_down(bdev_nr_sectors(dev->bdev),
				    bdev_logical_block_size(dev->bdev) >> SECTOR_SHIFT);

	return fn(ti, dev, 0, whole, data);
}

/*
 * Whole devices, not every extent: there may be half a million, all checked by the constructor, and
 * how they are aligned says nothing about the blocks inside the image.
 */
static int vdisk_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct dmv *d = ti->private;
	int ret = report_device(ti, fn, d->dev, data);

	if (!ret && d->parent)
		ret = report_device(ti, fn, d->parent, data);
	return ret;
}

static void vdisk_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct dmv *d = ti->private;

	limits->io_min = max_t(unsigned int, limits->io_min, 4096);
	compat_no_unmap(limits);
	if (!d->ignore_discard && !d->passdown)
		compat_any_discard(limits, max_t(unsigned int, limits->logical_block_size, 4096));
}

/* --- the module --- */

static struct target_type vdisk_target = {
	.name = "vdisk",
	.version = { 1, 0, 0 },
	.module = THIS_MODULE,
	.ctr = vdisk_ctr,
	.dtr = vdisk_dtr,
	.map = dmv_map,
	.preresume = vdisk_preresume,
	.postsuspend = vdisk_postsuspend,
	.status = vdisk_status,
	.message = vdisk_message,
	.iterate_devices = vdisk_iterate_devices,
	.io_hints = vdisk_io_hints,
};

/* A shutdown that does not take the devices apart: commit what was written, but do not hang. */
static int before_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	unsigned long deadline = jiffies + REBOOT_TIMEOUT, now;
	struct dmv *d;

	mutex_lock(&devices_lock);
	list_for_each_entry(d, &devices, list)
		dmv_commit(d);
	list_for_each_entry(d, &devices, list) {
		now = jiffies;
		dmv_commit_wait(d, time_before(now, deadline) ? deadline - now : 1);
	}
	mutex_unlock(&devices_lock);
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = { .notifier_call = before_reboot };

static int __init vdisk_init(void)
{
	int ret = dm_register_target(&vdisk_target);

	if (ret)
		return ret;
	ret = register_reboot_notifier(&reboot_notifier);
	if (ret)
		dm_unregister_target(&vdisk_target);
	return ret;
}

static void __exit vdisk_exit(void)
{
	unregister_reboot_notifier(&reboot_notifier);
	dm_unregister_target(&vdisk_target);
}

module_init(vdisk_init);
module_exit(vdisk_exit);

MODULE_DESCRIPTION("Block devices from virtual disk images");
MODULE_AUTHOR("The dm-vdisk authors");
MODULE_LICENSE("GPL");
