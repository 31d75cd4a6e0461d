// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The cache of metadata blocks: a hash table with a fixed number of buckets, so that putting a
 * block there never has to allocate but for the block itself, and of those there is a reserve.
 *
 * Looking a block up takes no lock: RCU keeps what it finds until the reader has left. A block is
 * complete when it appears and only the engine changes it, by whole words, while it is pinned. Who
 * takes blocks out is the worker (a new block needs room), or the shrinker and the message
 * drop_cache, which hold engine_lock: so the engine, running in the worker, can look without RCU
 * at what it asked for, until it asks for the next block.
 *
 * Eviction is by second chance: the hand passes over a block that was looked at, once.
 */
#include <linux/hash.h>
#include <linux/rcupdate.h>

#include "dm-vdisk.h"

#define EVICT_AT_ONCE 4096

static struct hlist_head *bucket_of(struct dmv_cache *c, u64 offset)
{
	return &c->buckets[hash_64(offset, c->bits)];
}

/* Under RCU, cache->lock or engine_lock. */
static __always_inline struct dmv_block *find(struct dmv_cache *c, u64 offset)
{
	struct dmv_block *b;

	hlist_for_each_entry_rcu(b, bucket_of(c, offset), hash,
				 lockdep_is_held(&c->lock) || lockdep_is_held(c->owner))
		if (b->block.offset == offset)
			return b;
	return NULL;
}

static const u8 *peek(struct vdisk_meta *meta, u64 offset)
{
	struct dmv_block *b = find(container_of(meta, struct dmv_cache, meta), offset);

	if (!b)
		return NULL;
	/* Reading first keeps the line shared among the processors. */
	if (!READ_ONCE(b->referenced))
		WRITE_ONCE(b->referenced, true);
	return b->block.data;
}

bool dmv_cache_has(struct dmv_cache *c, u64 offset)
{
	return find(c, offset);
}

static void *alloc_block(gfp_t gfp, void *pool_data)
{
	struct dmv_cache *c = pool_data;
	struct dmv_block *b = kmalloc(sizeof(*b), gfp);

	if (!b)
		return NULL;
	/* The size is a power of two, and so the memory is aligned to it: good for any device. */
	b->block.data = kmalloc(c->meta.block, gfp);
	if (!b->block.data) {
		kfree(b);
		return NULL;
	}
	b->cache = c;
	return b;
}

static void free_block(void *element, void *pool_data)
{
	struct dmv_block *b = element;

	kfree(b->block.data);
	kfree(b);
}

static void forget_block(struct rcu_head *rcu)
{
	struct dmv_block *b = container_of(rcu, struct dmv_block, rcu);

	mempool_free(b, &b->cache->pool);
}

static void take_out(struct dmv_cache *c, struct dmv_block *b)
{
	list_del(&b->clock);
	hlist_del_rcu(&b->hash);
	WRITE_ONCE(c->count, c->count - 1);
	call_rcu(&b->rcu, forget_block);
}

/* Take out up to n blocks; those that were looked at too, if `all`. How many went. */
static u32 evict(struct dmv_cache *c, u32 n, bool all)
{
	struct dmv_block *b;
	u32 gone = 0, steps;

	lockdep_assert_held(&c->lock);
	/* Twice around: the first may only have taken the second chances away. */
	for (steps = 2 * c->count; steps && gone < n && !list_empty(&c->clock); steps--) {
		b = list_first_entry(&c->clock, struct dmv_block, clock);
		if (b->pins || (READ_ONCE(b->referenced) && !all)) {
			WRITE_ONCE(b->referenced, false);
			list_move_tail(&b->clock, &c->clock);
			continue;
		}
		take_out(c, b);
		gone++;
	}
	return gone;
}

/*
 * Memory for a block. If there is none at once, blocks of the reserve are in the cache: taking some
 * out brings them back after a grace period, and mempool_alloc() waits for that.
 */
static struct dmv_block *get_block(struct dmv_cache *c, bool must)
{
	struct dmv_block *b;

	spin_lock(&c->lock);
	if (c->count >= c->limit)
		evict(c, c->count - c->limit + 1, false);
	spin_unlock(&c->lock);
	b = mempool_alloc(&c->pool, GFP_NOWAIT | __GFP_NOWARN);
	if (b || !must)
		return b;
	spin_lock(&c->lock);
	evict(c, DMV_RESERVE / 4, false);
	spin_unlock(&c->lock);
	return mempool_alloc(&c->pool, GFP_NOIO);
}

static void pin(struct dmv_cache *c, struct dmv_block *b, struct vdisk_block **pinned)
{
	lockdep_assert_held(&c->lock);
	b->pins++;
	*pinned = &b->block;
}

void dmv_cache_add(struct dmv_cache *c, u64 offset, const u8 *data, bool must,
		   struct vdisk_block **pinned)
{
	struct dmv_block *b, *there;

