#!/bin/busybox sh
# shellcheck shell=dash
# A ramdisk in a boot bundle: the drivers, then over to the root image of the same bundle, by xenpv-root.
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "$module"; done </modules
[ ! -e /loop.ko ] || insmod /loop.ko
mkdir -p /new /run
# The drivers' disk first: xenpv-root waits for it too, but asks every disk each time.
if xenpv-root /new 2>&1 | sed 's/^/guest: /'; [ -x /new/sbin/init ]; then
    for directory in proc sys dev; do mount --move /$directory /new/$directory; done
    exec switch_root /new /sbin/init
fi
echo "guest: no root"
poweroff -f
