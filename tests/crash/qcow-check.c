// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdarg.h>
#include <stdio.h>
#include <zlib.h>

#include "image.h"
#include "qcow-check.h"

#define SECTOR 512

static void __attribute__((format(printf, 2, 3))) wrong(struct qcow_view *v, const char *fmt, ...)
{
	va_list ap;

	if (v->problem[0])
		return;
	va_start(ap, fmt);
	vsnprintf(v->problem, sizeof(v->problem), fmt, ap);
	va_end(ap);
}

void qcow_put(u8 *p, int bytes, u64 value)
{
	while (bytes--) {
		p[bytes] = (u8)value;
		value >>= 8;
	}
}

/* ---- who uses what ---- */

/* [offset, offset + length) is used; false: it is not inside the file. */
static bool use(struct qcow_view *v, u64 offset, u64 length, enum qcow_use kind)
{
	u64 first = offset / v->cluster, last = (offset + length - 1) / v->cluster;

	if (kind != USED_PACKED && offset % v->cluster) {
		wrong(v, "kind %d at %#llx is not aligned", kind, (unsigned long long)offset);
		return false;
	}
	if (offset >= v->size ||
	    (kind != USED_DATA && kind != USED_PACKED && length > v->size - offset)) {
		wrong(v, "kind %d at %#llx is outside the file", kind, (unsigned long long)offset);
		return false;
	}
	for (u64 i = first; i <= last && i < v->clusters; i++) {
		if (v->kinds[i] && v->kinds[i] != kind)
			wrong(v, "cluster %llu is used as %d and %d", (unsigned long long)i,
			      v->kinds[i], kind);
		v->kinds[i] = kind;
		v->refs[i]++;
	}
	return true;
}

/* An active table of pointers may not point to the same place twice. */
static void use_once(struct qcow_view *v, u64 offset)
{
	if (v->seen[offset / v->cluster]++)
		wrong(v, "cluster %llu is used twice", (unsigned long long)(offset / v->cluster));
}

/* "Compressed Clusters Descriptor" */
static void packed_range(const struct qcow_view *v, u64 entry, u64 *offset, u64 *length)
{
	u32 x = 62 - (v->cluster_bits - 8);
	u64 sectors = ((entry & ~(Q_COPIED | Q_COMPRESSED)) >> x) + 1;

	*offset = entry & ((1ULL << x) - 1);
	*length = sectors * SECTOR - *offset % SECTOR;
	if (*offset<v->size && * length> v->size - *offset)
		*length = v->size - *offset;
}

static u64 refcount_at(const u8 *block, u32 order, u64 i)
{
	u64 value = 0;

	if (order < 3)
		return block[(i << order) / 8] >> ((i << order) % 8) & ((1U << (1U << order)) - 1);
	for (u32 k = 0; k < 1U << (order - 3); k++)
		value = value << 8 | block[(i << (order - 3)) + k];
	return value;
}

void qcow_put_refcount(u8 *block, u32 order, u64 i, u64 value)
{
	u32 bits = 1U << order;

	if (order < 3)
		block[i * bits / 8] |= (u8)(value << i * bits % 8);
	else
		qcow_put(block + i * bits / 8, (int)bits / 8, value);
}

static void copied(struct qcow_view *v, u64 at, u64 entry, u64 refcount)
{
	if ((refcount == 1) != !!(entry & Q_COPIED))
		wrong(v, "the entry at %#llx is %#llx, its refcount %llu", (unsigned long long)at,
		      (unsigned long long)entry, (unsigned long long)refcount);
}

/* "Extended L2 Entries" */
static void check_bitmap(struct qcow_view *v, u64 at, u64 entry, u64 bits)
{
	u32 placed = (u32)bits, zeros = (u32)(bits >> 32);

	bool packed = entry & Q_COMPRESSED;
	bool place = entry & Q_OFFSET || (v->data_file && entry & Q_COPIED);

	if (packed ? bits != 0 : placed & zeros || (placed && !place) || entry & Q_ZERO)
		wrong(v, "the entry at %#llx is %#llx with the bits %#llx", (unsigned long long)at,
		      (unsigned long long)entry, (unsigned long long)bits);
}

