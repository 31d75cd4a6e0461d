/* SPDX-License-Identifier: GPL-2.0-or-later */
/* check --repair: the one thing, beside reserve, that writes to an image by itself. */
#ifndef NTFSMAP_REPAIR_H
#define NTFSMAP_REPAIR_H

#include "verb.h"

/*
 * Repair the image in SOURCE and say what was changed and what is left. A file on an unmounted
 * volume is reached through a device that has its clusters and nothing else, which goes again in
 * any case; so what `open` refuses is refused here.
 */
int repair_source(const char *spec, const struct options *opt);

#endif
