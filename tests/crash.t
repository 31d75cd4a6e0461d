#!/usr/bin/env bash
# The engine under power cuts (tests/crash), the images that they leave against qemu-img, and the proof that the crash
# test finds what it is there for: with any of the commit's steps left out, or any of the engine's rules taken out of
# its source, it must fail. TEST_SEED chooses other histories.
# shellcheck source-path=SCRIPTDIR source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need qemu-img perl cc
powercut=$top/build/tests/powercut
seed=${TEST_SEED:-20260101}
cd "$T" || bail "no $T"
echo "# seed $seed"

survives() {
	mkdir dump
	run "$powercut" "--seed=$seed" --rounds=3000 --dump=dump
	like "$out" '^[0-9]+ power cuts survived, [1-9][0-9]* discards taken, [1-9][0-9]* writes at once' 'power cuts at any moment' || diag "$out$err"
	echo "# $out"
}

agrees_with_qemu() {
	local f n=0 all
	all=$(find dump -name image.vhd | wc -l)
	for f in dump/*/image.vhd; do
		qemu-img convert -f vpc -O raw "$f" theirs.raw && cmp theirs.raw "${f%/*}/disk.raw" && n=$((n + 1))
	done
	is "$n" "$all" "qemu reads the same from $n VHDs that power cuts left"
	ok 'there are some' test "$n" -gt 20
}

# reads_as EXPECTED OPTION...: qemu reads image.qcow2 as that. It warns of the bitmaps that we have given up.
reads_as() {
	local expected=$1
	shift
	qemu-img convert "$@" -O raw image.qcow2 theirs.raw 2>qemu.txt && cmp theirs.raw "$expected" && rm theirs.raw
}

# In the folder of one image: no errors (3: leaks), the same contents, and those of the snapshots.
qcow_agrees() {
	local s found
	qemu-img check -q -f qcow2 image.qcow2 >check.txt 2>&1
	found=$?
	[ "$found" = 0 ] || [ "$found" = 3 ] || return
	reads_as disk.raw -f qcow2 || return
	for s in s1 s2; do
		[ ! -e "$s.raw" ] || reads_as "$s.raw" -f qcow2 -l "snapshot.name=$s" || return
	done
}

qcow_agrees_with_qemu() {
	local f n=0 all
	all=$(find dump -name image.qcow2 | wc -l)
	for f in dump/*/image.qcow2; do
		(cd "${f%/*}" && qcow_agrees) && n=$((n + 1))
	done
	is "$n" "$all" "qemu finds no error in $n qcow2 that power cuts left, and reads the same"
	ok 'there are many' test "$n" -gt 100
}

# A step of the commit that is not done.
left_out() {
	local part
	for part in flush-data flush-links zero head; do
		run "$powercut" "--seed=$seed" --rounds=4000 --format=vhd "--break=$part"
		like "$status:$out" '^1:.*FOUND' "found in a VHD: $part is left out"
	done
	for part in flush-data flush-root flush-links zero copy prepare count quiesce; do
		run "$powercut" "--seed=$seed" --rounds=4000 --format=qcow2 "--break=$part"
		like "$status:$out" '^1:.*FOUND' "found in a qcow2: $part is left out"
	done
}

# The library of a copy of the sources with the crash test, an object for each file.
compile() {
	cc -O1 -w -std=gnu11 -D_GNU_SOURCE -c -o "objects/${1//\//-}.o" "$1"
}

