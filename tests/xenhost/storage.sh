# Storages in Python behind a stock PV guest: a mirror whose leg fails and comes back while the guest makes a file system, an
# overlay that is killed, and xl's own way to a target with filters.
# shellcheck shell=bash
. ./host.sh
guest_config mirror guest_ext4.sh
guest_config overlay guest_ext4.sh
start_backend
whole() { shows "degraded *: nothing" xenpv backend status; }
missing() { shows "degraded *: domid.*1 of 2 legs" xenpv backend status; }

scenario "a mirror: a leg fails under the guest, comes back, and the legs are equal"
fresh_image 24M /tmp/a.img
fresh_image 24M /tmp/b.img
rm -f /tmp/m /tmp/fail
xenpv mirror create /tmp/m /tmp/a.img fault,errors=1,ops=write,while=/tmp/fail:/tmp/b.img
xl create -q -p /tmp/mirror.cfg
xenpv block-attach mirror vdev=xvda target=mirror:/tmp/m
until_true 60 whole || die "the second leg does not become whole"
touch /tmp/fail
xl unpause mirror
until_true 120 missing || die "the leg's failure is not seen"
rm /tmp/fail
guest_ends mirror 180
fsck_is_clean /tmp/a.img
image_is_right mirror /tmp/a.img
# What the second leg missed is copied as soon as the mirror is open, if it was not yet.
xl create -q -p /tmp/mirror.cfg
xenpv block-attach mirror vdev=xvda target=mirror:/tmp/m
until_true 60 whole || die "the second leg does not become whole again"
xl destroy mirror
until_true 30 xenpv mirror show /tmp/m >/dev/null || die "the mirror is not let go"
cmp /tmp/a.img /tmp/b.img || die "the legs differ"

scenario "an overlay: its backend is killed under the guest, the image stays as it was"
fresh_image 24M /tmp/c.img
rm -f /tmp/top
before=$(sha256sum </tmp/c.img)
xl create -q -p /tmp/overlay.cfg
xenpv block-attach overlay vdev=xvda target=log,file=/tmp/requests:overlay,file=/tmp/top:/tmp/c.img
xl unpause overlay
writes_are_there() { [ "$(grep -c ' write ' /tmp/requests)" -ge 20 ]; }
until_true 120 writes_are_there || die "the guest does not write"
kill_backend
start_backend
guest_ends overlay 180
[ "$(sha256sum </tmp/c.img)" = "$before" ] || die "the image below was changed"

scenario "xl attaches a target with filters by block-xenpv"
xenpv host install >/dev/null
xl create -q -p /tmp/overlay.cfg
xl block-attach overlay "script=block-xenpv,vdev=xvda,target=throttle,iops=5000:readonly:/tmp/c.img"
domid=$(xl domid overlay)
key_is "/local/domain/0/backend/vbd/$domid/51712/params" "throttle,iops=5000:readonly:/tmp/c.img" || die "another target"
xl destroy overlay
xenpv host uninstall -f >/dev/null
passed
stop_backend
