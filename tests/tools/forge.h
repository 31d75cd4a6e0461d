/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * forge.h - what the parts of ntfsforge share
 *
 * ntfsforge is a test tool. It opens an unmounted NTFS image read-write and plants one
 * deterministic situation per call. The parts:
 *
 *	ntfsforge.c	the table of verbs, numbers and options, the volume
 *	forge-space.c	$Bitmap, and where on the disk the runs of a new stream go
 *	forge-content.c	what is written into the clusters of a new stream
 *	forge-stream.c	from a path to an inode, a stream, its runs; how a stream gets runs
 *	forge-file.c	directories, files and streams with plain contents, all of them healthy
 *	forge-kind.c	files that are sparse, compressed, encrypted, reparse points, ...
 *	forge-volume.c	states of the volume: hiberfil.sys, $Bitmap, bad clusters, ...
 *	forge-log.c	$LogFile
 *	forge-damage.c	broken files, and a broken $MFTMirr
 *
 * Errors end the process at once (die()): a test that forges badly has nothing to clean up
 * but its image. Whatever can be refused is refused before the first write.
 */
#ifndef FORGE_H
#define FORGE_H

/* The headers of libntfs-3g use time_t and mode_t without including these. */
#include <sys/stat.h>
#include <sys/types.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ntfs-3g/types.h>
#include <ntfs-3g/attrib.h>
#include <ntfs-3g/attrlist.h>
#include <ntfs-3g/bitmap.h>
#include <ntfs-3g/device.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/index.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/logfile.h>
#include <ntfs-3g/mft.h>
#include <ntfs-3g/mst.h>
#include <ntfs-3g/reparse.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/unistr.h>
#include <ntfs-3g/volume.h>

/* ---- ntfsforge.c ---- */

