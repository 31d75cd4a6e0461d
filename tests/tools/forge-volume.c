// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-volume.c - states of the volume: asleep, dirty, with clusters taken or bad
 */
#include "forge.h"

void verb_geometry(struct forge *forge)
{
	NTFS_BOOT_SECTOR boot;
	const ntfs_volume *vol = forge->vol;

	if (ntfs_pread(vol->dev, 0, sizeof(boot), &boot) != sizeof(boot))
		die_errno("cannot read the boot sector");
	printf("cluster_size=%u\n", (unsigned int)vol->cluster_size);
	printf("clusters=%lld\n", (long long)vol->nr_clusters);
	printf("mft_lcn=%lld\n", (long long)vol->mft_lcn);
	printf("serial=%016llX\n", (unsigned long long)le64_to_cpu(boot.volume_serial_number));
	printf("sector_size=%u\n", (unsigned int)vol->sector_size);
	printf("mft_record_size=%u\n", (unsigned int)vol->mft_record_size);
}

/* ---- hiberfil.sys ---- */

#define HIBERFIL_BYTES 65536

/* Four letters as they are, or eight hexadecimal digits in the order of the bytes. */
static bool parse_magic(const char *word, u8 *magic)
{
	static const char *const letters[] = { "hibr", "HIBR", "wake", "WAKE", "rstr", "RSTR" };

	memset(magic, 0, 4);
	if (!strcmp(word, "zero"))
		return true;
	for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++) {
		if (!strcmp(word, letters[i])) {
			memcpy(magic, word, 4);
			return true;
		}
	}
	if (strlen(word) != 8 || strspn(word, "0123456789abcdefABCDEF") != 8)
		return false;
	for (int i = 0; i < 4; i++)
		magic[i] = parse_hex(word, "MAGIC") >> (24 - 8 * i);
	return true;
}

void verb_hiberfil(struct forge *forge)
{
	char path[4 * NTFS_MAX_NAME_LEN] = "/hiberfil.sys";
	s64 size = HIBERFIL_BYTES;
	u8 magic[4];
	int i = 0;

	if (!parse_magic(forge->argv[0], magic))
		snprintf(path, sizeof(path), "/%s", forge->argv[i++]);
	if (i >= forge->argc || !parse_magic(forge->argv[i++], magic))
		die("not a magic of hiberfil.sys: \"%s\"", forge->argv[forge->argc - 1]);
	if (i < forge->argc)
		size = parse_number(forge->argv[i++], "SIZE");
	if (i < forge->argc || size < (s64)sizeof(magic))
		die("usage: ntfsforge IMAGE hiberfil [NAME] MAGIC [SIZE], SIZE at least 4");
	inode_done(plain_file(forge->vol, path, size, magic, sizeof(magic)));
}

/* ---- the dirty flag ---- */

void verb_dirty(struct forge *forge)
{
	static const char *const states[] = { "on", "off", NULL };
	const bool off = choose(forge->argv[0], "dirty", states);
	const le16 flags = forge->vol->flags & ~VOLUME_IS_DIRTY;

	if (ntfs_volume_write_flags(forge->vol, off ? flags : flags | VOLUME_IS_DIRTY))
		die_errno("cannot write the flags of $Volume");
}

/* ---- $Bitmap ---- */

/* COUNT clusters of the file from cluster INDEX; a COUNT of -1 means all that follow. */
static void mark_file(struct space *space, const runlist_element *rl, VCN index, s64 count,
		      bool used)
{
	for (; rl->length && count; rl++) {
		const s64 skip = index > rl->vcn ? index - rl->vcn : 0;
		s64 length = rl->length - skip;

		if (length <= 0 || rl->lcn < 0)
			continue;
		if (count >= 0 && length > count)
			length = count;
		space_mark(space, rl->lcn + skip, length, used);
		if (count >= 0)
			count -= length;
	}
	if (count > 0)
		die("the file ends %lld cluster(s) too early", (long long)count);
}

