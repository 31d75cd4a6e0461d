#!/bin/bash
# qcow2 and qcow for the verbs that make no device: how backing files and data files are found, on NTFS and in plain
# files; what is refused, and with which words; contents, extents, snapshots, facts; reserve. See qcow-open.t for devices.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
# shellcheck source=lib/ntfs.sh
. "$top/tests/lib/ntfs.sh"
# shellcheck source=lib/images.sh
. "$top/tests/lib/images.sh"
need mkntfs ntfscat perl qemu-img qemu-io flock
d=$T/images
mkdir "$d" && cd "$d" || bail "no $d" # from where qemu looks for data files

# create NAME OPTION... SIZE: $d/NAME
create() {
	(cd "$d" && qemu-img create -q "${@:2:$#-2}" "$1" "${!#}" >"$T/log" 2>&1) || bail "qemu-img create $*: $(<"$T/log")"
	truncate -s %512 "$d/$1" # see marks()
}
# fill NAME COMMAND...: by qemu-io, and its model $d/NAME.raw
fill() {
	local name=$1 command args=()
	shift
	for command; do args+=(-c "$command"); done
	qemu-io "${args[@]}" "$d/$name" >"$T/log" 2>&1 || bail "qemu-io $name: $(<"$T/log")"
	qemu-img convert -O raw "$d/$name" "$d/$name.raw" || bail "qemu-img convert $name"
}
# put NAME PATH: the file onto the volume
put() {
	f file "$2" "$(stat -c %s "$d/$1")" runs=3 order=shuffle seed=3 fill=stdin <"$d/$1"
}
head -c 3145728 /dev/urandom >"$d/base.img"
create mid.qcow2 -f qcow2 -b base.img -F raw 4M
fill mid.qcow2 'write -P 1 1M 200k' 'write -z 2M 128k' 'write -c -P 2 3M 64k'
create old.qcow -f qcow -b mid.qcow2 -F qcow2 5M
fill old.qcow 'write -P 3 2100k 64k'
create top.qcow2 -f qcow2 -o cluster_size=4k,extended_l2=off -b old.qcow -F qcow 6M
fill top.qcow2 'write -P 4 100k 50k' 'write -z 3M 64k'

on_ntfs() {
	volume 64M
	f mkdir /dir
	put base.img /dir/Base.IMG
	put mid.qcow2 /dir/mid.qcow2
	put old.qcow /dir/old.qcow
	put top.qcow2 /dir/top.qcow2
	cat_reads mid.qcow2 "$img:/dir/mid.qcow2" 'a qcow2 on a raw image, in another case'
	cat_reads top.qcow2 "$img:/dir/top.qcow2" 'a chain of four, in three formats'
	exits 2 'plain table refuses' "$ntfsmap" "$img:/dir/top.qcow2"
	run "$ntfsmap" table -q --concise t "$img:/dir/top.qcow2"
	tr ';' '\n' <"$T/out" >"$T/devices"
	is "$(cut -d, -f1,4 "$T/devices" | xargs)" 't-base3,ro t-base2,ro t-base1,ro t,rw' 'table --concise: parents first, read-only'
	is "$(cut -d, -f2 "$T/devices" | sed 's/-[0-9A-F]\{16\}-.*//' | xargs)" \
		'NTFSMAP-BASE-RAW NTFSMAP-BASE-QCOW2 NTFSMAP-BASE-QCOW NTFSMAP-QCOW2' '  with UUIDs that name their formats'
	like "$(sed -n 1p "$T/devices")" ',0 [0-9]+ linear ' '  the raw one is linear'
	like "$(sed -n 2p "$T/devices")" ',0 8192 vdisk qcow2 [35] read_only (file_bytes [0-9]+ )?parent /dev/mapper/t-base3 1 ' '  the qcow2 on it'
	like "$(sed -n 4p "$T/devices")" ',0 12288 vdisk qcow2 [24] .*parent /dev/mapper/t-base1 1 ' '  the child'
	is "$("$ntfsmap" info --json "$img:/dir/top.qcow2" | json '{parents}[2]{image}{format}')" raw 'info shows all parents'
}

