/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a sector may hold: the versions from the last one that must survive a power cut on. Writes
 * to one sector are never under way at the same time.
 */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "../../libvdisk/port.h"

struct version {
	u64 serial, stamp;
	bool ended;
};

struct sector {
	struct version *v;
	u32 n, room;
	bool busy;
	u64 lost; /* what is not newer may be lost, and a flush has said so */
};

/* A write, by its serial number. */
struct written {
	u64 first, count;
	bool zeros;
};

struct model {
	struct sector *sectors;
	u64 n, serial;
	struct written *history;
	bool losing; /* something may be lost, which no flush has said yet */
};

void model_init(struct model *m, const u64 *stamps, u64 n);
void model_exit(struct model *m);

bool model_busy(const struct model *m, u64 first, u64 count);

/* A write begins; zeros have stamp 0. Returns its serial number, which is the stamp otherwise. */
u64 model_begin(struct model *m, u64 first, u64 count, bool zeros);
/* Its end: it is what reads see now; or, when it failed half way, may be; or never was. */
enum outcome { DONE, MAYBE, NEVER };
void model_end(struct model *m, u64 first, u64 count, enum outcome outcome);

/* The serial number of what each sector holds for sure. free() it. */
u64 *model_snapshot(const struct model *m);
/* Versions older than these are history. */
void model_flushed(struct model *m, const u64 *snapshot);
void model_durable(struct model *m, u64 first, u64 count, u64 serial);

/* Writes that have ended may be lost all the same: the next flush has to fail. It has failed. */
void model_lose(struct model *m);
void model_flush_failed(struct model *m);

/* The serial number of what a read that begins now may find at least; may one that began then find
 * this now? Then is what was found then. */
u64 model_oldest(const struct model *m, u64 sector, u64 *then);
bool model_could_read(const struct model *m, u64 sector, u64 stamp, u64 oldest, u64 then);

/* May the sector hold this after a power cut; may a read see it now? */
bool model_survives(const struct model *m, u64 sector, u64 stamp);
bool model_reads(const struct model *m, u64 sector, u64 stamp);

#endif
