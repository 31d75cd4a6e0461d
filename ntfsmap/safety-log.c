// SPDX-License-Identifier: GPL-2.0-or-later
/* The fact "pending-log": may Windows still change the file by itself? */
#include <errno.h>
#include <string.h>

#include "facts.h"
#include "pending.h"

#define FULL_SHUTDOWN "start Windows and shut it down fully, or move the file to another volume"

static int look_at_record(void *ctx, const struct log_record *r)
{
	pending_look(ctx, r);
	return 0;
}

/* Refused, unless nothing will be written. */
static void hazard(struct facts *facts, const struct request *req, char *what)
{
	if (req->readonly)
		caution(facts, "pending-log", "%s", what);
	else
		liftable(objection(facts, "pending-log", "%s: %s", what, FULL_SHUTDOWN),
			 WORD_PENDING_LOG, req);
	free(what);
}

static char *operation(unsigned int code)
{
	const char *name = log_operation_name(code);

	return name ? text_copy(name) : text("operation %u", code);
}

static char *hazard_text(const struct pending *p)
{
	char *redo = operation(p->redo), *undo = operation(p->undo);
	char *touch = pending_touch_text(&p->touch);
	char *all = text("$LogFile has %llu record%s that a cold boot of Windows would apply to "
			 "the file, the first at LSN 0x%llx: %s, to be undone by %s, on %s",
			 (unsigned long long)p->touching, p->touching == 1 ? "" : "s",
			 (unsigned long long)p->lsn, redo, undo, touch);

	free(redo);
	free(undo);
	free(touch);
	return all;
}

static void judge(const struct log *log, const struct pending *p, bool whole,
		  const struct request *req, struct facts *facts)
{
	if (p->touching)
		hazard(facts, req, hazard_text(p));
	else if (p->unknown_lsn)
		hazard(facts, req,
		       text("$LogFile has an operation %u at LSN 0x%llx that is not known, so "
			    "what a cold boot of Windows would do is not either",
			    p->unknown, (unsigned long long)p->unknown_lsn));
	else if (!whole)
		hazard(facts, req,
		       text("$LogFile cannot be followed to its end, LSN 0x%llx: %s",
			    (unsigned long long)log->current_lsn, log->problem));
	else
		ok(facts, "pending-log",
		   "$LogFile has %llu records, none of which touches the file",
		   (unsigned long long)p->records);
}

/* The records from the oldest on. -errno, or 0 with an answer. */
static int walk(struct log *log, struct ntfs_file *f, const struct request *req,
		struct facts *facts)
{
	struct volume_places volume;
	struct file_places file;
	struct pending p = { .volume = &volume, .file = &file };
	int ret_volume = volume_places(f->vol, &volume);
	int ret = ntfs_file_places(f, &file);
	bool whole = false;

	if (!ret)
		ret = ret_volume;
	if (!ret)
		ret = log_walk(log, look_at_record, &p, &whole);
	pending_end(&p);
	if (!ret)
		judge(log, &p, whole, req, facts);
	file_places_free(&file);
	volume_places_free(&volume);
	return ret;
}

void look_at_log(struct ntfs_file *f, const struct request *req, struct facts *facts)
{
	struct log_io io;
	struct log log = { .kind = LOG_INVALID };
	int ret;

	if (req->base) /* nobody writes to it */
		return;
	ret = volume_log_io(f->vol, &io);
	if (!ret)
		ret = log_open(&io, &log);
	if (!ret && log.kind == LOG_EMPTY)
		ok(facts, "pending-log", "$LogFile is empty: nothing would be applied");
	else if (!ret && log.kind == LOG_VALID && log.clean)
		ok(facts, "pending-log",
		   "the volume was dismounted cleanly: nothing would be applied");
	else if (!ret && log.kind == LOG_INVALID)
		hazard(facts, req, text("$LogFile cannot be followed: %s", log.problem));
	else if (!ret)
		ret = walk(&log, f, req, facts);
	if (ret)
		fact_add(facts, "pending-log", exit_code_of(-ret),
			 "$LogFile, or what describes the file, cannot be read: %s%s",
			 strerror(-ret), ret == -EUCLEAN ? ": let Windows run chkdsk" : "");
	log_close(&log);
	volume_log_done(&io);
}
