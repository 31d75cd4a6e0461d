// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-stream.c - from a path to an inode, a stream, its runs; and how a stream gets runs
 *
 * A note on libntfs-3g: closing an inode writes its sizes and times into the directory, which
 * it opens for that by itself. Two copies of one inode in memory overwrite each other, so a
 * directory is never open here while a file below it is closed.
 */
#include <limits.h>

#include "forge.h"

/* ---- names ---- */

ntfs_inode *inode_at(ntfs_volume *vol, const char *path)
{
	ntfs_inode *ni;

	if (*path != '/')
		die("%s: a path begins with /", path);
	ni = ntfs_pathname_to_inode(vol, NULL, path);
	if (!ni)
		die_errno("cannot open %s", path);
	return ni;
}

void inode_done(ntfs_inode *ni)
{
	const u64 number = ni->mft_no;

	if (ntfs_inode_close(ni))
		die_errno("cannot write MFT record %llu", (unsigned long long)number);
}

ntfschar *unicode(const char *text, int *length)
{
	ntfschar *name = NULL;

	*length = ntfs_mbstoucs(text, &name);
	if (*length <= 0 || *length > NTFS_MAX_NAME_LEN)
		die("\"%s\" cannot be a name", text);
	return name;
}

ntfs_inode *parent_of(ntfs_volume *vol, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *parent = strndup(path, slash > path ? slash - path : 1);
	ntfs_inode *dir;

	if (!parent)
		die("no memory");
	dir = inode_at(vol, parent);
	if (!(dir->mrec->flags & MFT_RECORD_IS_DIRECTORY))
		die("%s is not a directory", parent);
	free(parent);
	return dir;
}

ntfs_inode *directory_for(ntfs_volume *vol, const char *path, const char **leaf)
{
	const char *slash = strrchr(path, '/');

	if (!slash || !slash[1])
		die("%s: not a path that a file can be made at", path);
	if (ntfs_pathname_to_inode(vol, NULL, path))
		die("%s exists already", path);
	*leaf = slash + 1;
	return parent_of(vol, path);
}

void check_creatable(ntfs_volume *vol, const char *path)
{
	const char *leaf;
	int length;

	inode_done(directory_for(vol, path, &leaf));
	free(unicode(leaf, &length));
}

ntfs_inode *create_at(ntfs_volume *vol, const char *path, mode_t type)
{
	const char *leaf;
	ntfs_inode *dir = directory_for(vol, path, &leaf);
	ntfschar *name;
	ntfs_inode *ni;
	int length;

	name = unicode(leaf, &length);
	ni = ntfs_create(dir, const_cpu_to_le32(0), name, length, type);
	if (!ni)
		die_errno("cannot create %s", path);
	inode_done(dir);
	free(name);
	return ni;
}

static void edit_entry(ntfs_volume *vol, FILE_NAME_ATTR *name, entry_editor *edit, void *data)
{
	ntfs_inode *dir = ntfs_inode_open(vol, MREF_LE(name->parent_directory));
	ntfs_index_context *ctx;

	if (!dir)
		die_errno("cannot open the directory");
	ctx = ntfs_index_ctx_get(dir, NTFS_INDEX_I30, 4);
	if (!ctx || ntfs_index_lookup(name, sizeof(*name), ctx))
		die_errno("cannot find the directory entry");
	edit(ctx->entry, data);
	ntfs_index_entry_mark_dirty(ctx);
	ntfs_index_ctx_put(ctx);
	inode_done(dir);
}

void edit_entries(ntfs_volume *vol, const char *path, entry_editor *edit, void *data)
{
	ntfs_inode *ni = inode_at(vol, path);
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(ni, NULL);

	if (!ctx)
		die("no memory");
	while (!ntfs_attr_lookup(AT_FILE_NAME, NULL, 0, CASE_SENSITIVE, 0, NULL, 0, ctx)) {
		void *name = (u8 *)ctx->attr + le16_to_cpu(ctx->attr->value_offset);

		edit_entry(vol, name, edit, data);
	}
	ntfs_attr_put_search_ctx(ctx);
	inode_done(ni);
}

/* ---- streams ---- */

ntfs_attr *data_open(ntfs_inode *ni, const char *name)
{
	ntfschar *wide = AT_UNNAMED;
	int length = 0;
	ntfs_attr *na;

	if (name)
		wide = unicode(name, &length);
	na = ntfs_attr_open(ni, AT_DATA, wide, length);
	if (!na)
		die_errno("cannot open the stream \"%s\"", name ? name : "(unnamed)");
	/* Asked for the unnamed one, libntfs-3g answers with a named one if there is no other. */
	if (!name && na->name_len)
		die("the file has no unnamed DATA");
	if (name)
		free(wide);
	return na;
}

ntfs_attr *stream_at(ntfs_volume *vol, const char *where, ntfs_inode **ni_out)
{
	char *path = strdup(where);
	char *colon, *slash;
	ntfs_attr *na;

	if (!path)
		die("no memory");
	slash = strrchr(path, '/');
	colon = slash ? strchr(slash, ':') : NULL;
	if (colon)
		*colon++ = '\0';
	*ni_out = inode_at(vol, path);
	na = data_open(*ni_out, colon);
	free(path);
	return na;
}

