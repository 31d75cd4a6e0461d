/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How the facts of safety.h are found: for the files that look, safety*.c. */
#ifndef NTFSMAP_FACTS_H
#define NTFSMAP_FACTS_H

#include "safety.h"

#define WORD_HIBERFILE	 "hiberfile"
#define WORD_CLOUD	 "cloud"
#define WORD_OFFLINE	 "offline"
#define WORD_READONLY	 "readonly-file"
#define WORD_VALID_DATA	 "valid-data-length"
#define WORD_PENDING_LOG "pending-log"

/* The fact stays valid until the next one is added. */
PRINTF(4, 5)
struct fact *fact_add(struct facts *facts, const char *name, enum exit_code code, const char *fmt,
		      ...);

#define ok(facts, name, ...)	    fact_add(facts, name, DONE, __VA_ARGS__)
#define objection(facts, name, ...) fact_add(facts, name, REFUSED, __VA_ARGS__)
#define caution(facts, name, ...)   (fact_add(facts, name, DONE, __VA_ARGS__)->warn = true)

/* An objection that a word may lift. */
void liftable(struct fact *f, const char *word, const struct request *req);

/* safety-log.c: what a cold boot of Windows would do again, or take back, to the file. */
void look_at_log(struct ntfs_file *f, const struct request *req, struct facts *facts);

/* safety-owners.c: that no other record of the MFT claims one of the file's clusters. */
void look_at_owners(const struct ntfs_file *f, const struct request *req, struct facts *facts);

#endif
