// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2, versions 2 and 3: QEMU, docs/interop/qcow2.txt, "Header" and "Header extensions". Limits
 * that the text does not give are qemu's.
 */
#include "qcow.h"

#define HEADER_BYTES 112 /* as far as fields are known */
#define MAGIC	     0x514649fb
#define V2_BYTES     72
#define V3_BYTES     104

/* "Header": offsets of the fields in bytes. */
enum header_field {
	H_VERSION = 4,
	H_BACKING_OFFSET = 8,
	H_BACKING_SIZE = 16,
	H_CLUSTER_BITS = 20,
	H_SIZE = 24,
	H_CRYPT_METHOD = 32,
	H_L1_SIZE = 36,
	H_L1_OFFSET = 40,
	H_REFCOUNT_TABLE = 48,
	H_REFCOUNT_TABLE_CLUSTERS = 56,
	H_SNAPSHOTS = 60,
	H_SNAPSHOTS_OFFSET = 64,
	H_INCOMPATIBLE = 72,
	H_COMPATIBLE = 80,
	H_AUTOCLEAR = 88,
	H_REFCOUNT_ORDER = 96,
	H_HEADER_LENGTH = 100,
	H_COMPRESSION = 104,
};

enum feature {
	INCOMPATIBLE_DIRTY = 1 << 0,
	INCOMPATIBLE_CORRUPT = 1 << 1,
	INCOMPATIBLE_DATA_FILE = 1 << 2,
	INCOMPATIBLE_COMPRESSION = 1 << 3,
	INCOMPATIBLE_EXTENDED_L2 = 1 << 4,
	INCOMPATIBLE_KNOWN = (1 << 5) - 1,
	COMPATIBLE_LAZY = 1 << 0,
	AUTOCLEAR_BITMAPS = 1 << 0,
	AUTOCLEAR_RAW_DATA = 1 << 1,
};

enum extension {
	EXT_END = 0,
	EXT_BACKING_FORMAT = 0xe2792aca,
	EXT_FEATURE_NAMES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
	EXT_DATA_FILE = 0x44415441,
};

#define CLUSTER_BITS_MIN   9
#define CLUSTER_BITS_MAX   21
#define L1_BYTES_MAX	   (32ULL << 20)
#define REFCOUNT_BYTES_MAX (8ULL << 20)
#define SNAPSHOTS_MAX	   65536
#define BITMAPS_MAX	   65535
#define BACKING_NAME_MAX   1023
#define FEATURE_NAME_BYTES 48
#define EXTENSIONS_MAX	   1024

/* The header, zeros behind its end, and what the extensions say. */
struct header {
	u8 raw[HEADER_BYTES];
	u32 version;
	u64 incompatible, compatible, autoclear;
	u64 names_offset; /* feature name table */
	u32 names_length;
	u32 bitmaps_at;			  /* the extension */
	u64 bitmaps_offset, bitmaps_size; /* the directory */
	u32 bitmaps;
};

static int bad(u32 field, struct vdisk_error what, int code, struct vdisk_error *err)
{
	what.offset = field;
	if (code == -EUCLEAN && !what.advice)
		what.advice = "repair a copy of the image first (qemu-img check -r all)";
	return vdisk_fail(err, code, what);
}

/* ---- the header's own fields ---- */

static int read_header(struct vdisk *vd, struct header *h, struct vdisk_error *err)
{
	size_t n = vd->io.size < HEADER_BYTES ? vd->io.size : HEADER_BYTES;
	int ret = vdisk_read(&vd->io, 0, h->raw, n);

	if (ret)
		return ret;
	h->version = get_be32(h->raw + H_VERSION);
	if (get_be32(h->raw) != MAGIC || n < V2_BYTES)
		return bad(0,
			   (struct vdisk_error){ .field = "header.magic",
						 .problem = "is not that of a qcow2 header",
						 .found = get_be32(h->raw),
						 .expected = MAGIC,
						 .show = VDISK_SHOW_HEX },
			   -EUCLEAN, err);
	if (h->version != 2 && h->version != 3)
		return bad(H_VERSION,
			   (struct vdisk_error){ .field = "header.version",
						 .problem = "is not known",
						 .advice = "convert it: qemu-img convert -O qcow2",
						 .found = h->version,
						 .expected = 3,
						 .show = VDISK_SHOW_DECIMAL },
			   -EOPNOTSUPP, err);
	if (h->version == 2)
		memset(h->raw + V2_BYTES, 0, HEADER_BYTES - V2_BYTES);
	vd->qcow.version = vd->info.version = h->version;
	return 0;
}

