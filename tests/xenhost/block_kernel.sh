#!/bin/sh
# For a disk of the kernel's own backend, in place of xl's /etc/xen/scripts/block: that one takes some 80 processes, too many
# for a busy host, where libxl gives it 40 s. The disk's target is a block device.
[ "$1" = add ] || exit 0
xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c %t:%T "$(xenstore-read "$XENBUS_PATH/params")")" \
    "$XENBUS_PATH/hotplug-status" connected
