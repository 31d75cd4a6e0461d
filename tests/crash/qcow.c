// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2: what is made, and what must be left of it. */
#include <sys/stat.h>

#include "crash.h"
#include "qcow-check.h"
#include "qcow-image.h"

static struct qcow_view before; /* when the machine was started */
static u8 *image_before, *data_before;

/* ---- recipes ---- */

static void some_features(struct qcow_recipe *r)
{
	r->bitmap = random_below(6) == 0;
	r->unknown = random_below(6) == 0;
	r->lazy = random_below(4) == 0;
	r->data_file = random_below(5) == 0;
	r->extended = random_below(4) == 0;
	if (r->extended)
		r->cluster_bits = 14 + (u32)random_below(3); /* subclusters of 1, 2 or 4 sectors */
	if (r->data_file && !r->extended && !r->parent_sectors)
		r->data_raw = random_below(2);
	if (r->data_file)
		r->snapshots = 0;
}

/* There is more room than the refcount table, of one cluster, can tell about: 64 blocks, which
 * count 64 clusters each. */
static void nearly_full(struct qcow_recipe *r)
{
	r->version = 3;
	r->cluster_bits = 9;
	r->refcount_order = 6;
	r->extended = false;
	r->filler = 4096 - 64 - 4 - (u32)random_below(60);
	r->room = 100 + (u32)random_below(200);
}

static void make(u64 number)
{
	struct qcow_recipe r = { .version = random_below(3) ? 3 : 2,
				 .cluster_bits = 9 + (u32)random_below(4),
				 .refcount_order = 4 };
	u64 cluster;

	if (random_below(12) == 0)
		r.cluster_bits = 13 + (u32)random_below(4);
	r.snapshots = random_below(2) ? (u32)random_below(SNAPSHOTS_MAX + 1) : 0;
	if (r.version == 3)
		r.refcount_order = (u32)random_below(7);
	if (!r.refcount_order)
		r.snapshots = 0;
	r.parent_sectors = random_below(2);
	if (r.version == 3)
		some_features(&r);
	if (number % 16 == 3)
		nearly_full(&r);
	cluster = 1ULL << r.cluster_bits >> 9;
	run.meta.block = number % 4 == 0 && r.cluster_bits >= 12 && !r.extended ? 4096 : 512;
	run.align = run.meta.block;
	r.sectors = (4 + random_below(r.cluster_bits < 11 ? 200 : 20)) * cluster;
	r.sectors -= random_below(cluster) / (run.align / SECTOR) * (run.align / SECTOR);
	if (r.parent_sectors)
		r.parent_sectors = (1 + random_below(r.sectors * 5 / 4)) * run.align / SECTOR;
	r.packed = !r.data_file && random_below(2);
	if (!r.room)
		r.room = (u32)random_below(r.sectors / cluster + 8) / (1 + (u32)random_below(4));
	if (!r.filler && random_below(3) == 0)
		r.ragged = run.align * (u32)random_below(cluster * SECTOR / run.align);
	qcow_make(&r, &run.made);
}

static u8 *copy(const u8 *data, u64 size)
{
	u8 *p = malloc(size);

	if (!p)
		abort();
	return memcpy(p, data, size);
}

static void begin(void)
{
	qcow_forget(&before);
	free(image_before);
	free(data_before);
	image_before = copy(run.made.file, run.made.file_size);
	data_before = run.made.data ? copy(run.made.data, run.made.data_size) : NULL;
	qcow_look(&before, image_before, run.made.file_size);
	qcow_check_counts(&before);
	if (before.problem[0])
		fail("as it was made, or left: %s", before.problem);
}

/* ---- what is left ---- */

static bool same(const u8 *image, u64 from, u64 to)
{
	return !memcmp(image + from, image_before + from, to - from);
}

/* Of the header only where the refcount table is, and the bits that have to be cleared; and these
 * before anything else is changed. */
