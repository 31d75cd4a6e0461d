// SPDX-License-Identifier: GPL-2.0-or-later
/* What the MFT says about a file, validated: libntfs-3g accepts runs past the end of the volume,
 * and leaves gaps where an extent record is missing. */
#include <errno.h>
#include <stdarg.h>

#include "msg.h"
#include "ntfs-file.h"

/* FNV-1a. Only used to tell the few streams of one file apart. */
uint32_t ntfs_stream_hash(const char *stream)
{
	uint32_t hash = 2166136261u;

	if (!stream || !*stream)
		return 0;
	for (; *stream; stream++)
		hash = (hash ^ (uint8_t)*stream) * 16777619u;
	return hash ? hash : 1;
}

static char *attr_name(const ATTR_RECORD *a)
{
	const ntfschar *name = (const ntfschar *)((const u8 *)a + le16_to_cpu(a->name_offset));
	char *mbs = NULL;

	if (!a->name_length || ntfs_ucstombs(name, a->name_length, &mbs, 0) < 0)
		return text_copy("");
	return mbs;
}

char *ntfs_stream_by_hash(ntfs_inode *ni, uint32_t hash)
{
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(ni, NULL);
	char *found = NULL;

	while (ctx && !found &&
	       !ntfs_attr_lookup(AT_DATA, NULL, 0, CASE_SENSITIVE, 0, NULL, 0, ctx)) {
		char *name = attr_name(ctx->attr);

		if (ntfs_stream_hash(name) == hash)
			found = name;
		else
			free(name);
	}
	if (ctx)
		ntfs_attr_put_search_ctx(ctx);
	return found;
}

static PRINTF(2, 3) int runs_damaged(struct ntfs_file *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&f->runs_problem, fmt, ap) < 0)
		f->runs_problem = NULL;
	va_end(ap);
	vdisk_extents_free(&f->extents);
	f->runs = RUNS_DAMAGED;
	return -EUCLEAN;
}

static int add_run(struct ntfs_file *f, const runlist_element *rl, uint64_t *vcn)
{
	uint64_t sectors = f->vol->cluster_size / 512;
	uint64_t length = (uint64_t)rl->length;
	uint64_t lcn = (uint64_t)rl->lcn;
	uint64_t end = f->vol->device_bytes / f->vol->cluster_size;

	if (end > f->vol->clusters)
		end = f->vol->clusters;
	if (rl->length < 0 || (uint64_t)rl->vcn != *vcn)
		return runs_damaged(f, "the runlist jumps from VCN %llu to %lld",
				    (unsigned long long)*vcn, (long long)rl->vcn);
	if (rl->lcn == LCN_HOLE) {
		f->holes += length * sectors;
		lcn = 0;
	} else if (rl->lcn <= 0) {
		return runs_damaged(f,
				    "VCN %lld has no cluster (%lld): an extent record of the file "
				    "is missing or damaged",
				    (long long)rl->vcn, (long long)rl->lcn);
	} else if (lcn >= end || length > end - lcn) {
		return runs_damaged(f,
				    "the run at VCN %lld covers LCN %llu to %llu, but the volume "
				    "has %llu clusters",
				    (long long)rl->vcn, (unsigned long long)lcn,
				    (unsigned long long)(lcn + length - 1),
				    (unsigned long long)end);
	}
	if (length >> 40 ||
	    vdisk_extents_add(&f->extents, lcn ? lcn * sectors : VDISK_HOLE, length * sectors))
		return runs_damaged(f, "the run at VCN %lld is too long", (long long)rl->vcn);
	*vcn += length;
	return 0;
}

static int by_device(const void *a, const void *b)
{
	const struct vdisk_extent *x = a, *y = b;

	return (x->device > y->device) - (x->device < y->device);
}

struct vdisk_extent *extents_by_device(const struct vdisk_extents *x, size_t *n)
{
	struct vdisk_extent *v = must_regrow(NULL, x->n ? x->n : 1, sizeof(*v));

	*n = 0;
	for (size_t i = 0; i < x->n; i++)
		if (x->v[i].device != VDISK_HOLE)
			v[(*n)++] = x->v[i];
	qsort(v, *n, sizeof(*v), by_device);
	return v;
}

/* A cluster that the file has twice. */
static int check_self_overlap(struct ntfs_file *f)
{
	size_t n;
	struct vdisk_extent *v = extents_by_device(&f->extents, &n);
	int ret = 0;

	for (size_t i = 1; i < n && !ret; i++)
		if (v[i].device < v[i - 1].device + v[i - 1].count)
			ret = runs_damaged(
				f, "LCN %llu belongs to the file twice",
				(unsigned long long)(v[i].device / (f->vol->cluster_size / 512)));
	free(v);
	return ret;
}

