# Stock xl alone: a disk with script=block-xenpv is served by our backend, though xen-blkback is loaded; block-list,
# block-detach, block-attach to a running guest and destroy behave, and errors are one line.
# shellcheck shell=bash
. ./host.sh
fresh_image 24M /tmp/a.img
fresh_image 16M /tmp/b.img
shows xen_blkback lsmod || die "xen-blkback is not loaded"

scenario "host install"
shows "would write: /etc/xen/scripts/block-xenpv" xenpv host install -N || die "-N shows nothing"
[ ! -e /etc/xen/scripts/block-xenpv ] || die "-N has written"
xenpv host install
[ -x /etc/xen/scripts/block-xenpv ] || die "no script"
grep -q "^ExecStart=/" /etc/systemd/system/xenpv-backend.service || die "no service"
passed
# Not offered by us, so that the kernel's own offer of it would be seen.
mkdir -p /etc/xenpv
echo 'max_indirect_segments = 0' >/etc/xenpv/backend.toml
start_backend

scenario "xl create: the kernel's backend keeps its hands off, the guest makes an ext4"
guest_config plain guest_ext4.sh 'disk = ["script=block-xenpv,vdev=xvda,target=/tmp/a.img"]'
xl create -q -p /tmp/plain.cfg
domid=$(xl domid plain)
node=/local/domain/0/backend/vbd/$domid/51712
[ ! -e "/sys/bus/xen-backend/devices/vbd-$domid-51712/driver" ] || die "the kernel's backend holds the disk"
key_is "$node/feature-xenpv-notify-flag" 1 || die "no adverts of ours"
[ -z "$(key "$node/feature-max-indirect-segments")" ] || die "an advert of the kernel's is left"
xenpv block-list plain
shows 51712 xl block-list plain || die "xl does not list it"
xl unpause plain
guest_ends plain 120
fsck_is_clean /tmp/a.img
image_is_right plain /tmp/a.img

scenario "xl block-attach to a running guest, block-detach, destroy under I/O"
guest_config hot guest_hot.sh 'vcpus = 2
disk = ["script=block-xenpv,vdev=xvda,target=/tmp/a.img"]'
xl create -q /tmp/hot.cfg
guest_says hot "guest: reading" 120
domid=$(xl domid hot)
xl block-attach hot 'script=block-xenpv,vdev=xvdb,target=/tmp/b.img'
node=/local/domain/0/backend/vbd/$domid/51728
until_true 30 key_is "$node/state" 4 || die "xvdb does not connect"
guest_says hot "guest: xvdb written" 60
xl block-list hot
xl block-detach hot xvdb
until_true 20 key_is "$node/state" "" || die "nodes of xvdb are left"
[ "$(head -c 1048576 /tmp/b.img | tr -d X | wc -c)" = 0 ] || die "xvdb's image is not what the guest wrote"
guest_says hot "guest: xvdb gone" 60
xl destroy hot

scenario "xl create with a missing image: one error names it"
guest_config wrong guest_hot.sh 'disk = ["script=block-xenpv,vdev=xvda,target=/tmp/missing.img"]'
if xl create -q /tmp/wrong.cfg 2>/tmp/wrong.err; then die "a missing image was taken"; fi
cat /tmp/wrong.err
grep -q "/tmp/missing.img" /tmp/wrong.err || die "the error does not name the image"
passed
stop_backend
rm /etc/xenpv/backend.toml

scenario "xl create without a backend: the error says that none runs"
sed -i s/missing.img/a.img/ /tmp/wrong.cfg
if xl create -q /tmp/wrong.cfg 2>/tmp/wrong.err; then die "a disk without a backend was taken"; fi
cat /tmp/wrong.err
grep -q "does it run" /tmp/wrong.err || die "the error does not say that no backend runs"

scenario "host uninstall"
xenpv host uninstall
[ ! -e /etc/xen/scripts/block-xenpv ] || die "the script is left"
passed
