/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The target `vdisk`: private to this folder.
 *
 *   target.c   what device-mapper calls: constructor, status, messages, suspend and resume
 *   args.c     the constructor's arguments
 *   map.c      the hot path: a bio comes in, and goes on at once if its place is known
 *   host.c     the worker: everything else
 *   write.c    writes to new places that need no worker
 *   io.c       bios that the worker sends, and the engine's actions
 *   copy.c     of these, the copies
 *   walk.c     zeros and discards, unit by unit
 *   users.c    who still uses a place that was given up
 *   inflate.c  compressed clusters
 *   fetch.c    reads metadata, for the worker
 *   meta.c     the cache of metadata blocks
 *
 * Locks, in this order; none is held while a bio is submitted that could need another of them,
 * but for `engine_lock`, which no completion takes:
 *
 *   open_lock    (mutex) opens and closes the image; who holds it may ask `vd` and queue calls
 *   engine_lock  (mutex) held by the worker while the engine runs: nobody else takes blocks out of
 *                the cache then, so the engine may look at them without RCU
 *   cache.lock   (spinlock) the cache's table and clock
 *   events.lock  (spinlock, interrupts off) what waits for the worker
 *   inflater.lock (spinlock, interrupts off) what waits for being inflated
 */
#ifndef DM_VDISK_H
#define DM_VDISK_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "engine.h"
#include "extents.h"

#define DM_MSG_PREFIX "vdisk"

struct dmv;

/* --- meta.c --- */

/* A block in the cache. `block` comes first, `refs` and `referenced` are the clock's. */
struct dmv_block {
	struct vdisk_block block;
	struct hlist_node hash;
	struct list_head clock;
	struct rcu_head rcu;
	struct dmv_cache *cache;
	u32 pins;	 /* cache->lock; cannot be evicted while not 0 */
	bool referenced; /* looked at since the clock's hand came by */
};

struct dmv_cache {
	struct vdisk_meta meta; /* what the formats see */
	struct mutex *owner;	/* engine_lock */
	u32 bits;		/* log2 of the number of buckets */
	u32 cost;		/* bytes that a block takes */
	u32 limit;		/* blocks */
	u32 count;		/* blocks; cache->lock */
	spinlock_t lock;	/* of the table and the clock */
	struct hlist_head *buckets;
	struct list_head clock; /* the hand stands before the first */
	mempool_t pool;
	struct shrinker *shrinker;
};

int dmv_cache_init(struct dmv_cache *c, struct mutex *owner, u32 block, u32 kib);
/* Nobody may look any more. Waits for RCU. */
void dmv_cache_exit(struct dmv_cache *c);
/* Is the block there? By the worker. */
bool dmv_cache_has(struct dmv_cache *c, u64 offset);
/*
 * Put a copy of a block there, unless there is one: that one stays, it may have been changed. With
 * `must` it may sleep until there is memory; else it is only done where that is easy. The block is
 * pinned if pinned is not NULL. By the worker.
 */
void dmv_cache_add(struct dmv_cache *c, u64 offset, const u8 *data, bool must,
		   struct vdisk_block **pinned);
bool dmv_cache_pin(struct dmv_cache *c, u64 offset, struct vdisk_block **block);
void dmv_cache_unpin(struct dmv_cache *c, struct vdisk_block *block);
/* The blocks of this range go; none is pinned. By the worker. */
void dmv_cache_forget(struct dmv_cache *c, u64 offset, u64 length);
/* Everything that is not pinned goes. Under engine_lock. */
void dmv_cache_drop(struct dmv_cache *c);
u64 dmv_cache_kib(const struct dmv_cache *c);

/* --- io.c --- */

/* Bios under way for one purpose. When the last one ends, `end` is called, in any context. */
struct dmv_job {
	struct dmv *d;
	atomic_t pieces;
	blk_status_t status; /* of the first that failed */
	void (*end)(struct dmv_job *job);
	struct vdisk_action *action; /* or NULL: a bio's own pieces */
	struct dmv_job *next;	     /* in events.done */
	struct percpu_ref *held;     /* users.c; or NULL */
	/* inflate.c: */
	struct list_head inflating;
	u64 packed_at;
	u32 packed; /* 0: nothing is compressed */
	void (*take)(struct dmv_job *job, const u8 *block);
};

