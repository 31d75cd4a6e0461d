/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between logfile.c (records) and logpage.c (pages of $LogFile). */
#ifndef NTFSMAP_LOGPAGE_H
#define NTFSMAP_LOGPAGE_H

#include "logfile.h"

/* The first page of the ring, by version: behind the restart pages and those of copies. */
#define LOGPAGE_FIRST_1 4
#define LOGPAGE_FIRST_2 34

static inline uint16_t logpage_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t logpage_u32(const uint8_t *p)
{
	return logpage_u16(p) | (uint32_t)logpage_u16(p + 2) << 16;
}

static inline uint64_t logpage_u64(const uint8_t *p)
{
	return logpage_u32(p) | (uint64_t)logpage_u32(p + 4) << 32;
}

/* Where the page's last record ends, as its header says. */
static inline uint32_t logpage_end(const uint8_t *page)
{
	return logpage_u16(page + 0x18);
}

/* Where in the file the LSN's record begins. */
static inline uint64_t logpage_offset(const struct log *log, uint64_t lsn)
{
	return (lsn & ((1ULL << log->offset_bits) - 1)) << 3;
}

/* Has a page, or a copy of one, something newer than the LSN? 1: *page has; 0, or -errno. */
int logpage_newer(const struct log *log, uint64_t lsn, uint64_t *page);

/* Which page of the file holds the newest version of page n. */
uint64_t logpage_place(const struct log *log, uint64_t n);

/* Read a page of records and undo its fixups. 0; 1: it is damaged, *why says how; a negative
 * errno. */
int logpage_read(const struct log *log, uint64_t n, uint8_t *page, const char **why);

#endif
