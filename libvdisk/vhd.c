// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VHD: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, October 2006).
 *
 * A fixed image is the raw disk followed by a footer. All numbers are big-endian. Images made
 * before Virtual PC 2004 have a footer of 511 bytes; the missing byte is reserved and counts as
 * zero ("Hard Disk Footer Format"). This file knows the footer; dynamic and differencing images,
 * which have one at both ends, go on in vhd-dynamic.c.
 */
#include "vhd.h"

u32 vdisk_vhd_checksum(const u8 *raw, u32 length, u32 at)
{
	u32 sum = 0;

	for (u32 i = 0; i < length; i++)
		if (i < at || i >= at + 4)
			sum += raw[i];
	return ~sum;
}

static u32 footer_checksum(const struct footer *f)
{
	return vdisk_vhd_checksum(f->raw, FOOTER_BYTES, F_CHECKSUM);
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

	if (type == TYPE_FIXED || type == TYPE_DYNAMIC || type == TYPE_DIFFERENCING)
		return 0;
	return bad_field(err, f, F_DISK_TYPE,
			 (struct vdisk_error){ .field = "footer.disk_type",
					       .problem = "is none that VHD has",
					       .found = type,
					       .expected = TYPE_FIXED,
					       .show = VDISK_SHOW_DECIMAL });
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

static bool is_fixed(const struct footer *f)
{
	return get_be32(f->raw + F_DISK_TYPE) == TYPE_FIXED;
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
	else if (is_fixed(f) && what.found > f->offset)
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

static int check_footer(const struct footer *f, struct vdisk_error *err)
{
	int ret = check_cookie(f, err);

	if (!ret)
		ret = check_checksum(f, err);
	if (!ret)
		ret = check_version(f, err);
	if (!ret)
		ret = check_type(f, err);
	return ret;
}

static int use_footer(const struct footer *f, struct vdisk_info *info, struct vdisk_error *err)
{
	info->chs_size = geometry_sectors(f) * VDISK_SECTOR;
	info->current_size = get_be64(f->raw + F_CURRENT_SIZE);
	info->time_stamp = get_be32(f->raw + F_TIME_STAMP);
	copy_creator(f, info);
	memcpy(info->uuid, f->raw + F_UNIQUE_ID, sizeof(info->uuid));
	info->has_uuid = 1;
	info->saved_state = f->raw[F_SAVED_STATE] != 0;
	return check_size(f, info, err);
}

/* Do two good footers describe the same disk? Time stamps, and who wrote it, may differ. */
static bool same_disk(const struct footer *a, const struct footer *b)
{
	return !memcmp(a->raw + F_DATA_OFFSET, b->raw + F_DATA_OFFSET, 8) &&
	       !memcmp(a->raw + F_ORIGINAL_SIZE, b->raw + F_ORIGINAL_SIZE,
		       F_CHECKSUM - F_ORIGINAL_SIZE) &&
	       !memcmp(a->raw + F_UNIQUE_ID, b->raw + F_UNIQUE_ID, 16);
}

/*
 * The footer that counts, checked. A fixed image has one, at its end (and its disk may begin with
 * the footer of another image). The others have a copy at the start: where both are good the copy
 * counts, as for qemu; where one is damaged, the other does. *end is where the data may end.
 */
static int choose_footer(struct vdisk *vd, struct footer *f, u64 *end, struct vdisk_error *err)
{
	struct footer last, copy;
	bool copy_good;
	int ret = read_footer(&vd->io, &last);

	if (!ret)
		ret = read_footer_copy(&vd->io, &copy);
	if (ret)
		return ret;
	*f = last;
	*end = last.offset;
	ret = check_footer(&last, err);
	if (!ret && is_fixed(&last))
		return 0;
	/* a fixed image whose footer is damaged: its disk may well begin with another's footer */
	if (ret && is_footer(&last) && is_fixed(&last))
		return ret;
	copy_good = !check_footer(&copy, NULL) && !is_fixed(&copy);
	vd->info.copy_lost = !ret && !copy_good;
	if (copy_good) {
		*f = copy;
		vd->info.footer_lost = ret != 0;
		if (ret)
			*end = vd->io.size;
		vd->info.copy_differs = !ret && !same_disk(&last, &copy);
		if (err)
			*err = (struct vdisk_error){ 0 };
		return 0;
	}
	/* A lost footer, and a copy that is damaged as well: what is wrong with the copy. */
	if (ret && !is_footer(&last) && has_cookie(&copy)) {
		*f = copy;
		ret = check_footer(&copy, err);
	}
	return ret;
}

static int vhd_open(struct vdisk *vd, const struct vdisk_options *options, struct vdisk_error *err)
{
	struct footer f;
	u64 end;
	int ret = choose_footer(vd, &f, &end, err);

	(void)options;
	if (!ret)
		ret = use_footer(&f, &vd->info, err);
	if (ret)
		return ret;
	if (is_fixed(&f)) {
		vd->info.subformat = "fixed";
		return 0;
	}
	return vdisk_vhd_open_dynamic(vd, &f, end, err);
}

static int vhd_map(const struct vdisk *vd, u64 offset, u64 length, struct vdisk_map *answer)
{
	if (!vd->unit_shift)
		return vdisk_map_flat(vd, offset, length, answer);
	return vdisk_vhd_map_dynamic(vd, offset, length, answer);
}

const struct vdisk_format vdisk_vhd = {
	.name = "vhd",
	.probe = vhd_probe,
	.open = vhd_open,
	.map = vhd_map,
	.scan = vdisk_vhd_scan,
	.room = vdisk_vhd_room,
	.reserve = vdisk_vhd_reserve,
	.unreserve = vdisk_vhd_unreserve,
	.place = vdisk_vhd_place,
	.change = vdisk_vhd_change,
};
