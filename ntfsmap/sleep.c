// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>

#include "msg.h"
#include "ntfs-lib.h"
#include "sleep.h"
#include <ntfs-3g/logfile.h>

#define HIBERFILE_HEADER 4096
#define RESTART_BYTES	 65536 /* two restart pages of any size that Windows uses */

static bool all_bytes(const void *buf, size_t len, int value)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != value)
			return false;
	return true;
}

/* Microsoft documents none of this; see ntfs-3g's ntfs_volume_check_hiberfile(), and the magic
 * words that memory forensics knows (hibr, wake, rstr in either case). */
static enum hiberfile classify_hiberfile(const char *head, long n)
{
	if (n < 0)
		return HIBER_UNREADABLE;
	if (n == 0)
		return HIBER_AWAKE;
	if (n < HIBERFILE_HEADER)
		return HIBER_HIBERNATED;
	if (!strncasecmp(head, "hibr", 4))
		return HIBER_HIBERNATED;
	if (!strncasecmp(head, "wake", 4) || all_bytes(head, HIBERFILE_HEADER, 0))
		return HIBER_AWAKE;
	if (!strncasecmp(head, "rstr", 4))
		return HIBER_RESUMING;
	return HIBER_UNKNOWN;
}

static void read_hiberfile(struct volume *vol, struct sleep_state *s)
{
	char head[HIBERFILE_HEADER] = "";
	uint64_t size = UINT64_MAX; /* unchanged: there is no such file */
	long n = volume_read_root_file(vol, "hiberfil.sys", head, sizeof(head), &size);

	s->hiberfile = n == 0 && size == UINT64_MAX ? HIBER_NONE : classify_hiberfile(head, n);
	for (int i = 0; i < 4; i++)
		s->magic[i] = (char)(isprint((unsigned char)head[i]) ? head[i] : '.');
}

/* A restart page with its fixups undone, or NULL. Bounds come before every read. */
static const RESTART_AREA *restart_area(u8 *page, size_t left, RESTART_PAGE_HEADER **header)
{
	RESTART_PAGE_HEADER *h = (RESTART_PAGE_HEADER *)page;
	u32 size, offset;

	if (left < sizeof(*h) || !ntfs_is_rstr_record(h->magic))
		return NULL;
	size = le32_to_cpu(h->system_page_size);
	offset = le16_to_cpu(h->restart_area_offset);
	if (size < 512 || size > left || size & (size - 1) || offset + sizeof(RESTART_AREA) > size)
		return NULL;
	if (ntfs_mst_post_read_fixup((NTFS_RECORD *)page, size))
		return NULL;
	*header = h;
	return (const RESTART_AREA *)(page + offset);
}

/* Of two valid pages the one with the higher LSN is the newer. */
static const RESTART_AREA *newest_area(u8 *buf, size_t n, RESTART_PAGE_HEADER **header)
{
	RESTART_PAGE_HEADER *h1 = NULL, *h2 = NULL;
	const RESTART_AREA *a1 = restart_area(buf, n, &h1), *a2 = NULL;
	/* The second page follows the first; when that is torn, 4096 is what Windows uses. */
	size_t at = a1 ? le32_to_cpu(h1->system_page_size) : 4096;

	if (at < n)
		a2 = restart_area(buf + at, n - at, &h2);
	if (a2 && (!a1 || sle64_to_cpu(a2->current_lsn) > sle64_to_cpu(a1->current_lsn))) {
		*header = h2;
		return a2;
	}
	*header = h1;
	return a1;
}

static enum logfile classify_logfile(const RESTART_PAGE_HEADER *h, const RESTART_AREA *area)
{
	if (sle16_to_cpu(h->major_ver) >= 2)
		return LOG_IN_USE;
	if (area->flags & RESTART_VOLUME_IS_CLEAN || area->client_in_use_list == LOGFILE_NO_CLIENT)
		return LOG_CLEAN;
	return LOG_UNCLEAN;
}

static void read_logfile(struct volume *vol, struct sleep_state *s)
{
	u8 *buf = must_alloc(RESTART_BYTES);
	long n = volume_read_record(vol, FILE_LogFile, buf, RESTART_BYTES);
	RESTART_PAGE_HEADER *header = NULL;
	const RESTART_AREA *area;

	s->logfile = LOG_DAMAGED;
	if (n > 0 && all_bytes(buf, (size_t)n, 0xff)) {
		s->logfile = LOG_RESET;
	} else if (n > 0) {
		area = newest_area(buf, (size_t)n, &header);
		if (area) {
			s->log_major = sle16_to_cpu(header->major_ver);
			s->log_minor = sle16_to_cpu(header->minor_ver);
			s->logfile = classify_logfile(header, area);
		}
	}
	free(buf);
}

void volume_sleep_state(struct volume *vol, struct sleep_state *s)
{
	*s = (struct sleep_state){ 0 };
	read_hiberfile(vol, s);
	read_logfile(vol, s);
}

const char *hiberfile_text(enum hiberfile h)
{
	static const char *const texts[] = {
		[HIBER_NONE] = "there is no hiberfil.sys on this volume",
		[HIBER_AWAKE] = "Windows is not hibernated on this volume",
		[HIBER_HIBERNATED] = "Windows is hibernated on this volume",
		[HIBER_RESUMING] =
			"Windows began to resume from hibernation on this volume and did "
			"not finish: start Windows and shut it down first",
		[HIBER_UNKNOWN] =
			"hiberfil.sys begins with something that is not known: start Windows "
			"and shut it down first",
		[HIBER_UNREADABLE] = "hiberfil.sys cannot be read: let Windows run chkdsk",
	};

	return texts[h];
}

const char *logfile_text(enum logfile l)
{
	static const char *const texts[] = {
		[LOG_CLEAN] = "the volume was cleanly dismounted",
		[LOG_IN_USE] = "the volume was in use when Windows went to sleep or crashed",
		[LOG_UNCLEAN] = "the volume was not cleanly dismounted",
		[LOG_RESET] = "$LogFile was emptied, by Linux or a repair",
		[LOG_DAMAGED] = "$LogFile has no valid restart page",
	};

	return texts[l];
}
