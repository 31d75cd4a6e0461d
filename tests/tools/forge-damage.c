// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-damage.c - broken files, and a broken $MFTMirr
 *
 * Everything here is deliberate: what it leaves behind is what ntfsmap must refuse. Records
 * are edited raw; libntfs-3g's own functions would keep everything consistent.
 */
#include "forge.h"

/* ---- one run ---- */

enum run_damage { PAST_END, CROSS_END, LCN_ZERO, OVERLAP, HOLE, SHORT };

/* The N-th run of the unnamed DATA; a negative N counts from the last one. */
static runlist_element run_of(ntfs_volume *vol, const char *path, s64 n)
{
	ntfs_inode *ni;
	ntfs_attr *na = stream_at(vol, path, &ni);
	runlist_element run;
	s64 runs = 0;

	map_runs(na);
	while (na->rl && na->rl[runs].length)
		runs++;
	if (n < 0)
		n += runs;
	if (n < 0 || n >= runs)
		die("%s has only %lld run(s)", path, (long long)runs);
	run = na->rl[n];
	stream_done(na, ni);
	return run;
}

/* What the run becomes. */
static runlist_element damaged(struct forge *forge, const char *path, runlist_element run,
			       enum run_damage damage)
{
	const s64 end = forge->vol->nr_clusters;
	const char *victim = option(&forge->opts, "with");

	if ((damage == CROSS_END || damage == SHORT) && run.length < 2)
		die("%s: the run has only one cluster", path);
	switch (damage) {
	case PAST_END:
		run.lcn = end + 16;
		break;
	case CROSS_END:
		run.lcn = end - 1;
		break;
	case LCN_ZERO:
		run.lcn = 0;
		break;
	case OVERLAP:
		run.lcn = run_of(forge->vol, victim ? victim : path, victim || run.vcn ? 0 : 1).lcn;
		break;
	case HOLE:
		run.lcn = LCN_HOLE;
		break;
	case SHORT:
		run.length--;
		break;
	}
	return run;
}

static void replace_run(struct forge *forge, ntfs_attr_search_ctx *ctx, VCN vcn,
			const runlist_element *with)
{
	runlist_element *rl = record_runs(forge->vol, ctx->attr);
	runlist_element *run = rl;

	while (run->length && run->vcn != vcn)
		run++;
	if (!run->length)
		die("run at VCN %lld not found in its record", (long long)vcn);
	/* Only the last run gets shorter, and the record's end has to agree. */
	if (with->length < run->length) {
		run[1].vcn--;
		ctx->attr->highest_vcn = cpu_to_sle64(run[1].vcn - 1);
	}
	*run = *with;
	store_record_runs(forge->vol, ctx, rl);
	free(rl);
}

void verb_corrupt_run(struct forge *forge)
{
	static const char *const kinds[] = { "past-end", "cross-end", "lcn0", "overlap",
					     "hole",	 "short",     NULL };
	const char *path = forge->argv[0];
	const enum run_damage damage = choose(forge->argv[1], "KIND", kinds);
	ntfs_attr_search_ctx *ctx;
	runlist_element run, broken;
	ntfs_inode *ni;

	run = run_of(forge->vol, path,
		     damage == SHORT ? -1 : number_option(&forge->opts, "run", 0));
	broken = damaged(forge, path, run, damage);
	ni = inode_at(forge->vol, path);
	ctx = first_record(ni, AT_DATA, AT_UNNAMED, 0);
	while (run.vcn > sle64_to_cpu(ctx->attr->highest_vcn))
		if (ntfs_attr_lookup(AT_DATA, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx))
			die_errno("cannot find the record of VCN %lld", (long long)run.vcn);
	replace_run(forge, ctx, run.vcn, &broken);
	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
}

/* ---- extent records ---- */

/* Goes on to the N-th record behind the base record that holds runs of the file. */
static ntfs_attr_search_ctx *extent_of(ntfs_inode *ni, s64 n)
{
	ntfs_attr_search_ctx *ctx = first_record(ni, AT_DATA, AT_UNNAMED, 0);

	while (ctx->ntfs_ino->mft_no == ni->mft_no || n--)
		if (ntfs_attr_lookup(AT_DATA, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx))
			die("the file has no such extent record (give it more runs)");
	return ctx;
}

static u64 extent_number(struct forge *forge)
{
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);
	ntfs_attr_search_ctx *ctx = extent_of(ni, number_option(&forge->opts, "extent", 0));
	const u64 number = ctx->ntfs_ino->mft_no;

	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
	return number;
}

static MFT_RECORD *read_record(ntfs_volume *vol, u64 number)
{
	MFT_RECORD *record = forge_alloc(vol->mft_record_size);

	if (ntfs_mft_record_read(vol, number, record))
		die_errno("cannot read MFT record %llu", (unsigned long long)number);
	return record;
}

