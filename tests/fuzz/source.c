// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any words as SOURCE, --format and --allow. The machine's devices and mounts are made up here, so
 * that nothing but the words decides: what is looked for is what the words say, to the last byte.
 */
#include "../../ntfsmap/blk.h"
#include "../../ntfsmap/mounts.h"
#include "../../ntfsmap/msg.h"
#include "../../ntfsmap/ntfs.h"
#include "../../ntfsmap/safety.h"
#include "../../ntfsmap/source.h"
#include "../../ntfsmap/tab.h"
#include "fuzz.h"

#define NODE "/dev/made-up"

static char *tag, *value; /* that were looked for */
static struct mount mount = { .dev = 1,
			      .root = (char *)"/folder",
			      .point = (char *)"/proc",
			      .type = (char *)"ntfs3",
			      .source = (char *)NODE };

const char *const safety_words[] = { "hiberfile", "cloud", NULL };

/* ---- the machine ---- */

int blk_find(const char *t, const char *v, char **device)
{
	tag = text_copy(t);
	value = text_copy(v);
	*device = *v ? text_copy(NODE) : NULL;
	return *v ? DONE : NOT_FOUND;
}

bool blk_dev_of(const char *path, dev_t *dev)
{
	*dev = 7;
	return strlen(path) % 2;
}

bool blk_is_view(dev_t dev)
{
	return dev == 7;
}

dev_t blk_only_slave(dev_t dev)
{
	return dev + 1;
}

char *blk_node(dev_t dev)
{
	return dev ? text_copy(NODE) : NULL;
}

bool blk_is_ntfs(const char *path)
{
	return !strcmp(path, NODE);
}

void blk_each_ntfs(void (*fn)(const char *device, void *ctx), void *ctx)
{
	fn(NODE, ctx);
}

void mounts_read(struct mounts *m)
{
	*m = (struct mounts){ &mount, 1 };
}

void mounts_free(struct mounts *m)
{
	*m = (struct mounts){ 0 };
}

const struct mount *mounts_of_path(const struct mounts *m, const char *path, dev_t dev)
{
	(void)dev;
	return strncmp(path, "/proc", 5) ? NULL : m->v;
}

int volume_open(const char *device, struct volume **vol)
{
	(void)device;
	*vol = must_alloc(sizeof(**vol));
	return DONE;
}

void volume_close(struct volume *vol)
{
	free(vol);
}

int volume_find(struct volume *vol, const char *path, struct ntfs_file **file)
{
	if (strlen(path) < 8)
		return NOT_FOUND;
	*file = must_alloc(sizeof(**file));
	(*file)->vol = vol;
	(*file)->path = text_copy(path);
	return DONE;
}

void ntfs_file_close(struct ntfs_file *file)
{
	if (file)
		free(file->path);
	free(file);
}

/* ---- what must come of it ---- */

/* TAG=VALUE or TAG=VALUE:PATH is the whole of it, and tab_volume() says the same. */
static void look_at_tag(const char *spec, const struct source *src)
{
	char *looked_for = text("%s=%s", tag, value);
	char *all = src->path ? text("%s:%s", looked_for, src->path) : text_copy(looked_for);
	char *volume = tab_volume(spec);

	expect(!src->device || !strcmp(all, spec), "%s is looked for", all);
	expect(!strcmp(volume, looked_for), "%s is looked for, and waited for is %s", looked_for,
	       volume);
	free(all);
	free(volume);
	free(looked_for);
}

static void look_at_source(const char *spec)
{
	struct source src;
	int code;

	tag = value = NULL;
	code = source_resolve(spec, &src);
	expect(code == DONE || code == NOT_FOUND || code == REFUSED || code == SYSTEM, "code %d",
	       code);
	if (!code) {
		expect(src.device && *src.device, "no device");
		expect((src.kind == SOURCE_NTFS) == (src.path != NULL), "kind %d", src.kind);
		expect(!src.path || *src.path == '/' || *src.path == '\\', "the path %s", src.path);
		if (src.path && !tag) /* what stands behind a colon, or below the mount */
			expect(strlen(src.path) <= strlen(spec) + strlen(mount.root) + 4096,
			       "the path %s", src.path);
	}
	if (tag)
		look_at_tag(spec, &src);
	source_looks_like(spec);
	source_free(&src);
	free(tag);
	free(value);
}

static void look_at_words(const char *word)
{
	struct request req = { 0 };

	if (!request_format(&req, "--format=", word))
		expect(req.format && (!strcmp(req.format, word) || !strcmp(word, "vpc")),
		       "format %s", word);
	if (!request_allow(&req, "--allow=", word))
		expect(req.n_allowed == 1 && !strcmp(req.allowed[0], word), "allow %s", word);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *spec = must(size + 1);

	memcpy(spec, data, size);
	msg_hush(true);
	look_at_source(spec);
	look_at_words(spec);
	msg_hush(false);
	free(spec);
	return 0;
}
