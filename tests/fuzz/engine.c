// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine as a state machine, with the disks, models and images of tests/crash: the first bytes
 * choose an image; those behind them say what is asked for, which action ends next, which one
 * fails, and when the power goes.
 */
#include <stdarg.h>

#include "../crash/crash.h"
#include "fuzz.h"

#define CHOICE 4 /* bytes */

void fail(const char *fmt, ...)
{
	char words[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	found("%s", words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size <= CHOICE)
		return 0;
	random_feed(data + 2, size - 2); /* the image takes two */
	one_round(data[0] & 1 ? &qcow_family : &vhd_family, data[1]);
	return 0;
}
