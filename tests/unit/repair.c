// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vdisk_repair() and power cuts: a qcow2 in memory is damaged in many ways and repaired while its
 * writes are recorded. After every prefix of them, with any of the writes since the last flush
 * missing, the data are there, no refcount is lower than it was, and another repair mends it.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../libvdisk/vdisk.h"
#include "tap.h"

/* The layout, in clusters of 1024 bytes; a refcount has 64 bits, so a block counts 128 of them. */
enum place {
	C = 1024,
	PER = C / 8, /* words of a cluster */
	TABLE = 1,
	BLOCKS = 2, /* 4 of them */
	L1 = 6,
	L2 = 7, /* and the next */
	SNAPSHOTS = 9,
	SNAPSHOT_L1 = 10,
	DATA = 11,
	DISK = 200,	 /* clusters of the disk; a table is for PER of them */
	BLANK = PER + 9, /* reads as zeros */
	CLUSTERS = 4 * PER,
	SIZE = CLUSTERS * C,
};

#define COPIED (1ULL << 63)

static uint64_t get(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static void put(uint8_t *p, int bytes, uint64_t v)
{
	while (bytes--) {
		p[bytes] = (uint8_t)v;
		v >>= 8;
	}
}

static uint8_t *count_at(uint8_t *image, int cluster)
{
	return image + (BLOCKS + cluster / PER) * C + cluster % PER * 8;
}

static void make_header(uint8_t *h)
{
	put(h, 4, 0x514649fb);
	put(h + 4, 4, 3);
	put(h + 20, 4, 10);
	put(h + 24, 8, DISK * C);
	put(h + 36, 4, 2);
	put(h + 40, 8, L1 * C);
	put(h + 48, 8, TABLE * C);
	put(h + 56, 4, 1);
	put(h + 60, 4, 1);
	put(h + 64, 8, SNAPSHOTS * C);
	put(h + 96, 4, 6);
	put(h + 100, 4, 104);
}

/* The first L2 table is the snapshot's too, and so are its data. */
static void make_image(uint8_t *image)
{
	memset(image, 0, SIZE);
	make_header(image);
	for (int i = 0; i < 4; i++)
		put(image + TABLE * C + 8 * i, 8, (BLOCKS + i) * C);
	put(image + L1 * C, 8, L2 * C);
	put(image + L1 * C + 8, 8, (L2 + 1) * C | COPIED);
	put(image + SNAPSHOTS * C, 8, SNAPSHOT_L1 * C);
	put(image + SNAPSHOTS * C + 8, 4, 2);
	put(image + SNAPSHOTS * C + 36, 4, 16);
	put(image + SNAPSHOTS * C + 40 + 8, 8, DISK * C);
	put(image + SNAPSHOT_L1 * C, 8, L2 * C);
	for (int i = 0; i < DATA; i++)
		put(count_at(image, i), 8, i == L2 ? 2 : 1);
	for (int i = 0; i < DISK; i++) {
		put(image + L2 * C + 8 * i, 8, (uint64_t)(DATA + i) * C | (i < PER ? 0 : COPIED));
		put(count_at(image, DATA + i), 8, i < PER ? 2 : 1);
		if (i != BLANK)
			memset(image + (DATA + i) * C, i + 1, C);
	}
}

/* ---- damage ---- */

static uint32_t state;

static uint32_t pick(uint32_t n)
{
	state = state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(state >> 8) * n >> 24);
}

static void damage_entry(uint8_t *image)
{
	static const uint64_t flips[] = { 1 << 3, 1 << 9, 1ULL << 40, 0 };
	uint8_t *p = image + TABLE * C + 8 * pick(4);
	uint64_t flip = flips[pick(4)];

	put(p, 8, flip ? get(p) ^ flip : 0);
}

