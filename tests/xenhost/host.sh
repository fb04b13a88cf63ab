# What the scripts of this folder share: sourced in dom0 by each of them. `xenpv testhost run SCRIPT host.sh` runs one.
set -euo pipefail
export XENPV_RUNDIR=/run/xenpv
results=${XENPV_RESULTS:-/tmp}
taint=$(cat /proc/sys/kernel/tainted)
backend=

say() { echo "== $*"; }
die() {
    echo "FAILED: $*"
    xenstore-ls -f /local/domain/0/backend 2>/dev/null | head -60 || true
    tail -n 20 "$results"/backend.log /var/log/xen/console/guest-*.log 2>/dev/null || true
    exit 1
}
trap 'status=$?; [ $status = 0 ] || echo "FAILED: status $status in line $LINENO"; [ -z "$backend" ] || kill "$backend" 2>/dev/null || true' EXIT

# until_true SECONDS COMMAND...: polls the command.
until_true() {
    local tries=$(($1 * 10))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

# start_backend [OPTIONS]: returns when it serves.
start_backend() {
    xenpv --hypervisor xen: backend run "$@" >>"$results/backend.log" 2>&1 &
    backend=$!
    until_true 60 [ -S $XENPV_RUNDIR/backend/control ] || die "the backend does not start"
}

stop_backend() {
    kill "$backend"
    wait "$backend" || die "the backend ended with status $?"
    backend=
}

# guest_config NAME SCRIPT [LINES]: /tmp/NAME.cfg of the tiny guest that runs SCRIPT.
guest_config() {
    guest-ramdisk "$2" "/tmp/$1.ramdisk"
    cat >"/tmp/$1.cfg" <<END
name = "$1"
kernel = "/boot/testhost/kernel"
ramdisk = "/tmp/$1.ramdisk"
memory = 128
vcpus = 1
extra = "console=hvc0"
on_crash = "destroy"
${3:-}
END
    rm -f "/var/log/xen/console/guest-$1.log"
}

console() { echo "/var/log/xen/console/guest-$1.log"; }
said() { grep -q -- "$2" "$(console "$1")" 2>/dev/null; }
# guest_says NAME TEXT SECONDS
guest_says() { until_true "$3" said "$1" "$2" || die "guest $1 did not say '$2' within $3 s"; }
gone() { ! xl domid "$1" >/dev/null 2>&1; }
key() { xenstore-read "$1" 2>/dev/null || true; }
key_is() { [ "$(key "$1")" = "$2" ]; }
# An error of the guest's disk is the failure of every test here.
no_guest_errors() {
    ! grep -aE "I/O error|blk_update_request|EXT4-fs error|Buffer I/O|Oops|BUG:" "$(console "$1")" || die "guest $1 saw errors"
}

# Nothing of a disk stays in the store, and the kernel has nothing to complain of.
nothing_left() {
    until_true 20 nodes_gone || die "nodes are left"
    [ "$(cat /proc/sys/kernel/tainted)" = "$taint" ] || die "the kernel is tainted"
    ! dmesg | grep -E "BUG|WARNING|Call Trace|Bad page" || die "the kernel complains"
}
nodes_gone() {
    [ -z "$(xenstore-ls -f /local/domain/0/backend/vbd 2>/dev/null | grep -E 'vbd/[0-9]+/' || true)" ] &&
        [ -z "$(ls /sys/bus/xen-backend/devices | grep vbd || true)" ]
}
