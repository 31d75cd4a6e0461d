// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any bytes as $LogFile: a walk ends, what a record points to lies in it, and what the record means
 * for a file can be told.
 */
#include "../../ntfsmap/msg.h"
#include "../../ntfsmap/pending.h"
#include "fuzz.h"

static struct vdisk_extent mft[] = { { 0, 64, 512 }, { 512, 8192, 512 } };
static struct vdisk_extent bitmap[] = { { 0, 1024, 16 } };
static struct vdisk_extent data[] = { { 0, 2048, 64 }, { 64, 4096, 1024 } };
static struct record_place records[] = { { 5, 1 << 20 }, { 64, 0 }, { 65, UINT64_MAX } };

/* A small volume and a file on it. */
static const struct volume_places volume = { .cluster_size = 4096,
					     .record_size = 1024,
					     .mft = { .v = mft, .n = 2 },
					     .bitmap = { .v = bitmap, .n = 1 } };
static const struct file_places file = { .v = records, .n = 3, .clusters = { .v = data, .n = 2 } };

struct look {
	struct pending pending;
	u64 n, last;
	u64 sum; /* so that all bytes are read */
};

static void add_bytes(struct look *l, const uint8_t *bytes, size_t n)
{
	if (n)
		l->sum += number_of(bytes, n);
}

static int look_at_record(void *ctx, const struct log_record *r)
{
	struct look *l = ctx;
	struct touch touch;

	expect(r->lsn > l->last || !l->n, "LSN 0x%" PRIx64 " follows 0x%" PRIx64, r->lsn, l->last);
	expect(r->type == LOG_RECORD_CLIENT || r->type == LOG_RECORD_RESTART, "type %u", r->type);
	l->n++;
	l->last = r->lsn;
	if (r->n_lcns)
		add_bytes(l, r->lcns, 8u * r->n_lcns);
	add_bytes(l, r->redo_data, r->redo_length);
	add_bytes(l, r->undo_data, r->undo_length);
	log_operation_name(r->redo);
	pending_look(&l->pending, r);
	touch = pending_touch(&volume, &file, r);
	expect(!(touch.what & ~15u), "it touches %#x", touch.what);
	free(pending_touch_text(&touch));
	return 0;
}

static int read_log(void *ctx, uint64_t offset, void *buf, size_t len)
{
	struct vdisk_io io = memory_io(ctx, false);

	return io.read(ctx, offset, buf, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct memory m = memory_of(bytes, size);
	struct log_io io = { &m, read_log, size };
	struct look l = { .pending = { .volume = &volume, .file = &file } };
	struct log log;
	bool whole = false;
	int ret = log_open(&io, &log);

	expect(!ret, "open: %d", ret);
	expect(memchr(log.problem, 0, sizeof(log.problem)), "the problem has no end");
	expect(log.kind != LOG_INVALID || *log.problem, "an invalid log without a problem");
	ret = log_walk(&log, look_at_record, &l, &whole);
	expect(!ret, "walk: %d", ret);
	expect(whole || *log.problem, "the walk ends early, without a problem");
	pending_end(&l.pending);
	expect(l.pending.touching <= l.pending.records && l.pending.records == l.n,
	       "%" PRIu64 " of %" PRIu64 " records touch the file", l.pending.touching,
	       l.pending.records);
	log_close(&log);
	memory_free(&m);
	return 0;
}
