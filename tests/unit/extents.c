// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libvdisk/extents.c: what the one appender builds and the one look-up finds, at every boundary
 * and against a flat array. `extents SEED` repeats a random run; the seed is printed.
 */
#include <inttypes.h>
#include <stdio.h>

#include "../../libvdisk/extents.h"
#include "tap.h"

#define ROUNDS 3000
#define ADDS   80

/* The list's own allocator fails on demand: libvdisk is the only caller in this program. */
static bool no_memory;

/* With malloc() and memset() the compiler would make a calloc() of it: this one. */
void *calloc(size_t count, size_t size)
{
	void *p = no_memory ? NULL : aligned_alloc(16, (count * size + 15) / 16 * 16);

	return p ? memset(p, 0, count * size) : NULL;
}

/* Does v[i] say this? */
static bool entry(const struct vdisk_extents *x, size_t i, u64 file, u64 device, u64 count)
{
	return i < x->n && x->v[i].file == file && x->v[i].device == device &&
	       x->v[i].count == count;
}

static bool finds(const struct vdisk_extents *x, u64 at, u64 device, u64 count)
{
	struct vdisk_extent p = { 1, 2, 3 };

	if (vdisk_extents_at(x, at, &p) && p.file == at && p.device == device && p.count == count)
		return true;
	printf("# at %" PRIu64 ": file %" PRIu64 " device %" PRIu64 " count %" PRIu64 "\n", at,
	       p.file, p.device, p.count);
	return false;
}

static bool finds_nothing(const struct vdisk_extents *x, u64 at)
{
	struct vdisk_extent p;

	return !vdisk_extents_at(x, at, &p);
}

/* Appends two extents to an empty list and returns how many it then has. */
static size_t pair(u64 device1, u64 count1, u64 device2, u64 count2)
{
	struct vdisk_extents x = { 0 };
	size_t n;

	vdisk_extents_add(&x, device1, count1);
	vdisk_extents_add(&x, device2, count2);
	n = x.n;
	ok(x.sectors == count1 + count2, "  %" PRIu64 " + %" PRIu64 " sectors are covered", count1,
	   count2);
	vdisk_extents_free(&x);
	return n;
}

static void test_empty(void)
{
	struct vdisk_extents x = { 0 };

	ok(finds_nothing(&x, 0), "an empty list has no sector 0");
	ok(finds_nothing(&x, UINT64_MAX), "an empty list has no last sector");
	ok(vdisk_extents_add(&x, 7, 0) == -EINVAL, "no sectors at a device sector: EINVAL");
	ok(vdisk_extents_add(&x, VDISK_HOLE, 0) == -EINVAL, "no sectors of a hole: EINVAL");
	ok(!x.n && !x.sectors && !x.v, "the list is still empty");
	vdisk_extents_free(&x);
	vdisk_extents_add(&x, 7, 1);
	vdisk_extents_free(&x);
	ok(!x.v && !x.n && !x.room && !x.sectors, "a freed list is an empty one");
	ok(!vdisk_extents_add(&x, 9, 1) && entry(&x, 0, 0, 9, 1), "and can be used again");
	vdisk_extents_free(&x);
}

static void test_merging(void)
{
	ok(pair(100, 8, 108, 8) == 1, "what follows on the device is merged");
	ok(pair(100, 8, 109, 8) == 2, "a gap of one sector is not");
	ok(pair(100, 8, 107, 8) == 2, "an overlap of one sector is not");
	ok(pair(100, 8, 100, 8) == 2, "the same place again is not");
	ok(pair(100, 8, 92, 8) == 2, "what lies before it is not");
	ok(pair(0, 1, 1, 1) == 1, "the first sectors of the device are merged");
	ok(pair(VDISK_HOLE, 8, VDISK_HOLE, 8) == 1, "holes are merged");
	ok(pair(100, 8, VDISK_HOLE, 8) == 2, "a hole behind data is not");
	ok(pair(VDISK_HOLE, 8, 100, 8) == 2, "data behind a hole is not");
	/* Here the hole's marker and the end on the device are the same number. */
	ok(pair(VDISK_HOLE - 4, 4, VDISK_HOLE, 4) == 2, "a hole behind the device's end is not");
	ok(pair(VDISK_HOLE, 1, 0, 1) == 2, "device sector 0 behind a hole of 1 is not");
}