static void look_at_entry(struct qcow_view *v, u64 at, u64 guest, bool active)
{
	u64 entry = get_be64(v->file + at), offset = entry & Q_OFFSET, length;

	if (v->extended)
		check_bitmap(v, at, entry, get_be64(v->file + at + 8));
	if (entry & Q_COMPRESSED) {
		packed_range(v, entry, &offset, &length);
		use(v, offset, length, USED_PACKED);
		if (entry & Q_COPIED || v->data_file)
			wrong(v, "the compressed entry at %#llx cannot be", (unsigned long long)at);
		return;
	}
	if (entry & Q_ZERO && v->version < 3)
		wrong(v, "a zero flag at %#llx in version 2", (unsigned long long)at);
	if (!offset && !(v->data_file && entry & Q_COPIED)) {
		if (entry & ~Q_ZERO)
			wrong(v, "the entry at %#llx is %#llx", (unsigned long long)at,
			      (unsigned long long)entry);
		return;
	}
	if (v->data_file) {
		copied(v, at, entry, 1);
		if (offset != guest)
			wrong(v, "guest offset %#llx is at %#llx of the data file",
			      (unsigned long long)guest, (unsigned long long)offset);
		return;
	}
	if (!use(v, offset, v->cluster, USED_DATA) || !active)
		return;
	use_once(v, offset);
	copied(v, at, entry, v->refcounts[offset / v->cluster]);
}

static void look_at_l1(struct qcow_view *v, u64 l1, u64 l1_size, bool active)
{
	if (!use(v, l1, l1_size * 8, USED_L1))
		return;
	for (u64 i = 0; i < l1_size; i++) {
		u64 entry = get_be64(v->file + l1 + 8 * i), table = entry & Q_OFFSET;

		if (!entry || !use(v, table, v->cluster, USED_L2))
			continue;
		if (active) {
			use_once(v, table);
			copied(v, l1 + 8 * i, entry, v->refcounts[table / v->cluster]);
		}
		for (u64 k = 0; k < v->per_table; k++)
			look_at_entry(v, table + k * v->entry_bytes,
				      (i * v->per_table + k) * v->cluster, active);
	}
}

/* ---- refcounts ---- */

static void load_block(struct qcow_view *v, u64 block, u64 n)
{
	u64 per = v->cluster * 8 >> v->refcount_order;

	if (!use(v, block, v->cluster, USED_REFCOUNT_BLOCK))
		return;
	for (u64 k = 0; k < per; k++) {
		u64 count = refcount_at(v->file + block, v->refcount_order, k);

		if (n * per + k < v->clusters)
			v->refcounts[n * per + k] = count;
		else if (count)
			wrong(v, "a refcount for cluster %llu", (unsigned long long)(n * per + k));
	}
}

static void load_refcounts(struct qcow_view *v)
{
	if (!use(v, v->refcount_table, v->refcount_clusters * v->cluster, USED_REFCOUNT_TABLE))
		return;
	for (u64 i = 0; i < v->refcount_clusters * v->cluster / 8; i++) {
		u64 block = get_be64(v->file + v->refcount_table + 8 * i);

		if (block)
			load_block(v, block, i);
	}
}

/* ---- snapshots and bitmaps ---- */

/* "Snapshots": the n-th entry of the table; one behind the last is its end. */
static u64 snapshot_at(const struct qcow_view *v, u32 n)
{
	u64 at = get_be64(v->file + Q_SNAPSHOT_TABLE);

	while (n--)
		at = round_up_to(at + 40 + get_be32(v->file + at + 36) +
					 get_be16(v->file + at + 12) + get_be16(v->file + at + 14),
				 8);
	return at;
}

