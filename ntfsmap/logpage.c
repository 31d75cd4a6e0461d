// SPDX-License-Identifier: GPL-2.0-or-later
/* The pages of $LogFile: fixups, restart pages, copies. logfile.c tells what they are for. */
#include "logpage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msg.h"

#define BLOCK		 512
#define RESTART_BYTES	 65536 /* two restart pages of any size that Windows uses */
#define MIN_RECORD_PAGES 48
#define RECORD_HEADER	 0x30
#define NO_CLIENT	 0xffff
#define IS_CLEAN	 0x2

#define COPIES 32

/* A page whose newest version is a copy. */
struct log_copies {
	size_t n;
	struct copy {
		uint64_t home, place; /* numbers of pages */
		uint64_t lsn;
	} v[COPIES];
};

static bool is_power_of_2(uint32_t n)
{
	return n && !(n & (n - 1));
}

static bool has_magic(const uint8_t *page, const char *magic)
{
	return !memcmp(page, magic, 4);
}

/* The last two bytes of each block are in the update sequence array, and its number is in their
 * place. false: a block was not written with the others. */
static bool undo_fixups(uint8_t *page, uint32_t size)
{
	uint32_t at = logpage_u16(page + 4), count = logpage_u16(page + 6);

	if (count != size / BLOCK + 1 || at % 2 || at + 2 * count > size || at < 8)
		return false;
	for (uint32_t i = 1; i < count; i++)
		if (memcmp(page + i * BLOCK - 2, page + at, 2))
			return false;
	for (uint32_t i = 1; i < count; i++)
		memcpy(page + i * BLOCK - 2, page + at + 2 * i, 2);
	return true;
}

int logpage_read(const struct log *log, uint64_t n, uint8_t *page, const char **why)
{
	int ret = log->io.read(log->io.ctx, n * log->page_size, page, log->page_size);

	*why = NULL;
	if (ret)
		return ret;
	if (!has_magic(page, "RCRD"))
		*why = "is not a page of records";
	else if (!undo_fixups(page, log->page_size))
		*why = "is torn: its blocks were not written together";
	return *why != NULL;
}

uint64_t logpage_place(const struct log *log, uint64_t n)
{
	const struct log_copies *c = log->copies;

	for (size_t i = 0; c && i < c->n; i++)
		if (c->v[i].home == n)
			return c->v[i].place;
	return n;
}

/* ---- copies ---- */

static uint64_t lsn_of_page(const struct log *log, const uint8_t *page)
{
	return logpage_u64(page + (log->major >= 2 ? 0x08 : 0x20));
}

/* In version 2.0 the page says so too, behind the fixups; where it does not, the last LSN tells,
 * but not of a page that has only the end of a record. 0: it belongs nowhere. */
static uint64_t home_of_copy(const struct log *log, const uint8_t *page)
{
	uint64_t at = logpage_u64(page + 0x08);

	if (log->major >= 2) {
		uint32_t told = log->data_offset >= 0x40 ? logpage_u32(page + 0x3c) : 0;

		at = told ? told : logpage_offset(log, at) / log->page_size * log->page_size;
	}
	return at % log->page_size ? 0 : at / log->page_size;
}

static void add_copy(struct log_copies *c, struct copy new)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->v[i].home == new.home) {
			if (new.lsn > c->v[i].lsn)
				c->v[i] = new;
			return;
		}
	c->v[c->n++] = new;
}

/* A copy that is newer than the page that it belongs to. */
static int look_at_copy(struct log *log, uint64_t place, uint64_t first, uint8_t *page)
{
	struct copy new = { .place = place };
	const char *why;
	int ret = logpage_read(log, place, page, &why);

	if (ret)
		return ret < 0 ? ret : 0;
	new.lsn = lsn_of_page(log, page);
	new.home = home_of_copy(log, page);
	if (new.home < first || new.home >= log->size / log->page_size)
		return 0;
	ret = logpage_read(log, new.home, page, &why);
	if (ret < 0)
		return ret;
	if (ret || lsn_of_page(log, page) < new.lsn)
		add_copy(log->copies, new);
	return 0;
}

static int find_copies(struct log *log)
{
	uint64_t first = log->major >= 2 ? LOGPAGE_FIRST_2 : LOGPAGE_FIRST_1;
	uint8_t *page = must_alloc(log->page_size);
	int ret = 0;

	log->copies = must_alloc(sizeof(*log->copies));
	for (uint64_t n = 2; n < first && !ret; n++)
		ret = look_at_copy(log, n, first, page);
	free(page);
	return ret;
}

/* ---- restart pages ---- */

static bool all_ff(const uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != 0xff)
			return false;
	return true;
}

/* A restart page with its fixups undone: its restart area, or NULL. CHKD: chkdsk has run, and what
 * the log holds is done with. */
static const uint8_t *restart_area(uint8_t *page, size_t left)
{
	uint32_t size, offset;

	if (left < BLOCK || !(has_magic(page, "RSTR") || has_magic(page, "CHKD")))
		return NULL;
	size = logpage_u32(page + 0x10);
	offset = logpage_u16(page + 0x18);
	if (size < BLOCK || size > left || !is_power_of_2(size) || offset + 0x30 > size ||
	    !undo_fixups(page, size))
		return NULL;
	return page + offset;
}

