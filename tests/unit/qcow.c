// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Opening and looking up qcow2 and qcow in memory: each field of the headers, of the extensions, of
 * the snapshot table and of entries with values that cannot be is refused by its name and place,
 * those at the limits are not; and what entries mean.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "../../libvdisk/vdisk.h"
#include "tap.h"

/* ---- the images: clusters of 512 bytes ---- */

enum place {
	L1 = 512,
	TABLE = 1024, /* of refcount blocks */
	BLOCK = 1536,
	L2 = 2048,
	DATA = 2560, /* three clusters */
	SNAPSHOTS = 4096,
	DIRECTORY = 4608,
	EXTENSIONS = 112,
	IMAGE_BYTES = 5120,
};

#define COPIED	   (1ULL << 63)
#define COMPRESSED (1ULL << 62)
#define SIZE	   65536ULL

struct image {
	uint8_t bytes[IMAGE_BYTES];
	uint64_t size;
	bool wrong; /* something was read that is not there */
};

static void put(struct image *f, size_t at, size_t bytes, uint64_t value)
{
	while (bytes--) {
		f->bytes[at + bytes] = (uint8_t)value;
		value >>= 8;
	}
}

static int image_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	struct image *f = ctx;

	if (offset > f->size || len > f->size - offset) {
		f->wrong = true;
		return -EIO;
	}
	memcpy(buf, f->bytes + offset, len);
	return 0;
}

static struct image qcow2(int version)
{
	struct image f = { .size = IMAGE_BYTES };

	memcpy(f.bytes, "QFI\xfb", 4);
	put(&f, 4, 4, version);
	put(&f, 20, 4, 9);
	put(&f, 24, 8, SIZE);
	put(&f, 36, 4, 2);
	put(&f, 40, 8, L1);
	put(&f, 48, 8, TABLE);
	put(&f, 56, 4, 1);
	if (version == 3) {
		put(&f, 96, 4, 4);
		put(&f, 100, 4, 112);
	}
	put(&f, L1, 8, L2 | COPIED);
	put(&f, TABLE, 8, BLOCK);
	return f;
}

static struct image qcow1(void)
{
	struct image f = { .size = IMAGE_BYTES };

	memcpy(f.bytes, "QFI\xfb", 4);
	put(&f, 4, 4, 1);
	put(&f, 24, 8, SIZE);
	f.bytes[32] = 9;
	f.bytes[33] = 6;
	put(&f, 40, 8, L1);
	put(&f, L1, 8, L2);
	return f;
}

/* Two snapshots at SNAPSHOTS: "1" named "one", and "2" named "1", of half the size. */
static struct image with_snapshots(void)
{
	struct image f = qcow2(3);
	size_t at = SNAPSHOTS;

	put(&f, 60, 4, 2);
	put(&f, 64, 8, SNAPSHOTS);
	for (int i = 0; i < 2; i++) {
		put(&f, at, 8, L1);
		put(&f, at + 8, 4, 2);
		put(&f, at + 12, 2, 1);
		put(&f, at + 14, 2, i ? 1 : 3);
		put(&f, at + 36, 4, 16);
		put(&f, at + 48, 8, i ? SIZE / 2 : SIZE);
		memcpy(f.bytes + at + 56, i ? "21" : "1one", i ? 2 : 4);
		at += 64;
	}
	return f;
}

static void put_extension(struct image *f, size_t at, uint32_t type, uint32_t length)
{
	put(f, at, 4, type);
	put(f, at + 4, 4, length);
}

static struct image with_bitmaps(void)
{
	struct image f = qcow2(3);

	put(&f, 88, 8, 1);
	put_extension(&f, EXTENSIONS, 0x23852875, 24);
	put(&f, EXTENSIONS + 8, 4, 3);
	put(&f, EXTENSIONS + 16, 8, 96);
	put(&f, EXTENSIONS + 24, 8, DIRECTORY);
	return f;
}

/* ---- expectations ---- */

