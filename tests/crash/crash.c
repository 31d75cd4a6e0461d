// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine under power cuts: random histories of writes, flushes and reads, in which every action
 * of the engine ends when chance wants it. At any moment the power may go; what is left of the
 * device is opened again, and each sector must hold what was flushed or something later, never
 * something that nobody wrote.
 *
 *   crash [--seed=N] [--rounds=N] [--break=PART] [--dump=FOLDER]
 *
 * --break leaves out a part of the work to show that its absence is found: flush-data, flush-links,
 * zero, head. --dump writes some of the images that power cuts left, and what must be readable.
 */
#include <stdarg.h>
#include <stdio.h>

#include "../../libvdisk/engine.h"
#include "disk.h"
#include "image.h"
#include "model.h"

#define SECTOR	 512
#define FLIGHTS	 128
#define MAX_META 4096

/* Something under way on the device: an action of the engine, or a write beside it. */
struct flight {
	struct vdisk_action *action; /* NULL: in place, as the kernel's fast path does it */
	struct op *op;		     /* of those */
	struct write *write;
	u64 flush_began;
};

/* A request of the user. */
struct op {
	struct vdisk_req req; /* first */
	u64 serial;
	bool started;
	u64 *snapshot; /* FLUSH */
};

struct meta_entry {
	struct vdisk_block block;
	u32 pins;
	u8 data[MAX_META];
};

struct run {
	struct made made;
	struct disk disk;
	struct model model;
	struct vdisk_meta meta; /* its block's data are in entries */
	struct meta_entry **entries;
	u64 n_entries;
	struct vdisk *vd;
	struct vdisk_engine engine;
	struct flight flights[FLIGHTS];
	int n_flights;
	int n_ops; /* requests that have not ended */
	u32 align; /* of requests */
	bool failing;
};

static const struct vdisk_options vhd_options = { .format = "vhd" };
static const char *broken = "";
static const char *dump_folder;
static u64 seed, cuts, dumps;
static struct run run;

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...)
{
	va_list ap;

	printf("FOUND (seed %llu): ", (unsigned long long)seed);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	exit(1);
}

/* ---- the metadata cache: what is not held may go at any time ---- */

static const u8 *peek(struct vdisk_meta *meta, u64 offset)
{
	struct meta_entry *e = run.entries[offset / meta->block];

	return e ? e->data : NULL;
}

static void evict_some(void)
{
	u64 i = random_below(run.n_entries);

	if (run.entries[i] && !run.entries[i]->pins) {
		free(run.entries[i]);
		run.entries[i] = NULL;
	}
}

static void fetch_block(u64 offset)
{
	struct meta_entry **slot = &run.entries[offset / run.meta.block];
	u64 left = run.disk.size - offset;

	for (int i = 0; i < 8; i++)
		evict_some();
	if (*slot)
		return;
	*slot = calloc(1, sizeof(**slot));
	(*slot)->block.offset = offset;
	(*slot)->block.data = (*slot)->data;
	memcpy((*slot)->data, run.disk.seen + offset,
	       left < run.meta.block ? left : run.meta.block);
}

static int fetch(struct vdisk_engine *engine, const struct vdisk_map *need)
{
	(void)engine;
	fetch_block(need->offset);
	return 0;
}

static int pin(struct vdisk_engine *engine, u64 offset, struct vdisk_block **block)
{
	(void)engine;
	fetch_block(offset);
	run.entries[offset / run.meta.block]->pins++;
	*block = &run.entries[offset / run.meta.block]->block;
	return 0;
}

static void unpin(struct vdisk_engine *engine, struct vdisk_block *block)
{
	(void)engine;
	((struct meta_entry *)block)->pins--;
}

/* ---- actions ---- */

static void fly(struct flight f)
{
	if (run.n_flights == FLIGHTS)
		fail("more actions than anyone should need");
	run.flights[run.n_flights++] = f;
}

static u8 *payload(const struct op *op)
{
	u8 *data = calloc(1, op->req.length);

	for (u64 at = 0; at < op->req.length && op->req.op == VDISK_REQ_WRITE; at += SECTOR)
		stamp_sector(data + at, op->serial);
	return data;
}

static bool left_out(const struct vdisk_action *a)
{
	enum vdisk_commit_state state = run.engine.state;

	if (a->kind == VDISK_ACT_FLUSH)
		return (state == VDISK_FLUSH_DATA && !strcmp(broken, "flush-data")) ||
		       (state == VDISK_FLUSH_LINKS && !strcmp(broken, "flush-links"));
	if (a->kind == VDISK_ACT_ZERO)
		return !strcmp(broken, "zero");
	return a->kind == VDISK_ACT_WRITE && state == VDISK_FILL && !strcmp(broken, "head");
}

