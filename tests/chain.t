#!/bin/bash
# Differencing VHD on an NTFS volume and in plain files: how the parents are found, what is refused, and that the
# contents are those of the whole chain. No device is made here: see static.t and open-vdisk.t.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/images.sh
. "$top/tests/lib/images.sh"
need mkntfs ntfscat perl qemu-img
makevhd=$top/tests/lib/makevhd.pl
mkvhd=$top/tests/lib/mkvhd.pl
d=$T/images
mkdir -p "$d/sub"

# vhd NAME [OPTION...]: $d/NAME.vhd and its model $d/NAME.raw; a parent is given as of=NAME
vhd() {
	local name=$1 option options=()
	shift
	for option; do
		case $option in
		of=*) options+=("parent=$d/${option#of=}.vhd" "parent_model=$d/${option#of=}.raw") ;;
		*) options+=("$option") ;;
		esac
	done
	"$makevhd" "$d/$name.vhd" "$d/$name.raw" size=4194304 block=524288 allocate=40 layout=plain bitmaps=random \
		creator=win locators=w2ru "${options[@]}" >"$T/facts" 2>&1 || bail "makevhd: $(<"$T/facts")"
}

# put NAME PATH: the image onto the volume
put() {
	local bytes runs=3
	bytes=$(stat -c %s "$d/$1.vhd")
	[ "$bytes" -gt 20000 ] || runs=1
	f file "$2" "$bytes" "runs=$runs" fill=stdin <"$d/$1.vhd"
}

vhd base seed=1
vhd mid of=base seed=2 'parent_path=..\Base.VHD'
vhd sub/top of=mid seed=3 'parent_path=.\mid.vhd' room=3000000
volume 128M
f mkdir /dir
f mkdir /dir/sub
f mkdir /other
put base /base.vhd
put mid /dir/mid.vhd
put sub/top /dir/top.vhd

on_ntfs() {
	cat_reads base "$img:/base.vhd" 'a dynamic VHD'
	cat_reads mid "$img:/dir/mid.vhd" "'..' in a locator, in another case"
	cat_reads sub/top "$img:/dir/top.vhd" 'a chain of three'
	run "$ntfsmap" "$img:/dir/top.vhd"
	is "$status" 2 'a chain takes several devices: plain table refuses'
	like "$err" '--concise' '  says what to use'
	run "$ntfsmap" table -q --concise t "$img:/dir/top.vhd"
	is "$status" 0 'table --concise'
	is "$(wc -l <"$T/out")" 1 '  one line'
	like "$("$ntfsmap" table --concise t "$img:/dir/top.vhd" 2>&1 >/dev/null)" 'make the devices at once' '  for use at once'
	tr ';' '\n' <"$T/out" >"$T/devices"
	is "$(cut -d, -f1,4 "$T/devices" | xargs)" 't-base2,ro t-base1,ro t,rw' '  parents first, read-only'
	is "$(grep -Ec '^t-base[12],NTFSMAP-BASE-VHD-[0-9A-F]{16}-[0-9a-f]+-[0-9a-f]+-0-t-base[12],' "$T/devices")" 2 \
		'  with UUIDs that carry record and sequence'
	like "$(sed -n 2p "$T/devices")" ',0 8192 vdisk vhd 3 read_only parent /dev/mapper/t-base2 1 [^ ]+ 3 0:' '  a parent, by its node'
	like "$(sed -n 3p "$T/devices")" ',0 8192 vdisk vhd [24] (file_bytes [0-9]+ )?parent /dev/mapper/t-base1 1 ' '  the child'
	run "$ntfsmap" table --readonly -q --concise t "$img:/dir/top.vhd"
	like "$out" ';t,[^,]*,,ro,0 8192 vdisk vhd [0-9] read_only ' '  read-only'
}

