// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A damaged NTFS volume: volume.img, which seeds.sh has made, with some bytes changed. The input is
 * a list of changes, six bytes each: a sector that holds something (two bytes), where in it (two),
 * a value, and how it is put there. What is said of each file stays inside of the volume.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../ntfsmap/logfile.h"
#include "../../ntfsmap/msg.h"
#include "../../ntfsmap/ntfs.h"
#include "../../ntfsmap/safety.h"
#include "../../ntfsmap/sleep.h"
#include "fuzz.h"

#define SECTOR	512
#define CHANGE	6  /* bytes */
#define CHANGES 32 /* of one input */

int LLVMFuzzerInitialize(int *argc, char ***argv);
const char *__lsan_default_suppressions(void);

/* libntfs-3g forgets what it has when a volume cannot be opened. */
const char *__lsan_default_suppressions(void)
{
	return "leak:libntfs-3g\n";
}

static u8 *base;
static u64 size_of_base;
static u32 *sectors; /* that are not all zeros */
static u32 n_sectors;
static int fd; /* of the volume, which is as base is between inputs */
static char path[32];

static bool is_used(const u8 *sector)
{
	return sector[0] || memcmp(sector, sector + 1, SECTOR - 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char name[4096] = "";
	ssize_t n = readlink("/proc/self/exe", name, sizeof(name) - sizeof("volume.img"));
	struct stat st;
	int in;

	(void)argc, (void)argv;
	strcpy(n > 0 ? strrchr(name, '/') + 1 : name, "volume.img");
	in = open(name, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st)) {
		perror(name);
		exit(1);
	}
	size_of_base = (u64)st.st_size;
	base = mmap(NULL, size_of_base, PROT_READ, MAP_PRIVATE, in, 0);
	close(in);
	if (base == MAP_FAILED)
		abort();
	sectors = must(size_of_base / SECTOR * sizeof(*sectors));
	for (u32 i = 0; i < size_of_base / SECTOR; i++)
		if (is_used(base + (u64)i * SECTOR))
			sectors[n_sectors++] = i;
	fd = bytes_as_file(base, size_of_base, path);
	return 0;
}

/* ---- changes ---- */

static void put_sector(u32 i, const u8 *bytes)
{
	if (pwrite(fd, bytes, SECTOR, (off_t)i * SECTOR) != SECTOR)
		abort();
}

static void change(const uint8_t *how)
{
	u32 i = sectors[(how[0] | how[1] << 8) % n_sectors], at = (how[2] | how[3] << 8) % SECTOR;
	u8 bytes[SECTOR];

	if (pread(fd, bytes, SECTOR, (off_t)i * SECTOR) != SECTOR)
		abort();
	switch (how[5] % 4) {
	case 0:
		bytes[at] = how[4];
		break;
	case 1:
		bytes[at] = (u8)(bytes[at] + how[4]);
		break;
	case 2:
		bytes[at] ^= (u8)(1 << how[4] % 8);
		break;
	default: /* a long number */
		memset(bytes + at, how[4], SECTOR - at < 8 ? SECTOR - at : 8);
	}
	put_sector(i, bytes);
}

static void restore(const uint8_t *how)
{
	u32 i = sectors[(how[0] | how[1] << 8) % n_sectors];

	put_sector(i, base + (u64)i * SECTOR);
}

/* ---- what is said ---- */

static int by_device(const void *a, const void *b)
{
	const struct vdisk_extent *x = a, *y = b;

	return x->device < y->device ? -1 : x->device > y->device;
}

/* Inside of the volume, nothing twice, as long as the file. */
static void look_at_runs(const struct ntfs_file *f)
{
	u64 end = f->vol->clusters * (f->vol->cluster_size / SECTOR), last = 0;
	const struct vdisk_extents *x = &f->extents;
	struct vdisk_extent *v = must((x->n + 1) * sizeof(*v));

	memcpy(v, x->v ? x->v : v, x->n * sizeof(*v));
	qsort(v, x->n, sizeof(*v), by_device);
	for (size_t i = 0; i < x->n && v[i].device != VDISK_HOLE; i++) {
		expect(v[i].device >= last && v[i].device < end && v[i].count <= end - v[i].device,
		       "%s: a run of %" PRIu64 " sectors at %" PRIu64, f->path, (u64)v[i].count,
		       (u64)v[i].device);
		last = v[i].device + v[i].count;
	}
	expect(x->sectors * SECTOR >= f->data_size, "%s: %" PRIu64 " sectors for %" PRIu64 " bytes",
	       f->path, (u64)x->sectors, f->data_size);
	free(v);
}

static void look_at_facts(struct ntfs_file *f)
{
	struct request req = { 0 };
	struct facts facts = { 0 };

	safety_look_file(f, &req, &facts);
	expect(facts.n, "%s: no facts", f->path);
	for (size_t i = 0; i < facts.n; i++)
		expect(facts.v[i].name && facts.v[i].text && *facts.v[i].text, "an empty fact");
	if (!safety_verdict(&facts))
		expect(f->runs == RUNS_GOOD && !f->holes && f->data_size,
		       "%s can be mapped, it is said", f->path);
	facts_free(&facts);
}

static void look_at_contents(struct ntfs_file *f)
{
	u64 n = f->data_size < 8192 ? f->data_size : 8192;
	u8 *buf = must(n);

	ntfs_file_read(f, 0, buf, n);
	if (f->data_size > n)
		ntfs_file_read(f, f->data_size - n, buf, n);
	free(buf);
}

static void look_at_file(struct volume *vol, const char *name)
{
	struct ntfs_file *f = NULL;

	if (volume_find(vol, name, &f))
		return;
	expect(f->runs != RUNS_DAMAGED || (f->runs_problem && !f->extents.n),
	       "%s: damaged, without a reason", name);
	if (f->runs == RUNS_GOOD)
		look_at_runs(f);
	look_at_facts(f);
	look_at_contents(f);
	ntfs_file_close(f);
}

static int count_record(void *ctx, const struct log_record *r)
{
	(void)r;
	++*(u64 *)ctx;
	return 0;
}

static void look_at_log(struct volume *vol)
{
	struct log log = { 0 };
	struct log_io io;
	u64 n = 0;
	bool whole;

	if (!volume_log_io(vol, &io) && !log_open(&io, &log))
		log_walk(&log, count_record, &n, &whole);
	log_close(&log);
	volume_log_done(&io);
}

static void look_at_volume(void)
{
	static const char *const names[] = {
		"/disk.raw",	 "/FOLDER/Disk.vhd", "\\folder\\disk.vhd",
		"/sparse.raw",	 "/small.txt",	     "/disk.raw:stream",
		"/hiberfil.sys", "/link.raw",	     "/$MFT"
	};
	struct sleep_state s;
	struct volume *vol;

	if (volume_open(path, &vol))
		return;
	volume_sleep_state(vol, &s);
	expect(hiberfile_text(s.hiberfile) && logfile_text(s.logfile), "a state without a text");
	look_at_log(vol);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		look_at_file(vol, names[i]);
	volume_close(vol);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size / CHANGE < CHANGES ? size / CHANGE : CHANGES;

	for (size_t i = 0; i < n; i++)
		change(data + i * CHANGE);
	msg_hush(true);
	look_at_volume();
	msg_hush(false);
	for (size_t i = 0; i < n; i++)
		restore(data + i * CHANGE);
	return 0;
}