static struct write *start_write(const struct vdisk_action *a)
{
	u8 *data;
	struct write *w;

	if (a->kind == VDISK_ACT_WRITE)
		return disk_write(&run.disk, a->offset, a->buf, a->length);
	data = a->kind == VDISK_ACT_ZERO ? calloc(1, a->length) : payload((struct op *)a->req);
	w = disk_write(&run.disk, a->offset, data, a->length);
	free(data);
	return w;
}

static void start(struct vdisk_engine *engine, struct vdisk_action *a)
{
	struct flight f = { .action = a };

	(void)engine;
	if (a->kind == VDISK_ACT_DATA)
		((struct op *)a->req)->started = true;
	if (left_out(a))
		f.flush_began = 0;
	else if (a->kind == VDISK_ACT_FLUSH)
		f.flush_began = disk_begin_flush(&run.disk);
	else
		f.write = start_write(a);
	fly(f);
}

static void end_op(struct op *op, int error)
{
	u64 first = op->req.offset / SECTOR, count = op->req.length / SECTOR;

	if (op->req.op == VDISK_REQ_FLUSH) {
		if (!error)
			model_flushed(&run.model, op->snapshot);
	} else {
		model_end(&run.model, first, count, !error ? DONE : op->started ? MAYBE : NEVER);
		if (!error && op->req.fua)
			model_durable(&run.model, first, count, op->serial);
	}
	if (error && error != -ENOSPC && !run.failing)
		fail("request failed with %d", error);
	run.n_ops--;
	free(op->snapshot);
	free(op);
}

static void complete(struct vdisk_engine *engine, struct vdisk_req *req, int error)
{
	(void)engine;
	end_op((struct op *)req, error);
}

static void mode_changed(struct vdisk_engine *engine)
{
	if (engine->mode == VDISK_MODE_NEEDS_CHECK ||
	    (engine->mode == VDISK_MODE_FAIL && !run.failing))
		fail("mode %s", vdisk_mode_name(engine->mode));
}

static void bad_entry(struct vdisk_engine *engine, const struct vdisk_map *answer)
{
	(void)engine;
	fail("a bad entry at %llu", (unsigned long long)answer->offset);
}

/* The tables of a VHD stay where they are. */
static void forget(struct vdisk_engine *engine, u64 offset, u64 length)
{
	(void)engine, (void)length;
	fail("a new table at %llu", (unsigned long long)offset);
}

static const struct vdisk_engine_ops ops = { start, complete, fetch,	    pin,
					     unpin, forget,   mode_changed, bad_entry };

/* Something that is under way ends. */
static void land(void)
{
	int i = (int)random_below(run.n_flights);
	struct flight f = run.flights[i];
	bool failed = run.failing && !random_below(60);

	run.flights[i] = run.flights[--run.n_flights];
	if (f.write)
		disk_end_write(&run.disk, f.write, failed,
			       f.action ? f.action->fua : f.op->req.fua);
	else if (f.flush_began && !failed)
		disk_end_flush(&run.disk, f.flush_began);
	if (f.action)
		vdisk_engine_done(&run.engine, f.action, failed ? -EIO : 0);
	else
		end_op(f.op, failed ? -EIO : 0);
}

/* ---- requests ---- */

static struct op *make_op(void)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op)
		abort();
	run.n_ops++;
	return op;
}

/* The kernel's fast path: what is mapped goes to its place without asking the engine. */
static bool written_in_place(struct op *op)
{
	struct vdisk_map m;

	if (run.engine.mode == VDISK_MODE_FAIL || random_below(4) == 0)
		return false;
	if (vdisk_image_map(run.vd, op->req.offset, op->req.length, &m) || m.kind != VDISK_DATA ||
	    m.length < op->req.length || (op->req.fua && vdisk_engine_dirty(&run.engine)))
		return false;
	op->started = true;
	u8 *data = payload(op);

	fly((struct flight){ .op = op,
			     .write = disk_write(&run.disk, m.offset, data, op->req.length) });
	free(data);
	return true;
}

