// SPDX-License-Identifier: GPL-2.0-or-later
/* An error of libvdisk in words. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

#include "../vdisk.h"

static void show_value(enum vdisk_show show, uint64_t value, char *buf, size_t size)
{
	char text[9] = "";

	switch (show) {
	case VDISK_SHOW_DECIMAL:
		snprintf(buf, size, "%" PRIu64, value);
		return;
	case VDISK_SHOW_TEXT:
		for (int i = 0; i < 8; i++) {
			unsigned char c = (unsigned char)(value >> (56 - 8 * i));

			text[i] = (char)(isprint(c) ? c : '?');
		}
		snprintf(buf, size, "\"%s\" (0x%016" PRIx64 ")", text, value);
		return;
	default:
		snprintf(buf, size, "0x%" PRIx64, value);
	}
}

int vdisk_error_text(const struct vdisk_error *err, char *buf, size_t size)
{
	const char *advice = err->advice ? err->advice : "";
	const char *comma = err->advice ? "; " : "";
	const char *field = err->field ? err->field : "image";
	const char *problem = err->problem ? err->problem : "is damaged";
	char found[48], expected[48], detail[sizeof(err->detail) + 5] = "";

	if (*err->detail)
		snprintf(detail, sizeof(detail), " (\"%s\")", err->detail);
	if (err->show == VDISK_SHOW_NONE)
		return snprintf(buf, size, "%s %s%s%s%s", field, problem, detail, comma, advice);
	show_value(err->show, err->found, found, sizeof(found));
	show_value(err->show, err->expected, expected, sizeof(expected));
	return snprintf(buf, size, "offset %" PRIu64 ": %s %s%s: found %s, expected %s%s%s",
			err->offset, field, problem, detail, found, expected, comma, advice);
}
