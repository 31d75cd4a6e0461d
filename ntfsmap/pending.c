// SPDX-License-Identifier: GPL-2.0-or-later
#include "pending.h"

#include <stdlib.h>
#include <string.h>

#include "msg.h"

/* A record that touches an MFT record which is newer, and so is applied only if its transaction
 * has not ended; or the end of a transaction. */
struct event {
	uint64_t lsn;
	uint32_t transaction;
	bool end;
	uint16_t redo, undo;
	struct touch touch;
};

/* These act on an MFT record, at the place that the record's first LCN names. */
static bool acts_on_mft(unsigned int operation)
{
	static const uint8_t operations[] = { 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 17, 19, 33, 35, 37 };

	return operation <= LOG_OP_LAST && memchr(operations, (int)operation, sizeof(operations));
}

/* The byte of the stream with these extents that the record points to: in its first cluster. */
static bool byte_in(const struct vdisk_extents *x, uint32_t cluster_size,
		    const struct log_record *r, uint64_t *byte)
{
	uint64_t lcn = r->n_lcns ? log_record_lcn(r, 0) : UINT64_MAX, sector;

	if (lcn > UINT64_MAX / cluster_size / 2)
		return false;
	sector = lcn * (cluster_size / 512);
	for (size_t i = 0; i < x->n; i++) {
		const struct vdisk_extent *e = &x->v[i];

		if (e->device == VDISK_HOLE || sector < e->device || sector - e->device >= e->count)
			continue;
		*byte = (e->file + sector - e->device + r->cluster_index) * 512;
		return true;
	}
	return false;
}

bool pending_mft_record(const struct volume_places *volume, const struct log_record *r,
			uint64_t *record)
{
	uint64_t byte;

	if (r->type != LOG_RECORD_CLIENT || !(acts_on_mft(r->redo) || acts_on_mft(r->undo)) ||
	    !byte_in(&volume->mft, volume->cluster_size, r, &byte))
		return false;
	*record = byte / volume->record_size;
	return true;
}

static const struct record_place *find_record(const struct file_places *file, uint64_t record)
{
	size_t low = 0, high = file->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (file->v[mid].record < record)
			low = mid + 1;
		else
			high = mid;
	}
	return low < file->n && file->v[low].record == record ? &file->v[low] : NULL;
}

/* By the cluster that it names, and by the VCN in the MFT, which counts where the cluster is old:
 * each alone is enough to refuse. */
static const struct record_place *touched_record(const struct volume_places *volume,
						 const struct file_places *file,
						 const struct log_record *r)
{
	const struct record_place *place = NULL;
	uint64_t record;

	if (pending_mft_record(volume, r, &record))
		place = find_record(file, record);
	if (place || !(acts_on_mft(r->redo) || acts_on_mft(r->undo)) ||
	    r->target_vcn > UINT64_MAX / volume->cluster_size / 2)
		return place;
	return find_record(file,
			   (r->target_vcn * volume->cluster_size + r->cluster_index * 512ULL) /
				   volume->record_size);
}

/* Do they hold something of [start, end)? */
static bool overlaps(const struct sorted_extents *x, uint64_t start, uint64_t end)
{
	size_t low = 0, high = x->n;

	while (low < high) { /* the first one that ends behind start */
		size_t mid = low + (high - low) / 2;

		if (x->v[mid].device + x->v[mid].count <= start)
			low = mid + 1;
		else
			high = mid;
	}
	return low < x->n && x->v[low].device < end;
}

static bool touches_clusters(const struct sorted_extents *x, uint32_t cluster_size,
			     const struct log_record *r)
{
	uint64_t sectors = cluster_size / 512;

	for (size_t i = 0; i < r->n_lcns; i++) {
		uint64_t lcn = log_record_lcn(r, i);

		if (lcn < UINT64_MAX / sectors / 2 &&
		    overlaps(x, lcn * sectors, (lcn + 1) * sectors))
			return true;
	}
	return false;
}

