// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reserve in a qcow or qcow2: the file is made longer, and that is all. Clusters behind the last
 * one in use are free, whether refcounts reach as far or not (qcow2.txt, "Host cluster
 * management"); who takes them makes the refcounts. So beside the clusters of the disk there has to
 * be room for tables: L2 tables, refcount blocks, and a larger refcount table.
 */
#include <errno.h>

#include "reserve.h"

#define MAX_TRIES    8
#define QCOW1_L2BITS 33 /* version 1: byte of the header, log2 of an L2 table's entries */

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
}

/* Blocks that can be written where they are. Others need room when they are written: shared and
 * compressed ones too. */
static int count_placed(struct job *job, struct vdisk *vd)
{
	uint64_t size = vdisk_info(vd)->virtual_size, bytes = 0;
	struct vdisk_map m;

	for (uint64_t at = 0; at < size; at += m.length) {
		int ret = vdisk_map(vd, at, size - at, &m);

		if (ret)
			return reserve_fail_tables(job, ret);
		if (m.kind == VDISK_DATA ||
		    ((m.kind == VDISK_ZERO || m.kind == VDISK_PARENT) && m.home != VDISK_NOWHERE))
			bytes += m.length;
	}
	job->placed = divide_up(bytes, job->block_size);
	return DONE;
}

/* Clusters of L2 tables for these blocks, wherever they are on the disk, and as if there were none
 * yet. */
static int count_tables(const struct job *job, const struct vdisk_info *info, uint64_t *clusters)
{
	uint64_t entries = job->block_size / (info->subcluster_size ? 16 : 8), tables;
	uint8_t bits;
	int ret;

	if (info->version == 1) {
		ret = job->io.read(job->io.ctx, QCOW1_L2BITS, &bits, 1);
		if (ret)
			return fail_errno(-ret, "cannot read %s", job->path);
		entries = 1ULL << bits;
	}
	tables = divide_up(job->total, entries);
	if (tables > job->wanted)
		tables = job->wanted;
	*clusters = tables * divide_up(entries * 8, job->block_size);
	return DONE;
}

/* Clusters that refcounts take in a file of so many: all blocks anew, and a new table, which begins
 * with blocks of its own. */
static uint64_t count_refcounts(const struct job *job, const struct vdisk_info *info, uint64_t file)
{
	uint64_t blocks, table;

	if (!info->refcount_bits)
		return 0;
	blocks = divide_up(file, job->block_size * 8 / info->refcount_bits);
	table = divide_up(blocks * 8, job->block_size);
	return blocks + table + divide_up(table, job->block_size * 8 / info->refcount_bits) + 1;
}

static int try_size(struct job *job, const char *format, uint64_t size)
{
	struct vdisk_usage usage;
	struct vdisk *vd;
	int ret;

	job->future.size = size;
	ret = reserve_open_future(&job->future, format, false, &vd);
	if (ret)
		return reserve_fail_tables(job, ret);
	ret = vdisk_usage(vd, &usage);
	vdisk_close(vd);
	job->room = ret ? 0 : usage.room;
	return ret ? reserve_fail_tables(job, ret) : DONE;
}

/* The new size of the file, in job->future. */
static int choose_size(struct job *job, const struct vdisk_info *info, uint64_t tables)
{
	uint64_t size = job->future.now, need;
	int code = try_size(job, info->format, size);

	for (int i = 0; !code; i++) {
		need = (info->needs_data ? 0 : job->wanted) + tables;
		need += need ? count_refcounts(job, info, size / job->block_size + need) : 0;
		if (job->room / job->block_size >= need)
			return DONE;
		if (i == MAX_TRIES)
			return fail(REFUSED, "%s: the file cannot be long enough for that",
				    job->path);
		size = divide_up(size, job->block_size) * job->block_size +
		       (need - job->room / job->block_size) * job->block_size;
		size = divide_up(size, RESERVE_ALIGNMENT) * RESERVE_ALIGNMENT;
		code = try_size(job, info->format, size);
	}
	return code;
}

int reserve_qcow(struct job *job, struct vdisk *vd, uint64_t bytes)
{
	const struct vdisk_info *info = vdisk_info(vd);
	uint64_t tables = 0;
	int code = count_placed(job, vd);

	job->wanted = reserve_blocks(job, bytes);
	if (!code)
		code = count_tables(job, info, &tables);
	if (!code)
		code = choose_size(job, info, tables);
	if (code)
		return code;
	if (info->needs_data)
		note("%s: the disk is in another file, this one has the tables only: make the data "
		     "file as long as the disk, too (fallocate -l %llu)",
		     job->path, (unsigned long long)info->virtual_size);
	if (job->future.size == job->future.now) {
		note("%s: there is room for %s already", job->path, human_size(job->room));
		return DONE;
	}
	code = reserve_grow(job);
	if (!code)
		reserve_told(job);
	return code;
}
