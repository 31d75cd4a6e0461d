// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any bytes as an image that is written to, through the library's own host: never outside of the
 * file. Where vdisk_check() has found nothing wrong before, each sector reads as it was written,
 * nothing else changes, and nothing is wrong afterwards. The first bytes are what is done, four for
 * each request.
 */
#include "fuzz.h"

#define OPS    48  /* bytes */
#define WINDOW 256 /* sectors at the beginning of the disk, where all happens */
#define MOST   24  /* sectors of a request */

static struct memory file;
static struct company company;
static struct vdisk *vd;
static u8 *model;
static bool unknown[WINDOW]; /* a request that failed may have left anything there */
static bool sound;
static u64 sectors; /* of the window */

static bool open_image(void)
{
	struct vdisk_io io = memory_io(&file, true);

	vd = NULL;
	if (vdisk_open(&io, NULL, &vd, NULL))
		return false;
	company_give(vd, &company, true);
	return true;
}

static int close_image(void)
{
	int ret = vdisk_close(vd);

	vd = NULL;
	return ret;
}

static void begin(void)
{
	const struct vdisk_info *info = vdisk_info(vd);
	struct vdisk_found faults;
	int ret = vdisk_check(vd, NULL, NULL, &faults);

	sectors = info->virtual_size / VDISK_SECTOR;
	if (sectors > WINDOW)
		sectors = WINDOW;
	memset(unknown, 0, sizeof(unknown));
	sound = !ret && !faults.errors && !vdisk_pread(vd, model, sectors * VDISK_SECTOR, 0);
}

static void compare(u64 first, u64 count, const char *when)
{
	u8 *now = must(count * VDISK_SECTOR);
	int ret = vdisk_pread(vd, now, count * VDISK_SECTOR, first * VDISK_SECTOR);

	expect(!ret, "sector %" PRIu64 " %s: %d", first, when, ret);
	for (u64 i = 0; i < count; i++)
		expect(unknown[first + i] ||
			       !memcmp(now + i * VDISK_SECTOR, model + (first + i) * VDISK_SECTOR,
				       VDISK_SECTOR),
		       "sector %" PRIu64 " %s is another", first + i, when);
	free(now);
}

/* A hint: each sector is as it was, or zeros. */
static void look_at_discard(u64 first, u64 count)
{
	u8 now[VDISK_SECTOR], zeros[VDISK_SECTOR] = { 0 };

	for (u64 i = first; i < first + count; i++) {
		int ret = vdisk_pread(vd, now, VDISK_SECTOR, i * VDISK_SECTOR);

		expect(!ret, "sector %" PRIu64 " after a discard: %d", i, ret);
		expect(unknown[i] || !memcmp(now, model + i * VDISK_SECTOR, VDISK_SECTOR) ||
			       !memcmp(now, zeros, VDISK_SECTOR),
		       "sector %" PRIu64 " after a discard is another", i);
		memcpy(model + i * VDISK_SECTOR, now, VDISK_SECTOR);
	}
}

/* What may be said of a sound image. A stream that does not unpack is found when it is copied. */
static bool may_fail(int ret)
{
	return ret == -ENOSPC || ret == -EROFS || ret == -EUCLEAN || ret == -ENOLINK;
}

/* Returns whether it was done. */
static bool end_request(int ret, u64 first, u64 count)
{
	expect(!sound || !ret || may_fail(ret), "a request: %d", ret);
	for (u64 i = first; i < first + count && ret && ret != -EROFS; i++)
		unknown[i] = true;
	return !ret;
}

/* What a failed commit has lost is not known. */
static void end_commit(int ret)
{
	expect(!sound || !ret || may_fail(ret), "a commit: %d", ret);
	sound &= !ret;
}

static void write_some(u64 first, u64 count, u8 value)
{
	u8 *data = must(count * VDISK_SECTOR);

	for (u64 i = 0; i < count * VDISK_SECTOR; i++)
		data[i] = (u8)(value + i / VDISK_SECTOR + i);
	if (end_request(vdisk_pwrite(vd, data, count * VDISK_SECTOR, first * VDISK_SECTOR), first,
			count))
		memcpy(model + first * VDISK_SECTOR, data, count * VDISK_SECTOR);
	free(data);
}

static void reopen(void)
{
	end_commit(close_image());
	company_end(&company);
	expect(open_image() || !sound, "it does not open any more");
	/* the data file and what was in it went with it */
	if (vd && vd->info.needs_data)
		sound = false;
}

static void perform(const u8 *op)
{
	u64 first = (op[1] | (u64)op[2] << 8) % sectors, count = 1 + op[3] % MOST;

	if (count > sectors - first)
		count = sectors - first;
	switch (op[0] % 8) {
	case 0:
	case 1:
	case 2:
		write_some(first, count, op[3]);
		break;
	case 3:
		if (end_request(vdisk_write_zeroes(vd, count * VDISK_SECTOR, first * VDISK_SECTOR),
				first, count))
			memset(model + first * VDISK_SECTOR, 0, count * VDISK_SECTOR);
		break;
	case 4:
		end_request(vdisk_discard(vd, count * VDISK_SECTOR, first * VDISK_SECTOR), first,
			    count);
		if (sound)
			look_at_discard(first, count);
		break;
	case 5:
		end_commit(vdisk_flush(vd));
		break;
	case 6:
		if (sound)
			compare(first, count, "meanwhile");
		break;
	default:
		reopen();
	}
}

static void end(void)
{
	struct vdisk_found faults;
	int ret;

	reopen();
	if (!vd || !sound)
		return;
	compare(0, sectors, "in the end");
	ret = vdisk_check(vd, NULL, NULL, &faults);
	expect(!ret && !faults.errors, "in the end: %d, %" PRIu64 " errors", ret, faults.errors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size <= OPS)
		return 0;
	file = memory_of(data + OPS, size - OPS);
	if (open_image()) {
		model = must(WINDOW * VDISK_SECTOR);
		begin();
		for (int i = 0; i + 4 <= OPS && vd && sectors; i += 4)
			perform(data + i);
		if (vd)
			end();
		free(model);
		close_image();
		company_end(&company);
	}
	memory_free(&file);
	return 0;
}
