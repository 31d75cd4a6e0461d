// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The rules. Which facts there are, and why each forbids what, is told in ntfsmap(8) "SAFETY"; the
 * NTFS side of it is in ntfs.h.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blk.h"
#include "chain.h"
#include "facts.h"
#include "holder.h"
#include "layout.h"
#include "sleep.h"

/* FILE_ATTR_* of [MS-FSCC] 2.6. */
#define FILE_READONLY		   0x1
#define FILE_OFFLINE		   0x1000
#define FILE_RECALL_ON_OPEN	   0x40000
#define FILE_RECALL_ON_DATA_ACCESS 0x400000
#define FIRST_USER_RECORD	   24
#define TAG_CLOUD		   0x9000001a /* with any value in bits 12 to 15 */
#define TAG_CLOUD_MASK		   0xffff0fff

const char *const safety_words[] = { WORD_HIBERFILE,  WORD_CLOUD,	WORD_OFFLINE, WORD_READONLY,
				     WORD_VALID_DATA, WORD_PENDING_LOG, NULL };

struct fact *fact_add(struct facts *facts, const char *name, enum exit_code code, const char *fmt,
		      ...)
{
	struct fact *f;
	va_list ap;

	facts->v = must_regrow(facts->v, facts->n + 1, sizeof(*facts->v));
	f = &facts->v[facts->n++];
	*f = (struct fact){ .name = name, .code = code };
	va_start(ap, fmt);
	if (vasprintf(&f->text, fmt, ap) < 0)
		f->text = NULL;
	va_end(ap);
	if (f->text)
		defuse(f->text);
	return f;
}

void liftable(struct fact *f, const char *word, const struct request *req)
{
	f->allow = word;
	for (size_t i = 0; i < req->n_allowed; i++)
		if (!strcmp(req->allowed[i], word))
			f->lifted = true;
	if (f->lifted) {
		f->code = DONE;
		f->warn = true;
	}
}

static void look_at_size(const struct volume *vol, struct facts *facts)
{
	ok(facts, "volume", "NTFS %u.%u%s%s%s, serial number %016llX, %llu clusters of %u bytes",
	   vol->major, vol->minor, *vol->label ? " \"" : "", vol->label, *vol->label ? "\"" : "",
	   (unsigned long long)vol->serial, (unsigned long long)vol->clusters, vol->cluster_size);
	if (vol->clusters > vol->device_bytes / vol->cluster_size)
		fact_add(facts, "size", DAMAGED,
			 "%s has only %llu bytes, less than the volume's clusters: the end is "
			 "missing",
			 vol->device, (unsigned long long)vol->device_bytes);
	else
		ok(facts, "size", "the whole volume is on the device");
}

static void look_at_sleep(struct volume *vol, const struct request *req, struct facts *facts)
{
	struct sleep_state s;

	volume_sleep_state(vol, &s);
	if (s.hiberfile == HIBER_RESUMING || s.hiberfile == HIBER_UNKNOWN)
		liftable(objection(facts, "hiberfile", "%s (it begins with \"%s\")",
				   hiberfile_text(s.hiberfile), s.magic),
			 WORD_HIBERFILE, req);
	else if (s.hiberfile == HIBER_UNREADABLE)
		fact_add(facts, "hiberfile", DAMAGED, "%s", hiberfile_text(s.hiberfile));
	else if (s.hiberfile == HIBER_HIBERNATED)
		caution(facts, "hiberfile", "%s", hiberfile_text(s.hiberfile));
	else
		ok(facts, "hiberfile", "%s", hiberfile_text(s.hiberfile));

	if (s.logfile == LOG_CLEAN)
		ok(facts, "logfile", "%s (version %d.%d)", logfile_text(s.logfile), s.log_major,
		   s.log_minor);
	else if (s.logfile == LOG_IN_USE || s.logfile == LOG_UNCLEAN)
		caution(facts, "logfile", "%s (version %d.%d)", logfile_text(s.logfile),
			s.log_major, s.log_minor);
	else
		caution(facts, "logfile", "%s", logfile_text(s.logfile));

	if (vol->dirty)
		caution(facts, "dirty", "Windows has marked the volume for a check (chkdsk)");
	else
		ok(facts, "dirty", "the volume is not marked for a check");
}

