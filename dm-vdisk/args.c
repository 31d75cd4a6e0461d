// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The constructor's arguments: checked as far as they can be without the image, and remembered for
 * the TABLE status.
 */
#include <linux/sort.h>

#include "dm-vdisk.h"

#define CACHE_KIB_MAX	 (4 << 20)
#define DIGITS_OF_DEVICE 16 /* sizeof(dm_dev.name) */

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

static dmv_mode_t device_mode(struct dmv *d)
{
	return d->read_only ? COMPAT_READ : dm_table_get_mode(d->ti->table);
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

/* For the file or its data. The kernel opens a read-only device for writing: the writes fail. */
static int open_file_device(struct parser *p, size_t *end, struct dm_dev **dev, char *why)
{
	dmv_mode_t mode = device_mode(p->d);
	int ret = open_device(p, end, mode, dev, why);

	if (ret || !(mode & COMPAT_WRITE) || !bdev_read_only((*dev)->bdev))
		return ret;
	DMERR("%s: %s is read-only: it needs feature 'read_only'", dmv_name(p->d), (*dev)->name);
	return refuse(p, "A device is read-only, but the table is not");
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

static int parse_data(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;

	if (d->data)
		return refuse(p, "Feature 'data' is given twice");
	if (strcmp(d->format, "qcow2"))
		return refuse(p, "Feature 'data': this format keeps all in one file");
	return open_file_device(p, end, &d->data, "Cannot open the device of feature 'data'");
}

static int parse_snapshot(struct parser *p, size_t *end)
{
	const char *name = shift(p, end);

	if (p->d->snapshot)
		return refuse(p, "Feature 'snapshot' is given twice");
	if (strcmp(p->d->format, "qcow2"))
		return refuse(p, "Feature 'snapshot': this format has none inside");
	p->d->snapshot = kstrdup(name, GFP_KERNEL);
	return p->d->snapshot ? 0 : -ENOMEM;
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
	    strcasecmp(name, "parent") && strcasecmp(name, "data") &&
	    strcasecmp(name, "snapshot")) {
		DMERR("%s: no such feature: %s", dmv_name(d), name);
		return refuse(p, "Unknown feature");
	}
	if (!*left)
		return refuse(p, "The last feature lacks its value");
	(*left)--;
	if (!strcasecmp(name, "parent"))
		return parse_parent(p, end);
	if (!strcasecmp(name, "data"))
		return parse_data(p, end);
	if (!strcasecmp(name, "snapshot"))
		return parse_snapshot(p, end);
	if (!strcasecmp(name, "file_bytes"))
		return parse_number(p, end, 1, S64_MAX, &d->file_bytes,
				    "Feature 'file_bytes' is not a number of bytes");
	ret = parse_number(p, end, 64, CACHE_KIB_MAX, &value,
			   "Feature 'cache_kib' is not between 64 and 4194304");
	d->cache_kib = value;
	return ret;
}

/* Before devices are opened: the feature may stand behind them. (A value of that name would only
 * open them for less.) */
static bool asks_for_read_only(struct parser *p, u64 count)
{
	u64 i;

	for (i = 0; i < count; i++)
		if (!strcasecmp(p->as.argv[i], "read_only") ||
		    !strcasecmp(p->as.argv[i], "snapshot"))
			return true;
	return false;
}

static int parse_features(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;
	unsigned int left;
	u64 count;
	int ret;

	ret = parse_number(p, end, 0, 64, &count, "Invalid number of feature arguments");
	if (ret)
		return ret;
	if (count > p->as.argc)
		return refuse(p, "There are fewer feature arguments than their number says");
	d->read_only = asks_for_read_only(p, count);
	for (left = count; left && !ret;)
		ret = parse_feature(p, end, &left);
	return ret;
}

static int parse_devices(struct parser *p, size_t *end)
{
	struct dmv *d = p->d;
	u64 count;
	int ret;

	ret = parse_number(p, end, 1, U32_MAX, &count, "Invalid number of devices");
	if (ret)
		return ret;
	if (count != 1)
		return refuse(p, "Number of devices: only one is supported");
	ret = open_file_device(p, end, &d->dev, "Cannot open the device that the file is on");
	if (ret)
		return ret;
	if (d->data && d->data->bdev == d->dev->bdev)
		return refuse(p, "Feature 'data': the image is on the same device");
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
	if (!ret)
		ret = check_overlap(p);
	if (!ret && vdisk_extents_index(&p->d->extents)) {
		refuse(p, "Not enough memory for the extents");
		ret = -ENOMEM;
	}
	return ret;
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

static int parse_format(struct parser *p, size_t *end)
{
	const char *format = shift(p, end);

	if (!strcmp(format, "raw"))
		return refuse(p, "Format 'raw' needs no tables: use the linear target");
	if (strcmp(format, "vhd") && strcmp(format, "qcow2") && strcmp(format, "qcow"))
		return refuse(p, "Unknown format: 'vhd', 'qcow2' and 'qcow' are supported");
	p->d->format = kstrdup(format, GFP_KERNEL);
	return p->d->format ? 0 : -ENOMEM;
}

int dmv_parse(struct dmv *d, unsigned int argc, char **argv, char **error)
{
	struct parser p = { .d = d, .as = { argc, argv }, .error = error };
	size_t end = 0;
	int ret;

	if (argc < 5)
		return refuse(&p, "Too few arguments: format, features, device and extents");
	ret = alloc_line(&p, argc, argv);
	if (!ret)
		ret = parse_format(&p, &end);
	if (!ret)
		ret = parse_features(&p, &end);
	if (!ret)
		ret = parse_devices(&p, &end);
	if (!ret)
		ret = parse_extents(&p, &end);
	return ret ?: check_file_bytes(&p);
}
