// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkhammer: histories of reads, writes, zeroing, discards and flushes on a block device, by
 * threads that share no sector, but pages, blocks and whatever lies under the device. Each thread
 * knows what its sectors hold and looks at every read.
 *
 *   blkhammer [KEY=VALUE...] DEVICE
 *     seed=N      of the history (1); each thread's is the same whatever the others do
 *     threads=N   (4)
 *     ops=N       of each thread (1000)
 *     frame=N     sectors that the threads share out among themselves, over and over (8192)
 *     max=N       sectors of an operation at most (2048)
 *     reads=N     percent of the operations (35)
 *     begin=FILE  what the device holds before; zeros without it
 *     end=FILE    what it holds afterwards is written there
 *     whole=0     do not read all of it at the end
 *     discard=0   no discards;  zero=0  no zeroing
 *     log=FILE    the history goes there, a line for each operation; every write has a stamp then
 *     mark=NAME   each flush and FUA that has ended is told to the log-writes device NAME
 *
 * Where something was discarded, the old bytes may be found or zeros, and then for good.
 *
 * The log: "w|u|z|f THREAD NUMBER FIRST COUNT" for write, FUA write, zeroing, flush. The marks say
 * what is durable then: "u THREAD NUMBER", and "f THREAD:ENDED:BEGUN...": of each thread, what had
 * ended when the flush began, and what has begun by the time of the mark.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libdevmapper.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR	    512
#define VHD_BLOCK   4096 /* sectors: metadata lies beside their ends */
#define MAX_THREADS 16
#define WHOLE	    (1 << 20) /* bytes read at once at the end */

static uint64_t seed = 1, threads = 4, ops = 1000, frame = 8192, max_sectors = 2048, reads = 35;
static uint64_t whole = 1, discard = 1, zero = 1;
static const char *device, *begin_file, *end_file, *log_file, *mark_name;

static int fd;
static uint64_t sectors;
static uint8_t *model;
static uint8_t *discarded; /* a byte per sector, or NULL without discards */
static FILE *history;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

struct thread {
	pthread_t id;
	uint64_t number;
	uint64_t random;
	uint8_t *buf;
	uint64_t op;
	_Atomic uint64_t begun, ended;
	uint64_t count[6];
};

static struct thread all[MAX_THREADS];

static void die(const char *what, uint64_t first, uint64_t count)
{
	int code = errno;

	flockfile(stderr);
	fprintf(stderr, "blkhammer: %s: %s at sector %" PRIu64 "+%" PRIu64 ": %s\n", device, what,
		first, count, strerror(code));
	exit(1);
}

/* ---- random numbers ---- */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static uint64_t below(struct thread *t, uint64_t n)
{
	t->random += 0x9e3779b97f4a7c15;
	return mix(t->random) % n;
}

/* ---- whose is what ---- */

/* The n-th border inside a frame; the first is 0, the last its end. */
static uint64_t border(uint64_t in, uint64_t n)
{
	uint64_t part = frame / threads;

	if (!n || n == threads)
		return n ? frame : 0;
	return n * part + mix(seed ^ mix(in * MAX_THREADS + n)) % part - part / 2;
}

/* The thread's own part of a frame. */
static void own_part(const struct thread *t, uint64_t in, uint64_t *first, uint64_t *end)
{
	uint64_t n = (t->number + mix(in)) % threads;

	*first = in * frame + border(in, n);
	*end = in * frame + border(in, n + 1);
	if (*end > sectors)
		*end = sectors;
}

/* Sizes of all orders; now and then at the end of a block of the image. */
static void pick_range(struct thread *t, uint64_t *first, uint64_t *count)
{
	uint64_t low, end, n, edge;

	do {
		own_part(t, below(t, (sectors + frame - 1) / frame), &low, &end);
	} while (low >= end);
	n = 1ULL << below(t, 12);
	n = 1 + below(t, n < max_sectors ? n : max_sectors);
	if (n > end - low)
		n = end - low;
	*first = low + below(t, end - low - n + 1);
	*count = n;
	edge = (*first + VHD_BLOCK / 2) / VHD_BLOCK * VHD_BLOCK;
	if (below(t, 4) || edge < low || edge >= end)
		return;
	/* behind the edge, or up to it */
	*first = below(t, 2) || edge < low + n ? edge : edge - n;
	if (*count > end - *first)
		*count = end - *first;
}

/* ---- the history ---- */

static void note(struct thread *t, char kind, uint64_t first, uint64_t count)
{
	if (!history)
		return;
	pthread_mutex_lock(&log_lock);
	fprintf(history, "%c %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", kind, t->number,
		t->op, first, count);
	pthread_mutex_unlock(&log_lock);
}

static void mark(const char *text)
{
	struct dm_task *task = dm_task_create(DM_DEVICE_TARGET_MSG);

	if (!task || !dm_task_set_name(task, mark_name) || !dm_task_set_sector(task, 0) ||
	    !dm_task_set_message(task, text) || !dm_task_run(task))
		die("cannot mark", 0, 0);
	dm_task_destroy(task);
}

