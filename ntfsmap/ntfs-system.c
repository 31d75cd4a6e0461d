// SPDX-License-Identifier: GPL-2.0-or-later
/* Reading the volume's own files: $Bitmap, $BadClus, hiberfil.sys. */
#include <errno.h>

#include "msg.h"
#include "ntfs-file.h"
#include "ntfs.h"

/* A window into $Bitmap, moved along as the check needs it. */
struct bitmap {
	ntfs_attr *na;
	u8 bytes[65536];
	uint64_t first; /* byte of the bitmap at bytes[0] */
	uint64_t count; /* valid bytes */
};

static int bitmap_byte(struct bitmap *b, uint64_t byte, u8 *value)
{
	if (byte < b->first || byte >= b->first + b->count) {
		s64 n = ntfs_attr_pread(b->na, (s64)byte, sizeof(b->bytes), b->bytes);

		if (n <= 0)
			return -EIO;
		b->first = byte;
		b->count = (uint64_t)n;
	}
	*value = b->bytes[byte - b->first];
	return 0;
}

#define ENOUGH_MISSING (1 << 20) /* to say so; what a volume claims may have no end */

static int bitmap_check_run(struct bitmap *b, uint64_t lcn, uint64_t end, uint64_t *missing,
			    uint64_t *first_missing)
{
	while (lcn < end && *missing < ENOUGH_MISSING) {
		u8 value;
		int ret = bitmap_byte(b, lcn / 8, &value);

		if (ret)
			return ret;
		if (value == 0xff) {
			lcn += 8 - lcn % 8;
			continue;
		}
		if (!(value >> (lcn % 8) & 1) && !(*missing)++)
			*first_missing = lcn;
		lcn++;
	}
	return 0;
}

int volume_bitmap_check(struct volume *vol, const struct vdisk_extents *x, uint64_t *missing,
			uint64_t *first_missing)
{
	uint64_t sectors = vol->cluster_size / 512;
	struct bitmap *b = must_alloc(sizeof(*b));
	int ret = 0;

	b->na = vol->lib->vol->lcnbmp_na;
	*missing = 0;
	for (size_t i = 0; i < x->n && !ret; i++) {
		uint64_t lcn = x->v[i].device / sectors;

		if (x->v[i].device != VDISK_HOLE)
			ret = bitmap_check_run(b, lcn, lcn + x->v[i].count / sectors, missing,
					       first_missing);
	}
	free(b);
	return ret;
}

/* Sectors of [start, end) that the sorted extents cover. They do not overlap each other. */
static uint64_t count_overlap(const struct vdisk_extent *v, size_t n, uint64_t start, uint64_t end)
{
	size_t low = 0, high = n;
	uint64_t sum = 0;

	while (low < high) { /* the first one that ends behind start */
		size_t mid = low + (high - low) / 2;

		if (v[mid].device + v[mid].count <= start)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < n && v[low].device < end; low++) {
		uint64_t from = v[low].device > start ? v[low].device : start;
		uint64_t to = v[low].device + v[low].count;

		sum += (to < end ? to : end) - from;
	}
	return sum;
}

static ntfs_attr *open_badclus(struct volume *vol, ntfs_inode **ni)
{
	ntfschar *name = NULL;
	int len = ntfs_mbstoucs("$Bad", &name);
	ntfs_attr *na = NULL;

	*ni = ntfs_inode_open(vol->lib->vol, FILE_BadClus);
	if (*ni && len > 0)
		na = ntfs_attr_open(*ni, AT_DATA, name, (u32)len);
	free(name);
	return na;
}

int volume_badclus_check(struct volume *vol, const struct vdisk_extents *x, uint64_t *bad)
{
	uint64_t sectors = vol->cluster_size / 512;
	ntfs_inode *ni;
	ntfs_attr *na = open_badclus(vol, &ni);
	size_t n;
	struct vdisk_extent *v = extents_by_device(x, &n);
	int ret = -EIO;

	*bad = 0;
	if (na && !ntfs_attr_map_whole_runlist(na)) {
		for (const runlist_element *rl = na->rl;
		     rl && rl->length > 0 && *bad < ENOUGH_MISSING; rl++) {
			uint64_t lcn = (uint64_t)rl->lcn, length = (uint64_t)rl->length;

			if (rl->lcn > 0 && lcn < vol->clusters && length <= vol->clusters - lcn)
				*bad += count_overlap(v, n, lcn * sectors,
						      (lcn + length) * sectors);
		}
		*bad = (*bad + sectors - 1) / sectors;
		ret = 0;
	}
	if (na)
		ntfs_attr_close(na);
	if (ni)
		ntfs_inode_close(ni);
	free(v);
	return ret;
}

static long read_unnamed(ntfs_inode *ni, void *buf, size_t len, uint64_t *size)
{
	ntfs_attr *na = ntfs_attr_open(ni, AT_DATA, AT_UNNAMED, 0);
	s64 n;

	if (!na)
		return -EIO;
	*size = (uint64_t)na->data_size;
	n = ntfs_attr_pread(na, 0, (s64)len, buf);
	ntfs_attr_close(na);
	return n < 0 ? -EIO : n;
}

static u64 find_in_root(struct volume *vol, const char *name, bool *missing)
{
	ntfs_inode *root = ntfs_inode_open(vol->lib->vol, FILE_root);
	ntfschar *uname = NULL;
	int len = ntfs_mbstoucs(name, &uname);
	u64 ref = (u64)-1;

	if (root && len > 0)
		ref = ntfs_inode_lookup_by_name(root, uname, len);
	*missing = root && len > 0 && ref == (u64)-1 && errno == ENOENT;
	if (root)
		ntfs_inode_close(root);
	free(uname);
	return ref;
}

long volume_read_root_file(struct volume *vol, const char *name, void *buf, size_t len,
			   uint64_t *size)
{
	ntfs_inode *ni;
	bool missing;
	u64 ref;
	long n;

	/* Windows looks names up without case, so any spelling is the file. The setting stays: all
	 * look-ups that need exact case come first. */
	if (ntfs_set_ignore_case(vol->lib->vol))
		return -ENOMEM;
	ref = find_in_root(vol, name, &missing);
	if (ref == (u64)-1)
		return missing ? 0 : -EIO;
	ni = ntfs_inode_open(vol->lib->vol, ref);
	if (!ni)
		return -EIO;
	n = read_unnamed(ni, buf, len, size);
	ntfs_inode_close(ni);
	return n;
}
