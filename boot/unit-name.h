/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names of systemd's units, systemd.unit(5) "STRING ESCAPING FOR INCLUSION IN UNIT NAMES". What is
 * returned is the caller's to free. */
#ifndef NTFSMAP_UNIT_NAME_H
#define NTFSMAP_UNIT_NAME_H

/* What systemd-escape prints, for the part behind the '@'. */
char *unit_escape(const char *s);

/* What systemd-escape --path prints. */
char *unit_escape_path(const char *path);

/* In quotes, as a unit's file has a path. */
char *unit_quote(const char *path);

/* The node that udev makes for UUID=…, LABEL=…, PARTUUID=…, PARTLABEL=… or a path below /dev; NULL
 * for what is no such thing, and for the short form of an NTFS serial number, which has no node. */
char *unit_node_of(const char *device);

#endif
