// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libvdisk on images in memory: what it recognises, accepts and
 * refuses, that each refusal names the field, and that no reader's error gets lost.
 * `image SEED` repeats a random run; the seed is printed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../libvdisk/image.h"
#include "files.h"
#include "tap.h"

/* ---- expectations ---- */

struct opened {
	struct vdisk *vd;
	int ret;
	struct vdisk_error err;
};

static struct opened open_file(struct file *f, const char *format)
{
	struct vdisk_io io = io_of(f);
	struct opened o = { 0 };

	o.ret = vdisk_open(&io, &(struct vdisk_options){ .format = format }, &o.vd, &o.err);
	if (f->wrong)
		ok(false, "reads inside the file only, and none after an error");
	if (o.ret && o.vd)
		ok(false, "no image comes out of an error");
	return o;
}

static void accepts(struct file f, const char *format, const char *as, uint64_t size,
		    const char *name)
{
	struct opened o = open_file(&f, format);
	const struct vdisk_info *info = o.vd ? vdisk_info(o.vd) : NULL;

	if (!ok(info && !strcmp(info->format, as) && info->virtual_size == size,
		"%s: %s, %" PRIu64 " bytes", name, as, size))
		printf("# got %d, %s, %s, %" PRIu64 "\n", o.ret, o.err.field,
		       info ? info->format : "none", info ? info->virtual_size : 0);
	vdisk_close(o.vd);
}

/* The error in words has all that is in it: field, offset, what was found and expected, advice. */
static void __attribute__((format(printf, 5, 6)))
refuses(struct file f, const char *format, int code, const char *name, const char *fmt, ...)
{
	char words[512] = "nothing", expected[512];
	struct opened o = open_file(&f, format);
	va_list ap;

	vdisk_close(o.vd);
	va_start(ap, fmt);
	vsnprintf(expected, sizeof(expected), fmt, ap);
	va_end(ap);
	if (o.err.problem)
		vdisk_error_text(&o.err, words, sizeof(words));
	if (!ok(o.ret == code && !strcmp(words, expected), "refused: %s", name))
		printf("# got      %d %s\n# expected %d %s\n", o.ret, words, code, expected);
}

static void probes(struct file f, const char *as, const char *name)
{
	struct vdisk_io io = io_of(&f);
	const char *found = "none";
	struct vdisk_error err;
	int ret = vdisk_probe(&io, &found, &err);

	if (!ok(!ret && !strcmp(found, as), "%s is %s", name, as))
		printf("# got %d, %s\n", ret, found);
}

/* ---- raw ---- */

static void test_raw(void)
{
	static const uint64_t small[] = { 0, 1, 511 };
	struct file f = { .size = UINT64_MAX, .fail_at = NEVER };
	const struct vdisk_info *info;
	struct opened o;

	for (int i = 0; i < 6; i++)
		refuses(data_file(small[i / 2]), i % 2 ? "raw" : NULL, -EUCLEAN,
			"less than a sector",
			"offset 0: file size is less than one sector: found %" PRIu64
			", expected 512",
			small[i / 2]);
	accepts(data_file(512), NULL, "raw", 512, "512 bytes");
	accepts(data_file(513), NULL, "raw", 512, "513 bytes");
	accepts(data_file(1535), "raw", "raw", 1024, "1535 bytes");
	accepts(f, NULL, "raw", UINT64_MAX - 511, "the largest file");

	f = data_file(1025);
	o = open_file(&f, NULL);
	info = vdisk_info(o.vd);
	ok(info->file_size == 1025 && info->tail == 1, "one byte does not fill a sector");
	ok(!info->subformat && !*info->creator && !info->has_uuid && !info->chs_size &&
		   !info->current_size && !info->saved_state,
	   "nothing is told that raw has not");
	vdisk_close(o.vd);
}

/* ---- VHD ---- */

