/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine: allocation and commit, one machine for the kernel, the library and the crash tests.
 *
 * Events go in (vdisk_engine_submit, _done, _commit), actions come out (ops->start) and requests
 * end (ops->complete). The engine does no I/O, takes no lock and never waits, except in
 * ops->fetch and ops->pin, where the host may sleep (what was peeked at before is not used after).
 * ONE caller at a time; the host must not call back from inside an operation: it completes an
 * action later, from its own loop.
 *
 * What is written without a durable pointer to it lives in a PENDING UNIT: a place in the file
 * (its home) and one bit for each sector that a finished write has covered. Tables change only
 * inside a commit, in this order:
 *
 *   seal     no new writes to the pending units; those under way finish
 *   fill     what nobody covered of a new unit is zeroed, or copied from where it was until now;
 *            its head (bitmap) is written
 *   prepare  new tables are zeroed or copied
 *   count    refcounts of new places go up, those of places that were given up go down
 *   flush    now everything that the next steps will point at is durable
 *   root     headers and refcount table; and flush, if there was any of it
 *   link     BAT, L1 and L2 entries and bitmap bits are set in the cache and written
 *   flush    now they are durable: the units are gone, the waiting flushes are answered
 *
 * Without the first flush, a power cut could leave a pointer to stale bytes of the disk, or to a
 * cluster that counts as free; without the last, a flush would be answered before its data can be
 * found again. Any crash in between leaves the old pointers, and room that is taken again at the
 * next open, or, with refcounts, leaks.
 *
 * A place that a commit has replaced is given up: when its new pointer is durable and no I/O that
 * was mapped there is under way (QUIESCE), the next commit gives it back, and after that it may be
 * taken. Zeros and discards of whole clusters are units without a home: they change tables only,
 * and are answered when the commit has ended, so that nobody can have seen them before.
 */
#ifndef VDISK_ENGINE_H
#define VDISK_ENGINE_H

#include "image.h"

struct vdisk_engine;
struct vdisk_req;

/* In order of badness; a mode is only left for a worse one. */
enum vdisk_mode {
	VDISK_MODE_RW,
	VDISK_MODE_OUT_OF_SPACE, /* writes that need room fail with -ENOSPC */
	VDISK_MODE_RO,		 /* all writes fail with -EROFS */
	VDISK_MODE_NEEDS_CHECK, /* a table entry is damaged: writes that need room fail with -EIO */
	VDISK_MODE_FAIL,	/* a table could not be written: all writes and flushes fail */
};

/* "rw", "out_of_space", … */
const char *vdisk_mode_name(enum vdisk_mode mode);

enum vdisk_act {
	VDISK_ACT_DATA,	 /* the request's payload (for ZEROES: zeros) to offset of the file */
	VDISK_ACT_ZERO,	 /* zeros to [offset, offset + length) of the file */
	VDISK_ACT_COPY,	 /* to there, what `from` says about the byte `disk` of the virtual disk */
	VDISK_ACT_WRITE, /* buf to offset of the file; must not change what buf points at */
	VDISK_ACT_FLUSH, /* everything that was completed is durable on every device */
	/* Reads, writes and discards of the user that were mapped before now, by
	 * vdisk_image_map() or vdisk_engine_map(), have ended. */
	VDISK_ACT_QUIESCE,
};

/* Something for the host to do; ends with vdisk_engine_done(). Bytes, multiples of 512 (and of the
 * metadata block for WRITE; for the others if the requests and the image are so aligned). */
struct vdisk_action {
	enum vdisk_act kind;
	bool fua; /* DATA: the request asked for it, and no commit will follow */
	/* Data of the disk: offset, and from.offset of kind DATA or SHARED, are in the data file if
	 * the image has one (vdisk_info.needs_data). */
	bool guest;
	u64 offset, length;
	const void *buf;
	/* COPY: DATA, SHARED (of the file), PARENT (of the parent at `disk`, zeros past its end) or
	 * COMPRESSED (its block is the one that `disk` is in). Never across blocks. */
	struct vdisk_map from;
	u64 disk;
	struct vdisk_req *req;							 /* DATA */
	void (*done)(struct vdisk_engine *e, struct vdisk_action *a, int error); /* engine's */
	void *owner;								 /* engine's */
	struct vdisk_action *next; /* the host's, while it runs */
};

