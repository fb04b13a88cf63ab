# The commands of docs/xen-host.md as they stand there, on a dom0 that Debian's systemd runs, from the wheels on; and what the
# page says of the service: `xenpv testhost run --systemd tests/xenhost/admin.sh tests docs`.
# shellcheck shell=bash
cd /job/tests/xenhost || exit
. ./host.sh
page=/job/docs/xen-host.md
debian=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# commands HEADING N: the Nth block of commands below that heading of the page.
commands() {
    awk -v heading="## $1" -v wanted="$2" '
        /^## / { here = $0 == heading }
        /^```$/ { inside = 0 }
        inside { print }
        here && /^```sh$/ { inside = ++block == wanted }' "$page"
}
# follow HEADING N: runs it as root does, in root's home.
follow() {
    commands "$@" >/tmp/commands
    [ -s /tmp/commands ] || die "the page has no commands no. $2 below '$1'"
    say "the page: $1, $2"
    (cd /root && env -i HOME=/root TERM=linux PATH=$debian bash -euxo pipefail /tmp/commands) || die "the page's commands failed"
}
served() { [ "$(systemctl is-active xenpv-backend)" = active ] && xenpv backend status >/dev/null 2>&1; }
rounds() { grep -ac "guest: round" "$(console guest)"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }
# goes_on: the guest finishes a round that it began after now.
goes_on() {
    local seen
    seen=$(rounds)
    until_true 60 more_rounds $((seen + 1)) || die "the guest does not go on"
    ! said guest "guest: xvda failed" || die "the guest's disk failed"
}
journal_says() {
    journalctl -u xenpv-backend -o json --no-pager >/tmp/journal
    grep -q -- "$1" /tmp/journal
}

# What was carried over: the wheel of this working tree, what it needs, and pip. The test host's own xenpv steps aside.
[ "$(ps -o comm= 1)" = systemd ] || die "systemd does not run here: xenpv testhost run --systemd"
mkdir /root/wheels
cp "$XENPV_WHEELS"/*.whl /job/.testhost/xenpv-*.whl /usr/share/python-wheels/pip-*.whl /root/wheels/
mv /opt/xenpv /opt/testhost
PATH=$debian:/job/.testhost/bin:$(echo /usr/lib/xen-4.*/bin)
! command -v cc gcc || die "there is a compiler"

scenario "from the wheels to a service, without compiler and network"
follow "From a wheel to a guest" 1
case $(/opt/xenpv/bin/python -c 'import xenpv; print(xenpv.__file__)') in
    /opt/xenpv/lib/*) ;;
    *) die "that is not the installed xenpv" ;;
esac
xenpv doctor || die "something is missing"
served || die "the service does not serve"
[ "$(systemctl is-enabled xenpv-backend)" = enabled ] || die "it is not enabled"
[ "$(systemctl show -p StartLimitIntervalUSec --value xenpv-backend)" = 0 ] || die "systemd gives up after some starts"
shows xendomains.service systemctl show -p Before --value xenpv-backend || die "it would end before the guests do"
passed

scenario "a guest on our backend; attach and detach; restart, kill, stop and upgrade under its I/O; removed"
guest-ramdisk guest_admin.sh /srv/initrd.img
ln -sf /boot/testhost/kernel /srv/vmlinuz
rm -f "$(console guest)"
follow "A guest with a disk of ours" 1
shows xen_blkback lsmod || die "xen-blkback is not loaded"
domid=$(xl domid guest)
node=/local/domain/0/backend/vbd/$domid/51712
[ ! -e "/sys/bus/xen-backend/devices/vbd-$domid-51712/driver" ] || die "the kernel's backend holds the disk"
guest_says guest "guest: round 2 " 180
follow "A guest with a disk of ours" 2
guest_says guest "guest: xvdb gone" 60
said guest "guest: xvdb written" || die "the guest could not write xvdb"
[ "$(head -c 1048576 /srv/more.img | tr -d X | wc -c)" = 0 ] || die "xvdb's image is not what the guest wrote"
follow "How it lives beside xl, blkback and qdisk" 1
goes_on

say "reload"
mkdir -p /etc/xenpv
echo 'log_level = "debug"' >/etc/xenpv/backend.toml
systemctl reload xenpv-backend
until_true 30 journal_says "configuration read again" || die "the journal says nothing of it"
rm -r /etc/xenpv

say "restart, and an upgrade"
python3 newer_wheel.py /root/wheels/xenpv-*.whl
follow "Upgrade, crash, restart" 1
case $(/opt/xenpv/bin/python -c 'import importlib.metadata; print(importlib.metadata.version("xenpv"))') in
    *.post1) ;;
    *) die "the newer wheel is not installed" ;;
esac
journal_says "adopted" || die "the next backend did not take the disk over"
key_is "$node/state" 4 || die "the disk is not connected any more"
goes_on

say "a crash"
for _ in 1 2 3; do
    systemctl kill -s KILL xenpv-backend
    until_true 60 served || die "systemd does not start it again"
    goes_on
done

say "stop and start"
systemctl stop xenpv-backend
[ ! -e /run/xenpv/backend/control ] || die "it still runs"
key_is "$node/state" 4 || die "the disk is not connected any more"
[ -n "$(find /run/xenpv/backend -name '*.journal')" ] || die "the journals are gone"
systemctl start xenpv-backend
goes_on

say "uninstall is refused; with -f the guest waits for the next backend"
if xenpv host uninstall 2>/tmp/refused; then die "removed under a guest"; fi
grep "^xenpv: 1 disks are on our backend" /tmp/refused || die "$(cat /tmp/refused)"
served || die "it was stopped all the same"
xenpv host uninstall -f
[ ! -e /etc/systemd/system/xenpv-backend.service ] || die "the service is left"
xenpv host install
goes_on
no_guest_errors guest

say "levels of the journal"
journal_says '"PRIORITY" *: *"6".*adopted\|adopted.*"PRIORITY" *: *"6"' || die "a line has no level"
systemctl --failed --no-legend | grep xenpv && die "the service has failed"
follow "Removing it" 1
for path in /opt/xenpv /usr/local/sbin/xenpv /etc/xen/scripts/block-xenpv; do
    [ ! -e $path ] || die "$path is left"
done
[ "$(systemctl is-enabled xenpv-backend 2>/dev/null)" != enabled ] || die "the service is left"
! pgrep -af "xenpv.* backend run" || die "a backend is left"
passed
mv /opt/testhost /opt/xenpv
echo "passed $(grep -c '^pass  ' "$summary"), failed 0, not run 0"
