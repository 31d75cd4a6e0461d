#!/bin/bash
# What the generator of systemd's units makes of ntfsmaptab and fstab, with systemd-escape and systemd-analyze as
# judges.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need systemd-escape systemd-analyze
cd "$top" || bail "no $top"
units=$T/units made=$T/made

make -s install-units PREFIX="$T/usr" BOOTDIR="$T/lib" UDEVDIR="$T/udev" UNITDIR="$units" \
	GENERATORDIR="$T/generators" >/dev/null || bail "make install-units failed"
mkdir -p "$T/usr/sbin" && cp build/bin/ntfsmap "$T/usr/sbin/"
: >"$T/fstab"

# generate: a run on $T/tab and $T/fstab
generate() {
	rm -rf "$made"
	mkdir "$made"
	run env NTFSMAP_TAB="$T/tab" NTFSMAP_FSTAB="$T/fstab" "$T/generators/ntfsmap-generator" "$made" "$made" "$made"
}

# tab LINE...
tab() {
	printf '%s\n' "$@" >"$T/tab"
	generate
}

device() {
	systemd-escape --path --suffix=device -- "$1"
}

# The settings of the unit of NAME.
settings() {
	cat "$made/$(systemd-escape --template=ntfsmap@.service -- "$1").d/50-ntfsmaptab.conf"
}

# has NAME LINE WHAT, has_not: a line of its settings
has() {
	ok "$3" grep -Fqx -- "$2" <(settings "$1")
}

has_not() {
	ok "$3" test -z "$(settings "$1" | grep -E -- "$2")"
}

# linked UNIT HOW NAME WHAT, not_linked
linked() {
	ok "$4" test -L "$made/$1.$2/$(systemd-escape --template=ntfsmap@.service -- "$3")"
}

not_linked() {
	ok "$4" test ! -L "$made/$1.$2/$(systemd-escape --template=ntfsmap@.service -- "$3")"
}

# --- nothing to do ---
rm -f "$T/tab"
generate
is "$status:$out$err:$(ls -A "$made")" 0:: "no ntfsmaptab: nothing is made, nothing is said"
tab '# a comment' ''
is "$status:$out$err:$(ls -A "$made")" 0:: "nor for an empty one"
run "$T/generators/ntfsmap-generator"
is "$status" 1 "without a folder: exit 1"

# --- one entry ---
tab 'disk UUID=175383b66ad61018:/images/disk.vhd'
is "$status:$out$err" 0: "an entry: no complaint"
volume=$(device /dev/disk/by-uuid/175383B66AD61018)
has disk "BindsTo=$volume" "it goes with its volume"
has disk "After=$volume" "  and waits for it"
has disk "Conflicts=umount.target" "it ends at shutdown"
has disk "Before=umount.target" "  before that is through"
has disk "Before=ntfsmap.target" "the boot waits for it"
linked ntfsmap.target requires disk "it is a part of the target"
linked "$volume" wants disk "the volume starts it"
linked "$(device /dev/mapper/disk)" requires disk "the device starts it"
is "$(ls -A "$made/$volume.d" 2>/dev/null)" '' "no timeout: systemd's own"
like "$(readlink "$made/sysinit.target.wants/ntfsmap.target")" '/ntfsmap\.target$' "the target is a part of the boot"

