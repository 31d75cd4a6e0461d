// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Dynamic and differencing VHD: "Virtual Hard Disk Image Format Specification", version 1.0,
 * "Dynamic Disk Header Format" and "Block Allocation Table and Data Blocks".
 *
 * The disk is cut into blocks. The BAT has a big-endian sector number for each, or ~0 when the
 * block has no place. There lies a bitmap, a bit per sector, most significant bit first, padded to
 * whole sectors; then the block's data. Header, BAT and blocks may be anywhere in the file, in any
 * order, with anything between them.
 *
 *   dynamic       a block with a place is all there, whatever its bitmap says (as qemu has it, and
 *                 Windows sets all bits when it makes a block)
 *   differencing  a sector whose bit is clear is the parent's
 */
#include "engine.h"
#include "vhd.h"

#define HEADER_BYTES  1024
#define HEADER_COOKIE 0x6378737061727365ULL /* "cxsparse" */
#define BAT_UNUSED    0xffffffffU

/* "Dynamic Disk Header Format": offsets of the fields in bytes. */
enum header_field {
	H_COOKIE = 0,
	H_TABLE_OFFSET = 16,
	H_VERSION = 24,
	H_MAX_ENTRIES = 28,
	H_BLOCK_SIZE = 32,
	H_CHECKSUM = 36,
	H_PARENT_ID = 40,
	H_PARENT_TIME = 56,
	H_LOCATORS = 576,
};

/* "Parent Locator Entries" */
enum locator_field {
	L_CODE = 0,
	L_SPACE = 4,
	L_LENGTH = 8,
	L_OFFSET = 16,
	L_BYTES = 24,
};

#define BLOCK_SHIFT_MIN 12
#define BLOCK_SHIFT_MAX 26
/* Blocks are put where their data begin on such a boundary, for disks with 4 KiB sectors. */
#define DATA_ALIGNMENT 4096
/* A path has at most 32767 characters. */
#define LOCATOR_MAX 65536

struct header {
	u8 raw[HEADER_BYTES];
	u64 offset;
};

/* ---- opening ---- */

static int bad_header(const struct header *h, enum header_field field, struct vdisk_error what,
		      struct vdisk_error *err)
{
	what.offset = h->offset + field;
	return vdisk_fail(err, -EUCLEAN, what);
}

static int read_header(struct vdisk *vd, const struct footer *f, struct header *h,
		       struct vdisk_error *err)
{
	u64 size = vd->io.size;

	h->offset = get_be64(f->raw + F_DATA_OFFSET);
	if (h->offset >= FOOTER_BYTES && h->offset <= size && size - h->offset >= HEADER_BYTES)
		return vdisk_read(&vd->io, h->offset, h->raw, HEADER_BYTES);
	return vdisk_fail(err, -EUCLEAN,
			  (struct vdisk_error){
				  .field = "footer.data_offset",
				  .problem = "does not point at a header behind the footer's copy "
					     "and inside the file",
				  .offset = f->offset + F_DATA_OFFSET,
				  .found = h->offset,
				  .expected = FOOTER_BYTES,
				  .show = VDISK_SHOW_DECIMAL });
}

