# xenpv's own verbs on Xen: create, list, domid, block-attach to a running guest, block-list, block-detach, destroy.
# shellcheck shell=bash
. ./host.sh
fresh_image 24M /tmp/a.img
fresh_image 16M /tmp/b.img
start_backend

scenario "create with a wrong disk leaves nothing"
guest_config own guest_hot.sh 'disk = ["/tmp/a.img,raw,xvda,w"]'
if xenpv create /tmp/own.cfg 'disk=["/tmp/missing.img,raw,xvda,w"]' 2>/tmp/error; then die "a missing image was taken"; fi
grep -q "missing.img" /tmp/error || die "the error does not name the image"
[ "$(wc -l </tmp/error)" = 1 ] || die "the error has several lines"
gone own || die "a domain is left"

scenario "create, attach, detach, destroy under I/O"
xenpv create /tmp/own.cfg
domid=$(xenpv domid own)
shows "own *$domid" xenpv list own || die "not listed"
xenpv uptime own
guest_says own "guest: reading" 120
[ -z "$(kernel_devices)" ] || die "the kernel's backend has taken the disk"
xenpv block-attach --wait 30 own /tmp/b.img,,xvdb
guest_says own "guest: xvdb written" 60
xenpv block-list -v own
shows 51728 xl block-list own || die "xl does not list it"
xenpv block-detach own xvdb
guest_says own "guest: xvdb gone" 60
[ "$(head -c 1048576 /tmp/b.img | tr -d X | wc -c)" = 0 ] || die "xvdb's image is not what the guest wrote"
[ "$(xenpv block-list --json own | grep -c '"vdev"')" = 1 ] || die "one disk should be left"
! said own "guest: xvda failed" || die "the guest saw an error"
no_guest_errors own
xenpv destroy own
gone own || die "the domain is left"

scenario "a disk that xl attached by itself is xl's to take away, and the kernel still serves it"
guest_config kernels guest_hot.sh
xl create -q -p /tmp/kernels.cfg
loop=$(losetup -f --show /tmp/a.img)
xl block-attach kernels "$(kernel_disk "$loop" xvda)"
[ -n "$(kernel_devices)" ] || die "the kernel's backend has no disk"
xl unpause kernels
guest_says kernels "guest: reading" 120
xenpv block-detach kernels xvda
[ -z "$(kernel_devices)" ] || die "the kernel's backend still has the disk"
xenpv destroy kernels
losetup -d "$loop"
passed
stop_backend
