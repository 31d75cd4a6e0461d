// SPDX-License-Identifier: GPL-2.0-or-later
/* The host of the engine: a metadata cache that forgets, and actions that end when chance wants. */
#include "crash.h"
#include "qcow-check.h"

bool is_broken(const char *part)
{
	return !strcmp(broken, part);
}

/* ---- the metadata cache: what is not held may go at any time ---- */

static const u8 *peek(struct vdisk_meta *meta, u64 offset)
{
	struct meta_entry *e = run.entries[offset / meta->block];

	return e ? e->data : NULL;
}

static void evict(u64 i)
{
	if (!run.entries[i] || run.entries[i]->pins)
		return;
	free(run.entries[i]);
	run.entries[i] = NULL;
}

static void read_block(u64 offset)
{
	struct meta_entry **slot = &run.entries[offset / run.meta.block];
	u64 left = run.disks[0].size - offset;

	if (*slot)
		return;
	*slot = calloc(1, sizeof(**slot));
	if (!*slot)
		abort();
	(*slot)->block.offset = offset;
	(*slot)->block.data = (*slot)->data;
	memcpy((*slot)->data, run.disks[0].seen + offset,
	       left < run.meta.block ? left : run.meta.block);
}

/* And some behind it, of the same table. */
void fetch_block(const struct vdisk_map *need)
{
	u64 offset = need->offset, end = offset + need->length, ahead = random_below(4);

	random_hold(true);
	for (int i = 0; i < 8; i++)
		evict(random_below(run.n_entries));
	random_hold(false);
	if (offset % run.meta.block || offset >= run.disks[0].size)
		fail("block %#llx is fetched", (unsigned long long)offset);
	read_block(offset);
	for (offset += run.meta.block; ahead-- && offset < end && offset < run.disks[0].size;
	     offset += run.meta.block)
		read_block(offset);
}

static int fetch(struct vdisk_engine *engine, const struct vdisk_map *need)
{
	(void)engine;
	fetch_block(need);
	return 0;
}

static int pin(struct vdisk_engine *engine, u64 offset, struct vdisk_block **block)
{
	struct vdisk_map need = { .kind = VDISK_NEED, .offset = offset, .length = 1 };

	(void)engine;
	fetch_block(&need);
	run.entries[offset / run.meta.block]->pins++;
	*block = &run.entries[offset / run.meta.block]->block;
	return 0;
}

static void unpin(struct vdisk_engine *engine, struct vdisk_block *block)
{
	(void)engine;
	((struct meta_entry *)block)->pins--;
}

static void forget(struct vdisk_engine *engine, u64 offset, u64 length)
{
	(void)engine;
	run.forgotten = offset;
	for (u64 at = offset; at < offset + length; at += run.meta.block) {
		u64 i = at / run.meta.block;

		if (run.entries[i] && run.entries[i]->pins)
			fail("block %#llx is forgotten and held", (unsigned long long)at);
		evict(i);
	}
}

/* ---- actions ---- */

static bool left_out(const struct vdisk_action *a)
{
	enum vdisk_commit_state state = run.engine.state;

	switch (a->kind) {
	case VDISK_ACT_FLUSH:
		return (state == VDISK_FLUSH_DATA && is_broken("flush-data")) ||
		       (state == VDISK_FLUSH_ROOT && is_broken("flush-root")) ||
		       (state == VDISK_FLUSH_LINKS && is_broken("flush-links"));
	case VDISK_ACT_ZERO:
		return state == VDISK_PREPARE ? is_broken("prepare") : is_broken("zero");
	case VDISK_ACT_COPY:
		return state == VDISK_PREPARE ? is_broken("prepare") : is_broken("copy");
	case VDISK_ACT_WRITE:
		return (state == VDISK_FILL && is_broken("head")) ||
		       (state == VDISK_COUNT && is_broken("count"));
	default:
		return false;
	}
}

