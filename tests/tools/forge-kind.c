// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-kind.c - files of the kinds whose clusters are not simply their bytes
 *
 * Sparse, compressed, encrypted; reparse points; and any file attribute bits.
 */
#include "forge.h"

static void write_at(ntfs_attr *na, s64 offset, const void *bytes, s64 count)
{
	if (ntfs_attr_pwrite(na, offset, count, bytes) != count)
		die_errno("cannot write %lld bytes at %lld", (long long)count, (long long)offset);
}

/* One cluster of data, a hole, and data up to the end again. */
void verb_sparse(struct forge *forge)
{
	const s64 size = parse_number(forge->argv[1], "SIZE");
	const s64 cluster = forge->vol->cluster_size;
	ntfs_inode *ni;
	ntfs_attr *na;
	u8 *bytes;

	if (size < 3 * cluster)
		die("a hole in the middle needs at least 3 clusters (%lld bytes)", 3LL * cluster);
	bytes = forge_alloc(cluster);
	ni = create_at(forge->vol, forge->argv[0], S_IFREG);
	na = data_open(ni, NULL);
	if (ntfs_attr_truncate(na, size))
		die_errno("cannot make a hole of %lld bytes", (long long)size);
	pattern_bytes(bytes, cluster, 0, 0);
	write_at(na, 0, bytes, cluster);
	pattern_bytes(bytes, cluster, 0, size - cluster);
	write_at(na, size - cluster, bytes, cluster);
	free(bytes);
	stream_done(na, ni);
}

/* libntfs-3g takes the flag for an empty stream from the inode, if the volume allows it. */
void verb_compressed(struct forge *forge)
{
	const s64 size = parse_number(forge->argv[1], "SIZE");
	ntfs_volume *vol = forge->vol;
	ntfs_inode *ni;
	ntfs_attr *na;
	u8 *bytes;

	if (vol->cluster_size > MAX_COMPRESSION_CLUSTER_SIZE)
		die("NTFS compresses nothing with clusters of more than %d bytes",
		    MAX_COMPRESSION_CLUSTER_SIZE);
	if (size <= vol->mft_record_size)
		die("%lld bytes would become a resident stream", (long long)size);
	bytes = forge_alloc(size);
	memset(bytes, 'z', size);
	NVolSetCompression(vol);
	ni = create_at(vol, forge->argv[0], S_IFREG);
	ni->flags |= FILE_ATTR_COMPRESSED;
	na = data_open(ni, NULL);
	write_at(na, 0, bytes, size);
	if (ntfs_attr_pclose(na))
		die_errno("cannot finish the compression");
	free(bytes);
	stream_done(na, ni);
}

/*
 * The flag alone, in all records of the stream and in the inode: libntfs-3g refuses to open a
 * file where the two differ. The contents are neither encrypted nor is there an $EFS stream.
 */
void verb_encrypted(struct forge *forge)
{
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);
	ntfs_attr_search_ctx *ctx = first_record(ni, AT_DATA, AT_UNNAMED, 0);

	do {
		ctx->attr->flags |= ATTR_IS_ENCRYPTED;
		ntfs_inode_mark_dirty(ctx->ntfs_ino);
	} while (!ntfs_attr_lookup(AT_DATA, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx));
	ntfs_attr_put_search_ctx(ctx);
	ni->flags |= FILE_ATTR_ENCRYPTED;
	NInoFileNameSetDirty(ni);
	ntfs_inode_mark_dirty(ni);
	inode_done(ni);
}

/* ---- reparse points ---- */

/*
 * What Windows stores for some tags, so that the volume stays plausible without DATA_HEX:
 * a junction to \??\C:\x shown as C:\x; a symbolic link to the relative name x; a file
 * compressed by WOF (version 1, provider "file", its version 1, XPRESS4K).
 */
static const struct {
	u32 tag;
	const char *hex;
} usual_data[] = {
	{ 0xa0000003, "00001000120008005c003f003f005c0043003a005c007800000043003a005c0078000000" },
	{ 0xa000000c, "00000200020002000100000078007800" },
	{ 0x80000017, "01000000020000000100000000000000" },
};

static const char *data_for(u32 tag)
{
	for (size_t i = 0; i < sizeof(usual_data) / sizeof(usual_data[0]); i++)
		if (usual_data[i].tag == tag)
			return usual_data[i].hex;
	return "";
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *found = c ? strchr(digits, c) : NULL;

	if (!found)
		die("DATA_HEX: not an even number of hexadecimal digits");
	return (found - digits) & 15;
}

static size_t hex_bytes(const char *hex, u8 *bytes)
{
	size_t count = 0;

	for (; *hex; hex += 2)
		bytes[count++] = hex_digit(hex[0]) << 4 | hex_digit(hex[1]);
	return count;
}

/* libntfs-3g keeps the index $Extend/$Reparse, and the tag in the directory, up to date. */
void verb_reparse(struct forge *forge)
{
	const u32 tag = parse_hex(forge->argv[1], "TAG_HEX");
	const char *hex = forge->argc > 2 ? forge->argv[2] : data_for(tag);
	REPARSE_POINT *point = forge_alloc(sizeof(*point) + strlen(hex) / 2 + 1);
	const size_t count = hex_bytes(hex, point->reparse_data);
	/* Foreign tags have a GUID before the data that the length does not count. */
	const size_t guid = tag >> 31 ? 0 : sizeof(GUID);
	ntfs_inode *ni;

	if (count < guid || count > 16 * 1024 - sizeof(*point))
		die("a reparse point of %zu bytes does not fit tag 0x%08x", count, tag);
	point->reparse_tag = cpu_to_le32(tag);
	point->reparse_data_length = cpu_to_le16(count - guid);
	ni = inode_at(forge->vol, forge->argv[0]);
	if (ntfs_set_ntfs_reparse_data(ni, (char *)point, sizeof(*point) + count, 0))
		die_errno("cannot make %s a reparse point (junctions are for directories)",
			  forge->argv[0]);
	free(point);
	inode_done(ni);
}

/* ---- attribute bits ---- */

static void entry_attributes(INDEX_ENTRY *entry, void *data)
{
	entry->key.file_name.file_attributes = *(const le32 *)data;
}

/*
 * Sets exactly these bits. libntfs-3g would mask the newer ones out of the directory's copy,
 * so that copy is written after the inode is closed.
 */
void verb_attrs(struct forge *forge)
{
	le32 bits = cpu_to_le32(parse_hex(forge->argv[1], "HEX"));
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);

	ni->flags = bits;
	ntfs_inode_mark_dirty(ni);
	inode_done(ni);
	edit_entries(forge->vol, forge->argv[0], entry_attributes, &bits);
}

/* When the data were modified last. */
void verb_mtime(struct forge *forge)
{
	struct timespec time = { .tv_sec = parse_number(forge->argv[1], "SECONDS") };
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);

	ni->last_data_change_time = timespec2ntfs(time);
	ntfs_inode_mark_dirty(ni);
	inode_done(ni);
}
