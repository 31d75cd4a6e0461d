// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VHD: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, October 2006).
 *
 * A fixed image is the raw disk followed by a footer. All numbers are big-endian. Images made
 * before Virtual PC 2004 have a footer of 511 bytes; the missing byte is reserved and counts as
 * zero ("Hard Disk Footer Format").
 */
#include "image.h"

#define FOOTER_BYTES 512
#define COOKIE	     0x636f6e6563746978ULL /* "conectix" */

/* "Hard Disk Footer Format": offsets of the fields in bytes. */
enum footer_field {
	F_COOKIE = 0,
	F_VERSION = 12,
	F_CREATOR = 28,
	F_CURRENT_SIZE = 48,
	F_CYLINDERS = 56,
	F_HEADS = 58,
	F_SECTORS_PER_TRACK = 59,
	F_DISK_TYPE = 60,
	F_CHECKSUM = 64,
	F_UNIQUE_ID = 68,
	F_SAVED_STATE = 84,
};

enum disk_type {
	TYPE_FIXED = 2,
	TYPE_DYNAMIC = 3,
	TYPE_DIFFERENCING = 4,
};

#define VERSION_MAJOR 1
/* "CHS Calculation": the largest geometry. Disks that have it are probably larger. */
#define CHS_MAX_SECTORS (65535ULL * 16 * 255)
/* Hyper-V's limit of 2040 GiB, in bytes; qemu has the same. */
#define SIZE_MAX_BYTES (2040ULL << 30)

struct footer {
	u8 raw[FOOTER_BYTES];
	u64 offset; /* in the file */
	u32 length; /* 512 or 511 */
};

static u32 footer_checksum(const struct footer *f)
{
	u32 sum = 0;

	for (u32 i = 0; i < FOOTER_BYTES; i++)
		if (i < F_CHECKSUM || i >= F_CHECKSUM + 4)
			sum += f->raw[i];
	return ~sum;
}

static bool has_cookie(const struct footer *f)
{
	return get_be64(f->raw + F_COOKIE) == COOKIE;
}

/* A damaged cookie in front of a footer that is otherwise right: the checksum still knows. */
static bool has_lost_cookie(const struct footer *f)
{
	struct footer mended = *f;

	memcpy(mended.raw, "conectix", 8);
	return get_be32(f->raw + F_VERSION) >> 16 == VERSION_MAJOR &&
	       footer_checksum(&mended) == get_be32(f->raw + F_CHECKSUM);
}

static int read_footer_at(const struct vdisk_io *io, u32 length, struct footer *f)
{
	memset(f, 0, sizeof(*f));
	if (io->size < length)
		return 0;
	f->offset = io->size - length;
	f->length = length;
	return vdisk_read(io, f->offset, f->raw, length);
}

static bool is_footer(const struct footer *f)
{
	return has_cookie(f) || has_lost_cookie(f);
}

/* The footer at the end of the file, of either length; without one, the last 512 bytes. */
static int read_footer(const struct vdisk_io *io, struct footer *f)
{
	int ret = read_footer_at(io, FOOTER_BYTES - 1, f);

	if (ret || is_footer(f))
		return ret;
	return read_footer_at(io, FOOTER_BYTES, f);
}

/* Dynamic and differencing images begin with a copy of the footer. */
static int read_footer_copy(const struct vdisk_io *io, struct footer *f)
{
	memset(f, 0, sizeof(*f));
	if (io->size < FOOTER_BYTES)
		return 0;
	f->length = FOOTER_BYTES;
	return vdisk_read(io, 0, f->raw, FOOTER_BYTES);
}

static int vhd_probe(const struct vdisk_io *io)
{
	struct footer f;
	int ret = read_footer(io, &f);

	if (ret)
		return ret;
	if (is_footer(&f))
		return 1;
	ret = read_footer_copy(io, &f);
	if (ret)
		return ret;
	return has_cookie(&f);
}

static int bad_field(struct vdisk_error *err, const struct footer *f, enum footer_field field,
		     struct vdisk_error what)
{
	what.offset = f->offset + field;
	return vdisk_fail(err, -EUCLEAN, what);
}

static int check_cookie(const struct footer *f, struct vdisk_error *err)
{
	if (has_cookie(f))
		return 0;
	return bad_field(
		err, f, F_COOKIE,
		(struct vdisk_error){ .field = "footer.cookie",
				      .problem = "is not a VHD footer's",
				      .advice = "if this is a raw image, say so: --format raw",
				      .found = get_be64(f->raw + F_COOKIE),
				      .expected = COOKIE,
				      .show = VDISK_SHOW_TEXT });
}

static int check_checksum(const struct footer *f, struct vdisk_error *err)
{
	u32 found = get_be32(f->raw + F_CHECKSUM);
	u32 expected = footer_checksum(f);

	if (found == expected)
		return 0;
	return bad_field(
		err, f, F_CHECKSUM,
		(struct vdisk_error){ .field = "footer.checksum",
				      .problem = "does not match the footer, which is damaged",
				      .advice = "repair a copy of the image first",
				      .found = found,
				      .expected = expected,
				      .show = VDISK_SHOW_HEX });
}

