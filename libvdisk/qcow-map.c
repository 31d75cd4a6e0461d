// SPDX-License-Identifier: GPL-2.0-or-later
/* Look-up in the two tables of a qcow or qcow2: qcow2.txt, "Cluster mapping" and what follows. */
#include "qcow.h"

static u64 cluster_bytes(const struct qcow *q)
{
	return 1ULL << q->cluster_bits;
}

static u64 table_bytes(const struct qcow *q)
{
	return (u64)q->entry_bytes << q->l2_bits;
}

bool vdisk_qcow_sound(const struct vdisk *vd, u64 offset, u64 length)
{
	const struct qcow *q = &vd->qcow;
	u64 end;

	if (offset >= vd->io.size || add_overflows(offset, length, &end))
		return false;
	for (u32 i = 0; i < q->n_fixed && offset < q->fixed_end; i++) {
		const struct vdisk_range *r = &q->fixed[i];

		if (offset < r->offset + r->length && r->offset < end)
			return false;
	}
	return true;
}

/* ---- loading entries ---- */

static int need(const struct vdisk *vd, u64 offset, u64 table_end, struct vdisk_map *answer)
{
	answer->kind = VDISK_NEED;
	answer->offset = vdisk_block_of(vd->meta, offset);
	answer->length = table_end - answer->offset;
	return -EAGAIN;
}

static int damaged(u64 entry, u64 value, struct vdisk_map *answer)
{
	answer->offset = entry;
	answer->home = value;
	return -EUCLEAN;
}

/*
 * The entry at `at` of a table that ends at table_end: a word, and if `bits` is not NULL, the word
 * behind it. Who sees them change asks again where nobody does (VDISK_NEED is answered under the
 * engine's lock).
 */
static int load_words(const struct vdisk *vd, u64 at, u64 table_end, u64 *value, u64 *bits,
		      struct vdisk_map *answer)
{
	u64 block = vdisk_block_of(vd->meta, at);
	const u8 *data = vd->meta->peek(vd->meta, block);
	u32 seq;

	if (!data)
		return need(vd, at, table_end, answer);
	if (!bits && sizeof(long) == 8) {
		*value = load_be64(data + (at - block));
		return 0;
	}
	seq = load_acquire(&vd->seq);
	*value = load_be64(data + (at - block));
	if (bits)
		*bits = load_be64(data + (at - block) + 8);
	read_barrier();
	if (seq & 1 || seq != READ_ONCE(vd->seq))
		return need(vd, at, table_end, answer);
	return 0;
}

static bool table_is_sound(const struct vdisk *vd, u64 table)
{
	const struct qcow *q = &vd->qcow;
	u64 alignment = q->version == 1 ? VDISK_SECTOR : cluster_bytes(q);
	u64 bytes = table_bytes(q);

	return !(table & (alignment - 1)) && vdisk_qcow_sound(vd, table, bytes) &&
	       bytes <= vd->io.size - table;
}

int vdisk_qcow_load(const struct vdisk *vd, u64 offset, struct qcow_entry *e,
		    struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 cluster = offset >> q->cluster_bits;
	u64 inside = cluster & ((1ULL << q->l2_bits) - 1);
	bool extended = q->entry_bytes == 16;
	int ret;

	e->l1_at = q->l1_offset + 8 * (cluster >> q->l2_bits);
	e->at = VDISK_NOWHERE;
	e->value = 0;
	e->bits = 0;
	ret = load_words(vd, e->l1_at, q->l1_offset + 8 * q->l1_entries, &e->l1, NULL, answer);
	if (ret)
		return ret;
	e->table = q->version == 1 ? e->l1 : e->l1 & QCOW_OFFSET;
	e->table_shared = q->version > 1 && (q->read_only_l1 || !(e->l1 & QCOW_COPIED));
	if (!e->table) {
		e->table = VDISK_NOWHERE;
		return 0;
	}
	if (!table_is_sound(vd, e->table))
		return damaged(e->l1_at, e->table, answer);
	e->at = e->table + inside * q->entry_bytes;
	return load_words(vd, e->at, e->table + table_bytes(q), &e->value,
			  extended ? &e->bits : NULL, answer);
}

/* ---- one cluster ---- */

void vdisk_qcow_compressed(const struct vdisk *vd, u64 value, u64 *offset, u32 *packed)
{
	const struct qcow *q = &vd->qcow;
	u32 x = q->version == 1 ? 63 - q->cluster_bits : 62 - (q->cluster_bits - 8);
	u64 flags = q->version == 1 ? QCOW1_COMPRESSED : QCOW_COPIED | QCOW_COMPRESSED;
	u64 size = (value & ~flags) >> x, end;

	*offset = value & ((1ULL << x) - 1);
	if (q->version > 1) /* additional sectors, of which the first is used from offset on */
		size = (size + 1) * VDISK_SECTOR - (*offset & (VDISK_SECTOR - 1));
	end = *offset < vd->io.size ? vd->io.size - *offset : 0;
	*packed = (u32)(size < end ? size : end);
}

