# What the scripts of this folder share: sourced in dom0 by each of them. `xenpv testhost run SCRIPT tests/xenhost/*.sh`
# runs one. A script is a row of scenarios; a scenario begins and ends without guests, and leaves nothing behind.
# shellcheck shell=bash
set -euo pipefail
export XENPV_RUNDIR=/run/xenpv
results=${XENPV_RESULTS:-/tmp}
summary=${XENPV_SUMMARY:-/tmp/summary}
script=$(basename "$0" .sh)
taint=$(cat /proc/sys/kernel/tainted)
counts=$(mktemp -d)
scenario=
backend=

say() { echo "-- $*"; }
die() {
    echo "FAILED: $*"
    xenstore-ls -f /local/domain/0/backend 2>/dev/null || true
    tail -n 20 "$results"/backend.log /var/log/xen/console/guest-*.log 2>/dev/null || true
    exit 1
}

# The life of a scenario: what it is about, and one line in the summary.

scenario() {
    passed
    scenario=$*
    echo "== $script: $scenario"
    count_before
}
# passed: the scenario before is over, or the last one.
passed() {
    [ -n "$scenario" ] || return 0
    count_after
    kernel_is_content
    echo "pass  $script: $scenario" | tee -a "$summary"
    scenario=
}
# on_failure: what a script must do before its guests can be destroyed; its own where it has one.
on_failure() { :; }
ended() {
    local status=$?
    rm -rf "$counts"
    [ "$status$scenario" != 0 ] || return 0
    on_failure
    echo "FAIL  $script: ${scenario:-outside its scenarios}" | tee -a "$summary"
    # The next script finds a host without guests, backend, options and xl's script all the same.
    rm -f /etc/xenpv/backend.toml
    xl list | awk 'NR > 1 && $2 > 0 { print $2 }' | while read -r domid; do xl destroy "$domid"; done
    xenstore-list /local/domain/0/device/vbd 2>/dev/null | while read -r devid; do xenpv block-detach -f 0 "$devid"; done || true
    [ -z "$backend" ] || kill "$backend" 2>/dev/null || true
    [ ! -e /etc/xen/scripts/block-xenpv ] || xenpv host uninstall -f
}
trap ended EXIT

# What there is, seen from outside: the backend's descriptors, its mappings of devices and files and its run directory, dom0's
# event channels, the store, the domains and Xen's grant tables. Numbers that are given out anew each time are left out.

count_before() { count before; }
# count_after: all of it is back to where it was, at once or when xl and the kernel are done.
count_after() { until_true 20 count_is_back || die "left behind: $(diff -r "$counts/before" "$counts/after" || true)"; }
count_is_back() { count after && diff -rq "$counts/before" "$counts/after" >/dev/null; }
count() {
    local to=$counts/$1
    mkdir -p "$to"
    if [ -n "$backend" ]; then
        find "/proc/$backend/fd" -type l -printf '%l\n' | tr -d 0-9 | sort >"$to/descriptors"
        ls "$XENPV_RUNDIR/backend" >"$to/run-directory"
        awk '$6 ~ "^/dev/|^/run/|^anon_inode" { print $6 }' "/proc/$backend/maps" | sort >"$to/maps"
    fi
    lsevtchn 0 | sed 's/^ *[0-9]*: //' | sort >"$to/event-channels"
    xenstore-ls -f /local/domain >"$to/store"
    xl list | awk 'NR > 1 { print $1, $2 }' >"$to/domains"
    xl debug-keys g
    # The tables' own sizes only grow.
    xl dmesg | awk '/gnttab_usage_print_all \[/ { text = "" } !/maptrack frames/ { text = text $0 "\n" } END { printf "%s", text }' \
        >"$to/grants"
}

kernel_is_content() {
    [ "$(cat /proc/sys/kernel/tainted)" = "$taint" ] || die "the kernel is tainted"
    ! dmesg | grep -E "BUG|WARNING|Oops|Call Trace|Bad page|Bad rss" || die "the kernel complains"
}

