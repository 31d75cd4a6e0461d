// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From a path to an MFT record. Every look-up keeps the sequence number of the reference that the
 * directory holds, so that a record that was freed and used again is not taken for the file
 * (ntfs_pathname_to_inode() would).
 */
#include <ctype.h>
#include <errno.h>

#include "msg.h"
#include "ntfs-file.h"
#include "ntfs-lib.h"
#include "ntfs.h"

#define PATH_DEPTH 256

struct walk {
	struct volume *vol;
	const char *separators;
	ntfs_inode *at; /* owned */
	char *found;	/* path so far */
	bool extend;
	char *missing; /* the component that was not found */
	int code;      /* of a failure that ends the search, already reported */
};

static u64 lookup(ntfs_inode *dir, const char *name)
{
	ntfschar *uname = NULL; /* ntfs_mbstoucs() writes into what is not NULL */
	int len = ntfs_mbstoucs(name, &uname);
	u64 ref;

	if (len <= 0) {
		free(uname);
		errno = ENOENT;
		return (u64)-1;
	}
	ref = ntfs_inode_lookup_by_name(dir, uname, len);
	free(uname);
	return ref;
}

static int walk_fail(struct walk *w, int code)
{
	w->code = code;
	return code;
}

static bool is_directory(const ntfs_inode *ni)
{
	return ni->mrec->flags & MFT_RECORD_IS_DIRECTORY;
}

/* One component down. NOT_FOUND is no failure yet: another spelling may be tried. */
static int step(struct walk *w, const char *name)
{
	ntfs_inode *next;
	u64 ref;

	if (!strcmp(name, ".."))
		return walk_fail(w,
				 fail(USAGE, "%s: '..' in a path on an NTFS volume is not followed",
				      w->vol->device));
	if (w->at->flags & FILE_ATTR_REPARSE_POINT)
		return walk_fail(w, fail(REFUSED,
					 "%s:%s is a reparse point (a junction, link or cloud "
					 "folder), which is not followed: name the real path",
					 w->vol->device, w->found));
	if (!is_directory(w->at))
		return NOT_FOUND;
	ref = lookup(w->at, name);
	if (ref == (u64)-1)
		return NOT_FOUND;
	next = ntfs_inode_open(w->vol->lib->vol, ref);
	if (!next)
		return walk_fail(w,
				 fail(DAMAGED,
				      "%s:%s/%s: the directory entry points to MFT record %llu "
				      "sequence %u, which is not that file (%s): let Windows run "
				      "chkdsk",
				      w->vol->device, w->found, name, (unsigned long long)MREF(ref),
				      MSEQNO(ref), strerror(errno)));
	ntfs_inode_close(w->at);
	w->at = next;
	w->extend |= MREF(ref) == FILE_Extend;
	return DONE;
}

static void append_found(struct walk *w, const char *name)
{
	char *longer = text("%s/%s", w->found, name);

	free(w->found);
	w->found = longer;
}

static int walk_components(struct walk *w, char *path)
{
	char *save = NULL;
	char *name = strtok_r(path, w->separators, &save);
	int depth = 0;

	for (; name; name = strtok_r(NULL, w->separators, &save)) {
		int code;

		if (!strcmp(name, "."))
			continue;
		code = ++depth > PATH_DEPTH ? NOT_FOUND : step(w, name);
		if (code) {
			free(w->missing);
			w->missing = text("%s/%s", w->found, name);
			return code;
		}
		append_found(w, name);
	}
	return DONE;
}

static void walk_reset(struct walk *w)
{
	if (w->at)
		ntfs_inode_close(w->at);
	w->at = NULL;
	free(w->found);
	w->found = NULL;
	w->extend = false;
}

/* Walk path from the root with these separators. On DONE w->at is the inode. */
static int walk_path(struct walk *w, const char *path, const char *separators)
{
	char *copy = text_copy(path);
	int code;

	walk_reset(w);
	w->separators = separators;
	w->found = text_copy("");
	w->at = ntfs_inode_open(w->vol->lib->vol, FILE_root);
	if (!w->at)
		code = walk_fail(w, fail(DAMAGED, "%s: cannot open the root directory: %s",
					 w->vol->device, strerror(errno)));
	else
		code = walk_components(w, copy);
	free(copy);
	return code;
}

/* The stream that a last component `name:stream` names, NULL without one. Cuts path short. */
static char *split_stream(char *path, const char *separators)
{
	char *last = path, *colon, *stream;
	size_t len;

	for (char *p = path; *p; p++)
		if (strchr(separators, *p))
			last = p + 1;
	colon = strchr(last, ':');
	if (!colon)
		return NULL;
	*colon = '\0';
	stream = text_copy(colon + 1);
	len = strlen(stream);
	if (len >= 6 && !strcasecmp(stream + len - 6, ":$DATA"))
		stream[len - 6] = '\0';
	return stream;
}

/* Literally first: a name may contain a colon when Linux or WSL made it. */
static int try_spelling(struct walk *w, const char *path, const char *separators, char **stream)
{
	char *cut;
	int code = walk_path(w, path, separators);

	if (code != NOT_FOUND || w->code)
		return code;
	cut = text_copy(path);
	*stream = split_stream(cut, separators);
	if (*stream)
		code = walk_path(w, cut, separators);
	free(cut);
	if (code) {
		free(*stream);
		*stream = NULL;
	}
	return code;
}