static void mark_fua(const struct thread *t)
{
	char text[64];

	snprintf(text, sizeof(text), "mark u,%" PRIu64 ",%" PRIu64, t->number, t->op);
	pthread_mutex_lock(&log_lock);
	mark(text);
	pthread_mutex_unlock(&log_lock);
}

static void mark_flush(const uint64_t *ended)
{
	char text[MAX_THREADS * 48] = "mark f";
	size_t at = strlen(text);

	pthread_mutex_lock(&log_lock);
	for (uint64_t i = 0; i < threads; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at,
				       ",%" PRIu64 ":%" PRIu64 ":%" PRIu64, i, ended[i],
				       atomic_load(&all[i].begun));
	mark(text);
	pthread_mutex_unlock(&log_lock);
}

/* ---- contents ---- */

static void make_data(struct thread *t, uint64_t first, uint64_t count)
{
	uint64_t *p = (uint64_t *)t->buf, word;

	for (uint64_t s = first; s < first + count; s++) {
		word = log_file ? (t->number + 1) << 56 | t->op : mix(mix(s ^ seed << 40) ^ t->op);
		for (unsigned i = 0; i < SECTOR / 16; i++) {
			*p++ = word;
			*p++ = log_file ? s : word ^ s * (i + 1);
		}
	}
}

static bool is_zero(const uint8_t *p)
{
	return !p[0] && !memcmp(p, p + 1, SECTOR - 1);
}

static void wrong(const struct thread *t, uint64_t s, const uint8_t *got)
{
	const uint64_t *g = (const uint64_t *)got, *m = (const uint64_t *)(model + s * SECTOR);
	unsigned i = 0;

	while (g[i] == m[i])
		i++;
	flockfile(stderr);
	fprintf(stderr,
		"blkhammer: %s: thread %" PRIu64 ", operation %" PRIu64 ": sector %" PRIu64
		" is wrong from byte %u on: %016" PRIx64 " instead of %016" PRIx64 "%s\n",
		device, t->number, t->op, s, 8 * i, g[i], m[i],
		is_zero(got) ? " (it is all zeros)" : "");
	exit(1);
}

/* In buf is what was read. */
static void look(const struct thread *t, uint64_t first, uint64_t count, const uint8_t *buf)
{
	uint8_t *m = model + first * SECTOR;

	if (!memcmp(buf, m, count * SECTOR))
		return;
	for (uint64_t s = first; s < first + count; s++, buf += SECTOR, m += SECTOR) {
		if (!memcmp(buf, m, SECTOR))
			continue;
		if (!discarded || !discarded[s] || !is_zero(buf))
			wrong(t, s, buf);
		memset(m, 0, SECTOR);
	}
}

static void forget_discards(uint64_t first, uint64_t count)
{
	if (discarded)
		memset(discarded + first, 0, count);
}

static void do_read(struct thread *t, uint64_t first, uint64_t count)
{
	ssize_t n = pread(fd, t->buf, count * SECTOR, (off_t)(first * SECTOR));

	if (n != (ssize_t)(count * SECTOR))
		die("cannot read", first, count);
	look(t, first, count, t->buf);
	forget_discards(first, count);
}

static void do_write(struct thread *t, uint64_t first, uint64_t count, bool fua)
{
	struct iovec v = { t->buf, count * SECTOR };

	make_data(t, first, count);
	note(t, fua ? 'u' : 'w', first, count);
	if (pwritev2(fd, &v, 1, (off_t)(first * SECTOR), fua ? RWF_DSYNC : 0) != (ssize_t)v.iov_len)
		die("cannot write", first, count);
	memcpy(model + first * SECTOR, t->buf, count * SECTOR);
	forget_discards(first, count);
	if (fua && mark_name)
		mark_fua(t);
}

static void do_range(struct thread *t, uint64_t first, uint64_t count, bool discards)
{
	uint64_t range[2] = { first * SECTOR, count * SECTOR };

	if (!discards)
		note(t, 'z', first, count);
	if (ioctl(fd, discards ? BLKDISCARD : BLKZEROOUT, range))
		die(discards ? "cannot discard" : "cannot zero", first, count);
	if (discards) {
		memset(discarded + first, 1, count);
		return;
	}
	memset(model + first * SECTOR, 0, count * SECTOR);
	forget_discards(first, count);
}

static void do_flush(struct thread *t)
{
	uint64_t ended[MAX_THREADS];

	for (uint64_t i = 0; i < threads; i++)
		ended[i] = atomic_load(&all[i].ended);
	if (fsync(fd))
		die("cannot flush", 0, 0);
	if (mark_name)
		mark_flush(ended);
	note(t, 'f', 0, 0);
}