# --- options ---
tab 'a /dev/sda3:/a noauto' 'b /dev/sda3:/b nofail' 'c /dev/sda3:/c x-initrd.attach' 'd /dev/sdb1:/d'
volume=$(device /dev/sda3)
not_linked ntfsmap.target requires a "noauto: not at boot"
not_linked ntfsmap.target wants a "  in no way"
not_linked "$volume" wants a "  nor when the volume appears"
has_not a 'ntfsmap.target' "  the boot does not wait for it"
linked "$(device /dev/mapper/a)" requires a "  but with what is mounted from it"
linked ntfsmap.target wants b "nofail: at boot, and may fail"
not_linked ntfsmap.target requires b "  no more than that"
has_not b '^Before=ntfsmap.target' "  the boot does not wait for it"
has_not c 'umount.target|BindsTo' "x-initrd.attach: no end at shutdown"
has c "ExecStop=" "  nor at any time"
has c "After=$volume" "  it still waits for the volume"
has d "Conflicts=umount.target" "the one behind it does end"
tab 'a /dev/sda3:/a timeout=20' 'b /dev/sda3:/b timeout=5' 'c /dev/sdb3:/c timeout=0' 'd /dev/sdc3:/d'
like "$(cat "$made/$volume.d/"*)" 'JobRunningTimeoutSec=20$' "timeout=: the longest for a volume"
like "$(cat "$made/$(device /dev/mapper/a).d/"*)" 'JobRunningTimeoutSec=320$' "  and more for the image"
like "$(cat "$made/$(device /dev/mapper/c).d/"*)" 'JobRunningTimeoutSec=infinity$' "  for ever where the volume is"
like "$(cat "$made/$(device /dev/sdb3).d/"*)" 'JobRunningTimeoutSec=infinity$' "  0: for ever"
tab 'a /dev/sda3:/a parent=/dev/sdb1:/p,overlay=UUID=1234-ABCD' 'b /dev/sda3:/b data=LABEL=x:/p,overlay=tmpfs' \
	'c /srv/my\040files/100%.raw host=/mnt/deep/win'
has a "After=$(device /dev/sdb1)" "parent=: waits for that, too"
has a "After=$(device /dev/disk/by-uuid/1234-ABCD)" "  and for overlay=, as udev has its UUID"
has b "After=$(device /dev/disk/by-label/x)" "  and for data="
has_not b tmpfs "  but not for tmpfs"
has c 'RequiresMountsFor="/srv/my files/100%%.raw"' "a path: what it is mounted from"
has c 'RequiresMountsFor="/mnt/deep"' "  host=: the folder that the mount point is in"

tab 'a /dev/sda3:/a timeout=5,parent=/dev/sdb1:/p'
is "$(grep -h Timeout "$made/$(device /dev/sdb1).d/50-ntfsmap-timeout.conf" 2>&1)" JobRunningTimeoutSec=5 \
	"timeout= is that of the devices of options, too"

# --- names ---
n=0
lines=()
while read -r name; do
	lines+=("$name LABEL=n$((n += 1)):/x")
done <<'END'
with-dash
.hidden
a+b:c=d@e_f.g#h
Ünder
END
tab "${lines[@]}"
like "$err" "tab:4: .*cannot be a device's name" "a name that is none: the line is said"
for name in with-dash .hidden a+b:c=d@e_f.g#h; do
	ok "the unit of $name, by systemd-escape" settings "$name"
	linked "$(device "/dev/mapper/$name")" requires "$name" "  its device"
done
# What udev calls a label: each of these is one byte or a character of UTF-8.
tab 'a LABEL=My\040Disk:/x' 'b LABEL=a/b:/x' 'c PARTUUID=ABCDEF01-02:/x' 'd PARTLABEL=Basic\040data\040#1:/x' \
	'e LABEL=Größe:/x' 'f UUID=0x175383b66ad61018:/x' 'g /dev//disk/by-id/x-part3:/x'
has a "After=$(device '/dev/disk/by-label/My\x20Disk')" "LABEL= with a space"
has b "After=$(device '/dev/disk/by-label/a\x2fb')" "  with a slash"
has c "After=$(device /dev/disk/by-partuuid/abcdef01-02)" "PARTUUID= in any case"
has d "After=$(device '/dev/disk/by-partlabel/Basic\x20data\x20#1')" "PARTLABEL="
has e "After=$(device /dev/disk/by-label/Größe)" "  beyond ASCII"
has f "After=$(device /dev/disk/by-uuid/175383B66AD61018)" "UUID= with 0x"
has g "After=$(device /dev/disk/by-id/x-part3)" "a path with a slash too many"
tab 'a UUID=6AD61018:/x'
is "$status" 0 "the short form of a serial number: exit 0"
like "$err" 'tab:1: UUID=6AD61018 cannot be waited for' "  and a word on it"