# until_true SECONDS COMMAND...: polls the command. Under emulation a process costs 0.1 s of a CPU that the guest needs. A machine
# that has other work too gets three times as long.
until_true() {
    local deadline=$((SECONDS + 3 * $1))
    shift
    until "$@"; do
        [ $SECONDS -le $deadline ] || return 1
        sleep 0.5
    done
}

# shows PATTERN COMMAND...: the command succeeds and a line of its output matches. Not `| grep -q`, which leaves at the first match:
# the command then dies of SIGPIPE, now and then, and with pipefail that counts.
shows() {
    local output
    output=$("${@:2}") && grep -q -- "$1" <<<"$output"
}

# start_backend: returns when it serves.
start_backend() {
    xenpv --hypervisor xen: backend run >>"$results/backend.log" 2>&1 &
    backend=$!
    until_true 60 [ -S $XENPV_RUNDIR/backend/control ] || die "the backend does not start"
}
stop_backend() {
    kill "$backend"
    wait "$backend" || die "the backend ended with status $?"
    backend=
}
kill_backend() {
    kill -9 "$backend"
    wait "$backend" 2>/dev/null || true
    backend=
}

# What a guest's kernel leaves out of its start, which then takes half as long under emulation.
brief="mitigations=off rodata=off cryptomgr.notests lsm= audit=0"
# guest_config NAME SCRIPT [LINES]: /tmp/NAME.cfg of the tiny guest that runs SCRIPT.
guest_config() {
    guest-ramdisk "$2" "/tmp/$1.ramdisk"
    cat >"/tmp/$1.cfg" <<END
name = "$1"
kernel = "/boot/testhost/kernel"
ramdisk = "/tmp/$1.ramdisk"
memory = 128
vcpus = 1
extra = "console=hvc0 $brief"
on_crash = "destroy"
${3:-}
END
    rm -f "/var/log/xen/console/guest-$1.log"
}

console() { echo "/var/log/xen/console/guest-$1.log"; }
said() { grep -qa -- "$2" "$(console "$1")" 2>/dev/null; }
# guest_says NAME TEXT SECONDS
guest_says() { until_true "$3" said "$1" "$2" || die "guest $1 did not say '$2' within $3 s"; }
gone() { ! xl domid "$1" >/dev/null 2>&1; }
# guest_ends NAME SECONDS: by itself, with status 0 and without an error of its disk.
guest_ends() {
    guest_says "$1" "guest: exit" "$2"
    said "$1" "guest: exit 0" || die "guest $1 failed"
    no_guest_errors "$1"
    until_true 60 gone "$1" || die "guest $1 does not end"
}
no_guest_errors() {
    ! grep -aE "I/O error|EXT4-fs error|incorrect id|disabled for further use|Oops|BUG:" "$(console "$1")" || die "guest $1 saw errors"
}
fsck_is_clean() { e2fsck -fn "$1" >/tmp/e2fsck.log 2>&1 || die "$1: $(cat /tmp/e2fsck.log)"; }
# image_is_right NAME IMAGE: it holds what the guest read last.
image_is_right() { said "$1" "guest: disk $(sha256sum <"$2" | cut -c1-64)" || die "the image $2 differs from what $1 saw"; }

# fresh_image SIZE PATH: of zeros.
fresh_image() { rm -f "$2" && truncate -s "$1" "$2"; }

key() { xenstore-read "$1" 2>/dev/null || true; }
key_is() { [ "$(key "$1")" = "$2" ]; }
# kernel_disk DEVICE VDEV [ACCESS]: what xl takes for a disk of the kernel's own backend.
kernel_disk() { echo "script=$PWD/block_kernel.sh,vdev=$2,access=${3:-rw},target=$1"; }
kernel_devices() { find /sys/bus/xen-backend/devices -name 'vbd*'; }