/* Two numbers of 32 bits: the first bit, counted from where the record points, and how many. */
static bool touches_bits(const struct volume_places *volume, const struct file_places *file,
			 const struct log_record *r, unsigned int operation, const uint8_t *data,
			 uint32_t length)
{
	uint64_t byte, first, count, sectors = volume->cluster_size / 512;

	if ((operation != LOG_OP_SET_BITS && operation != LOG_OP_CLEAR_BITS) ||
	    !byte_in(&volume->bitmap, volume->cluster_size, r, &byte))
		return false;
	if (length < 8)
		return true; /* it does not say which */
	first = (byte + r->record_offset) * 8 +
		(data[0] | data[1] << 8 | data[2] << 16 | (uint64_t)data[3] << 24);
	count = data[4] | data[5] << 8 | data[6] << 16 | (uint64_t)data[7] << 24;
	return overlaps(&file->clusters, first * sectors, (first + count) * sectors) ||
	       overlaps(&file->list, first * sectors, (first + count) * sectors);
}

struct touch pending_touch(const struct volume_places *volume, const struct file_places *file,
			   const struct log_record *r)
{
	const struct record_place *record = touched_record(volume, file, r);
	struct touch t = { 0 };

	if (record) {
		t.what |= TOUCHES_RECORD;
		t.record = record->record;
		t.record_lsn = record->lsn;
	}
	if (touches_bits(volume, file, r, r->redo, r->redo_data, r->redo_length) ||
	    touches_bits(volume, file, r, r->undo, r->undo_data, r->undo_length))
		t.what |= TOUCHES_BITS;
	if (touches_clusters(&file->list, volume->cluster_size, r))
		t.what |= TOUCHES_LIST;
	if (touches_clusters(&file->clusters, volume->cluster_size, r))
		t.what |= TOUCHES_CLUSTERS;
	return t;
}

char *pending_touch_text(const struct touch *t)
{
	char *record = t->what & TOUCHES_RECORD
			       ? text("MFT record %llu, ", (unsigned long long)t->record)
			       : text_copy("");
	char *all = text("%s%s%s%s", record, t->what & TOUCHES_BITS ? "its bits in $Bitmap, " : "",
			 t->what & TOUCHES_LIST ? "its attribute list, " : "",
			 t->what & TOUCHES_CLUSTERS ? "its clusters, " : "");

	free(record);
	if (*all)
		all[strlen(all) - 2] = '\0';
	return all;
}

/* ---- would it be applied? ---- */

static void applied(struct pending *p, const struct event *e)
{
	if (!p->touching++ || e->lsn < p->lsn) {
		p->lsn = e->lsn;
		p->redo = e->redo;
		p->undo = e->undo;
		p->touch = e->touch;
	}
}

static void add_event(struct pending *p, struct event new)
{
	if (p->n_events == p->room) {
		p->room = p->room ? 2 * p->room : 64;
		p->events = must_regrow(p->events, p->room, sizeof(*p->events));
	}
	p->events[p->n_events++] = new;
}

/* By transaction, and of each the last one first: its slot may be used again after its end. */
static int by_transaction(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	if (x->transaction != y->transaction)
		return x->transaction < y->transaction ? -1 : 1;
	return (x->lsn < y->lsn) - (x->lsn > y->lsn);
}

static void look_at_operation(struct pending *p, const struct log_record *r, unsigned int operation)
{
	if (operation > LOG_OP_LAST && !p->unknown_lsn) {
		p->unknown_lsn = r->lsn;
		p->unknown = operation;
	}
}

void pending_look(struct pending *p, const struct log_record *r)
{
	struct event new = { r->lsn, r->transaction, false, r->redo, r->undo, { 0 } };

	p->records++;
	if (r->type != LOG_RECORD_CLIENT)
		return;
	look_at_operation(p, r, r->redo);
	look_at_operation(p, r, r->undo);
	new.touch = pending_touch(p->volume, p->file, r);
	if (new.touch.what == TOUCHES_RECORD &&new.touch.record_lsn >= r->lsn)
		add_event(p, new);
	else if (new.touch.what)
		applied(p, &new);
	new.end = r->redo == LOG_OP_FORGET_TRANSACTION;
	if (new.end && p->n_events)
		add_event(p, new);
}

void pending_end(struct pending *p)
{
	bool ended = false;

	if (p->n_events)
		qsort(p->events, p->n_events, sizeof(*p->events), by_transaction);
	for (size_t i = 0; i < p->n_events; i++) {
		const struct event *e = &p->events[i];

		if (i && e[-1].transaction != e->transaction)
			ended = false;
		if (e->end)
			ended = true;
		else if (!ended)
			applied(p, e);
	}
	free(p->events);
	p->events = NULL;
	p->n_events = p->room = 0;
}
