// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * $LogFile. Microsoft documents it in parts only; what is here is what ntfs-3g's logfile.h and
 * ntfsrecover(8) know, tried on real logs. All numbers are little-endian, all offsets in bytes.
 *
 * Pages are written in place only when they are full. Until then they are copies: in version 1.1
 * in the two tail pages, in 2.0 in the 32 fast pages, which say where they belong. The version of a
 * page with the higher LSN counts.
 */
#include "logfile.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logpage.h"
#include "msg.h"

#define HEADER		0x30 /* of a record, before what the client has to say */
#define CLIENT_MIN	0x20 /* of that, without LCNs */
#define LCNS_AT		0x50 /* in a record */
#define RECORD_MOST	(HEADER + 2 * 65536 + 512) /* of one that is looked at */
#define NO_LCNS_DATA_AT 0x28 /* what redo and undo offsets count from, without LCNs */

struct walk {
	struct log *log;
	uint8_t *page; /* the one with the number n */
	uint64_t n;
	bool have;
	uint64_t lsn;	/* of the record that is read */
	uint64_t bytes; /* of all so far */
	uint8_t record[RECORD_MOST];
	uint32_t length; /* of what there is of it, with its header */
};

/* Why a record cannot be had, beside a negative errno. */
enum {
	ABSENT = 1,    /* there is none at its place: the log ends there, or a page is torn */
	MALFORMED = 2, /* it is there, but does not say what a record must */
};

static int problem(struct log *log, int kind, const char *fmt, ...) PRINTF(3, 4);

/* Returns the kind. */
static int problem(struct log *log, int kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(log->problem, sizeof(log->problem), fmt, ap);
	va_end(ap);
	return kind;
}

static uint64_t first_page(const struct log *log)
{
	return log->major >= 2 ? LOGPAGE_FIRST_2 : LOGPAGE_FIRST_1;
}

/* Have page n. 0, ABSENT, or a negative errno. */
static int have_page(struct walk *w, uint64_t n)
{
	const char *why;
	int ret;

	if (w->have && w->n == n)
		return 0;
	w->have = false;
	w->n = n;
	ret = logpage_read(w->log, logpage_place(w->log, n), w->page, &why);
	if (ret > 0)
		return problem(w->log, ABSENT, "page %llu of $LogFile %s", (unsigned long long)n,
			       why);
	w->have = !ret;
	return ret;
}

/* The page says that nothing so new was written to it: its last write was lost. Where others have
 * the last LSN, a tail copy has its place. */
static bool is_stale(const struct walk *w)
{
	return (w->log->major >= 2 || logpage_place(w->log, w->n) == w->n) &&
	       logpage_u64(w->page + 0x08) < w->lsn;
}

/* Where a record may begin, or is it outside? */
static bool is_place(const struct log *log, uint64_t offset)
{
	uint64_t in_page = offset % log->page_size;

	return offset / log->page_size >= first_page(log) && offset < log->size &&
	       in_page >= log->data_offset && in_page <= log->page_size - HEADER;
}

static uint64_t next_page(const struct log *log, uint64_t n, uint64_t *lap)
{
	if (n + 1 < log->size / log->page_size)
		return n + 1;
	++*lap;
	return first_page(log);
}

/* Copy length bytes of the log from *offset on to buf, page by page, or pass them by where buf is
 * NULL; *offset is behind them then, *lap grows at the end of the file. As have_page(). */
static int gather(struct walk *w, uint64_t *offset, uint64_t *lap, uint8_t *buf, uint64_t length)
{
	const struct log *log = w->log;

	while (length) {
		uint64_t n = *offset / log->page_size;
		uint32_t at = (uint32_t)(*offset % log->page_size), part = log->page_size - at;
		int ret = have_page(w, n);

		if (ret)
			return ret;
		if (is_stale(w))
			return problem(w->log, ABSENT,
				       "page %llu of $LogFile is older than LSN 0x%llx",
				       (unsigned long long)n, (unsigned long long)w->lsn);
		if (part > length)
			part = (uint32_t)length;
		if (buf) {
			memcpy(buf, w->page + at, part);
			buf += part;
		}
		length -= part;
		*offset += part;
		if (*offset % log->page_size == 0)
			*offset = next_page(log, n, lap) * log->page_size + log->data_offset;
	}
	return 0;
}

/* The record's client data, of which only the beginning is kept: dumps of tables may be long. */
static int read_data(struct walk *w, uint64_t *offset, uint64_t *lap, uint64_t length)
{
	uint64_t kept = length < RECORD_MOST - HEADER ? length : RECORD_MOST - HEADER;
	int ret = gather(w, offset, lap, w->record + HEADER, kept);

	w->length = HEADER + (uint32_t)kept;
	return ret ? ret : gather(w, offset, lap, NULL, length - kept);
}