/* A request to the engine, of a bio or of a call. */
struct dmv_req {
	struct vdisk_req req;
	struct bio *bio;    /* whose payload it is */
	struct dmv_job job; /* of that, under way */
	void (*end)(struct dmv_req *r, int error);
};

/* A bio that walk.c takes from unit to unit. */
struct dmv_walk {
	u64 at, end; /* of the virtual disk: what was not begun yet */
	u32 busy;    /* steps under way, and one while it waits for others */
	int error;   /* of the first that failed */
};

/* A bio that went on from the hot path, and that somebody has to be told of when it ends. */
struct dmv_hook {
	struct percpu_ref *held; /* or NULL */
	/* write.c: */
	struct dmv *d;
	u64 offset, length; /* of the virtual disk */
	/* what the bio has instead of these until then */
	bio_end_io_t *end_io;
	void *private;
};

/* In every bio that comes from device-mapper. Set up where the bio leaves the hot path. */
struct dmv_bio {
	union {
		struct {
			struct dmv_req req;
			bool all_packed; /* a read of nothing but compressed bytes */
			bool inflated;	 /* all of it was filled so; others lay their bytes over */
		};
		struct dmv_walk walk;
		struct dmv_hook hook;
	};
};

/* --- host.c --- */

/* Metadata being read for bios that wait. */
struct dmv_fetch {
	struct list_head list;	/* free or running; the worker's */
	struct dmv_fetch *next; /* in events.fetched */
	struct dmv *d;
	struct bio bio;
	struct bio_vec vec;
	struct bio_list waiting;
	u8 *buf;
	u64 offset;
	u32 length;
	bool stale; /* the engine may have changed a block meanwhile: use nothing of it */
};

#define DMV_FETCH_BYTES	 4096 /* read ahead at most, if a block is not larger */
#define DMV_FETCHES	 32
#define DMV_ENGINE_BYTES (128 << 10)
#define DMV_RESERVE	 64  /* blocks of the cache that need no allocation */
#define DMV_AT_ONCE	 256 /* bios, or steps of them, until others get their turn */

/* --- write.c --- */

#define DMV_ENDED 64

/* Writes that have ended without an error. */
struct dmv_ended {
	struct {
		u64 offset, length; /* of the virtual disk */
	} at[DMV_ENDED];
	u32 n;
};

/* What waits for the worker. */
struct dmv_events {
	spinlock_t lock; /* of all of this; completions take it */
	struct bio_list bios;
	struct dmv_job *done;
	struct dmv_fetch *fetched;
	struct list_head calls;
	bool commit;		 /* wanted */
	bool unused;		 /* users.c: a QUIESCE has ended */
	bool fail;		 /* the image is not there any more */
	bool at_rest;		 /* the worker's answer: nothing is under way */
	struct dmv_ended *ended; /* of those writes that no worker did; the other one is his */
	struct bio_list unnoted; /* those that have failed, or found no room there */
	bool awaited;		 /* the worker's answer: a commit waits for them */
};

struct dmv_stats {
	u64 hits, misses;
};

/* What status prints, as the worker saw it last; U64_MAX: not known. */
struct dmv_shown {
	int mode; /* -1: not known */
	u64 allocated, total, room, commits;
};

/* --- users.c --- */

/*
 * I/O to places that the tables told of, of formats that give places up. It is counted in one of
 * two groups; a QUIESCE lets new I/O go to the other one, and waits until the first is empty.
 */
struct dmv_group {
	struct percpu_ref ref;
	struct dmv *d;
};

struct dmv_users {
	struct dmv_group groups[2];
	struct percpu_ref *now;	     /* the group that new I/O joins */
	struct vdisk_action *action; /* the QUIESCE under way; the worker's */
	bool wanted;		     /* the format asks for it; constant while the image is open */
};