static int map_compressed(const struct vdisk *vd, const struct qcow_entry *e,
			  struct vdisk_map *answer)
{
	u64 offset;

	vdisk_qcow_compressed(vd, e->value, &offset, &answer->packed);
	if (!answer->packed || vd->qcow.has_data || !vdisk_qcow_sound(vd, offset, answer->packed))
		return damaged(e->at, offset, answer);
	answer->kind = VDISK_COMPRESSED;
	answer->offset = offset;
	return 0;
}

static void map_nowhere(const struct vdisk *vd, struct vdisk_map *answer)
{
	answer->kind = vd->qcow.has_parent ? VDISK_PARENT : VDISK_ZERO;
}

/*
 * Data that begin `skip` bytes inside of the cluster at offset; the file may end before they do.
 * The block that it ends in can be read, but what is written to its end would be lost.
 */
static void map_data(const struct vdisk *vd, u64 offset, u64 skip, bool own,
		     struct vdisk_map *answer)
{
	u64 at = offset + skip, end = round_down_to(vd->io.size, vd->granule);

	if (vd->qcow.has_data) {
		end = VDISK_NOWHERE;
	} else if (at >= vd->io.size) {
		answer->kind = VDISK_ZERO;
		return;
	} else if (at >= end) {
		end += vd->granule;
		own = false;
	}
	if (answer->length > end - at)
		answer->length = end - at;
	answer->kind = own ? VDISK_DATA : VDISK_SHARED;
	answer->offset = at;
}

static int map_version1(const struct vdisk *vd, const struct qcow_entry *e, u64 skip,
			struct vdisk_map *answer)
{
	u64 offset = e->value & QCOW1_OFFSET;

	if (e->value & QCOW1_COMPRESSED)
		return map_compressed(vd, e, answer);
	if (!offset) {
		map_nowhere(vd, answer);
		return 0;
	}
	if (offset & (VDISK_SECTOR - 1) || !vdisk_qcow_sound(vd, offset, cluster_bytes(&vd->qcow)))
		return damaged(e->at, offset, answer);
	map_data(vd, offset, skip, true, answer);
	return 0;
}

/* What one subcluster is; without subclusters, the cluster. */
enum state {
	NOTHING,
	ZEROS,
	DATA,
};

/* A cluster at offset 0 is one only of a data file, and if the entry says so. */
static bool has_place(const struct qcow *q, u64 value)
{
	return value & QCOW_OFFSET || (q->has_data && value & QCOW_COPIED);
}

static enum state state_of(const struct qcow *q, const struct qcow_entry *e, u64 subcluster)
{
	if (q->entry_bytes == 8)
		return e->value & QCOW_ZERO ? ZEROS : has_place(q, e->value) ? DATA : NOTHING;
	if (e->bits >> QCOW_SUBCLUSTERS >> subcluster & 1)
		return ZEROS;
	return e->bits >> subcluster & 1 ? DATA : NOTHING;
}

/* Do the flags say what cannot be? Zeros are not known to version 2; no subcluster is both zeros
 * and data, or data without a place, nor is a cluster that has such a one read by qemu. */
static bool flags_are_wrong(const struct qcow *q, const struct qcow_entry *e)
{
	u32 data = (u32)e->bits, zeros = (u32)(e->bits >> QCOW_SUBCLUSTERS);

	if (q->entry_bytes == 8)
		return e->value & QCOW_ZERO && q->version < 3;
	return data & zeros || (data && !has_place(q, e->value));
}

/* May the cluster of the disk that begins at `start` have this place? In a data file the offset
 * "must match the guest offset" (qcow2.txt, "External data file bit"). */
static bool place_is_sound(const struct vdisk *vd, u64 offset, u64 start)
{
	const struct qcow *q = &vd->qcow;

	if (q->has_data)
		return offset == start;
	return !(offset & (cluster_bytes(q) - 1)) && vdisk_qcow_sound(vd, offset, cluster_bytes(q));
}

/* How many bytes from `skip` on, at most length, are in the same state. */
static u64 same_state(const struct qcow *q, const struct qcow_entry *e, u64 skip, u64 length)
{
	u32 shift = q->cluster_bits - 5;
	u64 first = skip >> shift, i = first;

	if (q->entry_bytes == 8)
		return length;
	do {
		i++;
	} while (i < QCOW_SUBCLUSTERS && state_of(q, e, i) == state_of(q, e, first));
	return (i << shift) - skip < length ? (i << shift) - skip : length;
}

