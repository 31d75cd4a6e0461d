// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Changes images as libFuzzer does, and then mostly puts the checksums right that a VHD has in its
 * footer, in the copy of that, and in its header: what is behind them is to be tried.
 */
#include "fuzz.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

#define FOOTER 512
#define HEADER 1024

/* "Hard Disk Footer Format": the one's complement of the sum of all bytes but its own. */
static void put_checksum(uint8_t *p, size_t bytes, size_t at)
{
	u32 sum = 0;

	for (size_t i = 0; i < bytes; i++)
		sum += i - at < 4 ? 0 : p[i];
	for (int i = 0; i < 4; i++)
		p[at + i] = (uint8_t)(~sum >> (24 - 8 * i));
}

static void put_right(uint8_t *p, size_t left, const char *magic, size_t bytes, size_t at)
{
	if (left >= bytes && !memcmp(p, magic, 8))
		put_checksum(p, bytes, at);
}

/* The header is where the footer says, mostly behind its copy. */
static void put_vhd_right(uint8_t *data, size_t size)
{
	for (size_t at = 0; at + 8 <= size && at <= 4096; at += 512)
		put_right(data + at, size - at, "cxsparse", HEADER, 36);
	put_right(data, size, "conectix", FOOTER, 64);
	if (size >= FOOTER)
		put_right(data + size - FOOTER, FOOTER, "conectix", FOOTER, 64);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed)
{
	uint8_t footer[FOOTER];
	bool was_vhd = size >= FOOTER && !memcmp(data + size - FOOTER, "conectix", 8);

	if (was_vhd)
		memcpy(footer, data + size - FOOTER, FOOTER);
	size = LLVMFuzzerMutate(data, size, most);
	if (seed % 8 == 0)
		return size;
	/* what was put in or taken out has moved it away from its place */
	if (was_vhd && size >= FOOTER && seed % 2 && memcmp(data + size - FOOTER, "conectix", 8))
		memcpy(data + size - FOOTER, footer, FOOTER);
	put_vhd_right(data, size);
	return size;
}