/* --- copy.c --- */

#define DMV_COPIES     4
#define DMV_COPY_BYTES (32 << 10) /* a piece: memory that is easy to get in one */

struct dmv_copy {
	struct dmv_job job; /* comes first */
	struct dmv_copy *next;
	u8 *buf;
	u64 at;	    /* bytes of the action that were copied */
	u32 length; /* of the piece under way */
	bool writing;
};

/* All the worker's. */
struct dmv_copies {
	struct dmv_copy *all, *free;
	struct vdisk_action *waiting, *waiting_last;
};

/* --- walk.c --- */

struct dmv_step {
	struct dmv_req r;
	struct dmv *d;
	struct dmv_step *next; /* of the free ones */
};

/* All the worker's. */
struct dmv_walks {
	struct dmv_step *all, *free;
	struct bio_list waiting; /* bios that were not walked to their end yet */
};

/* --- inflate.c --- */

#define DMV_INFLATED	   8 /* blocks that are kept, but not more than … */
#define DMV_INFLATED_BYTES (8 << 20)

struct dmv_inflated {
	u64 offset; /* of the compressed bytes */
	u32 packed; /* and how many; 0: the slot is empty */
	u32 age;    /* dmv_inflater.age when it was read */
	u8 *block;  /* or NULL */
};

struct dmv_inflater {
	struct workqueue_struct *wq; /* NULL: nothing can be compressed */
	struct work_struct work;
	spinlock_t lock;
	struct list_head jobs; /* lock */
	u32 age;	       /* what is older is not to be used; the worker's, read by all */
	/* the rest is the work's */
	bool zstd;
	u32 block_size;
	u32 packed_size; /* of the buffer */
	u8 *packed;
	void *workspace;
	size_t workspace_size;
	struct dmv_inflated slots[DMV_INFLATED];
	u32 n_slots, hand;
};

/* One table of a device. */
struct dmv {
	struct dm_target *ti;
	/* the constructor's, constant afterwards */
	char *line; /* the arguments, with devices by their numbers */
	char *format, *snapshot;
	struct dm_dev *dev, *parent, *data;
	u64 file_bytes;
	u64 file_end; /* file_bytes to the end of its last block: no access goes beyond */
	u32 block;    /* logical block of dev, bytes */
	u32 cache_kib;
	bool read_only, no_grow, ignore_discard, no_passdown;
	bool ro;       /* by the feature, or the table is loaded so */
	bool passdown; /* discards go below */
	struct vdisk_extents extents;

	/* the image; open while I/O may come */
	struct mutex open_lock, engine_lock;
	struct vdisk *vd;
	struct vdisk_engine engine;
	enum vdisk_mode sticky; /* that a suspend does not heal */
	bool marked;		/* the image as corrupt, by us */
	bool failed;		/* could not be opened: mode fail without an engine */
	bool seen;		/* identity is that of the first resume */
	u64 seen_size;
	u8 seen_uuid[16];
	bool seen_has_uuid;

	struct dmv_cache cache;
	struct dmv_stats __percpu *stats;
	struct dmv_shown shown;

	/* the worker */
	struct workqueue_struct *wq;
	struct work_struct work;
	struct delayed_work timer;
	struct dmv_events events;
	struct dmv_ended ended[2];
	struct bio_set bios;
	mempool_t jobs;
	struct vdisk_action *starting, *starting_last; /* the engine's, not started yet */
	u32 acting;				       /* started or waiting for it; the worker's */
	struct bio_list starved;		       /* waiting for a free fetch */
	struct dmv_fetch *fetches;
	u8 *fetch_buf; /* for reads that are waited for */
	u64 window_at; /* while the image is opened: what fetch_buf holds of the file … */
	u32 window;    /* … and how many bytes of it */
	struct list_head free_fetches, running_fetches;
	wait_queue_head_t idle;
	bool leaving; /* no timer any more */
	struct dmv_users users;
	struct dmv_copies copies;
	struct dmv_walks walks;
	struct dmv_inflater inflater;