static void look_at_mounts(const struct image *img, struct facts *facts)
{
	const struct users *u = &img->users;

	if (u->mounted == MOUNT_WRITABLE)
		objection(facts, "mounted",
			  "Linux has it mounted read-write on %s: unmount it first",
			  u->mount_point);
	else if (u->mounted == MOUNT_READONLY)
		ok(facts, "mounted", "Linux has it mounted read-only on %s", u->mount_point);
	else if (u->held && !u->writer) /* a mapping of the whole disk explains it better */
		fact_add(facts, "mounted", BUSY,
			 "another program holds %s exclusively (a mount in another namespace?): "
			 "end it "
			 "first",
			 img->where.path);
	else
		ok(facts, "mounted", "Linux has not mounted it");
}

static void look_at_overlap(const struct image *img, const struct request *req, struct facts *facts)
{
	const struct users *u = &img->users;

	if (u->writer && req->base)
		fact_add(facts, "overlap", BUSY,
			 "%s maps it read-write, and a parent must not change: close that first",
			 u->writer);
	else if (u->writer && !req->readonly)
		objection(facts, "overlap",
			  "%s already maps some of its clusters read-write: close that first",
			  u->writer);
	else if (u->base && !req->readonly)
		objection(facts, "overlap",
			  "it is the parent of an open image (%s), or its data file, which "
			  "writing would destroy: close that first",
			  u->reader);
	else if (u->perhaps && !req->readonly)
		objection(facts, "overlap",
			  "a device-mapper device uses %s, and only root can see whether it maps "
			  "these "
			  "clusters: run this as root",
			  img->where.path);
	else if (!u->tables_read)
		caution(facts, "overlap",
			"the live device-mapper tables were not looked at: only root can");
	else if (u->writer || (u->reader && !u->base && !req->base))
		caution(facts, "overlap",
			"%s maps some of its clusters too, and sees other contents "
			"as they are cached",
			u->writer ? u->writer : u->reader);
	else if (u->reader)
		ok(facts, "overlap", "%s maps it too, read-only", u->reader);
	else
		ok(facts, "overlap", "no other device maps its clusters");
}

/* The kernel may let device-mapper write to a device that it calls read-only. */
static void look_at_device(const struct image *img, const struct request *req, struct facts *facts)
{
	if (!img->where.is_block || req->readonly)
		return;
	if (blk_is_part(img->where.rdev))
		objection(facts, "device",
			  "%s belongs to an open image: close that, and name the file itself",
			  img->where.path);
	else if (blk_is_readonly(img->where.rdev))
		objection(facts, "device", "%s is read-only (blockdev --getro): --readonly works",
			  img->where.path);
}

static int look_at_users(struct image *img, const struct request *req, struct facts *facts)
{
	bool good = !img->file || img->file->runs == RUNS_GOOD;
	char *self = image_id(img);
	int code;

	users_free(&img->users);
	code = users_find(&img->where, good && image_extents(img)->n ? image_extents(img) : NULL,
			  self, req->except, &img->users);
	free(self);
	if (code)
		return code;
	look_at_device(img, req, facts);
	look_at_mounts(img, facts);
	look_at_overlap(img, req, facts);
	return DONE;
}

/* Programs that keep to locks would not notice that we write to the file below them. */
static void look_at_holders(const struct image *img, const struct request *req, struct facts *facts)
{
	char *holder;

	if (img->src.kind != SOURCE_FILE || req->readonly || req->as_static)
		return;
	holder = holder_lock(img->fd, req->except_loop);
	if (holder || !req->hold)
		holder_unlock(img->fd);
	if (holder)
		fact_add(facts, "in-use", BUSY, "%s has the file: end that first", holder);
	else
		ok(facts, "in-use",
		   "no other program has locked it, and no loop device is over it");
	free(holder);
}

static void look_at_kind(const struct ntfs_file *f, struct facts *facts)
{
	if (f->directory)
		objection(facts, "kind", "it is a directory");
	else if (f->record < FIRST_USER_RECORD || f->extend)
		objection(facts, "kind", "it is a system file of NTFS (MFT record %llu)",
			  (unsigned long long)f->record);
	else if (f->memory)
		objection(facts, "kind", "it holds the memory of the sleeping Windows");
	else
		ok(facts, "kind", "an ordinary file, MFT record %llu sequence %u, %u name%s",
		   (unsigned long long)f->record, f->sequence, f->links, f->links == 1 ? "" : "s");
}