static void test_vhd_good(void)
{
	const uint64_t size = 17 * 4 * 512;
	struct file f = changed_vhd(size, SAVED_STATE, 1);
	const struct vdisk_info *info;
	struct opened o;

	accepts(vhd_file(1024, 512), NULL, "vhd", 1024, "a footer of 512 bytes");
	accepts(vhd_file(1024, 511), NULL, "vhd", 1024, "a footer of 511 bytes");
	accepts(vhd_file(1024, 512), "vhd", "vhd", 1024, "512 bytes by name");
	accepts(vhd_file(1024, 511), "vhd", "vhd", 1024, "511 bytes by name");
	accepts(vhd_file(1024, 512), "raw", "raw", 1536, "512 bytes as raw");
	accepts(vhd_file(1024, 511), "raw", "raw", 1024, "511 bytes as raw");

	o = open_file(&f, NULL);
	info = vdisk_info(o.vd);
	ok(!strcmp(info->subformat, "fixed"), "subformat");
	ok(!strcmp(info->creator, "win "), "creator");
	ok(info->file_size == size + 512 && info->tail == 0, "file size");
	ok(info->chs_size == size && info->current_size == size, "both sizes");
	ok(info->has_uuid && !memcmp(info->uuid, footer_of(&f) + 68, 16), "unique id");
	ok(info->saved_state, "saved state");
	vdisk_close(o.vd);
}

/* The creator decides which of two sizes is meant: 2 sectors by geometry, 4 by current size. */
static void test_vhd_creators(void)
{
	static const struct {
		const char *creator, *shown;
		uint64_t size;
	} c[] = {
		{ "vpc ", "vpc ", 1024 }, { "qemu", "qemu", 1024 },
		{ "qem2", "qem2", 2048 }, { "win ", "win ", 2048 },
		{ "d2v ", "d2v ", 2048 }, { "tap", "tap", 2048 },
		{ "CTXS", "CTXS", 2048 }, { "vbox", "vbox", 2048 },
		{ "vs  ", "vs  ", 2048 }, { "wa", "wa", 2048 },
		{ "", "", 2048 },	  { "vpc", "vpc", 2048 },
		{ "VPC ", "VPC ", 2048 }, { "\1a\xff\x7f", "?a??", 2048 },
	};

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct file f = vhd_file(2048, FOOTER);
		struct opened o;

		memset(footer_of(&f) + 28, 0, 4);
		memcpy(footer_of(&f) + 28, c[i].creator, strlen(c[i].creator));
		change(footer_of(&f), GEOMETRY, CHS(1, 2, 1));
		accepts(f, NULL, "vhd", c[i].size, c[i].shown);
		o = open_file(&f, NULL);
		ok(!strcmp(vdisk_info(o.vd)->creator, c[i].shown), "shown as %s", c[i].shown);
		vdisk_close(o.vd);
	}
}

static struct file geometry_file(uint64_t size, enum creator creator, uint64_t chs)
{
	struct file f = changed_vhd(size, CREATOR, creator);

	change(footer_of(&f), GEOMETRY, chs);
	return f;
}