enum vdisk_req_op {
	VDISK_REQ_WRITE,
	VDISK_REQ_ZEROES,  /* a write whose payload is zeros */
	VDISK_REQ_DISCARD, /* a hint; only if vd->can_discard */
	VDISK_REQ_FLUSH,   /* everything completed before is durable */
};

/* A request, zero-initialised but for the first part, which the host fills in. The engine owns it
 * from vdisk_engine_submit() until ops->complete(). */
struct vdisk_req {
	enum vdisk_req_op op;
	bool fua;
	u64 offset, length; /* of the virtual disk, whole sectors; not across units */
	/* the engine's */
	struct vdisk_req *next;
	struct vdisk_unit *unit;
	struct vdisk_action action;
};

struct vdisk_queue {
	struct vdisk_req *first, *last;
};

/* A pending unit. */
struct vdisk_unit {
	struct vdisk_unit *next; /* of its bucket, or of the free ones */
	u64 index;		 /* virtual offset >> unit_shift */
	u64 home;		 /* file offset of its first byte */
	bool fresh;		 /* new: nothing points to it yet */
	bool clear;		 /* what is covered shall read as zeros; there is no home */
	bool unmap;		 /* clear: and the place it had is given up */
	bool used;
	bool sealed;		    /* taken by the running commit */
	int error;		    /* it could not be filled */
	u32 writes;		    /* under way */
	u8 *head;		    /* what goes in front of a fresh unit's home */
	u8 *covered;		    /* the end of head: a bit per sector, most significant first */
	struct vdisk_queue waiting; /* for the commit to end */
	struct vdisk_action action; /* of the fill */
	u64 filled;		    /* bytes of the unit looked at by the fill */
};

struct vdisk_engine_ops {
	void (*start)(struct vdisk_engine *e, struct vdisk_action *a);
	void (*complete)(struct vdisk_engine *e, struct vdisk_req *req, int error);
	/* Bring the metadata block that a VDISK_NEED answer names into the cache, and as many after
	 * it as the host likes. May sleep. What was peeked at before is gone. 0 or an errno. */
	int (*fetch)(struct vdisk_engine *e, const struct vdisk_map *need);
	/* The same, and keep it there until unpin: its contents will be changed. May sleep. */
	int (*pin)(struct vdisk_engine *e, u64 offset, struct vdisk_block **block);
	void (*unpin)(struct vdisk_engine *e, struct vdisk_block *block);
	/* This part of the file becomes a table: cached blocks of it, and reads of metadata under
	 * way, are of something else and must not be seen any more. None is pinned. */
	void (*forget)(struct vdisk_engine *e, u64 offset, u64 length);
	/* The mode has become worse or better: tell the user. */
	void (*mode_changed)(struct vdisk_engine *e);
	/* A damaged table entry, as vdisk_image_map() describes it. */
	void (*bad_entry)(struct vdisk_engine *e, const struct vdisk_map *answer);
};

enum vdisk_commit_state {
	VDISK_IDLE,
	VDISK_DRAIN,
	VDISK_FILL,
	VDISK_PREPARE,
	VDISK_COUNT,
	VDISK_FLUSH_DATA,
	VDISK_ROOT,
	VDISK_FLUSH_ROOT,
	VDISK_LINK,
	VDISK_FLUSH_LINKS,
};

#define VDISK_BUCKETS 1024 /* a power of two */
#define VDISK_BATCH   16   /* dirty blocks at once */

struct vdisk_engine {
	struct vdisk *vd;
	const struct vdisk_engine_ops *ops;
	void *host;
	enum vdisk_mode mode;
	struct vdisk_space space;
	bool no_grow;  /* the host's: never take room */
	bool readonly; /* the host's, or the image is: no writes, whatever the mode is */
	u64 commits;   /* that changed a table */

	struct vdisk_unit *buckets[VDISK_BUCKETS]; /* pending units; others may look if empty */
	struct vdisk_unit *units;		   /* all, n_units of them */
	struct vdisk_unit *free;
	u32 n_units, n_pending;
	u32 cover_bytes, unit_memory; /* of one unit */
	u8 *heads;		      /* their memory */