static void check_header(const struct qcow_view *v, const u8 *data)
{
	if (!same(v->file, 0, Q_REFCOUNT_TABLE) || !same(v->file, Q_SNAPSHOTS, 72) ||
	    (v->version > 2 &&
	     (!same(v->file, 72, Q_AUTOCLEAR) || !same(v->file, Q_REFCOUNT_ORDER, v->cluster))) ||
	    (v->version < 3 && !same(v->file, 72, v->cluster)))
		fail("the header has changed");
	if (v->autoclear == before.autoclear) {
		if (!(v->autoclear & ~Q_DATA_RAW))
			return;
		if (memcmp(v->file, image_before, v->size) ||
		    (data && memcmp(data, data_before, run.made.data_size)))
			fail("written before the autoclear bits were cleared");
	} else if (v->autoclear != (before.autoclear & Q_DATA_RAW)) {
		fail("the autoclear bits are %#llx", (unsigned long long)v->autoclear);
	}
}

/* What leaked before is left alone, and nothing else is counted that was not in use or free. */
static void check_leaks(const struct qcow_view *v)
{
	for (u64 i = 0; i < v->clusters; i++) {
		u64 at = i * v->cluster, left = v->size - at;

		if (before.refs[i] || !before.refcounts[i])
			continue;
		if (v->refcounts[i] != before.refcounts[i] || v->refs[i] ||
		    !same(v->file, at, at + (left < v->cluster ? left : v->cluster)))
			fail("cluster %llu was nobody's and not free, and is in use now",
			     (unsigned long long)i);
	}
	if (run.settled && qcow_leaks(v) != qcow_leaks(&before))
		fail("%llu clusters leak, after %llu", (unsigned long long)qcow_leaks(v),
		     (unsigned long long)qcow_leaks(&before));
}

static void check_snapshots(struct qcow_view *v)
{
	u64 *stamps = malloc(run.made.sectors * sizeof(*stamps)), l1, l1_size;

	for (u32 n = 0; n < v->snapshots; n++) {
		qcow_snapshot(v, n, &l1, &l1_size);
		qcow_read(v, l1, l1_size, run.made.parent_sectors, NULL, stamps, run.made.sectors);
		if (memcmp(stamps, run.made.snapshots[n], run.made.sectors * sizeof(*stamps)))
			fail("snapshot %u has changed", n + 1);
	}
	free(stamps);
}

/* A raw data file is the disk. */
static void check_raw(const struct qcow_view *v, const u8 *data)
{
	if (!data || !(v->autoclear & Q_DATA_RAW))
		return;
	for (u64 i = 0; i < run.made.sectors; i++)
		if (!model_survives(&run.model, i, stamp_of(data + i * SECTOR)))
			fail("sector %llu of the raw data file holds %llx", (unsigned long long)i,
			     (unsigned long long)stamp_of(data + i * SECTOR));
}

static void check(u8 *const images[2], u64 *stamps)
{
	struct qcow_view v;

	qcow_look(&v, images[0], run.made.file_size);
	qcow_check_counts(&v);
	if (!v.problem[0])
		qcow_read(&v, v.l1, v.l1_size, run.made.parent_sectors, images[1], stamps,
			  run.made.sectors);
	if (v.problem[0])
		fail("after a power cut: %s", v.problem);
	check_survivors(stamps);
	check_header(&v, images[1]);
	check_leaks(&v);
	check_snapshots(&v);
	check_raw(&v, images[1]);
	qcow_forget(&v);
}

static void dump(const char *folder, u8 *const images[2], const u64 *stamps)
{
	static const char *const names[SNAPSHOTS_MAX] = { "s1.raw", "s2.raw" };

	mkdir(folder, 0777);
	write_file(folder, "image.qcow2", images[0], run.made.file_size);
	write_stamps(folder, "disk.raw", stamps, run.made.sectors);
	if (run.made.data)
		write_file(folder, "data.raw", images[1], run.made.data_size);
	if (run.made.parent)
		write_file(folder, "parent.raw", run.made.parent, run.made.parent_size);
	for (u32 n = 0; n < run.made.n_snapshots; n++)
		write_stamps(folder, names[n], run.made.snapshots[n], run.made.sectors);
}

const struct family qcow_family = { "qcow2", make, begin, check, dump };
