// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compressed blocks: read, inflated, kept for a while. One work item for each device, on a queue of
 * its own, so that neither the hot path nor the engine's worker waits for it; it waits for reads
 * of its own device only.
 *
 * Memory for one block is there before it is needed; more blocks are kept where memory is easy to
 * get. What a stream inflates to is never longer than a block, whatever it says about itself.
 *
 * A block that was read before its place was given up must not be found after that: see `age`.
 */
#include <linux/highmem.h>
#include <linux/sched/mm.h>
#include <linux/vmalloc.h>
#include <linux/zlib.h>
#include <linux/zstd.h>

#include "dm-vdisk.h"

/* qcow2.txt, "Compression type": raw deflate with a window of 4096 bytes */
#define DEFLATE_WINDOW (-12)

/* --- the two algorithms: exactly one block or an error --- */

static int inflate_deflate(struct dmv_inflater *f, const u8 *from, u32 length, u8 *to)
{
	struct z_stream_s s = { .workspace = f->workspace };
	int ret = zlib_inflateInit2(&s, DEFLATE_WINDOW);

	if (ret != Z_OK)
		return -EIO;
	s.next_in = from;
	s.avail_in = length;
	s.next_out = to;
	s.avail_out = f->block_size;
	ret = zlib_inflate(&s, Z_FINISH);
	zlib_inflateEnd(&s);
	/* The stream may say nothing about its end. */
	return !s.avail_out && (ret == Z_STREAM_END || ret == Z_BUF_ERROR) ? 0 : -EIO;
}

/* One frame or more, and after the last anything: only whole sectors are counted. */
static int inflate_zstd(struct dmv_inflater *f, const u8 *from, u32 length, u8 *to)
{
	zstd_dctx *ctx = zstd_init_dctx(f->workspace, f->workspace_size);
	u32 done = 0;
	size_t n, size;

	if (!ctx)
		return -EIO;
	/* Ends: a frame is not empty. */
	while (done < f->block_size) {
		n = zstd_find_frame_compressed_size(from, length);
		if (zstd_is_error(n) || !n || n > length)
			return -EIO;
		size = zstd_decompress_dctx(ctx, to + done, f->block_size - done, from, n);
		if (zstd_is_error(size))
			return -EIO;
		done += size;
		from += n;
		length -= n;
	}
	return 0;
}

/* --- reading --- */

struct read_job {
	struct dmv_job job;
	struct completion ended;
};

static void read_ended(struct dmv_job *job)
{
	complete(&container_of(job, struct read_job, job)->ended);
}

/* All device blocks that the bytes are in; *skip is where they begin in the buffer. */
static int read_packed(struct dmv *d, u64 offset, u32 length, u32 *skip)
{
	struct dmv_inflater *f = &d->inflater;
	u64 start = round_down(offset, d->block), end = round_up(offset + length, d->block);
	struct read_job r = {};

	if (end - start > f->packed_size)
		return -EIO;
	init_completion(&r.ended);
	dmv_job_init(&r.job, d, read_ended);
	dmv_transfer_file(&r.job, REQ_OP_READ, false, start, end - start, f->packed);
	dmv_job_put(&r.job, BLK_STS_OK);
	wait_for_completion(&r.ended);
	if (is_vmalloc_addr(f->packed))
		invalidate_kernel_vmap_range(f->packed, end - start);
	*skip = offset - start;
	return blk_status_to_errno(r.job.status);
}

/* --- blocks that are kept --- */

static bool fits(struct dmv_inflater *f, const struct dmv_inflated *slot, const struct dmv_job *job)
{
	return slot->packed == job->packed && slot->offset == job->packed_at &&
	       slot->age == READ_ONCE(f->age);
}

static struct dmv_inflated *find_slot(struct dmv_inflater *f, const struct dmv_job *job)
{
	u32 i;

	for (i = 0; i < f->n_slots; i++)
		if (fits(f, &f->slots[i], job))
			return &f->slots[i];
	return NULL;
}

/* The one that was filled longest ago. The first always has memory. */
static struct dmv_inflated *next_slot(struct dmv_inflater *f)
{
	struct dmv_inflated *slot = &f->slots[f->hand];

	if (!slot->block)
		slot->block = kvmalloc(f->block_size, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!slot->block)
		slot = &f->slots[0];
	f->hand = (slot - f->slots + 1) % f->n_slots;
	return slot;
}