static void test_vhd_geometry(void)
{
	const uint64_t data = 140 * GIB, most = 65535ULL * 16 * 255 * 512;
	static const uint64_t empty[] = { CHS(0, 16, 63), CHS(9, 0, 63), CHS(9, 16, 0) };

	accepts(geometry_file(data, VPC, CHS(65535, 16, 255)), NULL, "vhd", data,
		"the largest geometry says nothing");
	accepts(geometry_file(data, QEMU, CHS(65535, 16, 255)), NULL, "vhd", data,
		"nor in an image of qemu");
	accepts(geometry_file(data, VPC, CHS(65535, 255, 16)), NULL, "vhd", data,
		"nor with heads and sectors exchanged");
	accepts(geometry_file(data, VPC, CHS(65534, 16, 255)), NULL, "vhd", most - 16 * 255 * 512,
		"one cylinder less is meant");
	accepts(geometry_file(2040 * GIB, VPC, CHS(65535, 255, 255)), NULL, "vhd",
		65535ULL * 255 * 255 * 512, "the largest numbers");
	accepts(geometry_file(1024, VPC, CHS(2, 1, 1)), NULL, "vhd", 1024,
		"a geometry that fills the file");
	accepts(geometry_file(1024, WIN, CHS(3, 1, 1)), NULL, "vhd", 1024,
		"one that Hyper-V does not mean");
	accepts(geometry_file(data, WIN, 0), NULL, "vhd", data, "Hyper-V without a geometry");
	refuses(geometry_file(1024, VPC, CHS(3, 1, 1)), NULL, -EUCLEAN, "a sector more",
		"offset 1080: footer.geometry is larger than the data before the footer: the file "
		"was cut short: found 1536, expected 1024");
	for (int i = 0; i < 6; i++)
		refuses(geometry_file(1024, i % 2 ? VPC : QEMU, empty[i / 2]), NULL, -EUCLEAN,
			"no cylinders, no heads, no sectors",
			"offset 1080: footer.geometry says an empty disk: found 0, expected 1024");
}

static void refuses_size(uint64_t data, uint64_t size, const char *problem)
{
	refuses(changed_vhd(data, SIZE, size), NULL, -EUCLEAN, problem,
		"offset %" PRIu64 ": footer.current_size %s: found %" PRIu64 ", expected %" PRIu64,
		data + 48, problem, size, data);
}

static void test_vhd_sizes(void)
{
	const char *odd = "is no multiple of 512";
	const char *large = "is larger than the 2040 GiB that a VHD can be";
	const char *cut = "is larger than the data before the footer: the file was cut short";
	const uint64_t most = 2040 * GIB;

	refuses_size(1024, 0, "says an empty disk");
	refuses_size(1024, 1, odd);
	refuses_size(1024, 511, odd);
	refuses_size(1024, 513, odd);
	refuses_size(1024, UINT64_MAX, odd);
	refuses_size(1024, 1536, cut);
	refuses_size(0, 512, cut);
	refuses_size(most, UINT64_MAX - 511, large);
	refuses_size(most + 512, most + 512, large);
	accepts(changed_vhd(1024, SIZE, 1024), NULL, "vhd", 1024, "all the data");
	accepts(changed_vhd(1024, SIZE, 512), NULL, "vhd", 512, "less");
	accepts(vhd_file(most, FOOTER), NULL, "vhd", most, "2040 GiB");
	accepts(changed_vhd(most + 512, SIZE, most), NULL, "vhd", most,
		"2040 GiB in a longer file");
	refuses(vhd_file(0, 511), NULL, -EUCLEAN, "511 bytes that are nothing but a footer",
		"offset 48: footer.current_size says an empty disk: found 0, expected 0");
}

static void test_vhd_types(void)
{
	static const uint32_t damaged[] = { 0, 1, 5, 6, 7, 0x02000000, UINT32_MAX };

	accepts(changed_vhd(1024, TYPE, 2), NULL, "vhd", 1024, "disk type 2");
	for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++)
		refuses(changed_vhd(1024, TYPE, damaged[i]), NULL, -EUCLEAN, "no disk type",
			"offset 1084: footer.disk_type is none that VHD has: found %u, expected 2",
			damaged[i]);
}

static void test_vhd_versions(void)
{
	static const uint32_t refused[] = { 0, 1, 0xffff, 0x00020000, 0x01000000, UINT32_MAX };

	accepts(changed_vhd(1024, VERSION, 0x00010001), NULL, "vhd", 1024, "version 1.1");
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		refuses(changed_vhd(1024, VERSION, refused[i]), NULL, -EOPNOTSUPP,
			"another version",
			"offset 1036: footer.version is of a VHD version that is not known: found "
			"0x%x, expected 0x10000",
			refused[i]);
}

