// SPDX-License-Identifier: GPL-2.0-or-later
#include "disk.h"
#include "image.h"

#define SECTOR 512
#define HEADER 512
#define BAT    1536

void stamp_sector(u8 *sector, u64 stamp)
{
	for (int i = 0; i < SECTOR; i += 8)
		memcpy(sector + i, &stamp, 8);
}

u64 stamp_of(const u8 *sector)
{
	u64 stamp;

	memcpy(&stamp, sector, 8);
	return memcmp(sector, sector + 8, SECTOR - 8) ? UINT64_MAX : stamp;
}

static void put(u8 *p, int bytes, u64 value)
{
	while (bytes--) {
		p[bytes] = (u8)value;
		value >>= 8;
	}
}

static void checksum(u8 *p, int bytes, int at)
{
	u32 sum = 0;

	for (int i = 0; i < bytes; i++)
		sum += p[i];
	put(p + at, 4, ~sum);
}

static void footer(u8 *f, u64 size, int type, u8 id)
{
	memset(f, 0, SECTOR);
	memcpy(f, "conectix", 8);
	put(f + 8, 4, 2);
	put(f + 12, 4, 0x10000);
	put(f + 16, 8, type == 2 ? UINT64_MAX : HEADER);
	memcpy(f + 28, "win ", 4);
	put(f + 40, 8, size);
	put(f + 48, 8, size);
	put(f + 60, 4, type);
	memset(f + 68, id, 16);
	checksum(f, SECTOR, 64);
}

static void header(u8 *h, const struct recipe *r)
{
	memset(h, 0, 1024);
	memcpy(h, "cxsparse", 8);
	put(h + 8, 8, UINT64_MAX);
	put(h + 16, 8, BAT);
	put(h + 24, 4, 0x10000);
	put(h + 28, 4, r->blocks);
	put(h + 32, 4, r->block);
	if (r->differencing)
		memset(h + 40, 'P', 16);
	checksum(h, 1024, 36);
}

static u8 *must(size_t size)
{
	u8 *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

static void make_parent(struct made *m)
{
	m->parent_sectors = m->sectors;
	m->parent_size = (m->sectors + 1) * SECTOR;
	m->parent = must(m->parent_size);
	for (u64 i = 0; i < m->sectors; i++)
		stamp_sector(m->parent + i * SECTOR, STAMP_PARENT | i);
	footer(m->parent + m->sectors * SECTOR, m->sectors * SECTOR, 2, 'P');
}

/* Give block `index` a place at `at`, with some of its sectors or all. */
static void make_block(const struct recipe *r, struct made *m, u32 index, u64 at, u32 bitmap)
{
	u32 per = r->block / SECTOR;
	u8 *bits = m->file + at - bitmap;

	put(m->file + BAT + 4 * index, 4, (at - bitmap) / SECTOR);
	memset(bits, r->differencing ? 0 : 0xff, bitmap);
	for (u32 i = 0; i < per; i += r->align / SECTOR) {
		if (r->differencing && random_below(2))
			continue;
		for (u32 k = i; k < i + r->align / SECTOR; k++) {
			u64 sector = (u64)index * per + k;

			bits[k / 8] |= 0x80 >> k % 8;
			if (sector < m->sectors)
				m->stamps[sector] = STAMP_CHILD | sector;
			stamp_sector(m->file + at + k * SECTOR, STAMP_CHILD | sector);
		}
	}
}

void image_make(const struct recipe *r, struct made *m)
{
	u32 bitmap = (u32)round_up_to(r->block / SECTOR / 8, SECTOR);
	u64 stride = r->block + round_up_to(bitmap, r->align);
	u64 at = round_up_to(BAT + 4 * r->blocks, r->align) + round_up_to(bitmap, r->align);
	u32 placed = r->blocks / 4;

	m->sectors = (u64)(r->blocks - 1) * (r->block / SECTOR) + r->last_sectors;
	m->stamps = (u64 *)must(m->sectors * sizeof(u64));
	m->bat = BAT;
	m->file_size = at + (placed + r->room) * (stride + 4096) + SECTOR;
	m->file = must(m->file_size);
	for (u64 i = 0; i < m->file_size; i += SECTOR)
		stamp_sector(m->file + i, STAMP_STALE);
	footer(m->file, m->sectors * SECTOR, r->differencing ? 4 : 3, 'C');
	memcpy(m->file + m->file_size - SECTOR, m->file, SECTOR);
	header(m->file + HEADER, r);
	memset(m->file + BAT, 0xff, round_up_to(4 * r->blocks, SECTOR));
	if (r->differencing)
		make_parent(m);
	for (u64 i = 0; i < m->sectors && r->differencing; i++)
		m->stamps[i] = STAMP_PARENT | i;
	for (u32 i = 0; i < placed; i++, at += stride)
		make_block(r, m, (u32)(i * 4 + random_below(4)), at, bitmap);
}

void image_free(struct made *m)
{
	free(m->file);
	free(m->stamps);
	free(m->parent);
	free(m->data);
	for (u32 n = 0; n < m->n_snapshots; n++)
		free(m->snapshots[n]);
}
