// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening, asking and closing an image of any format. */
#include "image.h"

static const struct vdisk_format *const formats[] = { &vdisk_vhd, &vdisk_qcow2, &vdisk_qcow,
						      &vdisk_raw };

int vdisk_read(const struct vdisk_io *io, u64 offset, void *buf, size_t len)
{
	if (offset > io->size || len > io->size - offset)
		return -EINVAL;
	return io->read(io->ctx, offset, buf, len);
}

int vdisk_fail(struct vdisk_error *err, int code, struct vdisk_error what)
{
	if (err)
		*err = what;
	return code;
}

static const struct vdisk_format *find_format(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i]->name, name))
			return formats[i];
	return NULL;
}

static int choose_format(const struct vdisk_io *io, const char *name,
			 const struct vdisk_format **format, struct vdisk_error *err)
{
	int ret;

	if (!name) {
		ret = vdisk_probe(io, &name, err);
		if (ret)
			return ret;
	}
	*format = find_format(name);
	if (*format)
		return 0;
	return vdisk_fail(
		err, -EOPNOTSUPP,
		(struct vdisk_error){
			.field = name,
			.problem = "is a format that is not supported",
			.advice = "convert it (qemu-img convert -O raw OLD NEW) or unpack "
				  "it; --format raw if the bytes themselves are the disk" });
}

static int refuse_snapshot(const struct vdisk_format *format, struct vdisk_error *err)
{
	return vdisk_fail(err, -ENOENT,
			  (struct vdisk_error){ .field = format->name,
						.problem = "is a format without snapshots" });
}

int vdisk_image_open(const struct vdisk_io *io, struct vdisk_meta *meta,
		     const struct vdisk_options *options, struct vdisk **out,
		     struct vdisk_error *err)
{
	static const struct vdisk_options none;
	const struct vdisk_format *format;
	struct vdisk *vd;
	int ret;

	if (!options)
		options = &none;
	ret = choose_format(io, options->format, &format, err);
	if (ret)
		return ret;
	vd = vdisk_zalloc(sizeof(*vd));
	if (!vd)
		return -ENOMEM;
	vd->format = format;
	vd->io = *io;
	vd->meta = meta;
	vd->granule = meta ? meta->block : VDISK_SECTOR;
	vd->info.format = format->name;
	vd->info.file_size = io->size;
	ret = options->snapshot && strcmp(format->name, "qcow2") ? refuse_snapshot(format, err)
								 : format->open(vd, options, err);
	if (ret) {
		vdisk_free(vd);
		return ret;
	}
	*out = vd;
	return 0;
}

void vdisk_image_close(struct vdisk *vd)
{
	vdisk_free(vd);
}

const struct vdisk_info *vdisk_info(const struct vdisk *vd)
{
	return &vd->info;
}

int vdisk_image_map(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	u64 size = vd->info.virtual_size;

	if (!length || offset > size || length > size - offset)
		return -EINVAL;
	*answer = (struct vdisk_map){ .home = VDISK_NOWHERE };
	return vd->format->map(vd, offset, length, answer);
}

int vdisk_map_flat(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	(void)vd;
	answer->kind = VDISK_DATA;
	answer->offset = offset;
	answer->length = length;
	return 0;
}