/* flip bits of a byte of f and hope that the checksum, wrong by that, tells. */
static void refuses_byte(struct file f, size_t at, uint8_t flip, uint32_t found, uint32_t expected)
{
	f.end[at] ^= flip;
	refuses(f, NULL, -EUCLEAN, "a wrong byte",
		"offset 1088: footer.checksum does not match the footer, which is damaged: found "
		"0x%x, expected 0x%x; repair a copy of the image first",
		found, expected);
}

static void test_vhd_checksum(void)
{
	uint8_t footer[FOOTER];
	uint32_t sum;

	make_footer(footer, 1024);
	sum = (uint32_t)footer[64] << 24 | footer[65] << 16 | footer[66] << 8 | footer[67];
	refuses_byte(vhd_file(1024, 512), 1024 + 67, 1, sum ^ 1, sum);
	refuses_byte(vhd_file(1024, 512), 1024 + 64, 0x80, sum ^ 0x80000000, sum);
	refuses_byte(vhd_file(1024, 512), 1024 + 63, 2, sum, sum + 2); /* type 2 becomes 0 */
	refuses_byte(vhd_file(1024, 512), 1024 + 511, 0xff, sum, sum - 255);
	refuses_byte(vhd_file(1024, 511), 1024 + 510, 0xff, sum, sum - 255);
}

/* Seven letters of the cookie are left; what else is in the footer tells that it is one. */
static void test_vhd_lost_cookie(void)
{
	const char *words = "offset 1024: footer.cookie is not a VHD footer's: found \"?onectix\" "
			    "(0x076f6e6563746978), expected \"conectix\" (0x636f6e6563746978); "
			    "if this is a raw image, say so: --format raw";
	struct file f = vhd_file(1024, 512);

	f.end[1024] = 7;
	probes(f, "vhd", "a footer with a damaged cookie");
	refuses(f, NULL, -EUCLEAN, "a damaged cookie", "%s", words);
	refuses(f, "vhd", -EUCLEAN, "a damaged cookie, by name", "%s", words);
	accepts(f, "raw", "raw", 1536, "a damaged cookie as raw");
	f.end[1024 + 40] ^= 1;
	probes(f, "raw", "a footer with a damaged cookie and another wrong bit");
	f = changed_vhd(1024, VERSION, 0x00020000);
	f.end[1024] = 7;
	probes(f, "raw", "a damaged cookie before another version");

	f = data_file(1024);
	memcpy(f.end + 512, "conecting", 9);
	probes(f, "raw", "a last sector that begins like a cookie");

	f = vhd_file(1024, 511);
	f.end[1024] = 7;
	probes(f, "vhd", "a footer of 511 bytes with a damaged cookie");
	refuses(f, NULL, -EUCLEAN, "a damaged cookie before 511 bytes", "%s", words);
}

