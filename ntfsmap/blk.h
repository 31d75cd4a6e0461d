/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block devices as sysfs and libblkid see them. */
#ifndef NTFSMAP_BLK_H
#define NTFSMAP_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* All strings that are returned belong to the caller; NULL where there is nothing. */

/* One line of an attribute below /sys/dev/block/MAJOR:MINOR/. */
char *blk_attr(dev_t dev, const char *name);
/* The node below /dev; for device-mapper the one in /dev/mapper. */
char *blk_node(dev_t dev);
/* Does the device-mapper UUID say that the device is one of ours, or a partition of one? */
bool blk_is_ours(dev_t dev);
/* Is it a view made by `ntfsmap host`? */
bool blk_is_view(dev_t dev);
/* Is it the device of a parent or data file of an open image, or below an overlay? */
bool blk_is_part(dev_t dev);
/* Does the kernel say that it must not be written? */
bool blk_is_readonly(dev_t dev);
/* The one device below a device-mapper device, 0 when there is not exactly one. */
dev_t blk_only_slave(dev_t dev);
/* false unless path is a block device. */
bool blk_dev_of(const char *path, dev_t *dev);
/* Is what was opened again by its name still the same file? BUSY when somebody has put another one
 * in its place. before < 0: it was not open. */
int blk_check_same(const char *name, int before, int now);
/* Does the device or file begin as an NTFS volume does? */
bool blk_is_ntfs(const char *path);

/* What libblkid finds in a device or file: "ext4", "gpt", or NULL. */
char *blk_contents(const char *path);
/* The UUID of the file system on a device. */
char *blk_uuid(const char *device);

/*
 * The one device with that tag: UUID, LABEL, PARTUUID or PARTLABEL. An NTFS UUID may have any case,
 * a leading 0x, or be the short form XXXX-XXXX. Our own devices are skipped, as they repeat the
 * tags of what they map.
 */
int blk_find(const char *tag, const char *value, char **device);

/* Has any device that tag with just that value, our own included, and be it several? */
bool blk_is_there(const char *tag, const char *value);

/* Call fn with every NTFS volume that is not one of ours. */
void blk_each_ntfs(void (*fn)(const char *device, void *ctx), void *ctx);

#endif
