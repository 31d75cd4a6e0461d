// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who still uses a place that the tables told of before they were changed? Formats that give places
 * up ask before others may take them.
 *
 * A per-CPU counter is as cheap as it gets on the hot path, and may be put in any context; it can
 * be waited for only when nobody joins any more. So there are two, and a QUIESCE swaps them. Who
 * waits for room holds none: he may be waiting for the QUIESCE.
 */
#include "dm-vdisk.h"

/* The last one has left the old group. Any context. */
static void nobody_left(struct percpu_ref *ref)
{
	struct dmv *d = container_of(ref, struct dmv_group, ref)->d;
	unsigned long flags;

	spin_lock_irqsave(&d->events.lock, flags);
	d->events.unused = true;
	dmv_kick(d);
	spin_unlock_irqrestore(&d->events.lock, flags);
}

static struct percpu_ref *other_group(struct dmv_users *users)
{
	return &users->groups[users->now == &users->groups[0].ref].ref;
}

void dmv_quiesce(struct dmv *d, struct vdisk_action *a)
{
	struct dmv_users *users = &d->users;
	struct percpu_ref *old = users->now;

	users->action = a;
	/* Who joins the new group from now on sees the tables as they are now. */
	smp_store_release(&users->now, other_group(users));
	percpu_ref_kill(old);
}

struct vdisk_action *dmv_quiesced(struct dmv *d)
{
	percpu_ref_reinit(other_group(&d->users));
	return d->users.action;
}

/* On failure: dmv_users_exit(), which frees what there is. */
int dmv_users_init(struct dmv *d)
{
	struct dmv_users *users = &d->users;
	int i, ret = 0;

	for (i = 0; i < 2 && !ret; i++) {
		users->groups[i].d = d;
		ret = percpu_ref_init(&users->groups[i].ref, nobody_left, PERCPU_REF_ALLOW_REINIT,
				      GFP_KERNEL);
	}
	users->now = &users->groups[0].ref;
	return ret;
}

/* Zero-initialised ones are no harm. */
void dmv_users_exit(struct dmv *d)
{
	percpu_ref_exit(&d->users.groups[0].ref);
	percpu_ref_exit(&d->users.groups[1].ref);
}