static void test_vhd_named(void)
{
	static const size_t sizes[] = { 0, 510, 512, 4096 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		refuses((struct file){ .size = sizes[i], .fail_at = NEVER }, "vhd", -EUCLEAN,
			"zeros called VHD",
			"offset %zu: footer.cookie is not a VHD footer's: found \"????????\" "
			"(0x0000000000000000), expected \"conectix\" (0x636f6e6563746978); if "
			"this is a raw image, say so: --format raw",
			sizes[i] < FOOTER ? 0 : sizes[i] - FOOTER);
}

enum { FOOTER_LOST = 1, COPY_LOST = 2, COPY_DIFFERS = 4 };

/* What is told about the two footers of a dynamic image. */
static int footers(struct file f)
{
	struct opened o = open_file(&f, NULL);
	const struct vdisk_info *info = vdisk_info(o.vd);
	int told = (info->footer_lost ? FOOTER_LOST : 0) | (info->copy_lost ? COPY_LOST : 0) |
		   (info->copy_differs ? COPY_DIFFERS : 0);

	vdisk_close(o.vd);
	return told;
}

static void test_dynamic_header(void)
{
	refuses(dynamic_with(0, 1, 'C'), NULL, -EUCLEAN, "another header",
		"offset 512: header.cookie is not a dynamic VHD header's: found \"Cxsparse\" "
		"(0x4378737061727365), expected \"cxsparse\" (0x6378737061727365); repair a copy "
		"of the image first");
	refuses(dynamic_with(24, 4, 0x20000), NULL, -EOPNOTSUPP, "a later version",
		"offset 536: header.version is of a VHD version that is not known: found 0x20000, "
		"expected 0x10000");
	refuses(dynamic_with(32, 4, 3 << 20), NULL, -EOPNOTSUPP, "an odd block size",
		"offset 544: header.block_size is no power of two from 4 KiB to 64 MiB: found "
		"3145728, expected 2097152");
	refuses(dynamic_with(32, 4, 128 << 20), NULL, -EOPNOTSUPP, "a large block size",
		"offset 544: header.block_size is no power of two from 4 KiB to 64 MiB: found "
		"134217728, expected 2097152");
	refuses(dynamic_with(28, 4, 2), NULL, -EUCLEAN, "a BAT that is too small",
		"offset 540: header.max_table_entries is too small for the size of the disk: found "
		"2, expected 3");
	for (uint64_t at = 0; at < BAT; at += 512)
		refuses(dynamic_with(16, 8, at), NULL, -EUCLEAN, "a BAT in the headers",
			"offset 528: header.table_offset points into the headers: found %" PRIu64
			", expected 1536",
			at);
	refuses(dynamic_with(28, 4, 129), NULL, -EUCLEAN, "a BAT that is too long",
		"offset 528: header.table_offset does not point at a table on a sector boundary "
		"inside the file: found 1536, expected 1536");
	refuses(dynamic_with(16, 8, UINT64_MAX - 511), NULL, -EUCLEAN, "a BAT far away",
		"offset 528: header.table_offset does not point at a table on a sector boundary "
		"inside the file: found 18446744073709551104, expected 1536");
	accepts(dynamic_with(28, 4, 128), NULL, "vhd", 6 << 20, "a BAT up to the footer");
}

static void test_vhd_dynamic(void)
{
	struct file f = dynamic_file();

	accepts(f, NULL, "vhd", 6 << 20, "a dynamic image");
	change(f.end, SIZE, 5 << 20);
	accepts(f, NULL, "vhd", 5 << 20, "of two good footers the first counts");
	f = dynamic_file();
	f.end[FOOTER - 1]++;
	accepts(f, NULL, "vhd", 6 << 20, "a damaged copy of the footer");
	ok(footers(f) == COPY_LOST, "  that is told");
	f = dynamic_file();
	ok(footers(f) == 0, "nothing is to be told of good ones");
	change(f.end, SIZE, 5 << 20);
	ok(footers(f) == COPY_DIFFERS, "that they differ is told");
	f = dynamic_file();
	memset(footer_of(&f), 0, FOOTER);
	probes(f, "vhd", "a dynamic image that lost its last footer");
	accepts(f, NULL, "vhd", 6 << 20, "a dynamic image without its last footer");
	ok(footers(f) == FOOTER_LOST, "  that is told");
	f = changed_vhd(1024, SIZE, 4096);
	memcpy(f.end, dynamic_file().end, 1024);
	f.end[1024 + 100]++;
	ok(open_file(&f, NULL).ret == -EUCLEAN, "a damaged fixed image of a disk that begins with "
						"a dynamic one is not taken for that");
	f = dynamic_file();
	memset(footer_of(&f), 0, FOOTER);
	f.n = f.size = 1000;
	refuses(f, NULL, -EUCLEAN, "a dynamic image that was cut short",
		"offset 16: footer.data_offset does not point at a header behind the footer's copy "
		"and inside the file: found 512, expected 512");
	test_dynamic_header();

	/* A disk may begin with a footer, as a file in it may: the last one is the image's. */
	f = vhd_file(1024, FOOTER);
	memcpy(f.end, dynamic_file().end, FOOTER);
	accepts(f, NULL, "vhd", 1024, "a fixed image of a disk that begins with a footer");

	f = data_file(1024);
	make_footer(f.end, 512);
	refuses(f, NULL, -EUCLEAN, "a fixed image's footer at the start only",
		"offset 48: footer.current_size is larger than the data before the footer: the "
		"file was cut short: found 512, expected 0");
}

/* ---- which format ---- */

/* Foreign formats are tests/unit/probe.c's. Before a footer there may be anything. */
#define AMBIGUOUS                                                                               \
	"%s by its first bytes, but it ends in a VHD footer; say which it is: --format vhd or " \
	"--format raw"

static void test_ambiguous(void)
{
	static const struct {
		const char *name;
		size_t at;
		const char *magic;
	} others[] = { { "qcow2", 0, "QFI\xfb" }, { "vdi", 64, "\x7f\x10\xda\xbe" } };

	for (int i = 0; i < 2; i++) {
		struct file f = vhd_file(1024, FOOTER);

		memcpy(f.end + others[i].at, others[i].magic, 4);
		refuses(f, NULL, -EOPNOTSUPP, "before a footer", AMBIGUOUS, others[i].name);
		f.end[1024] = 'C';
		refuses(f, NULL, -EOPNOTSUPP, "before a damaged one", AMBIGUOUS, others[i].name);
		f.end[1024] = 'c';
		accepts(f, "vhd", "vhd", 1024, "when it was said, it is a VHD");
		accepts(f, "raw", "raw", 1536, "or raw");
	}
}

/* ---- the reader ---- */

/* Fails the first read, the second and so on, until none is left that could fail. */
static void test_failing_reads(struct file f, const char *format, int without, const char *name)
{
	struct opened o = { .ret = -EIO };
	bool good = true;

	for (f.fail_at = 0; o.ret == -EIO && good; f.fail_at++) {
		o = open_file(&f, format);
		good = o.ret == (f.fail_at < f.reads ? -EIO : without) &&
		       (o.ret != -EIO || !o.err.problem);
		vdisk_close(o.vd);
	}
	if (!ok(good && f.fail_at > 1, "%s: any read may fail", name))
		printf("# got %d at read %" PRIu64 "\n", o.ret, f.fail_at - 1);
}

static void test_reader(void)
{
	struct file lost = dynamic_file();
	struct file f = vhd_file(2040 * GIB, FOOTER);

	memset(footer_of(&lost), 0, FOOTER);
	test_failing_reads(data_file(4096), NULL, 0, "raw");
	test_failing_reads(vhd_file(1024, 512), NULL, 0, "VHD");
	test_failing_reads(vhd_file(1024, 512), "vhd", 0, "VHD by name");
	test_failing_reads(vhd_file(1024, 511), NULL, 0, "VHD of 511");
	test_failing_reads(data_file(4096), "vhd", -EUCLEAN, "raw called VHD");
	test_failing_reads(dynamic_file(), NULL, 0, "dynamic VHD");
	test_failing_reads(lost, NULL, 0, "dynamic VHD without its last footer");

	vdisk_close(open_file(&f, NULL).vd);
	ok(f.bytes <= 4096, "2040 GiB are opened with %" PRIu64 " bytes read", f.bytes);
	f = data_file(1024);
	vdisk_close(open_file(&f, "raw").vd);
	ok(!f.reads, "a raw image is opened without a read");
}

/* What formats read with: a range that is not inside the file does not reach the reader. */
static void test_read(void)
{
	static const struct {
		uint64_t offset;
		size_t len;
	} outside[] = { { 0, 1025 },
			{ 1024, 1 },
			{ 1025, 0 },
			{ 1, SIZE_MAX },
			{ UINT64_MAX, 1 },
			{ UINT64_MAX, 0 },
			{ 512, SIZE_MAX - 511 } };
	struct file f = data_file(1024);
	struct vdisk_io io = io_of(&f);
	uint8_t buf[1025];

	for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++)
		ok(vdisk_read(&io, outside[i].offset, buf, outside[i].len) == -EINVAL && !f.reads,
		   "%zu bytes at %" PRIu64 " are outside", outside[i].len, outside[i].offset);
	ok(!vdisk_read(&io, 0, buf, 1024) && !memcmp(buf, f.end, 1024), "1024 at 0 are not");
}