# The extents are where ntfscluster says that the file's clusters are.
extents() {
	local bytes sectors
	run "$ntfsmap" -q "$img:/base.vhd"
	is "$status:$(wc -l <"$T/out")" 0:1 'a dynamic VHD is one line'
	bytes=$(stat -c %s "$d/base.vhd")
	sectors=$(((bytes + 511) / 512))
	is "$(grep -oE '0:[0-9]+\+[0-9]+' <<<"$out" | tr ':+' '  ' | awk '{ print n + 0, $3, $2; n += $3 }')" \
		"$(oracle_table /base.vhd $((sectors * 512)))" '  its extents are those of ntfscluster'
	unlike "$out" file_bytes '  whole sectors need no file_bytes'
	head -c $((bytes + 100)) "$d/base.vhd" >"$T/odd" # cut -c pads nothing: a file with a tail
	printf '%100s' x >>"$T/odd"
	f file /odd.vhd $((bytes + 100)) runs=2 fill=stdin <"$T/odd"
	run "$ntfsmap" "$img:/odd.vhd"
	like "$out" " vdisk vhd 2 file_bytes $((bytes + 100)) 1 " 'a file that ends inside a sector says so'
	like "$err" 'footer' '  and that its footer is not at its end'
}

locators() {
	vhd absolute of=base seed=4 locators=w2ku # which the generator gives this path:
	f mkdir /Users
	f mkdir /Users/Public
	f mkdir /Users/Public/Disks
	put base /Users/Public/Disks/BASE.vhd
	put absolute /dir/sub/absolute.vhd
	cat_reads absolute "$img:/dir/sub/absolute.vhd" 'an absolute locator is looked up from the root of the volume'
	vhd leaves of=base seed=5 'parent_path=..\..\..\base.vhd'
	put leaves /dir/leaves.vhd
	tried 4 'leaves the volume' 'a locator that leaves the volume' "$img:/dir/leaves.vhd"
	vhd lost of=base seed=6 'parent_path=.\nowhere\gone.vhd'
	put lost /other/lost.vhd
	tried 4 'looked for /other/nowhere/gone.vhd.*--parent' 'a parent that is not there' "$img:/other/lost.vhd"
	cat_reads lost "$img:/other/lost.vhd" '  --parent names it' --parent "$img:/base.vhd"
	cat_reads lost "$img:/other/lost.vhd" '  from anywhere' --parent "$d/base.vhd"
	run "$ntfsmap" cat --parent "$img:/base.vhd" "$img:/base.vhd"
	is "$status" 1 '--parent of an image that has none'
	tried 6 'parent_unique_id is not' '--parent names a wrong one' --parent "$img:/dir/mid.vhd" "$img:/other/lost.vhd"
	vhd wrong seed=7
	f mkdir /other/nowhere
	put wrong /other/nowhere/gone.vhd
	tried 6 'parent_unique_id is not .*--parent' 'the locator leads to a wrong one' "$img:/other/lost.vhd"
	run "$ntfsmap" info "$img:/other/lost.vhd"
	is "$status" 0 'info of an image without its parent'
	like "$out" 'parent: +not found, unique id [0-9a-f-]{36}' '  says what is missing'
	vhd fallback of=base seed=8 locators=w2ru,w2ku 'parent_path=.\elsewhere\base.vhd'
	put fallback /other/fallback.vhd
	cat_reads fallback "$img:/other/fallback.vhd" 'the second locator, when the first leads nowhere'
}

# Case: exact first, for each file of the chain anew.
cases() {
	vhd real seed=9
	vhd Real seed=10
	vhd bycase of=real seed=11 'parent_path=.\real.vhd'
	f mkdir /Case
	put Real /Case/Real.vhd
	put real /Case/real.vhd
	put bycase /Case/ByCase.vhd
	cat_reads bycase "$img:/Case/BYCASE.vhd" 'the exact case wins, though the child was found without case'
}

