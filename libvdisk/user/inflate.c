// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compressed clusters: qcow2.txt, "Compressed Clusters Descriptor" and "compression_type". The
 * stored length is rounded up to sectors, so rubbish may follow the stream. Only what fills the
 * cluster exactly is good; no more than that is ever unpacked, whatever the stream says.
 */
#include <zlib.h>
#include <zstd.h>

#include "host.h"

/* qemu packs with a window of 4 KiB, and without zlib's header. */
#define WINDOW_BITS (-12)

static int unpack_zlib(const u8 *in, size_t packed, u8 *out, size_t size)
{
	z_stream z = {
		.next_in = (u8 *)in, .avail_in = packed, .next_out = out, .avail_out = size
	};
	int ret = inflateInit2(&z, WINDOW_BITS);

	if (ret != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (ret == Z_MEM_ERROR)
		return -ENOMEM;
	/* Z_BUF_ERROR: the cluster is full and the stream is not at its end, as qemu allows */
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out ? 0 : -EUCLEAN;
}

/* As a stream: it ends with a frame, and nothing says how many bytes of the input that is. */
static int unpack_zstd(const u8 *in, size_t packed, u8 *out, size_t size)
{
	ZSTD_inBuffer from = { in, packed, 0 };
	ZSTD_outBuffer to = { out, size, 0 };
	ZSTD_DCtx *z = ZSTD_createDCtx();
	size_t ret = 1;

	if (!z)
		return -ENOMEM;
	while (to.pos < size) {
		size_t before = from.pos + to.pos;

		ret = ZSTD_decompressStream(z, &to, &from);
		if (ZSTD_isError(ret) || from.pos + to.pos == before)
			break;
	}
	ZSTD_freeDCtx(z);
	/* 0: a frame has ended */
	return !ret && to.pos == size ? 0 : -EUCLEAN;
}

static int unpack(struct host *h, const struct vdisk_map *m, u8 *out)
{
	const struct vdisk_info *info = &h->vd->info;
	u8 *in = malloc(m->packed);
	int ret = in ? vdisk_read(&h->vd->io, m->offset, in, m->packed) : -ENOMEM;

	if (ret)
		;
	else if (info->compression && !strcmp(info->compression, "zstd"))
		ret = unpack_zstd(in, m->packed, out, info->block_size);
	else
		ret = unpack_zlib(in, m->packed, out, info->block_size);
	free(in);
	return ret;
}

static bool is_in(const struct inflated *slot, const struct vdisk_map *m)
{
	return slot->data && slot->offset == m->offset && slot->packed == m->packed;
}

static struct inflated *find(struct host *h, const struct vdisk_map *m)
{
	for (size_t i = 0; i < INFLATED; i++)
		if (is_in(&h->inflated[i], m))
			return &h->inflated[i];
	return NULL;
}

/* Unpacks into the slot whose turn it is. */
static int fill(struct host *h, const struct vdisk_map *m, struct inflated **out)
{
	struct inflated *slot = &h->inflated[h->next_inflated];
	int ret;

	h->next_inflated = (h->next_inflated + 1) % INFLATED;
	if (!slot->data)
		slot->data = malloc(h->vd->info.block_size);
	if (!slot->data)
		return -ENOMEM;
	slot->offset = m->offset;
	slot->packed = m->packed;
	ret = unpack(h, m, slot->data);
	if (ret) {
		free(slot->data);
		slot->data = NULL;
	}
	*out = slot;
	return ret;
}

int vdisk_inflate(struct host *h, const struct vdisk_map *m, u8 *buf, u64 offset)
{
	u32 skip = offset & (h->vd->info.block_size - 1);
	struct inflated *slot = find(h, m);
	int ret = slot ? 0 : fill(h, m, &slot);

	if (!ret)
		memcpy(buf, slot->data + skip, m->length);
	return ret;
}

void vdisk_inflate_forget(struct host *h, u64 offset, u64 length)
{
	for (size_t i = 0; i < INFLATED; i++) {
		struct inflated *slot = &h->inflated[i];

		if (slot->offset >= offset ? slot->offset - offset >= length
					   : offset - slot->offset >= slot->packed)
			continue;
		free(slot->data);
		slot->data = NULL;
	}
}