names() {
	create posix.qcow2 -f qcow2 -u -b /elsewhere/base.img -F raw 4M
	put posix.qcow2 /posix.qcow2
	tried 4 'looked for /elsewhere/base.img.*--parent' 'an absolute name on NTFS is looked up from the root' "$img:/posix.qcow2"
	f mkdir /elsewhere
	put base.img /elsewhere/base.img
	exits 0 '  where it is found' "$ntfsmap" table -q --concise t "$img:/posix.qcow2"
	exits 0 '  in plain files, by its last part in the same folder' "$ntfsmap" table -q --concise t "$d/posix.qcow2"
	create leaves.qcow2 -f qcow2 -u -b ../../base.img -F raw 4M
	put leaves.qcow2 /dir/leaves.qcow2
	tried 4 'leaves the volume' 'a name that leaves the volume' "$img:/dir/leaves.qcow2"
	create windows.qcow2 -f qcow2 -u -b 'C:\dir\mid.qcow2' -F qcow2 4M
	put windows.qcow2 /windows.qcow2
	exits 0 'a name of Windows' "$ntfsmap" table -q --concise t "$img:/windows.qcow2"
	create nbd.qcow2 -f qcow2 -u -b nbd://host/x -F raw 4M
	tried 4 'names none that could be here.*--parent' 'a name of what only qemu can reach' "$d/nbd.qcow2"
	exits 0 '  --parent names another' "$ntfsmap" table -q --concise t --parent "$d/base.img" "$d/nbd.qcow2"
	create vmdk.qcow2 -f qcow2 -u -b x.vmdk -F vmdk 4M
	tried 2 'the format "vmdk"' 'a backing format that is not supported' "$d/vmdk.qcow2"
	create loop.qcow2 -f qcow2 -u -b loap.qcow2 -F qcow2 4M
	cp "$d/loop.qcow2" "$d/loap.qcow2"
	tried 2 'comes back to' 'a chain that is a loop' "$d/loop.qcow2"
	exits 1 '--parent of an image that has none' "$ntfsmap" cat --parent "$d/base.img" "$d/base.img"
	# What the image says counts, not what the contents look like: a guest may have written a header.
	head -c 65536 "$d/mid.qcow2" >"$d/fake.img"
	truncate -s 1M "$d/fake.img"
	create onfake.qcow2 -f qcow2 -b fake.img -F raw 1M
	fill onfake.qcow2 'write -P 9 512k 64k'
	cat_reads onfake.qcow2 "$d/onfake.qcow2" 'a raw parent that looks like a qcow2 is raw, if the child says so'
	cat_reads onfake.qcow2 "$d/onfake.qcow2" '  also when --parent names it' --parent "$d/fake.img"
}

# qemu reads the bytes that do not fill a sector, and a device cannot have them.
tails() {
	head -c 1000100 "$d/base.img" >"$d/tail.img"
	create ontail.qcow2 -f qcow2 -b tail.img -F raw 1M
	tried 2 'last 164 bytes of its parent .*tail.img do not fill a sector.*truncate -s %512' 'a raw parent with a tail' "$d/ontail.qcow2"
	truncate -s %512 "$d/tail.img"
	qemu-img convert -O raw "$d/ontail.qcow2" "$d/ontail.qcow2.raw"
	cat_reads ontail.qcow2 "$d/ontail.qcow2" '  and when it was made longer'
	head -c 1000100 "$d/base.img" >"$d/tail.img"
	create under.qcow2 -f qcow2 -b tail.img -F raw 999936
	exits 0 '  an image that does not reach as far' "$ntfsmap" table -q --concise t "$d/under.qcow2"
}

