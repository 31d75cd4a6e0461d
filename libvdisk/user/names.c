// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The other files that a qcow or qcow2 names: its backing file (qcow2.txt, "Header":
 * backing_file_offset, backing_file_size) and its external data file ("Header extensions":
 * External data file name).
 */
#include "host.h"

struct name {
	const char *field;
	u64 offset;
	u32 length;
};

static struct name name_of(const struct vdisk *vd, enum vdisk_other other)
{
	const struct qcow *q = &vd->qcow;

	if (other == VDISK_DATA_FILE)
		return (struct name){ "header.data_file_name", q->data_name_offset,
				      q->data_name_length };
	return (struct name){ "header.backing_file_name", q->backing_offset, q->backing_length };
}

void vdisk_quote(const char *text, size_t length, struct vdisk_error *what)
{
	for (size_t i = 0; i < length && i < sizeof(what->detail) - 1; i++)
		what->detail[i] = text[i] >= ' ' && text[i] < 0x7f ? text[i] : '?';
}

static int bad_name(struct vdisk_error *err, int code, const struct name *name, const char *text,
		    size_t length, const char *problem)
{
	struct vdisk_error what = { .field = name->field,
				    .problem = problem,
				    .advice = "say which file it is",
				    .offset = name->offset };

	vdisk_quote(text, length, &what);
	return vdisk_fail(err, code, what);
}

/* No name of a file has control characters that somebody would want to see on a terminal. */
static bool is_plain(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return length > 0;
}

static int read_name(struct vdisk *vd, const struct name *name, char *path, size_t size,
		     struct vdisk_error *err)
{
	size_t length = name->length;
	int ret;

	if (!length)
		return bad_name(err, -ENOENT, name, "", 0, "is not in the image");
	if (length >= size)
		return bad_name(err, -ENOENT, name, "", 0, "is too long");
	ret = vdisk_read(&vd->io, name->offset, path, length);
	if (ret)
		return ret;
	while (length && !path[length - 1])
		length--; /* some count a terminating zero */
	path[length] = '\0';
	if (!is_plain(path, length))
		return bad_name(err, -ENOENT, name, path, length, "is no name of a file");
	return 0;
}

/* "nbd:…", "json:…", "http://…": a colon comes before the first slash. */
static bool has_protocol(const char *path)
{
	return path[strcspn(path, ":/")] == ':';
}

/* As qemu on Linux understands it. */
static bool as_posix(char *path)
{
	if (!strncmp(path, "file:", 5))
		memmove(path, path + 5, strlen(path + 5) + 1);
	else if (has_protocol(path))
		return false;
	return path[0] != '\0';
}

static bool has_drive(const char *path)
{
	return path[0] && path[1] == ':' && (path[2] == '\\' || path[2] == '/');
}

/* As qemu on Windows meant it: with a drive, or with backslashes. */
static bool as_windows(char *path)
{
	if (!has_drive(path) && !strchr(path, '\\'))
		return false;
	for (char *p = path; *p; p++)
		if (*p == '\\')
			*p = '/';
	return (!has_drive(path) && path[0] != '/') || vdisk_strip_drive(path);
}

int vdisk_other_file(struct vdisk *vd, enum vdisk_other other, unsigned int n,
		     struct vdisk_locator *locator, bool *posix, struct vdisk_error *err)
{
	static bool (*const readings[])(char *path) = { as_posix, as_windows };
	const struct name name = name_of(vd, other);
	char path[sizeof(locator->path)] = "";
	unsigned int found = 0;
	int ret = read_name(vd, &name, path, sizeof(path), err);

	for (size_t i = 0; i < ARRAY_SIZE(readings) && !ret; i++) {
		memcpy(locator->path, path, sizeof(path));
		if (!readings[i](locator->path) || found++ < n)
			continue;
		locator->absolute = locator->path[0] == '/';
		locator->format = NULL;
		*posix = i == 0;
		return 0;
	}
	if (!ret && !found)
		ret = bad_name(err, -ENOENT, &name, path, strlen(path),
			       "is not of a file, but of what only qemu can reach");
	return ret ? ret : -ENOENT;
}

int vdisk_backing_format(const struct vdisk *vd, const char **format, struct vdisk_error *err)
{
	static const struct {
		const char *theirs, *ours;
	} names[] = { { "", NULL },
		      { "raw", "raw" },
		      { "vpc", "vhd" },
		      { "qcow2", "qcow2" },
		      { "qcow", "qcow" } };
	struct vdisk_error what = { .field = "header.backing_format",
				    .problem = "is a format that is not supported",
				    .advice = "convert a copy of the backing file, and let the "
					      "image name that: qemu-img rebase -u" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(vd->info.backing_format, names[i].theirs))
			continue;
		*format = names[i].ours;
		return 0;
	}
	vdisk_quote(vd->info.backing_format, strlen(vd->info.backing_format), &what);
	return vdisk_fail(err, -EOPNOTSUPP, what);
}

int vdisk_data_locator(struct vdisk *vd, struct vdisk_locator *locator)
{
	bool posix;

	if (!vd->info.needs_data)
		return -ENOENT;
	return vdisk_other_file(vd, VDISK_DATA_FILE, 0, locator, &posix, NULL);
}

int vdisk_set_data(struct vdisk *vd, const struct vdisk_io *io, struct vdisk_error *err)
{
	struct host *h = host_of(vd);

	if (!vd->info.needs_data || h->data.read)
		return -EINVAL;
	if (vd->info.data_raw && io->write && io->size < vd->info.virtual_size)
		return vdisk_fail(
			err, -EUCLEAN,
			(struct vdisk_error){
				.field = "size of the data file",
				.problem = "is less than that of the disk, which it should be",
				.advice = "make it longer: truncate --size",
				.found = io->size,
				.expected = vd->info.virtual_size,
				.show = VDISK_SHOW_DECIMAL });
	h->data = *io;
	return 0;
}
