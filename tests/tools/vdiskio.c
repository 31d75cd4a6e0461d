// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vdiskio: does with an image what the lines on standard input say, through libvdisk, and says
 * after each line how it went: "ok", an answer, or "error NAME". Tests write with it.
 *
 *   vdiskio [-r] [-f FORMAT] [-p PARENT] [-s|--snapshot SNAPSHOT] IMAGE
 *     -r  only for reading
 *
 *   write OFFSET LENGTH SEED   words: SEED, and the number of the 8 bytes on the disk, big-endian
 *   zero OFFSET LENGTH
 *   discard OFFSET LENGTH
 *   read OFFSET LENGTH         the bytes as hex digits
 *   copy PATH                  the whole disk to a new file, in pieces of all sizes
 *   flush
 *   reopen                     closes, and opens again
 *   usage                      "ALLOCATED ROOM" in bytes
 *   check                      "COUNT", then " INDEX:HOME:OTHER:PROBLEM" for each fault
 *   map OFFSET LENGTH          "KIND OFFSET LENGTH HOME" of the first answer; and " PACKED"
 *   maps                       " START:KIND:LENGTH:OFFSET" for each answer about the disk
 *   shortcuts                  "PLAIN of DATA": for how many of the places that were asked
 *                              vdisk.plain knows what the tables say; or "wrong at OFFSET"
 *   info                       "FORMAT SUBFORMAT VIRTUAL-SIZE BLOCK-SIZE NEEDS-PARENT"
 *   details                    " NAME=VALUE" for what a qcow or qcow2 has
 *   locators                   " FORMAT:PATH" for each parent locator
 *   snapshots                  " ID:NAME:VIRTUAL-SIZE:SECONDS.NANOSECONDS:STATE-SIZE" for each
 *   die                        ends at once, without closing
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../libvdisk/image.h"
#include "../../libvdisk/vdisk.h"

static const char *image, *format, *parent, *snapshot;
static int flags = VDISK_WRITE;
static struct vdisk *vd;

/* Errors have names here, as their numbers differ between machines. */
static int answer(int ret)
{
	if (ret >= 0)
		puts("ok");
	else
		printf("error %s\n", strerrorname_np(-ret));
	return ret;
}

static int open_image(void)
{
	struct vdisk_error err = { 0 };
	char text[1024];
	struct vdisk_options options = { .format = format, .snapshot = snapshot, .parent = parent };
	int ret = vdisk_open_file(image, flags, &options, &vd, &err);

	if (!ret)
		return 0;
	vd = NULL;
	if (!err.problem)
		snprintf(text, sizeof(text), "%s", strerror(-ret));
	else
		vdisk_error_text(&err, text, sizeof(text));
	fprintf(stderr, "vdiskio: %s: %s: %s\n", image, strerrorname_np(-ret), text);
	return ret;
}

static void *buffer(uint64_t len)
{
	void *buf = malloc(len + 1);

	if (!buf) {
		fprintf(stderr, "vdiskio: no memory\n");
		exit(1);
	}
	return buf;
}

static void put_be32(unsigned char *p, uint64_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (unsigned char)(v >> (24 - 8 * i));
}

static void do_write(uint64_t offset, uint64_t len, uint64_t seed)
{
	unsigned char *buf = buffer(len + 8);

	for (uint64_t i = 0; i < len; i += 8) {
		put_be32(buf + i, seed);
		put_be32(buf + i + 4, (offset + i) / 8);
	}
	answer(vdisk_pwrite(vd, buf, len, offset));
	free(buf);
}

static void do_read(uint64_t offset, uint64_t len)
{
	unsigned char *buf = buffer(len);
	int ret = vdisk_pread(vd, buf, len, offset);

	if (ret) {
		answer(ret);
	} else {
		for (uint64_t i = 0; i < len; i++)
			printf("%02x", buf[i]);
		putchar('\n');
	}
	free(buf);
}

static void do_copy(const char *path)
{
	static const size_t pieces[] = { 512, 1, 511, 4096, 70001, 65536, 1000003, 1 << 20, 3 };
	uint64_t size = vdisk_info(vd)->virtual_size, at = 0;
	unsigned char *buf = buffer(1 << 20);
	FILE *f = fopen(path, "w");
	int ret = f ? 0 : -errno;

	for (size_t i = 0; at < size && !ret; i++) {
		size_t len = pieces[i % (sizeof(pieces) / sizeof(*pieces))];

		if (len > size - at)
			len = size - at;
		ret = vdisk_pread(vd, buf, len, at);
		if (!ret && fwrite(buf, 1, len, f) != len)
			ret = -errno;
		at += len;
	}
	if (f && fclose(f) && !ret)
		ret = -errno;
	answer(ret);
	free(buf);
}