/* The record that has to begin at the LSN's place, and the LSN of the one behind it. */
static int read_record(struct walk *w, uint64_t lsn, uint64_t *next)
{
	struct log *log = w->log;
	uint64_t offset = logpage_offset(log, lsn), lap = lsn >> log->offset_bits, found;
	uint64_t length;
	int ret;

	if (!is_place(log, offset))
		return problem(log, ABSENT, "LSN 0x%llx lies outside of the records",
			       (unsigned long long)lsn);
	w->lsn = lsn;
	ret = gather(w, &offset, &lap, w->record, HEADER);
	if (ret)
		return ret;
	found = logpage_u64(w->record);
	length = logpage_u32(w->record + 0x18);
	if (found != lsn)
		return problem(log, ABSENT, "where LSN 0x%llx has to be is LSN 0x%llx",
			       (unsigned long long)lsn, (unsigned long long)found);
	if (length % 8 || length < CLIENT_MIN || length > log->size)
		return problem(log, MALFORMED,
			       "the record with LSN 0x%llx claims a length of %llu bytes",
			       (unsigned long long)lsn, (unsigned long long)length);
	ret = read_data(w, &offset, &lap, length);
	if (ret)
		return ret;
	w->bytes += HEADER + length;
	if (log->page_size - offset % log->page_size < HEADER)
		offset = next_page(log, offset / log->page_size, &lap) * log->page_size +
			 log->data_offset;
	*next = lap << log->offset_bits | offset >> 3;
	return 0;
}

/* A mount begins a new page: does the page of the LSN say that it ends there? Then the next page's
 * first LSN, otherwise 0. */
static uint64_t after_early_end(struct walk *w, uint64_t lsn)
{
	const struct log *log = w->log;
	uint64_t offset = logpage_offset(log, lsn), lap = lsn >> log->offset_bits;
	uint64_t n = offset / log->page_size;
	uint64_t at = offset % log->page_size;

	if (!is_place(log, offset) || at == log->data_offset || have_page(w, n) ||
	    logpage_end(w->page) != at)
		return 0;
	offset = next_page(log, n, &lap) * log->page_size + log->data_offset;
	return lap << log->offset_bits | offset >> 3;
}

/* ---- what a record says ---- */

/* Redo or undo data, if they lie in the record. */
static const uint8_t *data_of(const struct walk *w, uint32_t n_lcns, uint32_t offset,
			      uint16_t *length)
{
	uint32_t at = (n_lcns ? HEADER : NO_LCNS_DATA_AT) + offset;

	if (at < LCNS_AT || at > w->length || *length > w->length - at)
		*length = 0;
	return w->record + (*length ? at : 0);
}

static int parse_client(struct walk *w, struct log_record *r)
{
	const uint8_t *p = w->record;

	r->redo = logpage_u16(p + 0x30);
	r->undo = logpage_u16(p + 0x32);
	r->redo_length = logpage_u16(p + 0x36);
	r->undo_length = logpage_u16(p + 0x3a);
	r->n_lcns = logpage_u16(p + 0x3e);
	r->record_offset = logpage_u16(p + 0x40);
	r->attribute_offset = logpage_u16(p + 0x42);
	r->cluster_index = logpage_u16(p + 0x44);
	r->target_vcn = logpage_u64(p + 0x48);
	r->lcns = p + LCNS_AT;
	if (LCNS_AT + 8 * (uint32_t)r->n_lcns > w->length)
		return problem(w->log, MALFORMED,
			       "the record with LSN 0x%llx has no room for its %u clusters",
			       (unsigned long long)r->lsn, r->n_lcns);
	r->redo_data = data_of(w, r->n_lcns, logpage_u16(p + 0x34), &r->redo_length);
	r->undo_data = data_of(w, r->n_lcns, logpage_u16(p + 0x38), &r->undo_length);
	return 0;
}

static int parse_record(struct walk *w, struct log_record *r)
{
	const uint8_t *p = w->record;

	*r = (struct log_record){ .lsn = logpage_u64(p),
				  .previous_lsn = logpage_u64(p + 0x08),
				  .undo_next_lsn = logpage_u64(p + 0x10),
				  .type = logpage_u32(p + 0x20),
				  .transaction = logpage_u32(p + 0x24) };
	if (r->type == LOG_RECORD_CLIENT)
		return parse_client(w, r);
	if (r->type == LOG_RECORD_RESTART)
		return 0;
	return problem(w->log, MALFORMED, "the record with LSN 0x%llx is of unknown type %u",
		       (unsigned long long)r->lsn, r->type);
}

/* ---- from record to record ---- */