static int check_header(const struct header *h, struct vdisk_error *err)
{
	u32 sum = vdisk_vhd_checksum(h->raw, HEADER_BYTES, H_CHECKSUM);
	u32 version = get_be32(h->raw + H_VERSION);

	if (get_be64(h->raw + H_COOKIE) != HEADER_COOKIE)
		return bad_header(
			h, H_COOKIE,
			(struct vdisk_error){ .field = "header.cookie",
					      .problem = "is not a dynamic VHD header's",
					      .advice = "repair a copy of the image first",
					      .found = get_be64(h->raw + H_COOKIE),
					      .expected = HEADER_COOKIE,
					      .show = VDISK_SHOW_TEXT },
			err);
	if (get_be32(h->raw + H_CHECKSUM) != sum)
		return bad_header(h, H_CHECKSUM,
				  (struct vdisk_error){
					  .field = "header.checksum",
					  .problem = "does not match the header, which is damaged",
					  .advice = "repair a copy of the image first",
					  .found = get_be32(h->raw + H_CHECKSUM),
					  .expected = sum,
					  .show = VDISK_SHOW_HEX },
				  err);
	if (version >> 16 != VERSION_MAJOR)
		return vdisk_fail(
			err, -EOPNOTSUPP,
			(struct vdisk_error){ .field = "header.version",
					      .problem = "is of a VHD version that is not known",
					      .offset = h->offset + H_VERSION,
					      .found = version,
					      .expected = VERSION_MAJOR << 16,
					      .show = VDISK_SHOW_HEX });
	return 0;
}

static int use_block_size(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u32 size = get_be32(h->raw + H_BLOCK_SIZE);

	for (u32 shift = BLOCK_SHIFT_MIN; shift <= BLOCK_SHIFT_MAX; shift++) {
		if (size != 1U << shift)
			continue;
		vd->vhd.block_shift = shift;
		/* one bit for each sector */
		vd->vhd.bitmap_bytes = (u32)round_up_to(size / VDISK_SECTOR / 8, VDISK_SECTOR);
		vd->info.block_size = size;
		return 0;
	}
	return vdisk_fail(
		err, -EOPNOTSUPP,
		(struct vdisk_error){ .field = "header.block_size",
				      .problem = "is no power of two from 4 KiB to 64 MiB",
				      .offset = h->offset + H_BLOCK_SIZE,
				      .found = size,
				      .expected = 2 << 20,
				      .show = VDISK_SHOW_DECIMAL });
}

static void add_fixed(struct vhd *v, u64 offset, u64 length)
{
	v->fixed[v->n_fixed++] = (struct vdisk_range){ offset, length };
	if (v->fixed_end < offset + length)
		v->fixed_end = offset + length;
}

/* The first fixed range that shares a byte with [offset, offset + length), or NULL. Sums cannot
 * overflow: all was checked to be inside the file. */
static const struct vdisk_range *in_the_way(const struct vhd *v, u64 offset, u64 length)
{
	for (u32 i = 0; i < v->n_fixed; i++) {
		const struct vdisk_range *r = &v->fixed[i];

		if (offset < r->offset + r->length && r->offset < offset + length)
			return r;
	}
	return NULL;
}

static int use_bat(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	u64 offset = get_be64(h->raw + H_TABLE_OFFSET);
	u32 entries = get_be32(h->raw + H_MAX_ENTRIES);
	struct vhd *v = &vd->vhd;
	u64 bytes = 4ULL * entries;
	u64 needed = (vd->info.virtual_size - 1) >> v->block_shift;

	if (entries <= needed)
		return bad_header(
			h, H_MAX_ENTRIES,
			(struct vdisk_error){ .field = "header.max_table_entries",
					      .problem = "is too small for the size of the disk",
					      .found = entries,
					      .expected = needed + 1,
					      .show = VDISK_SHOW_DECIMAL },
			err);
	if (offset % VDISK_SECTOR || offset > v->data_end || bytes > v->data_end - offset)
		return bad_header(
			h, H_TABLE_OFFSET,
			(struct vdisk_error){ .field = "header.table_offset",
					      .problem = "does not point at a table on a sector "
							 "boundary inside the file",
					      .found = offset,
					      .expected = h->offset + HEADER_BYTES,
					      .show = VDISK_SHOW_DECIMAL },
			err);
	if (in_the_way(v, offset, bytes))
		return bad_header(h, H_TABLE_OFFSET,
				  (struct vdisk_error){ .field = "header.table_offset",
							.problem = "points into the headers",
							.found = offset,
							.expected = h->offset + HEADER_BYTES,
							.show = VDISK_SHOW_DECIMAL },
				  err);
	v->bat_offset = offset;
	v->bat_entries = (u32)needed + 1;
	add_fixed(v, offset, bytes);
	return 0;
}

