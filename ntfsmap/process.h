/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a caller leaves to us, and what we leave to the programs that we run. */
#ifndef NTFSMAP_PROCESS_H
#define NTFSMAP_PROCESS_H

/* First of all: the three standard descriptors are taken, and nobody else can write what we make.
 */
void process_guard(void);

/* process_guard(), and an environment in which no library finds what the caller put there. REFUSED
 * when we are set-user-ID or set-group-ID. */
int process_start(void);

/* Run a program of the system and wait for it, with the three standard descriptors alone. DONE when
 * it succeeds; SYSTEM when it does not, which it has said itself. */
int process_run(const char *const argv[]);

#endif
