# In a guest: each of its disks as its driver found it, read whole in large pieces, a part of it copied to its beginning, and read
# again; then /dev/xvda until its size has changed.
# shellcheck shell=dash
size=$(cat /sys/block/xvda/size 2>/dev/null)
for disk in xvda xvdb xvdc; do
    until [ -b /dev/$disk ]; do sleep 0.1; done
    dmesg | grep "blkfront: $disk:"
    size=${size:-$(cat /sys/block/xvda/size)}
    for fact in size queue/logical_block_size queue/max_sectors_kb ro; do
        echo "guest: $disk $fact $(cat /sys/block/$disk/$fact)"
    done
    echo "guest: $disk before $(dd if=/dev/$disk bs=1M iflag=direct 2>/dev/null | sha256sum | cut -c1-64)"
    dd if=/dev/$disk of=/part bs=1M skip=5 count=2 iflag=direct 2>/dev/null || exit 3
    dd if=/part of=/dev/$disk bs=1M oflag=direct conv=fsync 2>/dev/null || exit 4
    echo "guest: disk $(dd if=/dev/$disk bs=1M iflag=direct 2>/dev/null | sha256sum | cut -c1-64)"
    echo "guest: $disk done"
done
until [ "$(cat /sys/block/xvda/size)" != "$size" ]; do sleep 0.1; done
echo "guest: xvda has $(cat /sys/block/xvda/size) sectors"
dd if=/dev/xvda bs=1M skip=8 iflag=direct 2>/dev/null | sha256sum | cut -c1-64
