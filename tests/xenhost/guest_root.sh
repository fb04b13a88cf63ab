#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a guest whose root is its disk: counts its boots there, and changes the root under load.
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo "guest: root $(awk '$2 == "/" { print $1, $3 }' /proc/mounts)"
echo "boot" >>/boots
echo "guest: boot $(wc -l </boots)"
dd if=/dev/urandom of=/random bs=64k count=64 2>/dev/null && sync && echo 3 >/proc/sys/vm/drop_caches
sha256sum /bin/busybox /random | sed 's/^/guest: sum /'
mount -o remount,ro / && echo "guest: exit 0"
poweroff -f
