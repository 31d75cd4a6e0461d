/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What host= of ntfsmaptab(5) asks for: a read-only view of a volume, mounted read-only. A volume
 * has one such view, whose name is "host-" and the serial number, however many entries want it.
 */
#ifndef NTFSMAP_HOSTVIEW_H
#define NTFSMAP_HOSTVIEW_H

#include <stdbool.h>
#include <sys/types.h>

/* Make the view of the volume on the device, if there is none, and mount it on that folder, if it
 * is not mounted there. Takes the lock of mapping_lock(). */
int hostview_up(const char *device, const char *point);

/* The view that is mounted on that folder, 0: none. */
dev_t hostview_on(const char *point);

/* Unmount it. Something else that is mounted there stays. lazy: at once, whoever uses it. */
int hostview_unmount(const char *point, bool lazy);

/* Close those views that are not mounted any more. Takes the lock. */
int hostview_close_unused(void);

#endif
