// SPDX-License-Identifier: GPL-2.0-or-later
/* One image, and the machines that run with it. */
#include "crash.h"

struct run run;
const char *broken = "", *dump_folder;
u64 cuts, discards_taken, at_once_taken;

static void land_all(void)
{
	while (vdisk_engine_search(&run.engine) || run.n_flights)
		if (run.n_flights)
			land();
	look_at_discards();
}

/* What the engine knows of the room in the file is what a new search finds; but for places whose
 * writes failed. */
static void check_room(void)
{
	const struct vdisk_space *known = &run.engine.space;
	struct vdisk_space found = { 0 };
	struct vdisk_map need;
	int ret;

	if (!known->known || run.failing)
		return;
	while ((ret = run.vd->format->scan(run.vd, &found, &need)) == -EAGAIN)
		fetch_block(&need);
	if (ret || known->next != found.next || known->allocated != found.allocated ||
	    known->free != found.free)
		fail("room: next %llu, allocated %llu, free %llu; there is %llu, %llu, %llu (%d)",
		     (unsigned long long)known->next, (unsigned long long)known->allocated,
		     (unsigned long long)known->free, (unsigned long long)found.next,
		     (unsigned long long)found.allocated, (unsigned long long)found.free, ret);
}

/* A clean end: all is durable, and what was given up has been given back. */
static void settle(void)
{
	land_all();
	submit_flush();
	land_all();
	if (run.engine.mode == VDISK_MODE_FAIL)
		return;
	if (vdisk_engine_dirty(&run.engine))
		fail("still dirty after a flush");
	for (int i = 0; vdisk_engine_unsettled(&run.engine); i++) {
		if (i == 10)
			fail("unsettled after ten commits");
		vdisk_engine_commit(&run.engine);
		land_all();
		if (run.engine.mode == VDISK_MODE_FAIL)
			return;
	}
	if (run.n_ops)
		fail("%d requests never end", run.n_ops);
	check_room();
	run.settled = true;
}

static void step(void)
{
	u64 what = random_below(100);

	if (run.n_flights && (run.n_ops > 32 || what < 60))
		land();
	else if (what < 88)
		submit_write();
	else if (what < 92)
		submit_flush();
	else if (what < 93)
		vdisk_engine_commit(&run.engine);
	else if (what < 95)
		vdisk_engine_search(&run.engine);
	else if (what < 98)
		read_some();
	else
		cut_power();
	look_at_discards();
}

/* The machine runs, the power fails, the machine runs again with what is left. */
static void generations(struct made *made)
{
	u8 *images[2] = { malloc(made->file_size), made->data ? malloc(made->data_size) : NULL };

	for (int i = 0; i < 3; i++) {
		run.settled = false;
		run.family->begin();
		host_init();
		model_init(&run.model, made->stamps, made->sectors);
		for (u64 k = random_steps(600); k && !random_ended(); k--)
			step();
		if (i == 2)
			settle();
		last_cut(i != 2, images, made->stamps);
		land_all();
		submit_flush(); /* so that nothing waits for ever */
		land_all();
		host_exit();
		model_exit(&run.model);
		memcpy(made->file, images[0], made->file_size);
		if (made->data)
			memcpy(made->data, images[1], made->data_size);
	}
	free(images[0]);
	free(images[1]);
}

void one_round(const struct family *family, u64 number)
{
	memset(&run, 0, sizeof(run));
	run.family = family;
	run.failing = number % 5 == 4;
	random_hold(true);
	family->make(number);
	random_hold(false);
	generations(&run.made);
	image_free(&run.made);
}
