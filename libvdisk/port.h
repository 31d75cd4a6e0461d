/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one header that libvdisk's formats and engine get their environment from: types, big and
 * little endian loads and stores, overflow checks, allocation, memory order, errno. Only this file
 * knows which world it is compiled for.
 */
#ifndef VDISK_PORT_H
#define VDISK_PORT_H

#ifdef __KERNEL__

#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/types.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif
#include <asm/barrier.h>

#define UINT64_MAX U64_MAX
#define INT64_MAX  S64_MAX
#define UINT32_MAX U32_MAX

static inline u16 get_be16(const void *p)
{
	return get_unaligned_be16(p);
}

static inline u32 get_be32(const void *p)
{
	return get_unaligned_be32(p);
}

static inline u64 get_be64(const void *p)
{
	return get_unaligned_be64(p);
}

/* An aligned big-endian word of metadata that others may read or change meanwhile. */
static inline u32 load_be32(const void *p)
{
	return be32_to_cpu(READ_ONCE(*(const __be32 *)p));
}

static inline void store_be32(void *p, u32 v)
{
	WRITE_ONCE(*(__be32 *)p, cpu_to_be32(v));
}

/* The same for 64 bits; a 32-bit machine does it in two parts: see vdisk.seq. */
static inline u64 load_be64(const void *p)
{
	return be64_to_cpu(*(const volatile __be64 *)p);
}

static inline void store_be64(void *p, u64 v)
{
	*(volatile __be64 *)p = cpu_to_be64(v);
}

#define read_barrier()	smp_rmb()
#define write_barrier() smp_wmb()

#define load_acquire(p)	    smp_load_acquire(p)
#define store_release(p, v) smp_store_release(p, v)

/* Opening an image may happen while the device is suspended: no I/O to make room. */
static inline void *vdisk_zalloc(size_t size)
{
	return kvzalloc(size, GFP_NOIO);
}

static inline void vdisk_free(void *p)
{
	kvfree(p);
}

static inline u64 divide(u64 a, u32 b)
{
	return div_u64(a, b);
}

static inline u32 log2_of(u32 power_of_two)
{
	return ilog2(power_of_two);
}

#else

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

#define ARRAY_SIZE(a)	 (sizeof(a) / sizeof((a)[0]))
#define READ_ONCE(x)	 (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

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

static inline u32 load_be32(const void *p)
{
	return be32toh(READ_ONCE(*(const u32 *)p));
}

static inline void store_be32(void *p, u32 v)
{
	WRITE_ONCE(*(u32 *)p, htobe32(v));
}

static inline u64 load_be64(const void *p)
{
	return be64toh(READ_ONCE(*(const u64 *)p));
}

static inline void store_be64(void *p, u64 v)
{
	WRITE_ONCE(*(u64 *)p, htobe64(v));
}

#define read_barrier()	__atomic_thread_fence(__ATOMIC_ACQUIRE)
#define write_barrier() __atomic_thread_fence(__ATOMIC_RELEASE)

#define load_acquire(p)	    __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

static inline void *vdisk_zalloc(size_t size)
{
	return calloc(1, size);
}

static inline void vdisk_free(void *p)
{
	free(p);
}

static inline u64 divide(u64 a, u32 b)
{
	return a / b;
}

static inline u32 log2_of(u32 power_of_two)
{
	return (u32)__builtin_ctz(power_of_two);
}

#endif

/* true when the sum does not fit */
static inline bool add_overflows(u64 a, u64 b, u64 *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

static inline u64 round_up_to(u64 value, u32 power_of_two)
{
	return (value + power_of_two - 1) & ~((u64)power_of_two - 1);
}

static inline u64 round_down_to(u64 value, u32 power_of_two)
{
	return value & ~((u64)power_of_two - 1);
}

#endif