struct opened {
	struct image image;
	struct vdisk *vd;
	int ret;
	struct vdisk_error err;
};

static void open_image(struct opened *o, struct image f, const char *snapshot)
{
	struct vdisk_io io = { .ctx = &o->image, .size = f.size, .read = image_read };

	memset(o, 0, sizeof(*o));
	o->image = f;
	o->ret = vdisk_open(&io, &(struct vdisk_options){ .snapshot = snapshot }, &o->vd, &o->err);
}

static void refuses(struct image f, const char *snapshot, int code, const char *field,
		    uint64_t offset, const char *name)
{
	struct opened o;

	open_image(&o, f, snapshot);
	if (!ok(o.ret == code && o.err.field && !strcmp(o.err.field, field) &&
			o.err.offset == offset && !o.image.wrong,
		"%s: %s", field, name))
		printf("# got %d, %s at %" PRIu64 "%s\n", o.ret, o.err.field, o.err.offset,
		       o.image.wrong ? ", and a read outside of the file" : "");
	vdisk_close(o.vd);
}

static void accepts(struct image f, const char *name)
{
	struct opened o;

	open_image(&o, f, NULL);
	if (!ok(!o.ret && !o.image.wrong, "accepted: %s", name))
		printf("# got %d, %s at %" PRIu64 "\n", o.ret, o.err.field, o.err.offset);
	vdisk_close(o.vd);
}

/* One field of an image with another value; field NULL: it is good. */
struct change {
	size_t at, bytes;
	uint64_t value;
	int code;
	const char *field;
};

static void test_changes(struct image (*make)(void), const char *kind, const struct change *c,
			 size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct image f = make();
		char name[80];

		put(&f, c[i].at, c[i].bytes, c[i].value);
		snprintf(name, sizeof(name), "%s, byte %zu is 0x%" PRIx64, kind, c[i].at,
			 c[i].value);
		if (c[i].field)
			refuses(f, NULL, c[i].code, c[i].field, c[i].at, name);
		else
			accepts(f, name);
	}
}

#define TEST_CHANGES(make, kind, changes) \
	test_changes(make, kind, changes, sizeof(changes) / sizeof((changes)[0]))

/* ---- headers ---- */

static struct image version2(void)
{
	return qcow2(2);
}

static struct image version3(void)
{
	return qcow2(3);
}

