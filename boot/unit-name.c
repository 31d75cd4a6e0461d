// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ntfsmap/msg.h"
#include "unit-name.h"

#define SERIAL_DIGITS	    16 /* of an NTFS volume, as udev writes it */
#define SERIAL_SHORT_DIGITS 8

static bool is_plain(unsigned char c)
{
	return c < 0x80 && (isalnum(c) || strchr(":_.", c));
}

char *unit_escape(const char *s)
{
	char *out = must_alloc(strlen(s) * 4 + 1), *p = out;

	for (const char *c = s; *c; c++)
		if (*c == '/')
			*p++ = '-';
		else if (is_plain((unsigned char)*c) && !(c == s && *c == '.'))
			*p++ = *c;
		else
			p += sprintf(p, "\\x%02x", (unsigned char)*c);
	return out;
}

/* Without slashes at both ends, and twice in the middle. */
static char *simple_path(const char *path)
{
	char *out = must_alloc(strlen(path) + 1), *p = out;

	for (; *path; path++)
		if (*path != '/' || (p > out && path[1] && path[1] != '/'))
			*p++ = *path;
	return out;
}

char *unit_escape_path(const char *path)
{
	char *simple = simple_path(path), *out = *simple ? unit_escape(simple) : text_copy("-");

	free(simple);
	return out;
}

char *unit_quote(const char *path)
{
	char *out = must_alloc(strlen(path) * 2 + 3), *p = out;

	*p++ = '"';
	for (; *path; path++) {
		if (*path == '%')
			*p++ = '%';
		else if (strchr("\\\"", *path))
			*p++ = '\\';
		*p++ = *path;
	}
	*p = '"';
	return out;
}

/* Labels and the names of partitions, as udev writes them in links. */
static char *udev_encode(const char *s)
{
	char *out = must_alloc(strlen(s) * 4 + 1), *p = out;

	for (; *s; s++)
		if (isalnum((unsigned char)*s) || strchr("#+-.:=@_", *s) || *s & 0x80)
			*p++ = *s;
		else
			p += sprintf(p, "\\x%02x", (unsigned char)*s);
	return out;
}

static char *in_case(const char *s, int (*convert)(int))
{
	char *out = text_copy(s);

	for (char *p = out; *p; p++)
		*p = (char)convert((unsigned char)*p);
	return out;
}

/* ntfsmap takes serial numbers as Linux and as Windows write them; UUIDs of other things have a
 * '-' in them. */
static char *udev_uuid(const char *s)
{
	const char *digits = strncasecmp(s, "0x", 2) ? s : s + 2;
	size_t n = strspn(digits, "0123456789abcdefABCDEF");

	if (digits[n])
		return text_copy(s);
	if (n == SERIAL_SHORT_DIGITS)
		return NULL;
	return n == SERIAL_DIGITS ? in_case(digits, toupper) : text_copy(s);
}

static char *udev_partuuid(const char *s)
{
	return in_case(s, tolower);
}

char *unit_node_of(const char *device)
{
	static const struct {
		const char *tag, *folder;
		char *(*encode)(const char *);
	} tags[] = {
		{ "UUID=", "/dev/disk/by-uuid", udev_uuid },
		{ "LABEL=", "/dev/disk/by-label", udev_encode },
		{ "PARTUUID=", "/dev/disk/by-partuuid", udev_partuuid },
		{ "PARTLABEL=", "/dev/disk/by-partlabel", udev_encode },
	};

	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		size_t len = strlen(tags[i].tag);
		char *value, *node;

		if (strncmp(device, tags[i].tag, len))
			continue;
		value = tags[i].encode(device + len);
		node = value ? text("%s/%s", tags[i].folder, value) : NULL;
		free(value);
		return node;
	}
	return strncmp(device, "/dev/", 5) ? NULL : text_copy(device);
}
