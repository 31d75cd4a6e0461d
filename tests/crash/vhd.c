// SPDX-License-Identifier: GPL-2.0-or-later
/* Dynamic and differencing VHD: what is made, and what must be left of it. */
#include <sys/stat.h>

#include "crash.h"

static const struct vdisk_options options = { .format = "vhd" };

static void make(u64 number)
{
	struct recipe r = { .differencing = random_below(2),
			    .block = 4096U << random_below(3),
			    .blocks = 8 + (u32)random_below(40),
			    .align = number % 4 ? 512 : 4096 };

	r.last_sectors = r.align / SECTOR * (1 + (u32)random_below(r.block / r.align));
	r.room = (u32)random_below(r.blocks);
	run.align = r.align;
	run.meta.block = r.align;
	image_make(&r, &run.made);
}

static void begin(void)
{
}

static struct vdisk *open_memory(u8 *file, u64 size)
{
	struct vdisk_io io = { .ctx = file, .size = size, .read = memory_read };
	struct vdisk_error err = { 0 };
	struct vdisk *vd;
	char words[512];

	if (!vdisk_open(&io, &options, &vd, &err))
		return vd;
	vdisk_error_text(&err, words, sizeof(words));
	fail("the image does not open: %s", words);
}

/* Nothing but BAT, bitmaps and blocks has changed; the bitmap of a new block of a dynamic image
 * has all bits set. */
static void check_rest(const u8 *image, bool differencing, u32 bitmap)
{
	u64 end = run.made.file_size - SECTOR;

	if (memcmp(image, run.made.file, run.made.bat) ||
	    memcmp(image + end, run.made.file + end, SECTOR))
		fail("header or footer has changed");
	for (u64 i = 0; i < run.vd->vhd.bat_entries && !differencing; i++) {
		u64 at = get_be32(image + run.made.bat + 4 * i);

		if (at == 0xffffffff ||
		    !memcmp(image + run.made.bat + 4 * i, run.made.file + run.made.bat + 4 * i, 4))
			continue;
		for (u32 k = 0; k < bitmap; k++)
			if (image[at * SECTOR + k] != 0xff)
				fail("block %llu: byte %u of its bitmap is %x",
				     (unsigned long long)i, k, image[at * SECTOR + k]);
	}
}

static void check(u8 *const images[2], u64 *stamps)
{
	struct vdisk *vd = open_memory(images[0], run.made.file_size), *parent = NULL;
	u64 size = run.vd->info.virtual_size;
	u8 *contents = malloc(size);
	struct vdisk_found found;

	if (run.made.parent) {
		parent = open_memory(run.made.parent, run.made.parent_size);
		if (vdisk_set_parent(vd, parent, NULL))
			fail("the parent is not taken");
	}
	if (vdisk_check(vd, NULL, NULL, &found) || found.errors)
		fail("vdisk_check() finds faults");
	if (vdisk_pread(vd, contents, size, 0))
		fail("the image cannot be read");
	for (u64 i = 0; i < run.model.n; i++)
		stamps[i] = stamp_of(contents + i * SECTOR);
	check_survivors(stamps);
	check_rest(images[0], parent != NULL, run.vd->vhd.bitmap_bytes);
	free(contents);
	vdisk_close(vd);
	vdisk_close(parent);
}

/* qemu takes a differencing VHD for a dynamic one. */
static void dump(const char *folder, u8 *const images[2], const u64 *stamps)
{
	if (run.made.parent)
		return;
	mkdir(folder, 0777);
	write_file(folder, "image.vhd", images[0], run.made.file_size);
	write_stamps(folder, "disk.raw", stamps, run.made.sectors);
}

const struct family vhd_family = { "vhd", make, begin, check, dump };