void fly(struct flight f)
{
	if (run.n_flights == FLIGHTS)
		fail("more actions than anyone should need");
	f.born = run.born++;
	run.flights[run.n_flights++] = f;
}

static struct disk *disk_of(bool guest)
{
	return &run.disks[guest && run.n_disks > 1];
}

static void inflate_answer(const struct vdisk_map *m, u8 *cluster)
{
	const struct disk *d = &run.disks[0];

	if (m->offset >= d->size || m->packed > d->size - m->offset)
		fail("a stream outside of the file");
	if (!qcow_inflate(d->seen + m->offset, m->packed, cluster, run.vd->info.block_size))
		fail("the stream at %#llx is damaged", (unsigned long long)m->offset);
}

/* The bytes of the disk that an answer is about; length for as long as it is valid. */
static void read_bytes(const struct vdisk_map *m, u64 disk, u64 length, bool guest, u8 *out)
{
	u64 block = run.vd->info.block_size, size = run.made.parent_sectors * SECTOR;
	u8 *cluster;

	memset(out, 0, length);
	switch (m->kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		if (m->offset > disk_of(guest)->size || length > disk_of(guest)->size - m->offset)
			fail("a read at %#llx, outside of the file", (unsigned long long)m->offset);
		memcpy(out, disk_of(guest)->seen + m->offset, length);
		break;
	case VDISK_PARENT:
		if (disk < size)
			memcpy(out, run.made.parent + disk,
			       length < size - disk ? length : size - disk);
		break;
	case VDISK_COMPRESSED:
		cluster = malloc(block);
		inflate_answer(m, cluster);
		if (length > block - disk % block)
			fail("a compressed answer of %llu bytes", (unsigned long long)length);
		memcpy(out, cluster + disk % block, length);
		free(cluster);
		break;
	case VDISK_ZERO:
		break;
	case VDISK_NEED:
		fail("nobody knows what is at %#llx of the disk", (unsigned long long)disk);
	}
}

u64 read_answer(const struct vdisk_map *m, u64 sector)
{
	u8 bytes[SECTOR];

	read_bytes(m, sector * SECTOR, SECTOR, true, bytes);
	return stamp_of(bytes);
}

/* What the action writes; a copy reads it now. */
static u8 *bytes_of(const struct vdisk_action *a)
{
	u8 *data;

	if (a->kind == VDISK_ACT_DATA)
		return payload((struct op *)a->req);
	data = calloc(1, a->length);
	if (!data)
		abort();
	if (a->kind == VDISK_ACT_WRITE)
		memcpy(data, a->buf, a->length);
	else if (a->kind == VDISK_ACT_COPY)
		read_bytes(&a->from, a->disk, a->length, a->guest, data);
	return data;
}

static void begin_write(struct flight *f)
{
	u8 *data = bytes_of(f->action);

	f->disk = disk_of(f->action->guest);
	f->write = disk_write(f->disk, f->action->offset, data, f->action->length);
	free(data);
}

static void start(struct vdisk_engine *engine, struct vdisk_action *a)
{
	struct flight f = { .action = a };

	(void)engine;
	if (a->kind == VDISK_ACT_DATA)
		((struct op *)a->req)->started = true;
	if (!a->guest && (a->kind == VDISK_ACT_ZERO || a->kind == VDISK_ACT_COPY) &&
	    a->offset != run.forgotten)
		fail("a new table at %#llx, and the cache was not told",
		     (unsigned long long)a->offset);
	if (!left_out(a) && a->kind == VDISK_ACT_FLUSH) {
		f.flushing = true;
		for (int i = 0; i < run.n_disks; i++)
			f.flush_began[i] = disk_begin_flush(&run.disks[i]);
	} else if (!left_out(a) && a->kind != VDISK_ACT_QUIESCE) {
		if (a->kind != VDISK_ACT_COPY || random_below(2))
			begin_write(&f);
	}
	fly(f);
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
	fail("a bad entry at %#llx: %#llx", (unsigned long long)answer->offset,
	     (unsigned long long)answer->home);
}