/* The next record. */
static int step(struct walk *w, uint64_t *lsn, uint64_t *next, struct log_record *r)
{
	char first[sizeof(w->log->problem)];
	uint64_t other;
	int ret = read_record(w, *lsn, next);

	if (ret == ABSENT) {
		memcpy(first, w->log->problem, sizeof(first));
		other = after_early_end(w, *lsn);
		ret = other > *lsn ? read_record(w, other, next) : ABSENT;
		if (ret > 0)
			memcpy(w->log->problem, first, sizeof(first));
		else
			*lsn = other;
	}
	return ret ? ret : parse_record(w, r);
}

static int walk_records(struct walk *w, int (*each)(void *ctx, const struct log_record *r),
			void *ctx, uint64_t *last, bool *whole)
{
	struct log *log = w->log;
	uint64_t lsn = log->oldest_lsn, next;
	struct log_record r;
	int ret = 0;

	for (; !ret; lsn = next) {
		ret = step(w, &lsn, &next, &r);
		if (ret)
			break;
		*whole |= r.lsn == log->current_lsn;
		*last = r.lsn;
		ret = each(ctx, &r);
		if (ret)
			return ret;
		if (next <= lsn || w->bytes > log->size)
			ret = problem(log, MALFORMED, "the records go round at LSN 0x%llx",
				      (unsigned long long)lsn);
	}
	if (ret == MALFORMED)
		*whole = false;
	return ret > 0 ? 0 : ret;
}

/* The restart page may be older than the last records: is there something behind the end, which a
 * page that is torn or lost keeps us from? */
static int look_behind(struct log *log, uint64_t last, bool *whole)
{
	uint64_t page;
	int ret = logpage_newer(log, last, &page);

	if (ret == 1) {
		problem(log, ABSENT,
			"page %llu has newer records than LSN 0x%llx, behind which there is none",
			(unsigned long long)page, (unsigned long long)last);
		*whole = false;
	}
	return ret < 0 ? ret : 0;
}

static bool is_record(const struct log *log, uint64_t lsn)
{
	return logpage_offset(log, lsn) / log->page_size >= first_page(log);
}

/* A log that is new has LSNs in front of the first page: of no record. */
static bool has_records(const struct log *log)
{
	return is_record(log, log->current_lsn) || is_record(log, log->oldest_lsn);
}

int log_walk(struct log *log, int (*each)(void *ctx, const struct log_record *r), void *ctx,
	     bool *whole)
{
	uint64_t last = log->current_lsn;
	struct walk *w;
	int ret = 0;

	*whole = log->kind == LOG_EMPTY;
	if (log->kind != LOG_VALID || *log->problem)
		return 0;
	w = must_alloc(sizeof(*w));
	w->log = log;
	w->page = must_alloc(log->page_size);
	if (has_records(log))
		ret = walk_records(w, each, ctx, &last, whole);
	else
		*whole = true;
	if (!ret && *whole)
		ret = look_behind(log, last, whole);
	if (!*whole && !*log->problem)
		problem(log, ABSENT, "the records end before LSN 0x%llx",
			(unsigned long long)log->current_lsn);
	free(w->page);
	free(w);
	return ret;
}

uint64_t log_record_lcn(const struct log_record *r, size_t i)
{
	return logpage_u64(r->lcns + 8 * i);
}

const char *log_operation_name(unsigned int operation)
{
	static const char *const names[] = {
		"Noop",
		"CompensationlogRecord",
		"InitializeFileRecordSegment",
		"DeallocateFileRecordSegment",
		"WriteEndofFileRecordSegment",
		"CreateAttribute",
		"DeleteAttribute",
		"UpdateResidentValue",
		"UpdateNonResidentValue",
		"UpdateMappingPairs",
		"DeleteDirtyClusters",
		"SetNewAttributeSizes",
		"AddIndexEntryRoot",
		"DeleteIndexEntryRoot",
		"AddIndexEntryAllocation",
		"DeleteIndexEntryAllocation",
		"WriteEndOfIndexBuffer",
		"SetIndexEntryVcnRoot",
		"SetIndexEntryVcnAllocation",
		"UpdateFileNameRoot",
		"UpdateFileNameAllocation",
		"SetBitsInNonResidentBitMap",
		"ClearBitsInNonResidentBitMap",
		"HotFix",
		"EndTopLevelAction",
		"PrepareTransaction",
		"CommitTransaction",
		"ForgetTransaction",
		"OpenNonResidentAttribute",
		"OpenAttributeTableDump",
		"AttributeNamesDump",
		"DirtyPageTableDump",
		"TransactionTableDump",
		"UpdateRecordDataRoot",
		"UpdateRecordDataAllocation",
		"Win10Action35",
		"Win10Action36",
		"Win10Action37",
	};

	return operation <= LOG_OP_LAST ? names[operation] : NULL;
}