static int map_standard(const struct vdisk *vd, const struct qcow_entry *e, u64 start, u64 skip,
			struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	bool own = q->has_data || (e->value & QCOW_COPIED && !e->table_shared);
	enum state state = state_of(q, e, skip >> (q->cluster_bits - 5));
	u64 offset = e->value & QCOW_OFFSET;

	if (flags_are_wrong(q, e) || (has_place(q, e->value) && !place_is_sound(vd, offset, start)))
		return damaged(e->at, offset, answer);
	answer->length = same_state(q, e, skip, answer->length);
	if (state == DATA) {
		map_data(vd, offset, skip, own, answer);
		return 0;
	}
	if (state == ZEROS)
		answer->kind = VDISK_ZERO;
	else
		map_nowhere(vd, answer);
	if (has_place(q, e->value) && own && !e->table_shared)
		answer->home = offset + skip;
	return 0;
}

/* ---- many clusters ---- */

/*
 * A cluster that the end of the file cuts off in front of something of the disk is moved when that
 * is written to. Nobody may write to the old place meanwhile: it is not DATA.
 */
static void protect_cut_off(const struct vdisk *vd, u64 offset, u64 skip, struct vdisk_map *answer)
{
	u64 left = vd->info.virtual_size - (offset - skip), whole = cluster_bytes(&vd->qcow);

	if (answer->kind == VDISK_DATA && !vd->qcow.has_data &&
	    answer->offset - skip + (left < whole ? left : whole) > vd->io.size)
		answer->kind = VDISK_SHARED;
}

/* As far as one cluster goes, or all that one missing table would tell about; *entry is the place
 * of what says so. */
static int map_one(const struct vdisk *vd, u64 offset, u64 length, u64 *entry,
		   struct vdisk_map *answer)
{
	const struct qcow *q = &vd->qcow;
	u64 skip = offset & (cluster_bytes(q) - 1), left = cluster_bytes(q) - skip;
	u64 table_left;
	struct qcow_entry e;
	int ret = vdisk_qcow_load(vd, offset, &e, answer);

	if (ret)
		return ret;
	if (e.table == VDISK_NOWHERE) {
		table_left = cluster_bytes(q) << q->l2_bits;
		left = table_left - (offset & (table_left - 1));
	}
	*entry = e.table == VDISK_NOWHERE ? e.l1_at : e.at;
	answer->length = length < left ? length : left;
	if (e.table == VDISK_NOWHERE)
		map_nowhere(vd, answer);
	else if (q->version == 1)
		ret = map_version1(vd, &e, skip, answer);
	else if (e.value & QCOW_COMPRESSED)
		ret = map_compressed(vd, &e, answer);
	else
		ret = map_standard(vd, &e, offset - skip, skip, answer);
	if (!ret)
		protect_cut_off(vd, offset, skip, answer);
	return ret;
}

static bool continues(const struct vdisk_map *m, const struct vdisk_map *next)
{
	if (m->kind != next->kind || m->kind == VDISK_COMPRESSED)
		return false;
	if (m->kind == VDISK_DATA || m->kind == VDISK_SHARED)
		return m->offset + m->length == next->offset;
	if (m->home == VDISK_NOWHERE || next->home == VDISK_NOWHERE)
		return m->home == next->home;
	return m->home + m->length == next->home;
}

/* Can the devices read it? Not if its pieces are smaller than the blocks of one of them. */
static bool is_readable(const struct vdisk *vd, u64 offset, u64 length, const struct vdisk_map *m)
{
	u32 mask = vd->granule - 1;

	if (m->length < length && (offset + m->length) & mask)
		return false;
	return (m->kind != VDISK_DATA && m->kind != VDISK_SHARED) || !((m->offset - offset) & mask);
}

/* ---- what nearly all look-ups are ---- */

/*
 * vd->qcow.tables is a direct-mapped cache of plain L1 entries: who finds one need not look for the
 * block that it is in. Nothing ever has to be taken out: while the image is open, tables are added,
 * and those that are shared replaced; one that is the image's own stays where it is. A word has all
 * of it, so any number of readers may put one there: the table's offset, whose lowest 9 bits are 0,
 * and in these what the place in the cache does not say of the entry's index, see tag_of().
 */
#define TAG_MASK 511ULL

/* Does all of a cluster, or table, that begins here lie in the file? The offset is one in form. */
static inline bool is_plain_place(const struct vdisk *vd, u64 offset, u64 mask)
{
	if (offset > vd->qcow.plain_last)
		return false;
	return offset >= vd->qcow.fixed_end || vdisk_qcow_sound(vd, offset, mask + 1);
}