# --- mistakes ---
tab 'good /dev/sda3:/a' 'bad /dev/sda3:/a nonsense' 'bad2'
is "$status" 0 "mistakes: exit 0 all the same"
like "$err" 'tab:2: "nonsense" is no option' "  the word is said"
like "$err" 'tab:3: ' "  and the other line"
is "$(ls -d "$made"/ntfsmap@*)" "$made/ntfsmap@good.service.d" "  the good line is done"
tab 'good /dev/sda3:/a'
run env NTFSMAP_TAB="$T/tab" "$T/generators/ntfsmap-generator" "$T/nowhere"
is "$status" 0 "no folder to write to: exit 0"
like "$err" 'nowhere.*No such file' "  and a word on it"

# --- fstab ---
cat >"$T/fstab" <<'END'
/dev/mapper/disk-part2 /data ext4 defaults 0 2
/dev/ntfsmap/disk-part3 none swap sw 0 0
/dev/mapper/disk-partition /q ext4 noauto 0 0
/dev/mapper/plain-part1 /r ext4 noauto 0 0
UUID=175383B66AD61018 /mnt/win ntfs-3g ro 0 0
/dev/sda3 /mnt/no ntfs noauto 0 0
LABEL="My\040Disk" /mnt/y ntfs ro 0 0
END
tab 'disk UUID=175383b66ad61018:/d partitions' 'plain /dev/sda3:/p' 'label LABEL=My\040Disk:/l'
for spec in /dev/mapper/disk-part2 /dev/ntfsmap/disk-part3; do
	linked "$(device "$spec")" requires disk "fstab's $spec starts it"
	has disk "Before=blockdev@$(systemd-escape --path "$spec").target" "  and ends before it does"
	ok "  it is waited for longer than the volume" grep -qx JobRunningTimeoutSec=390 "$made/$(device "$spec").d/"*
done
has disk "Before=$(systemd-escape --path --suffix=mount /data)" "  it ends after the mount"
has disk "Before=$(systemd-escape --path --suffix=swap /dev/ntfsmap/disk-part3)" "  and after the swap"
has_not disk '^Before=(q|r|mnt-).*mount' "  no other mount is ordered"
not_linked "$(device /dev/mapper/disk-partition)" requires disk "what only looks like a partition is none"
not_linked "$(device /dev/mapper/plain-part1)" requires plain "nor that of an entry without partitions"
like "$err" 'tab:1: disk lies on UUID=175383B66AD61018, which .*/fstab mounts on /mnt/win' "a volume that fstab mounts"
like "$err" 'tab:3: label lies on LABEL=My Disk' "  by its label"
unlike "$err" 'plain|/mnt/no' "  not with noauto"
: >"$T/fstab"

# --- systemd reads it ---
tab 'disk UUID=175383b66ad61018:/d partitions,timeout=20' 'odd.a-b /srv/a\040b/100%.raw nofail' \
	'root /dev/sda3:/r x-initrd.attach' 'later /dev/sda3:/l noauto,host=/mnt/win'
for name in disk odd.a-b root later; do
	run env SYSTEMD_UNIT_PATH="$made:$units:/usr/lib/systemd/system" systemd-analyze --man=no verify \
		"$(systemd-escape --template=ntfsmap@.service -- "$name")"
	is "$status:$(grep -F -e ntfsmap -e "$made" <<<"$out$err")" 0: "systemd-analyze: nothing wrong with the unit of $name"
done
run env SYSTEMD_UNIT_PATH="$made:$units:/usr/lib/systemd/system" systemd-analyze --man=no verify \
	ntfsmap-up@.service ntfsmap.target systemd-hibernate.service
is "$status:$(grep -F -e ntfsmap -e "$made" <<<"$out$err")" 0: "  nor with those of volumes and the target"

done_testing
