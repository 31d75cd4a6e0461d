/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Does Windows sleep on this volume? What hiberfil.sys and the restart pages of $LogFile say. */
#ifndef NTFSMAP_SLEEP_H
#define NTFSMAP_SLEEP_H

#include "ntfs.h"

enum hiberfile {
	HIBER_NONE,	  /* no hiberfil.sys: no Windows, or it lives on another volume */
	HIBER_AWAKE,	  /* zeros, or 'wake': the image was used up */
	HIBER_HIBERNATED, /* 'hibr', or the small marker that other volumes get */
	HIBER_RESUMING,	  /* 'rstr': a resume is in progress or failed */
	HIBER_UNKNOWN,	  /* something else */
	HIBER_UNREADABLE,
};

enum logfile {
	LOG_CLEAN,   /* dismounted */
	LOG_IN_USE,  /* version 2.0: mounted by Windows 8 or later, and never dismounted */
	LOG_UNCLEAN, /* version 1.1, not closed */
	LOG_RESET,   /* 0xff everywhere: Linux reset it; says nothing */
	LOG_DAMAGED, /* no valid restart page */
};

struct sleep_state {
	enum hiberfile hiberfile;
	char magic[5]; /* of hiberfil.sys, printable */
	enum logfile logfile;
	int log_major, log_minor;
};

void volume_sleep_state(struct volume *vol, struct sleep_state *s);

/* One sentence for people. A constant. */
const char *hiberfile_text(enum hiberfile h);
const char *logfile_text(enum logfile l);

#endif