/* An entry of a table: where what it points to begins, if that is the image's own. */
static inline u64 plain_entry(const struct vdisk *vd, u64 at, u64 mask)
{
	const u8 *data = vd->meta->peek(vd->meta, vdisk_block_of(vd->meta, at));
	u64 offset;

	if (!data)
		return VDISK_NOWHERE;
	/* Without the one flag that must be there, no other may be. */
	offset = load_be64(data + (at & (vd->meta->block - 1))) ^ QCOW_COPIED;
	if (offset & (mask | ~QCOW_OFFSET) || !is_plain_place(vd, offset, mask))
		return VDISK_NOWHERE;
	return offset;
}

/* Never 0, which is that of an empty slot. */
static inline u64 tag_of(u64 index)
{
	return index / QCOW_TABLES + 1;
}

static u64 find_table(struct vdisk *vd, u64 index, u64 mask)
{
	struct qcow *q = &vd->qcow;
	u64 table = plain_entry(vd, q->l1_offset + 8 * index, mask);

	if (table != VDISK_NOWHERE && tag_of(index) <= TAG_MASK)
		WRITE_ONCE(q->tables[index % QCOW_TABLES], table | tag_of(index));
	return table;
}

/* Where the entry for that byte is, or VDISK_NOWHERE. */
static inline u64 plain_at(struct vdisk *vd, u64 offset, u64 mask)
{
	const struct qcow *q = &vd->qcow;
	u64 cluster = offset >> q->cluster_bits, index = cluster >> q->l2_bits;
	u64 table = READ_ONCE(q->tables[index % QCOW_TABLES]);

	if ((table & TAG_MASK) == tag_of(index))
		table &= ~TAG_MASK;
	else
		table = find_table(vd, index, mask);
	if (table == VDISK_NOWHERE)
		return table;
	return table + 8 * (cluster & ((1ULL << q->l2_bits) - 1));
}

static u64 qcow_plain(struct vdisk *vd, u64 offset)
{
	u64 mask = cluster_bytes(&vd->qcow) - 1, at = plain_at(vd, offset, mask);

	if (at == VDISK_NOWHERE)
		return at;
	at = plain_entry(vd, at, mask);
	return at == VDISK_NOWHERE ? at : at + (offset & mask);
}

u64 vdisk_qcow_plain_entry(struct vdisk *vd, u64 offset)
{
	return vd->plain ? plain_at(vd, offset, cluster_bytes(&vd->qcow) - 1) : VDISK_NOWHERE;
}

/* As far as the metadata block goes that the first entry is in. */
static u64 qcow_plain_run(struct vdisk *vd, u64 offset, u64 place, u64 length)
{
	u64 mask = cluster_bytes(&vd->qcow) - 1, at = plain_at(vd, offset, mask);
	u64 run = mask + 1 - (offset & mask), next = place + run, block;
	const u8 *data;

	if (at == VDISK_NOWHERE)
		return run;
	block = vdisk_block_of(vd->meta, at);
	data = vd->meta->peek(vd->meta, block);
	for (at += 8 - block; data && at < vd->meta->block && run < length; at += 8) {
		if (load_be64(data + at) != (next | QCOW_COPIED) || !is_plain_place(vd, next, mask))
			break;
		run += mask + 1;
		next += mask + 1;
	}
	return run < length ? run : length;
}

/* Not where COPIED says nothing, entries are longer than a word, or places are given. */
void vdisk_qcow_use_plain(struct vdisk *vd)
{
	struct qcow *q = &vd->qcow;

	if (q->read_only_l1 || q->has_data || q->entry_bytes != sizeof(long) ||
	    vd->io.size < cluster_bytes(q))
		return;
	q->plain_last = vd->io.size - cluster_bytes(q);
	vd->plain = qcow_plain;
	vd->plain_run = qcow_plain_run;
}

/* ---- the rest ---- */

/* Neighbours that go on in the same way are added, as far as the metadata block goes that the first
 * one is in: the caller cannot sleep, and `length` may be a discard of all the disk. */
int vdisk_qcow_map(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	u64 entry, next_entry;
	int ret = map_one(vd, offset, length, &entry, answer);

	if (ret)
		return ret == -EAGAIN ? 0 : ret; /* the answer is VDISK_NEED */
	while (answer->length < length) {
		struct vdisk_map next = { .home = VDISK_NOWHERE };

		if (map_one(vd, offset + answer->length, length - answer->length, &next_entry,
			    &next) ||
		    vdisk_block_of(vd->meta, next_entry) != vdisk_block_of(vd->meta, entry) ||
		    !continues(answer, &next))
			break;
		answer->length += next.length;
	}
	if (is_readable(vd, offset, length, answer))
		return 0;
	damaged(entry, answer->offset, answer);
	return -EOPNOTSUPP;
}
