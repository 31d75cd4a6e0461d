/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Is it safe to map this file? Each fact is looked at on its own; `check` shows them all, `open`
 * and `table` stop at those that forbid it. */
#ifndef NTFSMAP_SAFETY_H
#define NTFSMAP_SAFETY_H

#include "image.h"
#include "msg.h"

#define MAX_ALLOWED 16

struct request {
	bool readonly;
	bool as_static;	    /* read-only, of stock targets */
	bool hold;	    /* a plain file stays locked until it is closed: it is mapped then */
	bool quick;	    /* no pass over the MFT */
	bool base;	    /* a parent, or its data file: nobody may write to it */
	const char *parent; /* the SOURCE that names the first parent, or NULL */
	const char *data;   /* the same for the data file */
	const char *format;
	const char *snapshot; /* the id or name of the one to open, or NULL; read-only */
	const char *except;   /* a mapping that does not count: the one reloaded */
	dev_t except_loop;    /* and the loop device that it may go through */
	/* reload and verify: the device and all others; its parents are those that it has now */
	const struct dm_device *live;
	const struct dm_devices *devices;
	const char *allowed[MAX_ALLOWED]; /* --allow words */
	size_t n_allowed;
};

struct fact {
	const char *name;    /* a constant word, stable: scripts read it */
	enum exit_code code; /* DONE: no objection */
	bool warn;	     /* only with DONE */
	const char *allow;   /* the word that lifts it, or NULL */
	bool lifted;
	char *text;
};

struct facts {
	struct fact *v;
	size_t n;
	struct vdisk_found found; /* by vdisk_check() */
};

/* The same request for a parent of the image; for its data file, or that of the parent. */
struct request safety_of_parent(const struct request *req);
struct request safety_of_data(const struct request *req);

/* The words that --allow takes, NULL-terminated. */
extern const char *const safety_words[];

/* request.c: take a word of --allow, a format, or fail() with the option that it came from before
 * it. */
int request_allow(struct request *req, const char *option, const char *word);
int request_format(struct request *req, const char *option, const char *format);

/* Look at volume and file; sets img->users. vol facts only when img->file is NULL and img->vol is
 * not. */
int safety_look(struct image *img, const struct request *req, struct facts *facts);

/* A part of it: what Windows has made of the file, and may do to it. */
void safety_look_file(struct ntfs_file *f, const struct request *req, struct facts *facts);

/* The same for the image in the file and for its parents, after safety_look(); opens them by
 * image_probe() and chain_open(). */
void safety_look_image(struct image *img, const struct request *req, struct facts *facts);

/* A part of it: what the tables of an image say that is open. */
void safety_look_tables(struct image *img, const struct request *req, struct facts *facts);

/* The exit code of the first objection, DONE without one. */
enum exit_code safety_verdict(const struct facts *facts);

/* Say warnings on stderr and fail() with the first objection. */
int safety_enforce(const struct image *img, const struct facts *facts);

const char *fact_word(const struct fact *fact); /* ok, warn, refuse, damaged, busy, failed */
void facts_free(struct facts *facts);

#endif
