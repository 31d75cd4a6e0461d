// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who else has the clusters of a file: one pass over the MFT.
 *
 * Every attribute of every record in use is looked at, of whatever file and type, as on a sound
 * volume each cluster is in the runs of one attribute only. The stream's own parts are known
 * beforehand: the one in the base record, or those that the file's attribute list names. Each of
 * them may come once; all else is a claim.
 *
 * A record with the magic FILE is in use if its flag says so, which no fixup covers. One without
 * that magic cannot be asked: $MFT's bitmap tells, and one that is all zeros was never written.
 */
#include <errno.h>

#include "msg.h"
#include "ntfs-file.h"
#include "ntfs-record.h"
#include "progress.h"

#define PIECE_BYTES (1u << 20)

struct lcn_range {
	uint64_t start, end;
};

/* A part of the stream: the record that has it, and its first VCN. */
struct part {
	u64 ref;
	int64_t lowest_vcn;
	bool found;
};

struct pass {
	const struct ntfs_file *file;
	struct owners *o;
	ntfs_attr *mft;
	u32 record_size;
	struct lcn_range *ranges; /* the file's, sorted */
	size_t n_ranges;
	struct part *parts; /* sorted */
	size_t n_parts;
	struct progress progress;
};

static void unreadable(struct owners *o, uint64_t number, const char *problem)
{
	if (o->unreadable++)
		return;
	o->first_unreadable = number;
	o->problem = problem;
}

/* ---- the file's own ---- */

static void load_ranges(struct pass *p)
{
	uint64_t sectors = p->file->vol->cluster_size / 512;
	struct vdisk_extent *v = extents_by_device(&p->file->extents, &p->n_ranges);

	p->ranges = must_regrow(NULL, p->n_ranges + 1, sizeof(*p->ranges));
	for (size_t i = 0; i < p->n_ranges; i++) {
		p->ranges[i].start = v[i].device / sectors;
		p->ranges[i].end = p->ranges[i].start + v[i].count / sectors;
	}
	free(v);
}

static bool is_stream(const struct pass *p, ATTR_TYPES type, const void *name, u8 length)
{
	const ntfs_attr *na = p->file->attr;

	return type == AT_DATA && length == na->name_len &&
	       (!length || !memcmp(name, na->name, length * sizeof(*na->name)));
}

static void add_part(struct pass *p, u64 ref, int64_t lowest_vcn)
{
	p->parts = must_regrow(p->parts, p->n_parts + 1, sizeof(*p->parts));
	p->parts[p->n_parts++] = (struct part){ .ref = ref, .lowest_vcn = lowest_vcn };
}

static int by_ref(const void *a, const void *b)
{
	const struct part *x = a, *y = b;

	if (x->ref != y->ref)
		return x->ref < y->ref ? -1 : 1;
	return (x->lowest_vcn > y->lowest_vcn) - (x->lowest_vcn < y->lowest_vcn);
}

/* An entry is at least its header long, so the walk ends. */
static int load_listed_parts(struct pass *p, const ntfs_inode *ni)
{
	u32 pos = 0, length;

	for (; pos < ni->attr_list_size; pos += length) {
		const ATTR_LIST_ENTRY *al = (const ATTR_LIST_ENTRY *)(ni->attr_list + pos);
		const u32 left = ni->attr_list_size - pos;

		length = left < offsetof(ATTR_LIST_ENTRY, name) ? 0 : le16_to_cpu(al->length);
		if (length < offsetof(ATTR_LIST_ENTRY, name) || length > left ||
		    al->name_offset + 2u * al->name_length > length)
			return -EUCLEAN;
		if (is_stream(p, al->type, (const u8 *)al + al->name_offset, al->name_length))
			add_part(p, le64_to_cpu(al->mft_reference), sle64_to_cpu(al->lowest_vcn));
	}
	if (p->n_parts)
		qsort(p->parts, p->n_parts, sizeof(*p->parts), by_ref);
	return 0;
}

static int load_parts(struct pass *p)
{
	const ntfs_inode *ni = p->file->inode;

	if (NInoAttrList(ni))
		return load_listed_parts(p, ni);
	add_part(p, MK_MREF(p->file->record, p->file->sequence), 0);
	return 0;
}

/* ---- one record ---- */

/* The record of the MFT that is looked at. */
struct record {
	uint64_t number;
	const u8 *bytes;
	const MFT_RECORD *header; /* the same */
	u64 base;		  /* reference; 0: this is a base record */
};

static bool is_of_file(const struct pass *p, const struct record *rec)
{
	if (!MREF(rec->base))
		return rec->number == p->file->record;
	return MREF(rec->base) == p->file->record && MSEQNO(rec->base) == p->file->sequence;
}

/* Takes the part, so that a copy of it is none. That the record says it is the file's was seen when
 * the runs were loaded. */