data_files() {
	create data.qcow2 -f qcow2 -o data_file=data.img,data_file_raw=on 4M
	fill data.qcow2 'write -P 5 1M 1M'
	cp --sparse=never "$d/data.img" "$d/x" && mv "$d/x" "$d/data.img"
	cat_reads data.qcow2 "$d/data.qcow2" 'an image with a data file'
	exec 5<"$d/data.img"
	flock -s 5
	tried 5 'data.img: another program .* has the file' '  a data file that somebody has locked' "$d/data.qcow2"
	exec 5<&-
	exits 2 '  plain table refuses' "$ntfsmap" "$d/data.qcow2"
	like "$err" 'has a data file, so it takes several devices' '  says why'
	put data.qcow2 /dir/data.qcow2
	tried 4 'keeps its data in another file, and /dir/data.img is not there' 'a data file that is not there' "$img:/dir/data.qcow2"
	run "$ntfsmap" info "$img:/dir/data.qcow2"
	is "$status" 0 '  info'
	like "$out" 'data file: +not found: ' '  says so'
	put data.img /dir/data.img
	cat_reads data.qcow2 "$img:/dir/data.qcow2" '  and when it is'
	run "$ntfsmap" table -q --concise t "$img:/dir/data.qcow2"
	is "$(tr ';' '\n' <"$T/out" | cut -d, -f1,4 | xargs)" 't-data,rw t,rw' '  table --concise: it comes first'
	like "$out" '^t-data,NTFSMAP-DATA-RAW-.*;t,NTFSMAP-QCOW2-.* data /dev/mapper/t-data ' '  and the image names it'
	run "$ntfsmap" table -q --readonly --concise t "$img:/dir/data.qcow2"
	is "$(tr ';' '\n' <"$T/out" | cut -d, -f1,4 | xargs)" 't-data,ro t,ro' '  --readonly: both'
	like "$("$ntfsmap" info "$img:/dir/data.qcow2")" 'data file: +data.img \(raw disk\)' '  info'
	f sizes /dir/data.img init=65536
	tried 2 'data.img: only the first 65536 of' '  whose end was never written' "$img:/dir/data.qcow2"
	f sizes /dir/data.img data=2097152 init=2097152
	tried 2 'its data file .* has 2097152 bytes, less than' '  that is too short for a raw disk' "$img:/dir/data.qcow2"
	exits 0 '  --static reads that' "$ntfsmap" table -q --static --concise t "$img:/dir/data.qcow2"
	like "$out" ' linear .* zero' '  with zeros behind it'
	create short-data.qcow2 -f qcow2 -o data_file=short.img 4M
	fill short-data.qcow2 'write -P 4 0 1M'
	truncate -s 1M "$d/short.img"
	tried 2 'short.img has 1048576 bytes, less than the disk.s 4194304.*truncate -s 4194304.*--readonly' \
		'a data file that could not take all writes' "$d/short-data.qcow2"
	exits 0 '  --readonly' "$ntfsmap" table -q --concise t --readonly "$d/short-data.qcow2"
	cat_reads short-data.qcow2 "$d/short-data.qcow2" '  reads it'
	truncate -s 4M "$d/short.img"
	exits 0 '  and when it is longer' "$ntfsmap" table -q --concise t "$d/short-data.qcow2"
	create self.qcow2 -f qcow2 -o data_file=other.img 4M
	perl -e 'local $/; open my $f, "+<:raw", $ARGV[0]; $_ = <$f>; s/other\.img/self.qcow/; seek $f, 0, 0; print $f $_' "$d/self.qcow2"
	cp "$d/self.qcow2" "$d/self.qcow"
	tried 2 'comes back to' 'a data file that is the image itself' "$d/self.qcow"
}

