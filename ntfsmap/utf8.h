/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names that others gave, character by character. */
#ifndef NTFSMAP_UTF8_H
#define NTFSMAP_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_INVALID 0xffffffffU

/* The character at s, which is no empty string, and how many bytes it has. UTF8_INVALID is one
 * byte: of no character, of one in too many bytes, or of half a surrogate pair. */
size_t utf8_next(const char *s, uint32_t *c);

/* Does a terminal or who reads a log do something with it, instead of showing it? Controls, what
 * ends a line, what turns around the text beside it. */
bool utf8_acts(uint32_t c);

/* What is no UTF-8 becomes '?', in place. */
void utf8_mend(char *s);

#endif
