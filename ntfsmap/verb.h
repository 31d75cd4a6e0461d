/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The verbs and what the command line told them. */
#ifndef NTFSMAP_VERB_H
#define NTFSMAP_VERB_H

#include <jansson.h>

#include "safety.h"

struct options {
	struct request req;
	bool json, concise, test, deferred;
	const char *repair;  /* "all", "leaks", or NULL */
	bool partitions;     /* NAME-part1, … too */
	const char *tab;     /* instead of TAB_FILE */
	const char *device;  /* up, down: only what lies on it */
	bool initrd;	     /* up: what is there before root is */
	const char *overlay; /* where what is written goes: a SOURCE, "tmpfs", or NULL */
};

struct verb {
	const char *name;
	int (*run)(int argc, char **argv, const struct options *opt); /* arguments only */
	int min_args, max_args;					      /* max -1: any number */
	const char *args;
	const char *help;
	const char *options; /* the letters that it takes, see main.c */
};

extern const struct verb verbs[];

int verb_table(int argc, char **argv, const struct options *opt);
int verb_open(int argc, char **argv, const struct options *opt);
int verb_close(int argc, char **argv, const struct options *opt);
int verb_merge(int argc, char **argv, const struct options *opt);
int verb_revert(int argc, char **argv, const struct options *opt);
int verb_reload(int argc, char **argv, const struct options *opt);
int verb_list(int argc, char **argv, const struct options *opt);
int verb_status(int argc, char **argv, const struct options *opt);
int verb_info(int argc, char **argv, const struct options *opt);
int verb_map(int argc, char **argv, const struct options *opt);
int verb_cat(int argc, char **argv, const struct options *opt);
int verb_check(int argc, char **argv, const struct options *opt);
int verb_verify(int argc, char **argv, const struct options *opt);
int verb_log(int argc, char **argv, const struct options *opt);
int verb_reserve(int argc, char **argv, const struct options *opt);
int verb_host(int argc, char **argv, const struct options *opt);
int verb_up(int argc, char **argv, const struct options *opt);
int verb_down(int argc, char **argv, const struct options *opt);
int verb_cmdline(int argc, char **argv, const struct options *opt);

/* Shared by table, open and reload, for a SOURCE that is open: look at every safety fact, stop at
 * the first objection, open the image and its parents. */
int prepare(struct image *img, const struct request *req);

/* What the verb open does, for one device. Takes the lock of mapping_lock(). */
int open_device(const char *source, const char *name, const struct options *opt);

/* What the verb host does. Takes the lock, too. */
int open_view(const char *device, const char *name);

/* Does the file hold image bytes that can be read? REFUSED or DAMAGED. */
int need_readable(const struct image *img);

/* Put loop devices where device-mapper cannot take the file or device itself. */
int attach_loops(struct image *img, bool readonly);

/* Open SOURCE, or where it names a volume, that alone. */
int open_file_or_volume(const char *spec, const char *format, struct image *img);

/* Open SOURCE and its parents for reading their contents, whatever the safety facts are. */
int open_disk(const char *spec, const struct request *req, struct image *img);

/* A string for JSON; what is not UTF-8 in it becomes '?'. null for NULL. */
json_t *json_text(const char *s);

/* Ends the program when there was no memory for j, so that nothing is left out silently. */
json_t *json_must(json_t *j);

/* Print and free. */
int print_json(json_t *j);

/* json_dumpf() to standard output; names cannot do anything to a terminal. */
int json_put(json_t *j, size_t flags);

/* fflush() and check stdout: DONE or SYSTEM. */
int finish_stdout(void);

#endif
