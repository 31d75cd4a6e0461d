/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device with a volatile cache, in memory: a write that ended is seen by reads, but is durable
 * only when a flush that began after it has ended. A power cut leaves any of the sectors that are
 * not durable, each for itself.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "../../libvdisk/port.h"

struct write {
	struct write *next;
	u64 offset, length;
	u8 *data;
	u64 ended; /* when, by disk.clock; 0: under way */
};

struct disk {
	u64 size;
	u8 *seen;    /* what a read gets */
	u8 *durable; /* what no power cut takes away */
	struct write *writes,
		**tail; /* not durable yet, in the order of their ends, or under way */
	u64 clock;
	u64 written; /* sectors, in all */
};

void disk_init(struct disk *d, const u8 *image, u64 size);
void disk_exit(struct disk *d);

/* A write under way; it may be seen by a power cut from now on. data is copied. */
struct write *disk_write(struct disk *d, u64 offset, const void *data, u64 length);

/* The write has ended. Failed ones leave some of their sectors; with fua it is durable. */
void disk_end_write(struct disk *d, struct write *w, bool failed, bool fua);

/* The time that a flush which begins now is given when it ends. */
u64 disk_begin_flush(struct disk *d);
void disk_end_flush(struct disk *d, u64 began);

/*
 * What is on the disk after a power cut now, into image. Each bit of subset (of the first 64
 * writes that are not durable) keeps or loses a whole write; with `torn` each sector of each write
 * is left to chance.
 */
void disk_cut(const struct disk *d, u64 subset, bool torn, u8 *image);

/* How many writes are not durable. */
unsigned int disk_volatile(const struct disk *d);

/* xorshift64*, Vigna 2014: the same numbers everywhere. */
void random_seed(u64 seed);
u64 random_below(u64 bound);

/*
 * A fuzzer's input, which must live on: what chance wants is in these bytes, and goes on from the
 * seed where they end. While held, too: for what needs many numbers and is no decision, a seed for
 * which is taken from the bytes.
 */
void random_feed(const u8 *bytes, size_t n);
void random_hold(bool on);
/* There was an input, and it has been used up. */
bool random_ended(void);
/* How many steps to do: most, or as many as the input wants. */
u64 random_steps(u64 most);

#endif