void qcow_snapshot(const struct qcow_view *v, u32 n, u64 *l1, u64 *l1_size)
{
	u64 at = snapshot_at(v, n);

	*l1 = get_be64(v->file + at);
	*l1_size = get_be32(v->file + at + 8);
}

static void look_at_snapshots(struct qcow_view *v)
{
	u64 l1, l1_size, table = get_be64(v->file + Q_SNAPSHOT_TABLE);

	if (!v->snapshots)
		return;
	use(v, table, snapshot_at(v, v->snapshots) - table, USED_SNAPSHOTS);
	for (u32 n = 0; n < v->snapshots; n++) {
		qcow_snapshot(v, n, &l1, &l1_size);
		look_at_l1(v, l1, l1_size, false);
	}
}

/* "Bitmaps extension": they are there, whatever the autoclear bit says. */
static void look_at_bitmaps(struct qcow_view *v, const u8 *extension)
{
	u64 directory = get_be64(extension + 16), table = get_be64(v->file + directory);
	u32 size = get_be32(v->file + directory + 8);

	use(v, directory, get_be64(extension + 8), USED_BITMAP);
	use(v, table, 8 * size, USED_BITMAP);
	for (u32 i = 0; i < size; i++)
		if (get_be64(v->file + table + 8 * i) & Q_OFFSET)
			use(v, get_be64(v->file + table + 8 * i) & Q_OFFSET, v->cluster,
			    USED_BITMAP);
}

static void look_at_extensions(struct qcow_view *v)
{
	u64 at = v->version < 3 ? 72 : get_be32(v->file + Q_HEADER_LENGTH);

	while (at + 8 < v->cluster && get_be32(v->file + at)) {
		if (get_be32(v->file + at) == 0x23852875)
			look_at_bitmaps(v, v->file + at + 8);
		at = round_up_to(at + 8 + get_be32(v->file + at + 4), 8);
	}
}

/* ---- the whole ---- */