# An image can come from anywhere, and name anything.
far_data() {
	local name
	mkdir -p "$d/box/in"
	create far.qcow2 -f qcow2 -o data_file=far.img,data_file_raw=on 1M
	fill far.qcow2 'write -P 6 0 1M'
	cp --sparse=never "$d/far.img" "$T/full" && cp "$T/full" "$d/far.img" && cp "$T/full" "$d/box/in/far.img"
	ln -s ../far.img "$d/box/a.img"
	# names of seven bytes, as the one that qemu wrote
	for name in ../far. a.img in; do
		name_data "$name"
		case $name in
		../far.) mv "$d/far.img" "$d/far." ;;
		a.img) mv "$d/far." "$d/far.img" ;;
		esac
		tried 2 "$([ "$name" = in ] && echo no regular file || echo 'not in its folder.*--data')" "a plain data file \"$name\"" "$d/box/i.qcow2"
	done
	name_data ../x.
	mkfifo "$d/x."
	tried 2 'x\., which is no regular file' '  a pipe' "$d/box/i.qcow2"
	exits 0 '  --data names another' "$ntfsmap" table -q --concise t --data "$d/far.img" "$d/box/i.qcow2"
	cat_reads far.qcow2 "$d/box/i.qcow2" '  and reads it' --data "$d/far.img"
	exits 1 '  of an image that has none' "$ntfsmap" cat --data "$d/far.img" "$d/base.img"
	like "$err" '--data is for images that have one' '  says so'
	ln -sf in/far.img "$d/box/a.img"
	name_data a.img
	cat_reads far.qcow2 "$d/box/i.qcow2" 'a plain data file below the folder of its image'
	name_data ../far.
	f mkdir /box
	(cd "$d/box" && f file /box/i.qcow2 "$(stat -c %s i.qcow2)" fill=stdin <i.qcow2)
	put far.img /far.
	tried 2 'names the data file /far\., which would be written and is not in its folder.*--data' 'on NTFS, in another folder' "$img:/box/i.qcow2"
	exits 0 '  --readonly' "$ntfsmap" table -q --concise t --readonly "$img:/box/i.qcow2"
	cat_reads far.qcow2 "$img:/box/i.qcow2" '  reads it'
	run "$ntfsmap" table -q --concise t --data "$img:/far." "$img:/box/i.qcow2"
	is "$status" 0 '  --data'
	is "$(tr ';' '\n' <"$T/out" | cut -d, -f1,4 | xargs)" 't-data,rw t,rw' '  takes it for writing'
	run "$ntfsmap" open --test --data "$img:/far." "$img:/box/i.qcow2" t
	like "$err" 'box/i.qcow2: the data are in .*:/far\.' '  open says where the data are'
	f file /over.img 1M runs=2
	f corrupt-run /over.img overlap run=1 with=/box/i.qcow2
	tried 6 'box/i.qcow2 .*have the same clusters|over.img .*have the same clusters' '  --data with a file that shares clusters with the image' \
		--quick --data "$img:/over.img" "$img:/box/i.qcow2"
	tried 2 'box/i.qcow2: its LCN [0-9]+ also belongs to .*"over.img"' '  without --quick the image alone shows it' \
		--data "$img:/over.img" "$img:/box/i.qcow2"
}

# A backing file is only read, and often in the folder above; but it is a file.
far_parent() {
	create up.qcow2 -f qcow2 -b "$d/base.img" -F raw 4M
	fill up.qcow2 'write -P 7 1M 64k'
	mkdir "$d/down" && cp "$d/up.qcow2" "$d/down/up.qcow2"
	qemu-img rebase -u -F raw -b ../base.img "$d/down/up.qcow2"
	cat_reads up.qcow2 "$d/down/up.qcow2" 'a backing file in the folder above'
	qemu-img rebase -u -F raw -b ../../../../../../../../../../dev/null "$d/down/up.qcow2"
	tried 2 'dev/null, which is no regular file' '  a device' "$d/down/up.qcow2"
	qemu-img rebase -u -F raw -b ../../../../../../../../../../proc/version "$d/down/up.qcow2"
	tried 2 'on another file system.*--parent' '  on another file system' "$d/down/up.qcow2"
}

# name_data NAME: $d/box/i.qcow2 is far.qcow2 with that data file
name_data() {
	perl -e 'local $/; my ($from, $to, $name) = @ARGV; open my $f, "<:raw", $from; $_ = <$f>; s/far\.img/pack "a7", $name/e;
		open my $t, ">:raw", $to; print $t $_' "$d/far.qcow2" "$d/box/i.qcow2" "$1"
}

# Kinds of extents, told as qemu-img tells them; neighbours that differ only in what qemu does not merge are one.
extents() {
	perl -MJSON::PP -0777 -ne 'my @l;
		for (@{decode_json($_)}) {
			my $o = $_->{data} ? $_->{offset} // "packed" : "-";
			my $p = $l[-1];
			my $on = $p && $p->[2] == $_->{depth} && ($p->[3] eq $o && $o !~ /\d/ || $o =~ /\d/ && $p->[3] =~ /\d/ && $p->[3] + $p->[1] == $o);
			if ($on) { $p->[1] += $_->{length} } else { push @l, [@$_{qw(start length depth)}, $o] }
		}
		print "@$_\n" for @l' "$1"
}

