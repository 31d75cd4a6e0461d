/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SOURCE: the words by which a user names an image. */
#ifndef NTFSMAP_SOURCE_H
#define NTFSMAP_SOURCE_H

#include <stdbool.h>

enum source_kind {
	SOURCE_NTFS,   /* a file on an NTFS volume: device and path */
	SOURCE_FILE,   /* a regular file on a mounted file system that is an image itself */
	SOURCE_DEVICE, /* a block device that holds an image */
};

struct source {
	enum source_kind kind;
	char *device; /* the block device; a regular file where that is the volume or the image */
	char *path;   /* SOURCE_NTFS only: on the volume, with an optional :stream */
};

/*
 * Forms: DEVICE:/path, UUID=…:/path (LABEL, PARTUUID, PARTLABEL too), /path/below/a/mounted/volume,
 * an image file, a block device. `\` separates as well as `/`; a regular file that holds an NTFS
 * volume stands for a device.
 */
int source_resolve(const char *spec, struct source *src);
void source_free(struct source *src);

/* Without a verb, does the argument mean a SOURCE? Words with '/', ':' or '=' do. */
bool source_looks_like(const char *arg);

#endif
