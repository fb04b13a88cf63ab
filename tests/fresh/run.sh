#!/bin/sh
# README's two commands on a fresh Debian: debootstrap's smallest system, a copy of HEAD, ./dev demo and ./dev test as
# root, and as a user who may install nothing. Exit status 77: could not run, the last line says why.
#
# All mounts and processes live in namespaces of their own and end with them, however that happens; only then is the
# directory deleted.
set -eu
SUITE=bookworm
DEFAULT_MIRROR=http://deb.debian.org/debian

say() { echo "fresh: $*"; }
not_run() { say "$*"; exit 77; }

outside() {
    [ "$(id -u)" = 0 ] || not_run "needs root"
    for program in debootstrap git unshare setpriv; do
        command -v $program >/dev/null || not_run "needs $program (apt-get install $program)"
    done
    git rev-parse --verify -q HEAD >/dev/null || not_run "needs a git clone with a commit"
    unshare --mount --pid --fork true 2>/dev/null || not_run "needs mount and process namespaces"
    root=$(mktemp -d "${TMPDIR:-/var/tmp}/xenpv-fresh-XXXXXX")
    trap 'rm -rf --one-file-system "$root"' EXIT
    chmod 755 "$root"
    unshare --mount --pid --fork --kill-child sh tests/fresh/run.sh inside "$root" &
    child=$!
    trap 'kill $child; wait $child || true; exit 130' INT TERM HUP
    wait $child
}

mirror() {
    # shellcheck disable=SC2016  # apt's own fields
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $SUITE" 'Component: main' \
        2>/dev/null | grep . || echo "$DEFAULT_MIRROR"
}

# How this machine's apt and pip reach their registries: settings, certificates, names of hosts, local package folders.
copy_network_settings() {
    for path in /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs /usr/share/ca-certificates \
        /usr/local/share/ca-certificates "${XDG_CONFIG_HOME:-$HOME/.config}/pip" "$HOME/.pip"; do
        [ -e "$path" ] || continue
        case $path in "$HOME"/*) target=$root/root/${path#"$HOME"/} ;; *) target=$root$path ;; esac
        mkdir -p "$(dirname "$target")"
        rm -rf "$target"
        cp -a "$(readlink -f "$path")" "$target"
    done
    mkdir -p "$root/etc/apt/apt.conf.d"
    apt-config dump 2>/dev/null | grep '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Changelogs|CompressionTypes)' \
        >"$root/etc/apt/apt.conf.d/99host" || true
    # An index (file:///DIR/simple) links to its neighbours, so DIR is what must be there.
    .venv/bin/pip config list 2>/dev/null | sed 's/^[^=]*=//; s/\\n/ /g' | tr -s " '\"" '[\n*]' |
        sed -n 's|^file://\(/.*[^/]\)/simple/*$|\1|p; s|^file://\(/.*\)|\1|p; /^\//p' | sort -u | while read -r folder; do
            [ -d "$folder" ] || continue
            mkdir -p "$root$folder"
            mount --bind "$folder" "$root$folder"
            mount -o remount,bind,ro "$root$folder"
        done
}

# in_fresh UID HOME COMMAND...: in the new system, with no variable of ours but those for the network.
in_fresh() (
    uid=$1
    home=$2
    shift 2
    for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
            PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | *_proxy | *_PROXY) ;;
            *) unset "$name" ;;
        esac
    done
    export HOME="$home" LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    # shellcheck disable=SC2016  # HOME is the one in there
    exec chroot "$root" setpriv --reuid="$uid" --regid="$uid" --clear-groups sh -c 'cd "$HOME/xenpv" && exec "$@"' sh "$@" </dev/null
)

# timed COMMAND...: its output goes to our own, and stays in the file `said` until the next one.
timed() {
    started=$(date +%s)
    say "$*"
    status=0
    "$@" >"$root/said" 2>&1 || status=$?
    cat "$root/said"
    [ $status = 0 ] || { say "FAILED (status $status): $*"; exit 1; }
    say "took $(($(date +%s) - started)) s"
}

inside() {
    root=$1
    begun=$(date +%s)
    say "commit $(git rev-parse --short HEAD) (what is not committed is not in it)"
    timed debootstrap --variant=minbase "$SUITE" "$root" "$(mirror | head -n 1)"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mkdir -p "$root/dev/shm" "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -sf pts/ptmx "$root/dev/ptmx"
    copy_network_settings
    for home in /root /home/user; do
        mkdir -p "$root$home/xenpv"
        git archive HEAD | tar -x -C "$root$home/xenpv"
    done
    cp -a "$root/root/.config" "$root/root/.pip" "$root/home/user/" 2>/dev/null || true
    chown -R 1000:1000 "$root/home/user"

    told=$(in_fresh 1000 /home/user ./dev demo 2>&1) && { say "FAILED: a user without a compiler built it"; exit 1; }
    say "a user without a compiler is told: $told"
    case "$(echo "$told" | wc -l) $told" in
        "1 "*"apt-get install"*) ;;
        *) say "FAILED: that is not one line with the command"; exit 1 ;;
    esac
    timed in_fresh 0 /root ./dev demo
    timed in_fresh 0 /root ./dev test
    # What docs/xen-host.md carries to a dom0.
    timed in_fresh 0 /root .venv/bin/python -m pip wheel -q -w wheels . pip
    for package in xenpv cffi click construct pip pycparser pyxs; do
        ls "$root/root/xenpv/wheels/$package"-*.whl || { say "FAILED: no wheel of $package"; exit 1; }
    done
    timed in_fresh 1000 /home/user ./dev demo
    say "all of it took $(($(date +%s) - begun)) s"
}

case ${1:-} in
    inside) inside "$2" ;;
    *) cd "$(dirname "$0")/../.." && outside ;;
esac