static void test_headers(void)
{
	static const struct change both[] = {
		{ 4, 4, 4, -EOPNOTSUPP, "header.version" },
		{ 4, 4, 0, -EOPNOTSUPP, "header.version" },
		{ 20, 4, 8, -EUCLEAN, "header.cluster_bits" },
		{ 20, 4, 22, -EUCLEAN, "header.cluster_bits" },
		{ 20, 4, UINT32_MAX, -EUCLEAN, "header.cluster_bits" },
		{ 24, 8, 0, -EUCLEAN, "header.size" },
		{ 24, 8, 511, -EUCLEAN, "header.size" },
		{ 24, 8, UINT64_MAX, -EUCLEAN, "header.size" },
		{ 24, 8, 1ULL << 62, -EUCLEAN, "header.size" },
		{ 24, 8, SIZE - 1, 0, NULL },
		{ 32, 4, 1, -EOPNOTSUPP, "header.crypt_method" },
		{ 32, 4, 2, -EOPNOTSUPP, "header.crypt_method" },
		{ 32, 4, 3, -EOPNOTSUPP, "header.crypt_method" },
		{ 36, 4, 1, -EUCLEAN, "header.l1_size" },
		{ 36, 4, (4 << 20) + 1, -EUCLEAN, "header.l1_size" },
		{ 36, 4, 64, 0, NULL },
		{ 40, 8, 0, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, L1 + 8, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, IMAGE_BYTES, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, ~511ULL, -EUCLEAN, "header.l1_table_offset" },
		{ 48, 8, 0, -EUCLEAN, "header.refcount_table_offset" },
		{ 48, 8, L1, -EUCLEAN, "header.refcount_table_offset" },
		{ 48, 8, TABLE + 1, -EUCLEAN, "header.refcount_table_offset" },
		{ 48, 8, ~511ULL, -EUCLEAN, "header.refcount_table_offset" },
		{ 56, 4, 0, -EUCLEAN, "header.refcount_table_clusters" },
		{ 56, 4, (16 << 10) + 1, -EUCLEAN, "header.refcount_table_clusters" },
		{ 60, 4, 65537, -EUCLEAN, "header.nb_snapshots" },
		{ 8, 8, 513, -EUCLEAN, "header.backing_file_offset" },
		{ 8, 8, UINT64_MAX, -EUCLEAN, "header.backing_file_offset" },
	};
	static const struct change third[] = {
		{ 72, 8, 1, 0, NULL }, /* dirty */
		{ 72, 8, 2, 0, NULL }, /* corrupt */
		{ 72, 8, 4, 0, NULL }, /* data file */
		{ 72, 8, 0x20, -EOPNOTSUPP, "header.incompatible_features" },
		{ 72, 8, COPIED, -EOPNOTSUPP, "header.incompatible_features" },
		{ 80, 8, UINT64_MAX, 0, NULL },
		{ 88, 8, UINT64_MAX, 0, NULL },
		{ 96, 4, 6, 0, NULL },
		{ 96, 4, 7, -EUCLEAN, "header.refcount_order" },
		{ 100, 4, 103, -EUCLEAN, "header.header_length" },
		{ 100, 4, 513, -EUCLEAN, "header.header_length" },
		{ 100, 4, UINT32_MAX, -EUCLEAN, "header.header_length" },
		{ 100, 4, 104, 0, NULL },
		{ 104, 1, 1, -EUCLEAN, "header.compression_type" },
		{ 104, 1, 2, -EOPNOTSUPP, "header.compression_type" },
	};

	TEST_CHANGES(version2, "version 2", both);
	TEST_CHANGES(version3, "version 3", both);
	TEST_CHANGES(version3, "version 3", third);
}

static void test_version1(void)
{
	static const struct change first[] = {
		{ 8, 8, UINT64_MAX, 0, NULL }, /* a name without length */
		{ 24, 8, 0, -EUCLEAN, "header.size" },
		{ 24, 8, 511, -EUCLEAN, "header.size" },
		{ 24, 8, UINT64_MAX, -EUCLEAN, "header.size" },
		{ 24, 8, SIZE - 1, 0, NULL },
		{ 32, 1, 8, -EUCLEAN, "header.cluster_bits" },
		{ 32, 1, 17, -EUCLEAN, "header.cluster_bits" },
		{ 33, 1, 5, -EUCLEAN, "header.l2_bits" },
		{ 33, 1, 14, -EUCLEAN, "header.l2_bits" },
		{ 33, 1, 13, 0, NULL },
		{ 36, 4, 1, -EOPNOTSUPP, "header.crypt_method" },
		{ 40, 8, 40, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, 48, 0, NULL },
		{ 40, 8, 49, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, IMAGE_BYTES - 8, -EUCLEAN, "header.l1_table_offset" },
		{ 40, 8, ~7ULL, -EUCLEAN, "header.l1_table_offset" },
	};

	TEST_CHANGES(qcow1, "version 1", first);
}

/* ---- what lies behind the header ---- */

