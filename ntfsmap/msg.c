// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "msg.h"
#include "utf8.h"

bool opt_debug, opt_quiet, opt_table;

static char last_failure[1024];
static int hushed;
static const char *about;

void msg_about(const char *what)
{
	about = what;
}

/* A whole line at once, as others may write to the same place. */
static void say(const char *before, const char *what)
{
	char *whom = text("%s%s", about ? about : "", about ? ": " : "");

	defuse(whom);
	fprintf(stderr, "ntfsmap: %s%s%s\n", before, whom, what);
	free(whom);
}

void msg_hush(bool on)
{
	hushed += on ? 1 : -1;
}

const char *failure_text(void)
{
	return last_failure[0] ? last_failure : NULL;
}

void defuse(char *s)
{
	size_t len;
	uint32_t c;

	for (; *s; s += len) {
		len = utf8_next(s, &c);
		if (c == UTF8_INVALID || utf8_acts(c))
			memset(s, '?', len);
	}
}

const char *shown(const char *s)
{
	static char *ring[8];
	static unsigned int next;
	char **copy = &ring[next++ % (sizeof(ring) / sizeof(ring[0]))];

	free(*copy);
	*copy = text_copy(s);
	defuse(*copy);
	return *copy;
}

int fail(enum exit_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(last_failure, sizeof(last_failure), fmt, ap);
	va_end(ap);
	defuse(last_failure);
	if (!hushed)
		say("", last_failure);
	return code;
}

enum exit_code exit_code_of(int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
		return NOT_FOUND;
	case EBUSY:
	case EEXIST:
		return BUSY;
	case EUCLEAN:
		return DAMAGED;
	case EOPNOTSUPP:
		return REFUSED;
	default:
		return SYSTEM;
	}
}

int fail_errno(int error, const char *fmt, ...)
{
	char what[768];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return fail(exit_code_of(error), "%s: %s%s", what, strerror(error),
		    (error == EACCES || error == EPERM) && geteuid() ? " (are you root?)" : "");
}

#define SAY(prefix, fmt)                                \
	do {                                            \
		char said[1024];                        \
		va_list ap;                             \
		va_start(ap, fmt);                      \
		vsnprintf(said, sizeof(said), fmt, ap); \
		va_end(ap);                             \
		defuse(said);                           \
		say(prefix, said);                      \
	} while (0)

void warn(const char *fmt, ...)
{
	SAY("warning: ", fmt);
}

void note(const char *fmt, ...)
{
	if (!opt_quiet)
		SAY("", fmt);
}

void debug(const char *fmt, ...)
{
	if (opt_debug)
		SAY("debug: ", fmt);
}

void out_of_memory(void)
{
	fputs("ntfsmap: out of memory\n", stderr);
	if (opt_table)
		puts("refused: out of memory");
	exit(SYSTEM);
}

static void *or_die(void *p)
{
	if (!p)
		out_of_memory();
	return p;
}

char *text(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return or_die(s);
}

char *text_copy(const char *s)
{
	return or_die(strdup(s));
}

void *must_alloc(size_t size)
{
	return or_die(calloc(1, size));
}

void *must_regrow(void *old, size_t count, size_t size)
{
	return or_die(reallocarray(old, count, size));
}

const char *human_size(unsigned long long bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	static char ring[4][32];
	static unsigned int next;
	char *buf = ring[next++ % 4];
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, sizeof(ring[0]), unit && value < 100 ? "%.1f %s" : "%.0f %s", value,
		 units[unit]);
	return buf;
}