static void *must(u64 size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

static void look_at_header(struct qcow_view *v, const u8 *f)
{
	u64 incompatible;

	v->version = get_be32(f + Q_VERSION);
	incompatible = v->version < 3 ? 0 : get_be64(f + Q_INCOMPATIBLE);
	v->autoclear = v->version < 3 ? 0 : get_be64(f + Q_AUTOCLEAR);
	v->refcount_order = v->version < 3 ? 4 : get_be32(f + Q_REFCOUNT_ORDER);
	v->data_file = incompatible & Q_DATA_FILE;
	v->extended = incompatible & Q_EXTENDED;
	v->cluster_bits = get_be32(f + Q_CLUSTER_BITS);
	v->cluster = 1ULL << v->cluster_bits;
	v->entry_bytes = v->extended ? 16 : 8;
	v->per_table = v->cluster / v->entry_bytes;
	v->virtual_size = get_be64(f + Q_SIZE);
	v->l1 = get_be64(f + Q_L1);
	v->l1_size = get_be32(f + Q_L1_SIZE);
	v->refcount_table = get_be64(f + Q_REFCOUNT_TABLE);
	v->refcount_clusters = get_be32(f + Q_REFCOUNT_CLUSTERS);
	v->snapshots = get_be32(f + Q_SNAPSHOTS);
}

void qcow_look(struct qcow_view *v, const u8 *file, u64 size)
{
	*v = (struct qcow_view){ .file = file, .size = size };
	look_at_header(v, file);
	v->clusters = (size + v->cluster - 1) / v->cluster;
	v->refcounts = must(v->clusters * sizeof(*v->refcounts));
	v->refs = must(v->clusters * sizeof(*v->refs));
	v->kinds = must(v->clusters);
	v->seen = must(v->clusters);
	use(v, 0, v->cluster, USED_HEADER);
	load_refcounts(v);
	look_at_l1(v, v->l1, v->l1_size, true);
	look_at_snapshots(v);
	look_at_extensions(v);
}

void qcow_forget(struct qcow_view *v)
{
	free(v->refcounts);
	free(v->refs);
	free(v->kinds);
	free(v->seen);
}

void qcow_check_counts(struct qcow_view *v)
{
	for (u64 i = 0; i < v->clusters; i++)
		if (v->refcounts[i] < v->refs[i])
			wrong(v, "cluster %llu (kind %d) is used %u times, its refcount is %llu",
			      (unsigned long long)i, v->kinds[i], v->refs[i],
			      (unsigned long long)v->refcounts[i]);
}

u64 qcow_leaks(const struct qcow_view *v)
{
	u64 n = 0;

	for (u64 i = 0; i < v->clusters; i++)
		n += v->refcounts[i] > v->refs[i];
	return n;
}

/* ---- contents ---- */

bool qcow_inflate(const u8 *stream, u64 length, u8 *out, u64 cluster)
{
	z_stream z = { .next_in = (u8 *)stream,
		       .avail_in = (uInt)length,
		       .next_out = out,
		       .avail_out = (uInt)cluster };
	int ret;

	if (inflateInit2(&z, -12) != Z_OK)
		abort();
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
}

/* The bytes of a cluster at this offset of the file; past its end there are zeros. */
static void standard(const struct qcow_view *v, u64 offset, const u8 *data, u8 *out)
{
	u64 left = offset < v->size ? v->size - offset : 0;

	memset(out, 0, v->cluster);
	if (data)
		memcpy(out, data + offset, v->cluster);
	else
		memcpy(out, v->file + offset, left < v->cluster ? left : v->cluster);
}

/* Where sector `i` of a cluster has its contents. */
enum where { HERE, ZEROS, ABOVE };

static enum where where(const struct qcow_view *v, u64 entry, u64 bits, u64 i)
{
	u64 sub = i * 32 / (v->cluster / SECTOR);

	if (entry & Q_COMPRESSED)
		return HERE;
	if (v->extended)
		return bits >> sub & 1 ? HERE : bits >> (32 + sub) & 1 ? ZEROS : ABOVE;
	if (entry & Q_ZERO)
		return ZEROS;
	return entry & Q_OFFSET || (v->data_file && entry & Q_COPIED) ? HERE : ABOVE;
}

static void contents(struct qcow_view *v, u64 entry, const u8 *data, u8 *out)
{
	u64 offset, length;

	memset(out, 0, v->cluster);
	if (entry & Q_COMPRESSED) {
		packed_range(v, entry, &offset, &length);
		if (!qcow_inflate(v->file + offset, length, out, v->cluster))
			wrong(v, "the stream at %#llx is damaged", (unsigned long long)offset);
	} else if (entry & Q_OFFSET || (v->data_file && entry & Q_COPIED)) {
		standard(v, entry & Q_OFFSET, data, out);
	}
}

void qcow_read(struct qcow_view *v, u64 l1, u64 l1_size, u64 parent_sectors, const u8 *data,
	       u64 *stamps, u64 sectors)
{
	u64 per = v->cluster / SECTOR;
	u8 *buffer = must(v->cluster);

	for (u64 first = 0; first < sectors; first += per) {
		u64 index = first / per / v->per_table;
		u64 table = index < l1_size ? get_be64(v->file + l1 + 8 * index) & Q_OFFSET : 0;
		u64 at = table + first / per % v->per_table * v->entry_bytes;
		u64 entry = table ? get_be64(v->file + at) : 0;
		u64 bits = table && v->extended ? get_be64(v->file + at + 8) : 0;

		contents(v, entry, data, buffer);
		for (u64 i = 0; i < per && first + i < sectors; i++) {
			enum where w = where(v, entry, bits, i);

			stamps[first + i] = 0;
			if (w == HERE)
				stamps[first + i] = stamp_of(buffer + i * SECTOR);
			else if (w == ABOVE && first + i < parent_sectors)
				stamps[first + i] = STAMP_PARENT | (first + i);
		}
	}
	free(buffer);
}
