/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between verb-reserve.c, which has the file and makes it longer, and what the formats need. */
#ifndef NTFSMAP_RESERVE_H
#define NTFSMAP_RESERVE_H

#include "msg.h"
#include "../libvdisk/vdisk.h"

#define RESERVE_FOOTER	  512
#define RESERVE_ALL	  UINT64_MAX
#define RESERVE_ALIGNMENT 4096 /* of the file's new end, for disks with blocks of that size */

/* The file with its new length, as libvdisk is asked about it before anything is written. */
struct future {
	int fd;
	uint64_t now, size; /* of the file: as it is, as it will be */
	bool with_footer;
	uint8_t footer[RESERVE_FOOTER]; /* VHD */
};

struct job {
	const char *path;
	int fd;
	struct vdisk_io io;		    /* the file as it is, for reading */
	uint64_t block_size, total, placed; /* blocks of the disk */
	uint64_t wanted;		    /* room, in blocks */
	uint64_t room;			    /* that there will be, in bytes */
	uint64_t footer_at;		    /* VHD: where it is now */
	bool footer_lost;
	struct future future;
};

/* Make room for that many bytes of the disk in the image that is open as vd. */
int reserve_vhd(struct job *job, struct vdisk *vd, uint64_t bytes);
int reserve_qcow(struct job *job, struct vdisk *vd, uint64_t bytes);

/* Open the image in the file that will be. */
int reserve_open_future(struct future *f, const char *format, bool with_footer, struct vdisk **vd);

/* How many blocks of room are asked for, when job->placed have their place. */
uint64_t reserve_blocks(const struct job *job, uint64_t bytes);

/* Make the file as long as job->future says, durably; a failure leaves it as it was. */
int reserve_grow(const struct job *job);

/* 0 or a positive errno */
int reserve_write(const struct job *job, const void *buf, size_t len, uint64_t offset);
int reserve_zero(const struct job *job, uint64_t from, uint64_t end);
int reserve_sync(const struct job *job);

/* fail() for what libvdisk said of the tables. */
int reserve_fail_tables(const struct job *job, int ret);

/* Say how much there is now. */
void reserve_told(const struct job *job);

#endif
