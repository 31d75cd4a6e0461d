// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening a volume in such a way that nothing can be written to it. */
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "msg.h"
#include "ntfs-lib.h"
#include "ntfs.h"

static struct volume *volume_of(struct ntfs_device *dev)
{
	return dev->d_private;
}

static int ro_open(struct ntfs_device *dev, int flags)
{
	(void)flags; /* the descriptor is open, and read-only whatever the library asks for */
	NDevSetOpen(dev);
	NDevSetReadOnly(dev);
	return 0;
}

static int ro_close(struct ntfs_device *dev)
{
	NDevClearOpen(dev);
	return 0;
}

static s64 ro_seek(struct ntfs_device *dev, s64 offset, int whence)
{
	return lseek(volume_of(dev)->fd, offset, whence);
}

/* A failing disk is not a damaged volume: chkdsk would make it worse. */
static s64 remember_error(struct ntfs_device *dev, s64 n)
{
	if (n < 0)
		volume_of(dev)->io_error = errno;
	return n;
}

static s64 ro_read(struct ntfs_device *dev, void *buf, s64 count)
{
	return remember_error(dev, read(volume_of(dev)->fd, buf, (size_t)count));
}

static s64 ro_pread(struct ntfs_device *dev, void *buf, s64 count, s64 offset)
{
	return remember_error(dev, pread(volume_of(dev)->fd, buf, (size_t)count, offset));
}

static s64 ro_write(struct ntfs_device *dev, const void *buf, s64 count)
{
	(void)dev, (void)buf, (void)count;
	errno = EROFS;
	return -1;
}

static s64 ro_pwrite(struct ntfs_device *dev, const void *buf, s64 count, s64 offset)
{
	(void)offset;
	return ro_write(dev, buf, count);
}

static int ro_sync(struct ntfs_device *dev)
{
	(void)dev;
	return 0;
}

static int ro_stat(struct ntfs_device *dev, struct stat *st)
{
	return fstat(volume_of(dev)->fd, st);
}

static int ro_ioctl(struct ntfs_device *dev, unsigned long request, void *arg)
{
	(void)dev, (void)request, (void)arg; /* the library would set the block size */
	errno = ENOTTY;
	return -1;
}

static struct ntfs_device_operations ro_ops = {
	.open = ro_open,
	.close = ro_close,
	.seek = ro_seek,
	.read = ro_read,
	.write = ro_write,
	.pread = ro_pread,
	.pwrite = ro_pwrite,
	.sync = ro_sync,
	.stat = ro_stat,
	.ioctl = ro_ioctl,
};

static PRINTF(6, 0) int log_handler(const char *function, const char *file, int line, u32 level,
				    void *data, const char *format, va_list args)
{
	char buf[512];

	(void)file, (void)line, (void)level, (void)data;
	vsnprintf(buf, sizeof(buf), format, args);
	buf[strcspn(buf, "\n")] = '\0';
	debug("libntfs-3g: %s: %s", function, buf);
	return 0;
}

static int open_device(struct volume *vol)
{
	struct stat st;
	int block;

	vol->fd = open(vol->device, O_RDONLY | O_CLOEXEC);
	if (vol->fd < 0)
		return fail_errno(errno, "cannot open %s", vol->device);
	if (fstat(vol->fd, &st))
		return fail_errno(errno, "%s", vol->device);
	vol->is_block = S_ISBLK(st.st_mode);
	vol->logical_block = 512;
	if (S_ISREG(st.st_mode)) {
		vol->device_bytes = (uint64_t)st.st_size;
		return DONE;
	}
	if (!vol->is_block)
		return fail(NOT_FOUND, "%s is neither a block device nor a regular file",
			    vol->device);
	vol->rdev = st.st_rdev;
	/* What device-mapper wrote beneath the page cache, and what Windows did while Linux was
	 * hibernated, must be seen: an open mapping keeps old pages alive. */
	posix_fadvise(vol->fd, 0, 0, POSIX_FADV_DONTNEED);
	if (ioctl(vol->fd, BLKGETSIZE64, &vol->device_bytes) || ioctl(vol->fd, BLKSSZGET, &block))
		return fail_errno(errno, "%s: cannot learn its size", vol->device);
	vol->logical_block = (uint32_t)block;
	return DONE;
}

struct other {
	const char *type; /* libblkid's TYPE */
	const char *advice;
};

/* What people have in the place of an NTFS volume. */
static const struct other others[] = {
	{ "BitLocker", "unlock it first: cryptsetup open --type bitlk %s win, then use "
		       "/dev/mapper/win instead" },
	{ "ReFS", "only NTFS is supported: move the image to an NTFS volume (%s)" },
	{ "exfat", "exFAT is never hibernated and mounts read-write: mount %s and use losetup" },
	{ "vfat", "FAT is never hibernated and mounts read-write: mount %s and use losetup" },
};