maps() {
	local name
	create short.qcow2 -f qcow2 -b mid.qcow2 -F qcow2 6M
	fill short.qcow2 'write -P 1 5M 10k'
	create sub.qcow2 -f qcow2 -o extended_l2=on -b mid.qcow2 -F qcow2 4M
	fill sub.qcow2 'write -P 1 100k 10k' 'write -z 1M 8k' 'write -c -P 3 2M 64k'
	create v2.qcow2 -f qcow2 -o compat=0.10 4M
	fill v2.qcow2 'write -P 1 100k 300k' 'write -c -P 3 2M 256k'
	qemu-img snapshot -c one "$d/v2.qcow2"
	fill v2.qcow2 'write -P 2 200k 10k'
	for name in mid.qcow2 top.qcow2 short.qcow2 sub.qcow2 v2.qcow2 data.qcow2 old.qcow; do
		"$ntfsmap" map --json "$d/$name" >"$T/ours"
		qemu-img map --output=json "$d/$name" >"$T/theirs"
		is "$(extents "$T/ours")" "$(extents "$T/theirs")" "map of $name is qemu-img's"
		perl -MJSON::PP -e '
			my ($map, $model) = @ARGV;
			local $/;
			open my $f, "<", $map or die; my $list = decode_json(<$f>);
			open my $m, "<:raw", $model or die; my $want = <$m>;
			for my $e (@$list) {
				next if $e->{compressed};
				my $bytes = "\0" x $e->{length};
				if ($e->{data}) {
					open my $h, "<:raw", $e->{device} or die;
					seek $h, $e->{device_offset}, 0;
					read $h, $bytes, $e->{length};
				}
				die "differs at $e->{start}\n" if $bytes ne substr $want, $e->{start}, $e->{length};
			}' "$T/ours" "$d/$name.raw" 2>"$T/err"
		result $? '  what lies there is the disk' || diag "$(<"$T/err")"
	done
	like "$("$ntfsmap" map "$d/v2.qcow2")" '0x200000 .* compressed +.*v2.qcow2' 'text: compressed clusters have no place'
}

# Names and ids that a table cannot say: never is that the disk itself.
odd_snapshots() {
	local long name
	printf -v long '%0255d' 5
	create odd.qcow2 -f qcow2 1M
	fill odd.qcow2 'write -P 1 0 64k'
	cp "$d/odd.qcow2.raw" "$d/tab.raw"
	qemu-img snapshot -c $'tab\tname' "$d/odd.qcow2"
	fill odd.qcow2 'write -P 2 0 64k'
	cp "$d/odd.qcow2.raw" "$d/long.raw"
	qemu-img snapshot -c "$long" "$d/odd.qcow2"
	fill odd.qcow2 'write -P 3 0 64k'
	truncate -s %512 "$d/odd.qcow2"
	run "$ntfsmap" table -q --concise t --snapshot=$'tab\tname' "$d/odd.qcow2"
	like "$out" ' read_only snapshot 1 1 ' 'a snapshot with a tab in its name: the table has its id'
	cat_reads tab "$d/odd.qcow2" '  contents' --snapshot=$'tab\tname'
	run "$ntfsmap" table -q --concise t --snapshot="$long" "$d/odd.qcow2"
	like "$out" ' read_only snapshot 2 1 ' 'a snapshot with a name of 255 bytes: the table has its id'
	cat_reads long "$d/odd.qcow2" '  contents' --snapshot="$long"
	cp "$d/odd.qcow2" "$d/sound.qcow2"
	for name in $'\t' ' ' '\' 2; do
		odd_id "s/1(?=tab\\tname)/chr(${name:+$(printf %d "'$name")})/e"
		tried 2 'no id of its own that a table can say.*convert' "a snapshot with the id \"$name\"" --snapshot=$'tab\tname' "$d/odd.qcow2"
	done
	odd_id 's/\0\x01\0\x08(?=.{20,60}1tab)/\0\0\0\x09/s'
	tried 2 'no id of its own' 'a snapshot without an id' --snapshot=$'1tab\tname' "$d/odd.qcow2"
}
# odd_id CODE: $d/odd.qcow2, with its bytes changed
odd_id() {
	perl -e 'local $/; my ($from, $to, $code) = @ARGV; open my $f, "<:raw", $from; $_ = <$f>;
		eval $code or die "nothing to change\n"; open $f, ">:raw", $to; print $f $_' "$d/sound.qcow2" "$d/odd.qcow2" "$1" || bail 'no entry'
}

