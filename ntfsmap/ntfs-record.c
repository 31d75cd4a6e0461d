// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One MFT record, without a malloc and without a look at other records: a pass over the whole MFT
 * has a million of them. Every walk ends, as each step is at least one byte long and stays inside
 * of the record.
 */
#include "ntfs-record.h"

#define HEADER_BYTES	   42 /* of a record, until NTFS 3.0 */
#define ATTR_BYTES	   24 /* of an attribute that is resident */
#define NON_RESIDENT_BYTES 64

const char *mft_record_start(u8 *bytes, u32 size, struct mft_record *r)
{
	const MFT_RECORD *m = (const MFT_RECORD *)bytes;

	if (ntfs_mst_post_read_fixup_warn((NTFS_RECORD *)bytes, size, FALSE))
		return "its sectors are not of the same write (fixups)";
	r->bytes = bytes;
	r->used = le32_to_cpu(m->bytes_in_use);
	r->pos = le16_to_cpu(m->attrs_offset);
	if (r->used > size)
		return "it claims to be longer than it is";
	if (r->pos < HEADER_BYTES || r->pos > r->used)
		return "its attributes begin outside of it";
	return NULL;
}

static bool is_inside(u32 offset, u32 length, u32 of)
{
	return offset <= of && length <= of - offset;
}

const char *mft_record_next(struct mft_record *r, struct mft_attr *a)
{
	const ATTR_RECORD *record = (const ATTR_RECORD *)(r->bytes + r->pos);
	const u32 left = r->used - r->pos;

	*a = (struct mft_attr){ 0 };
	if (left < sizeof(record->type))
		return "its attributes have no end";
	if (record->type == AT_END)
		return NULL;
	if (left < ATTR_BYTES || le32_to_cpu(record->length) < ATTR_BYTES ||
	    le32_to_cpu(record->length) > left)
		return "an attribute runs out of it";
	a->length = le32_to_cpu(record->length);
	if (record->non_resident &&
	    (a->length < NON_RESIDENT_BYTES ||
	     le16_to_cpu(record->mapping_pairs_offset) < NON_RESIDENT_BYTES ||
	     le16_to_cpu(record->mapping_pairs_offset) > a->length))
		return "the mapping pairs of an attribute are outside of it";
	if (record->name_length &&
	    !is_inside(le16_to_cpu(record->name_offset), 2u * record->name_length, a->length))
		return "the name of an attribute is outside of it";
	a->record = record;
	a->name = (const u8 *)record + le16_to_cpu(record->name_offset);
	a->name_length = record->name_length;
	r->pos += a->length;
	return NULL;
}

void mft_runs_start(const struct mft_attr *a, struct mft_runs *m)
{
	const u8 *bytes = (const u8 *)a->record;

	m->at = bytes + le16_to_cpu(a->record->mapping_pairs_offset);
	m->end = bytes + a->length;
	m->lcn = 0;
	m->vcn = sle64_to_cpu(a->record->lowest_vcn);
	m->highest = sle64_to_cpu(a->record->highest_vcn);
}

/* 1 to 8 bytes, the lowest first. */
static int64_t signed_number(const u8 *bytes, unsigned int n)
{
	uint64_t value = (uint64_t)(int64_t)(int8_t)bytes[--n];

	while (n--)
		value = value << 8 | bytes[n];
	return (int64_t)value;
}

/* Attributes of one cluster, and those of old programs, have 0 for the last VCN. */
static const char *check_end(const struct mft_runs *m)
{
	if (m->highest && m->highest != m->vcn - 1)
		return "the runs of an attribute do not end where it says";
	return NULL;
}

const char *mft_runs_next(struct mft_runs *m, struct mft_run *run)
{
	unsigned int length_bytes, lcn_bytes;
	int64_t length, end;

	*run = (struct mft_run){ 0 };
	if (m->vcn < 0)
		return "the runs of an attribute begin at a negative VCN";
	if (m->at >= m->end || !*m->at)
		return check_end(m);
	length_bytes = *m->at & 15;
	lcn_bytes = *m->at++ >> 4;
	if (!length_bytes || length_bytes > 8 || lcn_bytes > 8 ||
	    length_bytes + lcn_bytes > (size_t)(m->end - m->at))
		return "the mapping pairs of an attribute cannot be decoded";
	length = signed_number(m->at, length_bytes);
	if (length <= 0 || __builtin_add_overflow(m->vcn, length, &m->vcn))
		return "a run of an attribute has an impossible length";
	if (lcn_bytes &&
	    __builtin_add_overflow(m->lcn, signed_number(m->at + length_bytes, lcn_bytes), &m->lcn))
		return "a run of an attribute has an impossible LCN";
	/* before NTFS 3.0 a hole could be written as LCN -1 */
	run->hole = !lcn_bytes || m->lcn == -1;
	if (!run->hole && (m->lcn < 0 || __builtin_add_overflow(m->lcn, length, &end)))
		return "a run of an attribute has an impossible LCN";
	run->lcn = run->hole ? 0 : (uint64_t)m->lcn;
	run->length = (uint64_t)length;
	m->at += length_bytes + lcn_bytes;
	return NULL;
}