/*
 * Where the names of the parent are. One that cannot be is left out: the parent can be named by
 * hand, and its unique id decides. Platform Data Space is in sectors by the specification; many
 * write bytes there, so only the length is protected from blocks that an entry puts there, and
 * room is looked for behind the larger.
 */
static void use_locators(struct vdisk *vd, const struct header *h)
{
	struct vhd *v = &vd->vhd;

	for (u32 i = 0; i < VHD_LOCATORS; i++) {
		const u8 *l = h->raw + H_LOCATORS + i * L_BYTES;
		u64 offset = get_be64(l + L_OFFSET);
		u32 length = get_be32(l + L_LENGTH);
		u64 space = get_be32(l + L_SPACE);

		if (!get_be32(l + L_CODE) || !length || length > LOCATOR_MAX ||
		    offset > v->data_end || length > v->data_end - offset)
			continue;
		v->locators[i].code = get_be32(l + L_CODE);
		v->locators[i].length = length;
		v->locators[i].offset = offset;
		add_fixed(v, offset, length);
		if (space % VDISK_SECTOR)
			space *= VDISK_SECTOR;
		if (space <= LOCATOR_MAX && space <= v->data_end - offset &&
		    v->fixed_end < offset + space)
			v->fixed_end = offset + space;
	}
}

static int use_header(struct vdisk *vd, const struct header *h, struct vdisk_error *err)
{
	struct vhd *v = &vd->vhd;
	int ret = check_header(h, err);

	if (!ret)
		ret = use_block_size(vd, h, err);
	if (ret)
		return ret;
	add_fixed(v, 0, FOOTER_BYTES);
	add_fixed(v, h->offset, HEADER_BYTES);
	ret = use_bat(vd, h, err);
	if (ret || !v->differencing)
		return ret;
	memcpy(vd->info.parent_uuid, h->raw + H_PARENT_ID, sizeof(vd->info.parent_uuid));
	vd->info.parent_time_stamp = get_be32(h->raw + H_PARENT_TIME);
	use_locators(vd, h);
	return 0;
}

/* vdisk.plain, of a dynamic image */
static u64 vhd_plain(struct vdisk *vd, u64 offset)
{
	const struct vhd *v = &vd->vhd;
	u64 at = v->bat_offset + 4 * (offset >> v->block_shift);
	u64 block = vdisk_block_of(vd->meta, at), start;
	u32 mask = (1U << v->block_shift) - 1, entry;
	const u8 *data = vd->meta->peek(vd->meta, block);

	if (!data)
		return VDISK_NOWHERE;
	entry = load_be32(data + (at - block));
	start = (u64)entry * VDISK_SECTOR;
	if (start > v->plain_last || entry == BAT_UNUSED)
		return VDISK_NOWHERE;
	if (start < v->fixed_end && in_the_way(v, start, v->bitmap_bytes + mask + 1ULL))
		return VDISK_NOWHERE;
	start += v->bitmap_bytes;
	return start & (vd->meta->block - 1) ? VDISK_NOWHERE : start + (offset & mask);
}

int vdisk_vhd_open_dynamic(struct vdisk *vd, const struct footer *f, u64 end,
			   struct vdisk_error *err)
{
	struct vhd *v = &vd->vhd;
	struct header *h = vdisk_zalloc(sizeof(*h));
	int ret;

