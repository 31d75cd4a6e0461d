// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-space.c - $Bitmap, and where on the disk the runs of a new stream go
 *
 * libntfs-3g's own allocator spreads and joins runs as it likes. Tests want to say how many
 * runs there are and in which order they lie on the disk, so the clusters are chosen here, in
 * a copy of $Bitmap that is written back in one piece.
 */
#include "forge.h"

void space_load(struct space *space, ntfs_volume *vol)
{
	space->vol = vol;
	space->bytes = (vol->nr_clusters + 7) / 8;
	space->bits = forge_alloc(space->bytes);
	if (ntfs_attr_pread(vol->lcnbmp_na, 0, space->bytes, space->bits) != space->bytes)
		die_errno("cannot read $Bitmap");
}

void space_store(struct space *space)
{
	ntfs_attr *bitmap = space->vol->lcnbmp_na;

	if (ntfs_attr_pwrite(bitmap, 0, space->bytes, space->bits) != space->bytes)
		die_errno("cannot write $Bitmap");
	free(space->bits);
	space->bits = NULL;
}

static bool cluster_used(const struct space *space, LCN lcn)
{
	return space->bits[lcn >> 3] >> (lcn & 7) & 1;
}

/* The first cluster at or behind LCN that is USED or not; END if there is none before it. */
static LCN next_cluster(const struct space *space, LCN lcn, LCN end, bool used)
{
	const u8 boring = used ? 0 : 0xff;

	while (lcn < end) {
		if (!(lcn & 7) && space->bits[lcn >> 3] == boring)
			lcn += 8;
		else if (cluster_used(space, lcn) != used)
			lcn++;
		else
			return lcn;
	}
	return end;
}

bool space_is_free(const struct space *space, LCN lcn, s64 length)
{
	if (lcn < 0 || length > space->vol->nr_clusters - lcn)
		return false;
	return next_cluster(space, lcn, lcn + length, true) == lcn + length;
}

void space_mark(struct space *space, LCN lcn, s64 length, bool used)
{
	if (lcn < 0 || length < 0 || lcn > space->vol->nr_clusters ||
	    length > space->vol->nr_clusters - lcn)
		die("clusters %lld+%lld are not all inside the volume of %lld", (long long)lcn,
		    (long long)length, (long long)space->vol->nr_clusters);
	for (; length; length--, lcn++)
		ntfs_bit_set(space->bits, lcn, used);
}

LCN space_find(const struct space *space, LCN from, s64 length)
{
	const LCN end = space->vol->nr_clusters;
	LCN lcn = from;

	while (length <= end - lcn) {
		LCN busy;

		lcn = next_cluster(space, lcn, end, false);
		if (length > end - lcn)
			break;
		busy = next_cluster(space, lcn, lcn + length, true);
		if (busy == lcn + length)
			return lcn;
		lcn = busy;
	}
	return -1;
}