damage() {
	vhd a uuid=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa seed=12
	vhd b of=a uuid=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb seed=13 'parent_path=.\a.vhd'
	cp "$d/b.vhd" "$T/b.vhd"
	vhd a of=b uuid=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa seed=14 'parent_path=.\b.vhd'
	put a /a.vhd
	put b /b.vhd
	tried 2 'comes back to' 'a chain that is a loop' "$img:/b.vhd"
	tried 2 'comes back to' '  in plain files' "$d/b.vhd"

	cp "$d/base.vhd" "$d/old.vhd" && cp "$d/base.raw" "$d/old.raw"
	touch -d '2021-05-06 07:08:09 UTC' "$d/old.vhd"
	vhd young of=old seed=15 'parent_path=.\old.vhd' parent_time=$((1620284889 - 946684800))
	run "$ntfsmap" table --concise t "$d/young.vhd"
	unlike "$err" 'was changed after' 'a parent of the right age'
	touch -d '2021-05-06 07:08:11 UTC' "$d/old.vhd"
	run "$ntfsmap" table --concise t "$d/young.vhd"
	unlike "$err" 'was changed after' '  give or take two seconds'
	"$mkvhd" patch "$d/old.vhd" time=0x11111111
	"$mkvhd" patch "$d/old.vhd" at=start time=0x11111111
	touch -d '2021-05-06 07:08:09 UTC' "$d/old.vhd"
	run "$ntfsmap" table --concise t "$d/young.vhd"
	unlike "$err" 'was changed after' '  when it was made is another matter'
	touch -d '2021-05-06 07:08:12 UTC' "$d/old.vhd"
	run "$ntfsmap" table --concise t "$d/young.vhd"
	is "$status" 0 'a parent that was changed'
	like "$err" 'warning: .*old.vhd was changed after' '  is a warning'
	like "$("$ntfsmap" check "$d/young.vhd")" 'warn +parent ' '  check shows it'
	is "$("$ntfsmap" info --json "$d/young.vhd" | perl -MJSON::PP -0777 -ne 'print 0 + decode_json($_)->{parents}[0]{stale}')" 1 '  info too'
	vhd unknown of=old seed=16 'parent_path=.\old.vhd' parent_time=0
	run "$ntfsmap" table --concise t "$d/unknown.vhd"
	unlike "$err" 'was changed after' '  but not where the child does not know'
	put old /aged.vhd
	vhd aging of=old seed=17 'parent_path=.\aged.vhd' parent_time=$(($(date +%s) - 946684800))
	put aging /aging.vhd
	f mtime /aged.vhd "$(date +%s)"
	run "$ntfsmap" table --concise t "$img:/aging.vhd"
	unlike "$err" 'was changed after' 'on NTFS: a parent of the right age'
	f mtime /aged.vhd $(($(date +%s) - 1000))
	run "$ntfsmap" table --concise t "$img:/aging.vhd"
	like "$err" 'warning: .*aged.vhd was changed after' '  a parent that was changed'
}

# A chain that is one image too long.
long() {
	local i last=base
	for i in $(seq 1 32); do
		vhd "l$i" of="$last" seed="$i" allocate=10 "parent_path=.\\$last.vhd"
		last=l$i
	done
	cat_reads l31 "$d/l31.vhd" 'a chain of 32 images'
	tried 2 'at most 32' 'a chain of 33' "$d/l32.vhd"
	is "$("$ntfsmap" info --json "$d/l31.vhd" | perl -MJSON::PP -0777 -ne 'print 0 + @{decode_json($_)->{parents}}')" 31 'info shows all parents'
}

plain_files() {
	vhd plainmid of=base seed=18 'parent_path=.\base.vhd'
	vhd sub/plaintop of=plainmid seed=19 'parent_path=..\plainmid.vhd'
	cat_reads sub/plaintop "$d/sub/plaintop.vhd" 'plain files: a chain across folders'
	vhd abs of=base seed=20 locators=w2ku
	cat_reads abs "$d/abs.vhd" 'an absolute locator means the last part, in the same folder'
	qemu-img create -q -f vpc -o subformat=fixed,force_size "$d/fixed.vhd" 4M
	"$mkvhd" patch "$d/fixed.vhd" creator=win
	cp "$d/fixed.vhd" "$T/x" && truncate -s -512 "$T/x" && mv "$T/x" "$d/fixed.raw"
	vhd onfixed of=fixed seed=21 'parent_path=.\fixed.vhd'
	cat_reads onfixed "$d/onfixed.vhd" 'a fixed VHD is a parent'
	run "$ntfsmap" table -q --concise t "$d/onfixed.vhd"
	like "$out" '^t-base1,[^,]*,,ro,0 8192 linear [^ ]* 0;t,' '  as linear'
}

# What dmsetup's parser of --concise takes away leaves what device-mapper takes a path for.
concise() {
	local odd="$T/a,b;c d\\e.vhd"
	cp "$d/base.vhd" "$odd"
	run "$ntfsmap" table -q --concise t "$odd"
	is "$status" 0 'a file with an odd name: table --concise'
	like "$out" '/a\\,b\\;c\\\\ d\\\\\\\\e\.vhd ' '  comma, semicolon and backslash are escaped'
	run "$ntfsmap" table -q "$odd"
	like "$out" '/a,b;c\\ d\\\\e\.vhd ' '  and a plain table has its own escapes only'
}