static void do_usage(void)
{
	struct vdisk_usage usage;
	int ret = vdisk_usage(vd, &usage);

	if (ret)
		answer(ret);
	else
		printf("%" PRIu64 " %" PRIu64 "\n", usage.allocated, usage.room);
}

static void report(void *ctx, const struct vdisk_fault *fault)
{
	fprintf(ctx, " %" PRIu64 ":%" PRIu64 ":%" PRId64 ":%s", fault->index, fault->home,
		(int64_t)fault->other, fault->problem);
}

static void do_check(void)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	struct vdisk_found found;
	int ret = vdisk_check(vd, report, f, &found);

	fclose(f);
	if (ret)
		answer(ret);
	else
		printf("%" PRIu64 "%s\n", found.errors, text);
	free(text);
}

static const char *const kinds[] = { "data", "zero", "parent", "need", "shared", "compressed" };

static int has_offset(const struct vdisk_map *map)
{
	return map->kind == VDISK_DATA || map->kind == VDISK_SHARED ||
	       map->kind == VDISK_COMPRESSED;
}

static void do_map(uint64_t offset, uint64_t len)
{
	struct vdisk_map map;
	int ret = vdisk_map(vd, offset, len, &map);

	if (ret) {
		answer(ret);
		return;
	}
	printf("%s %" PRId64 " %" PRIu64 " %" PRId64, kinds[map.kind],
	       has_offset(&map) ? (int64_t)map.offset : -1, map.length,
	       has_offset(&map) ? -1 : (int64_t)map.home);
	if (map.kind == VDISK_COMPRESSED)
		printf(" %u", map.packed);
	putchar('\n');
}

static void do_maps(void)
{
	uint64_t size = vdisk_info(vd)->virtual_size;
	struct vdisk_map map;
	int ret = 0;

	for (uint64_t at = 0; at < size && !ret; at += map.length) {
		ret = vdisk_map(vd, at, size - at, &map);
		if (!ret)
			printf(" %" PRIu64 ":%s:%" PRIu64 ":%" PRId64, at, kinds[map.kind],
			       map.length, has_offset(&map) ? (int64_t)map.offset : -1);
	}
	if (ret)
		printf(" error %s", strerrorname_np(-ret));
	putchar('\n');
}

/* What the tables alone say, with their blocks in the cache. */
static bool is_data_at(uint64_t at, uint64_t place)
{
	struct vdisk_map map;

	vdisk_map(vd, at, VDISK_SECTOR, &map); /* fetches */
	return !vdisk_image_map(vd, at, VDISK_SECTOR, &map) && map.kind == VDISK_DATA &&
	       (place == VDISK_NOWHERE || map.offset == place);
}

static bool run_is_right(uint64_t at, uint64_t place)
{
	uint64_t unit = 1ULL << vd->unit_shift, left = unit - (at & (unit - 1)), run;
	uint64_t want = vd->info.virtual_size - at;

	if (want <= left || !vd->plain_run)
		return true;
	run = vd->plain_run(vd, at, place, want);
	if (run < left || run > want)
		return false;
	for (; left < run; left += unit)
		if (!is_data_at(at + left, place + left))
			return false;
	return true;
}

/* A step that is no part of a unit. */
static void do_shortcuts(void)
{
	uint64_t n_plain = 0, n_data = 0, place;

	for (uint64_t at = 0; at < vd->info.virtual_size && vd->plain; at += 7 * VDISK_SECTOR) {
		n_data += is_data_at(at, VDISK_NOWHERE);
		place = vd->plain(vd, at);
		if (place == VDISK_NOWHERE)
			continue;
		n_plain++;
		if (!is_data_at(at, place) || !run_is_right(at, place)) {
			printf("wrong at %" PRIu64 "\n", at);
			return;
		}
	}
	printf("%" PRIu64 " of %" PRIu64 "\n", n_plain, n_data);
}

static void do_info(void)
{
	const struct vdisk_info *info = vdisk_info(vd);

	printf("%s %s %" PRIu64 " %u %d\n", info->format, info->subformat ? info->subformat : "-",
	       info->virtual_size, info->block_size, info->needs_parent);
}

