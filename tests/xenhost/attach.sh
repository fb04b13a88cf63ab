# A stock PV guest gets a disk of ours by `xenpv block-attach` before it runs, and makes a file system on it.
# shellcheck shell=bash
. ./host.sh
fresh_image 24M /tmp/a.img
guest_config ext4 guest_ext4.sh
shows xen_blkback lsmod || die "xen-blkback is not loaded"
start_backend

scenario "a disk attached before the guest runs: ext4 made, written, checked"
xl create -q -p /tmp/ext4.cfg
domid=$(xl domid ext4)
xenpv block-attach ext4 /tmp/a.img,,xvda
node=/local/domain/0/backend/vbd/$domid/51712
key_is "$node/state" 2 || die "the backend does not wait for the guest"
key_is "$node/feature-xenpv-notify-flag" 1 || die "no adverts"
[ -z "$(kernel_devices)" ] || die "the kernel's backend has taken the disk"
xl unpause ext4
guest_says ext4 "guest: up" 60
guest_ends ext4 120
fsck_is_clean /tmp/a.img
image_is_right ext4 /tmp/a.img
said ext4 "guest: file $(debugfs -R 'cat random' /tmp/a.img 2>/dev/null | sha256sum | cut -c1-64)" || die "the file differs"
passed
stop_backend