	struct list_head list; /* target.c: all devices */
	bool writer;	       /* target.c: registered as the file's writer */
};

int dmv_host_init(struct dmv *d);
void dmv_host_exit(struct dmv *d);
/* Hand a bio to the worker: one with a payload is trimmed to its unit. Any context. */
void dmv_defer(struct dmv *d, struct bio *bio);
/*
 * Open the image and start the engine; under open_lock. -EINVAL was printed by dmv_check_image(),
 * other errors are the caller's to print.
 */
int dmv_host_open(struct dmv *d, struct vdisk_error *err);
/* Commit and close; under open_lock, with no bio under way. What cannot be written stays open. */
void dmv_host_close(struct dmv *d);
/* Commit without waiting; any context. */
void dmv_commit(struct dmv *d);
/* Commit and wait, but not for ever. */
void dmv_commit_wait(struct dmv *d, unsigned long timeout);
/* Commit and flush the device, or an error; under open_lock. */
int dmv_flush(struct dmv *d);
/* Forget metadata that is clean. */
void dmv_drop_cache(struct dmv *d);
/* Mode fail, for good: no write is begun any more. Waits for those that the worker has under way,
 * within reason; not for those that have gone on from map(). With open_lock held. */
void dmv_fail(struct dmv *d);

/* By the worker: map a bio, do what it says or park it. */
void dmv_process(struct dmv *d, struct bio *bio);
/* Under events.lock: once it is let go the worker may run, and the device be gone. */
void dmv_kick(struct dmv *d);

/* --- write.c --- */

/* A write that is not plain goes on to a place that the engine gives it now; false: it has to go to
 * the worker. Never waits. */
bool dmv_write_now(struct dmv *d, struct bio *bio);
/* By the worker: tell the engine what has ended since. */
void dmv_end_writes(struct dmv *d, struct dmv_ended *ended, struct bio_list *unnoted);

/* --- io.c; all by the worker, if nothing else is said --- */

/* With one piece, the caller's own: dmv_job_put() when all others are under way. Any context. */
void dmv_job_init(struct dmv_job *job, struct dmv *d, void (*end)(struct dmv_job *job));
void dmv_job_put(struct dmv_job *job, blk_status_t status);
/* length bytes of the bio, from `skip` on, go to or come from a device. */
void dmv_send_part(struct dmv_job *job, struct bio *bio, u64 skip, u64 length,
		   struct block_device *bdev, sector_t sector, bool fua);
/* These bytes of the bio read as zeros. Any context. */
void dmv_zero_part(struct bio *bio, u64 skip, u64 length);
/* Of the bio, for or from data of the disk, wherever they are. */
void dmv_send_data(struct dmv_job *job, struct bio *bio, u64 skip, u64 offset, u64 length,
		   bool fua);
/* n bytes of memory, less than a bio can hold, to or from a device; NULL: zeros. Anyone who may
 * sleep. */
void dmv_transfer(struct dmv_job *job, blk_opf_t opf, struct block_device *bdev, sector_t sector,
		  const u8 *buf, u64 n);
/* Any number of bytes of the image file, or of `guest` data of the disk. Likewise. */
void dmv_transfer_file(struct dmv_job *job, blk_opf_t opf, bool guest, u64 offset, u64 length,
		       const u8 *buf);
/* For dmv_job.end: the worker shall finish it. Any context. */
void dmv_action_ended(struct dmv_job *job);
/* Do what the engine wants, as far as there is memory for it. */
void dmv_start_actions(struct dmv *d);
void dmv_finish_action(struct dmv *d, struct dmv_job *job);

/* --- copy.c; all by the worker, or while there is none --- */

