/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Image files in memory, with VHD footers and headers, for the unit programs. */
#ifndef TESTS_UNIT_FILES_H
#define TESTS_UNIT_FILES_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "../../libvdisk/vdisk.h"

#define GIB    (1ULL << 30)
#define NEVER  UINT64_MAX
#define FOOTER 512

/* ---- the image file: its last bytes are in memory, those before them are zeros ---- */

struct file {
	uint8_t end[4096];
	size_t n;	       /* bytes of end */
	uint64_t size;	       /* of the file */
	uint64_t fail_at;      /* this read fails, counted from 0 */
	uint64_t reads, bytes; /* so far */
	bool wrong;	       /* a read outside of the file, or one behind the failure */
};

static int file_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	struct file *f = ctx;
	uint64_t zeros = f->size - f->n;
	uint8_t *p = buf;

	if (offset > f->size || len > f->size - offset || f->reads > f->fail_at)
		f->wrong = true;
	f->bytes += len;
	if (f->wrong || f->reads++ == f->fail_at)
		return -EIO;
	for (size_t i = 0; i < len; i++, offset++)
		p[i] = offset < zeros ? 0 : f->end[offset - zeros];
	return 0;
}

static struct vdisk_io io_of(struct file *f)
{
	f->reads = f->bytes = 0;
	f->wrong = false;
	return (struct vdisk_io){ .ctx = f, .size = f->size, .read = file_read };
}

/* Data with a byte that tells where it is. */
static struct file data_file(size_t size)
{
	struct file f = { .n = size, .size = size, .fail_at = NEVER };

	for (size_t i = 0; i < size; i++)
		f.end[i] = (uint8_t)(i * 7 + i / 512);
	return f;
}

/* ---- footers ---- */

static void put(uint8_t *p, size_t bytes, uint64_t value)
{
	while (bytes--) {
		p[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

/* "Hard Disk Footer Format": the one's complement of the sum of all bytes but these four. */
static void put_checksum(uint8_t *footer)
{
	uint32_t sum = 0;

	put(footer + 64, 4, 0);
	for (int i = 0; i < FOOTER; i++)
		sum += footer[i];
	put(footer + 64, 4, (uint32_t)~sum);
}

/* Fields of the footer, by offset and length in bytes. */
struct field {
	size_t at, bytes;
};

static const struct field __attribute__((unused)) VERSION = { 12, 4 }, DATA_OFFSET = { 16, 8 },
						  CREATOR = { 28, 4 }, SIZE = { 48, 8 };
static const struct field __attribute__((unused)) GEOMETRY = { 56, 4 }, TYPE = { 60, 4 },
						  SAVED_STATE = { 84, 1 };

#define CHS(c, h, s) ((uint64_t)(c) << 16 | (h) << 8 | (s))

enum creator { VPC = 0x76706320, WIN = 0x77696e20, QEMU = 0x71656d75 };

static void make_footer(uint8_t *footer, uint64_t size)
{
	memset(footer, 0, FOOTER);
	memcpy(footer, "conectix", 8);
	put(footer + 8, 4, 2); /* features: reserved, always set */
	put(footer + 12, 4, 0x00010000);
	put(footer + 16, 8, UINT64_MAX); /* data offset: none */
	put(footer + 24, 4, 0x12345678); /* time stamp */
	memcpy(footer + 28, "win \0\x0a\0\0Wi2k", 12);
	put(footer + 40, 8, size);
	put(footer + 48, 8, size);
	put(footer + 56, 2, size / 512 / 17 / 4);
	footer[58] = 4;
	footer[59] = 17;
	put(footer + 60, 4, 2);
	for (int i = 0; i < 16; i++)
		footer[68 + i] = (uint8_t)(0xa0 + i);
	put_checksum(footer);
}

static void change(uint8_t *footer, struct field field, uint64_t value)
{
	put(footer + field.at, field.bytes, value);
	put_checksum(footer);
}

/* A file of size bytes of data, as much as fits in memory, with a good footer of 512 or 511. */
static struct file vhd_file(uint64_t size, size_t footer_bytes)
{
	size_t data = size < 1024 ? (size_t)size : 1024;
	struct file f = data_file(data);
	uint8_t footer[FOOTER];

	make_footer(footer, size);
	memcpy(f.end + data, footer, footer_bytes);
	f.n = data + footer_bytes;
	f.size = size + footer_bytes;
	return f;
}

static uint8_t *footer_of(struct file *f)
{
	return f->end + f->n - FOOTER;
}

static struct file changed_vhd(uint64_t size, struct field field, uint64_t value)
{
	struct file f = vhd_file(size, FOOTER);

	change(footer_of(&f), field, value);
	return f;
}

/* "Dynamic Disk Header Format" */
enum header { HEADER = FOOTER, HEADER_BYTES = 1024, BAT = HEADER + HEADER_BYTES };

static void put_header_checksum(uint8_t *header)
{
	uint32_t sum = 0;

	put(header + 36, 4, 0);
	for (int i = 0; i < HEADER_BYTES; i++)
		sum += header[i];
	put(header + 36, 4, (uint32_t)~sum);
}

/* A dynamic image of 6 MiB with blocks of 2 MiB, none of which has a place. */
static struct file dynamic_file(void)
{
	struct file f = data_file(BAT + 2 * FOOTER);
	uint8_t *h = f.end + HEADER;

	make_footer(footer_of(&f), 6 << 20);
	change(footer_of(&f), TYPE, 3);
	change(footer_of(&f), DATA_OFFSET, HEADER);
	memcpy(f.end, footer_of(&f), FOOTER);
	memset(h, 0, HEADER_BYTES);
	memcpy(h, "cxsparse", 8);
	put(h + 8, 8, UINT64_MAX);
	put(h + 16, 8, BAT);
	put(h + 24, 4, 0x00010000);
	put(h + 28, 4, 3);
	put(h + 32, 4, 2 << 20);
	put_header_checksum(h);
	memset(f.end + BAT, 0xff, FOOTER);
	return f;
}

/* The same with another value in its header. */
static struct file dynamic_with(size_t at, size_t bytes, uint64_t value)
{
	struct file f = dynamic_file();

	put(f.end + HEADER + at, bytes, value);
	put_header_checksum(f.end + HEADER);
	return f;
}

#endif
