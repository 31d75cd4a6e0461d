// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-file.c - directories, files and streams with plain contents; all of them healthy
 */
#include "forge.h"

static struct layout parse_layout(const struct options *opts)
{
	static const char *const orders[] = { "forward", "reverse", "shuffle", NULL };

	return (struct layout){
		.runs = number_option(opts, "runs", 1),
		.gap = number_option(opts, "gap", 1),
		.from = number_option(opts, "from", -1),
		.seed = number_option(opts, "seed", 0),
		.order = word_option(opts, "order", orders),
	};
}

static void parse_plan(struct stream_plan *plan, const char *size, const struct options *opts)
{
	static const char *const fills[] = { "none", "zero", "pattern", "stdin", NULL };

	plan->size = parse_number(size, "SIZE");
	plan->init = number_option(opts, "init", plan->size);
	plan->layout = parse_layout(opts);
	plan->fill = word_option(opts, "fill", fills);
	if (!plan->size || !plan->layout.runs)
		die("SIZE and runs must not be 0 (see the verb \"empty\")");
	if (plan->init > plan->size)
		die("init=%lld is more than the size, %lld", (long long)plan->init,
		    (long long)plan->size);
}

/* ---- verbs ---- */

void verb_mkdir(struct forge *forge)
{
	inode_done(create_at(forge->vol, forge->argv[0], S_IFDIR));
}

static void check_no_stream(ntfs_inode *ni, const char *name)
{
	int length;
	ntfschar *wide = unicode(name, &length);

	if (ntfs_attr_exist(ni, AT_DATA, wide, length))
		die("the stream \"%s\" exists already", name);
	free(wide);
}

static void add_stream(ntfs_inode *ni, const char *name, const struct stream_plan *plan,
		       runlist_element *rl)
{
	int length;
	ntfschar *wide = unicode(name, &length);

	if (ntfs_attr_add(ni, AT_DATA, wide, length, NULL, 0))
		die_errno("cannot create the stream \"%s\"", name);
	free(wide);
	grow_stream(ni, name, plan, rl);
}

void verb_file(struct forge *forge)
{
	const char *path = forge->argv[0];
	struct stream_plan plan;
	runlist_element *rl;
	ntfs_inode *ni;

	parse_plan(&plan, forge->argv[1], &forge->opts);
	check_creatable(forge->vol, path);
	rl = plan_runs(forge->vol, &plan);
	ni = create_at(forge->vol, path, S_IFREG);
	grow_stream(ni, NULL, &plan, rl);
	inode_done(ni);
}

/* One file of one cluster, which is taken already. The directory must be closed then. */
static void add_small(ntfs_volume *vol, u64 directory, s64 number, LCN lcn)
{
	const struct stream_plan plan = {
		.size = vol->cluster_size,
		.init = vol->cluster_size,
		.fill = FILL_NONE,
	};
	runlist_element *rl = forge_alloc(2 * sizeof(*rl));
	ntfs_inode *dir = ntfs_inode_open(vol, directory);
	char leaf[32];
	ntfschar *name;
	ntfs_inode *ni;
	int length;

	snprintf(leaf, sizeof(leaf), "%08lld", (long long)number);
	name = unicode(leaf, &length);
	ni = dir ? ntfs_create(dir, const_cpu_to_le32(0), name, length, S_IFREG) : NULL;
	if (!ni)
		die_errno("cannot create %s", leaf);
	inode_done(dir);
	rl[0] = (runlist_element){ .vcn = 0, .lcn = lcn, .length = 1 };
	rl[1] = (runlist_element){ .vcn = 1, .lcn = LCN_ENOENT };
	grow_stream(ni, NULL, &plan, rl);
	inode_done(ni);
	free(name);
}

