// SPDX-License-Identifier: GPL-2.0-or-later
/* Any bytes as an MFT record: its attributes and their runs lie inside of it; each walk ends. */
#include "../../ntfsmap/ntfs-record.h"
#include "fuzz.h"

#define MOST 4096 /* bytes of a record */

static void look_at_runs(const struct mft_attr *a)
{
	struct mft_runs runs;
	struct mft_run run;
	uint64_t vcn;
	size_t n = 0;

	mft_runs_start(a, &runs);
	vcn = (uint64_t)runs.vcn;
	while (!mft_runs_next(&runs, &run) && run.length) {
		expect(n++ < MOST, "there is no end of runs");
		expect(run.lcn <= INT64_MAX && run.length <= INT64_MAX - run.lcn,
		       "a run of %" PRIu64 " clusters at %" PRIu64, run.length, run.lcn);
		vcn += run.length;
		expect((uint64_t)runs.vcn == vcn && vcn <= INT64_MAX, "VCN %" PRId64, runs.vcn);
		expect(!run.hole || !run.lcn, "a hole with a place");
	}
}

static u64 look_at_attribute(const struct mft_record *r, const struct mft_attr *a)
{
	const u8 *at = (const u8 *)a->record;

	expect(at >= r->bytes && a->length <= r->used && at + a->length <= r->bytes + r->used,
	       "an attribute of %u bytes at %td", a->length, at - r->bytes);
	expect(!a->name_length || (a->name >= at && a->name + 2 * a->name_length <= at + a->length),
	       "the name of an attribute is outside");
	if (a->record->non_resident)
		look_at_runs(a);
	return number_of(at, a->length) + number_of(a->name, 2u * a->name_length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mft_record r;
	struct mft_attr a;
	struct memory m;
	size_t n = 0;

	if (size < 512 || size > MOST)
		return 0;
	m = memory_of(data, size / 512 * 512);
	memcpy(m.bytes, "FILE", 4);
	if (!mft_record_start(m.bytes, (u32)m.size, &r))
		while (!mft_record_next(&r, &a) && a.record) {
			expect(n++ < MOST, "there is no end of attributes");
			look_at_attribute(&r, &a);
		}
	memory_free(&m);
	return 0;
}
