// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which format is it? Formats of ours answer for themselves; for others there is a table of magic
 * bytes, because an image taken for raw by mistake would be overwritten as if it were a disk.
 */
#include "image.h"

struct magic {
	const char *name;
	u16 offset;
	u8 length;
	const char *bytes;
};

/* The magic's source: QEMU docs/interop/qcow2.txt, qed_spec.txt, parallels.txt; [MS-VHDX] 2.1;
 * VMware "Virtual Disk Format 5.0"; VirtualBox VDICore.h; [MS-WIM]; libewf; then the archives that
 * images are shipped in. */
static const struct magic magics[] = {
	{ "qcow", 0, 8, "QFI\xfb\x00\x00\x00\x01" },
	{ "qcow2", 0, 4, "QFI\xfb" },
	{ "vhdx", 0, 8, "vhdxfile" },
	{ "vmdk", 0, 4, "KDMV" },
	{ "vmdk", 0, 4, "COWD" },
	{ "vmdk", 0, 21, "# Disk DescriptorFile" },
	{ "vdi", 64, 4, "\x7f\x10\xda\xbe" },
	{ "qed", 0, 4, "QED\0" },
	{ "parallels", 0, 16, "WithoutFreeSpace" },
	{ "parallels", 0, 16, "WithouFreSpacExt" },
	{ "wim", 0, 8, "MSWIM\0\0\0" },
	{ "ewf", 0, 8, "EVF\x09\x0d\x0a\xff\0" },
	{ "gzip", 0, 3, "\x1f\x8b\x08" },
	{ "xz", 0, 6, "\3757zXZ\0" },
	{ "zip", 0, 4, "PK\x03\x04" },
	{ "7z", 0, 6, "7z\xbc\xaf\x27\x1c" },
	{ "zstd", 0, 4, "\x28\xb5\x2f\xfd" },
};

#define HEAD_BYTES 128

static int probe_magic(const struct vdisk_io *io, const char **name)
{
	size_t len = io->size < HEAD_BYTES ? io->size : HEAD_BYTES;
	u8 head[HEAD_BYTES];
	int ret = vdisk_read(io, 0, head, len);

	if (ret)
		return ret;
	*name = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(magics) && !*name; i++) {
		const struct magic *m = &magics[i];

		if (len >= (size_t)m->offset + m->length &&
		    !memcmp(head + m->offset, m->bytes, m->length))
			*name = m->name;
	}
	return 0;
}

/* A VHD is known by its end, the others by their beginning: a file can look like both, and what
 * it really is only its owner knows. */
static int refuse_ambiguous(const char *other, struct vdisk_error *err)
{
	return vdisk_fail(
		err, -EOPNOTSUPP,
		(struct vdisk_error){ .field = other,
				      .problem = "by its first bytes, but it ends in a VHD footer",
				      .advice = "say which it is: --format vhd or --format raw" });
}

int vdisk_probe(const struct vdisk_io *io, const char **name, struct vdisk_error *err)
{
	int vhd = vdisk_vhd.probe(io);
	int ret;

	if (vhd < 0)
		return vhd;
	ret = probe_magic(io, name);
	if (ret)
		return ret;
	if (vhd && *name)
		return refuse_ambiguous(*name, err);
	if (!*name)
		*name = vhd ? vdisk_vhd.name : vdisk_raw.name;
	return 0;
}