	if (!must && dmv_cache_has(c, offset))
		return;
	b = get_block(c, must);
	if (!b)
		return;
	b->block = (struct vdisk_block){ .offset = offset, .data = b->block.data };
	b->pins = 0;
	b->referenced = must; /* what is read ahead has to earn it */
	memcpy(b->block.data, data, c->meta.block);
	spin_lock(&c->lock);
	there = find(c, offset);
	if (!there) {
		hlist_add_head_rcu(&b->hash, bucket_of(c, offset));
		list_add_tail(&b->clock, &c->clock);
		WRITE_ONCE(c->count, c->count + 1);
	}
	if (pinned)
		pin(c, there ?: b, pinned);
	spin_unlock(&c->lock);
	if (there)
		mempool_free(b, &c->pool);
}

bool dmv_cache_pin(struct dmv_cache *c, u64 offset, struct vdisk_block **block)
{
	struct dmv_block *b;

	spin_lock(&c->lock);
	b = find(c, offset);
	if (b)
		pin(c, b, block);
	spin_unlock(&c->lock);
	return b;
}

void dmv_cache_unpin(struct dmv_cache *c, struct vdisk_block *block)
{
	struct dmv_block *b = container_of(block, struct dmv_block, block);

	spin_lock(&c->lock);
	b->pins--;
	spin_unlock(&c->lock);
}

void dmv_cache_forget(struct dmv_cache *c, u64 offset, u64 length)
{
	u64 end = offset + length;
	struct dmv_block *b;

	for (offset = round_down_to(offset, c->meta.block); offset < end; offset += c->meta.block) {
		spin_lock(&c->lock);
		b = find(c, offset);
		if (b && !WARN_ON_ONCE(b->pins))
			take_out(c, b);
		spin_unlock(&c->lock);
	}
}

/* In portions: a large cache takes a while, and a spinlock is held. What is pinned stays. */
static void evict_all(struct dmv_cache *c)
{
	u32 gone;

	do {
		spin_lock(&c->lock);
		gone = evict(c, EVICT_AT_ONCE, true);
		spin_unlock(&c->lock);
		cond_resched();
	} while (gone == EVICT_AT_ONCE);
}

void dmv_cache_drop(struct dmv_cache *c)
{
	lockdep_assert_held(c->owner);
	evict_all(c);
}

u64 dmv_cache_kib(const struct dmv_cache *c)
{
	return DIV_ROUND_UP((u64)READ_ONCE(c->count) * c->cost, 1024);
}

static unsigned long count_objects(struct shrinker *s, struct shrink_control *sc)
{
	struct dmv_cache *c = compat_shrinker_owner(s);

	return READ_ONCE(c->count);
}

/*
 * Not while the engine runs: it looks at blocks without RCU. The lock is only tried, because who
 * reclaims memory may be the worker itself.
 */
static unsigned long scan_objects(struct shrinker *s, struct shrink_control *sc)
{
	struct dmv_cache *c = compat_shrinker_owner(s);
	unsigned long gone;

	if (!mutex_trylock(c->owner))
		return SHRINK_STOP;
	spin_lock(&c->lock);
	gone = evict(c, min_t(unsigned long, sc->nr_to_scan, U32_MAX), false);
	spin_unlock(&c->lock);
	mutex_unlock(c->owner);
	return gone;
}

static u32 buckets_bits(u32 blocks)
{
	return max(ilog2(roundup_pow_of_two(blocks)), 4);
}

int dmv_cache_init(struct dmv_cache *c, struct mutex *owner, u32 block, u32 kib)
{
	int ret;

	c->meta.block = block;
	c->meta.peek = peek;
	c->owner = owner;
	c->cost = roundup_pow_of_two(sizeof(struct dmv_block)) + block + sizeof(struct hlist_head);
	c->limit = max_t(u64, ((u64)kib << 10) / c->cost, DMV_RESERVE);
	c->bits = buckets_bits(c->limit);
	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->clock);
	c->buckets = kvcalloc(1UL << c->bits, sizeof(*c->buckets), GFP_KERNEL);
	if (!c->buckets)
		return -ENOMEM;
	ret = mempool_init(&c->pool, DMV_RESERVE, alloc_block, free_block, c);
	if (ret)
		goto free_buckets;
	ret = -ENOMEM;
	c->shrinker = compat_shrinker_new(count_objects, scan_objects, c);
	if (!c->shrinker)
		goto exit_pool;
	return 0;

exit_pool:
	mempool_exit(&c->pool);
free_buckets:
	kvfree(c->buckets);
	c->buckets = NULL;
	return ret;
}

void dmv_cache_exit(struct dmv_cache *c)
{
	struct dmv_block *b;

	if (!c->buckets)
		return;
	compat_shrinker_free(c->shrinker);
	/* What a failed commit left pinned goes too. */
	spin_lock(&c->lock);
	list_for_each_entry(b, &c->clock, clock)
		b->pins = 0;
	spin_unlock(&c->lock);
	evict_all(c);
	rcu_barrier();
	mempool_exit(&c->pool);
	kvfree(c->buckets);
}
