// SPDX-License-Identifier: GPL-2.0-or-later
/* Where on the volume a file is described and stored, and where the log is read from. */
#include <errno.h>

#include "logfile.h"
#include "msg.h"
#include "ntfs-file.h"

static void add_record(struct file_places *places, const ntfs_inode *ni)
{
	places->v = must_regrow(places->v, places->n + 1, sizeof(*places->v));
	places->v[places->n++] =
		(struct record_place){ .record = ni->mft_no, .lsn = le64_to_cpu(ni->mrec->lsn) };
}

/* libntfs opens each only once, and closes them with the base inode. */
static int add_extent_record(struct file_places *places, struct ntfs_file *f, le64 reference)
{
	ntfs_inode *ni = ntfs_extent_inode_open(f->inode, reference);

	if (!ni)
		return volume_read_error(f->vol);
	add_record(places, ni);
	return 0;
}

static int by_record(const void *a, const void *b)
{
	const uint64_t x = MREF_LE(*(const le64 *)a), y = MREF_LE(*(const le64 *)b);

	return (x > y) - (x < y);
}

/* The references in the attribute list: load_runs() has looked at those of the data only. */
static le64 *listed_records(const ntfs_inode *ni, size_t *n)
{
	const u32 least = offsetof(ATTR_LIST_ENTRY, name);
	le64 *v = must_regrow(NULL, ni->attr_list_size / least + 1, sizeof(*v));
	u32 pos = 0, length;

	for (*n = 0; ni->attr_list_size - pos >= least; pos += length) {
		const ATTR_LIST_ENTRY *al = (const ATTR_LIST_ENTRY *)(ni->attr_list + pos);

		length = le16_to_cpu(al->length);
		if (length < least || length > ni->attr_list_size - pos)
			break;
		v[(*n)++] = al->mft_reference;
	}
	qsort(v, *n, sizeof(*v), by_record);
	return v;
}

static int add_records(struct file_places *places, struct ntfs_file *f)
{
	ntfs_inode *ni = f->inode;
	int ret = 0;
	le64 *v;
	size_t n;

	add_record(places, ni);
	if (!NInoAttrList(ni))
		return 0;
	v = listed_records(ni, &n);
	for (size_t i = 0; i < n && !ret; i++)
		if (MREF_LE(v[i]) != f->record && (!i || MREF_LE(v[i]) != MREF_LE(v[i - 1])))
			ret = add_extent_record(places, f, v[i]);
	free(v);
	return ret;
}

/* What a runlist of libntfs' says; its holes and nonsense are not taken over. */
static int take_runs(const struct volume *vol, const runlist_element *rl, struct vdisk_extents *x)
{
	uint64_t sectors = vol->cluster_size / 512;
	int ret = 0;

	for (; rl && rl->length > 0 && !ret; rl++) {
		uint64_t lcn = (uint64_t)rl->lcn, length = (uint64_t)rl->length;
		bool good = rl->lcn >= 0 && lcn < vol->clusters && length <= vol->clusters - lcn;

		if (length >> 40)
			return -EUCLEAN;
		ret = vdisk_extents_add(x, good ? lcn * sectors : VDISK_HOLE, length * sectors);
	}
	return ret;
}

/* The clusters of the attribute list, if it is not in the base record. */
static int add_list(struct file_places *places, struct ntfs_file *f)
{
	struct vdisk_extents x = { 0 };
	runlist_element *rl = NULL;
	ntfs_attr_search_ctx *ctx;
	int ret = 0;

	if (!NInoAttrList((ntfs_inode *)f->inode))
		return 0;
	ctx = ntfs_attr_get_search_ctx(f->inode, NULL);
	if (!ctx ||
	    ntfs_attr_lookup(AT_ATTRIBUTE_LIST, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx))
		ret = volume_read_error(f->vol);
	else if (ctx->attr->non_resident)
		rl = ntfs_mapping_pairs_decompress(f->vol->lib->vol, ctx->attr, NULL);
	if (!ret && ctx->attr->non_resident)
		ret = rl ? take_runs(f->vol, rl, &x) : -EUCLEAN;
	if (!ret)
		places->list.v = extents_by_device(&x, &places->list.n);
	free(rl);
	vdisk_extents_free(&x);
	if (ctx)
		ntfs_attr_put_search_ctx(ctx);
	return ret;
}

static int by_place(const void *a, const void *b)
{
	const struct record_place *x = a, *y = b;

	return (x->record > y->record) - (x->record < y->record);
}

int ntfs_file_places(struct ntfs_file *f, struct file_places *places)
{
	int ret;

	*places = (struct file_places){ 0 };
	f->vol->io_error = 0;
	ret = add_records(places, f);
	if (!ret)
		ret = add_list(places, f);
	if (places->n)
		qsort(places->v, places->n, sizeof(*places->v), by_place);
	places->clusters.v = extents_by_device(&f->extents, &places->clusters.n);
	return ret;
}

void file_places_free(struct file_places *places)
{
	free(places->v);
	free(places->clusters.v);
	free(places->list.v);
	*places = (struct file_places){ 0 };
}

static int take_runs_of(const struct volume *vol, ntfs_attr *na, struct vdisk_extents *x)
{
	return ntfs_attr_map_whole_runlist(na) ? volume_read_error(vol) : take_runs(vol, na->rl, x);
}

int volume_places(struct volume *vol, struct volume_places *places)
{
	int ret;

	*places = (struct volume_places){ .cluster_size = vol->cluster_size,
					  .record_size = vol->mft_record_size };
	vol->io_error = 0;
	ret = take_runs_of(vol, vol->lib->vol->mft_na, &places->mft);
	return ret ? ret : take_runs_of(vol, vol->lib->vol->lcnbmp_na, &places->bitmap);
}

void volume_places_free(struct volume_places *places)
{
	vdisk_extents_free(&places->mft);
	vdisk_extents_free(&places->bitmap);
}

/* ---- the log ---- */

struct log_stream {
	const struct volume *vol;
	ntfs_inode *ni;
	ntfs_attr *na;
};

static int read_log(void *ctx, uint64_t offset, void *buf, size_t len)
{
	struct log_stream *s = ctx;
	s64 n;

	for (char *p = buf; len; p += n, offset += (uint64_t)n, len -= (size_t)n) {
		n = ntfs_attr_pread(s->na, (s64)offset, (s64)len, p);
		if (n <= 0)
			return volume_read_error(s->vol);
	}
	return 0;
}

int volume_log_io(struct volume *vol, struct log_io *io)
{
	struct log_stream *s = must_alloc(sizeof(*s));

	*io = (struct log_io){ .ctx = s, .read = read_log };
	s->vol = vol;
	vol->io_error = 0;
	s->ni = ntfs_inode_open(vol->lib->vol, FILE_LogFile);
	if (s->ni)
		s->na = ntfs_attr_open(s->ni, AT_DATA, AT_UNNAMED, 0);
	if (!s->na)
		return volume_read_error(vol);
	io->size = (uint64_t)s->na->data_size;
	return 0;
}

void volume_log_done(struct log_io *io)
{
	struct log_stream *s = io->ctx;

	if (s->na)
		ntfs_attr_close(s->na);
	if (s->ni)
		ntfs_inode_close(s->ni);
	free(s);
	io->ctx = NULL;
}
