// SPDX-License-Identifier: GPL-2.0-or-later
/* cmdline: how the kernel is told to have a named volume before its root. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapping.h"
#include "tab.h"
#include "verb.h"

static char *source_on(const struct volume *vol, const struct ntfs_file *file)
{
	return text("UUID=%016" PRIX64 ":%s%s%s", vol->serial, file->path, *file->stream ? ":" : "",
		    file->stream);
}

/* NULL for what is not on an NTFS volume, or not here. */
static char *find_source(const char *source)
{
	struct image img;
	char *found;

	if (image_open(source, &img))
		return NULL;
	found = img.file ? source_on(img.vol, img.file) : NULL;
	image_close(&img);
	return found;
}

/* A name like /dev/sda3 is for one boot, and there is no mount before root is there. */
static char *lasting_source(const char *source)
{
	char *lasting = NULL;

	if (*source == '/') {
		msg_hush(true);
		lasting = find_source(source);
		msg_hush(false);
		if (!lasting)
			note("%s is not here, or on no NTFS volume: it is named as it is", source);
	}
	return lasting ? lasting : text_copy(source);
}

static int print(const struct tab_entry *e, char *(*source)(const char *))
{
	char *line = tab_cmdline(e, source);
	int code =
		tab_has_control(line)
			? fail(REFUSED,
			       "%s: there is a control character in it, which the kernel command "
			       "line cannot have: rename the file",
			       e->name)
			: DONE;

	if (!code)
		puts(line);
	free(line);
	return code ? code : finish_stdout();
}

/* Is there a device of its first partition? */
static bool has_partitions(const struct dm_device *d)
{
	char *uuid = text("-%s", d->uuid);
	struct dm_devices all;
	bool has = false;

	if (!dm_read_all(&all))
		for (size_t i = 0; i < all.n && !has; i++) {
			const char *dash = strchr(all.v[i].uuid, '-');

			has = !strncmp(all.v[i].uuid, "part", 4) && dash && !strcmp(dash, uuid);
		}
	dm_devices_free(&all);
	free(uuid);
	return has;
}

/* The UUID tells the format, not whether it was given. The entry needs it where the contents look
 * like another one, as those of a VHD that is open as raw do. */
static bool is_given(const struct mapping *m, struct image *img)
{
	bool given;

	msg_hush(true);
	given = image_probe(img, NULL, NULL) || strcmp(vdisk_info(img->vd)->format, m->format);
	msg_hush(false);
	return given;
}

static int refuse_overlay(const struct dm_device *d, const struct mapping *m)
{
	if (dm_is_overlay(d))
		return fail(REFUSED,
			    "%s has an overlay, and does not tell what was said about that: write "
			    "an entry with overlay= into %s",
			    d->name, TAB_FILE);
	if (m->origin || m->cow)
		return fail(REFUSED,
			    "%s belongs to an overlay, and is opened with that: write an entry "
			    "with overlay= into %s",
			    d->name, TAB_FILE);
	return DONE;
}

/* As much of an entry as an open device tells. */
static int print_mapping(const struct dm_device *d, const struct mapping *m)
{
	struct tab_entry e = {
		.name = d->name,
		.readonly = d->readonly && !m->snapshot,
		.snapshot = m->snapshot,
		.timeout = -1,
	};
	char format[sizeof(m->format)];
	struct image img;
	int code = refuse_overlay(d, m);

	if (code)
		return code;
	if (m->kind != MAPPING_NTFS || m->base || m->data)
		return fail(REFUSED, "%s is no image on an NTFS volume", d->name);
	memcpy(format, m->format, sizeof(format));
	code = mapping_refuse_frozen(m);
	if (!code)
		code = mapping_open_image(m, &img);
	if (code)
		return code;
	if (is_given(m, &img))
		e.format = format;
	e.source = source_on(img.vol, img.file);
	e.partitions = has_partitions(d);
	code = print(&e, NULL);
	free(e.source);
	image_close(&img);
	return code;
}

int verb_cmdline(int argc, char **argv, const struct options *opt)
{
	const struct tab_entry *e;
	struct dm_device d;
	struct mapping m;
	struct tab tab;
	int code = tab_read(opt->tab ? opt->tab : TAB_FILE, !opt->tab, &tab);

	(void)argc;
	e = tab_find(&tab, argv[0]);
	if (!code && e) {
		code = print(e, lasting_source);
	} else if (!code) {
		code = mapping_read(argv[0], &d, &m);
		if (!code) {
			code = print_mapping(&d, &m);
			mapping_free(&m);
			dm_device_free(&d);
		}
	}
	tab_free(&tab);
	return code;
}
