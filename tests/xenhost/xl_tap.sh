# backendtype=tap, which xl has from Xen 4.19: the node is in backend/vbd3, where the kernel has no backend. Before, xl refuses.
# shellcheck shell=bash
. ./host.sh
fresh_image 24M /tmp/a.img
fresh_image 16M /tmp/b.img
tap="backendtype=tap,script=block-xenpv"
xenpv host install

version=$(xl info xen_version)
if [[ $version == 4.1[78]* ]]; then
    scenario "xl of Xen $version refuses backendtype=tap"
    guest_config tap guest_ext4.sh "disk = [\"$tap,vdev=xvda,target=/tmp/a.img\"]"
    if xl create -q -p /tmp/tap.cfg 2>/tmp/tap.err; then die "xl has taken it: the page says that it does not"; fi
    cat /tmp/tap.err
    passed
    xenpv host uninstall
    exit 0
fi

start_backend

scenario "xl create, backendtype=tap: the guest makes an ext4"
guest_config tap guest_ext4.sh "disk = [\"$tap,vdev=xvda,target=/tmp/a.img\"]"
xl create -q -p /tmp/tap.cfg
domid=$(xl domid tap)
node=/local/domain/0/backend/vbd3/$domid/51712
key_is "$node/feature-xenpv-notify-flag" 1 || die "no adverts of ours"
[ -z "$(find /sys/bus/xen-backend/drivers/vbd -name 'vbd-*')" ] || die "the kernel's backend holds a disk"
xenpv block-list tap
shows 51712 xl block-list tap || die "xl does not list it"
xl unpause tap
guest_ends tap 120
fsck_is_clean /tmp/a.img
image_is_right tap /tmp/a.img

scenario "xl block-attach to a running guest, block-detach, destroy under I/O, backendtype=tap"
guest_config taphot guest_hot.sh "vcpus = 2
disk = [\"$tap,vdev=xvda,target=/tmp/a.img\"]"
xl create -q /tmp/taphot.cfg
guest_says taphot "guest: reading" 120
domid=$(xl domid taphot)
xl block-attach taphot "$tap,vdev=xvdb,target=/tmp/b.img"
node=/local/domain/0/backend/vbd3/$domid/51728
until_true 30 key_is "$node/state" 4 || die "xvdb does not connect"
guest_says taphot "guest: xvdb written" 60
xl block-list taphot
if xenpv host uninstall 2>/tmp/tap.err; then die "host uninstall does not see the disks"; fi
grep -q "^xenpv: 2 disks are on our backend" /tmp/tap.err || die "$(cat /tmp/tap.err)"
xl block-detach taphot xvdb
until_true 20 key_is "$node/state" "" || die "nodes of xvdb are left"
[ "$(head -c 1048576 /tmp/b.img | tr -d X | wc -c)" = 0 ] || die "xvdb's image is not what the guest wrote"
guest_says taphot "guest: xvdb gone" 60
no_guest_errors taphot
kill_backend
start_backend
key_is "/local/domain/0/backend/vbd3/$domid/51712/state" 4 || die "not connected any more"
xl destroy taphot

scenario "xl create with a missing image, backendtype=tap: it fails, and the backend's log says why"
guest_config wrongtap guest_hot.sh "disk = [\"$tap,vdev=xvda,target=/tmp/missing.img\"]"
if xl create -q /tmp/wrongtap.cfg 2>/tmp/wrong.err; then die "a missing image was taken"; fi
cat /tmp/wrong.err
grep -q "/tmp/missing.img" "$results/backend.log" || die "the log does not name the image"
gone wrongtap || die "a domain is left"

scenario "xenpv's own verbs take xl's words, on a node of their own way"
guest_config own guest_ext4.sh "disk = [\"$tap,vdev=xvda,target=/tmp/a.img\"]"
xenpv create -p /tmp/own.cfg # else it may have ended before we look
key_is "/local/domain/0/backend/vbd/$(xl domid own)/51712/xenpv-handover" 1 || die "not ours"
xenpv block-attach own "$tap,vdev=xvdb,target=/tmp/b.img"
shows xvdb xenpv block-list own || die "not listed"
xl unpause own
xenpv block-detach own xvdb
guest_ends own 120
image_is_right own /tmp/a.img
passed
stop_backend
xenpv host uninstall