static bool maps(struct vdisk *vd, uint64_t offset, uint64_t length)
{
	struct vdisk_map m = { (enum vdisk_kind)77, 1, 2, 3, 0 };

	return !vdisk_map(vd, offset, length, &m) && m.kind == VDISK_DATA && m.offset == offset &&
	       m.length == length;
}

static bool no_range(struct vdisk *vd, uint64_t offset, uint64_t length)
{
	struct vdisk_map m;

	return vdisk_map(vd, offset, length, &m) == -EINVAL;
}

static void test_map(struct file f, const char *name)
{
	struct vdisk *vd = open_file(&f, NULL).vd;

	printf("# vdisk_map() of %s\n", name);
	ok(maps(vd, 0, 1024) && maps(vd, 500, 24), "all of it, or some across a sector");
	ok(maps(vd, 0, 1) && maps(vd, 1023, 1), "the first byte and the last");
	ok(no_range(vd, 0, 0) && no_range(vd, 512, 0) && no_range(vd, 1024, 0), "nothing: EINVAL");
	ok(no_range(vd, 0, 1025) && no_range(vd, 1023, 2), "a byte too much: EINVAL");
	ok(no_range(vd, 1024, 1) && no_range(vd, 1025, 1), "past the end: EINVAL");
	ok(no_range(vd, UINT64_MAX, 1) && no_range(vd, 512, UINT64_MAX) &&
		   no_range(vd, UINT64_MAX, UINT64_MAX) && no_range(vd, 2, UINT64_MAX - 1),
	   "past the end of all numbers: EINVAL");
	vdisk_close(vd);
}