struct tag {
	uint32_t tag;
	const char *what;
};

/* [MS-FSCC] 2.1.2.1 */
static const struct tag tags[] = {
	{ 0x80000017, "compressed by the Windows Overlay Filter (compact /exe): in Windows, "
		      "`compact /u /exe` on the file" },
	{ 0x80000013,
	  "deduplicated: in Windows, copy the file or `Start-DedupJob -Type Unoptimization`" },
	{ 0xa000000c, "a symbolic link: name the file it points to" },
	{ 0xa0000003, "a junction: name the folder it points to" },
};

static void look_at_reparse(const struct ntfs_file *f, const struct request *req,
			    struct facts *facts)
{
	const char *what = "a reparse point, whose contents are kept by a filter driver";

	if (!f->reparse_tag)
		return;
	if ((f->reparse_tag & TAG_CLOUD_MASK) == TAG_CLOUD) {
		liftable(objection(facts, "reparse",
				   "it is synchronised with a cloud (tag 0x%08x): the client would "
				   "upload, or free, what changes behind its back",
				   f->reparse_tag),
			 WORD_CLOUD, req);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(tags); i++)
		if (tags[i].tag == f->reparse_tag)
			what = tags[i].what;
	objection(facts, "reparse", "it is %s (tag 0x%08x)", what, f->reparse_tag);
}

static void look_at_attributes(const struct ntfs_file *f, const struct request *req,
			       struct facts *facts)
{
	if (f->file_flags & (FILE_OFFLINE | FILE_RECALL_ON_OPEN | FILE_RECALL_ON_DATA_ACCESS))
		liftable(objection(
				 facts, "offline",
				 "its attributes (0x%x) say that its contents are stored elsewhere",
				 f->file_flags),
			 WORD_OFFLINE, req);
	if (f->file_flags & FILE_READONLY && !req->readonly)
		liftable(objection(facts, "readonly",
				   "it is marked read-only in Windows, as the "
				   "parents of other images should be"),
			 WORD_READONLY, req);
}

/* How the data are stored. false when there are no runs to look at. */
static bool look_at_storage(const struct ntfs_file *f, const struct request *req,
			    struct facts *facts)
{
	if (f->resident) {
		objection(facts, "resident",
			  f->data_size
				  ? "its %llu bytes are inside the MFT record: it has no clusters"
				  : "it is empty (%llu bytes)",
			  (unsigned long long)f->data_size);
		return false;
	}
	if (!f->data_size)
		objection(facts, "resident", "it is empty");
	if (f->attr_flags & ATTR_COMPRESSED)
		objection(facts, "compressed",
			  "it is compressed by NTFS: in Windows, `compact /u` on "
			  "the file");
	if (f->attr_flags & ATTR_ENCRYPTED)
		objection(facts, "encrypted",
			  "it is encrypted by EFS: in Windows, `cipher /d` on the "
			  "file");
	if (f->attr_flags & (ATTR_COMPRESSED | ATTR_ENCRYPTED))
		return true;
	if ((f->attr_flags & ATTR_SPARSE || f->holes) && !req->readonly)
		objection(facts, "sparse",
			  "it is sparse (%llu bytes have no clusters): in Windows, copy "
			  "it to a new file; --readonly works",
			  (unsigned long long)f->holes * 512);
	return true;
}

static void look_at_valid_data(const struct ntfs_file *f, const struct request *req,
			       struct facts *facts)
{
	uint64_t valid = f->initialized_size;

	if (valid >= f->data_size) {
		ok(facts, "valid-data", "all of its bytes are valid");
		return;
	}
	if (req->readonly && valid % VDISK_SECTOR == 0) {
		caution(facts, "valid-data",
			"only the first %llu bytes are valid, the rest reads as zeros",
			(unsigned long long)valid);
		return;
	}
	if (req->readonly) {
		objection(facts, "valid-data",
			  "only the first %llu bytes are valid, which end inside a sector, and a "
			  "table "
			  "has no place for that boundary (ntfsmap cat reads it right)",
			  (unsigned long long)valid);
		return;
	}
	liftable(
		objection(facts, "valid-data",
			  "only the first %llu of %llu bytes are valid: Windows reads zeros behind "
			  "them and would wipe what is written there. In Windows, write the file "
			  "once, or `fsutil file setvaliddata`%s",
			  (unsigned long long)valid, (unsigned long long)f->data_size,
			  valid % VDISK_SECTOR ? "" : "; --readonly works"),
		WORD_VALID_DATA, req);
}

