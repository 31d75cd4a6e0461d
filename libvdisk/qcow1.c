// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow, version 1. There is no text but "The QCOW Image Format" (M. McLoughlin, 2008) and qemu's
 * block/qcow.c. Clusters have no refcounts: each belongs to one entry.
 */
#include "qcow.h"

/* Offsets of the header's fields in bytes; big-endian. */
enum header_field {
	H_MAGIC = 0,
	H_VERSION = 4,
	H_BACKING_OFFSET = 8,
	H_BACKING_SIZE = 16,
	H_SIZE = 24,
	H_CLUSTER_BITS = 32,
	H_L2_BITS = 33,
	H_CRYPT_METHOD = 36,
	H_L1_OFFSET = 40,
	HEADER_BYTES = 48,
};

#define MAGIC		 0x514649fb
#define BACKING_NAME_MAX 1023
#define L1_BYTES_MAX	 (512ULL << 20)

static int bad(u32 field, struct vdisk_error what, struct vdisk_error *err)
{
	what.offset = field;
	what.show = VDISK_SHOW_DECIMAL;
	return vdisk_fail(err, -EUCLEAN, what);
}

static int check_header(const u8 *raw, struct vdisk_error *err)
{
	u32 crypt = get_be32(raw + H_CRYPT_METHOD);

	if (get_be32(raw + H_MAGIC) != MAGIC || get_be32(raw + H_VERSION) != 1)
		return bad(H_VERSION,
			   (struct vdisk_error){ .field = "header.version",
						 .problem = "is not that of a qcow header",
						 .found = get_be32(raw + H_VERSION),
						 .expected = 1 },
			   err);
	if (!crypt)
		return 0;
	return vdisk_fail(
		err, -EOPNOTSUPP,
		(struct vdisk_error){ .field = "header.crypt_method",
				      .problem = "is AES: encrypted images are not supported",
				      .advice = "decrypt a copy (qemu-img convert), and encrypt "
						"inside of the disk instead (cryptsetup)",
				      .offset = H_CRYPT_METHOD,
				      .found = crypt,
				      .show = VDISK_SHOW_DECIMAL });
}

/* qemu's limits. */
static int use_bits(struct vdisk *vd, const u8 *raw, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;

	q->cluster_bits = raw[H_CLUSTER_BITS];
	q->l2_bits = raw[H_L2_BITS];
	q->entry_bytes = 8;
	if (q->cluster_bits < 9 || q->cluster_bits > 16)
		return bad(H_CLUSTER_BITS,
			   (struct vdisk_error){ .field = "header.cluster_bits",
						 .problem = "is not between 9 and 16",
						 .found = q->cluster_bits,
						 .expected = 12 },
			   err);
	if (q->l2_bits < 6 || q->l2_bits > 13)
		return bad(H_L2_BITS,
			   (struct vdisk_error){ .field = "header.l2_bits",
						 .problem = "is not between 6 and 13",
						 .found = q->l2_bits,
						 .expected = 9 },
			   err);
	vd->unit_shift = q->cluster_bits;
	vd->info.block_size = 1U << q->cluster_bits;
	return 0;
}

static int use_size(struct vdisk *vd, const u8 *raw, struct vdisk_error *err)
{
	u64 size = get_be64(raw + H_SIZE);
	struct qcow *q = &vd->qcow;
	u32 shift = q->cluster_bits + q->l2_bits;
	u64 end;

	vd->info.virtual_size = round_down_to(size, VDISK_SECTOR);
	if (size <= 1 || !vd->info.virtual_size || size > INT64_MAX - (1ULL << shift))
		return bad(H_SIZE,
			   (struct vdisk_error){ .field = "header.size",
						 .problem = "is no size of a disk",
						 .found = size,
						 .expected = VDISK_SECTOR },
			   err);
	q->l1_entries = ((size - 1) >> shift) + 1;
	q->l1_offset = get_be64(raw + H_L1_OFFSET);
	if (q->l1_entries > L1_BYTES_MAX / 8 || q->l1_offset % 8 || q->l1_offset < HEADER_BYTES ||
	    add_overflows(q->l1_offset, 8 * q->l1_entries, &end) || end > vd->io.size)
		return bad(H_L1_OFFSET,
			   (struct vdisk_error){ .field = "header.l1_table_offset",
						 .problem = "does not point at a table inside the "
							    "file, behind the header",
						 .found = q->l1_offset,
						 .expected = HEADER_BYTES },
			   err);
	q->fixed[0] = (struct vdisk_range){ 0, HEADER_BYTES };
	q->fixed[1] = (struct vdisk_range){ q->l1_offset, 8 * q->l1_entries };
	q->n_fixed = 2;
	q->fixed_end = end;
	return 0;
}

static int use_backing(struct vdisk *vd, const u8 *raw, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u64 offset = get_be64(raw + H_BACKING_OFFSET);
	u32 length = get_be32(raw + H_BACKING_SIZE);

	if (!offset || !length)
		return 0;
	if (length > BACKING_NAME_MAX || offset > vd->io.size || length > vd->io.size - offset)
		return bad(H_BACKING_OFFSET,
			   (struct vdisk_error){ .field = "header.backing_file_offset",
						 .problem =
							 "does not point at a name of up to 1023 "
							 "bytes inside the file",
						 .found = offset,
						 .expected = HEADER_BYTES },
			   err);
	q->has_parent = true;
	q->backing_offset = offset;
	q->backing_length = length;
	q->fixed[q->n_fixed++] = (struct vdisk_range){ offset, length };
	if (q->fixed_end < offset + length)
		q->fixed_end = offset + length;
	vd->info.needs_parent = 1;
	return 0;
}

static int check_block(const struct vdisk *vd, struct vdisk_error *err)
{
	if (!vd->meta || vd->granule <= vd->info.block_size)
		return 0;
	return vdisk_fail(
		err, -EOPNOTSUPP,
		(struct vdisk_error){ .field = "header.cluster_bits",
				      .problem = "makes clusters that are smaller than the logical "
						 "blocks of the device",
				      .advice = "convert it: qemu-img convert -O qcow2",
				      .offset = H_CLUSTER_BITS,
				      .found = vd->info.block_size,
				      .expected = vd->granule,
				      .show = VDISK_SHOW_DECIMAL });
}

static int qcow1_open(struct vdisk *vd, const struct vdisk_options *options,
		      struct vdisk_error *err)
{
	u8 raw[HEADER_BYTES] = { 0 };
	size_t n = vd->io.size < HEADER_BYTES ? vd->io.size : HEADER_BYTES;
	int ret = vdisk_read(&vd->io, 0, raw, n);

	(void)options;
	if (!ret)
		ret = check_header(raw, err);
	if (!ret)
		ret = use_bits(vd, raw, err);
	if (!ret)
		ret = use_size(vd, raw, err);
	if (!ret)
		ret = use_backing(vd, raw, err);
	if (ret)
		return ret;
	vd->qcow.version = 1;
	vd->info.version = 1;
	vd->info.compression = "zlib";
	return check_block(vd, err);
}

const struct vdisk_format vdisk_qcow = {
	.name = "qcow",
	.open = qcow1_open,
	.map = vdisk_qcow_map,
	.begin = vdisk_qcow_begin_writing,
	.end = vdisk_qcow_end,
	.scan = vdisk_qcow1_scan,
	.room = vdisk_qcow1_room,
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