static void test_pread(size_t footer_bytes)
{
	struct file f = vhd_file(1024, footer_bytes);
	struct vdisk *vd = open_file(&f, NULL).vd;
	uint8_t buf[1025];

	printf("# vdisk_pread() before a footer of %zu bytes\n", footer_bytes);
	ok(!vdisk_pread(vd, buf, 1024, 0) && !memcmp(buf, f.end, 1024), "all of it");
	memset(buf, 0x55, sizeof(buf));
	ok(!vdisk_pread(vd, buf, 3, 511) && !memcmp(buf, f.end + 511, 3) && buf[3] == 0x55,
	   "three bytes across a sector");
	f.reads = 0;
	ok(!vdisk_pread(vd, buf, 0, 0) && !vdisk_pread(vd, buf, 0, 1024) && !f.reads, "nothing");
	ok(vdisk_pread(vd, buf, 1025, 0) == -EINVAL, "a byte of the footer: EINVAL");
	ok(vdisk_pread(vd, buf, 1, 1024) == -EINVAL, "the footer alone: EINVAL");
	ok(vdisk_pread(vd, buf, 2, UINT64_MAX) == -EINVAL && !f.reads, "past all numbers: EINVAL");
	f.fail_at = 0;
	ok(vdisk_pread(vd, buf, 1, 0) == -EIO, "a read that fails: EIO");
	vdisk_close(vd);
}

/* ---- damage ---- */

/* Of a dynamic image without blocks. */
static bool maps_zeros(struct vdisk *vd, uint64_t length)
{
	struct vdisk_map m = { VDISK_DATA, 1, 2, 3, 0 };

	return !vdisk_map(vd, 0, length, &m) && m.kind == VDISK_ZERO && m.length == length;
}

static bool maps_all(struct vdisk *vd, uint64_t file_size)
{
	uint64_t size = vdisk_info(vd)->virtual_size;

	if (!size || size % 512)
		return false;
	if (vdisk_info(vd)->block_size)
		return maps_zeros(vd, size);
	return size <= file_size && maps(vd, 0, size);
}

