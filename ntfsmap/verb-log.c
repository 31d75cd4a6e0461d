// SPDX-License-Identifier: GPL-2.0-or-later
/* log: the records of $LogFile, one after the other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pending.h"
#include "verb.h"

#define SHOWN_LCNS 4

struct listing {
	const struct image *img;
	struct volume_places volume;
	struct file_places file; /* empty: none was named */
	bool json;
	uint64_t n, touching, first, last;
};

/* NULL: there is none, or nobody knows its name. */
static const char *name_of(const struct log_record *r, unsigned int code)
{
	return r->type == LOG_RECORD_CLIENT ? log_operation_name(code) : NULL;
}

static char *operation(const struct log_record *r, unsigned int code)
{
	const char *name = name_of(r, code);

	if (r->type != LOG_RECORD_CLIENT)
		return text_copy("-");
	return name ? text_copy(name) : text("operation %u", code);
}

static bool is_range(const struct log_record *r)
{
	for (size_t i = 1; i < r->n_lcns; i++)
		if (log_record_lcn(r, i) != log_record_lcn(r, i - 1) + 1)
			return false;
	return r->n_lcns > 1;
}

static char *lcns(const struct log_record *r)
{
	unsigned long long first = log_record_lcn(r, 0);
	char *all = text("%llu", first);

	if (is_range(r)) {
		free(all);
		return text("%llu-%llu", first, first + r->n_lcns - 1);
	}
	for (size_t i = 1; i < r->n_lcns && i < SHOWN_LCNS; i++) {
		char *longer = text("%s,%llu", all, (unsigned long long)log_record_lcn(r, i));

		free(all);
		all = longer;
	}
	if (r->n_lcns > SHOWN_LCNS) {
		char *longer = text("%s,...", all);

		free(all);
		all = longer;
	}
	return all;
}

static char *target(const struct listing *l, const struct log_record *r)
{
	char *list, *all;
	uint64_t record;

	if (!r->n_lcns)
		return text_copy("-");
	list = lcns(r);
	if (pending_mft_record(&l->volume, r, &record))
		all = text("LCN %s +%u, record %llu", list, r->cluster_index,
			   (unsigned long long)record);
	else
		all = text("LCN %s +%u", list, r->cluster_index);
	free(list);
	return all;
}

static void print_record(const struct listing *l, const struct log_record *r, const struct touch *t)
{
	char *redo = operation(r, r->redo), *undo = operation(r, r->undo);
	char *where = target(l, r), *touch = pending_touch_text(t);

	printf("0x%-12llx 0x%-6x %-28s %-28s ", (unsigned long long)r->lsn, r->transaction, redo,
	       undo);
	printf(*touch ? "%-28s %s\n" : "%s%s\n", where, touch);
	free(redo);
	free(undo);
	free(where);
	free(touch);
}

static json_t *hex(uint64_t n)
{
	char *s = text("0x%llx", (unsigned long long)n);
	json_t *j = json_must(json_string(s));

	free(s);
	return j;
}

static json_t *touches_json(const struct touch *t)
{
	json_t *list = json_must(json_array());

	for (unsigned int bit = TOUCHES_RECORD; bit <= TOUCHES_CLUSTERS; bit <<= 1) {
		struct touch one = { t->what & bit, t->record, t->record_lsn };
		char *s = pending_touch_text(&one);

		if (*s)
			json_array_append_new(list, json_must(json_string(s)));
		free(s);
	}
	return list;
}

static json_t *record_json(const struct listing *l, const struct log_record *r,
			   const struct touch *t)
{
	json_t *list = json_must(json_array()), *number = json_null();
	uint64_t record;

	for (size_t i = 0; i < r->n_lcns; i++)
		json_array_append_new(list,
				      json_must(json_integer((json_int_t)log_record_lcn(r, i))));
	if (pending_mft_record(&l->volume, r, &record))
		number = json_must(json_integer((json_int_t)record));
	return json_must(json_pack(
		"{s:o, s:I, s:s, s:i, s:s?, s:i, s:s?, s:o, s:i, s:I, s:o, s:o}", "lsn",
		hex(r->lsn), "transaction", (json_int_t)r->transaction, "type",
		r->type == LOG_RECORD_CLIENT ? "client" : "restart", "redo", r->redo, "redo_name",
		name_of(r, r->redo), "undo", r->undo, "undo_name", name_of(r, r->undo), "lcns",
		list, "cluster_index", r->cluster_index, "target_vcn", (json_int_t)r->target_vcn,
		"mft_record", number, "touches", touches_json(t)));
}

