# SPDX-License-Identifier: GPL-2.0-or-later
# make            build everything below build/
# make demo       the main job on made-up data, in a throw-away virtual machine
# make check      the tests
# make fuzz       libFuzzer on all that reads what others wrote, FUZZ_S=60 seconds for each target
# make module     the kernel module for the running kernel, or KDIR=headers; modules_install puts it there
# make install    DESTDIR and PREFIX are honoured; make uninstall takes it away again
# make help       all targets
VERSION := 0.1

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/sbin
LIBDIR  ?= $(PREFIX)/lib
INCDIR  ?= $(PREFIX)/include
MANDIR  ?= $(PREFIX)/share/man
COMPDIR ?= $(PREFIX)/share/bash-completion/completions
DOCDIR  ?= $(PREFIX)/share/doc/ntfsmap
# systemd looks nowhere else for what it runs around a sleep, whatever the prefix.
SLEEPDIR ?= /usr/lib/systemd/system-sleep
# The same for udev's rules, systemd's units and its generators; a build for a distribution may say otherwise.
UDEVDIR      ?= /usr/lib/udev
UNITDIR      ?= /usr/lib/systemd/system
GENERATORDIR ?= /usr/lib/systemd/system-generators
BOOTDIR      ?= /usr/lib/ntfsmap
# And for those who make an initramfs.
INITRAMFSDIR  ?= /usr/share/initramfs-tools
DRACUTDIR     ?= /usr/lib/dracut/modules.d/90ntfsmap
MKINITCPIODIR ?= /usr/lib/initcpio

CC     ?= cc
AR     ?= ar
CFLAGS ?= -O2 -g
WERROR := $(if $(CI),-Werror)
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	  -Wwrite-strings -Wvla -Wformat=2 -Wundef $(WERROR)
# What makes a mistake hard to abuse: those that this compiler has, asked once. HARDEN= and LDHARDEN= leave them out;
# what CPPFLAGS and CFLAGS say of _FORTIFY_SOURCE holds, and without optimisation there is none of it.
HARDEN = $(eval HARDEN := $(call compiler_has,$(STACK_AND_BRANCHES)) $(call fortify))$(HARDEN)
STACK_AND_BRANCHES := -fPIE -fstack-protector-strong -fstack-clash-protection -fcf-protection=full
compiler_has = $(shell for o in $(1); do $(CC) -Werror -U_FORTIFY_SOURCE -O2 $$o -include stdlib.h \
	-fsyntax-only -x c /dev/null 2>/dev/null && echo $$o; done)
fortify = $(if $(findstring _FORTIFY_SOURCE,$(CPPFLAGS) $(CFLAGS)),,$(if $(filter -O%,$(filter-out \
	-O0,$(CFLAGS))),-U_FORTIFY_SOURCE $(lastword $(call compiler_has,-D_FORTIFY_SOURCE=2 -D_FORTIFY_SOURCE=3))))
LDHARDEN := -Wl,-z,relro,-z,now,-z,noexecstack
# -static and -static-pie say for themselves what comes out.
PIE = $(if $(filter -static%,$(CFLAGS) $(LDFLAGS)),,-pie)
LINK = $(LDHARDEN) $(PIE) $(LDFLAGS)
BASE   := -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 $(WARN) -MMD -MP
# what libvdisk needs, and what ntfsmap needs
LIBS_V := zlib libzstd
LIBS   := libntfs-3g devmapper blkid jansson $(LIBS_V)

B := build
# Asked only when a recipe needs it: on a new machine pkg-config comes with `make deps`.
PKG_CFLAGS = $(shell pkg-config --cflags $(LIBS))
PKG_LIBS   = $(shell pkg-config --libs $(LIBS))
CFLAGS_V   = $(shell pkg-config --cflags $(LIBS_V))
LINK_V     = $(shell pkg-config --libs $(LIBS_V))