/* A directory full of files that have a cluster each. */
void verb_many(struct forge *forge)
{
	const struct layout layout = { .runs = 1, .from = -1 };
	const s64 count = parse_number(forge->argv[1], "COUNT");
	runlist_element *rl;
	ntfs_inode *dir;
	u64 number;

	check_creatable(forge->vol, forge->argv[0]);
	if (!count)
		die("COUNT must not be 0");
	rl = layout_allocate(forge->vol, &layout, count);
	dir = create_at(forge->vol, forge->argv[0], S_IFDIR);
	number = dir->mft_no;
	inode_done(dir);
	for (s64 i = 0; i < count; i++)
		add_small(forge->vol, number, i, rl->lcn + i);
	free(rl);
}

void verb_stream(struct forge *forge)
{
	struct stream_plan plan;
	runlist_element *rl;
	ntfs_inode *ni;

	parse_plan(&plan, forge->argv[2], &forge->opts);
	ni = inode_at(forge->vol, forge->argv[0]);
	check_no_stream(ni, forge->argv[1]);
	rl = plan_runs(forge->vol, &plan);
	add_stream(ni, forge->argv[1], &plan, rl);
	inode_done(ni);
}

/* Windows never makes such a file, yet nothing forbids it. */
void verb_onlystream(struct forge *forge)
{
	struct stream_plan plan;
	runlist_element *rl;
	ntfs_inode *ni;
	int length;

	parse_plan(&plan, forge->argv[2], &forge->opts);
	check_creatable(forge->vol, forge->argv[0]);
	free(unicode(forge->argv[1], &length));
	rl = plan_runs(forge->vol, &plan);
	ni = create_at(forge->vol, forge->argv[0], S_IFREG);
	if (ntfs_attr_remove(ni, AT_DATA, AT_UNNAMED, 0))
		die_errno("cannot remove the unnamed DATA");
	add_stream(ni, forge->argv[1], &plan, rl);
	inode_done(ni);
}

/* Right behind the last run if that is free, so that the number of runs stays the same. */
static runlist_element *extended(ntfs_volume *vol, const runlist_element *rl, s64 clusters)
{
	const runlist_element *last = rl;
	runlist_element *longer;
	struct space space;
	LCN lcn;
	int n;

	while (last[1].length)
		last++;
	n = last - rl + 1;
	longer = forge_alloc((n + 2) * sizeof(*longer));
	memcpy(longer, rl, n * sizeof(*longer));
	space_load(&space, vol);
	lcn = last->lcn + last->length;
	if (space_is_free(&space, lcn, clusters)) {
		longer[n - 1].length += clusters;
	} else {
		lcn = space_find(&space, vol->mft_zone_end, clusters);
		if (lcn < 0)
			lcn = space_find(&space, 0, clusters);
		longer[n].vcn = last->vcn + last->length;
		longer[n].lcn = lcn;
		longer[n++].length = clusters;
	}
	if (lcn < 0)
		die("no room for %lld more clusters", (long long)clusters);
	longer[n].vcn = longer[n - 1].vcn + longer[n - 1].length;
	longer[n].lcn = LCN_ENOENT;
	space_mark(&space, lcn, clusters, true);
	space_store(&space);
	return longer;
}

void verb_slack(struct forge *forge)
{
	const s64 clusters = parse_number(forge->argv[1], "CLUSTERS");
	ntfs_inode *ni;
	ntfs_attr *na = stream_at(forge->vol, forge->argv[0], &ni);

	map_runs(na);
	if (!clusters || !na->rl || !na->rl->length)
		die("%s: nothing to extend", forge->argv[0]);
	write_runs(na, extended(forge->vol, na->rl, clusters));
	stream_done(na, ni);
}

static void copy_clusters(ntfs_volume *vol, const runlist_element *from, const runlist_element *to)
{
	const s64 bytes = vol->cluster_size;
	u8 *buffer = forge_alloc(bytes);
	LCN lcn;

	for (VCN vcn = 0; (lcn = ntfs_rl_vcn_to_lcn(from, vcn)) >= 0; vcn++) {
		LCN there = ntfs_rl_vcn_to_lcn(to, vcn);

		if (ntfs_pread(vol->dev, lcn * bytes, bytes, buffer) != bytes ||
		    ntfs_pwrite(vol->dev, there * bytes, bytes, buffer) != bytes)
			die_errno("cannot copy cluster %lld", (long long)lcn);
	}
	free(buffer);
}

