# A stock PV guest gets a disk of ours by `xenpv block-attach` before it runs, and makes a file system on it.
. ./host.sh
truncate -s 24M /tmp/a.img
guest_config ext4 guest_ext4.sh
lsmod | grep -q xen_blkback || die "xen-blkback is not loaded"
start_backend
descriptors=$(ls /proc/$backend/fd | wc -l)

say "attach to a paused guest"
xl create -q -p /tmp/ext4.cfg
domid=$(xl domid ext4)
xenpv block-attach ext4 /tmp/a.img,,xvda
node=/local/domain/0/backend/vbd/$domid/51712
key_is $node/state 2 || die "the backend does not wait for the guest"
key_is $node/feature-xenpv-notify-flag 1 || die "no adverts"
[ -z "$(ls /sys/bus/xen-backend/devices | grep vbd || true)" ] || die "the kernel's backend has taken the disk"
xl unpause ext4

say "the guest works"
guest_says ext4 "guest: up" 60
until_true 60 key_is $node/state 4 || die "not connected"
xenpv block-list -v ext4
xl block-list ext4
guest_says ext4 "guest: exit" 120
said ext4 "guest: exit 0" || die "the guest's script failed"
no_guest_errors ext4
until_true 60 gone ext4 || die "the guest does not end"

say "the image is what the guest wrote"
e2fsck -fn /tmp/a.img
said ext4 "guest: disk $(sha256sum </tmp/a.img | cut -c1-64)" || die "the image differs"
said ext4 "guest: file $(debugfs -R 'cat random' /tmp/a.img 2>/dev/null | sha256sum | cut -c1-64)" || die "the file differs"

until_true 20 nodes_gone || die "nodes are left"
until_true 10 [ "$(ls /proc/$backend/fd | wc -l)" = "$descriptors" ] || die "descriptors are left"
stop_backend
nothing_left
say "passed"
