/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making and removing the devices of an image, its parents and their data files. */
#ifndef NTFSMAP_BASES_H
#define NTFSMAP_BASES_H

#include "mapping.h"

/* "NAME-base1": of the parent, "NAME-base2": of its parent; NAME itself for 0. The caller frees. */
char *base_name(const char *name, unsigned int depth);

/* "NAME-data": of the data file of the image whose device has that name. The caller frees. */
char *data_name(const char *owner);

/*
 * Make the devices of a chain that layout_chain() has laid out: data files and parents first. A
 * parent that is open already as the parent of another image is shared, and its data file too.
 * Where the name of one of these is taken, it gets the next one that is free. All or nothing. role
 * is that of the image itself.
 */
int bases_create(struct image *img, const char *name, enum mapping_role role);

/* Remove a device and then its data file and the parents that nobody else uses. deferred: what is
 * in use goes when that ends. */
int bases_remove(const struct dm_device *d, bool deferred);

#endif
