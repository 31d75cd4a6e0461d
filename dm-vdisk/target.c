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

#include "dm-vdisk.h"

#define CACHE_KIB      16384
#define REBOOT_TIMEOUT (10 * HZ)

/* All devices, for the reboot notifier and to find a second writer. */
static DEFINE_MUTEX(devices_lock);
static LIST_HEAD(devices);

/* --- constructor and destructor --- */

static void destroy(struct dmv *d)
{
	dmv_host_exit(d);
	dmv_cache_exit(&d->cache);
	free_percpu(d->stats);
	if (d->parent)
		dm_put_device(d->ti, d->parent);
	if (d->data)
		dm_put_device(d->ti, d->data);
	if (d->dev)
		dm_put_device(d->ti, d->dev);
	vdisk_extents_free(&d->extents);
	kfree(d->snapshot);
	kfree(d->format);
	kvfree(d->line);
	kfree(d);
}

static void describe(struct dmv *d)
{
	struct dm_target *ti = d->ti;

	ti->num_flush_bios = d->data ? 2 : 1; /* map_flush() */
	ti->flush_supported = true;
	ti->num_discard_bios = !d->ignore_discard;
	ti->discards_supported = !d->ignore_discard;
	ti->num_write_zeroes_bios = 1;
	ti->per_io_data_size = sizeof(struct dmv_bio);
}

static int vdisk_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dmv *d = kzalloc(sizeof(*d), GFP_KERNEL);
	int ret;

	if (!d) {
		ti->error = "Not enough memory";
		return -ENOMEM;
	}
	d->ti = ti;
	d->cache_kib = CACHE_KIB;
	d->shown = (struct dmv_shown){ -1, U64_MAX, U64_MAX, U64_MAX, 0 };
	mutex_init(&d->open_lock);
	mutex_init(&d->engine_lock);
	ret = dmv_parse(d, argc, argv, &ti->error);
	if (ret)
		goto bad;
	d->ro = d->read_only || !(dm_table_get_mode(ti->table) & COMPAT_WRITE);
	d->passdown = !d->no_passdown && bdev_max_discard_sectors(dmv_data(d)->bdev);
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

static bool same_device(const struct dm_dev *a, const struct dm_dev *b)
{
	return a && b && a->bdev->bd_dev == b->bdev->bd_dev;
}

static bool same_file(const struct dmv *a, const struct dmv *b)
{
	return same_device(a->data, b->data) ||
	       (same_device(a->dev, b->dev) && a->extents.v[0].device == b->extents.v[0].device);
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

/* Are the devices those that the image needs? */
static bool check_devices(struct dmv *d, const struct vdisk_info *info)
{
	if (info->needs_parent && !d->parent)
		DMERR("%s: a differencing image needs feature 'parent'", dmv_name(d));
	else if (!info->needs_parent && d->parent)
		DMERR("%s: feature 'parent' is given, but the image has none", dmv_name(d));
	else if (d->parent && !bdev_read_only(d->parent->bdev))
		DMERR("%s: the parent %s is not read-only any more", dmv_name(d), d->parent->name);
	else if (info->needs_data && !d->data)
		DMERR("%s: the image keeps its data in another file: it needs feature 'data'",
		      dmv_name(d));
	else if (!info->needs_data && d->data)
		DMERR("%s: feature 'data' is given, but the image keeps all in one file",
		      dmv_name(d));
	else if (d->data && !d->ro && bdev_nr_bytes(d->data->bdev) < info->virtual_size)
		DMERR("%s: %s is too short for the data of a writable disk: %llu bytes, not %llu",
		      dmv_name(d), d->data->name, bdev_nr_bytes(d->data->bdev), info->virtual_size);
	else
		return true;
	return false;
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
	else if (!check_devices(d, info))
		return -EINVAL;
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
	if (err->detail[0])
		DMERR("%s: that is: %s", dmv_name(d), err->detail);
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
	} else if (argc == 1 && !strcasecmp(argv[0], "fail")) {
		mutex_lock(&d->open_lock);
		dmv_fail(d);
		mutex_unlock(&d->open_lock);
	} else {
		DMERR("%s: no such message: there are 'flush', 'drop_cache' and 'fail'",
		      dmv_name(d));
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

	if (!ret && d->data)
		ret = report_device(ti, fn, d->data, data);
	if (!ret && d->parent)
		ret = report_device(ti, fn, d->parent, data);
	return ret;
}

static void vdisk_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct dmv *d = ti->private;

	limits->io_min = max_t(unsigned int, limits->io_min, 4096);
	compat_no_unmap(limits);
	/* What the engine takes for its tables is not bound to what goes below. */
	if (!d->ignore_discard && (!d->passdown || strcmp(d->format, "vhd")))
		compat_any_discard(limits, max_t(unsigned int, limits->logical_block_size, 4096));
}

/* --- the module --- */

static struct target_type vdisk_target = {
	.name = "vdisk",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_NOWAIT,
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