/* Prints the message and exits with 1. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* The same with errno, and with what libntfs-3g said last if it said anything. */
void die_errno(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void *forge_alloc(size_t bytes);

/* A number as in C (decimal, 0x…, 0…) with an optional suffix K, M, G or T. */
s64 parse_number(const char *text, const char *what);
/* The same without suffix, always hexadecimal, up to 32 bits. */
u32 parse_hex(const char *text, const char *what);

/* KEY=VALUE arguments behind the positional ones. */
struct options {
	int count;
	char **word;
};

/* The value of KEY, or NULL. */
const char *option(const struct options *opts, const char *key);
/* As a number; FALLBACK if it is not given. */
s64 number_option(const struct options *opts, const char *key, s64 fallback);
/* Which of the NULL-terminated words it is; the first one if it is not given. */
int word_option(const struct options *opts, const char *key, const char *const *words);
int choose(const char *text, const char *what, const char *const *words);

static inline s64 clusters_of(const ntfs_volume *vol, s64 bytes)
{
	return (bytes >> vol->cluster_size_bits) + ((bytes & (vol->cluster_size - 1)) != 0);
}

/* ---- forge-space.c ---- */

/*
 * $Bitmap as a whole, in memory. While one is loaded nobody else may allocate: store it before
 * calling anything of libntfs-3g that takes or frees clusters.
 */
struct space {
	ntfs_volume *vol;
	u8 *bits;
	s64 bytes;
};

void space_load(struct space *space, ntfs_volume *vol);
/* Writes it and frees the memory. */
void space_store(struct space *space);
bool space_is_free(const struct space *space, LCN lcn, s64 length);
void space_mark(struct space *space, LCN lcn, s64 length, bool used);
/* First fit at or behind FROM; -1 if there is none. */
LCN space_find(const struct space *space, LCN from, s64 length);

enum run_order { ORDER_FORWARD, ORDER_REVERSE, ORDER_SHUFFLE };

struct layout {
	s64 runs; /* exactly that many */
	s64 gap;  /* free clusters between neighbours on the disk */
	LCN from; /* where the first run on the disk begins; -1: anywhere */
	enum run_order order;
	u64 seed; /* of the shuffle */
};

/* Finds and marks the clusters; returns a terminated runlist to be freed with free(). */
runlist_element *layout_allocate(ntfs_volume *vol, const struct layout *layout, s64 clusters);

/* ---- forge-content.c ---- */

enum fill_kind { FILL_NONE, FILL_ZERO, FILL_PATTERN, FILL_STDIN };

/* Writes SIZE bytes straight into the clusters, whatever initialized_size says. */
void content_write(ntfs_volume *vol, const runlist_element *rl, s64 size, enum fill_kind kind,
		   u64 seed);
/* Each 8 bytes hold, little-endian, the seed in the top 16 bits and their own offset below. */
void pattern_bytes(u8 *buffer, size_t count, u64 seed, u64 offset);
void content_print_pattern(s64 size, u64 seed);

/* ---- forge-stream.c ---- */

/* What one new stream shall be like. */
struct stream_plan {
	s64 size, init;
	struct layout layout;
	enum fill_kind fill;
};

/* UTF-8 to a new array of NTFS characters. */
ntfschar *unicode(const char *text, int *length);
ntfs_inode *inode_at(ntfs_volume *vol, const char *path);
void inode_done(ntfs_inode *ni);
/* The directory that PATH is in; PATH begins with a slash. */
ntfs_inode *parent_of(ntfs_volume *vol, const char *path);
/* The directory that PATH is to be created in, and the last component in *LEAF. */
ntfs_inode *directory_for(ntfs_volume *vol, const char *path, const char **leaf);
/* Dies, while nothing is written yet, if PATH cannot be created. */
void check_creatable(ntfs_volume *vol, const char *path);
/* An empty file (S_IFREG) or directory (S_IFDIR). */
ntfs_inode *create_at(ntfs_volume *vol, const char *path, mode_t type);

typedef void entry_editor(INDEX_ENTRY *entry, void *data);
/* Edits the directory entries of all names of the file; nothing else may have them open. */
void edit_entries(ntfs_volume *vol, const char *path, entry_editor *edit, void *data);

/* NAME may be NULL: the unnamed DATA, and only that. */
ntfs_attr *data_open(ntfs_inode *ni, const char *name);
/* PATH[:STREAM]; *ni_out is to be closed after the attribute: stream_done() does both. */
ntfs_attr *stream_at(ntfs_volume *vol, const char *where, ntfs_inode **ni_out);
void stream_done(ntfs_attr *na, ntfs_inode *ni);
void map_runs(ntfs_attr *na);
/*
 * The attribute's record that holds VCN 0, raw: ntfs_attr_open() may edit its flags in memory.
 * Release with ntfs_attr_put_search_ctx().
 */
ntfs_attr_search_ctx *first_record(ntfs_inode *ni, ATTR_TYPES type, ntfschar *name, u32 length);

/*
 * The runs of one record alone, without the elements that libntfs-3g puts in front and behind
 * for those of other records (their LCN is below LCN_HOLE). To be freed.
 */
runlist_element *record_runs(ntfs_volume *vol, const ATTR_RECORD *record);
/* Writes them back as they are, however wrong. */
void store_record_runs(ntfs_volume *vol, ntfs_attr_search_ctx *ctx, const runlist_element *rl);
/* Replaces all runs, and writes the three sizes. RL belongs to the attribute from now on. */
void write_runs(ntfs_attr *na, runlist_element *rl);
/* Finds and takes the clusters for a plan. */
runlist_element *plan_runs(ntfs_volume *vol, const struct stream_plan *plan);
/* Gives planned clusters and contents to a stream that is empty and resident, as created. */
void grow_stream(ntfs_inode *ni, const char *name, const struct stream_plan *plan,
		 runlist_element *rl);
/* Creates a file of one run, filled with zeros behind the first bytes, and returns it open. */
ntfs_inode *plain_file(ntfs_volume *vol, const char *path, s64 size, const void *head,
		       size_t head_bytes);

/* ---- verbs ---- */

struct forge {
	const char *image;
	ntfs_volume *vol;
	int argc; /* positional arguments behind the verb */
	char **argv;
	struct options opts;
};

typedef void verb_fn(struct forge *forge);

verb_fn verb_mkdir, verb_file, verb_many, verb_stream, verb_onlystream, verb_slack, verb_move;
verb_fn verb_link, verb_remove, verb_empty, verb_resident, verb_runs, verb_ref, verb_pattern;
verb_fn verb_sparse, verb_compressed, verb_encrypted, verb_reparse, verb_attrs, verb_mtime;
verb_fn verb_hiberfil, verb_logfile, verb_dirty, verb_bitmap, verb_badclus, verb_geometry;
verb_fn verb_corrupt_run, verb_orphan_extent, verb_wrong_base, verb_stale_extent;
verb_fn verb_lost_extent, verb_stale_seq, verb_sizes, verb_mftmirr, verb_lsn;

#endif /* FORGE_H */