/* Of two valid pages the one with the higher LSN is the newer. */
static const uint8_t *newest_page(uint8_t *buf, size_t n, const uint8_t **area)
{
	const uint8_t *a1 = restart_area(buf, n), *a2 = NULL;
	/* The second page follows the first; when that is torn, 4096 is what Windows uses. */
	size_t at = a1 ? logpage_u32(buf + 0x10) : 4096;

	if (at < n)
		a2 = restart_area(buf + at, n - at);
	if (a2 && (!a1 || logpage_u64(a2) > logpage_u64(a1))) {
		*area = a2;
		return buf + at;
	}
	*area = a1;
	return buf;
}

/* The only client, NTFS; false: nobody has the log open. */
static bool take_client(struct log *log, const uint8_t *page, const uint8_t *area)
{
	uint32_t index = logpage_u16(area + 0x0c);
	uint64_t at = (uint64_t)(area - page) + logpage_u16(area + 0x16) + 0xa0ULL * index;

	if (index == NO_CLIENT)
		return false;
	if (index >= logpage_u16(area + 0x08) || at + 0xa0 > logpage_u32(page + 0x10))
		snprintf(log->problem, sizeof(log->problem),
			 "the restart page has no client %u, which it names", index);
	else
		log->oldest_lsn = logpage_u64(page + at);
	return true;
}

/* What a walk relies on. */
static const char *wrong_geometry(const struct log *log, uint32_t header)
{
	uint64_t first = log->major >= 2 ? LOGPAGE_FIRST_2 : LOGPAGE_FIRST_1;

	if (log->major < 1 || log->major > 2)
		return "the version is unknown";
	if (log->page_size < BLOCK || log->page_size > RESTART_BYTES / 2 ||
	    !is_power_of_2(log->page_size))
		return "the size of its pages is impossible";
	if (log->size > log->io.size)
		return "it is longer than its file";
	if (log->size / log->page_size < first + MIN_RECORD_PAGES)
		return "it is too short";
	if (log->offset_bits < 1 || log->offset_bits > 62 ||
	    log->size >> 3 > 1ULL << log->offset_bits)
		return "the offsets in its LSNs have the wrong size";
	if (log->data_offset % 8 || log->data_offset < 0x28 ||
	    log->data_offset > log->page_size - RECORD_HEADER)
		return "the offset of data in a page is impossible";
	if (header != RECORD_HEADER)
		return "the length of a record's header is unknown";
	return NULL;
}

static int take_restart_page(struct log *log, const uint8_t *page, const uint8_t *area)
{
	uint32_t seq_bits = logpage_u32(area + 0x10);
	bool open = take_client(log, page, area);
	const char *wrong;

	log->kind = LOG_VALID;
	log->minor = (int16_t)logpage_u16(page + 0x1a);
	log->major = (int16_t)logpage_u16(page + 0x1c);
	log->clean = !open || has_magic(page, "CHKD") ||
		     (log->major == 1 && logpage_u16(area + 0x0e) & IS_CLEAN);
	log->current_lsn = logpage_u64(area);
	log->page_size = logpage_u32(page + 0x14);
	log->data_offset = logpage_u16(area + 0x26);
	log->offset_bits = seq_bits < 64 ? 64 - seq_bits : 0;
	log->size = logpage_u64(area + 0x18);
	if (is_power_of_2(log->page_size))
		log->size -= log->size % log->page_size;
	wrong = wrong_geometry(log, logpage_u16(area + 0x24));
	if (wrong)
		snprintf(log->problem, sizeof(log->problem), "%s (version %d.%d, %llu bytes)",
			 wrong, log->major, log->minor, (unsigned long long)log->size);
	return wrong || *log->problem ? 0 : find_copies(log);
}

int logpage_newer(const struct log *log, uint64_t lsn, uint64_t *page)
{
	uint8_t *buf = must_alloc(log->page_size);
	const char *why;
	bool found = false;
	int ret = 0;

	for (uint64_t n = 2; n < log->size / log->page_size && ret >= 0 && !found; n++) {
		ret = logpage_read(log, n, buf, &why);
		found = !ret && lsn_of_page(log, buf) > lsn;
		*page = n;
	}
	free(buf);
	return ret < 0 ? ret : found;
}

int log_open(const struct log_io *io, struct log *log)
{
	size_t n = io->size < RESTART_BYTES ? (size_t)io->size : RESTART_BYTES;
	uint8_t *buf = must_alloc(RESTART_BYTES);
	const uint8_t *page, *area;
	int ret;

	*log = (struct log){ .io = *io, .kind = LOG_INVALID };
	ret = n ? io->read(io->ctx, 0, buf, n) : 0;
	if (!ret && n && all_ff(buf, n)) {
		log->kind = LOG_EMPTY;
	} else if (!ret) {
		page = newest_page(buf, n, &area);
		if (area)
			ret = take_restart_page(log, page, area);
		else
			snprintf(log->problem, sizeof(log->problem),
				 "$LogFile has no valid restart page");
	}
	free(buf);
	return ret;
}

void log_close(struct log *log)
{
	free(log->copies);
	log->copies = NULL;
}