snapshots() {
	local name
	create snap.qcow2 -f qcow2 4M
	fill snap.qcow2 'write -P 1 0 1M'
	cp "$d/snap.qcow2.raw" "$d/one.raw"
	qemu-img snapshot -c one "$d/snap.qcow2"
	fill snap.qcow2 'write -P 2 512k 1M'
	cp "$d/snap.qcow2.raw" "$d/1.raw" # that is the name of the second
	qemu-img snapshot -c 1 "$d/snap.qcow2"
	fill snap.qcow2 'write -P 3 1M 1M'
	cat_reads snap.qcow2 "$d/snap.qcow2" 'an image with snapshots'
	cat_reads one "$d/snap.qcow2" '  the first by its name' --snapshot=one
	cat_reads one "$d/snap.qcow2" '  and by its id, which comes before a name' --snapshot=1
	cat_reads 1 "$d/snap.qcow2" '  the second by its id' --snapshot=2
	run "$ntfsmap" table -q --concise t --snapshot=one "$d/snap.qcow2"
	like "$out" '^t,[^,]*,,ro,0 8192 vdisk qcow2 3 read_only snapshot 1 1 ' '  the table has the id'
	exits 1 '  a plain table' "$ntfsmap" --snapshot=one "$d/snap.qcow2"
	like "$err" '--snapshot=ID --concise' '  says what to use'
	tried 4 'has no snapshot "none"; it has 1 \("one"\), 2 \("1"\)' 'a snapshot that is not there' --snapshot=none "$d/snap.qcow2"
	tried 4 'it has none at all' '  nor any' --snapshot=x "$d/mid.qcow2"
	tried 1 'only a qcow2 has snapshots' '  of a raw image' --snapshot=x "$d/base.img"
	odd_snapshots
	run "$ntfsmap" info "$d/snap.qcow2"
	like "$out" 'snapshots: +ID +NAME .* 1 +one +[0-9]{4}-.* 4\.0 MiB' 'info shows them'
	"$ntfsmap" info --json "$d/snap.qcow2" >"$T/ours"
	qemu-img info --output=json "$d/snap.qcow2" >"$T/theirs"
	for name in '{snapshots}[1]{id}' '{snapshots}[1]{name}' '{snapshots}[0]{"date-sec"}' '{snapshots}[0]{"date-nsec"}' \
		'{snapshots}[0]{"vm-state-size"}' '{"cluster-size"}' '{"dirty-flag"}' '{"format-specific"}{data}{compat}' \
		'{"format-specific"}{data}{"refcount-bits"}' '{"format-specific"}{data}{"compression-type"}' \
		'{"format-specific"}{data}{"extended-l2"}' '{"format-specific"}{data}{"lazy-refcounts"}' '{"format-specific"}{data}{corrupt}'; do
		is "$(json "{image}$name" <"$T/ours")" "$(json "$name" <"$T/theirs")" "  $name is qemu-img's"
	done
	"$ntfsmap" info --json "$d/top.qcow2" >"$T/ours"
	is "$(json '{image}{"backing-filename"}' <"$T/ours") $(json '{image}{"backing-filename-format"}' <"$T/ours")" 'old.qcow qcow' \
		'info: backing file'
}

marks() {
	local name bit
	for bit in 1 2; do
		cp "$d/snap.qcow2" "$d/marked.qcow2"
		# shellcheck disable=SC2059 # the byte: incompatible feature bits 0 and 1
		printf "\\x$bit" | dd of="$d/marked.qcow2" bs=1 seek=79 conv=notrunc status=none
		tried 6 'ntfsmap check --repair .*marked.qcow2.*--readonly' "incompatible feature bit $((bit - 1))" "$d/marked.qcow2"
		exits 0 '  --readonly' "$ntfsmap" table -q --concise t --readonly "$d/marked.qcow2"
		cat_reads snap.qcow2 "$d/marked.qcow2" '  reads it'
		like "$("$ntfsmap" info "$d/marked.qcow2")" 'marked: +(dirty|corrupt)' '  info'
	done
	create bitmaps.qcow2 -f qcow2 4M
	qemu-img bitmap --add "$d/bitmaps.qcow2" a && qemu-img bitmap --add "$d/bitmaps.qcow2" b
	truncate -s %512 "$d/bitmaps.qcow2"
	run "$ntfsmap" table "$d/bitmaps.qcow2"
	is "$status" 0 'an image with bitmaps'
	like "$err" '2 bitmaps of backup programs will be invalid' '  is a note'
	run "$ntfsmap" table --concise t --readonly "$d/bitmaps.qcow2"
	unlike "$err" invalid '  but not for a reader'
	create secret.qcow2 -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s 4M
	tried 2 'AES.*qemu-img convert' 'an encrypted image' "$d/secret.qcow2"
	qemu-io -c 'write -c -P 1 0 64k' "$d/bitmaps.qcow2" >/dev/null
	truncate -s $(($(stat -c %s "$d/bitmaps.qcow2") / 512 * 512 + 100)) "$d/bitmaps.qcow2"
	tried 2 'truncate -s %512' 'a plain file that ends inside a sector' "$d/bitmaps.qcow2"
}

