/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two halves of VHD share: footer (vhd.c) and dynamic header (vhd-dynamic.c). */
#ifndef VDISK_VHD_H
#define VDISK_VHD_H

#include "image.h"

#define FOOTER_BYTES 512
#define COOKIE	     0x636f6e6563746978ULL /* "conectix" */

/* "Hard Disk Footer Format": offsets of the fields in bytes. */
enum footer_field {
	F_COOKIE = 0,
	F_VERSION = 12,
	F_DATA_OFFSET = 16,
	F_TIME_STAMP = 24,
	F_CREATOR = 28,
	F_ORIGINAL_SIZE = 40,
	F_CURRENT_SIZE = 48,
	F_CYLINDERS = 56,
	F_HEADS = 58,
	F_SECTORS_PER_TRACK = 59,
	F_DISK_TYPE = 60,
	F_CHECKSUM = 64,
	F_UNIQUE_ID = 68,
	F_SAVED_STATE = 84,
	F_RESERVED = 85,
};

enum disk_type {
	TYPE_FIXED = 2,
	TYPE_DYNAMIC = 3,
	TYPE_DIFFERENCING = 4,
};

#define VERSION_MAJOR 1
/* "CHS Calculation": the largest geometry. Disks that have it are probably larger. */
#define CHS_MAX_SECTORS (65535ULL * 16 * 255)
/* Hyper-V's limit of 2040 GiB, in bytes; qemu has the same. */
#define SIZE_MAX_BYTES (2040ULL << 30)

struct footer {
	u8 raw[FOOTER_BYTES];
	u64 offset; /* in the file */
	u32 length; /* 512 or 511 */
};

/* The checksum of a footer or a header: the one's complement of the sum of all its bytes but the
 * four at `at`, where it is kept. */
u32 vdisk_vhd_checksum(const u8 *raw, u32 length, u32 at);

/*
 * Open a dynamic or differencing image whose footer f was checked, and whose copy of the footer
 * (at the start of the file) was too if it is what f holds. end is where the last footer begins,
 * or the file's end without one.
 */
int vdisk_vhd_open_dynamic(struct vdisk *vd, const struct footer *f, u64 end,
			   struct vdisk_error *err);

int vdisk_vhd_map_dynamic(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer);
int vdisk_vhd_scan(const struct vdisk *vd, struct vdisk_space *space, struct vdisk_map *answer);
int vdisk_vhd_reserve(struct vdisk *vd, struct vdisk_space *space, u64 index, u64 *home,
		      struct vdisk_map *answer);
void vdisk_vhd_unreserve(struct vdisk *vd, struct vdisk_space *space, struct vdisk_unit *unit);
u64 vdisk_vhd_room(const struct vdisk *vd, const struct vdisk_space *space);
int vdisk_vhd_place(struct vdisk *vd, enum vdisk_phase phase, const struct vdisk_unit *unit, u32 n,
		    u64 *block, struct vdisk_map *answer);
bool vdisk_vhd_change(struct vdisk *vd, struct vdisk_space *space, enum vdisk_phase phase,
		      const struct vdisk_unit *unit, u32 n, u8 *data);

#endif
