// SPDX-License-Identifier: GPL-2.0-or-later
/* libvdisk/user: images behind a descriptor, and errors in words. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../libvdisk/vdisk.h"
#include "tap.h"

/* vdisk_file_io() and vdisk_pread(). */
static void test_descriptor(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC), pipe_fds[2];
	char data[1025], buf[1025] = "";
	struct vdisk *vd = NULL;
	struct vdisk_io io;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7);
	if (fd < 0 || write(fd, data, 1025) != 1025 || pipe(pipe_fds)) {
		ok(false, "memfd_create() and pipe()");
		return;
	}
	ok(!vdisk_file_io(fd, &io) && io.size == 1025, "a descriptor has its file's size");
	ok(!vdisk_open(&io, NULL, &vd, NULL) && !vdisk_pread(vd, buf, 1024, 0) &&
		   !memcmp(buf, data, 1024) && !buf[1024],
	   "the contents are read");
	ok(!vdisk_pread(vd, buf, 3, 511) && !memcmp(buf, data + 511, 3), "or some of them");
	ok(!ftruncate(fd, 1000) && vdisk_pread(vd, buf, 1024, 0) == -EIO,
	   "a file that became shorter: EIO");
	vdisk_close(vd);
	ok(vdisk_file_io(pipe_fds[0], &io) == -EINVAL, "a pipe: EINVAL");
	close(fd);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	ok(vdisk_file_io(fd, &io) == -EBADF, "a closed descriptor: EBADF");
}

static void words(struct vdisk_error e, const char *expected, const char *name)
{
	char buf[512] = "";
	int length = vdisk_error_text(&e, buf, sizeof(buf));

	if (!ok(!strcmp(buf, expected) && length == (int)strlen(expected), "%s", name))
		printf("# got      %d %s\n# expected %s\n", length, buf, expected);
}

static void test_error_text(void)
{
	struct vdisk_error e = { .field = "field", .problem = "is wrong" };
	char buf[8] = "";

	words((struct vdisk_error){ 0 }, "image is damaged", "an error about nothing");
	words(e, "field is wrong", "an error without numbers");
	e.advice = "do this";
	words(e, "field is wrong; do this", "with advice");
	e.show = VDISK_SHOW_DECIMAL;
	e.found = e.offset = UINT64_MAX;
	words(e,
	      "offset 18446744073709551615: field is wrong: found 18446744073709551615, expected "
	      "0; do this",
	      "in decimals");
	ok(vdisk_error_text(&e, buf, 7) == 92 && !strcmp(buf, "offset"),
	   "as much as there is room for, and how much that would be");
	e.show = VDISK_SHOW_HEX;
	e.offset = 1;
	e.expected = 0xabc;
	words(e, "offset 1: field is wrong: found 0xffffffffffffffff, expected 0xabc; do this",
	      "in hexadecimals");
	e.show = VDISK_SHOW_TEXT;
	e.advice = NULL;
	e.found = 0x636f6e6563746978;
	e.expected = 0x001f207e7fff4142;
	words(e,
	      "offset 1: field is wrong: found \"conectix\" (0x636f6e6563746978), expected \"?? "
	      "~??AB\" (0x001f207e7fff4142)",
	      "as text, which may not be printable");
	ok(vdisk_open(&(struct vdisk_io){ 0 }, &(struct vdisk_options){ .format = "no" }, NULL,
		      NULL) == -EOPNOTSUPP,
	   "nobody has to ask for the error");
}

int main(void)
{
	test_descriptor();
	test_error_text();
	printf("1..%d\n", tests);
	return failed != 0;
}