	if (!h)
		return -ENOMEM;
	v->differencing = get_be32(f->raw + F_DISK_TYPE) == TYPE_DIFFERENCING;
	v->data_end = end;
	ret = read_header(vd, f, h, err);
	if (!ret)
		ret = use_header(vd, h, err);
	vdisk_free(h);
	if (ret)
		return ret;
	vd->info.subformat = v->differencing ? "differencing" : "dynamic";
	vd->info.needs_parent = v->differencing;
	vd->unit_shift = v->block_shift;
	vd->fill = v->differencing ? 0 : 1U << v->block_shift;
	if (vd->meta)
		vd->head_bytes = (u32)round_up_to(v->bitmap_bytes, vd->meta->block);
	if (!v->differencing && v->data_end > (1ULL << v->block_shift) + v->bitmap_bytes) {
		v->plain_last = v->data_end - (1ULL << v->block_shift) - v->bitmap_bytes;
		vd->plain = vhd_plain;
	}
	return 0;
}

/* ---- map ---- */

static void need(const struct vdisk *vd, u64 offset, u64 table_end, struct vdisk_map *answer)
{
	answer->kind = VDISK_NEED;
	answer->offset = vdisk_block_of(vd->meta, offset);
	answer->length = table_end - answer->offset;
}

/* Load entry `index` of the BAT; false: its block is not cached, and the answer says so. */
static bool load_entry(const struct vdisk *vd, u64 index, u32 *entry, struct vdisk_map *answer)
{
	u64 at = vd->vhd.bat_offset + 4 * index;
	u64 block = vdisk_block_of(vd->meta, at);
	const u8 *data = vd->meta->peek(vd->meta, block);

	if (!data) {
		need(vd, at, vd->vhd.bat_offset + 4ULL * vd->vhd.bat_entries, answer);
		return false;
	}
	*entry = load_be32(data + (at - block));
	return true;
}

/* Does the block of this entry lie in the file, apart from headers and tables? The last one only
 * as far as the disk goes. */
static bool entry_is_sound(const struct vdisk *vd, u64 index, u32 entry)
{
	const struct vhd *v = &vd->vhd;
	u64 start = (u64)entry * VDISK_SECTOR;
	u64 left = vd->info.virtual_size - (index << v->block_shift);
	u64 length = v->bitmap_bytes;

	length += left < 1ULL << v->block_shift ? left : 1ULL << v->block_shift;
	if (start > v->data_end || length > v->data_end - start)
		return false;
	return start >= v->fixed_end || !in_the_way(v, start, length);
}

static int bad_entry(const struct vdisk *vd, u64 index, u32 entry, struct vdisk_map *answer)
{
	answer->offset = vd->vhd.bat_offset + 4 * index;
	answer->home = (u64)entry * VDISK_SECTOR;
	return -EUCLEAN;
}

/* Blocks without a place: as many as the cache can tell about. */
static void map_unused(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	const struct vhd *v = &vd->vhd;
	u64 last = (offset + length - 1) >> v->block_shift;
	u64 index = offset >> v->block_shift;
	struct vdisk_map ignored;
	u32 entry = BAT_UNUSED;

	while (index < last && load_entry(vd, index + 1, &entry, &ignored) && entry == BAT_UNUSED)
		index++;
	answer->kind = v->differencing ? VDISK_PARENT : VDISK_ZERO;
	answer->home = VDISK_NOWHERE;
	answer->length = ((index + 1) << v->block_shift) - offset;
	if (answer->length > length)
		answer->length = length;
}

static bool is_set(const u8 *bits, u64 bit)
{
	return READ_ONCE(bits[bit / 8]) & (0x80 >> bit % 8);
}

/* How many bits from `first` on, at most `count`, are `set` or not; the caller knows it of the
 * first, whatever others do to it meanwhile. */
static u64 same_bits(const u8 *bits, bool set, u64 first, u64 count)
{
	u64 n = 1;

	while (n < count) {
		u64 at = first + n;

		if (at % 8 == 0 && count - n >= 8 && READ_ONCE(bits[at / 8]) == (set ? 0xff : 0))
			n += 8;
		else if (is_set(bits, at) == set)
			n++;
		else
			break;
	}
	return n;
}

