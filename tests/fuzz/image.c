// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any bytes as an image: what opens answers in its bounds, the same each time it is asked and in
 * whatever pieces; what vdisk_check() calls sound can be mapped from beginning to end.
 */
#include "fuzz.h"

#define ANSWERS	   1000	      /* that are looked at, from the beginning of the disk */
#define READ_BYTES (96 << 10) /* that are read, from there */

static void look_at_info(const struct vdisk_info *info)
{
	expect(info->virtual_size % VDISK_SECTOR == 0, "a disk of %" PRIu64 " bytes",
	       info->virtual_size);
	expect(!info->block_size || !(info->block_size & (info->block_size - 1)),
	       "blocks of %u bytes", info->block_size);
	expect(memchr(info->creator, 0, sizeof(info->creator)) &&
		       memchr(info->backing_format, 0, sizeof(info->backing_format)),
	       "a string has no end");
}

static void look_at_error(const struct vdisk_error *err)
{
	char words[1024];

	expect(err->problem, "an error without a problem");
	expect(memchr(err->detail, 0, sizeof(err->detail)), "the detail has no end");
	for (const char *p = err->detail; *p; p++)
		expect(*p >= ' ' && *p <= '~', "byte %#x in the detail of an error", *p & 0xff);
	vdisk_error_text(err, words, sizeof(words));
}

/* ---- names ---- */

static void look_at_locator(const struct vdisk_locator *l)
{
	expect(memchr(l->path, 0, sizeof(l->path)), "a path has no end");
	expect(*l->path, "a path is empty");
	expect(!l->absolute || *l->path == '/', "an absolute path is %s", l->path);
}

static void look_at_names(struct vdisk *vd)
{
	struct vdisk_locator l;
	struct vdisk_snapshot s;
	unsigned int n;

	for (n = 0; !vdisk_parent_locator(vd, n, &l); n++) {
		expect(n < 32, "there is no end of locators");
		look_at_locator(&l);
	}
	if (!vdisk_data_locator(vd, &l))
		look_at_locator(&l);
	for (n = 0; n < 64 && !vdisk_get_snapshot(vd, n, &s); n++)
		expect(memchr(s.id, 0, sizeof(s.id)) && memchr(s.name, 0, sizeof(s.name)),
		       "the name of snapshot %u has no end", n);
}

/* ---- maps ---- */

/* The last cluster may begin in the file and end past its end. */
static void look_at_place(const struct vdisk *vd, u64 offset, const char *what)
{
	expect(offset < vd->info.file_size, "%s at %" PRIu64 " of a file of %" PRIu64, what, offset,
	       vd->info.file_size);
}

static void look_at_answer(const struct vdisk *vd, u64 at, u64 asked, const struct vdisk_map *m)
{
	expect(m->length && m->length <= asked, "%" PRIu64 ": %" PRIu64 " of %" PRIu64 " bytes", at,
	       m->length, asked);
	expect(m->length % VDISK_SECTOR == 0, "%" PRIu64 ": %" PRIu64 " bytes", at, m->length);
	switch (m->kind) {
	case VDISK_DATA:
	case VDISK_SHARED:
		if (!vd->info.needs_data)
			look_at_place(vd, m->offset, "data");
		return;
	case VDISK_COMPRESSED:
		look_at_place(vd, m->offset, "a stream");
		expect(m->packed && m->packed <= vd->info.file_size - m->offset,
		       "a stream of %u bytes at %" PRIu64, m->packed, m->offset);
		return;
	case VDISK_ZERO:
	case VDISK_PARENT:
		/* of a cluster that the file cuts off, it may be behind the end */
		if (m->home != VDISK_NOWHERE && !vd->info.needs_data)
			look_at_place(vd, round_down_to(m->home, vd->info.block_size), "a home");
		return;
	default:
		found("%" PRIu64 ": an answer of kind %d", at, m->kind);
	}
}

static u64 moved(u64 place, u64 by)
{
	return place == VDISK_NOWHERE ? VDISK_NOWHERE : place + by;
}

/* Ask for a part of what was answered. */
static void ask_again(struct vdisk *vd, u64 at, u64 asked, const struct vdisk_map *m)
{
	u64 skip = m->length / 2 / VDISK_SECTOR * VDISK_SECTOR;
	struct vdisk_map n;
	int ret = vdisk_map(vd, at + skip, asked - skip, &n);

	expect(!ret, "%" PRIu64 ": %d, and was answered before", at + skip, ret);
	expect(n.kind == m->kind && n.length == m->length - skip,
	       "%" PRIu64 ": kind %d for %" PRIu64 " bytes, and before it was %d for %" PRIu64,
	       at + skip, n.kind, n.length, m->kind, m->length - skip);
	if (m->kind == VDISK_COMPRESSED)
		expect(n.offset == m->offset && n.packed == m->packed, "another stream");
	else if (m->kind == VDISK_DATA || m->kind == VDISK_SHARED)
		expect(n.offset == m->offset + skip, "other data");
	else
		expect(n.home == moved(m->home, skip), "another home");
}

static bool is_data_at(struct vdisk *vd, u64 at, u64 place)
{
	struct vdisk_map m;

	return !vdisk_map(vd, at, VDISK_SECTOR, &m) && m.kind == VDISK_DATA && m.offset == place;
}