static void look_at_clusters(const struct ntfs_file *f, struct facts *facts)
{
	uint64_t n = 0, first = 0;

	if (volume_bitmap_check(f->vol, &f->extents, &n, &first))
		fact_add(facts, "bitmap", DAMAGED, "the volume's $Bitmap cannot be read");
	else if (n)
		objection(facts, "bitmap",
			  "%llu of its clusters are free according to $Bitmap, the first is LCN "
			  "%llu: "
			  "let Windows run chkdsk",
			  (unsigned long long)n, (unsigned long long)first);
	else
		ok(facts, "bitmap", "$Bitmap marks all of its clusters as used");

	if (volume_badclus_check(f->vol, &f->extents, &n))
		fact_add(facts, "bad-clusters", DAMAGED, "the volume's $BadClus cannot be read");
	else if (n)
		objection(facts, "bad-clusters",
			  "%llu of its clusters are in the list of bad clusters",
			  (unsigned long long)n);
	else
		ok(facts, "bad-clusters", "none of its clusters is listed as bad");
}

void safety_look_file(struct ntfs_file *f, const struct request *req, struct facts *facts)
{
	look_at_kind(f, facts);
	if (f->directory)
		return;
	look_at_reparse(f, req, facts);
	look_at_attributes(f, req, facts);
	if (!look_at_storage(f, req, facts))
		return;
	if (f->runs == RUNS_DAMAGED) {
		fact_add(facts, "runs", DAMAGED, "%s: let Windows run chkdsk", f->runs_problem);
		return;
	}
	look_at_valid_data(f, req, facts);
	ok(facts, "runs", "%llu bytes in %zu run%s, all inside the volume",
	   (unsigned long long)f->data_size, f->extents.n, f->extents.n == 1 ? "" : "s");
	look_at_clusters(f, facts);
	look_at_log(f, req, facts);
	look_at_owners(f, req, facts);
}

int safety_look(struct image *img, const struct request *req, struct facts *facts)
{
	int code;

	*facts = (struct facts){ 0 };
	if (img->vol)
		look_at_size(img->vol, facts);
	code = look_at_users(img, req, facts);
	if (code)
		return code;
	if (img->vol)
		look_at_sleep(img->vol, req, facts);
	if (img->file)
		safety_look_file(img->file, req, facts);
	else if (!img->vol)
		ok(facts, "kind", img->where.is_block ? "a block device" : "a regular file");
	look_at_holders(img, req, facts);
	return DONE;
}

struct request safety_of_parent(const struct request *req)
{
	struct request parent = *req;

	parent.readonly = parent.base = true;
	parent.except = parent.format = parent.parent = parent.data = parent.snapshot = NULL;
	return parent;
}

struct request safety_of_data(const struct request *req)
{
	struct request data = *req;

	data.except = data.format = data.parent = data.data = data.snapshot = NULL;
	data.except_loop = 0;
	return data;
}

static void look_at_table(struct image *img, const struct request *req, struct facts *facts)
{
	int code;

	msg_hush(true);
	code = layout_plan(img, req->readonly, false);
	msg_hush(false);
	if (code)
		fact_add(facts, "table", (enum exit_code)code, "%s", failure_text());
	else
		ok(facts, "table", "%zu %s, whole blocks of %u bytes", img->plan.lines.n,
		   img->plan.format	    ? "pieces in a line of the target vdisk"
		   : img->plan.lines.n == 1 ? "line"
					    : "lines",
		   img->logical_block);
}

#define FAULT_TEXT 512

/* The first of each kind. */
struct damage {
	char error[FAULT_TEXT], leak[FAULT_TEXT];
};

