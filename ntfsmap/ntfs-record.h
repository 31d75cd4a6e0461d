/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An MFT record as it was read from the disk, where anything may be: for ntfs-*.c. A function that
 * returns a const char * says what is wrong, in words to put behind "MFT record N: "; NULL: nothing
 * is. */
#ifndef NTFSMAP_NTFS_RECORD_H
#define NTFSMAP_NTFS_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "ntfs-lib.h"

struct mft_record {
	const u8 *bytes;
	u32 used; /* of them */
	u32 pos;  /* of the next attribute */
};

/* Where an attribute is in its record; all of it is inside of the record. */
struct mft_attr {
	const ATTR_RECORD *record; /* NULL behind the last one */
	u32 length;
	const u8 *name; /* UTF-16, at any address */
	u8 name_length;
};

/* The mapping pairs of an attribute that is not resident. */
struct mft_runs {
	const u8 *at, *end;
	int64_t lcn, vcn; /* so far */
	int64_t highest;  /* the last VCN, by the attribute; 0: it does not tell */
};

struct mft_run {
	uint64_t lcn, length;
	bool hole; /* no lcn then */
};

/* Undoes the fixups in place. bytes[size] has the magic FILE. */
const char *mft_record_start(u8 *bytes, u32 size, struct mft_record *r);

/* The next attribute. */
const char *mft_record_next(struct mft_record *r, struct mft_attr *a);

void mft_runs_start(const struct mft_attr *a, struct mft_runs *m);

/* The next run; its length is 0 behind the last one. Of a run's end only that it fits into 63 bits
 * is known: it may lie behind the end of the volume. */
const char *mft_runs_next(struct mft_runs *m, struct mft_run *run);

#endif
