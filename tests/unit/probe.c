// SPDX-License-Identifier: GPL-2.0-or-later
/* libvdisk/probe.c: the formats that are recognised by their first bytes, and refused by name. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../libvdisk/vdisk.h"
#include "tap.h"

/* The bytes are repeated here on purpose: from the formats' specifications, not from probe.c. */
static const struct magic {
	const char *name;
	size_t at, length;
	const char *bytes;
	const char *less; /* what a file is whose last byte of these is another, or missing */
} magics[] = {
	{ "qcow", 0, 8, "QFI\xfb\0\0\0\1", "qcow2" },
	{ "qcow2", 0, 4, "QFI\xfb", "raw" },
	{ "vhdx", 0, 8, "vhdxfile", "raw" },
	{ "vmdk", 0, 4, "KDMV", "raw" },
	{ "vmdk", 0, 4, "COWD", "raw" },
	{ "vmdk", 0, 21, "# Disk DescriptorFile", "raw" },
	{ "vdi", 64, 4, "\x7f\x10\xda\xbe", "raw" },
	{ "qed", 0, 4, "QED\0", "raw" },
	{ "parallels", 0, 16, "WithoutFreeSpace", "raw" },
	{ "parallels", 0, 16, "WithouFreSpacExt", "raw" },
	{ "wim", 0, 8, "MSWIM\0\0\0", "raw" },
	{ "ewf", 0, 8, "EVF\x09\x0d\x0a\xff\0", "raw" },
	{ "gzip", 0, 3, "\x1f\x8b\x08", "raw" },
	{ "xz", 0, 6, "\xfd\x37\x7a\x58\x5a\0", "raw" },
	{ "zip", 0, 4, "PK\3\4", "raw" },
	{ "7z", 0, 6, "7z\xbc\xaf\x27\x1c", "raw" },
	{ "zstd", 0, 4, "\x28\xb5\x2f\xfd", "raw" },
};

static int memory_read(void *ctx, uint64_t offset, void *buf, size_t len)
{
	memcpy(buf, (uint8_t *)ctx + offset, len);
	return 0;
}

static bool is(uint8_t *bytes, size_t size, const char *name)
{
	struct vdisk_io io = { .ctx = bytes, .size = size, .read = memory_read };
	const char *found = "nothing";

	return !vdisk_probe(&io, &found, NULL) && !strcmp(found, name);
}

static bool refused(uint8_t *bytes, const char *format, const char *name)
{
	struct vdisk_io io = { .ctx = bytes, .size = 1024, .read = memory_read };
	struct vdisk_error err = { 0 };
	char words[256], expected[256];
	struct vdisk *vd;

	snprintf(expected, sizeof(expected),
		 "%s is a format that is not supported; convert it (qemu-img convert -O raw OLD "
		 "NEW) or unpack it; --format raw if the bytes themselves are the disk",
		 name);
	if (vdisk_open(&io, &(struct vdisk_options){ .format = format }, &vd, &err) != -EOPNOTSUPP)
		return false;
	vdisk_error_text(&err, words, sizeof(words));
	return !strcmp(words, expected);
}

static bool opens_as_raw(uint8_t *bytes)
{
	struct vdisk_io io = { .ctx = bytes, .size = 1024, .read = memory_read };
	struct vdisk *vd = NULL;
	bool good = !vdisk_open(&io, &(struct vdisk_options){ .format = "raw" }, &vd, NULL) &&
		    vdisk_info(vd)->virtual_size == 1024;

	vdisk_close(vd);
	return good;
}

static void test_magic(const struct magic *m)
{
	const size_t end = m->at + m->length;
	uint8_t bytes[1024] = { 0 };

	memcpy(bytes + m->at, m->bytes, m->length);
	ok(is(bytes, 1024, m->name), "%s %s", m->name, "is recognised");
	if (strncmp(m->name, "qcow", 4))
		ok(refused(bytes, NULL, m->name), "%s %s", m->name,
		   "is refused, and told how to convert");
	ok(opens_as_raw(bytes), "%s %s", m->name, "can be opened as raw by who says so");
	ok(is(bytes, end, m->name), "%s %s", m->name,
	   "is recognised where the file ends with the magic");
	ok(is(bytes, end - 1, m->less), "%s %s", m->name, "is not when the file is shorter");
	bytes[end - 1] ^= 0x80;
	ok(is(bytes, 1024, m->less), "%s %s", m->name, "needs its last byte");
	bytes[end - 1] ^= 0x80;
	bytes[m->at] ^= 1;
	ok(is(bytes, 1024, "raw"), "%s %s", m->name, "needs its first byte");
	bytes[m->at] ^= 1;
	memmove(bytes + 1, bytes, sizeof(bytes) - 1);
	ok(is(bytes, 1024, "raw"), "%s %s", m->name, "has its place");
}

int main(void)
{
	uint8_t bytes[1024] = { 0 };

	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		test_magic(&magics[i]);
	ok(is(bytes, 1024, "raw"), "%s %s", "zeros", "are raw");
	memcpy(bytes, "QFI\xfb\0\0\0\2", 8);
	ok(is(bytes, 1024, "qcow2"), "%s %s", "qcow2", "has version 2");
	bytes[7] = 3;
	ok(is(bytes, 1024, "qcow2"), "%s %s", "qcow2", "has version 3");
	ok(is(bytes, 0, "raw"), "%s %s", "an empty file", "is raw");
	ok(refused(bytes, "vdi", "vdi"), "%s %s", "a format",
	   "that is known is not always supported");
	ok(refused(bytes, "VHD", "VHD"), "%s %s", "a format", "has its name in lower case");
	printf("1..%d\n", tests);
	return failed != 0;
}
