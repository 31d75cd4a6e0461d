// SPDX-License-Identifier: GPL-2.0-or-later
#include "disk.h"

#define SECTOR 512

static u64 state;
static const u8 *input, *input_end; /* NULL: all numbers come from the seed */
static bool held;

void random_seed(u64 seed)
{
	state = seed ? seed : 1;
}

void random_feed(const u8 *bytes, size_t n)
{
	input = bytes;
	input_end = bytes + n;
	held = false;
	random_seed(n);
}

bool random_ended(void)
{
	return input && input == input_end;
}

/* No more bytes than the number needs, so that few of them say much. */
static u64 from_input(u64 bound)
{
	u64 value = 0;

	for (u64 most = bound - 1; most && input < input_end; most >>= 8)
		value = value << 8 | *input++;
	return value % bound;
}

static u64 from_seed(u64 bound)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 2685821657736338717ULL >> 16) % bound;
}

u64 random_below(u64 bound)
{
	return input && !held && input < input_end ? from_input(bound) : from_seed(bound);
}

void random_hold(bool on)
{
	if (on && input && input < input_end)
		random_seed(1 + from_input(1 << 16));
	held = on;
}

u64 random_steps(u64 most)
{
	return input ? 1 + random_below(most) : most;
}

static void *copy(const void *data, u64 length)
{
	void *p = malloc(length);

	if (!p)
		abort();
	return memcpy(p, data, length);
}

void disk_init(struct disk *d, const u8 *image, u64 size)
{
	*d = (struct disk){ .size = size, .seen = copy(image, size), .durable = copy(image, size) };
	d->tail = &d->writes;
	d->clock = 1;
}

static void free_write(struct write *w)
{
	free(w->data);
	free(w);
}

void disk_exit(struct disk *d)
{
	while (d->writes) {
		struct write *w = d->writes;

		d->writes = w->next;
		free_write(w);
	}
	free(d->seen);
	free(d->durable);
}

static void append(struct disk *d, struct write *w)
{
	w->next = NULL;
	*d->tail = w;
	d->tail = &w->next;
}

static void take_out(struct disk *d, struct write *w)
{
	struct write **link = &d->writes;

	while (*link != w)
		link = &(*link)->next;
	*link = w->next;
	if (d->tail == &w->next)
		d->tail = link;
}

struct write *disk_write(struct disk *d, u64 offset, const void *data, u64 length)
{
	struct write *w = calloc(1, sizeof(*w));

	if (!w || offset > d->size || length > d->size - offset || offset % SECTOR ||
	    length % SECTOR)
		abort(); /* a write outside of the file */
	*w = (struct write){ .offset = offset, .length = length, .data = copy(data, length) };
	d->written += length / SECTOR;
	append(d, w);
	return w;
}

/* What is durable now is not undone by an earlier write that is not. */
static void supersede(struct disk *d, const struct write *new)
{
	for (struct write *w = d->writes; w; w = w->next)
		for (u64 at = 0; at < w->length; at += SECTOR)
			if (w->ended && w->offset + at >= new->offset &&
			    w->offset + at < new->offset + new->length)
				memcpy(w->data + at, new->data + (w->offset + at - new->offset),
				       SECTOR);
}

void disk_end_write(struct disk *d, struct write *w, bool failed, bool fua)
{
	if (failed)
		random_hold(true);
	for (u64 at = 0; at < w->length; at += SECTOR)
		if (!failed || random_below(2))
			memcpy(d->seen + w->offset + at, w->data + at, SECTOR);
		else
			memcpy(w->data + at, d->seen + w->offset + at, SECTOR);
	random_hold(false);
	w->ended = ++d->clock;
	take_out(d, w); /* to the end: later ends win where writes overlap */
	if (fua && !failed) {
		memcpy(d->durable + w->offset, w->data, w->length);
		supersede(d, w);
		free_write(w);
	} else {
		append(d, w);
	}
}

u64 disk_begin_flush(struct disk *d)
{
	return d->clock;
}

void disk_end_flush(struct disk *d, u64 began)
{
	struct write **link = &d->writes;

	while (*link) {
		struct write *w = *link;

		if (!w->ended || w->ended > began) {
			link = &w->next;
			continue;
		}
		memcpy(d->durable + w->offset, w->data, w->length);
		*link = w->next;
		free_write(w);
	}
	d->tail = link;
}

void disk_cut(const struct disk *d, u64 subset, bool torn, u8 *image)
{
	memcpy(image, d->durable, d->size);
	if (torn)
		random_hold(true);
	for (const struct write *w = d->writes; w; w = w->next, subset >>= 1)
		for (u64 at = 0; at < w->length; at += SECTOR)
			if (torn ? random_below(2) : subset & 1)
				memcpy(image + w->offset + at, w->data + at, SECTOR);
	random_hold(false);
}

unsigned int disk_volatile(const struct disk *d)
{
	unsigned int n = 0;

	for (const struct write *w = d->writes; w; w = w->next)
		n++;
	return n;
}
