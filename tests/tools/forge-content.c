// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-content.c - what is written into the clusters of a new stream
 *
 * The bytes go to the disk directly, not through libntfs-3g's ntfs_attr_pwrite(): that one
 * would push initialized_size forward, and a test of the valid data length wants to know what
 * lies on the disk behind it.
 */
#include "forge.h"

#define CHUNK (1 << 20)

struct source {
	enum fill_kind kind;
	u64 seed;
	s64 offset; /* of the next byte */
	s64 size;
};

void pattern_bytes(u8 *buffer, size_t count, u64 seed, u64 offset)
{
	for (size_t i = 0; i < count; i++, offset++) {
		u64 word = seed << 48 | (offset & ~7ULL);

		buffer[i] = word >> (offset & 7) * 8;
	}
}

static void stdin_bytes(u8 *buffer, size_t count, const struct source *source)
{
	size_t done = fread(buffer, 1, count, stdin);

	if (done < count)
		die("stdin ended after %lld of %lld bytes", (long long)(source->offset + (s64)done),
		    (long long)source->size);
}

/* Behind the end of the data the last cluster is filled up with zeros. */
static void source_read(struct source *source, u8 *buffer, size_t count)
{
	const s64 left = source->size - source->offset;
	const size_t data = left > (s64)count ? count : left > 0 ? (size_t)left : 0;

	memset(buffer, 0, count);
	if (source->kind == FILL_PATTERN)
		pattern_bytes(buffer, data, source->seed, source->offset);
	else if (source->kind == FILL_STDIN)
		stdin_bytes(buffer, data, source);
	source->offset += count;
}

static void write_run(ntfs_volume *vol, const runlist_element *run, struct source *source,
		      u8 *buffer)
{
	s64 at = run->lcn << vol->cluster_size_bits;
	s64 left = run->length << vol->cluster_size_bits;

	while (left) {
		const s64 count = left < CHUNK ? left : CHUNK;

		source_read(source, buffer, count);
		if (ntfs_pwrite(vol->dev, at, count, buffer) != count)
			die_errno("cannot write at byte %lld of the volume", (long long)at);
		at += count;
		left -= count;
	}
}

void content_write(ntfs_volume *vol, const runlist_element *rl, s64 size, enum fill_kind kind,
		   u64 seed)
{
	struct source source = { .kind = kind, .seed = seed, .size = size };
	u8 *buffer;

	if (kind == FILL_NONE)
		return;
	buffer = forge_alloc(CHUNK);
	for (; rl->length; rl++)
		write_run(vol, rl, &source, buffer);
	if (kind == FILL_STDIN && getchar() != EOF)
		die("stdin has more than %lld bytes", (long long)size);
	free(buffer);
}

void content_print_pattern(s64 size, u64 seed)
{
	struct source source = { .kind = FILL_PATTERN, .seed = seed, .size = size };
	u8 *buffer = forge_alloc(CHUNK);

	while (source.offset < size) {
		const s64 left = size - source.offset;
		const size_t count = left < CHUNK ? left : CHUNK;

		source_read(&source, buffer, count);
		if (fwrite(buffer, 1, count, stdout) != count)
			die_errno("cannot write to stdout");
	}
	free(buffer);
}