static void submit_write(void)
{
	u64 unit = 1ULL << run.vd->unit_shift, size = run.vd->info.virtual_size;
	u64 at = random_below(size / run.align) * run.align;
	u64 left = unit - at % unit < size - at ? unit - at % unit : size - at;
	u64 length = (1 + random_below(left / run.align)) * run.align;
	struct op *op;

	if (random_below(3))
		length = run.align;
	if (left < run.align || model_busy(&run.model, at / SECTOR, length / SECTOR))
		return;
	op = make_op();
	op->req.op = random_below(5) ? VDISK_REQ_WRITE : VDISK_REQ_ZEROES;
	op->req.fua = !random_below(10);
	op->req.offset = at;
	op->req.length = length;
	op->serial = model_begin(&run.model, at / SECTOR, length / SECTOR,
				 op->req.op == VDISK_REQ_ZEROES);
	if (!written_in_place(op))
		vdisk_engine_submit(&run.engine, &op->req);
}

static void submit_flush(void)
{
	struct op *op = make_op();

	op->req.op = VDISK_REQ_FLUSH;
	op->snapshot = model_snapshot(&run.model);
	vdisk_engine_submit(&run.engine, &op->req);
}

static int engine_map(u64 offset, struct vdisk_map *m)
{
	int ret;

	do {
		ret = vdisk_engine_map(&run.engine, offset, SECTOR, m);
		if (!ret && m->kind == VDISK_NEED)
			fetch_block(m->offset);
	} while (!ret && m->kind == VDISK_NEED);
	return ret;
}

/* What a read of one sector sees now. */
static u64 read_sector(u64 sector)
{
	u64 offset = sector * SECTOR;
	bool maybe = vdisk_engine_maybe_pending(&run.engine, offset >> run.vd->unit_shift);
	struct vdisk_map m;
	int ret = vdisk_image_map(run.vd, offset, SECTOR, &m);

	if (ret)
		fail("map of sector %llu: %d", (unsigned long long)sector, ret);
	if (m.kind == VDISK_NEED || (m.kind != VDISK_DATA && maybe))
		ret = engine_map(offset, &m);
	if (ret || m.kind == VDISK_NEED)
		fail("engine's map of sector %llu: %d", (unsigned long long)sector, ret);
	if (m.kind == VDISK_DATA)
		return stamp_of(run.disk.seen + m.offset);
	return m.kind == VDISK_PARENT ? STAMP_PARENT | sector : 0;
}

static void read_some(void)
{
	for (int i = 0; i < 8; i++) {
		u64 sector = random_below(run.model.n), stamp;

		if (model_busy(&run.model, sector, 1))
			continue; /* anything may be seen while it is written */
		stamp = read_sector(sector);
		if (!model_reads(&run.model, sector, stamp))
			fail("sector %llu reads as %llx", (unsigned long long)sector,
			     (unsigned long long)stamp);
	}
}

/* ---- power cuts ---- */

static int memory_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	memcpy(buf, (const u8 *)ctx + offset, len);
	return 0;
}

static struct vdisk *open_memory(u8 *file, u64 size)
{
	struct vdisk_io io = { .ctx = file, .size = size, .read = memory_read };
	struct vdisk_error err = { 0 };
	struct vdisk *vd;
	char words[512];

	if (!vdisk_open(&io, &vhd_options, &vd, &err))
		return vd;
	vdisk_error_text(&err, words, sizeof(words));
	fail("the image does not open: %s", words);
}

/* Nothing but BAT, bitmaps and blocks has changed; the bitmap of a new block of a dynamic image
 * has all bits set. */