static bool take_part(struct pass *p, const struct record *rec, const struct mft_attr *a)
{
	struct part key = {
		.ref = MK_MREF(rec->number, le16_to_cpu(rec->header->sequence_number)),
		.lowest_vcn = sle64_to_cpu(a->record->lowest_vcn),
	};
	struct part *part;
	bool own;

	if (!is_stream(p, a->record->type, a->name, a->name_length))
		return false;
	part = bsearch(&key, p->parts, p->n_parts, sizeof(*p->parts), by_ref);
	own = part && !part->found;
	if (own)
		part->found = true;
	return own;
}

/* The first cluster that the run and the file have in common. */
static bool common_lcn(const struct pass *p, const struct mft_run *run, uint64_t *lcn)
{
	size_t low = 0, high = p->n_ranges;

	if (run->hole || !high || run->lcn >= p->ranges[high - 1].end ||
	    run->lcn + run->length <= p->ranges[0].start)
		return false;
	while (low < high) { /* the first one that ends behind the run's start */
		size_t mid = low + (high - low) / 2;

		if (p->ranges[mid].end <= run->lcn)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == p->n_ranges || p->ranges[low].start >= run->lcn + run->length)
		return false;
	*lcn = p->ranges[low].start > run->lcn ? p->ranges[low].start : run->lcn;
	return true;
}

static char *name_text(const void *bytes, u8 length)
{
	ntfschar name[UINT8_MAX];
	char *mbs = NULL;

	memcpy(name, bytes, length * sizeof(*name)); /* it may lie at an odd address */
	if (length && ntfs_ucstombs(name, length, &mbs, 0) < 0)
		return text_copy("?"); /* no UTF-16 */
	return mbs ? mbs : text_copy("");
}

/* A name of the file that a record names: rather a long one than that of MS-DOS. */
static char *find_file_name(const u8 *bytes, u32 size)
{
	const u32 head = offsetof(FILE_NAME_ATTR, file_name);
	struct mft_record r = { .bytes = bytes,
				.used = le32_to_cpu(((const MFT_RECORD *)bytes)->bytes_in_use),
				.pos = le16_to_cpu(((const MFT_RECORD *)bytes)->attrs_offset) };
	struct mft_attr a;
	char *found = NULL;

	if (r.used > size || r.pos > r.used)
		return NULL;
	while (!mft_record_next(&r, &a) && a.record) {
		u32 at = le16_to_cpu(a.record->value_offset);
		const u8 *value = (const u8 *)a.record + at;
		const FILE_NAME_ATTR *fn = (const FILE_NAME_ATTR *)value;

		if (a.record->type != AT_FILE_NAME || a.record->non_resident ||
		    at + head > a.length || at + head + 2u * fn->file_name_length > a.length ||
		    (found && fn->file_name_type == FILE_NAME_DOS))
			continue;
		free(found);
		found = name_text(value + head, fn->file_name_length);
	}
	return found;
}

/* The name is in the base record, unless that is full. */
static char *file_name_of(const struct pass *p, const struct record *rec)
{
	u8 *base;
	struct mft_record r;
	char *name = NULL;

	if (!MREF(rec->base))
		return find_file_name(rec->bytes, p->record_size);
	base = must_alloc(p->record_size);
	if (ntfs_attr_pread(p->mft, (s64)(MREF(rec->base) * p->record_size), p->record_size,
			    base) == p->record_size &&
	    ((const MFT_RECORD *)base)->magic == magic_FILE &&
	    le16_to_cpu(((const MFT_RECORD *)base)->sequence_number) == MSEQNO(rec->base) &&
	    !mft_record_start(base, p->record_size, &r))
		name = find_file_name(base, p->record_size);
	free(base);
	return name;
}

static void claim(struct pass *p, const struct record *rec, const struct mft_attr *a, uint64_t lcn)
{
	struct owner_claim *c = &p->o->first;

	if (p->o->claims++)
		return;
	c->record = rec->number;
	c->sequence = le16_to_cpu(rec->header->sequence_number);
	c->base = MREF(rec->base) ? MREF(rec->base) : rec->number;
	c->same_file = is_of_file(p, rec);
	c->same_stream = c->same_file && is_stream(p, a->record->type, a->name, a->name_length);
	c->type = le32_to_cpu(a->record->type);
	c->name = name_text(a->name, a->name_length);
	c->file = file_name_of(p, rec);
	c->lcn = lcn;
}

static const char *look_at_attr(struct pass *p, const struct record *rec, const struct mft_attr *a)
{
	uint64_t lcn = 0;
	bool common = false;
	struct mft_runs m;
	struct mft_run run;
	const char *problem;

	mft_runs_start(a, &m);
	while (!(problem = mft_runs_next(&m, &run)) && run.length)
		if (!common)
			common = common_lcn(p, &run, &lcn);
	if (common && !take_part(p, rec, a))
		claim(p, rec, a, lcn);
	return problem;
}

/* Without the magic FILE. What the bitmap does not tell counts as in use. */
static bool is_marked_used(const struct pass *p, uint64_t number)
{
	ntfs_attr *bitmap = p->file->vol->lib->vol->mftbmp_na;
	const s64 at = (s64)(number / 8);
	u8 byte;

	if (at >= bitmap->initialized_size || ntfs_attr_pread(bitmap, at, 1, &byte) != 1)
		return true;
	return byte >> number % 8 & 1;
}