static void test_extensions(void)
{
	static const struct change bitmaps[] = {
		{ EXTENSIONS, 4, 0x12345678, 0, NULL },
		{ EXTENSIONS + 8, 4, 65536, -EUCLEAN, "bitmaps extension" },
		{ 88, 8, 0, 0, NULL },
	};
	struct image f = with_bitmaps();

	TEST_CHANGES(with_bitmaps, "bitmaps", bitmaps);
	put(&f, EXTENSIONS + 24, 8, L1);
	refuses(f, NULL, -EUCLEAN, "bitmaps extension", EXTENSIONS + 8, "in the L1 table");
	put(&f, EXTENSIONS + 24, 8, IMAGE_BYTES);
	refuses(f, NULL, -EUCLEAN, "bitmaps extension", EXTENSIONS + 8, "past the end");
	put(&f, 88, 8, 0);
	accepts(f, "which nobody reads without the autoclear bit");
	f = qcow2(3);
	put_extension(&f, EXTENSIONS, 0x23852875, 16);
	refuses(f, NULL, -EUCLEAN, "header extension", EXTENSIONS + 8, "bitmaps of 16 bytes");
	put_extension(&f, EXTENSIONS, 1, 512 - EXTENSIONS - 8);
	accepts(f, "an unknown one that fills the cluster");
	put_extension(&f, EXTENSIONS, 1, 512 - EXTENSIONS - 7);
	refuses(f, NULL, -EUCLEAN, "header extension", EXTENSIONS + 8, "and one byte more");
	put_extension(&f, EXTENSIONS, 0xe2792aca, 16);
	refuses(f, NULL, -EUCLEAN, "backing file format", EXTENSIONS + 8, "of 16 bytes");
}

static void test_feature_name(void)
{
	struct image f = qcow2(3);
	struct opened o;
	char words[512];

	put(&f, 72, 8, 1 << 7);
	put(&f, 96, 4, 99); /* what else is wrong is of no interest */
	put_extension(&f, EXTENSIONS, 0x6803f857, 96);
	f.bytes[EXTENSIONS + 8] = 1; /* bit 7 of the compatible ones */
	f.bytes[EXTENSIONS + 9] = 7;
	memcpy(f.bytes + EXTENSIONS + 10, "another", 7);
	f.bytes[EXTENSIONS + 57] = 7;
	memcpy(f.bytes + EXTENSIONS + 58, "ti\nme", 5);
	open_image(&o, f, NULL);
	vdisk_error_text(&o.err, words, sizeof(words));
	ok(o.ret == -EOPNOTSUPP && !strcmp(o.err.detail, "ti?me"), "a feature has its name");
	ok(strstr(words, "(\"ti?me\"): found 0x80, expected 0x0;") != NULL, "which is told: %s",
	   words);
	put(&f, EXTENSIONS + 4, 4, UINT32_MAX);
	refuses(f, NULL, -EOPNOTSUPP, "header.incompatible_features", 72, "without a name");
}

static void opens_snapshot(const char *what, uint64_t size)
{
	struct opened o;

	open_image(&o, with_snapshots(), what);
	ok(!o.ret && vdisk_info(o.vd)->snapshot && vdisk_info(o.vd)->virtual_size == size,
	   "snapshot %s has %" PRIu64 " bytes", what, size);
	vdisk_close(o.vd);
}

static void test_snapshots(void)
{
	static const char *const table = "snapshot table";
	struct vdisk_snapshot s;
	struct image f;
	struct opened o;

	opens_snapshot("1", SIZE); /* the id goes before the name */
	opens_snapshot("2", SIZE / 2);
	opens_snapshot("one", SIZE);
	refuses(with_snapshots(), "on", -ENOENT, table, SNAPSHOTS, "no such name");
	refuses(qcow2(3), "1", -ENOENT, table, 0, "no snapshots");
	refuses(qcow1(), "1", -ENOENT, "qcow", 0, "none in version 1");
	open_image(&o, with_snapshots(), NULL);
	ok(!vdisk_get_snapshot(o.vd, 1, &s) && !strcmp(s.id, "2") && !strcmp(s.name, "1") &&
		   s.virtual_size == SIZE / 2,
	   "the second one");
	ok(vdisk_get_snapshot(o.vd, 2, &s) == -ENOENT, "and no third one");
	vdisk_close(o.vd);
	f = with_snapshots();
	put(&f, SNAPSHOTS + 36, 4, 1025);
	refuses(f, NULL, -EUCLEAN, table, SNAPSHOTS + 36, "too much extra data");
	f = with_snapshots();
	put(&f, SNAPSHOTS + 14, 2, 0xffff);
	refuses(f, NULL, -EUCLEAN, table, SNAPSHOTS, "a name that leaves the file");
	f = with_snapshots();
	put(&f, SNAPSHOTS + 8, 4, 1);
	refuses(f, "1", -EUCLEAN, table, SNAPSHOTS + 56, "a table that is too small");
	accepts(f, "which nobody uses");
	f = with_snapshots();
	put(&f, 64, 8, TABLE);
	refuses(f, NULL, -EUCLEAN, "header.snapshots_offset", 64, "in the refcount table");
	f = with_snapshots();
	put(&f, 72, 8, 4);
	refuses(f, NULL, -EUCLEAN, "header.nb_snapshots", 60, "with a data file");
}