LIB_SRC  := $(wildcard libvdisk/*.c libvdisk/user/*.c)
MAP_SRC  := $(wildcard ntfsmap/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/%.o)
LIB_PIC  := $(LIB_SRC:%.c=$(B)/%.pic.o)
MAP_OBJ  := $(MAP_SRC:%.c=$(B)/%.o)
UNITS    := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/*.c))
FORGE    := $(filter-out tests/tools/vdiskio.c tests/tools/blkhammer.c,$(wildcard tests/tools/*.c))
BENCHES  := $(patsubst %.c,$(B)/%,$(wildcard bench/*.c))
TOOLS    := $(B)/tests/ntfsforge $(B)/tests/vdiskio $(B)/tests/blkhammer \
	    $(B)/tests/powercut
SOVER    := 0

all: $(B)/bin/ntfsmap $(B)/libvdisk.a $(B)/libvdisk.so $(B)/libvdisk.pc $(B)/boot/ntfsmap-generator

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(BASE) $(CPPFLAGS) $(HARDEN) $(CFLAGS) $(PKG_CFLAGS) -c -o $@ $<

$(B)/ntfsmap/main.o: BASE += -DVERSION='"$(VERSION)"'

$(B)/%.pic.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(BASE) $(CPPFLAGS) $(HARDEN) $(CFLAGS) $(CFLAGS_V) -fPIC -c -o $@ $<

$(B)/libvdisk.a: $(LIB_OBJ)
	rm -f $@
	$(AR) rcs $@ $^

$(B)/libvdisk.so.$(SOVER): $(LIB_PIC) libvdisk/libvdisk.map
	$(CC) $(CFLAGS) $(LDHARDEN) $(LDFLAGS) -shared -Wl,-soname,libvdisk.so.$(SOVER) \
		-Wl,--version-script=libvdisk/libvdisk.map -Wl,-z,defs -o $@ $(LIB_PIC) $(LINK_V)

$(B)/libvdisk.so: $(B)/libvdisk.so.$(SOVER)
	ln -sf libvdisk.so.$(SOVER) $@

$(B)/libvdisk.pc: libvdisk/libvdisk.pc.in Makefile
	@mkdir -p $(@D)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< >$@

$(B)/bin/ntfsmap: $(MAP_OBJ) $(B)/libvdisk.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(PKG_LIBS)

$(B)/boot/generator.o: BASE += -DUNITDIR='"$(UNITDIR)"'
$(B)/boot/generator.o: $(B)/unitdir

# Written when they say something else: what has that compiled in is made anew then.
$(B)/unitdir: SAYS = $(UNITDIR)
$(B)/flags: SAYS = $(CC) $(CPPFLAGS) $(HARDEN) $(CFLAGS) $(LINK)
$(B)/unitdir $(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(SAYS)' | cmp -s - $@ || echo '$(SAYS)' >$@
FORCE:

$(B)/boot/ntfsmap-generator: $(patsubst %.c,$(B)/%.o,$(wildcard boot/*.c)) $(addprefix $(B)/ntfsmap/,tab.o msg.o process.o utf8.o)
	$(CC) $(CFLAGS) $(LINK) -o $@ $^

$(B)/tests/%: $(B)/tests/unit/%.o $(B)/libvdisk.a
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(LINK_V)

$(B)/tests/ntfsforge: $(FORGE:%.c=$(B)/%.o)
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(shell pkg-config --libs libntfs-3g)

$(B)/tests/powercut: $(patsubst %.c,$(B)/%.o,$(wildcard tests/crash/*.c)) $(B)/libvdisk.a
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(LINK_V)

$(B)/tests/vdiskio: $(B)/tests/tools/vdiskio.o $(B)/libvdisk.a
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(LINK_V)

$(B)/tests/blkhammer: $(B)/tests/tools/blkhammer.o
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ -ldevmapper -pthread

$(B)/bench/%: $(B)/bench/%.o $(B)/libvdisk.a
	$(CC) $(CFLAGS) $(LINK) -o $@ $^ $(LINK_V)

# Everything that the tests run; separate from the tests, so that prove starts when all is there.
tools: all $(UNITS) $(TOOLS)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

# Kbuild leaves objects beside the sources, so it gets a copy; with their times, or all is made anew.
KVER ?= $(shell uname -r)
KDIR ?= /lib/modules/$(KVER)/build
KOUT := $(B)/kernel

module:
	@test -e $(KDIR)/Makefile || { echo "no kernel headers in $(KDIR): apt install" \
		"linux-headers-$(KVER), or say where they are: make module KDIR=..." >&2; false; }
	@mkdir -p $(KOUT)/dm-vdisk $(KOUT)/libvdisk
	@rm -f $(KOUT)/*/*.[ch]
	@cp -p Kbuild $(KOUT)/
	@cp -p dm-vdisk/*.[ch] $(KOUT)/dm-vdisk/
	@cp -p libvdisk/*.[ch] $(KOUT)/libvdisk/
	$(MAKE) -C $(KDIR) M=$(abspath $(KOUT)) CI=$(CI) modules
	cp $(KOUT)/dm-vdisk.ko $(B)/

modules_install: module
	$(MAKE) -C $(KDIR) M=$(abspath $(KOUT)) modules_install \
		$(if $(DESTDIR),INSTALL_MOD_PATH=$(DESTDIR))

deps:
	@tests/deps.sh build test fuzz

demo: deps
	@$(MAKE) --no-print-directory tools
	@tests/demo.sh

# TESTS='tests/vhd.t …' runs some of them. JOBS: virtual machines side by side.
TESTS ?= $(sort $(wildcard tests/*.t))
JOBS  ?= 2

check: deps
	@$(MAKE) --no-print-directory tools
	@INSTALL=$(INSTALL) prove --timer -j$(JOBS) $(TESTS)

# ---- fuzzing, tests/fuzz ----

FUZZ_CC     ?= clang
FUZZ_FLAGS  := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_PARTS  := fuzz mutate
FUZZERS     := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(filter-out $(FUZZ_PARTS:%=tests/fuzz/%.c),$(wildcard tests/fuzz/*.c)))
FUZZ_OBJ    := $(patsubst %.c,$(B)/fuzz/obj/%.o,$(LIB_SRC) $(filter-out ntfsmap/main.c,$(MAP_SRC)))
FUZZ_CRASH  := $(patsubst %.c,$(B)/fuzz/obj/%.o,$(filter-out tests/crash/crash.c,$(wildcard tests/crash/*.c)))

$(B)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(BASE) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link $(PKG_CFLAGS) -c -o $@ $<

# What a target defines itself is not taken from here.
$(B)/fuzz/all.a: $(FUZZ_OBJ)
	rm -f $@
	$(AR) rcs $@ $^

$(B)/fuzz/image $(B)/fuzz/repair $(B)/fuzz/write: $(B)/fuzz/obj/tests/fuzz/mutate.o
$(B)/fuzz/engine: $(FUZZ_CRASH)

$(FUZZERS): $(B)/fuzz/%: $(B)/fuzz/obj/tests/fuzz/%.o $(B)/fuzz/obj/tests/fuzz/fuzz.o $(B)/fuzz/all.a
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(B)/fuzz/all.a $(PKG_LIBS)

# Seeds are made by the generators of the tests, the same each time.
$(B)/fuzz/seeds/made: tests/fuzz/seeds.sh tests/fuzz/seeds.pl $(wildcard tests/lib/*.pl) | $(B)/tests/ntfsforge
	@tests/fuzz/seeds.sh $(B)/fuzz

fuzz-tools: tools $(FUZZERS) $(B)/fuzz/seeds/made

fuzz-list:
	@echo $(FUZZ)

# FUZZ='image log' runs these.
FUZZ_S ?= 60
FUZZ   ?= $(sort $(notdir $(FUZZERS)))

fuzz:
	@tests/deps.sh build test fuzz
	@$(MAKE) --no-print-directory -s fuzz-tools
	@tests/fuzz/fuzz.sh $(FUZZ_S) $(FUZZ)

bench-owners: tools
	@bench/owners.sh

bench-tools: tools $(BENCHES)

# All figures; results.tsv and the chart are made anew.
bench:
	@tests/deps.sh build test bench >&2
	@$(MAKE) --no-print-directory -s bench-tools
	@bench/icount.sh >$(B)/results.tsv && bench/scaling.sh >>$(B)/results.tsv
	@cp $(B)/results.tsv bench/results.tsv
	@cat bench/results.tsv
	@$(MAKE) --no-print-directory bench-chart bench-user bench-growth bench-clock bench-owners

# The ratios that matter, with their bars; fails when one is missed.
bench-quick:
	@tests/deps.sh build test bench >&2
	@$(MAKE) --no-print-directory -s bench-tools
	@bench/quick.sh

# Tab-separated lines: what was measured, value, unit. bench/README.md says how.
bench-user bench-growth bench-clock:
	@tests/deps.sh build test bench >&2
	@$(MAKE) --no-print-directory -s bench-tools
	@bench/$(@:bench-%=%).sh

bench-chart:
	@tests/deps.sh bench
	@bench/chart.sh

lint:
	@tests/deps.sh build lint
	@tests/lint.sh

analyze:
	@tests/deps.sh build
	@mkdir -p $(B)
	@tests/analyze.sh

install: all install-units install-initramfs
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCDIR) \
		$(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(MANDIR)/man7 $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(COMPDIR) \
		$(DESTDIR)$(DOCDIR) $(DESTDIR)$(SLEEPDIR)
	install -m 755 $(B)/bin/ntfsmap $(DESTDIR)$(BINDIR)/
	install -m 644 $(B)/libvdisk.a $(B)/libvdisk.so.$(SOVER) $(DESTDIR)$(LIBDIR)/
	ln -sf libvdisk.so.$(SOVER) $(DESTDIR)$(LIBDIR)/libvdisk.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' libvdisk/libvdisk.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/libvdisk.pc
	install -m 644 libvdisk/vdisk.h $(DESTDIR)$(INCDIR)/
	install -m 644 man/libvdisk.3 $(DESTDIR)$(MANDIR)/man3/
	install -d $(DESTDIR)$(MANDIR)/man5
	install -m 644 man/ntfsmaptab.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 644 man/dm-vdisk.7 $(DESTDIR)$(MANDIR)/man7/
	install -m 644 man/ntfsmap.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 644 ntfsmap/completion.bash $(DESTDIR)$(COMPDIR)/ntfsmap
	sed -e 's|^PATH=.*|PATH=$$PATH:$(BINDIR)|' boot/system-sleep.sh >$(DESTDIR)$(SLEEPDIR)/ntfsmap
	chmod 755 $(DESTDIR)$(SLEEPDIR)/ntfsmap
	install -m 644 README.md LICENSE $(DESTDIR)$(DOCDIR)/

# Programs are named with their paths: neither udev nor systemd looks in /usr/local.
PATHS = sed -e 's|@BOOTDIR@|$(BOOTDIR)|' -e 's|@MKINITCPIODIR@|$(MKINITCPIODIR)|' \
	-e 's|@BINDIR@|$(BINDIR)|' -e 's|^PATH=.*|&:$(BINDIR)|'
UDEV_RULES := 11-dm-ntfsmap.rules 62-ntfsmap.rules
SYSTEMD_UNITS := ntfsmap.target ntfsmap@.service ntfsmap-up@.service
SLEEP_UNITS := hibernate hybrid-sleep suspend-then-hibernate

install-units: all
	install -d $(DESTDIR)$(UDEVDIR)/rules.d $(DESTDIR)$(BOOTDIR) $(DESTDIR)$(GENERATORDIR) $(DESTDIR)$(MANDIR)/man8 \
		$(patsubst %,$(DESTDIR)$(UNITDIR)/systemd-%.service.d,$(SLEEP_UNITS))
	for f in $(UDEV_RULES); do $(PATHS) boot/udev/$$f >$(DESTDIR)$(UDEVDIR)/rules.d/$$f || exit; done
	for f in $(SYSTEMD_UNITS); do $(PATHS) boot/systemd/$$f >$(DESTDIR)$(UNITDIR)/$$f || exit; done
	for s in $(SLEEP_UNITS); do $(PATHS) boot/systemd/hibernate.conf \
		>$(DESTDIR)$(UNITDIR)/systemd-$$s.service.d/50-ntfsmap.conf || exit; done
	$(PATHS) boot/udev/udev-helper.sh >$(DESTDIR)$(BOOTDIR)/udev-helper
	$(PATHS) boot/systemd/before-hibernate.sh >$(DESTDIR)$(BOOTDIR)/before-hibernate
	chmod 755 $(DESTDIR)$(BOOTDIR)/udev-helper $(DESTDIR)$(BOOTDIR)/before-hibernate
	install -m 755 $(B)/boot/ntfsmap-generator $(DESTDIR)$(GENERATORDIR)/
	install -m 644 man/ntfsmap-generator.8 $(DESTDIR)$(MANDIR)/man8/

# $(call install_hook,FROM,TO)
install_hook = install -D -m 755 $(1) $(DESTDIR)$(2) && $(PATHS) $(1) >$(DESTDIR)$(2)
DRACUT_HOOKS := module-setup.sh ntfsmap-up.sh ntfsmap-stop.sh ntfsmap-shutdown.sh

install-initramfs:
	install -d $(DESTDIR)$(BOOTDIR) $(DESTDIR)$(MKINITCPIODIR)/udev $(DESTDIR)$(MANDIR)/man7
	install -m 644 boot/initramfs/runtime.sh boot/initramfs/modules $(DESTDIR)$(BOOTDIR)/
	$(call install_hook,boot/initramfs/vdisk-check.sh,$(BOOTDIR)/vdisk-check)
	$(call install_hook,boot/copy-to-esp.sh,$(BOOTDIR)/copy-to-esp)
	$(call install_hook,boot/initramfs-tools/hook,$(INITRAMFSDIR)/hooks/ntfsmap)
	$(call install_hook,boot/initramfs-tools/local-top,$(INITRAMFSDIR)/scripts/local-top/ntfsmap)
	$(foreach f,$(DRACUT_HOOKS),$(call install_hook,boot/dracut/$(f),$(DRACUTDIR)/$(f)) &&) true
	$(call install_hook,boot/mkinitcpio/install,$(MKINITCPIODIR)/install/ntfsmap)
	$(call install_hook,boot/mkinitcpio/hook,$(MKINITCPIODIR)/hooks/ntfsmap)
	install -m 644 boot/mkinitcpio/63-ntfsmap-persist.rules $(DESTDIR)$(MKINITCPIODIR)/udev/
	install -m 644 man/ntfsmap-boot.7 $(DESTDIR)$(MANDIR)/man7/

uninstall: uninstall-units uninstall-initramfs
	rm -f $(DESTDIR)$(BINDIR)/ntfsmap $(DESTDIR)$(LIBDIR)/libvdisk.a \
		$(DESTDIR)$(LIBDIR)/libvdisk.so $(DESTDIR)$(LIBDIR)/libvdisk.so.$(SOVER) \
		$(DESTDIR)$(LIBDIR)/pkgconfig/libvdisk.pc $(DESTDIR)$(INCDIR)/vdisk.h \
		$(DESTDIR)$(MANDIR)/man3/libvdisk.3 $(DESTDIR)$(MANDIR)/man5/ntfsmaptab.5 \
		$(DESTDIR)$(MANDIR)/man7/dm-vdisk.7 $(DESTDIR)$(MANDIR)/man8/ntfsmap.8 \
		$(DESTDIR)$(COMPDIR)/ntfsmap $(DESTDIR)$(SLEEPDIR)/ntfsmap \
		$(DESTDIR)$(DOCDIR)/README.md $(DESTDIR)$(DOCDIR)/LICENSE
	-rmdir $(DESTDIR)$(DOCDIR) 2>/dev/null

uninstall-units:
	rm -f $(patsubst %,$(DESTDIR)$(UDEVDIR)/rules.d/%,$(UDEV_RULES)) \
		$(patsubst %,$(DESTDIR)$(UNITDIR)/%,$(SYSTEMD_UNITS)) \
		$(patsubst %,$(DESTDIR)$(UNITDIR)/systemd-%.service.d/50-ntfsmap.conf,$(SLEEP_UNITS)) \
		$(DESTDIR)$(BOOTDIR)/udev-helper $(DESTDIR)$(BOOTDIR)/before-hibernate \
		$(DESTDIR)$(GENERATORDIR)/ntfsmap-generator $(DESTDIR)$(MANDIR)/man8/ntfsmap-generator.8
	-rmdir $(DESTDIR)$(BOOTDIR) \
		$(patsubst %,$(DESTDIR)$(UNITDIR)/systemd-%.service.d,$(SLEEP_UNITS)) 2>/dev/null

uninstall-initramfs:
	rm -f $(addprefix $(DESTDIR)$(BOOTDIR)/,runtime.sh modules vdisk-check copy-to-esp) $(DESTDIR)$(MANDIR)/man7/ntfsmap-boot.7 \
		$(addprefix $(DESTDIR)$(INITRAMFSDIR)/,hooks/ntfsmap scripts/local-top/ntfsmap) \
		$(addprefix $(DESTDIR)$(DRACUTDIR)/,$(DRACUT_HOOKS)) \
		$(addprefix $(DESTDIR)$(MKINITCPIODIR)/,install/ntfsmap hooks/ntfsmap udev/63-ntfsmap-persist.rules)
	-rmdir $(DESTDIR)$(BOOTDIR) $(DESTDIR)$(DRACUTDIR) 2>/dev/null

clean:
	rm -rf $(B)

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make deps       install what building and testing need (Debian packages only)'
	@echo 'make lint       clang-format, cppcheck, shellcheck'
	@echo 'make analyze    gcc -fanalyzer, a minute'
	@echo 'make bench      measure what things cost, all of it; make bench-quick: what matters, with bars'
	@echo 'make bench-owners  measure the pass over the MFT'
	@echo 'make bench-user, bench-growth, bench-clock  costs in user space, against size, in time'
	@echo 'make bench-chart   bench/cost.svg from bench/results.tsv'
	@echo 'make clean      remove build/'
	@echo 'INSTALL=no      never call apt; tests that lack a tool are skipped by name'

.PHONY: all tools fuzz fuzz-tools fuzz-list module modules_install deps demo check bench bench-quick bench-owners \
	bench-tools bench-user bench-growth bench-clock bench-chart lint analyze install install-units \
	install-initramfs uninstall uninstall-units \
	uninstall-initramfs clean help FORCE
.SECONDARY:
