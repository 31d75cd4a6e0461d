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
	run "$powercut" "--seed=$seed" --rounds=1500 --dump=dump
	like "$out" '^[0-9]+ power cuts survived' 'power cuts at any moment' || diag "$out$err"
	echo "# $out"
}

agrees_with_qemu() {
	local vhd n=0
	for vhd in dump/*.vhd; do
		qemu-img convert -f vpc -O raw "$vhd" theirs.raw && cmp theirs.raw "${vhd%.vhd}.raw" && n=$((n + 1))
	done
	is "$n" "$(find dump -name '*.vhd' | wc -l)" "qemu reads the same from $n images that power cuts left"
	ok 'there are some' test "$n" -gt 20
}

# A step of the commit that is not done.
left_out() {
	local part
	for part in flush-data flush-links zero head; do
		run "$powercut" "--seed=$seed" --rounds=300 "--break=$part"
		like "$status:$out" '^1:.*FOUND' "found: $part is left out"
	done
}

# The library of a copy of the sources, in which FILE was changed by PERL, with the crash test.
build() {
	rm -rf libvdisk tests mutant
	mkdir tests
	cp -r "$top/libvdisk" . && cp -r "$top/tests/crash" tests/
	[ -z "${1:-}" ] || perl -0pi -e "$2 or die 'nothing to change'" "libvdisk/$1" || return
	cc -O1 -w -std=gnu11 -D_GNU_SOURCE -o mutant tests/crash/*.c libvdisk/*.c libvdisk/user/*.c -lz -lzstd
}

# mutant NAME FILE PERL: a rule is taken out, and the crash test notices: by its own words, or because it dies.
mutant() {
	build "$2" "$3" || bail "cannot make the mutant: $1"
	run timeout 300 ./mutant "--seed=$seed" --rounds=2000
	[ "$status" != 0 ] && [ "$status" != 124 ] && [ "$status" != 127 ]
	result $? "found: $1" || diag "$out"
}

survives
agrees_with_qemu
left_out
build && ok 'the same test of the same source, built here, passes' ./mutant "--seed=$seed" --rounds=50
mutant 'pointers do not wait for data under way' engine.c 's/sealed && e->units\[i\]\.writes\)/sealed \&\& 0)/'
mutant 'writes go on to a sealed unit' engine.c 's/if \(u->sealed\) \{/if (0) {/'
mutant 'a failed write counts as covered' engine.c 's/if \(!error\)\n\t\tcover/if (1)\n\t\tcover/'
mutant 'what nobody wrote is not zeroed' engine.c 's/if \(e->vd->fill_zeros\)/if (0)/'
mutant 'no flush before the pointers' engine.c 's/linking \? VDISK_FLUSH_DATA : VDISK_FLUSH_LINKS\);/linking ? VDISK_FLUSH_DATA : VDISK_FLUSH_LINKS); e->busy = 0;/'
mutant 'no flush behind the pointers' engine.c 's/(\t\tunpin_written\(e\);\n.*?)to_flush\(e, VDISK_FLUSH_LINKS\)/$1finish_commit(e)/s'
mutant 'a flush joins a sealed commit' engine.c 's/push\(&e->flushes, req\);\n\telse/push(e->state ? \&e->flushing : \&e->flushes, req);\n\telse/'
mutant 'FUA in a unit does not wait' engine.c 's/if \(error \|\| !req->fua\)/if (1)/'
mutant 'room is not used up' vhd-dynamic.c 's/\tspace->next = at \+ [^\n]*\n//'
mutant 'room is looked for in front of the last block' vhd-dynamic.c 's/if \(space->next < end\)/if (0)/'
mutant 'the footer counts as room' vhd-dynamic.c 's/footer_lost \? 0 : v->data_end/footer_lost ? 0 : vd->io.size/'
mutant 'a new bitmap is not written' engine.c 's/if \(!e->vd->head_bytes\)/if (1)/'
mutant 'all bits of a bitmap are set' vhd-dynamic.c 's/= unit->covered\[block \+ i - bitmap\] &/= 0xff \&/'
mutant 'a failed commit answers its flushes as if all were well' engine.c 's/flushing, e->error\)/flushing, 0)/'
mutant 'a failed commit is tried again' engine.c 's/if \(e->linking\)\n\t\tvdisk_engine_set_mode/if (0)\n\t\tvdisk_engine_set_mode/'
mutant 'nobody hears of pending units' engine.c 's/(maybe_pending\(.*?\n\{\n\treturn) /$1 0 \&\& /s'
mutant 'units are dropped before they are linked' engine.c 's/case VDISK_FLUSH_DATA:/case VDISK_FLUSH_DATA: finish_commit(e); break;/'
done_testing