static void test_merged_list(void)
{
	struct vdisk_extents x = { 0 };

	vdisk_extents_add(&x, 100, 8);
	vdisk_extents_add(&x, 108, 2);
	vdisk_extents_add(&x, 110, 1);
	vdisk_extents_add(&x, VDISK_HOLE, 3);
	vdisk_extents_add(&x, VDISK_HOLE, 4);
	vdisk_extents_add(&x, 111, 5);
	ok(x.n == 3 && x.sectors == 23, "six appended, three remain");
	ok(entry(&x, 0, 0, 100, 11), "the first is three in one");
	ok(entry(&x, 1, 11, VDISK_HOLE, 7), "the hole is two in one");
	ok(entry(&x, 2, 18, 111, 5), "data on both sides of a hole stay apart");
	vdisk_extents_free(&x);
}

static void test_overflow(void)
{
	struct vdisk_extents x = { 0 };

	ok(vdisk_extents_add(&x, UINT64_MAX - 1, 2) == -EOVERFLOW, "past the device's end");
	ok(vdisk_extents_add(&x, 1, UINT64_MAX) == -EOVERFLOW, "the longest count at sector 1");
	ok(!x.n && !x.sectors, "nothing was appended");
	ok(!vdisk_extents_add(&x, UINT64_MAX - 1, 1), "the device's last sector");
	ok(finds(&x, 0, UINT64_MAX - 1, 1), "is found");
	vdisk_extents_free(&x);

	ok(!vdisk_extents_add(&x, VDISK_HOLE, UINT64_MAX - 1), "a hole nearly as long as can be");
	ok(vdisk_extents_add(&x, VDISK_HOLE, 2) == -EOVERFLOW, "two more would be merged: past");
	ok(vdisk_extents_add(&x, 5, 2) == -EOVERFLOW, "two more of data: past");
	ok(entry(&x, 0, 0, VDISK_HOLE, UINT64_MAX - 1) && x.n == 1, "nothing was appended");
	ok(!vdisk_extents_add(&x, 5, 1) && x.sectors == UINT64_MAX, "one more fits");
	ok(finds(&x, UINT64_MAX - 1, 5, 1), "and is found");
	ok(finds(&x, UINT64_MAX - 2, VDISK_HOLE, 1), "the last sector of the hole before it too");
	ok(finds_nothing(&x, UINT64_MAX), "nothing is behind it");
	vdisk_extents_free(&x);

	ok(!vdisk_extents_add(&x, 0, UINT64_MAX), "a device used from 0 to the end");
	ok(finds(&x, UINT64_MAX - 1, UINT64_MAX - 1, 1), "its last sector is found");
	vdisk_extents_free(&x);
}

static void test_look_up(void)
{
	struct vdisk_extents x = { 0 };

	vdisk_extents_add(&x, 1000, 10);      /* file 0 to 9 */
	vdisk_extents_add(&x, VDISK_HOLE, 1); /* 10 */
	vdisk_extents_add(&x, 500, 20);	      /* 11 to 30 */
	vdisk_extents_add(&x, 2000, 1);	      /* 31 */
	ok(finds(&x, 0, 1000, 10), "the first sector");
	ok(finds(&x, 1, 1001, 9), "the second");
	ok(finds(&x, 9, 1009, 1), "the last of the first extent");
	ok(finds(&x, 10, VDISK_HOLE, 1), "a hole of one");
	ok(finds(&x, 11, 500, 20), "the first behind it");
	ok(finds(&x, 12, 501, 19), "the second behind it");
	ok(finds(&x, 30, 519, 1), "the last before the last extent");
	ok(finds(&x, 31, 2000, 1), "the very last");
	ok(finds_nothing(&x, 32), "nothing is behind it");
	ok(finds_nothing(&x, UINT64_MAX), "nor at the end of all numbers");
	vdisk_extents_free(&x);
}

/* As many as make the list grow several times, in an order that never merges. */
static void test_growth(void)
{
	struct vdisk_extents x = { 0 };
	size_t n = 0, before;
	bool good = true;

	while (n < 1000 && !vdisk_extents_add(&x, 100000 - 3 * n, 2))
		n++;
	for (size_t i = 0; i < n; i++)
		good &= entry(&x, i, 2 * i, 100000 - 3 * i, 2);
	ok(n == 1000 && x.n == 1000 && good, "1000 extents");

	no_memory = true;
	for (before = x.n; x.n < x.room;)
		vdisk_extents_add(&x, 3 * x.n, 1);
	ok(x.n > before, "what there is room for needs no memory");
	before = x.sectors;
	ok(vdisk_extents_add(&x, 1, 5) == -ENOMEM, "one more does: ENOMEM");
	ok(x.n == x.room && x.sectors == before, "and the list is what it was");
	ok(!vdisk_extents_add(&x, x.v[x.n - 1].device + 1, 5), "what is merged needs none");
	ok(finds(&x, x.sectors - 1, x.v[x.n - 1].device + 5, 1), "its last sector is found");
	no_memory = false;
	ok(!vdisk_extents_add(&x, 1, 5), "with memory again, the one more too");
	vdisk_extents_free(&x);
}

