#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by dracut before it leaves the initramfs: root came without the image, so nobody waits for that any more.
. /usr/lib/ntfsmap/runtime.sh
ntfsmap_stop