/*
 * A block of a differencing image that has its place: its bitmap decides. The answer ends where
 * the metadata block ends that holds the bits. -EOPNOTSUPP when it is shorter than what the devices
 * can read: the image was written on one with smaller blocks.
 */
static int map_bitmap(const struct vdisk *vd, u64 bitmap, u64 inside, u64 length,
		      struct vdisk_map *answer)
{
	u64 first = inside / VDISK_SECTOR;
	u64 at = bitmap + first / 8;
	u64 block = vdisk_block_of(vd->meta, at);
	u64 from = block > bitmap ? block : bitmap; /* of the bits in this metadata block */
	u64 base = (from - bitmap) * 8, end = (block + vd->meta->block - bitmap) * 8;
	u64 most = length / VDISK_SECTOR, count;
	const u8 *data = vd->meta->peek(vd->meta, block);
	u64 home = bitmap + vd->vhd.bitmap_bytes + inside;
	bool set;

	if (!data) {
		need(vd, at, bitmap + vd->vhd.bitmap_bytes, answer);
		return 0;
	}
	if (most > end - first)
		most = end - first;
	data += from - block;
	set = is_set(data, first - base);
	count = same_bits(data, set, first - base, most);
	if (count < most && count & (vd->granule / VDISK_SECTOR - 1)) {
		answer->offset = at;
		answer->home = home;
		return -EOPNOTSUPP;
	}
	answer->kind = set ? VDISK_DATA : VDISK_PARENT;
	if (set)
		answer->offset = home;
	else
		answer->home = home;
	answer->length = count * VDISK_SECTOR;
	return 0;
}

int vdisk_vhd_map_dynamic(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	const struct vhd *v = &vd->vhd;
	u64 index = offset >> v->block_shift;
	u64 inside = offset - (index << v->block_shift);
	u64 left = (1ULL << v->block_shift) - inside;
	u64 start;
	u32 entry;

	if (!load_entry(vd, index, &entry, answer))
		return 0;
	if (entry == BAT_UNUSED) {
		map_unused(vd, offset, length, answer);
		return 0;
	}
	if (!entry_is_sound(vd, index, entry))
		return bad_entry(vd, index, entry, answer);
	start = (u64)entry * VDISK_SECTOR;
	if ((start + v->bitmap_bytes) & (vd->meta->block - 1)) {
		bad_entry(vd, index, entry, answer);
		return -EOPNOTSUPP;
	}
	if (length > left)
		length = left;
	if (v->differencing)
		return map_bitmap(vd, start, inside, length, answer);
	answer->kind = VDISK_DATA;
	answer->offset = start + v->bitmap_bytes + inside;
	answer->length = length;
	return 0;
}

/* ---- allocation ---- */

int vdisk_vhd_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer)
{
	const struct vhd *v = &vd->vhd;
	u32 entry;

	if (!space->cursor)
		space->next = v->fixed_end;
	for (; space->cursor < v->bat_entries; space->cursor++) {
		u64 end;

		if (!load_entry(vd, space->cursor, &entry, answer))
			return -EAGAIN;
		if (entry == BAT_UNUSED)
			continue;
		if (!entry_is_sound(vd, space->cursor, entry))
			return bad_entry(vd, space->cursor, entry, answer);
		end = (u64)entry * VDISK_SECTOR + v->bitmap_bytes + (1ULL << v->block_shift);
		if (space->next < end)
			space->next = end;
		space->allocated++;
	}
	/* Without a last footer there is no telling what lies behind the blocks. */
	space->end = vd->info.footer_lost ? 0 : v->data_end;
	space->known = true;
	return 0;
}

/* Where the data of a block would begin that is put at or behind `next`. */
static u64 data_behind(const struct vdisk *vd, u64 next, u32 alignment)
{
	return round_up_to(round_up_to(next, vd->meta->block) + vd->head_bytes, alignment);
}

