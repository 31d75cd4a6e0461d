// SPDX-License-Identifier: GPL-2.0-or-later
/* vdisk_get_snapshot(): internal snapshots, in words. */
#include "../qcow.h"
#include "host.h"

/* The bytes at offset as text: what could do something to a terminal becomes a question mark. */
static int read_text(struct vdisk *vd, u64 offset, u32 length, char *text, size_t size)
{
	size_t n = length < size - 1 ? length : size - 1;
	int ret = vdisk_read(&vd->io, offset, text, n);

	if (ret)
		return ret;
	text[n] = '\0';
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			text[i] = '?';
	return 0;
}

int vdisk_get_snapshot(struct vdisk *vd, unsigned int n, struct vdisk_snapshot *out)
{
	u64 at = vd->qcow.snapshots_offset;
	struct qcow_snapshot s;
	int ret;

	if (n >= vd->info.snapshots)
		return -ENOENT;
	for (unsigned int i = 0; i <= n; i++) {
		ret = vdisk_qcow_read_snapshot(vd, at, &s, NULL);
		if (ret)
			return ret;
		at = s.next;
	}
	*out = (struct vdisk_snapshot){ .virtual_size = s.disk_size,
					.seconds = s.seconds,
					.nanoseconds = s.nanoseconds,
					.vm_state_size = s.state_size };
	ret = read_text(vd, s.id_offset, s.id_length, out->id, sizeof(out->id));
	return ret ? ret
		   : read_text(vd, s.name_offset, s.name_length, out->name, sizeof(out->name));
}