/* ---- against a flat array: model[i] is the device sector of the file's sector i ---- */

static u64 model[ADDS * 16];
static u64 n_model;
static u64 state;

/* xorshift64*, Vigna 2014: the same numbers everywhere. */
static u64 random_below(u64 bound)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 2685821657736338717ULL >> 33) % bound;
}

static bool model_continues(u64 i)
{
	if (i >= n_model)
		return false;
	if (model[i] == VDISK_HOLE || model[i - 1] == VDISK_HOLE)
		return model[i] == model[i - 1];
	return model[i] == model[i - 1] + 1;
}

/* Few places, so that neighbours, overlaps and repetitions are frequent. */
static void random_add(struct vdisk_extents *x)
{
	u64 count = 1 + random_below(16);
	u64 device;

	switch (random_below(4)) {
	case 0:
		device = VDISK_HOLE;
		break;
	case 1:
		device = n_model && model[n_model - 1] != VDISK_HOLE ? model[n_model - 1] + 1 : 0;
		break;
	default:
		device = random_below(64);
	}
	vdisk_extents_add(x, device, count);
	for (u64 i = 0; i < count; i++)
		model[n_model++] = device == VDISK_HOLE ? VDISK_HOLE : device + i;
}

/* The look-up's answer is right, and as long as the array stays contiguous. */
static bool same_as_model(const struct vdisk_extents *x, u64 at)
{
	u64 end = at + 1;

	while (model_continues(end))
		end++;
	return finds(x, at, model[at], end - at);
}

/* A list's ends are where an index goes wrong: of one long extent beside many short ones, too. */
static bool skewed_round(void)
{
	struct vdisk_extents x = { 0 };
	bool good = true;

	vdisk_extents_add(&x, 1000, 1ULL << 40);
	for (u64 i = 0; i < 1000; i++)
		vdisk_extents_add(&x, 2 * i, 1);
	vdisk_extents_add(&x, 5000, 1ULL << 41);
	good &= !vdisk_extents_index(&x) && x.index;
	good &= finds(&x, 0, 1000, 1ULL << 40) &&
		finds(&x, (1ULL << 40) - 1, 1000 + (1ULL << 40) - 1, 1);
	for (u64 i = 0; i < 1000; i++)
		good &= finds(&x, (1ULL << 40) + i, 2 * i, 1);
	good &= finds(&x, x.sectors - 1, 5000 + (1ULL << 41) - 1, 1) &&
		finds_nothing(&x, x.sectors);
	vdisk_extents_free(&x);
	return good;
}

static void test_index(void)
{
	struct vdisk_extents x = { 0 };

	ok(skewed_round(), "an index finds short extents between long ones");
	ok(!vdisk_extents_index(&x) && finds_nothing(&x, 0), "an empty list needs none");
	vdisk_extents_add(&x, 9, 1);
	vdisk_extents_add(&x, 19, 1);
	no_memory = true;
	ok(vdisk_extents_index(&x) == -ENOMEM && !x.index, "no memory for the index: ENOMEM");
	no_memory = false;
	ok(finds(&x, 1, 19, 1), "and what is there is found without");
	vdisk_extents_free(&x);
}

static bool random_round(void)
{
	struct vdisk_extents x = { 0 };
	bool good = true;

	n_model = 0;
	for (u64 adds = 1 + random_below(ADDS); adds; adds--)
		random_add(&x);
	good &= x.sectors == n_model;
	for (int indexed = 0; indexed < 2; indexed++) {
		if (indexed)
			good &= !vdisk_extents_index(&x);
		for (u64 at = 0; at < n_model && good; at++)
			good = same_as_model(&x, at);
		good &= finds_nothing(&x, n_model);
	}
	vdisk_extents_free(&x);
	return good;
}

static void test_random(u64 seed)
{
	int round = 0;

	printf("# seed %" PRIu64 "\n", seed);
	state = seed ? seed : 1;
	while (round < ROUNDS && random_round())
		round++;
	ok(round == ROUNDS, "%d random lists agree with a flat array (seed %" PRIu64 ")", round,
	   seed);
}

int main(int argc, char **argv)
{
	test_empty();
	test_merging();
	test_merged_list();
	test_overflow();
	test_look_up();
	test_growth();
	test_index();
	test_random(argc > 1 ? strtoull(argv[1], NULL, 0) : 20061011);
	printf("1..%d\n", tests);
	return failed != 0;
}
