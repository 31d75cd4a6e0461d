/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parents of an image, and the files that their data are in. */
#ifndef NTFSMAP_CHAIN_H
#define NTFSMAP_CHAIN_H

#include "dm.h"
#include "image.h"

/* What the user says about the chain. */
struct chain_sources {
	const char *parent; /* the SOURCE that is the first parent, or NULL: the image says it */
	const char *data;   /* the same for the data file of the image itself */
	bool readonly;	    /* nobody will write to the data file */
};

/*
 * Find and open the parents of an image, after image_probe(): img->parent, its parent, and so on;
 * and the data file of each that has one, img->data. Locators are looked up on the same volume,
 * relative to the child's folder or from the volume's root, without regard to case; a plain file's
 * in its folder. Nothing to do for an image that needs none.
 *
 * An image may come from anywhere, so its names lead to no more than regular files on its own file
 * system, and to a data file in its own folder or below it; on NTFS, where it is only read,
 * anywhere on the volume. One that belongs to a user names what that user could have himself.
 */
int chain_open(struct image *img, const struct chain_sources *given);

/* DAMAGED where two files of an open chain have the same sectors of a volume: who writes one of
 * them destroys the other. */
int chain_check_places(const struct image *root);

/* The same as chain_open() by what the open device d, which maps img, has for parents now. */
int chain_open_live(struct image *img, const struct dm_device *d, const struct dm_devices *all);

/* The device below d in its chain, 0: itself, 1: its parent, …; NULL past its end. */
const struct dm_device *chain_device(const struct dm_device *d, const struct dm_devices *all,
				     size_t depth);

/* The device of its data file; NULL: it has none. d may be NULL. */
const struct dm_device *chain_data_device(const struct dm_device *d, const struct dm_devices *all);

#endif
