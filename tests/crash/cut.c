// SPDX-License-Identifier: GPL-2.0-or-later
/* Power cuts, and what must be left. */
#include "crash.h"

static u64 dumps;

int memory_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	memcpy(buf, (const u8 *)ctx + offset, len);
	return 0;
}

void write_file(const char *folder, const char *name, const void *data, u64 size)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "w");
	if (!f || fwrite(data, 1, size, f) != size || fclose(f))
		fail("cannot write %s", path);
}

void write_stamps(const char *folder, const char *name, const u64 *stamps, u64 sectors)
{
	u8 *bytes = malloc(sectors * SECTOR);

	if (!bytes)
		abort();
	for (u64 i = 0; i < sectors; i++)
		stamp_sector(bytes + i * SECTOR, stamps[i]);
	write_file(folder, name, bytes, sectors * SECTOR);
	free(bytes);
}

static void __attribute__((noreturn)) lost(u64 sector, u64 stamp)
{
	const struct sector *s = &run.model.sectors[sector];

	for (u32 i = 0; i < s->n; i++)
		printf("could be %llx, write %llu%s\n", (unsigned long long)s->v[i].stamp,
		       (unsigned long long)s->v[i].serial, s->v[i].ended ? ", ended" : "");
	fail("after a power cut sector %llu holds %llx", (unsigned long long)sector,
	     (unsigned long long)stamp);
}

void check_survivors(const u64 *stamps)
{
	for (u64 i = 0; i < run.model.n; i++)
		if (!model_survives(&run.model, i, stamps[i]))
			lost(i, stamps[i]);
}

static void check_images(u8 *const images[2])
{
	u64 *stamps = malloc(run.made.sectors * sizeof(*stamps));
	char folder[4096];

	if (!stamps)
		abort();
	run.family->check(images, stamps);
	if (dump_folder && random_below(1000) == 0) {
		snprintf(folder, sizeof(folder), "%s/%llu", dump_folder,
			 (unsigned long long)dumps++);
		run.family->dump(folder, images, stamps);
	}
	free(stamps);
	cuts++;
}

static void cut_disks(u64 subset, bool torn, u8 *const images[2])
{
	for (int i = 0; i < run.n_disks; i++) {
		unsigned int n = disk_volatile(&run.disks[i]);

		disk_cut(&run.disks[i], subset, torn, images[i]);
		subset = n < 64 ? subset >> n : 0;
	}
}

/* All ways in which whole writes can be lost while they are few, and some others. */
void cut_power(void)
{
	unsigned int n = 0;
	u8 *images[2] = { NULL, NULL };
	u64 all;

	for (int i = 0; i < run.n_disks; i++) {
		n += disk_volatile(&run.disks[i]);
		images[i] = malloc(run.disks[i].size);
	}
	all = n > 4 ? 0 : 1ULL << n;
	for (u64 subset = 0; subset < all; subset++) {
		cut_disks(subset, false, images);
		check_images(images);
	}
	for (int i = 0; i < 4; i++) {
		cut_disks(i ? random_below(1ULL << 47) : 0, i > 1, images);
		check_images(images);
	}
	free(images[0]);
	free(images[1]);
}

void last_cut(bool torn, u8 *const images[2], u64 *stamps)
{
	cut_disks(0, torn, images);
	run.family->check(images, stamps);
	cuts++;
}
