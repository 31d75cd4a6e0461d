/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the crash test share. */
#ifndef CRASH_CRASH_H
#define CRASH_CRASH_H

#include <stdio.h>

#include "../../libvdisk/engine.h"
#include "disk.h"
#include "image.h"
#include "model.h"

#define SECTOR	 512
#define FLIGHTS	 512
#define MAX_META 4096

/* A request of the user. */
struct op {
	struct vdisk_req req; /* first */
	u64 serial;
	bool started;
	bool at_once;	 /* vdisk_engine_begin_write() */
	u64 *snapshot;	 /* FLUSH */
	struct op *next; /* DISCARD: ended, and to be looked at */
};

/* A read of one sector, by what a map said when it began. */
struct reading {
	u64 sector, oldest, then;
	struct vdisk_map map;
};

/* Something under way: an action of the engine, or the user's beside it. */
struct flight {
	u64 born;
	struct vdisk_action *action; /* or NULL: */
	struct op *op;		     /* written in place, as the kernel's fast path does it */
	struct reading *reading;
	struct disk *disk; /* that is written to */
	struct write *write;
	bool flushing;
	u64 flush_began[2];
};

struct meta_entry {
	struct vdisk_block block;
	u32 pins;
	u8 data[MAX_META] __attribute__((aligned(8)));
};

struct family;

struct run {
	const struct family *family;
	struct made made;
	struct disk disks[2]; /* of the image, and of its data file */
	int n_disks;
	struct model model;
	struct vdisk_meta meta; /* its block's data are in entries */
	struct meta_entry **entries;
	u64 n_entries;
	u64 forgotten; /* where the last region begins of which the cache had to forget all */
	struct vdisk *vd;
	struct vdisk_engine engine;
	struct flight flights[FLIGHTS];
	int n_flights;
	u64 born;
	int n_ops;	      /* requests that have not ended */
	struct op *discarded; /* have ended: what has become of them? */
	u32 align;	      /* of requests */
	bool failing;	      /* actions fail at times */
	bool settled;	      /* there is nothing that the engine still owes */
};

/* A kind of image. */
struct family {
	const char *name;
	/* Make one, and say how requests to it are aligned. */
	void (*make)(u64 number);
	/* The machine starts. */
	void (*begin)(void);
	/* What a power cut left: check it, and say what each sector holds. */
	void (*check)(u8 *const images[2], u64 *stamps);
	void (*dump)(const char *folder, u8 *const images[2], const u64 *stamps);
};

extern const struct family vhd_family, qcow_family;
extern struct run run;
extern const char *broken, *dump_folder;
extern u64 cuts, discards_taken, at_once_taken;

/* Something is wrong: crash.c tells its seed, a fuzzer keeps its input. */
void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...);

/* run.c: make an image, of the kind that the number says, and do all that there is to do with it */
void one_round(const struct family *family, u64 number);

/* host.c: the engine's host */
extern const struct vdisk_engine_ops host_ops;
void host_init(void);
void host_exit(void);
void fetch_block(const struct vdisk_map *need);
void fly(struct flight f);
/* Something that is under way ends. */
void land(void);
bool is_broken(const char *part);
/* What a sector reads as, by an answer about its first byte, on the disks now. */
u64 read_answer(const struct vdisk_map *m, u64 sector);

/* requests.c: the user */
u8 *payload(const struct op *op);
void submit_write(void);
void submit_flush(void);
void end_op(struct op *op, int error);
void end_reading(struct reading *r);
void read_some(void);
/* Discards that have ended: were they taken? */
void look_at_discards(void);

/* cut.c: power cuts */
void cut_power(void);
/* A last one, of what is durable, or torn. The images are left in the arrays. */
void last_cut(bool torn, u8 *const images[2], u64 *stamps);
int memory_read(void *ctx, uint64_t offset, void *buf, size_t len);
void check_survivors(const u64 *stamps);
void write_file(const char *folder, const char *name, const void *data, u64 size);
void write_stamps(const char *folder, const char *name, const u64 *stamps, u64 sectors);

#endif