void stream_done(ntfs_attr *na, ntfs_inode *ni)
{
	ntfs_attr_close(na);
	inode_done(ni);
}

void map_runs(ntfs_attr *na)
{
	if (!NAttrNonResident(na))
		die("the stream is resident, it has no runs");
	if (ntfs_attr_map_whole_runlist(na))
		die_errno("cannot read the runs");
}

ntfs_attr_search_ctx *first_record(ntfs_inode *ni, ATTR_TYPES type, ntfschar *name, u32 length)
{
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(ni, NULL);

	if (!ctx)
		die("no memory");
	if (ntfs_attr_lookup(type, name, length, CASE_SENSITIVE, 0, NULL, 0, ctx))
		die_errno("cannot find attribute 0x%x of MFT record %llu", le32_to_cpu(type),
			  (unsigned long long)ni->mft_no);
	return ctx;
}

runlist_element *record_runs(ntfs_volume *vol, const ATTR_RECORD *record)
{
	runlist_element *all = ntfs_mapping_pairs_decompress(vol, record, NULL);
	runlist_element *from = all, *to;

	if (!all)
		die_errno("cannot read the mapping pairs");
	while (from->length && from->lcn < LCN_HOLE)
		from++;
	for (to = from; to->length && to->lcn >= LCN_HOLE; to++)
		;
	to->length = 0;
	to->lcn = LCN_ENOENT;
	memmove(all, from, (to - from + 1) * sizeof(*all));
	return all;
}

void store_record_runs(ntfs_volume *vol, ntfs_attr_search_ctx *ctx, const runlist_element *rl)
{
	ATTR_RECORD *record = ctx->attr;
	const VCN first = sle64_to_cpu(record->lowest_vcn);
	const int at = le16_to_cpu(record->mapping_pairs_offset);
	const int size = ntfs_get_size_for_mapping_pairs(vol, rl, first, INT_MAX);

	if (size <= 0 || ntfs_attr_record_resize(ctx->mrec, record, at + size))
		die_errno("cannot fit the changed run into its MFT record (try another run)");
	if (ntfs_mapping_pairs_build(vol, (u8 *)record + at, size, rl, first, NULL))
		die_errno("cannot write the mapping pairs");
	ntfs_inode_mark_dirty(ctx->ntfs_ino);
}

/*
 * ntfs_attr_update_mapping_pairs() writes the runs and allocated_size, but neither of the
 * other sizes; those of the unnamed DATA are in the directory too.
 */
static void write_sizes(ntfs_attr *na)
{
	ntfs_attr_search_ctx *ctx = first_record(na->ni, AT_DATA, na->name, na->name_len);

	ctx->attr->data_size = cpu_to_sle64(na->data_size);
	ctx->attr->initialized_size = cpu_to_sle64(na->initialized_size);
	ntfs_inode_mark_dirty(ctx->ntfs_ino);
	ntfs_attr_put_search_ctx(ctx);
	if (na->name_len)
		return;
	na->ni->data_size = na->data_size;
	na->ni->allocated_size = na->allocated_size;
	NInoFileNameSetDirty(na->ni);
	ntfs_inode_mark_dirty(na->ni);
}

void write_runs(ntfs_attr *na, runlist_element *rl)
{
	if (na->rl != rl)
		free(na->rl);
	na->rl = rl;
	while (rl->length)
		rl++;
	na->allocated_size = rl->vcn << na->ni->vol->cluster_size_bits;
	NAttrSetFullyMapped(na);
	if (ntfs_attr_update_mapping_pairs(na, 0))
		die_errno("cannot write the runs of MFT record %llu",
			  (unsigned long long)na->ni->mft_no);
	write_sizes(na);
}

void grow_stream(ntfs_inode *ni, const char *name, const struct stream_plan *plan,
		 runlist_element *rl)
{
	ntfs_attr *na = data_open(ni, name);

	if (ntfs_attr_force_non_resident(na))
		die_errno("cannot make the stream non-resident");
	na->data_size = plan->size;
	na->initialized_size = plan->init;
	write_runs(na, rl);
	content_write(ni->vol, na->rl, plan->size, plan->fill, plan->layout.seed);
	ntfs_attr_close(na);
}

runlist_element *plan_runs(ntfs_volume *vol, const struct stream_plan *plan)
{
	return layout_allocate(vol, &plan->layout, clusters_of(vol, plan->size));
}

ntfs_inode *plain_file(ntfs_volume *vol, const char *path, s64 size, const void *head,
		       size_t head_bytes)
{
	const struct stream_plan plan = {
		.size = size,
		.init = size,
		.fill = FILL_ZERO,
		.layout = { .runs = 1, .from = -1 },
	};
	runlist_element *rl;
	ntfs_inode *ni;
	ntfs_attr *na;

	check_creatable(vol, path);
	rl = plan_runs(vol, &plan);
	ni = create_at(vol, path, S_IFREG);
	grow_stream(ni, NULL, &plan, rl);
	na = data_open(ni, NULL);
	if (ntfs_attr_pwrite(na, 0, head_bytes, head) != (s64)head_bytes)
		die_errno("cannot write to %s", path);
	ntfs_attr_close(na);
	return ni;
}
