/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `info` tells of qcow and qcow2 alone; nothing of other formats. */
#ifndef NTFSMAP_INFO_QCOW_H
#define NTFSMAP_INFO_QCOW_H

#include "verb.h"

/* With the names that qemu-img info has for it. */
void info_qcow_json(json_t *j, struct vdisk *vd);
void info_qcow_print(struct vdisk *vd);

#endif