static bool fits(const struct vdisk *vd, u64 home, u64 end)
{
	return home <= end && 1ULL << vd->vhd.block_shift <= end - home &&
	       (home - vd->vhd.bitmap_bytes) / VDISK_SECTOR < BAT_UNUSED;
}

/* The first one waits until all of the BAT has been read: nothing else tells where room is. */
int vdisk_vhd_reserve(struct vdisk *vd, struct vdisk_space *space, u64 index, u64 *home,
		      struct vdisk_map *answer)
{
	int ret = space->known ? 0 : vdisk_vhd_scan(vd, space, answer);
	u64 at;

	(void)index;
	if (ret)
		return ret;
	at = data_behind(vd, space->next, DATA_ALIGNMENT);
	if (!fits(vd, at, space->end))
		at = data_behind(vd, space->next, vd->meta->block);
	if (!fits(vd, at, space->end))
		return -ENOSPC;
	*home = at;
	space->next = at + (1ULL << vd->vhd.block_shift);
	space->allocated++;
	return 0;
}

/* Only the last one: a hole between blocks is left alone, also by the next scan. */
void vdisk_vhd_unreserve(struct vdisk *vd, struct vdisk_space *space, struct vdisk_unit *unit)
{
	space->allocated--;
	if (!unit->error && space->next == unit->home + (1ULL << vd->vhd.block_shift))
		space->next = unit->home - vd->head_bytes;
}

u64 vdisk_vhd_room(const struct vdisk *vd, const struct vdisk_space *space)
{
	u64 block = 1ULL << vd->vhd.block_shift;
	u64 stride = block + round_up_to(vd->head_bytes, DATA_ALIGNMENT);
	u64 first = data_behind(vd, space->next, DATA_ALIGNMENT);
	u64 unplaced = vd->vhd.bat_entries - space->allocated;
	u64 next = space->next, n = 0;

	if (fits(vd, first, space->end)) {
		n = divide(space->end - first - block, (u32)stride) + 1;
		next = first + (n - 1) * stride + block;
	}
	/* one more without the alignment */
	n += fits(vd, data_behind(vd, next, vd->meta->block), space->end);
	return (n < unplaced ? n : unplaced) << vd->vhd.block_shift;
}

/* A new block is linked by its entry, one that has its place by its bitmap. */
int vdisk_vhd_place(struct vdisk *vd, enum vdisk_phase phase, const struct vdisk_unit *unit, u32 n,
		    u64 *block, struct vdisk_map *answer)
{
	const struct vhd *v = &vd->vhd;

	(void)answer;
	if (phase != VDISK_PHASE_LINK || !unit)
		return -ENOENT;
	if (unit->fresh) {
		*block = vdisk_block_of(vd->meta, v->bat_offset + 4 * unit->index);
		return n ? -ENOENT : 0;
	}
	*block = vdisk_block_of(vd->meta, unit->home - v->bitmap_bytes) + (u64)n * vd->meta->block;
	return *block < unit->home ? 0 : -ENOENT;
}

bool vdisk_vhd_change(struct vdisk *vd, struct vdisk_space *space, enum vdisk_phase phase,
		      const struct vdisk_unit *unit, u32 n, u8 *data)
{
	const struct vhd *v = &vd->vhd;
	u64 bitmap = unit->home - v->bitmap_bytes, block;
	bool changed = false;

	(void)space;
	vdisk_vhd_place(vd, phase, unit, n, &block, NULL);
	if (unit->fresh) {
		store_be32(data + (v->bat_offset + 4 * unit->index - block),
			   (u32)(bitmap / VDISK_SECTOR));
		return true;
	}
	for (u64 i = block > bitmap ? 0 : bitmap - block; i < vd->meta->block; i++) {
		u8 more = unit->covered[block + i - bitmap] & ~data[i];

		if (!more)
			continue;
		WRITE_ONCE(data[i], data[i] | more);
		changed = true;
	}
	return changed;
}