static void take_fault(void *ctx, const struct vdisk_fault *f)
{
	struct damage *d = ctx;
	char *first = f->kind == VDISK_FAULT_LEAK ? d->leak : d->error;

	if (!*first)
		vdisk_fault_text(f, first, FAULT_TEXT);
}

static bool is_qcow2(const struct image *img)
{
	return !strcmp(vdisk_info(img->vd)->format, "qcow2");
}

static void look_at_entries(struct image *img, const struct request *req, struct facts *facts)
{
	const char *repair = is_qcow2(img) ? "; `ntfsmap check --repair` mends what it can" : "";
	struct vdisk_found *found = &facts->found;
	struct damage d = { 0 };
	int ret = vdisk_check(img->vd, take_fault, &d, found);
	unsigned long long n = found->errors;

	if (ret)
		fact_add(facts, "entries", exit_code_of(-ret), "the tables cannot be read: %s",
			 strerror(-ret));
	else if (!n)
		ok(facts, "entries", "all of its tables' entries point to places of their own");
	else if (req->readonly)
		caution(facts, "entries", "%llu entries are wrong, the first: %s%s", n, d.error,
			repair);
	else
		fact_add(facts, "entries", DAMAGED,
			 "%llu entries are wrong, the first: %s; --readonly reads the rest%s", n,
			 d.error, repair);
	if (found->leaks)
		caution(facts, "leaks",
			"%llu clusters of the file are lost for use, the first: %s; `ntfsmap check "
			"--repair=leaks` gives them back",
			(unsigned long long)found->leaks, d.leak);
}

static void look_at_room(struct image *img, struct facts *facts)
{
	struct vdisk_usage u;

	if (vdisk_info(img->vd)->needs_data) /* the disk is elsewhere */
		return;
	if (!vdisk_usage(img->vd, &u))
		ok(facts, "room", "%s have a place in the file, and there is room for %s more",
		   human_size(u.allocated), human_size(u.room));
}

static void look_at_footer(const struct vdisk_info *info, struct facts *facts)
{
	if (info->footer_lost)
		caution(facts, "footer",
			"the footer at its end is lost, so nothing can be added: `ntfsmap "
			"reserve` writes it again");
	else if (info->copy_lost)
		caution(facts, "footer",
			"the copy of the footer at its start is damaged: some other programs "
			"will not open it");
	else if (info->copy_differs)
		caution(facts, "footer",
			"the footer at its end and the copy at its start do not say the same");
	else
		ok(facts, "footer", "the footer at its end and the copy at its start are good");
}

/* What the header of a qcow2 says about the image as a whole. */
static void look_at_marks(const struct image *img, const struct request *req, struct facts *facts)
{
	const struct vdisk_info *info = vdisk_info(img->vd);
	const char *what = info->corrupt ? "its header says that it is damaged"
					 : "its header says that its refcounts may be wrong, as it "
					   "was not closed";

	if ((info->corrupt || info->dirty) && req->readonly)
		caution(facts, "marks", "%s", what);
	else if (info->corrupt || info->dirty)
		fact_add(facts, "marks", DAMAGED,
			 "%s: `ntfsmap check --repair %s` looks and mends it; --readonly reads it",
			 what, img->name);
	else
		ok(facts, "marks",
		   "its header says neither that it is damaged nor that it was not "
		   "closed");
	if (info->bitmaps && !req->readonly)
		caution(facts, "bitmaps",
			"%u bitmap%s of backup programs will be invalid after the first write, as "
			"nobody keeps them up to date here",
			info->bitmaps, info->bitmaps == 1 ? "" : "s");
}

void safety_look_tables(struct image *img, const struct request *req, struct facts *facts)
{
	const struct vdisk_info *info = vdisk_info(img->vd);

	if (!info->block_size)
		return;
	if (!strcmp(info->format, "vhd"))
		look_at_footer(info, facts);
	if (is_qcow2(img))
		look_at_marks(img, req, facts);
	look_at_entries(img, req, facts);
	look_at_room(img, facts);
}