static void damage(uint8_t *image)
{
	uint8_t *p = count_at(image, (int)pick(DATA + DISK));

	switch (pick(7)) {
	case 0:
		put(p, 8, 0);
		break;
	case 1:
		put(p, 8, get(p) + 1 + pick(3));
		break;
	case 2: /* a leak, or many references */
		put(count_at(image, (int)pick(CLUSTERS)), 8, 1 + pick(5));
		break;
	case 3:
		p = image + L2 * C + 8 * pick(DISK);
		put(p, 8, get(p) ^ COPIED);
		break;
	case 4:
		p = image + L1 * C + 8 * pick(2);
		put(p, 8, get(p) ^ COPIED);
		break;
	case 5: /* zeros with a place that cannot be */
		p = image + L2 * C + 8 * BLANK;
		put(p, 8, get(p) | 512 | 1);
		break;
	default:
		damage_entry(image);
	}
}

/* ---- an image that remembers what was written ---- */

#define MOST   4096
#define SECTOR 512

struct record {
	uint64_t offset;
	size_t len; /* 0: a flush */
	uint8_t data[SECTOR];
};

struct disk {
	uint8_t image[SIZE];
	struct record *log; /* NULL: none */
	size_t n;
	bool bad;
};

static int disk_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	memcpy(buf, ((struct disk *)ctx)->image + offset, len);
	return 0;
}

static int disk_write(void *ctx, uint64_t offset, const void *buf, size_t len)
{
	struct disk *d = ctx;

	d->bad |= offset > SIZE || len > SIZE - offset || offset % SECTOR || len % SECTOR;
	if (d->bad)
		return -EIO;
	memcpy(d->image + offset, buf, len);
	for (size_t at = 0; d->log && at < len && d->n < MOST; at += SECTOR) {
		d->log[d->n] = (struct record){ .offset = offset + at, .len = SECTOR };
		memcpy(d->log[d->n++].data, (const uint8_t *)buf + at, SECTOR);
	}
	return 0;
}

static int disk_flush(void *ctx)
{
	struct disk *d = ctx;

	if (d->log && d->n < MOST)
		d->log[d->n++].len = 0;
	return 0;
}

static struct vdisk_io io_of(struct disk *d)
{
	return (struct vdisk_io){ d, SIZE, disk_read, disk_write, disk_flush };
}

/* ---- what is there ---- */

static void mark_low(void *ctx, const struct vdisk_fault *f)
{
	bool *low = ctx;

	if (f->kind == VDISK_FAULT_REFCOUNT && !f->fixed)
		low[f->home / C] = true;
}

/* Which clusters have a refcount that is too low, and how much is wrong; false when it cannot be
 * read as it was. */
static bool look(struct disk *d, bool *low, uint64_t *errors)
{
	struct vdisk_io io = io_of(d);
	uint8_t buf[C];
	struct vdisk_found found = { 0 };
	struct vdisk *vd;
	bool good = true;

	memset(low, 0, CLUSTERS * sizeof(*low));
	if (vdisk_open(&io, NULL, &vd, NULL))
		return false;
	for (int i = 0; i < DISK && good; i++) /* damage may make BLANK unreadable */
		good = vdisk_pread(vd, buf, C, (uint64_t)i * C)
			       ? i == BLANK
			       : buf[0] == (i == BLANK ? 0 : (uint8_t)(i + 1)) &&
					 !memcmp(buf, buf + 1, C - 1);
	good = !vdisk_check(vd, mark_low, low, &found) && good;
	vdisk_close(vd);
	*errors = found.errors;
	return good;
}

static bool repair(struct disk *d)
{
	struct vdisk_io io = io_of(d);
	struct vdisk_found found;
	struct vdisk *vd;
	int ret;

	if (vdisk_open(&io, NULL, &vd, NULL))
		return false;
	ret = vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found);
	vdisk_close(vd);
	return !ret && !found.errors && !found.leaks;
}

/* Cut behind n records: those since the last flush may be missing. */
static bool try_cut(const struct disk *before, const struct disk *done, size_t n, bool all)
{
	static struct disk cut;
	bool low[CLUSTERS], was[CLUSTERS];
	uint64_t errors;
	size_t flushed = 0;

	cut = *before;
	look(&cut, was, &errors);
	for (size_t i = 0; i < n; i++)
		if (!done->log[i].len)
			flushed = i;
	for (size_t i = 0; i < n; i++)
		if (i < flushed || all || pick(2))
			memcpy(cut.image + done->log[i].offset, done->log[i].data,
			       done->log[i].len);
	if (!look(&cut, low, &errors))
		return false;
	for (int i = 0; i < CLUSTERS; i++)
		if (low[i] && !was[i])
			return false;
	if (!(cut.image[79] & 1) && errors) /* nothing is in doubt: then nothing may be wrong */
		return false;
	return repair(&cut) && look(&cut, low, &errors);
}

