#!/bin/busybox sh
# shellcheck shell=dash
# A guest's ramdisk, as small as one can be: the drivers, then over to the root file system on /dev/xvda.
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done </modules
until [ -b /dev/xvda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mkdir -p /new
/bin/busybox mount -t ext4 /dev/xvda /new && exec /bin/busybox switch_root /new /sbin/init
echo "guest: no root file system"
/bin/busybox poweroff -f
