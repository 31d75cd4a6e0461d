#!/bin/bash
# make install puts everything where packages expect it, and make uninstall takes all of it away.
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
cd "$top" || bail "no $top"

listing() {
	(cd "$1" && find . ! -type d | sort)
}

ok "make install DESTDIR= PREFIX=" make -s install DESTDIR="$T/root" PREFIX=/usr
is "$(listing "$T/root")" "./usr/include/vdisk.h
./usr/lib/dracut/modules.d/90ntfsmap/module-setup.sh
./usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-shutdown.sh
./usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-stop.sh
./usr/lib/dracut/modules.d/90ntfsmap/ntfsmap-up.sh
./usr/lib/initcpio/hooks/ntfsmap
./usr/lib/initcpio/install/ntfsmap
./usr/lib/initcpio/udev/63-ntfsmap-persist.rules
./usr/lib/libvdisk.a
./usr/lib/libvdisk.so
./usr/lib/libvdisk.so.0
./usr/lib/ntfsmap/before-hibernate
./usr/lib/ntfsmap/copy-to-esp
./usr/lib/ntfsmap/modules
./usr/lib/ntfsmap/runtime.sh
./usr/lib/ntfsmap/udev-helper
./usr/lib/ntfsmap/vdisk-check
./usr/lib/pkgconfig/libvdisk.pc
./usr/lib/systemd/system-generators/ntfsmap-generator
./usr/lib/systemd/system-sleep/ntfsmap
./usr/lib/systemd/system/ntfsmap-up@.service
./usr/lib/systemd/system/ntfsmap.target
./usr/lib/systemd/system/ntfsmap@.service
./usr/lib/systemd/system/systemd-hibernate.service.d/50-ntfsmap.conf
./usr/lib/systemd/system/systemd-hybrid-sleep.service.d/50-ntfsmap.conf
./usr/lib/systemd/system/systemd-suspend-then-hibernate.service.d/50-ntfsmap.conf
./usr/lib/udev/rules.d/11-dm-ntfsmap.rules
./usr/lib/udev/rules.d/62-ntfsmap.rules
./usr/sbin/ntfsmap
./usr/share/bash-completion/completions/ntfsmap
./usr/share/doc/ntfsmap/LICENSE
./usr/share/doc/ntfsmap/README.md
./usr/share/initramfs-tools/hooks/ntfsmap
./usr/share/initramfs-tools/scripts/local-top/ntfsmap
./usr/share/man/man3/libvdisk.3
./usr/share/man/man5/ntfsmaptab.5
./usr/share/man/man7/dm-vdisk.7
./usr/share/man/man7/ntfsmap-boot.7
./usr/share/man/man8/ntfsmap-generator.8
./usr/share/man/man8/ntfsmap.8" "these files"
ok "the program runs from there" "$T/root/usr/sbin/ntfsmap" --version
ok "the hook of systemd-sleep runs from there" "$T/root/usr/lib/systemd/system-sleep/ntfsmap" pre hibernate
like "$(cat "$T/root/usr/lib/systemd/system-sleep/ntfsmap")" $'\n''PATH=\$PATH:/usr/sbin'$'\n' "  and finds the program"
like "$(cat "$T/root/usr/lib/pkgconfig/libvdisk.pc")" 'prefix=/usr'$'\n' "pkg-config knows the prefix"
ok "the completion can be loaded" bash -c ". '$T/root/usr/share/bash-completion/completions/ntfsmap'; complete -p ntfsmap"
unlike "$(cat "$T"/root/usr/lib/{udev/rules.d,systemd/system,ntfsmap}/*ntfsmap* "$T"/root/usr/lib/ntfsmap/* 2>/dev/null)" \
	'@[A-Z]+@' "rules, units and scripts know where the programs are"
unlike "$(cat "$T"/root/usr/{share/initramfs-tools,lib/dracut,lib/initcpio}/{,*/,*/*/}*ntfsmap* \
	"$T"/root/usr/lib/dracut/modules.d/90ntfsmap/* 2>/dev/null)" '@[A-Z]+@' "  and so do the hooks of the initramfs"
ok "make uninstall" make -s uninstall DESTDIR="$T/root" PREFIX=/usr
is "$(listing "$T/root")" '' "nothing is left"
ok "make install to /usr/local" make -s install DESTDIR="$T/local"
ok "  with the hook where systemd looks" test -x "$T/local/usr/lib/systemd/system-sleep/ntfsmap"
like "$(make help)" 'make demo' "make help"
done_testing