/* vdisk.plain says what map says, or nothing; its blocks are cached, as map was asked before. */
static void look_at_plain(struct vdisk *vd, u64 at)
{
	u64 unit = 1ULL << vd->unit_shift, left = unit - (at & (unit - 1)), run;
	u64 most = vd->info.virtual_size - at;
	u64 place = vd->plain ? vd->plain(vd, at) : VDISK_NOWHERE;

	if (place == VDISK_NOWHERE)
		return;
	expect(is_data_at(vd, at, place), "%" PRIu64 ": the shortcut says %" PRIu64, at, place);
	if (most <= left || !vd->plain_run)
		return;
	if (most > 64 * unit)
		most = 64 * unit;
	run = vd->plain_run(vd, at, place, most);
	expect(run >= left && run <= most, "%" PRIu64 ": a run of %" PRIu64 " bytes", at, run);
	for (; left < run; left += unit)
		expect(is_data_at(vd, at + left, place + left),
		       "%" PRIu64 ": the run says %" PRIu64, at + left, place + left);
}

static int look_at_range(struct vdisk *vd, u64 at, u64 *length)
{
	u64 asked = vd->info.virtual_size - at;
	struct vdisk_map m;
	int ret = vdisk_map(vd, at, asked, &m);

	look_at_plain(vd, at);
	if (ret) {
		expect(ret == -EUCLEAN || ret == -EOPNOTSUPP, "%" PRIu64 ": %d", at, ret);
		*length = VDISK_SECTOR;
		return ret;
	}
	look_at_answer(vd, at, asked, &m);
	ask_again(vd, at, asked, &m);
	*length = m.length;
	return 0;
}

/* Returns whether an entry was damaged. */
static bool look_at_maps(struct vdisk *vd, u64 number)
{
	u64 size = vd->info.virtual_size, at = 0, length;
	bool bad = false;

	for (int i = 0; at < size && i < ANSWERS; i++, at += length)
		bad |= look_at_range(vd, at, &length) != 0;
	for (int i = 0; i < 32 && at < size; i++, number = number * 6364136223846793005ULL + 1)
		bad |= look_at_range(vd, (number >> 8) % (size / VDISK_SECTOR) * VDISK_SECTOR,
				     &length) != 0;
	if (size)
		bad |= look_at_range(vd, size - VDISK_SECTOR, &length) != 0;
	return bad;
}

/* ---- reads ---- */

/* What is read in one piece is read in odd ones. */
static void look_at_reads(struct vdisk *vd)
{
	u64 size = vd->info.virtual_size, n = size < READ_BYTES ? size : READ_BYTES, part;
	u8 *whole = must(n), *piece = must(n);

	if (n && !vdisk_pread(vd, whole, n, 0)) {
		for (u64 at = 0; at < n; at += part) {
			part = at % 7777 + 1 < n - at ? at % 7777 + 1 : n - at;
			expect(!vdisk_pread(vd, piece + at, part, at), "a part cannot be read");
		}
		expect(!memcmp(whole, piece, n), "what is read depends on how");
	}
	expect(vdisk_pread(vd, whole, 1, size) == -EINVAL, "a read behind the end");
	free(whole);
	free(piece);
}

static void put_in_words(void *ctx, const struct vdisk_fault *fault)
{
	char words[512];

	(void)ctx;
	expect(fault->problem && !fault->fixed, "a fault without a problem, or a repaired one");
	expect(vdisk_fault_text(fault, words, sizeof(words)) > 0, "a fault without words");
}

static void look_at(struct vdisk *vd, u64 number)
{
	struct vdisk_usage usage;
	struct vdisk_found faults;
	bool bad;
	int ret;

	look_at_info(vdisk_info(vd));
	look_at_names(vd);
	bad = look_at_maps(vd, number);
	if (!vdisk_usage(vd, &usage))
		expect(usage.allocated <= vd->info.virtual_size, "%" PRIu64 " bytes allocated",
		       usage.allocated);
	look_at_reads(vd);
	ret = vdisk_check(vd, put_in_words, NULL, &faults);
	expect(ret || faults.errors || !bad || vd->info.snapshot || vd->info.needs_data,
	       "%s: a check finds nothing, and there are places that cannot be mapped",
	       vd->info.format);
}

/* ---- an image ---- */

static struct vdisk *open_as(const struct vdisk_io *io, const char *format, const char *snapshot)
{
	struct vdisk_options options = { .format = format, .snapshot = snapshot };
	struct vdisk_error err = { 0 };
	struct vdisk *vd;
	int ret = vdisk_open(io, &options, &vd, &err);

	if (!ret)
		return vd;
	expect(ret == -EUCLEAN || ret == -EOPNOTSUPP || ret == -ENOENT, "open: %d", ret);
	look_at_error(&err);
	return NULL;
}

static void try(const struct vdisk_io *io, const char *format, const char *snapshot, u64 number)
{
	struct vdisk *vd = open_as(io, format, snapshot);
	struct vdisk_snapshot s;
	struct company company;
	bool has;

	if (!vd)
		return;
	company_give(vd, &company, false);
	look_at(vd, number);
	has = !snapshot && !vdisk_get_snapshot(vd, number % 4, &s);
	vdisk_close(vd);
	company_end(&company);
	if (has)
		try(io, format, s.id, number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const formats[] = { "vhd", "qcow", "qcow2" };
	struct memory m = memory_of(data, size);
	struct vdisk_io io = memory_io(&m, false);
	u64 number = number_of(data, size);
	struct vdisk_error err = { 0 };
	const char *name = "";
	int ret = vdisk_probe(&io, &name, &err);

	expect(!ret || ret == -EOPNOTSUPP, "probe: %d", ret);
	if (ret)
		look_at_error(&err);
	try(&io, NULL, NULL, number);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (ret || strcmp(name, formats[i])) /* it may be named all the same */
			try(&io, formats[i], NULL, number);
	memory_free(&m);
	return 0;
}