static void write_record(ntfs_volume *vol, u64 number, MFT_RECORD *record)
{
	if (ntfs_mft_record_write(vol, number, record))
		die_errno("cannot write MFT record %llu", (unsigned long long)number);
	free(record);
}

/* As if the record had been freed and nobody had told the attribute list. */
void verb_orphan_extent(struct forge *forge)
{
	const u64 number = extent_number(forge);
	MFT_RECORD *record = read_record(forge->vol, number);

	record->flags &= ~MFT_RECORD_IN_USE;
	write_record(forge->vol, number, record);
}

/* As if it had been freed and used again: the attribute list knows the old sequence number. */
void verb_stale_extent(struct forge *forge)
{
	const u64 number = extent_number(forge);
	MFT_RECORD *record = read_record(forge->vol, number);

	record->sequence_number = cpu_to_le16(le16_to_cpu(record->sequence_number) + 1);
	write_record(forge->vol, number, record);
}

/* $LogFile up to there is in the record: of the base record, or of extent=N. */
void verb_lsn(struct forge *forge)
{
	const s64 lsn = parse_number(forge->argv[1], "LSN");
	u64 number;
	MFT_RECORD *record;

	if (option(&forge->opts, "extent")) {
		number = extent_number(forge);
	} else {
		ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);

		number = ni->mft_no;
		inode_done(ni);
	}
	record = read_record(forge->vol, number);
	record->lsn = cpu_to_sle64(lsn);
	write_record(forge->vol, number, record);
}

/* The record says that it belongs to another file: the root directory, or with=PATH. */
void verb_wrong_base(struct forge *forge)
{
	const u64 number = extent_number(forge);
	const char *owner = option(&forge->opts, "with");
	ntfs_inode *ni = inode_at(forge->vol, owner ? owner : "/");
	const leMFT_REF base = MK_LE_MREF(ni->mft_no, le16_to_cpu(ni->mrec->sequence_number));
	MFT_RECORD *record;

	inode_done(ni);
	record = read_record(forge->vol, number);
	record->base_mft_record = base;
	write_record(forge->vol, number, record);
}

/* The attribute list does not name the record any more: runs are missing in the middle. */
void verb_lost_extent(struct forge *forge)
{
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);
	ntfs_attr_search_ctx *ctx = extent_of(ni, number_option(&forge->opts, "extent", 0));

	if (ntfs_attrlist_entry_rm(ctx))
		die_errno("cannot shorten the attribute list");
	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
}

/* ---- names and sizes ---- */

static void next_sequence(INDEX_ENTRY *entry, void *data)
{
	const u64 ref = le64_to_cpu(entry->indexed_file);
	const u16 sequence = MSEQNO(ref) == UINT16_MAX ? 1 : MSEQNO(ref) + 1;

	(void)data;
	entry->indexed_file = MK_LE_MREF(MREF(ref), sequence);
}

/* The entry then names a file that took the record over later, or was there before. */
void verb_stale_seq(struct forge *forge)
{
	edit_entries(forge->vol, forge->argv[0], next_sequence, NULL);
}

void verb_sizes(struct forge *forge)
{
	const struct options *opts = &forge->opts;
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);
	ntfs_attr_search_ctx *ctx = first_record(ni, AT_DATA, AT_UNNAMED, 0);
	ATTR_RECORD *record = ctx->attr;

	if (!record->non_resident)
		die("%s is resident, it has no such sizes", forge->argv[0]);
	record->data_size =
		cpu_to_sle64(number_option(opts, "data", sle64_to_cpu(record->data_size)));
	record->allocated_size =
		cpu_to_sle64(number_option(opts, "alloc", sle64_to_cpu(record->allocated_size)));
	record->initialized_size =
		cpu_to_sle64(number_option(opts, "init", sle64_to_cpu(record->initialized_size)));
	ntfs_inode_mark_dirty(ctx->ntfs_ino);
	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
}

/* ---- $MFTMirr ---- */

/* One bit of the first record's LSN, a field that no fixup covers. libntfs-3g then says EIO. */
void verb_mftmirr(struct forge *forge)
{
	ntfs_volume *vol = forge->vol;
	const s64 at = (vol->mftmirr_lcn << vol->cluster_size_bits) + offsetof(MFT_RECORD, lsn);
	u8 byte;

	if (ntfs_pread(vol->dev, at, 1, &byte) != 1)
		die_errno("cannot read $MFTMirr");
	byte ^= 1;
	if (ntfs_pwrite(vol->dev, at, 1, &byte) != 1)
		die_errno("cannot write $MFTMirr");
}