/* A small generator of our own: rand(3) may differ between C libraries. (splitmix64) */
static u64 next_random(u64 *state)
{
	u64 z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/*
 * run_at[slot] is the run (in file order) at that place (in disk order). Without a gap, a run
 * directly followed on the disk by its successor would merge with it. Exchanging such a pair,
 * left to right, cannot make a new one: behind the exchange the left place holds n + 1, whose
 * predecessor n is now on its right, and the right place holds n, whose successor is on its left.
 */
static void shuffle(s64 *run_at, s64 runs, u64 seed, bool touching)
{
	for (s64 i = runs - 1; i > 0; i--) {
		s64 j = next_random(&seed) % (i + 1);
		s64 run = run_at[i];

		run_at[i] = run_at[j];
		run_at[j] = run;
	}
	for (s64 i = 0; touching && i + 1 < runs; i++) {
		if (run_at[i + 1] == run_at[i] + 1) {
			run_at[i]++;
			run_at[i + 1]--;
		}
	}
}

static s64 *disk_order(const struct layout *layout)
{
	s64 *run_at = forge_alloc(layout->runs * sizeof(*run_at));

	for (s64 i = 0; i < layout->runs; i++)
		run_at[i] = layout->order == ORDER_REVERSE ? layout->runs - 1 - i : i;
	if (layout->order == ORDER_SHUFFLE)
		shuffle(run_at, layout->runs, layout->seed, !layout->gap);
	return run_at;
}

/* Lengths are as equal as can be, the longer runs first. */
static runlist_element *file_order(s64 runs, s64 clusters)
{
	runlist_element *rl = forge_alloc((runs + 1) * sizeof(*rl));
	VCN vcn = 0;

	for (s64 i = 0; i < runs; i++) {
		rl[i].vcn = vcn;
		rl[i].length = clusters / runs + (i < clusters % runs);
		vcn += rl[i].length;
	}
	rl[runs].vcn = vcn;
	rl[runs].lcn = LCN_ENOENT;
	rl[runs].length = 0;
	return rl;
}

/* Gives each run its clusters, upwards from LCN; false if they do not fit. */
static bool place_runs(const struct space *space, const struct layout *layout, const s64 *run_at,
		       runlist_element *rl, LCN lcn)
{
	for (s64 i = 0; i < layout->runs; i++) {
		runlist_element *run = &rl[run_at[i]];

		run->lcn = space_find(space, lcn, run->length);
		if (run->lcn < 0)
			return false;
		lcn = run->lcn + run->length + layout->gap;
	}
	return true;
}

/* Where all of it fits without anything in between; -1 if nowhere. */
static LCN find_span(const struct space *space, s64 span)
{
	/* The zone that $MFT grows into comes last: our own extent records need it. */
	const LCN lcn = space_find(space, space->vol->mft_zone_end, span);

	return lcn < 0 ? space_find(space, 0, span) : lcn;
}

static void place_anywhere(const struct space *space, const struct layout *layout,
			   const s64 *run_at, runlist_element *rl, s64 span)
{
	const ntfs_volume *vol = space->vol;
	const LCN lcn = find_span(space, span);

	if (!place_runs(space, layout, run_at, rl, lcn < 0 ? vol->mft_zone_end : lcn) &&
	    !place_runs(space, layout, run_at, rl, 0))
		die("no room for %lld run(s) with gaps of %lld cluster(s) on a volume of %lld",
		    (long long)layout->runs, (long long)layout->gap, (long long)vol->nr_clusters);
}

static void place_exactly(const struct space *space, const struct layout *layout, const s64 *run_at,
			  runlist_element *rl)
{
	const s64 first = rl[run_at[0]].length;

	if (!space_is_free(space, layout->from, first))
		die("from=%lld: clusters %lld+%lld are not all free", (long long)layout->from,
		    (long long)layout->from, (long long)first);
	if (!place_runs(space, layout, run_at, rl, layout->from))
		die("from=%lld: no room for %lld run(s) behind it", (long long)layout->from,
		    (long long)layout->runs);
}

runlist_element *layout_allocate(ntfs_volume *vol, const struct layout *layout, s64 clusters)
{
	struct space space;
	runlist_element *rl;
	s64 *run_at;

	if (layout->runs > clusters)
		die("runs=%lld, but the stream has only %lld cluster(s)", (long long)layout->runs,
		    (long long)clusters);
	if (!layout->gap && layout->order == ORDER_FORWARD && layout->runs > 1)
		die("gap=0 with order=forward would merge all runs into one");
	/* Also the bound that keeps the sums below from overflowing. */
	if (clusters > vol->nr_clusters || layout->gap > vol->nr_clusters / layout->runs)
		die("the volume has only %lld clusters", (long long)vol->nr_clusters);
	space_load(&space, vol);
	run_at = disk_order(layout);
	rl = file_order(layout->runs, clusters);
	if (layout->from < 0)
		place_anywhere(&space, layout, run_at, rl,
			       clusters + (layout->runs - 1) * layout->gap);
	else
		place_exactly(&space, layout, run_at, rl);
	for (s64 i = 0; i < layout->runs; i++)
		space_mark(&space, rl[i].lcn, rl[i].length, true);
	space_store(&space);
	free(run_at);
	return rl;
}
