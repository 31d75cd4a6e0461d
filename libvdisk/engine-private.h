/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What engine.c (requests) and commit.c share. */
#ifndef VDISK_ENGINE_PRIVATE_H
#define VDISK_ENGINE_PRIVATE_H

#include "engine.h"

static inline void push(struct vdisk_queue *q, struct vdisk_req *req)
{
	req->next = NULL;
	if (q->first)
		q->last->next = req;
	else
		q->first = req;
	q->last = req;
}

static inline struct vdisk_req *pop(struct vdisk_queue *q)
{
	struct vdisk_req *req = q->first;

	if (req)
		q->first = req->next;
	return req;
}

static inline void move_all(struct vdisk_queue *from, struct vdisk_queue *to)
{
	if (!from->first)
		return;
	if (to->first)
		to->last->next = from->first;
	else
		to->first = from->first;
	to->last = from->last;
	from->first = NULL;
}

static inline u32 format_state(const struct vdisk_engine *e)
{
	return e->vd->format->state ? e->vd->format->state(e->vd) : 0;
}

static inline u64 unit_bytes(const struct vdisk_engine *e)
{
	return 1ULL << e->vd->unit_shift;
}

static inline u64 inside(const struct vdisk_engine *e, u64 offset)
{
	return offset & (unit_bytes(e) - 1);
}

static inline bool is_covered(const struct vdisk_unit *u, u64 sector)
{
	return u->covered[sector / 8] & (0x80 >> sector % 8);
}

/* Bytes of the unit. */
static inline void cover(struct vdisk_unit *u, u64 at, u64 length)
{
	u64 sector = at / VDISK_SECTOR, end = sector + length / VDISK_SECTOR;

	while (sector < end) {
		if (sector % 8 || end - sector < 8) {
			u->covered[sector / 8] |= 0x80 >> sector % 8;
			sector++;
		} else { /* whole bytes */
			memset(&u->covered[sector / 8], 0xff, (end - sector) / 8);
			sector += (end - sector) & ~7ULL;
		}
	}
}

/* The bits of 64 sectors; the first is a multiple of that. */
static inline u64 cover_word(const struct vdisk_unit *u, u64 sector)
{
	u64 bits;

	memcpy(&bits, &u->covered[sector / 8], sizeof(bits));
	return bits;
}

/* From byte `at` of the unit on, at most to `end`: how many bytes are covered, or not, like it. */
static inline u64 same_cover(const struct vdisk_unit *u, u64 at, u64 end)
{
	u64 sector = at / VDISK_SECTOR, last = (end + VDISK_SECTOR - 1) / VDISK_SECTOR;
	bool covered = is_covered(u, sector);
	u64 same = covered ? ~0ULL : 0;

	while (sector < last) {
		if (sector % 64 == 0 && sector + 64 <= last && cover_word(u, sector) == same)
			sector += 64;
		else if (sector % 8 == 0 && sector + 8 <= last &&
			 u->covered[sector / 8] == (u8)same)
			sector += 8;
		else if (is_covered(u, sector) == covered)
			sector++;
		else
			break;
	}
	return (sector < last ? sector * VDISK_SECTOR : end) - at;
}

/* Tell the host of a damaged table entry. */
void vdisk_engine_bad_entry(struct vdisk_engine *e, int error, const struct vdisk_map *answer);

/* vdisk_image_map(), with what is missing fetched. May sleep. */
int vdisk_engine_map_tables(struct vdisk_engine *e, u64 offset, u64 length,
			    struct vdisk_map *answer);

void vdisk_engine_end_reqs(struct vdisk_engine *e, struct vdisk_queue *q, int error);

/* The unit is gone; who waited for it tries again. */
void vdisk_engine_drop_unit(struct vdisk_engine *e, struct vdisk_unit *u);

/* commit.c: is there anything for a commit to do? */
bool vdisk_commit_has_work(const struct vdisk_engine *e);
/* One state further, if the last one has ended; false: nothing to be done now. */
bool vdisk_commit_advance(struct vdisk_engine *e);
/* The one that is under way ends as soon as it can, and nobody waits for another. */
void vdisk_commit_stop(struct vdisk_engine *e);
/* Blocks that a failed commit has left pinned go. */
void vdisk_commit_unpin(struct vdisk_engine *e);

#endif
