/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a cold boot of Windows would still do to a file: it replays $LogFile, redoing and undoing
 * what its records say. (A resume does not: there the memory of Windows wins.)
 */
#ifndef NTFSMAP_PENDING_H
#define NTFSMAP_PENDING_H

#include "logfile.h"
#include "ntfs.h"

/* What of the file a record touches: bits. */
enum {
	TOUCHES_RECORD = 1,   /* one of its MFT records */
	TOUCHES_BITS = 2,     /* the bits of its clusters in $Bitmap */
	TOUCHES_LIST = 4,     /* the clusters of its attribute list */
	TOUCHES_CLUSTERS = 8, /* its own */
};

struct touch {
	unsigned int what;
	uint64_t record;     /* of the MFT, with TOUCHES_RECORD */
	uint64_t record_lsn; /* of the last change that is in it */
};

/* Which records may be applied to the file. */
struct pending {
	const struct volume_places *volume;
	const struct file_places *file;
	struct event *events; /* to learn which transactions have ended */
	size_t n_events, room;
	/* the answer, when all records were shown */
	uint64_t records;  /* of the log */
	uint64_t touching; /* of those, that would be applied to the file */
	uint64_t lsn;	   /* of the first one */
	unsigned int redo, undo;
	struct touch touch;
	uint64_t unknown_lsn; /* of the first operation that nobody knows, or 0 */
	unsigned int unknown;
};

/* Which MFT record it acts on; false: on none. */
bool pending_mft_record(const struct volume_places *volume, const struct log_record *r,
			uint64_t *record);

/* What of the file it touches, at whatever time. */
struct touch pending_touch(const struct volume_places *volume, const struct file_places *file,
			   const struct log_record *r);

/* "MFT record 64, its clusters": to be freed. */
char *pending_touch_text(const struct touch *t);

/* Show the records from the oldest to the newest; the structure begins with volume and
 * file, and zeros. Then pending_end(), which also frees what there is but the answer. */
void pending_look(struct pending *p, const struct log_record *r);
void pending_end(struct pending *p);

#endif