static void step(struct thread *t)
{
	uint64_t first, count, dice = below(t, 100), rest;

	pick_range(t, &first, &count);
	if (dice < reads) {
		do_read(t, first, count);
		t->count[0]++;
		return;
	}
	rest = below(t, 100);
	if (rest < 5 && zero) {
		do_range(t, first, count, false);
		t->count[1]++;
	} else if (rest < 12 && discard) {
		do_range(t, first, count, true);
		t->count[2]++;
	} else if (rest < 20) {
		do_write(t, first, count, true);
		t->count[3]++;
	} else if (rest < 27) {
		do_flush(t);
		t->count[4]++;
	} else {
		do_write(t, first, count, false);
		t->count[5]++;
		if (!below(t, 4)) /* before anybody can have flushed it */
			do_read(t, first, count);
	}
}

static void *work(void *arg)
{
	struct thread *t = arg;

	for (t->op = 1; t->op <= ops; t->op++) {
		atomic_store(&t->begun, t->op);
		step(t);
		atomic_store(&t->ended, t->op);
	}
	return NULL;
}

/* ---- all of it ---- */

/* The memory of sectors that nobody touches is never there, so the device may be huge. */
static void *reserve(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory for the model", 0, sectors);
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static void load_model(void)
{
	int in = open(begin_file, O_RDONLY);
	uint64_t at = 0;
	ssize_t n = 1;

	if (in < 0)
		die(begin_file, 0, 0);
	while (n > 0 && at < sectors * SECTOR) {
		n = read(in, model + at, sectors * SECTOR - at);
		at += n > 0 ? (uint64_t)n : 0;
	}
	if (n < 0)
		die(begin_file, at / SECTOR, 0);
	close(in);
}

static void save_model(void)
{
	int out = open(end_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	uint64_t at = 0;
	ssize_t n = 1;

	if (out < 0)
		die(end_file, 0, 0);
	while (n > 0 && at < sectors * SECTOR) {
		n = write(out, model + at, sectors * SECTOR - at);
		at += n > 0 ? (uint64_t)n : 0;
	}
	if (n <= 0 || close(out))
		die(end_file, at / SECTOR, 0);
}

static void read_whole(struct thread *t)
{
	uint64_t n;

	for (uint64_t s = 0; s < sectors; s += n) {
		n = sectors - s < WHOLE / SECTOR ? sectors - s : WHOLE / SECTOR;
		do_read(t, s, n);
	}
}

static void option(const char *arg)
{
	static const struct {
		const char *name;
		uint64_t *number;
		const char **text;
	} keys[] = {
		{ "seed", &seed, NULL },       { "threads", &threads, NULL },
		{ "ops", &ops, NULL },	       { "frame", &frame, NULL },
		{ "max", &max_sectors, NULL }, { "reads", &reads, NULL },
		{ "whole", &whole, NULL },     { "discard", &discard, NULL },
		{ "zero", &zero, NULL },       { "begin", NULL, &begin_file },
		{ "end", NULL, &end_file },    { "log", NULL, &log_file },
		{ "mark", NULL, &mark_name },
	};
	size_t n = strcspn(arg, "=");

	if (!arg[n]) {
		device = arg;
		return;
	}
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		if (strlen(keys[i].name) != n || memcmp(keys[i].name, arg, n))
			continue;
		if (keys[i].text)
			*keys[i].text = arg + n + 1;
		else
			*keys[i].number = strtoull(arg + n + 1, NULL, 10);
		return;
	}
	device = arg;
}

static void set_up(void)
{
	uint64_t bytes;

	fd = open(device, O_RDWR | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		die("cannot open", 0, 0);
	sectors = bytes / SECTOR;
	model = reserve(sectors * SECTOR);
	if (discard)
		discarded = reserve(sectors);
	if (begin_file)
		load_model();
	history = log_file ? fopen(log_file, "w") : NULL;
	if (log_file && !history)
		die(log_file, 0, 0);
	for (uint64_t i = 0; i < threads; i++) {
		all[i].number = i;
		all[i].random = mix(seed ^ mix(i + 1));
		if (posix_memalign((void **)&all[i].buf, 4096, WHOLE))
			die("no memory", 0, 0);
	}
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "reads",	   "zeroings", "discards",
					     "FUA writes", "flushes",  "writes" };
	uint64_t sum;

	for (int i = 1; i < argc; i++)
		option(argv[i]);
	if (!device || !threads || threads > MAX_THREADS || frame / threads < 2 || !max_sectors ||
	    max_sectors > WHOLE / SECTOR) {
		fprintf(stderr, "usage: blkhammer [KEY=VALUE...] DEVICE (see the source)\n");
		return 1;
	}
	set_up();
	for (uint64_t i = 0; i < threads; i++)
		if (pthread_create(&all[i].id, NULL, work, &all[i]))
			die("no thread", 0, 0);
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(all[i].id, NULL);
	if (whole)
		read_whole(&all[0]);
	if (end_file)
		save_model();
	printf("seed %" PRIu64 ":", seed);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		sum = 0;
		for (uint64_t n = 0; n < threads; n++)
			sum += all[n].count[i];
		printf(" %" PRIu64 " %s", sum, names[i]);
	}
	puts("");
	return history && fclose(history);
}