static bool is_blank(const u8 *bytes, u32 size)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, size - 1);
}

static void look_at_record(struct pass *p, uint64_t number, u8 *bytes)
{
	const MFT_RECORD *header = (const MFT_RECORD *)bytes;
	struct record rec = { .number = number, .bytes = bytes, .header = header };
	struct mft_record r;
	struct mft_attr a;
	const char *problem;

	if (header->magic != magic_FILE) {
		if (is_blank(bytes, p->record_size) || !is_marked_used(p, number))
			return;
		p->o->records++;
		unreadable(p->o, number,
			   header->magic == magic_BAAD ? "it is marked as damaged (BAAD)"
						       : "it does not begin with FILE");
		return;
	}
	if (!(header->flags & MFT_RECORD_IN_USE))
		return;
	p->o->records++;
	rec.base = le64_to_cpu(header->base_mft_record);
	problem = mft_record_start(bytes, p->record_size, &r);
	while (!problem && !(problem = mft_record_next(&r, &a)) && a.record)
		if (a.record->non_resident)
			problem = look_at_attr(p, &rec, &a);
	if (problem)
		unreadable(p->o, number, problem);
}

/* ---- all records ---- */

/* Its record 0 was read when the volume was opened. Returns what is wrong, or NULL. */
static const char *check_mft(const struct pass *p)
{
	const struct volume *vol = p->file->vol;
	ntfs_attr *mft = p->mft;
	s64 vcn = 0;

	if (!NAttrNonResident(mft) || NAttrCompressed(mft) || NAttrEncrypted(mft))
		return "the MFT is resident, compressed or encrypted";
	if (mft->data_size <= 0 || (uint64_t)mft->data_size > vol->device_bytes)
		return "the MFT is longer than the volume";
	if (mft->initialized_size > mft->data_size)
		return "more of the MFT is valid than there is";
	for (const runlist_element *rl = mft->rl; rl && rl->length > 0 && rl->lcn > 0; rl++)
		vcn = rl->vcn + rl->length;
	if (vcn < (mft->data_size + vol->cluster_size - 1) / vol->cluster_size)
		return "the MFT has a hole";
	return NULL;
}

static int look_at_records(struct pass *p)
{
	const u32 per_piece = PIECE_BYTES > p->record_size ? PIECE_BYTES / p->record_size : 1;
	const uint64_t n = (uint64_t)p->mft->initialized_size / p->record_size;
	u8 *piece = must_regrow(NULL, per_piece, p->record_size);
	int ret = 0;

	progress_start(&p->progress, "looking for others that have its clusters");
	for (uint64_t first = 0; first < n && !ret; first += per_piece) {
		const u32 count = n - first < per_piece ? (u32)(n - first) : per_piece;
		const s64 bytes = (s64)count * p->record_size;

		if (ntfs_attr_pread(p->mft, (s64)(first * p->record_size), bytes, piece) != bytes)
			ret = volume_read_error(p->file->vol);
		for (u32 i = 0; i < count && !ret; i++)
			look_at_record(p, first + i, piece + (size_t)i * p->record_size);
		progress_step(&p->progress, first + count, n);
	}
	progress_end(&p->progress);
	free(piece);
	return ret;
}

int volume_owners(const struct ntfs_file *file, struct owners *o)
{
	struct pass p = {
		.file = file,
		.o = o,
		.mft = file->vol->lib->vol->mft_na,
		.record_size = file->vol->mft_record_size,
	};
	const char *problem;
	int ret;

	*o = (struct owners){ 0 };
	file->vol->io_error = 0;
	if (ntfs_attr_map_whole_runlist(p.mft))
		return volume_read_error(file->vol);
	problem = check_mft(&p);
	if (problem) {
		unreadable(o, FILE_MFT, problem);
		return 0;
	}
	ret = load_parts(&p);
	if (!ret) {
		load_ranges(&p);
		ret = look_at_records(&p);
	}
	free(p.parts);
	free(p.ranges);
	if (ret)
		owners_free(o);
	return ret;
}

void owners_free(struct owners *o)
{
	free(o->first.name);
	free(o->first.file);
	*o = (struct owners){ 0 };
}

const char *ntfs_attr_type_name(uint32_t type)
{
	static const char *const names[] = {
		"$STANDARD_INFORMATION",
		"$ATTRIBUTE_LIST",
		"$FILE_NAME",
		"$OBJECT_ID",
		"$SECURITY_DESCRIPTOR",
		"$VOLUME_NAME",
		"$VOLUME_INFORMATION",
		"$DATA",
		"$INDEX_ROOT",
		"$INDEX_ALLOCATION",
		"$BITMAP",
		"$REPARSE_POINT",
		"$EA_INFORMATION",
		"$EA",
		"$PROPERTY_SET",
		"$LOGGED_UTILITY_STREAM",
	};

	if (type % 16 || type < 16 || type / 16 > ARRAY_SIZE(names))
		return NULL;
	return names[type / 16 - 1];
}