/* One at a time: there may be a million. */
static void print_record_json(const struct listing *l, const struct log_record *r,
			      const struct touch *t)
{
	json_t *j = record_json(l, r, t);

	fputs(!l->n ? "\n    " : ",\n    ", stdout);
	if (json_put(j, JSON_COMPACT))
		exit(fail(SYSTEM, "cannot print JSON"));
	json_decref(j);
}

static int list_record(void *ctx, const struct log_record *r)
{
	struct listing *l = ctx;
	struct touch t = { 0 };

	if (r->type == LOG_RECORD_CLIENT)
		t = pending_touch(&l->volume, &l->file, r);
	if (l->json)
		print_record_json(l, r, &t);
	else
		print_record(l, r, &t);
	if (!l->n++)
		l->first = r->lsn;
	l->last = r->lsn;
	l->touching += t.what != 0;
	return 0;
}

static void print_end(const struct listing *l)
{
	printf("%llu record%s", (unsigned long long)l->n, l->n == 1 ? "" : "s");
	if (l->n)
		printf(", LSN 0x%llx to 0x%llx", (unsigned long long)l->first,
		       (unsigned long long)l->last);
	if (l->img->file)
		printf(" of which %llu touch%s %s", (unsigned long long)l->touching,
		       l->touching == 1 ? "es" : "", shown(l->img->name));
	putchar('\n');
}

static void print_end_json(const struct listing *l, const struct log *log, bool whole,
			   const char *problem)
{
	char *version = log->kind == LOG_VALID ? text("%d.%d", log->major, log->minor) : NULL;
	json_t *j = json_must(json_pack("{s:o, s:s?, s:b, s:o, s:o, s:b, s:s?}", "source",
					json_text(l->img->name), "version", version, "clean",
					log->clean, "oldest_lsn", hex(log->oldest_lsn),
					"current_lsn", hex(log->current_lsn), "whole", whole,
					"problem", whole ? NULL : problem));

	printf("%s],", l->n ? "\n  " : "");
	if (json_put(j, JSON_EMBED | JSON_INDENT(2)))
		exit(fail(SYSTEM, "cannot print JSON"));
	puts("}");
	json_decref(j);
	free(version);
}

static int list_log(struct log *log, struct listing *l)
{
	bool whole;
	int ret;

	if (l->json)
		fputs("{\n  \"records\": [", stdout);
	ret = log_walk(log, list_record, l, &whole);
	if (l->json)
		print_end_json(l, log, whole && !ret, ret ? strerror(-ret) : log->problem);
	else if (!ret)
		print_end(l);
	if (ret)
		return fail_errno(-ret, "%s: cannot read $LogFile", l->img->name);
	if (finish_stdout())
		return SYSTEM;
	return whole ? DONE
		     : fail(DAMAGED, "%s: $LogFile cannot be followed: %s", l->img->name,
			    log->problem);
}

static int open_and_list(struct listing *l)
{
	struct log log = { .kind = LOG_INVALID };
	struct log_io io;
	int code, ret = volume_log_io(l->img->vol, &io);

	if (!ret)
		ret = log_open(&io, &log);
	code = ret ? fail_errno(-ret, "%s: cannot read $LogFile", l->img->name) : list_log(&log, l);
	log_close(&log);
	volume_log_done(&io);
	return code;
}

/* Where all is that records name. */
static int find_places(struct image *img, struct listing *l)
{
	int ret;

	if (!img->vol)
		return fail(REFUSED, "%s: it is not on an NTFS volume, and so has no log",
			    img->name);
	ret = volume_places(img->vol, &l->volume);
	if (!ret && img->file)
		ret = ntfs_file_places(img->file, &l->file);
	return ret ? fail_errno(-ret, "%s: what describes it cannot be read", img->name) : DONE;
}

int verb_log(int argc, char **argv, const struct options *opt)
{
	struct listing l = { .json = opt->json };
	struct image img;
	int code = open_file_or_volume(argv[0], NULL, &img);

	(void)argc;
	if (code)
		return code;
	l.img = &img;
	code = find_places(&img, &l);
	if (!code)
		code = open_and_list(&l);
	file_places_free(&l.file);
	volume_places_free(&l.volume);
	image_close(&img);
	return code;
}