static int check_sizes(struct ntfs_file *f)
{
	if (f->data_size > f->allocated_size || f->initialized_size > f->data_size)
		return runs_damaged(f,
				    "sizes do not fit each other: allocated %llu, data %llu, valid "
				    "data %llu",
				    (unsigned long long)f->allocated_size,
				    (unsigned long long)f->data_size,
				    (unsigned long long)f->initialized_size);
	return 0;
}

static int check_sum(struct ntfs_file *f)
{
	if (f->extents.sectors * 512 != f->allocated_size)
		return runs_damaged(f, "the runs hold %llu bytes, but the allocated size is %llu",
				    (unsigned long long)f->extents.sectors * 512,
				    (unsigned long long)f->allocated_size);
	return 0;
}

/* An extent record must be in use and name the file's base record as its owner. */
static int check_extent_record(struct ntfs_file *f, u64 ref)
{
	ntfs_inode *base = f->inode;
	ntfs_inode *ni = ntfs_extent_inode_open(base, const_cpu_to_le64(ref));
	u64 owner;

	if (!ni)
		return runs_damaged(f, "extent record %llu of the file cannot be opened: %s",
				    (unsigned long long)MREF(ref), strerror(errno));
	owner = le64_to_cpu(ni->mrec->base_mft_record);
	if (!(ni->mrec->flags & MFT_RECORD_IN_USE))
		return runs_damaged(f, "extent record %llu of the file is not in use",
				    (unsigned long long)MREF(ref));
	if (MREF(owner) != f->record || MSEQNO(owner) != f->sequence)
		return runs_damaged(f,
				    "extent record %llu belongs to MFT record %llu, not to the "
				    "file's %llu",
				    (unsigned long long)MREF(ref), (unsigned long long)MREF(owner),
				    (unsigned long long)f->record);
	return 0;
}

/* Walks the attribute list; every entry is at least its header long, so the walk ends. */
static int check_extent_records(struct ntfs_file *f)
{
	ntfs_inode *ni = f->inode;
	u32 pos = 0;

	while (pos < ni->attr_list_size) {
		const ATTR_LIST_ENTRY *al = (const ATTR_LIST_ENTRY *)(ni->attr_list + pos);
		u32 left = ni->attr_list_size - pos;
		u64 ref;

		if (left < offsetof(ATTR_LIST_ENTRY, name) ||
		    le16_to_cpu(al->length) < offsetof(ATTR_LIST_ENTRY, name) ||
		    le16_to_cpu(al->length) > left)
			return runs_damaged(f, "the attribute list is damaged at byte %u", pos);
		ref = le64_to_cpu(al->mft_reference);
		if (al->type == AT_DATA && MREF(ref) != f->record && check_extent_record(f, ref))
			return -EUCLEAN;
		pos += le16_to_cpu(al->length);
	}
	return 0;
}

/* What the library does not check comes first, so that the message can say what is wrong. */
static int load_runs(struct ntfs_file *f)
{
	ntfs_attr *na = f->attr;
	uint64_t vcn = 0;

	if (check_sizes(f))
		return -EUCLEAN;
	if (NInoAttrList((ntfs_inode *)f->inode) && check_extent_records(f))
		return -EUCLEAN;
	if (ntfs_attr_map_whole_runlist(na))
		return runs_damaged(f, "its runlist cannot be read: %s", strerror(errno));
	for (const runlist_element *rl = na->rl; rl && rl->length; rl++)
		if (add_run(f, rl, &vcn))
			return -EUCLEAN;
	if (check_sum(f) || check_self_overlap(f))
		return -EUCLEAN;
	f->runs = RUNS_GOOD;
	return 0;
}

/* The attribute's own record: ntfs_attr_open() edits flags in memory when no byte is valid. */
static void load_attr_record(struct ntfs_file *f, const ATTR_RECORD *a)
{
	f->resident = !a->non_resident;
	f->attr_flags = le16_to_cpu(a->flags);
	if (f->resident) {
		f->data_size = f->initialized_size = le32_to_cpu(a->value_length);
		f->allocated_size = f->data_size;
		return;
	}
	f->data_size = (uint64_t)sle64_to_cpu(a->data_size);
	f->allocated_size = (uint64_t)sle64_to_cpu(a->allocated_size);
	f->initialized_size = (uint64_t)sle64_to_cpu(a->initialized_size);
}

static bool lookup_data(ntfs_attr_search_ctx *ctx, ntfschar *name, int len, IGNORE_CASE_BOOL ic)
{
	ntfs_attr_reinit_search_ctx(ctx);
	return !ntfs_attr_lookup(AT_DATA, len ? name : AT_UNNAMED, (u32)len, ic, 0, NULL, 0, ctx) &&
	       ctx->attr->name_length == len;
}

