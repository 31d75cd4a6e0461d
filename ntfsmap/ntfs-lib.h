/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libntfs-3g's headers, for the few files that may use the library. */
#ifndef NTFSMAP_NTFS_LIB_H
#define NTFSMAP_NTFS_LIB_H

/* its headers use these without including them */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <ntfs-3g/attrib.h>
#include <ntfs-3g/attrlist.h>
#include <ntfs-3g/bootsect.h>
#include <ntfs-3g/device.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/logging.h>
#include <ntfs-3g/mft.h>
#include <ntfs-3g/mst.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/unistr.h>
#include <ntfs-3g/volume.h>

struct ntfs_lib {
	struct ntfs_device *dev;
	ntfs_volume *vol;
};

#endif