/* ---- entries ---- */

static void maps(struct image f, uint64_t offset, uint64_t length, struct vdisk_map want,
		 const char *name)
{
	struct vdisk_map m = { 0 };
	struct opened o;
	int ret;

	open_image(&o, f, NULL);
	ret = o.ret ? o.ret : vdisk_map(o.vd, offset, length, &m);
	if (!ok(!ret && m.kind == want.kind && m.offset == want.offset && m.length == want.length &&
			m.home == want.home && m.packed == want.packed,
		"map: %s", name))
		printf("# got %d: kind %d at %" PRIu64 " + %" PRIu64 ", home %" PRIu64
		       ", packed %u\n",
		       ret, m.kind, m.offset, m.length, m.home, m.packed);
	vdisk_close(o.vd);
}

static void map_fails(struct image f, const char *name)
{
	struct vdisk_map m;
	struct opened o;

	open_image(&o, f, NULL);
	ok(!o.ret && vdisk_map(o.vd, 0, 512, &m) == -EUCLEAN, "map: %s is damage", name);
	vdisk_close(o.vd);
}

static struct vdisk_map answer(enum vdisk_kind kind, uint64_t offset, uint64_t length,
			       uint64_t home)
{
	return (struct vdisk_map){ .kind = kind, .offset = offset, .length = length, .home = home };
}

static struct image entry(int version, uint64_t value)
{
	struct image f = version == 1 ? qcow1() : qcow2(version);

	put(&f, L2, 8, value);
	return f;
}

static void test_map(void)
{
	const uint64_t nowhere = VDISK_NOWHERE;
	struct image f = entry(3, DATA | COPIED);

	put(&f, L2 + 8, 8, (DATA + 512) | COPIED);
	maps(f, 100 * 512, 512, answer(VDISK_ZERO, 0, 512, nowhere), "no table");
	maps(f, 0, SIZE, answer(VDISK_DATA, DATA, 1024, nowhere), "two neighbours");
	maps(f, 512, 512, answer(VDISK_DATA, DATA + 512, 512, nowhere), "the second one");
	put(&f, L1, 8, L2);
	maps(f, 0, 512, answer(VDISK_SHARED, DATA, 512, nowhere), "a shared table");
	maps(entry(3, DATA), 0, 512, answer(VDISK_SHARED, DATA, 512, nowhere), "a shared cluster");
	maps(entry(3, 1), 0, 512, answer(VDISK_ZERO, 0, 512, nowhere), "zeros");
	maps(entry(3, 1 | DATA | COPIED), 0, 512, answer(VDISK_ZERO, 0, 512, DATA),
	     "zeros that have a place");
	maps(entry(3, 1 | DATA), 0, 512, answer(VDISK_ZERO, 0, 512, nowhere),
	     "zeros whose place is shared");
	maps(entry(3, 0x7f00000000000000ULL & ~COMPRESSED), 0, SIZE,
	     answer(VDISK_ZERO, 0, SIZE, nowhere), "reserved bits");
	maps(entry(3, COMPRESSED | (DATA + 7)), 0, SIZE,
	     (struct vdisk_map){ VDISK_COMPRESSED, DATA + 7, 512, nowhere, 505 }, "compressed");
	maps(entry(3, COMPRESSED | 1ULL << 61 | (IMAGE_BYTES - 8)), 0, SIZE,
	     (struct vdisk_map){ VDISK_COMPRESSED, IMAGE_BYTES - 8, 512, nowhere, 8 },
	     "compressed, up to the end of the file");
	f = entry(3, DATA | COPIED);
	put(&f, 8, 8, 300);
	put(&f, 16, 4, 5);
	maps(f, 512, 512, answer(VDISK_PARENT, 0, 512, nowhere), "a backing file");
	f = entry(3, 0);
	put(&f, 72, 8, 4);
	maps(f, 0, 512, answer(VDISK_ZERO, 0, 512, nowhere), "nothing in a data file");
	put(&f, L2, 8, COPIED);
	maps(f, 0, 512, answer(VDISK_DATA, 0, 512, nowhere), "the first cluster of a data file");
	maps(entry(1, DATA), 0, 512, answer(VDISK_DATA, DATA, 512, nowhere), "version 1");
	maps(entry(1, COPIED | 7ULL << 54 | (DATA + 5)), 0, 512,
	     (struct vdisk_map){ VDISK_COMPRESSED, DATA + 5, 512, nowhere, 7 },
	     "version 1, compressed");
}