static int check_version(const struct footer *f, struct vdisk_error *err)
{
	u32 version = get_be32(f->raw + F_VERSION);

	if (version >> 16 == VERSION_MAJOR)
		return 0;
	return vdisk_fail(err, -EOPNOTSUPP,
			  (struct vdisk_error){ .field = "footer.version",
						.problem = "is of a VHD version that is not known",
						.offset = f->offset + F_VERSION,
						.found = version,
						.expected = VERSION_MAJOR << 16,
						.show = VDISK_SHOW_HEX });
}

static int check_type(const struct footer *f, struct vdisk_error *err)
{
	u32 type = get_be32(f->raw + F_DISK_TYPE);
	struct vdisk_error what = { .field = "footer.disk_type",
				    .offset = f->offset + F_DISK_TYPE,
				    .found = type,
				    .expected = TYPE_FIXED,
				    .show = VDISK_SHOW_DECIMAL };

	switch (type) {
	case TYPE_FIXED:
		return 0;
	case TYPE_DYNAMIC:
		what.problem = "says a dynamic VHD, which is not supported yet";
		what.advice = "make a fixed one: qemu-img convert -f vpc -O vpc "
			      "-o subformat=fixed,force_size OLD NEW";
		return vdisk_fail(err, -EOPNOTSUPP, what);
	case TYPE_DIFFERENCING:
		what.problem = "says a differencing VHD, which is not supported yet";
		what.advice = "merge it into its parent, then convert to a fixed VHD";
		return vdisk_fail(err, -EOPNOTSUPP, what);
	default:
		what.problem = "is none that VHD has";
		return vdisk_fail(err, -EUCLEAN, what);
	}
}

/*
 * Virtual PC, and qemu under its old name, mean the disk geometry by the size of the disk and
 * write a Current Size that is rounded up; everyone else means Current Size. The largest geometry
 * says nothing, as a larger disk has it too. VirtualBox writes the BIOS geometry, which ends at
 * 8 GiB: its images are cut off where geometry is believed.
 */
static bool means_geometry(const struct footer *f)
{
	const u8 *creator = f->raw + F_CREATOR;

	return !memcmp(creator, "vpc ", 4) || !memcmp(creator, "qemu", 4);
}

static u64 geometry_sectors(const struct footer *f)
{
	return (u64)get_be16(f->raw + F_CYLINDERS) * f->raw[F_HEADS] * f->raw[F_SECTORS_PER_TRACK];
}

static int check_size(const struct footer *f, struct vdisk_info *info, struct vdisk_error *err)
{
	bool chs = means_geometry(f) && info->chs_size != CHS_MAX_SECTORS * VDISK_SECTOR;
	enum footer_field field = chs ? F_CYLINDERS : F_CURRENT_SIZE;
	struct vdisk_error what = { .field = chs ? "footer.geometry" : "footer.current_size",
				    .found = chs ? info->chs_size : info->current_size,
				    .expected = f->offset,
				    .show = VDISK_SHOW_DECIMAL };

	info->virtual_size = what.found;
	if (!what.found)
		what.problem = "says an empty disk";
	else if (what.found % VDISK_SECTOR)
		what.problem = "is no multiple of 512";
	else if (what.found > SIZE_MAX_BYTES)
		what.problem = "is larger than the 2040 GiB that a VHD can be";
	else if (what.found > f->offset)
		what.problem = "is larger than the data before the footer: the file was cut short";
	else
		return 0;
	return bad_field(err, f, field, what);
}

static void copy_creator(const struct footer *f, struct vdisk_info *info)
{
	const u8 *c = f->raw + F_CREATOR;

	for (int i = 0; i < 4 && c[i]; i++)
		info->creator[i] = c[i] >= ' ' && c[i] < 0x7f ? (char)c[i] : '?';
}

static int check_footer(const struct footer *f, struct vdisk_info *info, struct vdisk_error *err)
{
	int ret = check_cookie(f, err);

	if (!ret)
		ret = check_checksum(f, err);
	if (!ret)
		ret = check_version(f, err);
	if (!ret)
		ret = check_type(f, err);
	if (ret)
		return ret;
	info->chs_size = geometry_sectors(f) * VDISK_SECTOR;
	info->current_size = get_be64(f->raw + F_CURRENT_SIZE);
	copy_creator(f, info);
	memcpy(info->uuid, f->raw + F_UNIQUE_ID, sizeof(info->uuid));
	info->has_uuid = 1;
	info->saved_state = f->raw[F_SAVED_STATE] != 0;
	return check_size(f, info, err);
}

static int vhd_open(struct vdisk *vd, struct vdisk_error *err)
{
	struct footer f, copy;
	int ret;

	vd->info.subformat = "fixed";
	ret = read_footer(&vd->io, &f);
	if (ret)
		return ret;
	/* A good copy at the start is a dynamic image, even when its last footer is lost. */
	if (!is_footer(&f)) {
		ret = read_footer_copy(&vd->io, &copy);
		if (ret)
			return ret;
		if (has_cookie(&copy))
			f = copy;
	}
	return check_footer(&f, &vd->info, err);
}

const struct vdisk_format vdisk_vhd = {
	.name = "vhd",
	.probe = vhd_probe,
	.open = vhd_open,
	.map = vdisk_map_flat,
};
