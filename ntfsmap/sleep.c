// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "logfile.h"
#include "sleep.h"

#define HIBERFILE_HEADER 4096

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

static enum logfile classify_logfile(const struct log *log)
{
	if (log->kind == LOG_EMPTY)
		return LOG_RESET;
	if (log->kind == LOG_INVALID)
		return LOG_DAMAGED;
	if (log->clean)
		return LOG_CLEAN;
	return log->major >= 2 ? LOG_IN_USE : LOG_UNCLEAN;
}

static void read_logfile(struct volume *vol, struct sleep_state *s)
{
	struct log log = { .kind = LOG_INVALID };
	struct log_io io;

	s->logfile = LOG_DAMAGED;
	if (!volume_log_io(vol, &io) && !log_open(&io, &log)) {
		s->log_major = log.major;
		s->log_minor = log.minor;
		s->logfile = classify_logfile(&log);
	}
	log_close(&log);
	volume_log_done(&io);
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
