# Storages of ours and of the kernel behind a stock PV guest: a mirror, and md's, whose leg fails and comes back while the guest
# makes a file system; an overlay that is killed; and xl's own way to a target with filters.
# shellcheck shell=bash
. ./host.sh
brief="$brief disks=/dev/xvda,/dev/xvdb" guest_config legs guest_ext4.sh
guest_config overlay guest_ext4.sh
start_backend
whole() { shows "degraded *: nothing" xenpv backend status; }
missing() { shows "degraded *: domid.*1 of 2 legs" xenpv backend status; }
md() { cat "/sys/block/md0/md/$1"; }
md_is_whole() { [ "$(md degraded) $(md sync_action)" = "0 idle" ]; }
# md_wrote MORE: than so many requests, by the guest alone.
md_wrote() { [ "$(awk '{ print $5 }' /sys/block/md0/stat)" -gt "$1" ]; }
on_failure() {
    xl list | awk 'NR > 1 && $2 > 0 { print $2 }' | while read -r domid; do xl destroy "$domid"; done
    [ ! -e /dev/md0 ] || until_true 10 mdadm -q --stop /dev/md0
    losetup -D
}

scenario "a mirror of ours and one of md: a leg of each fails under the guest and comes back, and the guest sees nothing"
for name in a b c d; do fresh_image 24M /tmp/$name.img; done
rm -f /tmp/m /tmp/fail
xenpv mirror create /tmp/m /tmp/a.img fault,errors=1,ops=write,while=/tmp/fail:/tmp/b.img
modprobe raid1
first=$(losetup -f --show /tmp/c.img)
second=$(losetup -f --show /tmp/d.img)
# Its own data stands at the legs' ends; they are zeros, and so equal.
mdadm -q --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.0 --bitmap=internal --size=20480 --assume-clean \
    "$first" "$second"
xl create -q -p /tmp/legs.cfg
xenpv block-attach legs vdev=xvda target=mirror:/tmp/m
xenpv block-attach legs vdev=xvdb target=/dev/md0
until_true 60 whole || die "the second leg does not become whole"
touch /tmp/fail
xl unpause legs
until_true 120 missing || die "the leg's failure is not seen"
rm /tmp/fail
until_true 120 md_wrote 0 || die "the guest does not write to md's"
mdadm -q /dev/md0 --fail "$second"
until_true 60 md_wrote "$(awk '{ print $5 }' /sys/block/md0/stat)" || die "the guest writes nothing to the leg that is left"
[ "$(md degraded)" = 1 ] || die "md has not let its leg go"
until_true 10 mdadm -q /dev/md0 --remove "$second"
mdadm -q /dev/md0 --re-add "$second"
guest_ends legs 180
until_true 60 md_is_whole || die "md does not become whole"
for disk in /tmp/a.img /dev/md0; do
    fsck_is_clean $disk
    image_is_right legs $disk
done
until_true 30 mdadm -q --stop /dev/md0 || die "md's disk is not let go"
losetup -d "$first" "$second"
cmp -n $((20 << 20)) /tmp/c.img /tmp/d.img || die "md's legs differ"

scenario "xl attaches that mirror behind a filter by block-xenpv, and what its leg missed is there"
xenpv host install >/dev/null
xl create -q -p /tmp/overlay.cfg
xl block-attach overlay "script=block-xenpv,vdev=xvda,target=throttle,iops=5000:mirror:/tmp/m"
node=/local/domain/0/backend/vbd/$(xl domid overlay)/51712
key_is "$node/params" "throttle,iops=5000:mirror:/tmp/m" || die "another target"
until_true 60 key_is "$node/feature-xenpv-notify-flag" 1 || die "it is not opened"
until_true 60 whole || die "the second leg does not become whole again"
xl destroy overlay
xenpv host uninstall -f >/dev/null
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
passed
stop_backend
