/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /etc/ntfsmaptab, ntfsmaptab(5), and what the kernel command line says in its place. Text only: it
 * asks no device, so that the generator of systemd units can use it with nothing but msg.c.
 */
#ifndef NTFSMAP_TAB_H
#define NTFSMAP_TAB_H

#include <stdbool.h>
#include <stddef.h>

#define TAB_FILE    "/etc/ntfsmaptab"
#define TAB_CMDLINE "/proc/cmdline"
#define TAB_ALLOW   16 /* words of allow= in one entry */

/* Strings are NULL and flags false where the option is not given. Nothing has a control character
 * in it. */
struct tab_entry {
	char *where; /* "/etc/ntfsmaptab:3": for messages */
	char *name;  /* one that name_fault() has nothing against */
	char *source;
	bool readonly, partitions, as_static, quick;
	bool noauto, nofail;
	bool attach; /* x-initrd.attach: the initramfs opens it */
	char *overlay, *parent, *data, *format, *snapshot;
	char *host;  /* an absolute path */
	int timeout; /* seconds, 0: for ever, -1: not given */
	char *allow[TAB_ALLOW];
	size_t n_allow;
	bool bad; /* while reading: it will not be kept */
};

struct tab {
	struct tab_entry *v; /* in the order of the file */
	size_t n;
	bool incomplete; /* something that was wrong has been left out */
};

/* The SOURCEs of an entry: 0 the image's own, then those of its options; NULL: not given. */
#define TAB_SOURCES 4
const char *tab_source(const struct tab_entry *e, unsigned int i);

/*
 * Read the file. Each line that is wrong is said, and left out, and so are both lines of a name
 * that is there twice; what is in *tab afterwards can be used, whatever is returned: the first
 * failure. may_miss: a file that is not there is an empty one.
 */
int tab_read(const char *file, bool may_miss, struct tab *tab);

/* Take in what ntfsmap= and rd.ntfsmap= of the kernel command line in that file name. An entry of
 * the same name that came from elsewhere gives way. */
int tab_read_cmdline(const char *file, struct tab *tab);

/* What the kernel command line in that file has behind a key ("root="), the last time; NULL: it
 * does not have it. The caller frees. */
char *tab_parameter(const char *file, const char *key);

void tab_free(struct tab *tab);

/* The entry of that name, or NULL. */
const struct tab_entry *tab_find(const struct tab *tab, const char *name);

/* What of a SOURCE is its device: up to the ':' before the path, or all of it. The caller frees. */
char *tab_volume(const char *source);

/* "ntfsmap=NAME,SOURCE,…" with all that matters before root is mounted. Every SOURCE goes through
 * source(), which returns a string for free(); NULL: as it is. The caller frees. */
char *tab_cmdline(const struct tab_entry *e, char *(*source)(const char *));

/* Has it bytes that neither a terminal nor a log should get? */
bool tab_has_control(const char *s);

#endif
