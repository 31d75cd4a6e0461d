/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TAP for the unit programs: ok() counts and prints, main() ends with the plan and the status. */
#ifndef TESTS_UNIT_TAP_H
#define TESTS_UNIT_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tests, failed;

static inline bool __attribute__((format(printf, 2, 3))) ok(bool good, const char *fmt, ...)
{
	va_list ap;

	tests++;
	failed += !good;
	printf("%sok %d - ", good ? "" : "not ", tests);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	return good;
}

#endif