/* The file ends inside of the last cluster: what is past that has no place, and the rest is moved
 * when it is written to. */
static void test_map_end(void)
{
	struct image f = qcow2(3);

	/* of 1024 bytes, the last one at 4096 */
	put(&f, 20, 4, 10);
	put(&f, 40, 8, 1024);
	put(&f, 48, 8, 2048);
	put(&f, 1024, 8, 3072 | COPIED);
	put(&f, 3072, 8, 4096 | COPIED);
	f.size = 4096 + 512;
	maps(f, 0, 1024, answer(VDISK_SHARED, 4096, 512, VDISK_NOWHERE), "half a cluster");
	maps(f, 512, 512, answer(VDISK_ZERO, 0, 512, VDISK_NOWHERE), "which ends in zeros");
	f.size = 4096 + 700;
	maps(f, 512, 512, answer(VDISK_SHARED, 4608, 512, VDISK_NOWHERE),
	     "the sector that the file ends in");
	f.size = 4097;
	maps(f, 0, 1024, answer(VDISK_SHARED, 4096, 512, VDISK_NOWHERE), "one byte of it");
	f.size = 4096;
	map_fails(f, "a cluster past the end");
}

static void test_damage(void)
{
	static const uint64_t places[] = { L1, TABLE, IMAGE_BYTES, 1ULL << 55 };
	struct image f;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char name[60];

		f = qcow2(3);
		put(&f, L1, 8, places[i] | COPIED);
		snprintf(name, sizeof(name), "a table at %" PRIu64, places[i]);
		map_fails(f, name);
		snprintf(name, sizeof(name), "a cluster at %" PRIu64, places[i]);
		map_fails(entry(3, places[i] | COPIED), name);
	}
	map_fails(entry(2, 1 | COPIED), "zeros in version 2");
	map_fails(entry(3, COMPRESSED | IMAGE_BYTES), "compressed data past the end");
	map_fails(entry(3, COMPRESSED | L1), "compressed data in the L1 table");
	map_fails(entry(1, DATA + 1), "version 1, an odd place");
	map_fails(entry(1, COPIED | (DATA + 5)), "version 1, no compressed bytes");
	f = entry(3, DATA | COPIED);
	put(&f, 72, 8, 4);
	map_fails(f, "another place in the data file");
	put(&f, L2, 8, COMPRESSED | DATA);
	map_fails(f, "compressed data in the data file");
}

int main(void)
{
	accepts(qcow2(2), "version 2");
	accepts(qcow2(3), "version 3");
	accepts(qcow1(), "version 1");
	accepts(with_bitmaps(), "bitmaps");
	accepts(with_snapshots(), "snapshots");
	test_headers();
	test_version1();
	test_extensions();
	test_feature_name();
	test_snapshots();
	test_map();
	test_map_end();
	test_damage();
	printf("1..%d\n", tests);
	return failed != 0;
}