static char *blkid_type(const char *device)
{
	blkid_probe pr = blkid_new_probe_from_filename(device);
	const char *value;
	char *type = NULL;

	if (!pr)
		return NULL;
	if (blkid_do_safeprobe(pr) == 0 && blkid_probe_lookup_value(pr, "TYPE", &value, NULL) == 0)
		type = text_copy(value);
	blkid_free_probe(pr);
	return type;
}

static int fail_not_ntfs(const struct volume *vol)
{
	char *type = blkid_type(vol->device);
	char *advice = NULL;
	int code;

	for (size_t i = 0; type && i < ARRAY_SIZE(others); i++)
		if (!strcmp(type, others[i].type)) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			advice = text(others[i].advice, vol->device);
#pragma GCC diagnostic pop
		}
	code = fail(type ? REFUSED : NOT_FOUND, "%s holds no NTFS volume but %s%s%s", vol->device,
		    type ? type : "something unknown", advice ? ": " : "", advice ? advice : "");
	free(type);
	free(advice);
	return code;
}

static bool boot_sector_is_ntfs(struct volume *vol)
{
	char oem[8];
	ssize_t n = pread(vol->fd, oem, sizeof(oem), 3);

	if (n < 0)
		vol->io_error = errno;
	return n == sizeof(oem) && !memcmp(oem, "NTFS    ", 8);
}

static int fail_mount(const struct volume *vol, int error)
{
	if (vol->io_error)
		return fail(SYSTEM, "%s: cannot read it: %s (see dmesg)", vol->device,
			    strerror(vol->io_error));
	if (error == EIO || error == EINVAL || error == EUCLEAN)
		return fail(
			DAMAGED,
			"%s: the NTFS volume is damaged, libntfs-3g cannot open it (%s; --debug "
			"says more): let Windows run chkdsk on it",
			vol->device, strerror(error));
	return fail_errno(error, "%s: cannot open the NTFS volume", vol->device);
}

/* The serial number, from the boot sector: libntfs-3g does not keep it. */
static int read_serial(struct volume *vol)
{
	le64 serial;

	if (pread(vol->fd, &serial, sizeof(serial), 0x48) != sizeof(serial))
		return fail_errno(EIO, "%s: cannot read the boot sector", vol->device);
	vol->serial = le64_to_cpu(serial);
	return DONE;
}

static int mount_volume(struct volume *vol)
{
	struct ntfs_lib *lib = vol->lib;

	if (!boot_sector_is_ntfs(vol))
		return vol->io_error ? fail_mount(vol, EIO) : fail_not_ntfs(vol);
	ntfs_log_set_handler(log_handler);
	lib->dev = ntfs_device_alloc(vol->device, 0, &ro_ops, vol);
	if (!lib->dev)
		return fail_errno(errno, "%s", vol->device);
	lib->vol = ntfs_device_mount(lib->dev, NTFS_MNT_RDONLY | NTFS_MNT_FORENSIC);
	if (!lib->vol) {
		int error = errno;

		ntfs_device_free(lib->dev);
		return fail_mount(vol, error);
	}
	vol->cluster_size = lib->vol->cluster_size;
	if (vol->cluster_size % 512)
		return fail(REFUSED, "%s: clusters of %u bytes are not supported", vol->device,
			    vol->cluster_size);
	vol->mft_record_size = lib->vol->mft_record_size;
	vol->clusters = (uint64_t)lib->vol->nr_clusters;
	vol->major = lib->vol->major_ver;
	vol->minor = lib->vol->minor_ver;
	vol->dirty = lib->vol->flags & VOLUME_IS_DIRTY;
	vol->label = text_copy(lib->vol->vol_name ? lib->vol->vol_name : "");
	return read_serial(vol);
}

int volume_open(const char *device, struct volume **out)
{
	struct volume *vol = must_alloc(sizeof(*vol));
	int code;

	vol->lib = must_alloc(sizeof(*vol->lib));
	vol->device = text_copy(device);
	code = open_device(vol);
	if (!code)
		code = mount_volume(vol);
	if (code) {
		volume_close(vol);
		return code;
	}
	*out = vol;
	return DONE;
}

int volume_read_error(const struct volume *vol)
{
	return vol->io_error ? -vol->io_error : -EUCLEAN;
}

void volume_close(struct volume *vol)
{
	if (!vol)
		return;
	if (vol->lib->vol)
		ntfs_umount(vol->lib->vol, FALSE);
	if (vol->fd >= 0)
		close(vol->fd);
	free(vol->lib);
	free(vol->device);
	free(vol->label);
	free(vol);
}