/* Find and open the $DATA attribute; false when the file has no such stream. */
static bool load_attr(struct ntfs_file *f, const char *stream)
{
	ntfs_inode *ni = f->inode;
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(ni, NULL);
	ntfschar *name = NULL;
	int len = stream && *stream ? ntfs_mbstoucs(stream, &name) : 0;
	bool found = ctx && len >= 0 &&
		     (lookup_data(ctx, name, len, CASE_SENSITIVE) ||
		      (len && lookup_data(ctx, name, len, IGNORE_CASE)));

	if (found) {
		ATTR_RECORD *a = ctx->attr;

		load_attr_record(f, a);
		free(f->stream);
		f->stream = attr_name(a);
		f->attr = ntfs_attr_open(ni, AT_DATA,
					 len ? (ntfschar *)((u8 *)a + le16_to_cpu(a->name_offset))
					     : AT_UNNAMED,
					 (u32)len);
	}
	if (ctx)
		ntfs_attr_put_search_ctx(ctx);
	free(name);
	return found;
}

static uint32_t read_reparse_tag(ntfs_inode *ni)
{
	s64 size;
	le32 *value;
	uint32_t tag = 0xffffffff; /* flagged, but unreadable */

	if (!(ni->flags & FILE_ATTR_REPARSE_POINT) &&
	    !ntfs_attr_exist(ni, AT_REPARSE_POINT, AT_UNNAMED, 0))
		return 0;
	value = ntfs_attr_readall(ni, AT_REPARSE_POINT, AT_UNNAMED, 0, &size);
	if (value && size >= 4)
		tag = le32_to_cpu(*value);
	free(value);
	return tag ? tag : 0xffffffff;
}

static bool is_memory_file(const FILE_NAME_ATTR *fn)
{
	static const char *const names[] = { "hiberfil.sys", "pagefile.sys", "swapfile.sys" };
	ntfschar uname[255];
	char *name = NULL;
	bool is = false;

	if (MREF_LE(fn->parent_directory) != FILE_root)
		return false;
	memcpy(uname, &fn->file_name, fn->file_name_length * sizeof(*uname));
	if (ntfs_ucstombs(uname, fn->file_name_length, &name, 0) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		is |= !strcasecmp(name, names[i]);
	free(name);
	return is;
}

/* A hard link must not hide what a file is. */
static void load_names(struct ntfs_file *f)
{
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(f->inode, NULL);

	while (ctx &&
	       !ntfs_attr_lookup(AT_FILE_NAME, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx)) {
		const FILE_NAME_ATTR *fn =
			(const FILE_NAME_ATTR *)((const u8 *)ctx->attr +
						 le16_to_cpu(ctx->attr->value_offset));

		f->extend |= MREF_LE(fn->parent_directory) == FILE_Extend;
		f->memory |= is_memory_file(fn);
	}
	if (ctx)
		ntfs_attr_put_search_ctx(ctx);
}

static void load_inode(struct ntfs_file *f)
{
	ntfs_inode *ni = f->inode;

	f->record = ni->mft_no;
	f->sequence = le16_to_cpu(ni->mrec->sequence_number);
	f->file_flags = le32_to_cpu(ni->flags);
	f->modified = ntfs2timespec(ni->last_data_change_time).tv_sec;
	f->links = le16_to_cpu(ni->mrec->link_count);
	f->directory = ni->mrec->flags & MFT_RECORD_IS_DIRECTORY;
	f->reparse_tag = read_reparse_tag(ni);
	load_names(f);
}

int ntfs_file_load(struct volume *vol, ntfs_inode *ni, const char *path, const char *stream,
		   bool extend, struct ntfs_file **out)
{
	struct ntfs_file *f = must_alloc(sizeof(*f));

	f->vol = vol;
	f->inode = ni;
	f->path = text_copy(path);
	f->stream = text_copy(stream ? stream : "");
	f->extend = extend;
	load_inode(f);
	if (!load_attr(f, stream) && !f->directory) {
		int code = fail(NOT_FOUND, "%s:%s has no %s%s%s", vol->device, path,
				*f->stream ? "stream named " : "unnamed data stream", f->stream,
				*f->stream ? "" : ": name one of its streams, as in PATH:STREAM");

		ntfs_file_close(f);
		return code;
	}
	if (!f->resident && f->attr)
		load_runs(f);
	else if (!f->resident && !f->directory)
		runs_damaged(f, "its data attribute cannot be opened: %s", strerror(errno));
	*out = f;
	return DONE;
}

void ntfs_file_close(struct ntfs_file *f)
{
	if (!f)
		return;
	if (f->attr)
		ntfs_attr_close(f->attr);
	if (f->inode)
		ntfs_inode_close(f->inode);
	vdisk_extents_free(&f->extents);
	free(f->runs_problem);
	free(f->path);
	free(f->stream);
	free(f);
}

int ntfs_file_read(void *file, uint64_t offset, void *buf, size_t len)
{
	struct ntfs_file *f = file;
	char *p = buf;

	while (len) {
		s64 n = f->attr ? ntfs_attr_pread(f->attr, (s64)offset, (s64)len, p) : -1;

		if (n <= 0)
			return n < 0 && errno ? -errno : -EIO;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}
