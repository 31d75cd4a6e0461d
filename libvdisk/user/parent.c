// SPDX-License-Identifier: GPL-2.0-or-later
/* The parent of a differencing image: its names, and whether a file is it. */
#include <stdio.h>

#include "host.h"

/* "Parent Locator Entries": Platform Code */
#define CODE_W2RU  0x57327275 /* relative path, UTF-16 little endian */
#define CODE_W2KU  0x57326b75 /* absolute path, the same */
#define PATH_UNITS 1024

static bool put_char(char *path, size_t size, size_t *n, u32 c)
{
	char utf8[4];
	size_t len;

	if (c < 0x80) {
		utf8[0] = (char)c;
		len = 1;
	} else if (c < 0x800) {
		utf8[0] = (char)(0xc0 | c >> 6);
		utf8[1] = (char)(0x80 | (c & 0x3f));
		len = 2;
	} else if (c < 0x10000) {
		utf8[0] = (char)(0xe0 | c >> 12);
		utf8[1] = (char)(0x80 | (c >> 6 & 0x3f));
		utf8[2] = (char)(0x80 | (c & 0x3f));
		len = 3;
	} else {
		utf8[0] = (char)(0xf0 | c >> 18);
		utf8[1] = (char)(0x80 | (c >> 12 & 0x3f));
		utf8[2] = (char)(0x80 | (c >> 6 & 0x3f));
		utf8[3] = (char)(0x80 | (c & 0x3f));
		len = 4;
	}
	if (len >= size - *n)
		return false;
	memcpy(path + *n, utf8, len);
	*n += len;
	return true;
}

/* false: not what Windows can have meant, half a surrogate pair or a control character. */
static bool decode(const u8 *raw, size_t units, char *path, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < units; i++) {
		u32 c = raw[2 * i] | (u32)raw[2 * i + 1] << 8;

		if (c >= 0xd800 && c < 0xdc00 && i + 1 < units) {
			u32 low = raw[2 * i + 2] | (u32)raw[2 * i + 3] << 8;

			if (low < 0xdc00 || low > 0xdfff)
				return false;
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			i++;
		} else if (c < ' ' || c == 0x7f || (c >= 0xd800 && c < 0xe000)) {
			return false;
		}
		if (!put_char(path, size, &n, c == '\\' ? '/' : c))
			return false;
	}
	path[n] = '\0';
	return n > 0;
}

bool vdisk_strip_drive(char *path)
{
	bool letter = (path[0] >= 'A' && path[0] <= 'Z') || (path[0] >= 'a' && path[0] <= 'z');

	if (letter && path[1] == ':')
		memmove(path, path + 2, strlen(path + 2) + 1);
	return path[0] == '/' && path[1] != '/';
}

static int read_locator(struct host *h, unsigned int slot, struct vdisk_locator *out)
{
	const struct vhd *v = &h->vd->vhd;
	u32 length = v->locators[slot].length;
	u8 raw[2 * PATH_UNITS];
	int ret;

	if (length > sizeof(raw))
		return -EINVAL;
	ret = vdisk_read(&h->vd->io, v->locators[slot].offset, raw, length);
	if (ret)
		return ret;
	while (length >= 2 && !raw[length - 1] && !raw[length - 2])
		length -= 2; /* some count a terminating zero */
	if (length % 2 || !decode(raw, length / 2, out->path, sizeof(out->path)))
		return -EINVAL;
	out->absolute = v->locators[slot].code == CODE_W2KU;
	if (out->absolute)
		return vdisk_strip_drive(out->path) ? 0 : -EINVAL;
	return out->path[0] == '/' ? -EINVAL : 0;
}

static int vhd_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator)
{
	static const u32 order[] = { CODE_W2RU, CODE_W2KU };
	int ret;

	locator->format = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		for (unsigned int slot = 0; slot < VHD_LOCATORS; slot++) {
			if (vd->vhd.locators[slot].code != order[i])
				continue;
			ret = read_locator(host_of(vd), slot, locator);
			if (ret && ret != -EINVAL)
				return ret;
			if (!ret && !n--)
				return 0;
		}
	}
	return -ENOENT;
}

int vdisk_next_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator, bool *posix,
		       struct vdisk_error *err)
{
	int ret;

	*posix = false;
	if (!vd->info.needs_parent)
		return -ENOENT;
	if (vd->format == &vdisk_vhd)
		return vhd_locator(vd, n, locator);
	ret = vdisk_other_file(vd, VDISK_BACKING_FILE, n, locator, posix, err);
	return ret ? ret : vdisk_backing_format(vd, &locator->format, err);
}

int vdisk_parent_locator(struct vdisk *vd, unsigned int n, struct vdisk_locator *locator)
{
	bool posix;

	return vdisk_next_locator(vd, n, locator, &posix, NULL);
}

/* How many images hang together from vd down. */
static unsigned int chain_length(const struct vdisk *vd)
{
	unsigned int n = 0;

	for (; vd; vd = host_of(vd)->parent)
		n++;
	return n;
}

static bool is_named_by(const struct vdisk *vd, const struct vdisk *parent)
{
	return parent->info.has_uuid &&
	       !memcmp(parent->info.uuid, vd->info.parent_uuid, sizeof(vd->info.parent_uuid));
}

int vdisk_set_parent(struct vdisk *vd, struct vdisk *parent, struct vdisk_error *err)
{
	struct host *h = host_of(vd);

	if (!vd->info.needs_parent)
		return -EINVAL;
	for (struct vdisk *p = parent; p; p = host_of(p)->parent)
		if (p == vd)
			return -ELOOP;
	if (h->parent || chain_length(parent) >= VDISK_CHAIN_MAX)
		return -ELOOP;
	if (vd->format == &vdisk_vhd && !is_named_by(vd, parent))
		return vdisk_fail(
			err, -EUCLEAN,
			(struct vdisk_error){
				.field = "header.parent_unique_id",
				.problem = "is not the unique id of the parent that was found",
				.advice = "name the right one: --parent",
				.found = get_be64(parent->info.uuid),
				.expected = get_be64(vd->info.parent_uuid),
				.show = VDISK_SHOW_HEX });
	h->parent = parent;
	return 0;
}

struct vdisk *vdisk_parent(const struct vdisk *vd)
{
	return host_of(vd)->parent;
}
