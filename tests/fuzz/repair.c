// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any bytes as a qcow2 that is repaired: what a repair says is left is what a second check finds,
 * and what could be read before, through pointers that are not in doubt, reads the same. The first
 * byte chooses the level.
 */
#include "fuzz.h"

#define ROUNDS 5
#define BLOCKS 512 /* of the disk that are compared, from its beginning */

/* What is known of the blocks before the repair. */
struct before {
	u64 sums[BLOCKS];
	bool readable[BLOCKS];
	u64 n, block; /* bytes */
	/* the places of the file that faults are about */
	u64 bad[BLOCKS];
	u64 n_bad;
	bool many; /* more than fit */
};

static struct vdisk *open_qcow(struct memory *m)
{
	struct vdisk_io io = memory_io(m, true);
	struct vdisk_options options = { .format = "qcow2" };
	struct vdisk *vd;

	return vdisk_open(&io, &options, &vd, NULL) ? NULL : vd;
}

static u64 blocks_of(const struct vdisk *vd)
{
	u64 n = (vd->info.virtual_size + vd->info.block_size - 1) / vd->info.block_size;

	return n < BLOCKS ? n : BLOCKS;
}

static bool read_block(struct vdisk *vd, u64 n, u64 *sum)
{
	u64 block = vd->info.block_size, left = vd->info.virtual_size - n * block;
	u8 *buf = must(block);
	bool good = !vdisk_pread(vd, buf, left < block ? left : block, n * block);

	*sum = good ? number_of(buf, block) : 0;
	free(buf);
	return good;
}

static void remember_fault(void *ctx, const struct vdisk_fault *fault)
{
	struct before *b = ctx;

	if (fault->kind != VDISK_FAULT_ENTRY && fault->kind != VDISK_FAULT_OVERLAP &&
	    fault->kind != VDISK_FAULT_REFCOUNT)
		return;
	if (b->n_bad == BLOCKS)
		b->many = true;
	else
		b->bad[b->n_bad++] = fault->home / b->block;
}

static bool is_in_doubt(const struct before *b, u64 place)
{
	for (u64 i = 0; i < b->n_bad; i++)
		if (b->bad[i] == place / b->block)
			return true;
	return b->many;
}

/* A block whose cluster a table uses, too, changes with that. */
static bool is_sound(struct vdisk *vd, const struct before *b, u64 n)
{
	struct vdisk_map m;

	if (vdisk_map(vd, n * b->block, VDISK_SECTOR, &m))
		return false;
	if (m.kind == VDISK_COMPRESSED)
		return !is_in_doubt(b, m.offset) && !is_in_doubt(b, m.offset + m.packed - 1);
	return (m.kind != VDISK_DATA && m.kind != VDISK_SHARED) || vd->info.needs_data ||
	       !is_in_doubt(b, m.offset);
}

static void look_before(struct vdisk *vd, struct before *b, struct vdisk_found *faults)
{
	b->block = vd->info.block_size;
	b->n = blocks_of(vd);
	if (vdisk_check(vd, remember_fault, b, faults))
		faults->errors = UINT64_MAX;
	for (u64 i = 0; i < b->n; i++)
		b->readable[i] = is_sound(vd, b, i) && read_block(vd, i, &b->sums[i]);
}

static void look_after(struct memory *m, const struct before *b, enum vdisk_repair_level level,
		       const struct vdisk_found *said)
{
	struct vdisk *vd = open_qcow(m);
	struct company company;
	struct vdisk_found now;
	int ret;
	u64 sum;

	expect(vd, "it does not open any more");
	company_give(vd, &company, true);
	ret = vdisk_check(vd, NULL, NULL, &now);
	expect(!ret, "the second check: %d", ret);
	expect(now.errors == said->errors && now.leaks == said->leaks,
	       "level %d: %" PRIu64 " errors and %" PRIu64 " leaks are left, and %" PRIu64
	       " and %" PRIu64 " were said to be",
	       level, now.errors, now.leaks, said->errors, said->leaks);
	expect(said->errors || !(vd->info.dirty || vd->info.corrupt),
	       "nothing is wrong, and the header says so");
	for (u64 i = 0; i < b->n; i++)
		expect(!b->readable[i] || (read_block(vd, i, &sum) && sum == b->sums[i]),
		       "block %" PRIu64 " has changed", i);
	vdisk_close(vd);
	company_end(&company);
}

static void count_copied(void *ctx, const struct vdisk_fault *fault)
{
	*(u64 *)ctx += fault->kind == VDISK_FAULT_COPIED;
}

/* Returns whether there was something to change. */
static bool repair_once(struct memory *m, enum vdisk_repair_level level)
{
	struct memory old = memory_of(m->bytes, m->size);
	struct vdisk *vd = open_qcow(m);
	struct vdisk_found f;
	int ret = vdisk_repair(vd, level, NULL, NULL, &f);
	bool changed = memcmp(old.bytes, m->bytes, m->size) != 0;

	expect(ret == 0 || ret == -ENOSPC, "another repair: %d", ret);
	vdisk_close(vd);
	memory_free(&old);
	return changed;
}

/* Where tables shared a place, a repair can only do the rest when another one has parted them. It
 * comes to an end, and then no flag is left that is all that is wrong. */
static void repair_again(struct memory *m, enum vdisk_repair_level level,
			 const struct vdisk_found *said)
{
	struct vdisk_found f;
	struct vdisk *vd;
	u64 copied = 0;
	int n = 0;

	while (repair_once(m, level)) {
		expect(said->errors || said->leaks, "nothing was left, and is changed");
		expect(n++ < ROUNDS, "there is no end of repairs");
	}
	vd = open_qcow(m);
	expect(!vdisk_check(vd, count_copied, &copied, &f), "the last check");
	expect(level != VDISK_REPAIR_ALL || !copied || copied < f.errors,
	       "nothing but %" PRIu64 " flags are wrong, and they are left", copied);
	vdisk_close(vd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum vdisk_repair_level level = size && data[0] & 1 ? VDISK_REPAIR_ALL : VDISK_REPAIR_LEAKS;
	struct memory m = memory_of(data + (size > 0), size - (size > 0));
	struct memory old = memory_of(m.bytes, m.size);
	struct before *b = must(sizeof(*b));
	struct vdisk *vd = open_qcow(&m);
	struct vdisk_found faults, said;
	struct company company;
	int ret;

	if (vd) {
		company_give(vd, &company, true);
		look_before(vd, b, &faults);
		ret = vdisk_repair(vd, level, NULL, NULL, &said);
		vdisk_close(vd);
		company_end(&company);
		if (!ret) {
			look_after(&m, b, level, &said);
			repair_again(&m, level, &said);
		} else {
			expect(ret == -EUCLEAN || ret == -ENOSPC || ret == -EOPNOTSUPP ||
				       ret == -EFBIG,
			       "repair: %d", ret);
			expect(ret == -EUCLEAN || !memcmp(old.bytes, m.bytes, m.size),
			       "a repair failed with %d, and has changed something", ret);
		}
	}
	free(b);
	memory_free(&old);
	memory_free(&m);
	return 0;
}