static void do_details(void)
{
	const struct vdisk_info *i = vdisk_info(vd);

	printf("version=%u refcount_bits=%u subcluster=%u compression=%s snapshots=%u bitmaps=%u "
	       "data=%d raw=%d lazy=%d dirty=%d corrupt=%d snapshot=%d backing_format=%s\n",
	       i->version, i->refcount_bits, i->subcluster_size,
	       i->compression ? i->compression : "-", i->snapshots, i->bitmaps, i->needs_data,
	       i->data_raw, i->lazy_refcounts, i->dirty, i->corrupt, i->snapshot,
	       i->backing_format);
}

static void do_locators(void)
{
	struct vdisk_locator l;
	int ret;

	for (unsigned int n = 0; !(ret = vdisk_parent_locator(vd, n, &l)); n++)
		printf(" %s:%s", l.format ? l.format : "-", l.path);
	if (ret != -ENOENT)
		printf(" error %s", strerrorname_np(-ret));
	putchar('\n');
}

static void do_snapshots(void)
{
	struct vdisk_snapshot s;
	int ret;

	for (unsigned int n = 0; !(ret = vdisk_get_snapshot(vd, n, &s)); n++)
		printf(" %s:%s:%" PRIu64 ":%" PRIu64 ".%09u:%" PRIu64, s.id, s.name, s.virtual_size,
		       s.seconds, s.nanoseconds, s.vm_state_size);
	if (ret != -ENOENT)
		printf(" error %s", strerrorname_np(-ret));
	putchar('\n');
}

static void do_reopen(void)
{
	int ret = vdisk_close_files(vd);

	vd = NULL;
	if (ret)
		answer(ret);
	ret = open_image();
	if (ret)
		exit(1);
	puts("ok");
}

/* Verbs that need nothing more. */
static const struct {
	const char *name;
	void (*run)(void);
} plain[] = {
	{ "reopen", do_reopen },     { "usage", do_usage },	    { "check", do_check },
	{ "info", do_info },	     { "details", do_details },	    { "maps", do_maps },
	{ "locators", do_locators }, { "snapshots", do_snapshots }, { "shortcuts", do_shortcuts },
};

static int perform_plain(const char *verb)
{
	for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
		if (strcmp(verb, plain[i].name))
			continue;
		plain[i].run();
		return 1;
	}
	return 0;
}

static void perform(const char *line)
{
	char verb[16], path[200] = "";
	uint64_t a = 0, b = 0, c = 0;

	if (sscanf(line, "%15s %" SCNu64 " %" SCNu64 " %" SCNu64, verb, &a, &b, &c) < 1)
		return;
	if (!strcmp(verb, "die")) {
		fflush(stdout);
		_exit(0);
	}
	if (perform_plain(verb))
		return;
	if (sscanf(line, "copy %199s", path) == 1)
		do_copy(path);
	else if (!strcmp(verb, "write"))
		do_write(a, b, c);
	else if (!strcmp(verb, "zero"))
		answer(vdisk_write_zeroes(vd, b, a));
	else if (!strcmp(verb, "discard"))
		answer(vdisk_discard(vd, b, a));
	else if (!strcmp(verb, "read"))
		do_read(a, b);
	else if (!strcmp(verb, "flush"))
		answer(vdisk_flush(vd));
	else if (!strcmp(verb, "map"))
		do_map(a, b);
	else
		printf("error: there is no verb %s\n", verb);
}

int main(int argc, char **argv)
{
	static const struct option words[] = { { "snapshot", required_argument, NULL, 's' },
					       { 0 } };
	char line[256];
	int option, ret;

	while ((option = getopt_long(argc, argv, "rf:p:s:", words, NULL)) != -1) {
		if (option == 'r')
			flags = 0;
		else if (option == 'f')
			format = optarg;
		else if (option == 'p')
			parent = optarg;
		else if (option == 's')
			snapshot = optarg;
		else
			return 1;
	}
	if (optind != argc - 1) {
		fprintf(stderr,
			"usage: vdiskio [-r] [-f FORMAT] [-p PARENT] [-s SNAPSHOT] IMAGE\n");
		return 1;
	}
	image = argv[optind];
	if (open_image())
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		perform(line);
		fflush(stdout);
	}
	ret = vdisk_close_files(vd);
	answer(ret);
	return ret < 0;
}