/* Whatever is in the file: an error that says what, or a disk that lies inside the file. */
static bool sane(struct file *f, const char *format, int *ret)
{
	struct opened o = open_file(f, format);
	bool good = o.vd ? maps_all(o.vd, f->size)
			 : (o.ret == -EUCLEAN || o.ret == -EOPNOTSUPP) && o.err.problem;

	*ret = o.ret;
	vdisk_close(o.vd);
	return good && !f->wrong;
}

/* A single wrong bit is always found: by the checksum, or because the cookie is lost. The byte
 * that a footer of 511 bytes lacks has none. */
static void test_every_bit(struct file f, size_t data, size_t end, const char *name)
{
	int bits = 0, found = 0;

	for (size_t i = data; i < end; i++)
		for (int bit = 0; bit < 8; bit++) {
			int probed, named;

			f.end[i] ^= 1 << bit;
			if (sane(&f, NULL, &probed) && sane(&f, "vhd", &named) &&
			    probed == -EUCLEAN && named == -EUCLEAN)
				found++;
			else
				printf("# byte %zu bit %d\n", i - data, bit);
			f.end[i] ^= 1 << bit;
			bits++;
		}
	ok(found == bits, "%s: %d of %d flipped bits are found", name, found, bits);
}

static uint64_t state;

/* xorshift64*, Vigna 2014: the same numbers everywhere. */
static uint32_t random_below(uint32_t bound)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)((state * 2685821657736338717ULL >> 33) % bound);
}

/* Half of the footers get a right checksum again, so that what is behind it is reached. */
static void mutate(struct file *f)
{
	uint8_t *footer = footer_of(f);

	for (uint32_t n = 1 + random_below(4); n; n--)
		footer[random_below(random_below(2) ? 88 : FOOTER)] = (uint8_t)random_below(256);
	if (random_below(2)) {
		put(footer + TYPE.at, 4, random_below(8) ? 2 : random_below(6));
		put(footer + SIZE.at, random_below(8), 0); /* its high bytes */
		put_checksum(footer);
	}
}

static void test_random(uint64_t seed)
{
	const int rounds = 50000;
	int round = 0, opened = 0, ret;
	bool good = true;

	printf("# seed %" PRIu64 "\n", seed);
	state = seed ? seed : 1;
	for (; round < rounds && good; round++) {
		bool fixed = random_below(4);
		struct file f = fixed ? vhd_file(512 * random_below(64), FOOTER) : dynamic_file();
		bool shorter = !random_below(4); /* a footer of 511 */

		mutate(&f);
		f.n -= shorter;
		f.size -= shorter;
		good = sane(&f, NULL, &ret);
		opened += !ret;
		good = sane(&f, "vhd", &ret) && good;
	}
	ok(good && opened, "%d random footers, %d of them good (seed %" PRIu64 ")", round, opened,
	   seed);
}

int main(int argc, char **argv)
{
	test_raw();
	test_vhd_good();
	test_vhd_creators();
	test_vhd_geometry();
	test_vhd_sizes();
	test_vhd_types();
	test_vhd_versions();
	test_vhd_checksum();
	test_vhd_lost_cookie();
	test_vhd_named();
	test_vhd_dynamic();
	test_ambiguous();
	test_reader();
	test_read();
	test_map(data_file(1025), "a raw image");
	test_map(vhd_file(1024, 512), "a VHD");
	test_map(vhd_file(1024, 511), "a VHD with a footer of 511 bytes");
	test_pread(512);
	test_pread(511);
	test_every_bit(vhd_file(1024, 512), 1024, 1536, "a footer of 512 bytes");
	test_every_bit(vhd_file(1024, 511), 1024, 1535, "a footer of 511 bytes");
	test_every_bit(dynamic_file(), HEADER, BAT, "the header of a dynamic image");
	test_random(argc > 1 ? strtoull(argv[1], NULL, 0) : 20061011);
	printf("1..%d\n", tests);
	return failed != 0;
}
