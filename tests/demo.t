#!/bin/bash
# The demo, as a person runs it: in the machine, and with DIRECT=1 where device-mapper is (the machine itself).
# shellcheck source=lib/tap.sh
. "$(dirname "$0")/lib/tap.sh"
need mkntfs qemu-img qemu-system-x86_64

run "$top/tests/demo.sh"
[[ $err != *'no virtual machine'* ]] || skip_all "$err"
is "$status" 0 "make demo" || diag "$out$err"
like "$out" $'\nVERDICT: all four images' "  ends with a verdict"

module=$("$top/tests/vm/module.sh") || bail "no module"
# shellcheck disable=SC2016 # the machine's shell
run in_vm -t 1200 -m 2048 -- env DIRECT=1 bash -c 'insmod "$1" && exec "$2"' - "$module" "$top/tests/demo.sh"
is "$status" 0 "make demo DIRECT=1" || diag "$out$err"
like "$out" $'\nVERDICT: all four images' "  ends with a verdict"

done_testing
