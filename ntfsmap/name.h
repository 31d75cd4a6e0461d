/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What can be the name of a device. In a header, as the generator of units has nothing of
 * device-mapper and checks names, too. */
#ifndef NTFSMAP_NAME_H
#define NTFSMAP_NAME_H

#include <string.h>

#define DM_NAME_MAX 60 /* it is a part of the UUID, which holds 128 */

/* Why the name cannot be used as it is, or NULL. */
static inline const char *name_fault(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789#+-.:=@_";

	if (!*name || *name == '-' || !strcmp(name, ".") || !strcmp(name, "..") ||
	    !strcmp(name, "control") || name[strspn(name, allowed)])
		return "letters, digits and #+-.:=@_ are allowed, and no '-' in front";
	if (strlen(name) > DM_NAME_MAX)
		return "it is longer than 60 bytes";
	return NULL;
}

#endif