# map against the model: all that is zero in it may be zero, all else is where map says.
map_is_right() {
	"$ntfsmap" map --json "$1" >"$T/map"
	perl -MJSON::PP -e '
		my ($map, $model) = @ARGV;
		local $/;
		open my $f, "<", $map or die; my $list = decode_json(<$f>);
		open my $m, "<:raw", $model or die; my $want = <$m>;
		my ($at, %open) = (0);
		for my $e (@$list) {
			die "gap at $at\n" if $e->{start} != $at;
			$at += $e->{length};
			my $bytes = "\0" x $e->{length};
			if ($e->{data}) {
				my $h = $open{$e->{device}} //= do { open my $g, "<:raw", $e->{device} or die; $g };
				seek $h, $e->{device_offset}, 0;
				read($h, $bytes, $e->{length}) == $e->{length} or die "short\n";
			}
			die "differs at $e->{start}\n" if $bytes ne substr $want, $e->{start}, $e->{length};
		}
		die "ends at $at\n" if $at != length $want;' "$T/map" "$2" 2>"$T/err"
	result $? "map of $3: what lies there is the disk" || diag "$(<"$T/err")"
}

maps() {
	map_is_right "$img:/dir/top.vhd" "$d/sub/top.raw" 'a chain on NTFS'
	is "$(perl -MJSON::PP -0777 -ne 'my %d; $d{$_->{depth}} = 1 for @{decode_json($_)}; print join " ", sort keys %d' "$T/map")" '0 1 2' '  with its depths'
	map_is_right "$d/onfixed.vhd" "$d/onfixed.raw" 'a chain in files'
	"$ntfsmap" map --json "$d/base.vhd" >"$T/ours"
	qemu-img map -f vpc --output=json "$d/base.vhd" >"$T/theirs"
	local tool
	for tool in ours theirs; do
		perl -MJSON::PP -0777 -ne 'for (@{decode_json($_)}) { printf "%s %s %d %d %d %s\n", @$_{qw(start length)}, $_->{depth},
			$_->{zero}, $_->{data}, $_->{offset} // "-" }' "$T/$tool" >"$T/$tool.txt"
	done
	ok "map of a dynamic VHD is qemu-img's" diff "$T/ours.txt" "$T/theirs.txt"
}

# device-mapper takes half a million arguments.
words() {
	qemu-img create -q -f vpc -o force_size "$T/large.vhd" 300M
	"$ntfsmap" reserve -q "$T/large.vhd" all
	volume 1G -c 512
	f file /large.vhd "$(stat -c %s "$T/large.vhd")" runs=524281 fill=stdin <"$T/large.vhd"
	"$ntfsmap" -q "$img:/large.vhd" >"$T/table"
	is "$? $(wc -l <"$T/table")" '0 1' 'a file in as many pieces as fit in a table'
	is "$(cut -d' ' -f4- "$T/table" | wc -w)" $((524281 + 5)) '  all of them are in it'
	f remove /large.vhd
	f file /large.vhd "$(stat -c %s "$T/large.vhd")" runs=524283 fill=stdin <"$T/large.vhd"
	run "$ntfsmap" "$img:/large.vhd"
	is "$status" 2 'and in more'
	like "$err" '524283 pieces.*524288 arguments' '  says how many'
	rm "$T/large.vhd" "$img"
}

# Parents must be as safe as what is mapped read-only.
unsafe_parent() {
	f file /holder.vhd "$(stat -c %s "$d/base.vhd")" runs=2 fill=stdin <"$d/base.vhd"
	vhd child of=base seed=30 'parent_path=.\holder.vhd'
	put child /child.vhd
	f sizes /holder.vhd init=65536
	tried 2 'holder\.vhd: only the first 65536' 'a parent whose end was never written' "$img:/child.vhd"
	like "$out" '--static' '  names what reads it'
}

on_ntfs
extents
locators
cases
damage
plain_files
concise
maps
unsafe_parent
long
words
done_testing
