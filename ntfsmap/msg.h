/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the user is told, and the exit codes that scripts rely on. */
#ifndef NTFSMAP_MSG_H
#define NTFSMAP_MSG_H

#include <stdbool.h>
#include <stddef.h>

/* ntfsmap(8) "EXIT STATUS". Functions that can fail return one of these. */
enum exit_code {
	DONE = 0,
	USAGE = 1,     /* the command line is wrong */
	REFUSED = 2,   /* unsafe, or not supported */
	NOT_FOUND = 4, /* no such volume, file or mapping */
	BUSY = 5,      /* in use, or exists already */
	DAMAGED = 6,   /* image or volume is damaged, or verify found a difference */
	SYSTEM = 7,    /* I/O, memory, permission, missing module */
};

#define PRINTF(a, b) __attribute__((format(printf, a, b)))

/* Say "ntfsmap: …" on stderr, remember it for failure_text(), return code. */
int fail(enum exit_code code, const char *fmt, ...) PRINTF(2, 3);

/* fail() with the exit code that belongs to an errno, and its text behind the message. */
int fail_errno(int error, const char *fmt, ...) PRINTF(2, 3);

/* The exit code that belongs to an errno: the one place where this is decided. */
enum exit_code exit_code_of(int error);

void warn(const char *fmt, ...) PRINTF(1, 2);
void note(const char *fmt, ...) PRINTF(1, 2); /* what was done, unless --quiet */
void debug(const char *fmt, ...) PRINTF(1, 2);

/* What no terminal and no log should get becomes '?', in place: names and labels come from the
 * volume, and from images on it. */
void defuse(char *s);

/* The same as a copy, for what is printed: static storage, eight calls deep. */
const char *shown(const char *s);

/* From now on every message begins with that: what it is about. NULL: with nothing. Not copied. */
void msg_about(const char *what);

/* While hushed, fail() only remembers. Nests. */
void msg_hush(bool on);

/* The last fail() in one line, or NULL. */
const char *failure_text(void);

extern bool opt_debug, opt_quiet;
extern bool opt_table; /* stdout is for dmsetup: it must never stay empty after a failure */

/* End the program with SYSTEM, and no table on stdout. */
_Noreturn void out_of_memory(void);

/* asprintf() that does not return without memory: it ends the program with SYSTEM. */
char *text(const char *fmt, ...) PRINTF(1, 2);
char *text_copy(const char *s);
void *must_alloc(size_t size); /* zeroed */
void *must_regrow(void *old, size_t count, size_t size);

/* "12.5 GiB": for people. Static storage, four calls deep. */
const char *human_size(unsigned long long bytes);

#endif
