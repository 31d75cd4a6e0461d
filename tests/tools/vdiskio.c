// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vdiskio: does with an image what the lines on standard input say, through libvdisk, and says
 * after each line how it went: "ok", an answer, or "error NAME". Tests write with it.
 *
 *   vdiskio [-r] [-f FORMAT] [-p PARENT] IMAGE
 *     -r  only for reading
 *
 *   write OFFSET LENGTH SEED   words: SEED, and the number of the 8 bytes on the disk, big-endian
 *   zero OFFSET LENGTH
 *   read OFFSET LENGTH         the bytes as hex digits
 *   copy PATH                  the whole disk to a new file, in pieces of all sizes
 *   flush
 *   reopen                     closes, and opens again
 *   usage                      "ALLOCATED ROOM" in bytes
 *   check                      "COUNT", then " INDEX:HOME:OTHER:PROBLEM" for each fault
 *   map OFFSET LENGTH          "KIND OFFSET LENGTH HOME" of the first answer
 *   info                       "FORMAT SUBFORMAT VIRTUAL-SIZE BLOCK-SIZE NEEDS-PARENT"
 *   die                        ends at once, without closing
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../libvdisk/vdisk.h"

static const char *image, *format, *parent;
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
	struct vdisk_options options = { .format = format, .parent = parent };
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
	int ret = vdisk_check(vd, report, f);

	fclose(f);
	if (ret < 0)
		answer(ret);
	else
		printf("%d%s\n", ret, text);
	free(text);
}

static void do_map(uint64_t offset, uint64_t len)
{
	static const char *const kinds[] = { "data", "zero", "parent", "need" };
	struct vdisk_map map;
	int ret = vdisk_map(vd, offset, len, &map);

	if (ret)
		answer(ret);
	else
		printf("%s %" PRId64 " %" PRIu64 " %" PRId64 "\n", kinds[map.kind],
		       map.kind == VDISK_DATA ? (int64_t)map.offset : -1, map.length,
		       map.kind == VDISK_DATA ? -1 : (int64_t)map.home);
}

static void do_info(void)
{
	const struct vdisk_info *info = vdisk_info(vd);

	printf("%s %s %" PRIu64 " %u %d\n", info->format, info->subformat ? info->subformat : "-",
	       info->virtual_size, info->block_size, info->needs_parent);
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
	if (sscanf(line, "copy %199s", path) == 1)
		do_copy(path);
	else if (!strcmp(verb, "write"))
		do_write(a, b, c);
	else if (!strcmp(verb, "zero"))
		answer(vdisk_write_zeroes(vd, b, a));
	else if (!strcmp(verb, "read"))
		do_read(a, b);
	else if (!strcmp(verb, "flush"))
		answer(vdisk_flush(vd));
	else if (!strcmp(verb, "reopen"))
		do_reopen();
	else if (!strcmp(verb, "usage"))
		do_usage();
	else if (!strcmp(verb, "check"))
		do_check();
	else if (!strcmp(verb, "map"))
		do_map(a, b);
	else if (!strcmp(verb, "info"))
		do_info();
	else
		printf("error: there is no verb %s\n", verb);
}

int main(int argc, char **argv)
{
	char line[256];
	int option, ret;

	while ((option = getopt(argc, argv, "rf:p:")) != -1) {
		if (option == 'r')
			flags = 0;
		else if (option == 'f')
			format = optarg;
		else if (option == 'p')
			parent = optarg;
		else
			return 1;
	}
	if (optind != argc - 1) {
		fprintf(stderr, "usage: vdiskio [-r] [-f FORMAT] [-p PARENT] IMAGE\n");
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