static void test_cuts(uint32_t seed)
{
	static struct disk before, done;
	size_t bad = 0;

	state = seed;
	memset(&before, 0, sizeof(before));
	make_image(before.image);
	for (uint32_t i = 1 + pick(5); i--;)
		damage(before.image);
	before.image[79] |= 1; /* dirty */
	done = before;
	done.log = calloc(MOST, sizeof(*done.log));
	if (!ok(repair(&done) && !done.bad, "damage %u is repaired", seed))
		bad = 1;
	bad = bad || done.n == MOST || done.log[done.n - 1].len; /* all is durable */
	for (size_t n = 0; n <= done.n && !bad; n++)
		for (int i = 0; i < 5 && !bad; i++)
			bad = try_cut(&before, &done, n, !i) ? 0 : n + 1;
	ok(!bad, "  and after a power cut at any of %zu writes", done.n);
	if (bad)
		printf("# at %zu\n", bad - 1);
	free(done.log);
}

/* ---- what a repair may not do ---- */

static void test_refusals(void)
{
	static struct disk d, same;
	struct vdisk_found found;
	struct vdisk *vd = NULL;
	struct vdisk_io io = io_of(&d);
	uint8_t sector[C] = "";

	make_image(d.image);
	put(count_at(d.image, DATA), 8, 0);
	same = d;
	ok(!vdisk_open(&io, NULL, &vd, NULL) && !vdisk_check(vd, NULL, NULL, &found) &&
		   found.errors == 1 && !memcmp(&d, &same, sizeof(d)),
	   "a check changes nothing");
	vdisk_close(vd);
	put(count_at(d.image, DATA), 8, 2);
	ok(!vdisk_open(&io, NULL, &vd, NULL) && !vdisk_pwrite(vd, sector, C, PER * C) &&
		   vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found) == -EBUSY,
	   "an image that was written to: EBUSY");
	vdisk_close(vd);
	io.write = NULL;
	ok(!vdisk_open(&io, NULL, &vd, NULL) &&
		   vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found) == -EROFS,
	   "one that cannot be: EROFS");
	vdisk_close(vd);
	io = io_of(&d);
	ok(!vdisk_open(&io, &(struct vdisk_options){ .format = "raw" }, &vd, NULL) &&
		   vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found) == -EOPNOTSUPP,
	   "another format: EOPNOTSUPP");
	vdisk_close(vd);
	put(d.image + TABLE * C, 8, DATA * C);
	io.size = (DATA + DISK) * C; /* packed */
	same = d;
	ok(!vdisk_open(&io, NULL, &vd, NULL) &&
		   vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found) == -ENOSPC &&
		   !memcmp(&d, &same, sizeof(d)),
	   "no room for a new block: ENOSPC, and nothing is changed");
	vdisk_close(vd);
}

static void test_what_is_left(void)
{
	static struct disk d;
	struct vdisk_io io = io_of(&d);
	struct vdisk_found found;
	struct vdisk *vd = NULL;
	uint8_t *leak = count_at(d.image, CLUSTERS - 1);

	make_image(d.image);
	d.image[79] = 3;
	put(d.image + L2 * C + 8 * (PER + 1), 8, 1ULL << 40);
	put(leak, 8, 1);
	ok(!vdisk_open(&io, NULL, &vd, NULL) &&
		   !vdisk_repair(vd, VDISK_REPAIR_ALL, NULL, NULL, &found) && found.errors == 1 &&
		   d.image[79] == 3,
	   "an entry that points nowhere is left, and the header still says that it is");
	ok(found.leaks == 2 && get(leak) == 1, "and what it may have pointed at is kept");
	vdisk_close(vd);
}

int main(void)
{
	test_refusals();
	test_what_is_left();
	for (uint32_t seed = 1; seed <= 60; seed++)
		test_cuts(seed);
	printf("1..%d\n", tests);
	return failed != 0;
}