static void look_at_parent(struct image *child, const struct request *req, struct facts *facts)
{
	struct request as_parent = safety_of_parent(req);
	struct image *img = child->parent;
	struct facts own;
	int code;

	if (child->stale)
		caution(facts, "parent",
			"%s was changed after %s was made: what they show together may be damaged",
			img->name, child->name);
	else
		ok(facts, "parent", "%s", img->name);
	msg_hush(true);
	code = safety_look(img, &as_parent, &own);
	if (!code)
		code = safety_enforce(img, &own);
	if (!code)
		code = layout_plan(img, true, false);
	msg_hush(false);
	if (code)
		fact_add(facts, "parent", (enum exit_code)code, "%s", failure_text());
	facts_free(&own);
}

/* It gets a device of its own, which may be written if the image may. */
static void look_at_data(struct image *data, const struct request *req, struct facts *facts)
{
	struct request as_data = safety_of_data(req);
	struct facts own;
	int code;

	msg_hush(true);
	code = safety_look(data, &as_data, &own);
	if (!code)
		code = safety_enforce(data, &own);
	if (!code)
		code = layout_plan(data, as_data.readonly, false);
	msg_hush(false);
	if (code)
		fact_add(facts, "data-file", (enum exit_code)code, "%s", failure_text());
	else
		ok(facts, "data-file", "%s", data->name);
	facts_free(&own);
}

static void look_at_chain(struct image *img, const struct request *req, struct facts *facts)
{
	struct chain_sources given = { req->parent, req->data, req->readonly };
	struct request as_parent = safety_of_parent(req);
	int code;

	msg_hush(true);
	code = chain_open(img, &given);
	if (!code && chain_check_places(img))
		fact_add(facts, "overlap", DAMAGED, "%s", failure_text());
	msg_hush(false);
	if (code)
		fact_add(facts,
			 img->data || !vdisk_info(img->vd)->needs_data ? "parent" : "data-file",
			 (enum exit_code)code, "%s", failure_text());
	if (!code && img->data)
		look_at_data(img->data, req, facts);
	for (; !code && img->parent; img = img->parent) {
		look_at_parent(img, req, facts);
		if (img->parent->data)
			look_at_data(img->parent->data, &as_parent, facts);
	}
}

void safety_look_image(struct image *img, const struct request *req, struct facts *facts)
{
	const struct vdisk_info *info;
	int code;

	msg_hush(true); /* the fact says it */
	code = image_probe(img, req->format, req->snapshot);
	msg_hush(false);
	if (code) {
		fact_add(facts, "image", (enum exit_code)code, "%s", failure_text());
		return;
	}
	info = vdisk_info(img->vd);
	ok(facts, "image", "%s%s%s, a disk of %llu bytes (%s)", info->format,
	   info->subformat ? " " : "", info->subformat ? info->subformat : "",
	   (unsigned long long)info->virtual_size, human_size(info->virtual_size));
	if (info->tail)
		caution(facts, "tail",
			"the last %llu bytes do not fill a sector and are not part of the disk",
			(unsigned long long)info->tail);
	safety_look_tables(img, req, facts);
	look_at_chain(img, req, facts);
	look_at_table(img, req, facts);
	if (info->saved_state)
		caution(facts, "saved-state",
			"it belongs to a virtual machine in a saved state, which "
			"will not expect changes");
}

enum exit_code safety_verdict(const struct facts *facts)
{
	for (size_t i = 0; i < facts->n; i++)
		if (facts->v[i].code)
			return facts->v[i].code;
	return DONE;
}

int safety_enforce(const struct image *img, const struct facts *facts)
{
	for (size_t i = 0; i < facts->n; i++) {
		const struct fact *f = &facts->v[i];

		if (f->code)
			return fail(f->code, "%s: %s%s%s", img->name, f->text,
				    f->allow ? "; at your own risk: --allow=" : "",
				    f->allow ? f->allow : "");
	}
	for (size_t i = 0; i < facts->n; i++)
		if (facts->v[i].warn)
			note("%s: %s", img->name, facts->v[i].text);
	return DONE;
}

const char *fact_word(const struct fact *fact)
{
	switch (fact->code) {
	case DONE:
		return fact->warn ? "warn" : "ok";
	case REFUSED:
		return "refuse";
	case DAMAGED:
		return "damaged";
	case BUSY:
		return "busy";
	default:
		return "failed";
	}
}

void facts_free(struct facts *facts)
{
	for (size_t i = 0; i < facts->n; i++)
		free(facts->v[i].text);
	free(facts->v);
	*facts = (struct facts){ 0 };
}