static void check_rest(const u8 *image, bool differencing, u32 bitmap)
{
	u64 end = run.disk.size - SECTOR;

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

static void dump(const u8 *image, const u8 *contents, u64 size)
{
	const void *parts[] = { image, contents };
	const u64 sizes[] = { run.disk.size, size };
	const char *const names[] = { "vhd", "raw" };
	char path[4096];

	for (int i = 0; i < 2; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%llu.%s", dump_folder, (unsigned long long)dumps,
			 names[i]);
		f = fopen(path, "w");
		if (!f || fwrite(parts[i], 1, sizes[i], f) != sizes[i] || fclose(f))
			fail("cannot write %s", path);
	}
	dumps++;
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

static void check_cut(u8 *image, u64 *stamps)
{
	struct vdisk *vd = open_memory(image, run.disk.size), *parent = NULL;
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
	for (u64 i = 0; i < run.model.n; i++) {
		u64 stamp = stamp_of(contents + i * SECTOR);

		if (!model_survives(&run.model, i, stamp))
			lost(i, stamp);
		if (stamps)
			stamps[i] = stamp;
	}
	check_rest(image, parent != NULL, run.vd->vhd.bitmap_bytes);
	if (dump_folder && !parent && random_below(1000) == 0)
		dump(image, contents, size);
	free(contents);
	vdisk_close(vd);
	vdisk_close(parent);
	cuts++;
}

/* All ways in which whole writes can be lost while they are few, and some others. */
static void cut_power(void)
{
	unsigned int n = disk_volatile(&run.disk);
	u64 all = n > 4 ? 0 : 1ULL << n;
	u8 *image = malloc(run.disk.size);

	for (u64 subset = 0; subset < all; subset++) {
		disk_cut(&run.disk, subset, false, image);
		check_cut(image, NULL);
	}
	for (int i = 0; i < 4; i++) {
		u64 subset = random_below(1ULL << 47);

		disk_cut(&run.disk, i ? subset : 0, i > 1, image);
		check_cut(image, NULL);
	}
	free(image);
}

/* ---- a run ---- */

static void set_up(const struct made *made)
{
	struct vdisk_io io;
	u64 memory = 1;

	disk_init(&run.disk, made->file, made->file_size);
	run.meta.peek = peek;
	run.n_entries = made->file_size / run.meta.block + 1;
	run.entries = calloc(run.n_entries, sizeof(*run.entries));
	io = (struct vdisk_io){ .ctx = run.disk.seen,
				.size = made->file_size,
				.read = memory_read };
	if (vdisk_image_open(&io, &run.meta, &vhd_options, &run.vd, NULL))
		fail("the image does not open");
	run.engine = (struct vdisk_engine){ 0 };
	if (random_below(2))
		memory = 16 * 512;
	if (vdisk_engine_init(&run.engine, run.vd, &ops, NULL, memory))
		abort();
}

static void tear_down(void)
{
	vdisk_engine_exit(&run.engine);
	vdisk_image_close(run.vd);
	for (u64 i = 0; i < run.n_entries; i++)
		free(run.entries[i]);
	free(run.entries);
	disk_exit(&run.disk);
}

static void land_all(void)
{
	while (vdisk_engine_search(&run.engine) || run.n_flights)
		if (run.n_flights)
			land();
}

static void settle(void)
{
	land_all();
	submit_flush();
	land_all();
	if (run.engine.mode != VDISK_MODE_FAIL && vdisk_engine_dirty(&run.engine))
		fail("still dirty after a flush");
}

static void step(void)
{
	u64 what = random_below(100);

	if (run.n_flights && (run.n_ops > 32 || what < 50))
		land();
	else if (what < 85)
		submit_write();
	else if (what < 90)
		submit_flush();
	else if (what < 91)
		vdisk_engine_commit(&run.engine);
	else if (what < 92)
		vdisk_engine_search(&run.engine);
	else if (what < 97)
		read_some();
	else
		cut_power();
}

/* The machine runs, the power fails, the machine runs again with what is left. */
static void generations(struct made *made)
{
	for (int i = 0; i < 3; i++) {
		u8 *image = malloc(made->file_size);

		set_up(made);
		model_init(&run.model, made->stamps, made->sectors);
		for (int k = 0; k < 400; k++)
			step();
		if (i == 2)
			settle();
		disk_cut(&run.disk, 0, i != 2, image);
		check_cut(image, made->stamps);
		land_all();
		submit_flush(); /* so that nothing waits for ever */
		land_all();
		tear_down();
		model_exit(&run.model);
		memcpy(made->file, image, made->file_size);
		free(image);
	}
}

static void one_round(u64 number)
{
	struct recipe r = { .differencing = random_below(2),
			    .block = 4096U << random_below(3),
			    .blocks = 8 + (u32)random_below(40),
			    .align = number % 4 ? 512 : 4096 };

	r.last_sectors = r.align / SECTOR * (1 + (u32)random_below(r.block / r.align));
	r.room = (u32)random_below(r.blocks);
	memset(&run, 0, sizeof(run));
	run.align = r.align;
	run.meta.block = r.align;
	run.failing = number % 5 == 4;
	image_make(&r, &run.made);
	generations(&run.made);
	image_free(&run.made);
}

int main(int argc, char **argv)
{
	u64 rounds = 200, first = 20260101;

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--seed=", 7))
			first = strtoull(argv[i] + 7, NULL, 0);
		else if (!strncmp(argv[i], "--rounds=", 9))
			rounds = strtoull(argv[i] + 9, NULL, 0);
		else if (!strncmp(argv[i], "--break=", 8))
			broken = argv[i] + 8;
		else if (!strncmp(argv[i], "--dump=", 7))
			dump_folder = argv[i] + 7;
		else
			return 2;
	}
	for (u64 i = 0; i < rounds; i++) {
		seed = first + i;
		random_seed(seed * 2654435761ULL);
		one_round(seed);
	}
	printf("%llu power cuts survived (seeds %llu to %llu)\n", (unsigned long long)cuts,
	       (unsigned long long)first, (unsigned long long)(first + rounds - 1));
	return 0;
}