static bool set_case(ntfs_volume *vol, bool ignore)
{
	if (!ignore)
		NVolSetCaseSensitive(vol);
	else if (vol->locase) /* from the last time */
		NVolClearCaseSensitive(vol);
	else
		return !ntfs_set_ignore_case(vol);
	return true;
}

static int try_all_spellings(struct walk *w, const char *path, char **stream)
{
	static const char *const separators[] = { "/", "/\\" };

	for (int ignore_case = 0; ignore_case < 2; ignore_case++) {
		if (!set_case(w->vol->lib->vol, ignore_case))
			break;
		for (size_t i = 0; i < ARRAY_SIZE(separators); i++) {
			int code = try_spelling(w, path, separators[i], stream);

			if (code != NOT_FOUND || w->code)
				return code;
		}
	}
	return NOT_FOUND;
}

int volume_find(struct volume *vol, const char *path, struct ntfs_file **file)
{
	struct walk w = { .vol = vol };
	char *stream = NULL;
	int code = try_all_spellings(&w, path, &stream);

	if (code && !w.code)
		code = fail(NOT_FOUND, "%s: there is no %s on this volume", vol->device,
			    w.missing ? w.missing : path);
	if (!code) {
		code = ntfs_file_load(vol, w.at, w.found[0] ? w.found : "/", stream, w.extend,
				      file);
		w.at = NULL;
	}
	walk_reset(&w);
	free(w.missing);
	free(stream);
	return code;
}

/* The name of an inode, Win32 names before DOS names, and its parent's record. */
static char *name_of(ntfs_inode *ni, u64 *parent)
{
	ntfs_attr_search_ctx *ctx = ntfs_attr_get_search_ctx(ni, NULL);
	char *name = NULL;

	while (ctx &&
	       !ntfs_attr_lookup(AT_FILE_NAME, AT_UNNAMED, 0, CASE_SENSITIVE, 0, NULL, 0, ctx)) {
		FILE_NAME_ATTR *fn =
			(FILE_NAME_ATTR *)((u8 *)ctx->attr + le16_to_cpu(ctx->attr->value_offset));
		ntfschar uname[255];
		char *mbs = NULL;

		if (fn->file_name_type == FILE_NAME_DOS && name)
			continue;
		memcpy(uname, &fn->file_name, fn->file_name_length * sizeof(*uname));
		if (ntfs_ucstombs(uname, fn->file_name_length, &mbs, 0) < 0)
			break;
		free(name);
		name = mbs;
		*parent = MREF_LE(fn->parent_directory);
		if (fn->file_name_type != FILE_NAME_DOS)
			break;
	}
	if (ctx)
		ntfs_attr_put_search_ctx(ctx);
	return name;
}

/* The path of an open inode, by its first name. PATH_DEPTH ends loops in a damaged volume. */
static char *path_of(struct volume *vol, ntfs_inode *ni, bool *extend)
{
	char *path = text_copy("");
	u64 record = ni->mft_no;

	for (int depth = 0; depth < PATH_DEPTH && record != FILE_root; depth++) {
		ntfs_inode *at = depth ? ntfs_inode_open(vol->lib->vol, record) : ni;
		char *name = at ? name_of(at, &record) : NULL;
		char *longer;

		if (at && at != ni)
			ntfs_inode_close(at);
		longer = text("/%s%s", name ? name : "?", path);
		free(path);
		path = longer;
		*extend |= record == FILE_Extend;
		if (!name)
			break;
		free(name);
	}
	return path;
}

/* libntfs-3g takes a sequence number of 0, which a damaged volume may have, for any. */
static int check_record(struct volume *vol, uint64_t record, uint16_t sequence, ntfs_inode *ni)
{
	if (!ni && vol->io_error)
		return fail(SYSTEM, "%s: cannot read MFT record %llu: %s (see dmesg)", vol->device,
			    (unsigned long long)record, strerror(vol->io_error));
	if (!ni)
		return fail(DAMAGED,
			    "%s: MFT record %llu with sequence %u is gone: the file was deleted or "
			    "replaced since it was opened",
			    vol->device, (unsigned long long)record, sequence);
	if (le16_to_cpu(ni->mrec->sequence_number) != sequence || ni->mrec->base_mft_record)
		return fail(DAMAGED,
			    "%s: MFT record %llu has sequence %u and belongs to something else "
			    "now: the file that was opened had sequence %u",
			    vol->device, (unsigned long long)record,
			    le16_to_cpu(ni->mrec->sequence_number), sequence);
	return DONE;
}

int volume_find_record(struct volume *vol, uint64_t record, uint16_t sequence, uint32_t stream_hash,
		       struct ntfs_file **file)
{
	ntfs_inode *ni = ntfs_inode_open(vol->lib->vol, MK_MREF(record, sequence));
	bool extend = false;
	char *path, *stream;
	int code = check_record(vol, record, sequence, ni);

	if (code) {
		if (ni)
			ntfs_inode_close(ni);
		return code;
	}
	stream = stream_hash ? ntfs_stream_by_hash(ni, stream_hash) : NULL;
	if (stream_hash && !stream) {
		ntfs_inode_close(ni);
		return fail(DAMAGED, "%s: MFT record %llu has lost the stream that was opened",
			    vol->device, (unsigned long long)record);
	}
	path = path_of(vol, ni, &extend);
	code = ntfs_file_load(vol, ni, path, stream, extend, file);
	free(path);
	free(stream);
	return code;
}
