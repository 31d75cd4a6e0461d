/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the fuzz targets share: findings, and files in memory. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "../../libvdisk/image.h"

#define PRINTF_LIKE(a, b) __attribute__((format(printf, a, b)))

/* A target is this function and what it asserts; it returns 0. libFuzzer calls it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the program in such a way that libFuzzer keeps the input. */
void __attribute__((noreturn)) found(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* What must be so. */
#define expect(condition, ...)              \
	do {                                \
		if (!(condition))           \
			found(__VA_ARGS__); \
	} while (0)

/* Memory, or the end of the program. */
void *must(size_t size);

/* A file in memory, of just its size, so that the sanitizer knows its end. A read or write that the
 * contract of struct vdisk_io forbids is a finding. */
struct memory {
	u8 *bytes;
	u64 size;
};

struct memory memory_of(const uint8_t *data, size_t size);
void memory_free(struct memory *m);
struct vdisk_io memory_io(struct memory *m, bool writable);

/*
 * What an image asks for beside its own bytes: a parent that fits it, and a data file. Whoever
 * fills it in keeps it until the image is closed.
 */
struct company {
	struct memory parent_file, data_file;
	struct vdisk *parent;
};

void company_give(struct vdisk *vd, struct company *c, bool writable);
void company_end(struct company *c);

/* A file descriptor of the bytes as a file without a name; path is how it can be opened. */
int bytes_as_file(const uint8_t *data, size_t size, char path[32]);

/* What is this but a number that depends on all bytes: to make choices with. */
u64 number_of(const uint8_t *data, size_t size);

#endif