static void bitmap_of_file(struct forge *forge, bool used)
{
	struct space space;
	ntfs_inode *ni;
	ntfs_attr *na = stream_at(forge->vol, forge->argv[1], &ni);
	VCN index = 0;
	s64 count = -1;

	if (forge->argc > 2) {
		index = parse_number(forge->argv[2], "CLUSTER_INDEX");
		count = forge->argc > 3 ? parse_number(forge->argv[3], "COUNT") : 1;
	}
	map_runs(na);
	space_load(&space, forge->vol);
	mark_file(&space, na->rl, index, count, used);
	stream_done(na, ni);
	space_store(&space);
}

void verb_bitmap(struct forge *forge)
{
	static const char *const actions[] = { "clear", "set", "clear-file", "set-file", NULL };
	const int action = choose(forge->argv[0], "bitmap", actions);
	struct space space;

	if (action >= 2) {
		bitmap_of_file(forge, action == 3);
		return;
	}
	if (forge->argc != 3)
		die("usage: ntfsforge IMAGE bitmap %s LCN COUNT", actions[action]);
	space_load(&space, forge->vol);
	space_mark(&space, parse_number(forge->argv[1], "LCN"),
		   parse_number(forge->argv[2], "COUNT"), action == 1);
	space_store(&space);
}

/* ---- $BadClus ---- */

/*
 * $Bad is one hole as long as the volume, in which a bad cluster is at its own place: VCN and
 * LCN are the same. It is not flagged as sparse, so ntfs_attr_update_mapping_pairs() would
 * rewrite it as something it is not.
 */
static runlist_element *with_bad_run(const runlist_element *rl, LCN lcn, s64 count)
{
	runlist_element *result, *out;
	int n = 0;

	while (rl[n].length)
		n++;
	out = result = forge_alloc((n + 3) * sizeof(*rl));
	for (; rl->length; rl++) {
		const VCN end = rl->vcn + rl->length;

		if (rl->lcn >= 0 || lcn < rl->vcn || lcn >= end || count > end - lcn) {
			*out++ = *rl;
			continue;
		}
		if (lcn > rl->vcn)
			*out++ = (runlist_element){ rl->vcn, LCN_HOLE, lcn - rl->vcn };
		*out++ = (runlist_element){ lcn, lcn, count };
		if (end > lcn + count)
			*out++ = (runlist_element){ lcn + count, LCN_HOLE, end - lcn - count };
	}
	*out = *rl;
	return result;
}

static bool has_run(const runlist_element *rl, LCN lcn)
{
	for (; rl->length; rl++)
		if (rl->lcn == lcn)
			return true;
	return false;
}

static void mark_used(ntfs_volume *vol, LCN lcn, s64 count)
{
	struct space space;

	space_load(&space, vol);
	space_mark(&space, lcn, count, true);
	space_store(&space);
}

/* The clusters may belong to a file: Windows finds that out too late, too. */
void verb_badclus(struct forge *forge)
{
	const LCN lcn = parse_number(forge->argv[0], "LCN");
	const s64 count = parse_number(forge->argv[1], "COUNT");
	ntfs_volume *vol = forge->vol;
	ntfs_inode *ni = ntfs_inode_open(vol, FILE_BadClus);
	ntfs_attr_search_ctx *ctx;
	runlist_element *rl, *bad;
	int length;
	ntfschar *name = unicode("$Bad", &length);

	if (!ni)
		die_errno("cannot open $BadClus");
	ctx = first_record(ni, AT_DATA, name, length);
	rl = record_runs(vol, ctx->attr);
	bad = with_bad_run(rl, lcn, count);
	if (!count || !has_run(bad, lcn))
		die("clusters %lld+%lld are not all good clusters of the volume", (long long)lcn,
		    (long long)count);
	store_record_runs(vol, ctx, bad);
	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
	mark_used(vol, lcn, count);
	free(rl);
	free(bad);
	free(name);
}