statics() {
	run "$ntfsmap" table -q --static --concise t "$d/mid.qcow2"
	is "$status" 2 '--static: compressed clusters'
	like "$err" 'mid.qcow2: byte 3145728 of the disk is in a compressed cluster \(at byte [0-9]+ of the file\).*convert' '  names the first'
	create cut.qcow2 -f qcow2 -o preallocation=metadata 1M
	qemu-io -c 'write -P 6 0 1M' "$d/cut.qcow2" >/dev/null
	truncate -s $(($(stat -c %s "$d/cut.qcow2") - 5120)) "$d/cut.qcow2"
	fill cut.qcow2 'read 0 1M'
	cat_reads cut.qcow2 "$d/cut.qcow2" 'an image that was cut off inside its last cluster'
	run "$ntfsmap" table -q --static --concise t "$d/cut.qcow2"
	like "$out" ',2038 10 zero$' '  --static has zeros there'
}

# refcounts, tables, and what the library and qemu can write then
reserves() {
	local options size
	for options in cluster_size=64k cluster_size=512,refcount_bits=64 cluster_size=2M,refcount_bits=1 extended_l2=on,refcount_bits=64 compat=0.10; do
		create r.qcow2 -f qcow2 -o "$options" 24M
		fill r.qcow2 'write -P 1 1M 1M' 'write -c -P 2 4M 2M'
		exits 0 "$options: reserve 5M" "$ntfsmap" reserve -q "$d/r.qcow2" 5M
		size=$(stat -c %s "$d/r.qcow2")
		exits 0 '  again' "$ntfsmap" reserve "$d/r.qcow2" 5M
		like "$err" 'already' '  has nothing to do'
		is "$(stat -c %s "$d/r.qcow2")" "$size" '  and does nothing'
		ok '  qemu-img finds no fault' qemu-img check -q "$d/r.qcow2"
		ok '  and the same contents' qemu-img compare -q "$d/r.qcow2" "$d/r.qcow2.raw"
		"$top/build/tests/vdiskio" "$d/r.qcow2" <<<'write 10485760 5242880 5' >"$T/filled"
		like "$(<"$T/filled")" '^ok' '  there is as much room as was asked for'
		exits 0 '  reserve all' "$ntfsmap" reserve -q "$d/r.qcow2" all
		size=$(stat -c %s "$d/r.qcow2")
		"$top/build/tests/vdiskio" "$d/r.qcow2" <<<'write 0 25165824 6' >"$T/filled"
		like "$(<"$T/filled")" '^ok' '  the whole disk can be written'
		is "$(stat -c %s "$d/r.qcow2")" "$size" '  in the same file'
		ok '  qemu-img finds no fault' qemu-img check -q "$d/r.qcow2"
		ok '  qemu can write to it' qemu-io -c 'write -P 9 3M 5M' "$d/r.qcow2"
		ok '  and finds no fault' qemu-img check -q "$d/r.qcow2"
		rm "$d/r.qcow2"
	done
	create r.qcow -f qcow 24M
	fill r.qcow 'write -P 1 1M 1M'
	exits 0 'qcow: reserve all' "$ntfsmap" reserve -q "$d/r.qcow" all
	ok '  the same contents' qemu-img compare -q "$d/r.qcow" "$d/r.qcow.raw"
	"$top/build/tests/vdiskio" "$d/r.qcow" <<<'write 0 25165824 6' >"$T/filled"
	like "$(<"$T/filled")" '^ok' '  the whole disk can be written'
	ok '  the new bytes have their place on the disk' test $(($(stat -c %b "$d/r.qcow") * 512)) -ge 25165824
}

on_ntfs
names
tails
data_files
far_data
far_parent
maps
snapshots
marks
statics
reserves
done_testing