/* For an image that is being opened, or was closed. */
int dmv_copies_open(struct dmv *d);
void dmv_copies_close(struct dmv *d);
/* Begin, or wait for a free buffer. */
void dmv_copy(struct dmv *d, struct vdisk_action *a);
/* A step has ended. true: there is another. */
bool dmv_copy_goes_on(struct dmv *d, struct dmv_job *job);
/* The last one has ended: to the next copy that waits, if there is one. */
void dmv_copy_free(struct dmv *d, struct dmv_job *job);

/* --- walk.c; all by the worker, or while there is none --- */

/* For an image that is being opened, with its engine, or was closed. */
int dmv_walks_open(struct dmv *d);
void dmv_walks_close(struct dmv *d);
/* The bio, of zeros or a discard, waits for its turn. */
void dmv_walk(struct dmv *d, struct bio *bio);
/* As far as there are free steps, and not more than others can wait for. */
void dmv_walk_on(struct dmv *d);
/* Is there anything for dmv_walk_on()? */
bool dmv_can_walk(struct dmv *d);
/* A job of a step, without an action, has ended. */
void dmv_step_passed(struct dmv_job *job);

/* --- users.c --- */

int dmv_users_init(struct dmv *d);
void dmv_users_exit(struct dmv *d);
/* By the worker: begin the QUIESCE; and it has ended: now new I/O may be counted there again. */
void dmv_quiesce(struct dmv *d, struct vdisk_action *a);
struct vdisk_action *dmv_quiesced(struct dmv *d);

/* Before the tables are asked, where users are wanted. Any context, under RCU. */
static inline struct percpu_ref *dmv_hold_rcu(struct dmv *d)
{
	struct percpu_ref *group;

	for (;;) {
		/* Who joins the new group sees the tables as they were when it was opened. */
		group = smp_load_acquire(&d->users.now);
		if (!percpu_ref_tryget_live_rcu(group))
			continue;
		/* It may have been closed, and made ready for the next time, in between: then the
		 * other one has been opened before (and nobody would wait for this one). */
		smp_rmb();
		if (likely(group == READ_ONCE(d->users.now)))
			return group;
		percpu_ref_put(group);
	}
}

/* The same; NULL: not wanted. Any context. */
static inline struct percpu_ref *dmv_hold(struct dmv *d)
{
	struct percpu_ref *group;

	if (!d->users.wanted)
		return NULL;
	rcu_read_lock();
	group = dmv_hold_rcu(d);
	rcu_read_unlock();
	return group;
}

/* By who holds it, for another. */
static inline void dmv_hold_too(struct percpu_ref *held)
{
	if (held)
		percpu_ref_get(held);
}

/* Any context. */
static inline void dmv_release(struct percpu_ref *held)
{
	if (held)
		percpu_ref_put(held);
}

/* --- inflate.c --- */

int dmv_inflater_init(struct dmv *d);
void dmv_inflater_exit(struct dmv *d);
/* Memory for the blocks of an image that is being opened. On failure, and when it is closed:
 * dmv_inflater_close(), which frees what there is. */
int dmv_inflater_open(struct dmv *d, const struct vdisk *vd);
void dmv_inflater_close(struct dmv *d);
/* Inflate the block whose bytes are at job->packed_at, give it to job->take(), then put the job,
 * which must have been initialised. Any context. */
void dmv_inflate(struct dmv_job *job);
/* What was read before now is not to be used any more. By the worker. */
void dmv_inflated_forget(struct dmv *d);

/* --- fetch.c; all by the worker, or while there is none --- */

int dmv_fetches_init(struct dmv *d);
void dmv_fetches_exit(struct dmv *d);
/* The bio can be mapped only when the block of `need` is there: begin to read it. */
void dmv_park(struct dmv *d, struct bio *bio, const struct vdisk_map *need);
/* A read has ended: its blocks go to the cache, its bios on. */
void dmv_finish_fetch(struct dmv *d, struct dmv_fetch *f);
/* Bios that found no free fetch try again; true: they could go on doing so. */
bool dmv_unstarve(struct dmv *d);
/* vdisk_engine_ops.fetch, .pin and .forget */
int dmv_fetch_now(struct vdisk_engine *e, const struct vdisk_map *need);
int dmv_pin_now(struct vdisk_engine *e, u64 offset, struct vdisk_block **block);
void dmv_forget(struct vdisk_engine *e, u64 offset, u64 length);
/* vdisk_io.read: any bytes of the file, while it is opened */
int dmv_read_file(void *ctx, u64 offset, void *buf, size_t len);

