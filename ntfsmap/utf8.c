// SPDX-License-Identifier: GPL-2.0-or-later
#include "utf8.h"

/* How many bytes begin with this one; 0: none do. */
static size_t length_by(unsigned char first)
{
	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

size_t utf8_next(const char *s, uint32_t *c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *u = (const unsigned char *)s;
	size_t len = length_by(u[0]);
	uint32_t found = len > 1 ? u[0] & (0x7fU >> len) : u[0];

	*c = UTF8_INVALID;
	if (!len)
		return 1;
	for (size_t i = 1; i < len; i++) {
		if ((u[i] & 0xc0) != 0x80)
			return 1;
		found = found << 6 | (u[i] & 0x3fU);
	}
	if (found < least[len] || (found >= 0xd800 && found < 0xe000) || found > 0x10ffff)
		return 1;
	*c = found;
	return len;
}

bool utf8_acts(uint32_t c)
{
	return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

void utf8_mend(char *s)
{
	size_t len;
	uint32_t c;

	for (; *s; s += len) {
		len = utf8_next(s, &c);
		if (c == UTF8_INVALID)
			*s = '?';
	}
}
