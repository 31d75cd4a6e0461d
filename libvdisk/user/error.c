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

/* What the fault is about, without what is wrong with it. */
static int name_fault(const struct vdisk_fault *f, char *buf, size_t size)
{
	if (f->entry == VDISK_NOWHERE)
		return snprintf(buf, size, "the cluster at byte %" PRIu64 " of the file", f->home);
	if (f->index == VDISK_NOWHERE && f->home == VDISK_NOWHERE)
		return snprintf(buf, size, "the entry at byte %" PRIu64 " of the file", f->entry);
	if (f->index == VDISK_NOWHERE)
		return snprintf(buf, size,
				"the entry at byte %" PRIu64 " of the file, for byte %" PRIu64,
				f->entry, f->home);
	return snprintf(buf, size,
			"block %" PRIu64 " (its entry is at byte %" PRIu64 " of the file, and says "
			"byte %" PRIu64 ")",
			f->index, f->entry, f->home);
}

int vdisk_fault_text(const struct vdisk_fault *fault, char *buf, size_t size)
{
	char name[160], more[64] = "";

	name_fault(fault, name, sizeof(name));
	if (fault->kind == VDISK_FAULT_REFCOUNT || fault->kind == VDISK_FAULT_LEAK)
		snprintf(more, sizeof(more), ": refcount %" PRIu64 ", references %" PRIu64,
			 fault->found, fault->expected);
	else if (fault->other != VDISK_NOWHERE)
		snprintf(more, sizeof(more), " %" PRIu64, fault->other);
	return snprintf(buf, size, "%s %s%s", name, fault->problem, more);
}