/* As a defragmenter does: the same file and contents, in clusters that were free before. */
void verb_move(struct forge *forge)
{
	const struct layout layout = parse_layout(&forge->opts);
	ntfs_volume *vol = forge->vol;
	runlist_element *old, *new;
	struct space space;
	ntfs_inode *ni;
	ntfs_attr *na = stream_at(vol, forge->argv[0], &ni);

	map_runs(na);
	if (!layout.runs || !na->rl || !na->rl->length)
		die("%s: nothing to move", forge->argv[0]);
	old = na->rl;
	new = layout_allocate(vol, &layout, na->allocated_size >> vol->cluster_size_bits);
	copy_clusters(vol, old, new);
	na->rl = new;
	write_runs(na, new);
	space_load(&space, vol);
	for (const runlist_element *run = old; run->length; run++)
		space_mark(&space, run->lcn, run->length, false);
	space_store(&space);
	free(old);
	stream_done(na, ni);
}

void verb_link(struct forge *forge)
{
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);
	const char *leaf;
	ntfs_inode *dir = directory_for(forge->vol, forge->argv[1], &leaf);
	ntfschar *name;
	int length;

	name = unicode(leaf, &length);
	if (ntfs_link(ni, dir, name, length))
		die_errno("cannot link %s", forge->argv[1]);
	free(name);
	inode_done(dir);
	inode_done(ni);
}

/* ntfs_delete() closes both inodes, whatever happens. */
void verb_remove(struct forge *forge)
{
	const char *path = forge->argv[0];
	ntfs_inode *ni = inode_at(forge->vol, path);
	ntfs_inode *dir;
	ntfschar *name;
	int length;

	dir = parent_of(forge->vol, path);
	name = unicode(strrchr(path, '/') + 1, &length);
	if (ntfs_delete(forge->vol, path, ni, dir, name, length))
		die_errno("cannot remove %s", path);
	free(name);
}

void verb_empty(struct forge *forge)
{
	inode_done(create_at(forge->vol, forge->argv[0], S_IFREG));
}

void verb_resident(struct forge *forge)
{
	const s64 size = parse_number(forge->argv[1], "BYTES");
	ntfs_inode *ni;
	ntfs_attr *na;
	u8 *bytes;

	if (size > forge->vol->mft_record_size / 2)
		die("%lld bytes are too many for a resident stream", (long long)size);
	bytes = forge_alloc(size);
	pattern_bytes(bytes, size, 0, 0);
	ni = create_at(forge->vol, forge->argv[0], S_IFREG);
	na = data_open(ni, NULL);
	if (size && ntfs_attr_pwrite(na, 0, size, bytes) != size)
		die_errno("cannot write to %s", forge->argv[0]);
	if (NAttrNonResident(na))
		die("%lld bytes did not stay resident", (long long)size);
	free(bytes);
	stream_done(na, ni);
}

void verb_pattern(struct forge *forge)
{
	content_print_pattern(parse_number(forge->argv[0], "SIZE"),
			      number_option(&forge->opts, "seed", 0));
}

void verb_runs(struct forge *forge)
{
	ntfs_inode *ni;
	ntfs_attr *na = stream_at(forge->vol, forge->argv[0], &ni);

	map_runs(na);
	for (runlist_element *run = na->rl; run && run->length; run++)
		printf("%lld %lld %lld\n", (long long)run->vcn, (long long)run->lcn,
		       (long long)run->length);
	stream_done(na, ni);
}

void verb_ref(struct forge *forge)
{
	ntfs_inode *ni = inode_at(forge->vol, forge->argv[0]);

	printf("%llu %u\n", (unsigned long long)ni->mft_no, le16_to_cpu(ni->mrec->sequence_number));
	inode_done(ni);
}
