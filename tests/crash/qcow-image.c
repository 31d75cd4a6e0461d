// SPDX-License-Identifier: GPL-2.0-or-later
#include <zlib.h>

#include "disk.h"
#include "qcow-check.h"
#include "qcow-image.h"

#define SECTOR 512

struct maker {
	const struct qcow_recipe *r;
	struct made *m;
	u8 *file, *used;
	u64 cluster, n, spread; /* clusters in the file; those that things are put into */
	u64 entry_bytes, per_table, l1_used, l1_size;
	u64 l1, refcount_table, refcount_clusters;
	u64 snapshot_l1[SNAPSHOTS_MAX], snapshot_table;
	u64 pack_at, pack_end; /* room for compressed clusters */
	u32 packed_here;       /* in the cluster that pack_at is in */
};

static void *must(u64 size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

/* ---- places ---- */

static bool is_free(const struct maker *k, u64 first, u64 count)
{
	while (count--)
		if (k->used[first++])
			return false;
	return true;
}

/* Somewhere, so that there are holes. */
static u64 place(struct maker *k, u64 count)
{
	u64 at = random_below(k->spread - count);

	while (at + count <= k->n && !is_free(k, at, count))
		at++;
	if (at + count > k->n)
		for (at = 0; at + count <= k->n && !is_free(k, at, count); at++)
			;
	if (at + count > k->n)
		abort();
	memset(k->used + at, 1, count);
	return at * k->cluster;
}

static u64 table(struct maker *k, u64 bytes)
{
	u64 at = place(k, (bytes + k->cluster - 1) / k->cluster);

	memset(k->file + at, 0, round_up_to(bytes, (u32)k->cluster));
	return at;
}

/* ---- data ---- */

static void stamp_cluster(const struct maker *k, u8 *out, u64 index, u64 tag)
{
	u64 per = k->cluster / SECTOR;

	for (u64 i = 0; i < per; i++)
		stamp_sector(out + i * SECTOR, tag | (index * per + i));
}

static u64 data_cluster(struct maker *k, u64 index, u64 tag)
{
	u64 at = k->r->data_file ? index * k->cluster : place(k, 1);

	stamp_cluster(k, (k->r->data_file ? k->m->data : k->file) + at, index, tag);
	return k->r->data_file ? at | Q_COPIED : at;
}

/* How many references a refcount can say. */
static u64 most_refs(const struct maker *k)
{
	u32 bits = 1U << k->r->refcount_order;

	return bits > 5 ? 30 : (1ULL << bits) - 1;
}

static u64 deflate_cluster(const struct maker *k, u64 index, u64 tag, u8 *out)
{
	u8 *raw = must(k->cluster);
	z_stream z = { .next_in = raw,
		       .avail_in = (uInt)k->cluster,
		       .next_out = out,
		       .avail_out = (uInt)k->cluster };

	stamp_cluster(k, raw, index, tag);
	if (deflateInit2(&z, (int)random_below(10), Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY))
		abort();
	if (deflate(&z, Z_FINISH) != Z_STREAM_END)
		z.total_out = 0; /* it did not become smaller */
	deflateEnd(&z);
	free(raw);
	return z.total_out;
}

/* "Compressed Clusters Descriptor"; 0: not this cluster. Streams share host clusters, and lie
 * across their borders, as far as refcounts go. */
static u64 packed_cluster(struct maker *k, u64 index, u64 tag)
{
	u64 most = most_refs(k) / (1 + k->r->snapshots), at, length, sectors;
	u32 bits = k->r->cluster_bits;
	u8 *stream = must(k->cluster);

	length = deflate_cluster(k, index, tag, stream);
	if (k->pack_at + length > k->pack_end || k->packed_here >= most) {
		k->pack_at = place(k, 2);
		k->pack_end = k->pack_at + (most > 1 ? 2 : 1) * k->cluster;
		k->pack_at += random_below(k->cluster - length + 1);
		k->packed_here = 0;
	}
	at = k->pack_at;
	if (!length || at + length > k->pack_end) {
		free(stream);
		return 0;
	}
	k->packed_here++;
	k->pack_at += length;
	/* what follows is counted as if it were all in one cluster: never too little */
	memcpy(k->file + at, stream, length);
	free(stream);
	sectors = (at + length - 1) / SECTOR - at / SECTOR;
	return Q_COMPRESSED | sectors << (62 - (bits - 8)) | at;
}

/* ---- L2 tables ---- */

static void extended_entry(struct maker *k, u64 index, u64 tag, u8 *entry)
{
	u32 placed = (u32)random_below(1ULL << 32), zeros = (u32)random_below(1ULL << 32);

	if (random_below(4) == 0)
		placed = 0;
	else if (random_below(4) == 0)
		placed = UINT32_MAX;
	if (random_below(2))
		zeros = 0;
	if (placed || random_below(3) == 0)
		qcow_put(entry, 8, data_cluster(k, index, tag));
	qcow_put(entry + 8, 4, zeros & ~placed);
	qcow_put(entry + 12, 4, placed);
}

static void make_entry(struct maker *k, u64 index, u64 tag, u8 *entry)
{
	u64 packed = 0;

	memset(entry, 0, k->entry_bytes);
	if (k->r->packed && random_below(3) == 0)
		packed = packed_cluster(k, index, tag);
	if (packed) {
		qcow_put(entry, 8, packed);
		return;
	}
	/* qemu gives each cluster its place when the data file is raw */
	switch (k->r->data_raw ? 5 : random_below(6)) {
	case 0:
		break;
	case 1:
		if (k->r->version > 2 && !k->r->extended)
			qcow_put(entry, 8, Q_ZERO);
		break;
	case 2:
		if (k->r->version > 2 && !k->r->extended)
			qcow_put(entry, 8, data_cluster(k, index, tag) | Q_ZERO);
		break;
	default:
		if (k->r->extended)
			extended_entry(k, index, tag, entry);
		else
			qcow_put(entry, 8, data_cluster(k, index, tag));
	}
}

/* The active L2 table, made or copied if a snapshot has it; 0: it stays as it is. */
static u64 own_table(struct maker *k, u64 i, u64 before)
{
	u64 old = get_be64(k->file + k->l1 + 8 * i), at;

	if (random_below(3) == 0 && !k->r->data_raw)
		return 0;
	at = table(k, k->cluster);
	if (old && old == before)
		memcpy(k->file + at, k->file + old, k->cluster);
	qcow_put(k->file + k->l1 + 8 * i, 8, at);
	return at;
}

/* Change every n-th cluster or so of what is active; `shared` are a snapshot's tables, or 0. */
static void fill(struct maker *k, u64 shared, u64 tag, u64 n)
{
	u64 clusters = (k->r->sectors * SECTOR + k->cluster - 1) / k->cluster;

	for (u64 i = 0; i < k->l1_used; i++) {
		u64 at = own_table(k, i, shared ? get_be64(k->file + shared + 8 * i) : 0);

		for (u64 e = 0; e < k->per_table && at; e++)
			if (i * k->per_table + e < clusters && random_below(n) == 0)
				make_entry(k, i * k->per_table + e, tag,
					   k->file + at + e * k->entry_bytes);
	}
}

/* ---- snapshots ---- */

static void add_snapshot(struct maker *k, u32 n)
{
	u64 l1 = table(k, 8 * k->l1_size);

	memcpy(k->file + l1, k->file + k->l1, 8 * k->l1_size);
	k->snapshot_l1[n] = l1;
	fill(k, l1, STAMP_LATER << n, 3);
}

/* "Snapshots": "Snapshot table entry" */
static void write_snapshots(struct maker *k)
{
	u8 *e = k->file + k->snapshot_table;

	for (u32 n = 0; n < k->r->snapshots; n++, e += 40 + 16 + 8) {
		qcow_put(e, 8, k->snapshot_l1[n]);
		qcow_put(e + 8, 4, k->l1_size);
		qcow_put(e + 12, 2, 1);
		qcow_put(e + 14, 2, 2);
		qcow_put(e + 36, 4, 16);
		qcow_put(e + 48, 8, k->r->sectors * SECTOR);
		e[56] = (u8)('1' + n);
		e[57] = 's';
		e[58] = (u8)('1' + n);
	}
}

/* ---- the header ---- */

static u8 *extension(u8 *p, u32 type, const void *data, u32 length)
{
	qcow_put(p, 4, type);
	qcow_put(p + 4, 4, length);
	memcpy(p + 8, data, length);
	return p + 8 + round_up_to(length, 8);
}

/* "Bitmaps": a directory with one bitmap, all of its bits set or written down. */
static u8 *add_bitmap(struct maker *k, u8 *p)
{
	u64 directory = table(k, 32), t = table(k, 8);
	u8 data[24], *d = k->file + directory;
	u32 bits = 16;

	while (k->r->sectors * SECTOR >> bits > k->cluster * 8)
		bits++;
	qcow_put(k->file + t, 8, random_below(2) ? 1 : table(k, k->cluster));
	qcow_put(d, 8, t);
	qcow_put(d + 8, 4, 1);
	d[16] = 1;
	d[17] = (u8)bits;
	d[19] = 1;
	d[24] = 'b';
	qcow_put(data, 4, 1);
	qcow_put(data + 4, 4, 0);
	qcow_put(data + 8, 8, 32);
	qcow_put(data + 16, 8, directory);
	return extension(p, 0x23852875, data, sizeof(data));
}

static void write_extensions(struct maker *k, u8 *h, u8 *p)
{
	if (k->r->data_file)
		p = extension(p, 0x44415441, "data.raw", 8);
	if (k->r->parent_sectors)
		p = extension(p, 0xe2792aca, "raw", 3);
	if (k->r->bitmap)
		p = add_bitmap(k, p);
	p += 8; /* the end of them */
	if (k->r->parent_sectors) {
		memcpy(p, "parent.raw", 10);
		qcow_put(h + Q_BACKING, 8, (u64)(p - h));
		qcow_put(h + Q_BACKING_LENGTH, 4, 10);
	}
}

static void write_header(struct maker *k)
{
	const struct qcow_recipe *r = k->r;
	u8 *h = k->file;
	u32 length = r->version < 3 ? 72 : random_below(2) ? 104 : 112;

	memset(h, 0, k->cluster);
	memcpy(h, "QFI\xfb", 4);
	qcow_put(h + Q_VERSION, 4, r->version);
	qcow_put(h + Q_CLUSTER_BITS, 4, r->cluster_bits);
	qcow_put(h + Q_SIZE, 8, r->sectors * SECTOR);
	qcow_put(h + Q_L1_SIZE, 4, k->l1_size);
	qcow_put(h + Q_L1, 8, k->l1);
	qcow_put(h + Q_REFCOUNT_TABLE, 8, k->refcount_table);
	qcow_put(h + Q_REFCOUNT_CLUSTERS, 4, k->refcount_clusters);
	qcow_put(h + Q_SNAPSHOTS, 4, r->snapshots);
	qcow_put(h + Q_SNAPSHOT_TABLE, 8, k->snapshot_table);
	if (r->version > 2) {
		qcow_put(h + Q_INCOMPATIBLE, 8,
			 (r->data_file ? Q_DATA_FILE : 0) | (r->extended ? Q_EXTENDED : 0));
		qcow_put(h + Q_COMPATIBLE, 8, r->lazy);
		qcow_put(h + Q_AUTOCLEAR, 8,
			 (r->bitmap ? 1 : 0) | (r->data_raw ? Q_DATA_RAW : 0) |
				 (r->unknown ? 1 << 5 : 0));
		qcow_put(h + Q_REFCOUNT_ORDER, 4, r->refcount_order);
		qcow_put(h + Q_HEADER_LENGTH, 4, length);
	}
	write_extensions(k, h, h + length);
}

/* ---- refcounts ---- */

/* Refcount blocks for all that is used, and for themselves. */
static void place_blocks(struct maker *k)
{
	u64 per = k->cluster * 8 >> k->r->refcount_order;

	for (u64 i = 0; i < k->n; i++) {
		u8 *entry = k->file + k->refcount_table + 8 * (i / per);

		if (!k->used[i] || get_be64(entry))
			continue;
		qcow_put(entry, 8, table(k, k->cluster));
		i = (u64)-1; /* it may lie before */
	}
}

/* The entries of active tables say COPIED where a refcount is 1. */
static void write_copied(struct maker *k, const struct qcow_view *v)
{
	for (u64 i = 0; i < k->l1_size; i++) {
		u8 *l1 = k->file + k->l1 + 8 * i;
		u64 t = get_be64(l1);

		for (u64 n = 0; n < k->per_table && t; n++) {
			u8 *e = k->file + t + n * k->entry_bytes;
			u64 entry = get_be64(e), at = entry & Q_OFFSET;

			if (!(entry & Q_COMPRESSED) && !k->r->data_file && at &&
			    v->refs[at / k->cluster] == 1)
				qcow_put(e, 8, entry | Q_COPIED);
		}
		if (t && v->refs[t / k->cluster] == 1)
			qcow_put(l1, 8, t | Q_COPIED);
	}
}

/* Clusters that nobody uses and that count all the same: they leak. */
static void write_refcounts(struct maker *k)
{
	u64 per = k->cluster * 8 >> k->r->refcount_order;
	struct qcow_view v;

	qcow_look(&v, k->file, k->n * k->cluster);
	for (u64 i = 0; i < k->n; i++) {
		u64 count = v.refs[i] ? v.refs[i] : i < k->r->filler;
		u64 block = get_be64(k->file + k->refcount_table + 8 * (i / per));

		if (count && !block)
			abort();
		if (count)
			qcow_put_refcount(k->file + block, k->r->refcount_order, i % per, count);
		k->used[i] = count != 0;
	}
	write_copied(k, &v);
	qcow_forget(&v);
}

/* ---- the whole ---- */

static void measure(struct maker *k)
{
	const struct qcow_recipe *r = k->r;
	u64 clusters = (r->sectors * SECTOR + (1ULL << r->cluster_bits) - 1) >> r->cluster_bits;
	u64 tables, blocks;

	k->cluster = 1ULL << r->cluster_bits;
	k->entry_bytes = r->extended ? 16 : 8;
	k->per_table = k->cluster / k->entry_bytes;
	k->l1_used = (clusters + k->per_table - 1) / k->per_table;
	k->l1_size = k->l1_used + random_below(3);
	tables = k->l1_used + k->l1_size * 8 / k->cluster + 1;
	k->spread = 24 + (tables + clusters * (r->packed ? 2 : 1)) * (1 + r->snapshots) * 5 / 4;
	if (k->spread < r->filler)
		k->spread = r->filler;
	blocks = (k->spread * 2 << r->refcount_order) / (k->cluster * 8) + 2;
	k->n = k->spread + blocks + r->room + 8;
	k->refcount_clusters = r->filler ? 1 : blocks * 8 / k->cluster + 1;
}

static void make_parent(const struct qcow_recipe *r, struct made *m)
{
	m->parent_size = r->parent_sectors * SECTOR;
	m->parent_sectors = r->parent_sectors;
	if (r->parent_sectors)
		m->parent = must(m->parent_size);
	for (u64 i = 0; i < r->parent_sectors; i++)
		stamp_sector(m->parent + i * SECTOR, STAMP_PARENT | i);
}

static void make_data(struct maker *k)
{
	struct made *m = k->m;

	if (!k->r->data_file)
		return;
	m->data_size = round_up_to(k->r->sectors * SECTOR, (u32)k->cluster);
	m->data = must(m->data_size);
	for (u64 i = 0; i < m->data_size && !k->r->data_raw; i += SECTOR)
		stamp_sector(m->data + i, STAMP_STALE);
}

/* What the disk and its snapshots hold. */
static void read_stamps(struct maker *k)
{
	struct made *m = k->m;
	struct qcow_view v;
	u64 l1, l1_size;

	m->stamps = must(m->sectors * sizeof(u64));
	qcow_look(&v, m->file, m->file_size);
	qcow_read(&v, v.l1, v.l1_size, m->parent_sectors, m->data, m->stamps, m->sectors);
	for (u32 n = 0; n < v.snapshots; n++) {
		m->snapshots[n] = must(m->sectors * sizeof(u64));
		qcow_snapshot(&v, n, &l1, &l1_size);
		qcow_read(&v, l1, l1_size, m->parent_sectors, m->data, m->snapshots[n], m->sectors);
	}
	if (v.problem[0])
		abort();
	qcow_forget(&v);
}

/* May the end of the file cut this cluster off? */
static bool may_be_cut(const struct maker *k, u64 cluster)
{
	struct qcow_view v;
	u8 use;

	qcow_look(&v, k->file, k->n * k->cluster);
	use = v.kinds[cluster];
	qcow_forget(&v);
	return use == USED_NOT || use == USED_DATA;
}

/* The file ends behind what is used and some room; or in the midst of the last cluster. */
static void cut_to_size(struct maker *k)
{
	u64 end = k->n;

	while (!k->used[end - 1])
		end--;
	end += k->r->ragged ? 0 : k->r->room;
	if (end > k->n)
		end = k->n;
	k->m->file_size = end * k->cluster;
	if (k->r->ragged && k->r->ragged < k->cluster && may_be_cut(k, end - 1))
		k->m->file_size -= k->cluster - k->r->ragged;
}

void qcow_make(const struct qcow_recipe *r, struct made *m)
{
	struct maker k = { .r = r, .m = m };

	measure(&k);
	m->sectors = r->sectors;
	k.file = m->file = must(k.n * k.cluster);
	k.used = must(k.n);
	for (u64 i = 0; i < k.n * k.cluster; i += SECTOR)
		stamp_sector(k.file + i, STAMP_STALE);
	make_parent(r, m);
	make_data(&k);
	k.used[0] = 1;
	k.l1 = table(&k, 8 * k.l1_size);
	k.refcount_table = table(&k, k.refcount_clusters * k.cluster);
	fill(&k, 0, STAMP_CHILD, 1);
	for (u32 n = 0; n < r->snapshots; n++)
		add_snapshot(&k, n);
	if (r->snapshots)
		k.snapshot_table = table(&k, r->snapshots * 64);
	write_snapshots(&k);
	write_header(&k);
	for (u32 i = 0; i < r->filler; i++)
		k.used[i] = 1;
	place_blocks(&k);
	write_refcounts(&k);
	cut_to_size(&k);
	read_stamps(&k);
	m->n_snapshots = r->snapshots;
	free(k.used);
}
