/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * $LogFile, read only: which records there are. Nothing is applied, and nothing of libntfs-3g is
 * used. Versions 1.1 (Windows XP to 7, and after a clean dismount) and 2.0 (Windows 8 and later).
 *
 * The log is a ring of pages, after two restart pages and some that hold copies. A log sequence
 * number (LSN) is the number of the lap above the record's place in the file, in units of 8 bytes.
 */
#ifndef NTFSMAP_LOGFILE_H
#define NTFSMAP_LOGFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the log is read from: all of [offset, offset + len), or a negative errno. */
struct log_io {
	void *ctx;
	int (*read)(void *ctx, uint64_t offset, void *buf, size_t len);
	uint64_t size; /* bytes */
};

enum log_kind {
	LOG_VALID,
	LOG_EMPTY,   /* nothing but 0xff, as a reset leaves it: there is no record */
	LOG_INVALID, /* no restart page can be read; problem says why */
};

struct log {
	struct log_io io;
	enum log_kind kind;
	char problem[160]; /* of LOG_INVALID, or of a log that cannot be walked; "" without */
	/* of the newer restart page */
	int major, minor;
	bool clean; /* it says so, or nobody has the log open: nothing would be replayed */
	uint64_t oldest_lsn, current_lsn;
	uint32_t page_size, data_offset; /* bytes */
	uint64_t size;			 /* in use, whole pages, bytes */
	uint32_t offset_bits;		 /* of an LSN */
	struct log_copies *copies;	 /* logfile.c */
};

enum { LOG_RECORD_CLIENT = 1, LOG_RECORD_RESTART = 2 };

/* A record; what it points to is valid until the next one is read. */
struct log_record {
	uint64_t lsn, previous_lsn, undo_next_lsn;
	uint32_t type;
	uint32_t transaction; /* its slot in a table: used again after ForgetTransaction */
	/* of LOG_RECORD_CLIENT only, otherwise 0 */
	uint16_t redo, undo; /* operations */
	uint16_t record_offset, attribute_offset;
	uint16_t cluster_index; /* in units of 512 bytes, from the first LCN */
	uint64_t target_vcn;
	uint16_t n_lcns;
	const uint8_t *lcns; /* 8 bytes each, little-endian: log_record_lcn() */
	const uint8_t *redo_data, *undo_data;
	uint16_t redo_length, undo_length; /* 0 where they do not lie in the record */
};

enum log_operation {
	LOG_OP_INITIALIZE_RECORD = 2,
	LOG_OP_SET_BITS = 21,
	LOG_OP_CLEAR_BITS = 22,
	LOG_OP_FORGET_TRANSACTION = 27,
	LOG_OP_LAST = 37, /* that is known */
};

/* Read restart pages and copies. 0, or a negative errno of the reads: what is wrong with the log
 * itself is in kind and problem. Ends with log_close() in any case. */
int log_open(const struct log_io *io, struct log *log);
void log_close(struct log *log);

/*
 * Call each() for every record from oldest_lsn on, until there is none where the next one has to
 * be. A return of each() that is not 0 ends the walk and is returned. *whole: current_lsn was
 * reached; otherwise problem says where it ended and why. 0 or a negative errno of the reads.
 */
int log_walk(struct log *log, int (*each)(void *ctx, const struct log_record *r), void *ctx,
	     bool *whole);

uint64_t log_record_lcn(const struct log_record *r, size_t i);

/* "UpdateMappingPairs", as ntfsrecover(8) calls it; NULL: no such operation is known. */
const char *log_operation_name(unsigned int operation);

#endif