	enum vdisk_commit_state state;
	u32 busy;     /* actions of the commit under way */
	u32 draining; /* writes under way to sealed units */
	int error;    /* of the commit */
	int lost; /* a unit could not be filled, its writes are lost, and no flush has said so */
	struct vdisk_action flush, quiesce;
	struct vdisk_queue flushing; /* requests that the running commit answers */
	struct vdisk_queue flushes;  /* those for the next */
	struct vdisk_queue starved;  /* writes that found no free unit */
	struct vdisk_queue roomless; /* writes that may find room when a commit has ended */
	struct vdisk_queue seeking;  /* writes that wait for need */
	struct vdisk_map need;	     /* the block that the search for room wants to see */
	struct vdisk_queue gated;    /* writes that wait for the header */
	u32 at_unit, at_n;	     /* how far the step of the commit has come */
	u32 edits;		     /* blocks that it has changed */
	struct vdisk_block *dirty;
	struct vdisk_action batch[VDISK_BATCH];
	struct vdisk_queue ready; /* to be started again */
	bool linking;		  /* the commit changes tables */
	bool commit_wanted;
	bool retry; /* one has */
	bool quiescing;
	bool counting; /* room was needed: how much is left is worth knowing */
};

/*
 * Set up e (zeroed by the caller) over an open image. All the memory that the engine will ever
 * need is allocated here: at most memory_limit bytes, if that is enough for four units. -ENOMEM.
 */
int vdisk_engine_init(struct vdisk_engine *e, struct vdisk *vd, const struct vdisk_engine_ops *ops,
		      void *host, size_t memory_limit);
/* Nothing may be under way. What was not committed is lost. */
void vdisk_engine_exit(struct vdisk_engine *e);

void vdisk_engine_submit(struct vdisk_engine *e, struct vdisk_req *req);
void vdisk_engine_done(struct vdisk_engine *e, struct vdisk_action *a, int error);

/*
 * A write without a request, where nothing has to be waited for: to units that are pending already,
 * or get a place at once. How many of `length` bytes of the disk at offset, which may lie in
 * several units, go together to byte *place of the file (of the data file, if there is one); 0:
 * submit a request. The host writes them there and says for each unit that it has ended: only then
 * they can be read. Nothing is begun in these calls, and the host is not called: when a write has
 * ended that a commit waits for (state DRAIN), or one is wanted, vdisk_engine_search() goes on.
 */
u64 vdisk_engine_begin_write(struct vdisk_engine *e, u64 offset, u64 length, u64 *place);
/* Of a write that was begun these bytes, with all that it has in their units. */
void vdisk_engine_end_write(struct vdisk_engine *e, u64 offset, u64 length, int error);
bool vdisk_engine_wants_step(const struct vdisk_engine *e);

/* Start a commit if there is anything to be committed; it ends by itself. */
void vdisk_engine_commit(struct vdisk_engine *e);

/* Something is not durable yet, a commit runs, or something was lost that no flush was told of. May
 * be called by anyone at any time. */
bool vdisk_engine_dirty(const struct vdisk_engine *e);

/*
 * Is there anything for a commit to do, now or when a QUIESCE has ended? Who closes the image
 * commits until this is false: it is true for longer than vdisk_engine_dirty(), while places are
 * owed that would leak otherwise.
 */
bool vdisk_engine_unsettled(const struct vdisk_engine *e);

/*
 * May unit `index` be pending? By anyone at any time, without a lock. Who wants to trust an answer
 * of vdisk_image_map() that is not DATA must have seen false BEFORE asking for it. (DATA becomes
 * something else only by a request for zeros or a discard, which is not answered before.)
 */
bool vdisk_engine_maybe_pending(const struct vdisk_engine *e, u64 index);

/*
 * vdisk_image_map(), with the pending units laid over it: what a read must see now. One answer, and
 * no waiting: VDISK_NEED when a block has to be fetched first. May change the mode.
 */
int vdisk_engine_map(struct vdisk_engine *e, u64 offset, u64 length, struct vdisk_map *answer);

/*
 * A write that needs room waits until the tables that tell about it have been read. One step of
 * that search; the host calls it from its loop, between other events, while it returns true. May
 * sleep.
 */
bool vdisk_engine_search(struct vdisk_engine *e);

/* The only setter of the mode: never leaves it for a better one, but out_of_space when room is
 * found again. */
void vdisk_engine_set_mode(struct vdisk_engine *e, enum vdisk_mode mode);

/* Mode fail, as somebody knows that the image is not there any more: no write is begun from now on,
 * those of a commit that is under way neither. What is pending can be read, and is lost. */
void vdisk_engine_fail(struct vdisk_engine *e);

#endif
