/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one header that libvdisk's formats and engine get their environment from: types, big and
 * little endian loads, overflow checks, allocation, errno. Only this file knows which world it is
 * compiled for.
 */
#ifndef VDISK_PORT_H
#define VDISK_PORT_H

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline u16 get_be16(const void *p)
{
	u16 v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline u32 get_be32(const void *p)
{
	u32 v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline u64 get_be64(const void *p)
{
	u64 v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

/* true when the sum does not fit */
static inline bool add_overflows(u64 a, u64 b, u64 *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

static inline void *vdisk_zalloc(size_t size)
{
	return calloc(1, size);
}

static inline void *vdisk_regrow(void *old, size_t count, size_t size)
{
	return reallocarray(old, count, size);
}

static inline void vdisk_free(void *p)
{
	free(p);
}

#endif
