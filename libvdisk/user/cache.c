// SPDX-License-Identifier: GPL-2.0-or-later
/* The metadata cache: when it is full, everything goes that nobody holds. */
#include "host.h"

static struct cache_entry **bucket_of(struct cache *c, u64 offset)
{
	return &c->buckets[offset / CACHE_BLOCK % CACHE_BUCKETS];
}

static struct cache_entry *find(struct cache *c, u64 offset)
{
	struct cache_entry *entry = *bucket_of(c, offset);

	while (entry && entry->block.offset != offset)
		entry = entry->next;
	return entry;
}

static const u8 *peek(struct vdisk_meta *meta, u64 offset)
{
	struct cache_entry *entry = find((struct cache *)meta, offset);

	return entry ? entry->data : NULL;
}

void vdisk_cache_init(struct cache *c, const struct vdisk_io *io)
{
	c->meta = (struct vdisk_meta){ CACHE_BLOCK, peek };
	c->io = *io;
}

static void drop(struct cache *c, bool pinned_too)
{
	for (size_t i = 0; i < CACHE_BUCKETS; i++) {
		struct cache_entry **link = &c->buckets[i];

		while (*link) {
			struct cache_entry *entry = *link;

			if (entry->pins && !pinned_too) {
				link = &entry->next;
				continue;
			}
			*link = entry->next;
			free(entry);
			c->n--;
		}
	}
}

void vdisk_cache_forget(struct cache *c, u64 offset, u64 length)
{
	for (; length; offset += CACHE_BLOCK, length -= CACHE_BLOCK) {
		struct cache_entry **link = bucket_of(c, offset), *entry = find(c, offset);

		if (!entry)
			continue;
		while (*link != entry)
			link = &(*link)->next;
		*link = entry->next;
		free(entry);
		c->n--;
	}
}

void vdisk_cache_exit(struct cache *c)
{
	drop(c, true);
}

/* The file's last block may be shorter: an old footer of 511 bytes, or a file that was cut. */
static int read_block(struct cache *c, u64 offset, u8 *data)
{
	u64 left = offset < c->io.size ? c->io.size - offset : 0;

	return vdisk_read(&c->io, offset, data, left < CACHE_BLOCK ? left : CACHE_BLOCK);
}

int vdisk_cache_fetch(struct cache *c, u64 offset, struct cache_entry **out)
{
	struct cache_entry *entry = find(c, offset);
	int ret;

	if (!entry) {
		if (c->n >= CACHE_BLOCKS)
			drop(c, false);
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		ret = read_block(c, offset, entry->data);
		if (ret) {
			free(entry);
			return ret;
		}
		entry->block.offset = offset;
		entry->block.data = entry->data;
		entry->next = *bucket_of(c, offset);
		*bucket_of(c, offset) = entry;
		c->n++;
	}
	if (out)
		*out = entry;
	return 0;
}