const struct vdisk_engine_ops host_ops = { start, complete, fetch,	  pin,
					   unpin, forget,   mode_changed, bad_entry };

/* ---- the end of things ---- */

/* What the user had mapped before the engine asked ends before the answer. */
static bool has_to_wait(const struct flight *f)
{
	if (!f->action)
		return random_below(6) != 0; /* so that much happens meanwhile */
	if (f->action->kind != VDISK_ACT_QUIESCE || is_broken("quiesce"))
		return false;
	for (int i = 0; i < run.n_flights; i++)
		if (!run.flights[i].action && run.flights[i].born < f->born)
			return true;
	return false;
}

static void end_action(const struct flight *f, bool failed)
{
	const struct vdisk_action *a = f->action;

	if (failed && a->guest && a->kind == VDISK_ACT_COPY)
		model_lose(&run.model);
	if (f->write)
		disk_end_write(f->disk, f->write, failed, a->fua);
	for (int i = 0; i < run.n_disks && f->flushing && !failed; i++)
		disk_end_flush(&run.disks[i], f->flush_began[i]);
	vdisk_engine_done(&run.engine, f->action, failed ? -EIO : 0);
}

/* As the kernel's worker does it. */
static void end_at_once(const struct vdisk_req *req, int error)
{
	vdisk_engine_end_write(&run.engine, req->offset, req->length, error);
	if (run.engine.state == VDISK_DRAIN || vdisk_engine_wants_step(&run.engine))
		vdisk_engine_search(&run.engine);
}

void land(void)
{
	int i = (int)random_below(run.n_flights);
	struct flight f = run.flights[i];
	bool failed = run.failing && !random_below(60);

	if (has_to_wait(&f))
		return;
	if (f.action && f.action->kind == VDISK_ACT_COPY && !f.write && !left_out(f.action)) {
		begin_write(&run.flights[i]); /* its source has been read now */
		return;
	}
	run.flights[i] = run.flights[--run.n_flights];
	if (f.reading) {
		end_reading(f.reading);
	} else if (f.op) {
		disk_end_write(f.disk, f.write, failed, f.op->req.fua);
		if (f.op->at_once)
			end_at_once(&f.op->req, failed ? -EIO : 0);
		end_op(f.op, failed ? -EIO : 0);
	} else {
		end_action(&f, failed && f.action->kind != VDISK_ACT_QUIESCE);
	}
	look_at_discards();
}

/* ---- a machine ---- */

static void open_image(void)
{
	const struct vdisk_options options = { .format = run.family->name };
	struct vdisk_error err = { 0 };
	struct vdisk_io io = { .ctx = run.disks[0].seen,
			       .size = run.disks[0].size,
			       .read = memory_read };
	char words[512];

	if (!vdisk_image_open(&io, &run.meta, &options, &run.vd, &err))
		return;
	vdisk_error_text(&err, words, sizeof(words));
	fail("the image does not open: %s", words);
}

void host_init(void)
{
	u64 memory = 1;

	disk_init(&run.disks[0], run.made.file, run.made.file_size);
	run.n_disks = 1;
	if (run.made.data)
		disk_init(&run.disks[run.n_disks++], run.made.data, run.made.data_size);
	run.meta.peek = peek;
	run.n_entries = run.made.file_size / run.meta.block + 1;
	run.entries = calloc(run.n_entries, sizeof(*run.entries));
	open_image();
	run.engine = (struct vdisk_engine){ 0 };
	if (random_below(2))
		memory = 16 * 512;
	if (vdisk_engine_init(&run.engine, run.vd, &host_ops, NULL, memory))
		abort();
}

void host_exit(void)
{
	vdisk_engine_exit(&run.engine);
	vdisk_image_close(run.vd);
	for (u64 i = 0; i < run.n_entries; i++)
		free(run.entries[i]);
	free(run.entries);
	for (int i = 0; i < run.n_disks; i++)
		disk_exit(&run.disks[i]);
}