static int fill_slot(struct dmv *d, struct dmv_inflated *slot, const struct dmv_job *job)
{
	struct dmv_inflater *f = &d->inflater;
	u32 skip;
	int ret;

	slot->packed = 0;
	slot->age = READ_ONCE(f->age); /* before it is read */
	ret = read_packed(d, job->packed_at, job->packed, &skip);
	if (ret)
		return ret;
	if (f->zstd)
		ret = inflate_zstd(f, f->packed + skip, job->packed, slot->block);
	else
		ret = inflate_deflate(f, f->packed + skip, job->packed, slot->block);
	if (ret) {
		DMERR_LIMIT("%s: %u bytes at offset %llu of the file are no %s stream of %u bytes",
			    dmv_name(d), job->packed, job->packed_at, f->zstd ? "zstd" : "deflate",
			    f->block_size);
		return ret;
	}
	slot->offset = job->packed_at;
	slot->packed = job->packed;
	return 0;
}

void dmv_inflated_forget(struct dmv *d)
{
	WRITE_ONCE(d->inflater.age, d->inflater.age + 1);
}

/* --- the work --- */

/* The first of the jobs, and all others that want the same block: to inflate it again for each
 * would be slow. */
static void serve_first(struct dmv *d, struct list_head *jobs)
{
	struct dmv_inflater *f = &d->inflater;
	struct dmv_job *job = list_first_entry(jobs, struct dmv_job, inflating), *next;
	u64 offset = job->packed_at;
	u32 packed = job->packed;
	struct dmv_inflated *slot = find_slot(f, job);
	int ret = 0;

	if (!slot) {
		slot = next_slot(f);
		ret = fill_slot(d, slot, job);
	}
	list_for_each_entry_safe(job, next, jobs, inflating) {
		if (job->packed_at != offset || job->packed != packed)
			continue;
		list_del(&job->inflating);
		if (!ret)
			job->take(job, slot->block);
		dmv_job_put(job, errno_to_blk_status(ret));
	}
}

static void do_inflate(struct work_struct *work)
{
	struct dmv *d = container_of(work, struct dmv, inflater.work);
	unsigned int noio = memalloc_noio_save();
	LIST_HEAD(jobs);

	spin_lock_irq(&d->inflater.lock);
	list_splice_init(&d->inflater.jobs, &jobs);
	spin_unlock_irq(&d->inflater.lock);
	while (!list_empty(&jobs)) {
		serve_first(d, &jobs);
		cond_resched();
	}
	memalloc_noio_restore(noio);
}

void dmv_inflate(struct dmv_job *job)
{
	struct dmv_inflater *f = &job->d->inflater;
	unsigned long flags;

	spin_lock_irqsave(&f->lock, flags);
	list_add_tail(&job->inflating, &f->jobs);
	queue_work(f->wq, &f->work);
	spin_unlock_irqrestore(&f->lock, flags);
}

/* --- beginning and end --- */

static int alloc_memory(struct dmv_inflater *f)
{
	f->packed = kvmalloc(f->packed_size, GFP_NOIO);
	f->workspace = kvmalloc(f->workspace_size, GFP_NOIO);
	f->slots[0].block = kvmalloc(f->block_size, GFP_NOIO);
	return f->packed && f->workspace && f->slots[0].block ? 0 : -ENOMEM;
}

int dmv_inflater_open(struct dmv *d, const struct vdisk *vd)
{
	struct dmv_inflater *f = &d->inflater;

	if (!vd->info.compression)
		return 0;
	f->zstd = !strcmp(vd->info.compression, "zstd");
	f->block_size = vd->info.block_size;
	/* An entry can say two blocks at most, qcow2.txt, "Compressed Clusters Descriptor". */
	f->packed_size = 2 * (f->block_size + d->block);
	f->workspace_size = f->zstd ? zstd_dctx_workspace_bound() : zlib_inflate_workspacesize();
	f->n_slots = clamp_t(u32, DMV_INFLATED_BYTES / f->block_size, 1, DMV_INFLATED);
	f->hand = 0;
	return alloc_memory(f);
}

void dmv_inflater_close(struct dmv *d)
{
	struct dmv_inflater *f = &d->inflater;
	int i;

	for (i = 0; i < DMV_INFLATED; i++) {
		kvfree(f->slots[i].block);
		f->slots[i] = (struct dmv_inflated){};
	}
	kvfree(f->workspace);
	kvfree(f->packed);
	f->workspace = NULL;
	f->packed = NULL;
}

int dmv_inflater_init(struct dmv *d)
{
	struct dmv_inflater *f = &d->inflater;

	INIT_WORK(&f->work, do_inflate);
	spin_lock_init(&f->lock);
	INIT_LIST_HEAD(&f->jobs);
	if (!strcmp(d->format, "vhd"))
		return 0;
	f->wq = alloc_ordered_workqueue("vdisk-z/%s", WQ_MEM_RECLAIM, dmv_name(d));
	return f->wq ? 0 : -ENOMEM;
}

void dmv_inflater_exit(struct dmv *d)
{
	if (d->inflater.wq)
		destroy_workqueue(d->inflater.wq);
}
