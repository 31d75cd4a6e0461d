// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A load for measuring what one I/O costs: direct reads or writes of one size, one after the other,
 * each place of the range at most once. Everything is prepared before the clock starts, so that
 * what is measured is the system call and what is below it.
 *
 * Prints the nanoseconds of an I/O, as a mean: where the machine's clock counts instructions, its
 * instructions.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RING 8

struct load {
	const char *device;
	int fd;
	bool write, sync, uring, sequential, end_sync;
	size_t size;	 /* of an I/O, bytes */
	uint64_t stride; /* between their places, bytes */
	uint64_t from;	 /* where the range begins */
	uint64_t count;
	uint64_t seed;
	uint64_t *places;
	char *buf;
};

struct ring {
	int fd;
	unsigned int *sq_tail, *cq_head, *cq_tail;
	unsigned int sq_mask, cq_mask;
	unsigned int *array;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* splitmix64 */
static uint64_t random_word(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* All places of the range, shuffled; the first `count` of them are used. */
static void choose_places(struct load *l, uint64_t span)
{
	uint64_t n = span / l->stride, seed = l->seed;

	if (!n || l->count > n)
		errx(1, "%s: %llu places, and %llu are wanted", l->device, (unsigned long long)n,
		     (unsigned long long)l->count);
	if (!l->count)
		l->count = n;
	l->places = calloc(n, sizeof(*l->places));
	if (!l->places)
		err(1, "no memory");
	for (uint64_t i = 0; i < n; i++)
		l->places[i] = l->from + i * l->stride;
	for (uint64_t i = n - 1; i && !l->sequential; i--) {
		uint64_t j = random_word(&seed) % (i + 1), place = l->places[i];

		l->places[i] = l->places[j];
		l->places[j] = place;
	}
}

static void *map_ring(int fd, size_t bytes, off_t what)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	if (p == MAP_FAILED)
		err(1, "io_uring: mmap");
	return p;
}

static void make_ring(struct ring *r)
{
	struct io_uring_params p = { 0 };
	char *sq, *cq;

	r->fd = (int)syscall(__NR_io_uring_setup, RING, &p);
	if (r->fd < 0)
		err(1, "io_uring_setup");
	sq = map_ring(r->fd, p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING);
	cq = map_ring(r->fd, p.cq_off.cqes + p.cq_entries * sizeof(*r->cqes), IORING_OFF_CQ_RING);
	r->sqes = map_ring(r->fd, p.sq_entries * sizeof(*r->sqes), IORING_OFF_SQES);
	r->sq_tail = (unsigned int *)(sq + p.sq_off.tail);
	r->sq_mask = p.sq_entries - 1;
	r->array = (unsigned int *)(sq + p.sq_off.array);
	r->cq_head = (unsigned int *)(cq + p.cq_off.head);
	r->cq_tail = (unsigned int *)(cq + p.cq_off.tail);
	r->cq_mask = p.cq_entries - 1;
	r->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static ssize_t ring_io(struct ring *r, int fd, unsigned int op, void *buf, size_t size, uint64_t at)
{
	unsigned int tail = *r->sq_tail, i = tail & r->sq_mask, head = *r->cq_head;

	r->sqes[i] =
		(struct io_uring_sqe){ .opcode = (uint8_t)op,
				       .fd = fd,
				       .addr = (uintptr_t)buf,
				       .len = (uint32_t)size,
				       .off = at,
				       .fsync_flags =
					       op == IORING_OP_FSYNC ? IORING_FSYNC_DATASYNC : 0 };
	r->array[i] = i;
	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
	while (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		if (syscall(__NR_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) <
			    0 &&
		    errno != EINTR)
			err(1, "io_uring_enter");
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	errno = -r->cqes[head & r->cq_mask].res;
	return r->cqes[head & r->cq_mask].res;
}

static void one(const struct load *l, struct ring *r, uint64_t at)
{
	ssize_t n;

	if (l->uring)
		n = ring_io(r, l->fd, l->write ? IORING_OP_WRITE : IORING_OP_READ, l->buf, l->size,
			    at);
	else if (l->write)
		n = pwrite(l->fd, l->buf, l->size, (off_t)at);
	else
		n = pread(l->fd, l->buf, l->size, (off_t)at);
	if (n != (ssize_t)l->size)
		err(1, "%s: %zd of %zu bytes at %llu", l->device, n, l->size,
		    (unsigned long long)at);
	if (!l->sync)
		return;
	if (l->uring ? ring_io(r, l->fd, IORING_OP_FSYNC, NULL, 0, 0) < 0 : fdatasync(l->fd))
		err(1, "%s: fdatasync", l->device);
}

static double measure(const struct load *l)
{
	struct ring ring;
	uint64_t start;

	if (l->uring)
		make_ring(&ring);
	start = now();
	for (uint64_t i = 0; i < l->count; i++)
		one(l, &ring, l->places[i]);
	if (l->end_sync && fdatasync(l->fd))
		err(1, "%s: fdatasync", l->device);
	start = now() - start;
	if (l->uring)
		close(ring.fd);
	return (double)start / (double)l->count;
}

static _Noreturn void usage(void)
{
	fprintf(stderr, "usage: ioload [OPTION]... read|write DEVICE\n"
			"  -b BYTES    of one I/O (4096)\n"
			"  -n COUNT    how many (as many as there are places)\n"
			"  -f BYTES    where the range begins (0)\n"
			"  -S BYTES    how long the range is (to the end)\n"
			"  -d BYTES    distance of two places (that of -b)\n"
			"  -q          in the order of their places, not shuffled\n"
			"  -s SEED     of the shuffling (1)\n"
			"  -u          by io_uring, not by pread and pwrite\n"
			"  -y          fdatasync after each\n"
			"  -Y          fdatasync after the last, which counts too\n"
			"  -w TIMES    do it so often first, without measuring (0)\n");
	exit(2);
}

/* span: how long the range is, 0: to the end; warm: how often it is done before. */
static void parse(int argc, char **argv, struct load *l, uint64_t *span, int *warm)
{
	int option;

	while ((option = getopt(argc, argv, "b:n:f:S:d:s:w:quyY")) != -1) {
		uint64_t value = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (option) {
		case 'b':
			l->size = value;
			break;
		case 'n':
			l->count = value;
			break;
		case 'f':
			l->from = value;
			break;
		case 'S':
			*span = value;
			break;
		case 'd':
			l->stride = value;
			break;
		case 's':
			l->seed = value;
			break;
		case 'w':
			*warm = (int)value;
			break;
		case 'q':
			l->sequential = true;
			break;
		case 'u':
			l->uring = true;
			break;
		case 'y':
			l->sync = true;
			break;
		case 'Y':
			l->end_sync = true;
			break;
		default:
			usage();
		}
	}
}

int main(int argc, char **argv)
{
	struct load l = { .size = 4096, .seed = 1 };
	uint64_t span = 0, bytes;
	int warm = 0;

	parse(argc, argv, &l, &span, &warm);
	if (argc - optind != 2 || !l.size)
		usage();
	l.write = !strcmp(argv[optind], "write");
	if (!l.write && strcmp(argv[optind], "read"))
		usage();
	l.device = argv[optind + 1];
	if (!l.stride)
		l.stride = l.size;
	l.fd = open(l.device, (l.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (l.fd < 0 || ioctl(l.fd, BLKGETSIZE64, &bytes))
		err(1, "%s", l.device);
	choose_places(&l, span ? span : bytes - l.from);
	l.buf = aligned_alloc(4096, (l.size + 4095) & ~(size_t)4095);
	if (!l.buf)
		err(1, "no memory");
	memset(l.buf, 0x5a, l.size);
	while (warm--)
		measure(&l);
	printf("%.1f\n", measure(&l));
	return 0;
}
