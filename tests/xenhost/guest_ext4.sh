# In a guest: an ext4 file system on each of $disks (a parameter of its kernel; /dev/xvda), written, checked, and told by its
# digest.
# shellcheck shell=dash
mkdir -p /mnt
for disk in $(echo "${disks:-/dev/xvda}" | tr , ' '); do
    tries=0
    until [ -b "$disk" ] || [ $tries = 300 ]; do tries=$((tries + 1)); sleep 0.1; done
    mkfs.ext4 -q -F -b 4096 "$disk" || exit 1
    mount -t ext4 "$disk" /mnt || exit 2
    dd if=/dev/urandom of=/mnt/random bs=64k count=64 2>/dev/null || exit 3
    echo "guest: file $(sha256sum </mnt/random | cut -c1-64)"
    umount /mnt || exit 4
    e2fsck -fn "$disk" || exit 5
    echo "guest: disk $(sha256sum <"$disk" | cut -c1-64)"
done
