#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by dracut before it leaves the initramfs: root came without the image, so nobody waits for that any more.
. /usr/lib/ntfsmap/runtime.sh
ntfsmap_stop
# At shutdown dracut comes back, and our hook with it, only where somebody asked for that here.
! ntfsmap_opened || need_shutdown
