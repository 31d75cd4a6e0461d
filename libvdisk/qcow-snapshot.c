// SPDX-License-Identifier: GPL-2.0-or-later
/* Internal snapshots of a qcow2: qcow2.txt, "Snapshots". */
#include "qcow.h"

/* "Snapshot table entry": offsets of the fields in bytes. */
enum snapshot_field {
	S_L1_OFFSET = 0,
	S_L1_SIZE = 8,
	S_ID_SIZE = 12,
	S_NAME_SIZE = 14,
	S_SECONDS = 16,
	S_NANOSECONDS = 20,
	S_STATE_SIZE = 32,
	S_EXTRA_SIZE = 36,
	S_BYTES = 40,
	/* from S_BYTES on */
	X_STATE_SIZE = 0,
	X_DISK_SIZE = 8,
	X_BYTES = 16,
};

/* qemu's limits */
#define TABLE_BYTES_MAX (64ULL << 20)
#define EXTRA_BYTES_MAX 1024
#define L1_ENTRIES_MAX	((32U << 20) / 8)

static int bad_table(u64 at, u64 found, struct vdisk_error *err)
{
	return vdisk_fail(
		err, -EUCLEAN,
		(struct vdisk_error){ .field = "snapshot table",
				      .problem = "has an entry that cannot be",
				      .advice = "repair a copy of the image first (qemu-img check "
						"-r all)",
				      .offset = at,
				      .found = found,
				      .show = VDISK_SHOW_HEX });
}

static int read_extra(struct vdisk *vd, u64 at, u32 length, struct qcow_snapshot *s)
{
	u8 raw[X_BYTES] = { 0 };
	int ret = vdisk_read(&vd->io, at, raw, length < X_BYTES ? length : X_BYTES);

	if (ret)
		return ret;
	if (length >= X_STATE_SIZE + 8)
		s->state_size = get_be64(raw + X_STATE_SIZE);
	if (length >= X_DISK_SIZE + 8)
		s->disk_size = get_be64(raw + X_DISK_SIZE);
	return 0;
}

int vdisk_qcow_read_snapshot(struct vdisk *vd, u64 at, struct qcow_snapshot *s,
			     struct vdisk_error *err)
{
	u64 start = vd->qcow.snapshots_offset, end;
	u8 raw[S_BYTES];
	u32 extra;
	int ret;

	if (at < start || at > vd->io.size || vd->io.size - at < S_BYTES)
		return bad_table(at, at, err);
	ret = vdisk_read(&vd->io, at, raw, sizeof(raw));
	if (ret)
		return ret;
	extra = get_be32(raw + S_EXTRA_SIZE);
	*s = (struct qcow_snapshot){ .l1_offset = get_be64(raw + S_L1_OFFSET),
				     .l1_entries = get_be32(raw + S_L1_SIZE),
				     .id_length = get_be16(raw + S_ID_SIZE),
				     .name_length = get_be16(raw + S_NAME_SIZE),
				     .seconds = get_be32(raw + S_SECONDS),
				     .nanoseconds = get_be32(raw + S_NANOSECONDS),
				     .state_size = get_be32(raw + S_STATE_SIZE) };
	if (extra > EXTRA_BYTES_MAX)
		return bad_table(at + S_EXTRA_SIZE, extra, err);
	s->id_offset = at + S_BYTES + extra;
	s->name_offset = s->id_offset + s->id_length;
	end = s->name_offset + s->name_length;
	if (end > vd->io.size || end - start > TABLE_BYTES_MAX)
		return bad_table(at, end, err);
	s->end = end;
	s->next = round_up_to(end, 8); /* the file may end before */
	return read_extra(vd, at + S_BYTES, extra, s);
}

int vdisk_qcow_find_snapshots_end(struct vdisk *vd, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	struct qcow_snapshot s;
	u64 at = q->snapshots_offset;

	for (u32 n = 0; n < vd->info.snapshots; n++) {
		int ret = vdisk_qcow_read_snapshot(vd, at, &s, err);

		if (ret)
			return ret;
		at = s.next;
		q->snapshots_end = s.end;
	}
	return 0;
}

/* Is `text` what the file has at offset? */
static int same_text(struct vdisk *vd, u64 offset, u32 length, const char *text, bool *same)
{
	size_t n = strlen(text);
	u8 raw[64];

	*same = n == length;
	while (n && *same) {
		size_t part = n < sizeof(raw) ? n : sizeof(raw);
		int ret = vdisk_read(&vd->io, offset, raw, part);

		if (ret)
			return ret;
		*same = !memcmp(raw, text, part);
		offset += part;
		text += part;
		n -= part;
	}
	return 0;
}

/* The one with this id, or, if by_name, with this name. */
static int find(struct vdisk *vd, const char *text, bool by_name, struct qcow_snapshot *s,
		struct vdisk_error *err)
{
	u64 at = vd->qcow.snapshots_offset;
	bool same;

	for (u32 n = 0; n < vd->info.snapshots; n++) {
		int ret = vdisk_qcow_read_snapshot(vd, at, s, err);

		if (!ret)
			ret = same_text(vd, by_name ? s->name_offset : s->id_offset,
					by_name ? s->name_length : s->id_length, text, &same);
		if (ret || same)
			return ret;
		at = s->next;
	}
	return -ENOENT;
}

/* Older entries do not tell how large the disk was: not larger than now, nor than the table. */
static u64 size_of(const struct vdisk *vd, const struct qcow_snapshot *s)
{
	u64 most = (u64)s->l1_entries << (vd->qcow.cluster_bits + vd->qcow.l2_bits);

	if (s->disk_size)
		return round_down_to(s->disk_size, VDISK_SECTOR);
	return vd->info.virtual_size < most ? vd->info.virtual_size : most;
}

/* Its L1 table becomes the one in use. */
static int use_l1(struct vdisk *vd, const struct qcow_snapshot *s, struct vdisk_error *err)
{
	struct qcow *q = &vd->qcow;
	u64 size = size_of(vd, s), bytes = 8ULL * s->l1_entries, end;
	u64 entries = size ? ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;

	if (!size || s->l1_entries > L1_ENTRIES_MAX || entries > s->l1_entries ||
	    s->l1_offset & (vd->info.block_size - 1) || add_overflows(s->l1_offset, bytes, &end) ||
	    end > vd->io.size)
		return bad_table(s->id_offset, s->l1_offset, err);
	q->l1_offset = s->l1_offset;
	q->l1_entries = entries;
	q->read_only_l1 = true;
	vd->info.virtual_size = size;
	vd->info.snapshot = 1;
	vd->readonly = true;
	return 0;
}

int vdisk_qcow_use_snapshot(struct vdisk *vd, const char *name, struct vdisk_error *err)
{
	struct qcow_snapshot s;
	int ret = find(vd, name, false, &s, err);

	if (ret == -ENOENT)
		ret = find(vd, name, true, &s, err);
	if (ret == -ENOENT)
		return vdisk_fail(
			err, ret,
			(struct vdisk_error){ .field = "snapshot table",
					      .problem = "has no snapshot with this id or name",
					      .advice = "see `ntfsmap info`",
					      .offset = vd->qcow.snapshots_offset });
	return ret ? ret : use_l1(vd, &s, err);
}
