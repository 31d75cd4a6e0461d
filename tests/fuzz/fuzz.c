// SPDX-License-Identifier: GPL-2.0-or-later
#include "fuzz.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMPANY_BYTES 65536

void found(const char *fmt, ...)
{
	va_list ap;

	fputs("FOUND: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

void *must(size_t size)
{
	void *p = calloc(1, size ? size : 1);

	if (!p)
		abort();
	return p;
}

/* ---- files in memory ---- */

struct memory memory_of(const uint8_t *data, size_t size)
{
	struct memory m = { malloc(size ? size : 1), size };

	if (!m.bytes)
		abort();
	if (size)
		memcpy(m.bytes, data, size);
	return m;
}

void memory_free(struct memory *m)
{
	free(m->bytes);
	*m = (struct memory){ 0 };
}

static void inside(const struct memory *m, const char *what, uint64_t offset, size_t len)
{
	expect(offset <= m->size && len <= m->size - offset,
	       "a %s of %zu bytes at %" PRIu64 ", of a file of %" PRIu64, what, len, offset,
	       m->size);
}

static int memory_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	const struct memory *m = ctx;

	inside(m, "read", offset, len);
	memcpy(buf, m->bytes + offset, len);
	return 0;
}

static int memory_write(void *ctx, uint64_t offset, const void *buf, size_t len)
{
	struct memory *m = ctx;

	inside(m, "write", offset, len);
	memcpy(m->bytes + offset, buf, len);
	return 0;
}

static int memory_flush(void *ctx)
{
	(void)ctx;
	return 0;
}

struct vdisk_io memory_io(struct memory *m, bool writable)
{
	struct vdisk_io io = { .ctx = m, .size = m->size, .read = memory_read };

	if (writable) {
		io.write = memory_write;
		io.flush = memory_flush;
	}
	return io;
}

/* ---- company ---- */

static void put_be(u8 *p, int bytes, u64 value)
{
	while (bytes--) {
		p[bytes] = (u8)value;
		value >>= 8;
	}
}

/* A fixed VHD with that unique id; "Hard Disk Footer Format". */
static void make_footer(u8 *f, u64 size, const u8 *uuid)
{
	u32 sum = 0;

	memset(f, 0, 512);
	memcpy(f, "conectix", 8);
	put_be(f + 8, 4, 2);
	put_be(f + 12, 4, 0x10000);
	put_be(f + 16, 8, UINT64_MAX);
	memcpy(f + 28, "win ", 4);
	put_be(f + 40, 8, size);
	put_be(f + 48, 8, size);
	put_be(f + 60, 4, 2);
	memcpy(f + 68, uuid, 16);
	for (int i = 0; i < 512; i++)
		sum += f[i];
	put_be(f + 64, 4, ~sum);
}

static struct memory pattern(size_t size)
{
	struct memory m = { must(size), size };

	for (size_t i = 0; i < size; i++)
		m.bytes[i] = (u8)(i * 7 + i / 512);
	return m;
}

static void give_parent(struct vdisk *vd, struct company *c)
{
	bool is_vhd = !strcmp(vd->info.format, "vhd");
	struct vdisk_options options = { .format = is_vhd ? "vhd" : "raw" };
	struct vdisk_io io;
	int ret;

	c->parent_file = pattern(COMPANY_BYTES + (is_vhd ? 512 : 0));
	if (is_vhd)
		make_footer(c->parent_file.bytes + COMPANY_BYTES, COMPANY_BYTES,
			    vd->info.parent_uuid);
	io = memory_io(&c->parent_file, false);
	ret = vdisk_open(&io, &options, &c->parent, NULL);
	expect(!ret, "the parent does not open: %d", ret);
	ret = vdisk_set_parent(vd, c->parent, NULL);
	expect(!ret, "the parent is not taken: %d", ret);
}

void company_give(struct vdisk *vd, struct company *c, bool writable)
{
	struct vdisk_io io;

	*c = (struct company){ 0 };
	if (vd->info.needs_parent)
		give_parent(vd, c);
	if (!vd->info.needs_data)
		return;
	c->data_file = pattern(COMPANY_BYTES);
	io = memory_io(&c->data_file, writable);
	vdisk_set_data(vd, &io, NULL); /* one that is too short is refused: reads fail then */
}

void company_end(struct company *c)
{
	vdisk_close(c->parent);
	memory_free(&c->parent_file);
	memory_free(&c->data_file);
}

/* ---- others ---- */

int bytes_as_file(const uint8_t *data, size_t size, char path[32])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size) || fchmod(fd, 0600))
		abort();
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

u64 number_of(const uint8_t *data, size_t size)
{
	u64 sum = 14695981039346656037ULL;

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ data[i]) * 1099511628211ULL;
	return sum ^ sum >> 29;
}