static inline void dmv_end_bio(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
}

static inline struct dmv_bio *dmv_bio_of(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dmv_bio));
}

static inline struct bio *dmv_bio_from(struct dmv_bio *b)
{
	return dm_bio_from_per_bio_data(b, sizeof(*b));
}

/* When the bio, which goes on now, has ended, `ended` is called instead of who would have been, and
 * calls dmv_end_hooked() later. The rest of the hook is the caller's to fill in. */
static inline struct dmv_hook *dmv_hook(struct bio *bio, bio_end_io_t *ended)
{
	struct dmv_hook *hook = &dmv_bio_of(bio)->hook;

	hook->end_io = bio->bi_end_io;
	hook->private = bio->bi_private;
	bio->bi_end_io = ended;
	bio->bi_private = hook;
	return hook;
}

static inline void dmv_end_hooked(struct bio *bio)
{
	struct dmv_hook *hook = bio->bi_private;

	bio->bi_end_io = hook->end_io;
	bio->bi_private = hook->private;
	bio->bi_end_io(bio);
}

/* Where the bio begins on the virtual disk. */
static inline u64 dmv_offset(struct dmv *d, struct bio *bio)
{
	return (u64)dm_target_offset(d->ti, bio->bi_iter.bi_sector) << SECTOR_SHIFT;
}

/*
 * Where byte `offset` of the image file lies on the device, and how many of `length` bytes lie
 * together there. 0: outside of the file.
 */
static inline u64 dmv_locate(struct dmv *d, u64 offset, u64 length, sector_t *sector)
{
	const struct vdisk_extent *piece;
	u64 skip;

	if (offset >= d->file_end)
		return 0;
	piece = vdisk_extents_find(&d->extents, offset >> SECTOR_SHIFT);
	if (!piece)
		return 0;
	skip = (offset >> SECTOR_SHIFT) - piece->file;
	*sector = piece->device + skip;
	length = min(length, d->file_end - offset);
	return min(length, (piece->count - skip) << SECTOR_SHIFT);
}

/* The device that has the data of the disk. */
static inline struct dm_dev *dmv_data(struct dmv *d)
{
	return d->data ?: d->dev;
}

/* The same as dmv_locate() for data of the disk, on dmv_data(). */
static inline u64 dmv_locate_data(struct dmv *d, u64 offset, u64 length, sector_t *sector)
{
	u64 end;

	if (likely(!d->data))
		return dmv_locate(d, offset, length, sector);
	end = bdev_nr_bytes(d->data->bdev);
	if (offset >= end)
		return 0;
	*sector = offset >> SECTOR_SHIFT;
	return min(length, end - offset);
}

/* No data where dmv_locate_data() says so: a data file that was never written to its end. That of a
 * writable image is long enough: dmv_check_image(). */
static inline bool dmv_is_past_data(struct dmv *d, struct bio *bio)
{
	return d->data && d->ro && bio_op(bio) == REQ_OP_READ;
}

static inline u64 dmv_parent_bytes(struct dmv *d)
{
	return d->parent ? bdev_nr_bytes(d->parent->bdev) : 0;
}

/* Of the mapped device, for messages: its numbers, since a name can change. */
static inline const char *dmv_name(struct dmv *d)
{
	return dm_device_name(dm_table_get_md(d->ti->table));
}

/* --- args.c --- */

int dmv_parse(struct dmv *d, unsigned int argc, char **argv, char **error);

/* --- target.c --- */

/* Is this the image that the table means? -EINVAL, and says why not. */
int dmv_check_image(struct dmv *d, const struct vdisk *vd);

/* --- map.c --- */

int dmv_map(struct dm_target *ti, struct bio *bio);

#endif