build() {
	local file
	mkdir tests objects
	cp -r "$top/libvdisk" . && cp -r "$top/tests/crash" tests/
	for file in tests/crash/*.c libvdisk/*.c libvdisk/user/*.c; do
		compile "$file" || return
	done
	link
}

link() {
	cc -o mutant objects/*.o -lz -lzstd
}

# mutant NAME FILE PERL: a rule is taken out of FILE, and the crash test notices: by its own words, or because it dies.
mutant() {
	perl -0pi -e "$3 or die 'nothing to change'" "libvdisk/$2" && compile "libvdisk/$2" && link ||
		bail "cannot make the mutant: $1"
	run timeout 300 ./mutant "--seed=$seed" --rounds=4000
	[ "$status" != 0 ] && [ "$status" != 124 ] && [ "$status" != 127 ]
	result $? "found: $1" || diag "$out"
	cp "$top/libvdisk/$2" "libvdisk/$2" && compile "libvdisk/$2"
}

survives
agrees_with_qemu
qcow_agrees_with_qemu
left_out
build && ok 'the same test of the same source, built here, passes' ./mutant "--seed=$seed" --rounds=50
mutant 'pointers do not wait for data under way' commit.c 's/VDISK_DRAIN && e->draining\)/VDISK_DRAIN \&\& 0)/'
mutant 'writes go on to a sealed unit' engine.c 's/if \(u->sealed \|\| /if (/'
mutant 'so do writes at once' engine.c 's/return u->sealed \|\| u->clear \? NULL : u;/return u->clear ? NULL : u;/'
mutant 'writes at once do not wait for the autoclear bits' engine.c 's/ && !e->vd->touch//'
mutant 'a write at once goes on where its first unit ends' engine.c 's/ \|\| \(done && u->home != [^)]*\)//'
mutant 'what a write at once has written is not covered' engine.c 's/end_in_unit\(e, find_unit(.*?), error\)/end_in_unit(e, find_unit$1, -1)/s'
mutant 'a failed write counts as covered' engine.c 's/if \(!error\)\n\t\tcover/if (1)\n\t\tcover/'
mutant 'what nobody wrote is not filled' commit.c 's/\(grain_is_used\(e, u, \*at\) \|\| /(/'
mutant 'what is not near a write is not kept' commit.c 's/return u->fresh &&/return 0 \&\&/'
mutant 'data in their place are copied onto themselves' commit.c 's/return u->fresh \|\| m->kind != VDISK_DATA/return true/'
mutant 'a new place is zeroed, not copied to' commit.c 's/\.kind = m->kind == VDISK_ZERO \?/.kind = 1 ?/'
mutant 'no flush before the pointers' commit.c 's/to_flush\(e, VDISK_FLUSH_DATA\)/to_step(e, VDISK_ROOT, VDISK_PHASE_ROOT)/'
mutant 'no flush of headers and refcount table' commit.c 's/to_flush\(e, VDISK_FLUSH_ROOT\)/to_step(e, VDISK_LINK, VDISK_PHASE_LINK)/'
mutant 'no flush behind the pointers' commit.c 's/if \(e->edits\)(\n\t\t\tto_flush\(e, VDISK_FLUSH_LINKS\))/if (0)$1/'
mutant 'new tables are not made' commit.c 's/if \(!e->vd->format->prepare \|\|/if (1 ||/'
mutant 'nothing is counted' commit.c 's/to_step\(e, VDISK_COUNT, VDISK_PHASE_COUNT\)/to_flush(e, VDISK_FLUSH_DATA)/'
mutant 'counts follow the pointers' commit.c 's/PHASE_COUNT/PHASE_X/g; s/PHASE_LINK/PHASE_COUNT/g; s/PHASE_X/PHASE_LINK/g'
mutant 'who uses a place that was given up is not waited for' commit.c 's/e->ops->start\(e, &e->quiesce\)/quiesced(e, \&e->quiesce, 0)/'
mutant 'what is given up is never given back' space.c 's/if \(vd->qcow\.version > 1\)/if (0)/'
mutant 'what is given up is given back by the same commit' refcount.c 's/a->applying = a->ripe;/a->applying = a->ripe = a->waiting = a->linked = a->dropped;/'
mutant 'COPIED is not set' qcow-write.c 's/\? 0 : QCOW_COPIED/? 0 : 0/g'
mutant 'autoclear bits stay' qcow-write.c 's/vd->touch = [^;]*/vd->touch = false/'
mutant 'writes do not wait for the autoclear bits' engine.c 's/if \(e->vd->touch\) \{/if (0) {/'
mutant 'the cache still knows what a new table was before' commit.c 's/e->ops->forget\(e, [^;]*;//'
mutant 'a discard is answered before its commit' engine.c 's/(req->length\);\n\t)push\(&e->flushes, req\)/$1end_req(e, req, 0)/'
mutant 'a read is answered from a unit that has no place' engine.c 's/if \(!u \|\| u->clear\)/if (!u)/'
mutant 'what a commit has lost is forgotten' commit.c 's/(e->commit_wanted = false;\n)/$1\te->lost = 0;\n/'
mutant 'what cannot be copied is linked all the same' commit.c 's/u->error = error;\n/u->error = 0;\n/'
mutant 'a cluster that the file cuts off is written in place' qcow-map.c 's/answer->kind = VDISK_SHARED;/;/'
mutant 'subclusters past the end of the file move' qcow-write.c 's/past = \*bits &[^;]*;/past = 0;/'
mutant 'a flush joins a sealed commit' engine.c 's/push\(&e->flushes, req\);\n\telse/push(e->state ? \&e->flushing : \&e->flushes, req);\n\telse/'
mutant 'FUA in a unit does not wait' engine.c 's/if \(error \|\| !req->fua\)/if (1)/'
mutant 'room is not used up' vhd-dynamic.c 's/\tspace->next = at \+ [^\n]*\n//'
mutant 'room is looked for in front of the last block' vhd-dynamic.c 's/if \(space->next < end\)/if (0)/'
mutant 'the footer counts as room' vhd-dynamic.c 's/footer_lost \? 0 : v->data_end/footer_lost ? 0 : vd->io.size/'
mutant 'a new bitmap is not written' commit.c 's/if \(!e->vd->head_bytes\)/if (1)/'
mutant 'all bits of a bitmap are set' vhd-dynamic.c 's/= unit->covered\[block \+ i - bitmap\] &/= 0xff \&/'
mutant 'a failed commit answers its flushes as if all were well' commit.c 's/flushing, e->error\)/flushing, 0)/'
mutant 'a failed commit is tried again' commit.c 's/if \(e->linking\)\n\t\tvdisk_engine_set_mode/if (0)\n\t\tvdisk_engine_set_mode/'
mutant 'nobody hears of pending units' engine.c 's/(maybe_pending\(.*?\n\{\n\treturn) /$1 0 \&\& /s'
mutant 'units are dropped before they are linked' commit.c 's/case VDISK_FLUSH_DATA:/case VDISK_FLUSH_DATA: finish_commit(e); break;/'
done_testing