static int use_cluster_size(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u32 bits = get_be32(h->raw + H_CLUSTER_BITS);

	if (bits < CLUSTER_BITS_MIN || bits > CLUSTER_BITS_MAX)
		return bad(H_CLUSTER_BITS,
			   (struct vdisk_error){ .field = "header.cluster_bits",
						 .problem = "is not between 9 and 21",
						 .found = bits,
						 .expected = 16,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->qcow.cluster_bits = bits;
	vd->qcow.entry_bytes = 8;
	vd->unit_shift = bits;
	vd->info.block_size = 1U << bits;
	return 0;
}

/* How long the header is; then the extensions begin. */
static u32 header_length(const struct header *h)
{
	return h->version == 2 ? V2_BYTES : get_be32(h->raw + H_HEADER_LENGTH);
}

static int check_header_length(struct vdisk *vd, struct header *h, struct vdisk_error *err)
{
	u32 length = header_length(h);

	if (h->version == 3 &&
	    (length < V3_BYTES || length > vd->info.block_size || length > vd->io.size))
		return bad(H_HEADER_LENGTH,
			   (struct vdisk_error){ .field = "header.header_length",
						 .problem = "is not between 104 and the size of a "
							    "cluster",
						 .found = length,
						 .expected = V3_BYTES,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	if (length < HEADER_BYTES)
		memset(h->raw + length, 0, HEADER_BYTES - length);
	h->incompatible = get_be64(h->raw + H_INCOMPATIBLE);
	h->compatible = get_be64(h->raw + H_COMPATIBLE);
	h->autoclear = get_be64(h->raw + H_AUTOCLEAR);
	return 0;
}

static int use_size(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u64 size = round_down_to(get_be64(h->raw + H_SIZE), VDISK_SECTOR);
	struct qcow *q = &vd->qcow;
	u64 per_table;

	q->l2_bits = q->cluster_bits - (q->entry_bytes == 16 ? 4 : 3);
	per_table = 1ULL << (q->cluster_bits + q->l2_bits);
	q->l1_entries = size ? ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;
	if (!size || size > INT64_MAX - per_table || q->l1_entries > L1_BYTES_MAX / 8)
		return bad(H_SIZE,
			   (struct vdisk_error){ .field = "header.size",
						 .problem = "is zero or larger than tables of this "
							    "cluster size can map",
						 .found = get_be64(h->raw + H_SIZE),
						 .expected = L1_BYTES_MAX / 8 * per_table,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->info.virtual_size = size;
	return 0;
}

static int check_crypt(const struct header *h, struct vdisk_error *err)
{
	u32 method = get_be32(h->raw + H_CRYPT_METHOD);

	if (!method)
		return 0;
	return bad(H_CRYPT_METHOD,
		   (struct vdisk_error){
			   .field = "header.crypt_method",
			   .problem = method == 1   ? "is AES: encrypted images are not supported"
				      : method == 2 ? "is LUKS: encrypted images are not supported"
						    : "is not known",
			   .advice = "decrypt a copy (qemu-img convert), and encrypt inside of the "
				     "disk instead (cryptsetup)",
			   .found = method,
			   .show = VDISK_SHOW_DECIMAL },
		   -EOPNOTSUPP, err);
}

static int use_refcount_order(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u32 order = h->version == 2 ? 4 : get_be32(h->raw + H_REFCOUNT_ORDER);

	if (order > 6)
		return bad(H_REFCOUNT_ORDER,
			   (struct vdisk_error){ .field = "header.refcount_order",
						 .problem = "is larger than 6",
						 .found = order,
						 .expected = 4,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->qcow.refcount_order = order;
	vd->info.refcount_bits = 1U << order;
	return 0;
}

/* ---- extensions ---- */

static int bad_extension(u64 at, u32 found, u32 expected, struct vdisk_error *err)
{
	return bad((u32)at,
		   (struct vdisk_error){ .field = "header extension",
					 .problem = "is one of too many, or does not have a length "
						    "that it can have",
					 .found = found,
					 .expected = expected,
					 .show = VDISK_SHOW_DECIMAL },
		   -EUCLEAN, err);
}

static int use_bitmaps(struct vdisk *vd, struct header *h, u64 at, u32 length,
		       struct vdisk_error *err)
{
	u8 raw[24];
	int ret;

	if (length != sizeof(raw))
		return bad_extension(at, length, sizeof(raw), err);
	ret = vdisk_read(&vd->io, at, raw, sizeof(raw));
	h->bitmaps_at = (u32)at;
	h->bitmaps = get_be32(raw);
	h->bitmaps_size = get_be64(raw + 8);
	h->bitmaps_offset = get_be64(raw + 16);
	return ret;
}

/* Printable ASCII of raw, as far as there is room; the rest of it are question marks. */
static void sanitize(const u8 *raw, size_t length, char *text, size_t size)
{
	size_t i;

	for (i = 0; i < length && i < size - 1 && raw[i]; i++)
		text[i] = raw[i] >= ' ' && raw[i] < 0x7f ? (char)raw[i] : '?';
	text[i] = '\0';
}

static int use_backing_format(struct vdisk *vd, u64 at, u32 length, struct vdisk_error *err)
{
	u8 raw[sizeof(vd->info.backing_format) - 1];
	int ret;

	if (length > sizeof(raw))
		return bad((u32)at,
			   (struct vdisk_error){ .field = "backing file format",
						 .problem = "is longer than the name of any format",
						 .found = length,
						 .expected = sizeof(raw),
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	ret = vdisk_read(&vd->io, at, raw, length);
	if (!ret)
		sanitize(raw, length, vd->info.backing_format, sizeof(vd->info.backing_format));
	return ret;
}

static int use_extension(struct vdisk *vd, struct header *h, u32 type, u64 at, u32 length,
			 struct vdisk_error *err)
{
	switch (type) {
	case EXT_BACKING_FORMAT:
		return use_backing_format(vd, at, length, err);
	case EXT_FEATURE_NAMES:
		h->names_offset = at;
		h->names_length = length;
		return 0;
	case EXT_BITMAPS:
		return use_bitmaps(vd, h, at, length, err);
	case EXT_DATA_FILE:
		vd->qcow.data_name_offset = at;
		vd->qcow.data_name_length = length;
		return 0;
	}
	return 0; /* unknown ones say nothing that has to be known */
}

static int walk_extensions(struct vdisk *vd, struct header *h, struct vdisk_error *err)
{
	u64 backing = get_be64(h->raw + H_BACKING_OFFSET);
	u64 at = header_length(h), end = backing ? backing : vd->info.block_size;
	u8 raw[8];

	if (end > vd->info.block_size)
		end = vd->info.block_size;
	if (end > vd->io.size)
		end = vd->io.size;
	for (u32 n = 0; at + sizeof(raw) <= end; n++) {
		u32 type, length;
		int ret = n < EXTENSIONS_MAX ? vdisk_read(&vd->io, at, raw, sizeof(raw))
					     : bad_extension(at, n, EXTENSIONS_MAX, err);

		if (ret)
			return ret;

		type = get_be32(raw);
		length = get_be32(raw + 4);
		if (type == EXT_END)
			return 0;
		at += sizeof(raw);
		if (length > end - at)
			return bad_extension(at, length, (u32)(end - at), err);
		ret = use_extension(vd, h, type, at, length, err);
		if (ret)
			return ret;
		at += round_up_to(length, 8);
	}
	return 0;
}

/* ---- features ---- */

/* The image's own word for an incompatible feature. */
static void name_feature(struct vdisk *vd, const struct header *h, u32 bit,
			 struct vdisk_error *what)
{
	u8 raw[FEATURE_NAME_BYTES];

	for (u32 at = 0; at + sizeof(raw) <= h->names_length; at += sizeof(raw)) {
		if (vdisk_read(&vd->io, h->names_offset + at, raw, sizeof(raw)))
			return;
		if (raw[0] == 0 && raw[1] == bit) {
			sanitize(raw + 2, sizeof(raw) - 2, what->detail, sizeof(what->detail));
			return;
		}
	}
}

/* Before all else: what the rest means is not known either. Only the name is asked for. */
static int refuse_unknown(struct vdisk *vd, struct header *h, struct vdisk_error *err)
{
	u64 unknown = h->incompatible & ~(u64)INCOMPATIBLE_KNOWN;
	struct vdisk_error what = { .field = "header.incompatible_features",
				    .problem = "has a feature that is not known",
				    .advice = "convert it: qemu-img convert -O qcow2",
				    .found = h->incompatible,
				    .expected = h->incompatible & INCOMPATIBLE_KNOWN,
				    .show = VDISK_SHOW_HEX };
	u32 bit = 0;

	if (!unknown)
		return 0;
	while (!(unknown >> bit & 1))
		bit++;
	walk_extensions(vd, h, NULL); /* as far as it goes */
	name_feature(vd, h, bit, &what);
	return bad(H_INCOMPATIBLE, what, -EOPNOTSUPP, err);
}

static int use_compression(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u8 type = h->raw[H_COMPRESSION];

	if (type > 1)
		return bad(H_COMPRESSION,
			   (struct vdisk_error){ .field = "header.compression_type",
						 .problem = "is not known",
						 .advice = "convert it: qemu-img convert -O qcow2",
						 .found = type,
						 .expected = 1,
						 .show = VDISK_SHOW_DECIMAL },
			   -EOPNOTSUPP, err);
	if (type != !!(h->incompatible & INCOMPATIBLE_COMPRESSION))
		return bad(H_COMPRESSION,
			   (struct vdisk_error){ .field = "header.compression_type",
						 .problem = "is not what the incompatible features "
							    "say",
						 .found = type,
						 .expected = !type,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->info.compression = type ? "zstd" : "zlib";
	return 0;
}

static int use_extended_l2(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;

	if (!(h->incompatible & INCOMPATIBLE_EXTENDED_L2))
		return 0;
	if (q->cluster_bits < 14)
		return bad(H_CLUSTER_BITS,
			   (struct vdisk_error){ .field = "header.cluster_bits",
						 .problem = "is too small for subclusters",
						 .found = q->cluster_bits,
						 .expected = 14,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	q->entry_bytes = 16;
	vd->info.subcluster_size = vd->info.block_size / QCOW_SUBCLUSTERS;
	return 0;
}

static int use_features(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct vdisk_info *info = &vd->info;
	struct qcow *q = &vd->qcow;
	int ret = use_compression(vd, h, err);

	if (!ret)
		ret = use_extended_l2(vd, h, err);
	if (ret)
		return ret;
	info->dirty = !!(h->incompatible & INCOMPATIBLE_DIRTY);
	info->corrupt = !!(h->incompatible & INCOMPATIBLE_CORRUPT);
	vd->readonly = info->dirty || info->corrupt;
	q->has_data = h->incompatible & INCOMPATIBLE_DATA_FILE;
	q->data_raw = q->has_data && h->autoclear & AUTOCLEAR_RAW_DATA;
	info->needs_data = q->has_data;
	info->data_raw = q->data_raw;
	info->lazy_refcounts = !!(h->compatible & COMPATIBLE_LAZY);
	q->autoclear = h->autoclear & ~(u64)(q->data_raw ? AUTOCLEAR_RAW_DATA : 0);
	return 0;
}

/* What the devices can read is not smaller than what has a place of its own. */
static int check_block(const struct vdisk *vd, struct vdisk_error *err)
{
	u32 least = vd->info.subcluster_size ? vd->info.subcluster_size : vd->info.block_size;

	if (!vd->meta || vd->granule <= least)
		return 0;
	return bad(H_CLUSTER_BITS,
		   (struct vdisk_error){ .field = "header.cluster_bits",
					 .problem =
						 "makes clusters or subclusters that are smaller "
						 "than the logical blocks of the device",
					 .advice = "convert it with larger ones: qemu-img convert "
						   "-O qcow2 -o cluster_size=2M",
					 .found = least,
					 .expected = vd->granule,
					 .show = VDISK_SHOW_DECIMAL },
		   -EOPNOTSUPP, err);
}

/* ---- tables ---- */

/* A table of `bytes` at a field's offset: on a cluster, in the file, in nobody's way. */
static int use_table(struct vdisk *vd, u32 field, const char *name, u64 offset, u64 bytes,
		     struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u64 end = 0;

	if (!offset || offset & (vd->info.block_size - 1) || add_overflows(offset, bytes, &end) ||
	    end > vd->io.size || !vdisk_qcow_sound(vd, offset, bytes))
		return bad(field,
			   (struct vdisk_error){ .field = name,
						 .problem =
							 "does not point at a table on a cluster "
							 "boundary inside the file, apart from "
							 "the others",
						 .found = offset,
						 .expected = vd->info.block_size,
						 .show = VDISK_SHOW_HEX },
			   -EUCLEAN, err);
	q->fixed[q->n_fixed++] = (struct vdisk_range){ offset, bytes };
	if (q->fixed_end < end)
		q->fixed_end = end;
	return 0;
}

static int use_l1(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u32 entries = get_be32(h->raw + H_L1_SIZE);

	if (entries < q->l1_entries || entries > L1_BYTES_MAX / 8)
		return bad(H_L1_SIZE,
			   (struct vdisk_error){ .field = "header.l1_size",
						 .problem =
							 "is too small for the size of the disk, "
							 "or above 4194304",
						 .found = entries,
						 .expected = q->l1_entries,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	q->l1_offset = get_be64(h->raw + H_L1_OFFSET);
	return use_table(vd, H_L1_OFFSET, "header.l1_table_offset", q->l1_offset, 8ULL * entries,
			 err);
}

static int use_refcount_table(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u32 clusters = get_be32(h->raw + H_REFCOUNT_TABLE_CLUSTERS);

	if (!clusters || clusters > REFCOUNT_BYTES_MAX >> q->cluster_bits)
		return bad(H_REFCOUNT_TABLE_CLUSTERS,
			   (struct vdisk_error){ .field = "header.refcount_table_clusters",
						 .problem = "is zero or more than 8 MiB",
						 .found = clusters,
						 .expected = 1,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	q->refcount_table = get_be64(h->raw + H_REFCOUNT_TABLE);
	q->refcount_table_clusters = clusters;
	return use_table(vd, H_REFCOUNT_TABLE, "header.refcount_table_offset", q->refcount_table,
			 (u64)clusters << q->cluster_bits, err);
}

static int use_snapshots(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u32 n = get_be32(h->raw + H_SNAPSHOTS);
	int ret;

	if (!n)
		return 0;
	if (q->has_data)
		return bad(H_SNAPSHOTS,
			   (struct vdisk_error){ .field = "header.nb_snapshots",
						 .problem = "is not for images with a data file",
						 .found = n,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	if (n > SNAPSHOTS_MAX)
		return bad(H_SNAPSHOTS,
			   (struct vdisk_error){ .field = "header.nb_snapshots",
						 .problem = "is above 65536",
						 .found = n,
						 .expected = SNAPSHOTS_MAX,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->info.snapshots = n;
	q->snapshots_offset = get_be64(h->raw + H_SNAPSHOTS_OFFSET);
	q->snapshots_end = q->snapshots_offset;
	ret = vdisk_qcow_find_snapshots_end(vd, err);
	return ret ? ret
		   : use_table(vd, H_SNAPSHOTS_OFFSET, "header.snapshots_offset",
			       q->snapshots_offset, q->snapshots_end - q->snapshots_offset, err);
}

/* Without its autoclear bit the extension is out of date. */
static int use_bitmap_directory(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;

	if (!h->bitmaps || !(h->autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	if (h->bitmaps > BITMAPS_MAX)
		return bad(h->bitmaps_at,
			   (struct vdisk_error){ .field = "bitmaps extension",
						 .problem = "has more than 65535 bitmaps",
						 .found = h->bitmaps,
						 .expected = BITMAPS_MAX,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	vd->info.bitmaps = h->bitmaps;
	q->bitmaps_directory = h->bitmaps_offset;
	q->bitmaps_directory_size = h->bitmaps_size;
	return use_table(vd, h->bitmaps_at, "bitmaps extension", h->bitmaps_offset, h->bitmaps_size,
			 err);
}

static int use_backing(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u64 offset = get_be64(h->raw + H_BACKING_OFFSET);
	u32 length = get_be32(h->raw + H_BACKING_SIZE);

	if (!offset)
		return 0;
	if (length > BACKING_NAME_MAX || offset > vd->info.block_size ||
	    length > vd->info.block_size - offset || offset + length > vd->io.size)
		return bad(H_BACKING_OFFSET,
			   (struct vdisk_error){ .field = "header.backing_file_offset",
						 .problem =
							 "does not point at a name of up to 1023 "
							 "bytes in the first cluster",
						 .found = offset,
						 .expected = V3_BYTES,
						 .show = VDISK_SHOW_DECIMAL },
			   -EUCLEAN, err);
	q->has_parent = length;
	q->backing_offset = offset;
	q->backing_length = length;
	vd->info.needs_parent = q->has_parent;
	return 0;
}

static int use_tables(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	int ret;

	q->fixed[q->n_fixed++] = (struct vdisk_range){ 0, vd->info.block_size };
	q->fixed_end = vd->info.block_size;
	ret = use_l1(vd, h, err);
	if (!ret)
		ret = use_refcount_table(vd, h, err);
	if (!ret)
		ret = use_snapshots(vd, h, err);
	if (!ret)
		ret = use_bitmap_directory(vd, h, err);
	return ret;
}

static int use_header(struct vdisk *vd, struct header *h, struct vdisk_error *err)
{
	int ret = use_cluster_size(vd, h, err);

	if (!ret)
		ret = check_header_length(vd, h, err);
	if (!ret)
		ret = refuse_unknown(vd, h, err);
	if (!ret)
		ret = check_crypt(h, err);
	if (!ret)
		ret = use_refcount_order(vd, h, err);
	if (!ret)
		ret = use_backing(vd, h, err);
	if (!ret)
		ret = walk_extensions(vd, h, err);
	if (!ret)
		ret = use_features(vd, h, err);
	if (!ret)
		ret = use_size(vd, h, err);
	if (!ret)
		ret = use_tables(vd, h, err);
	return ret ? ret : check_block(vd, err);
}

static int qcow2_open(struct vdisk *vd, const struct vdisk_options *options,
		      struct vdisk_error *err)
{
	struct header *h = vdisk_zalloc(sizeof(*h));
	int ret;

	if (!h)
		return -ENOMEM;
	ret = read_header(vd, h, err);
	if (!ret)
		ret = use_header(vd, h, err);
	vdisk_free(h);
	if (!ret && options->snapshot)
		ret = vdisk_qcow_use_snapshot(vd, options->snapshot, err);
	vdisk_qcow_use_plain(vd);
	return ret;
}

const struct vdisk_format vdisk_qcow2 = {
	.name = "qcow2",
	.open = qcow2_open,
	.map = vdisk_qcow_map,
	.begin = vdisk_qcow_begin_writing,
	.end = vdisk_qcow_end,
	.scan = vdisk_qcow_scan,
	.room = vdisk_qcow_room,
	.reserve = vdisk_qcow_reserve,
	.unreserve = vdisk_qcow_unreserve,
	.seal = vdisk_qcow_seal,
	.committed = vdisk_qcow_committed,
	.prepare = vdisk_qcow_prepare,
	.place = vdisk_qcow_place,
	.change = vdisk_qcow_change,
	.state = vdisk_qcow_state,
	.quiet = vdisk_qcow_quiet,
};
