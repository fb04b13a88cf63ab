# In a guest: each of its disks as its driver found it, read whole in large pieces, a part of it copied to its beginning, another
# given up, and read again; each CPU has its turn. Two small ones are written to, if they can be. Then /dev/xvda until its size
# has changed.
# shellcheck shell=dash
size=$(cat /sys/block/xvda/size 2>/dev/null)
# found DISK: what its driver says.
found() {
    until [ -b "/dev/$1" ]; do sleep 0.1; done
    for fact in size queue/logical_block_size queue/max_sectors_kb queue/discard_max_bytes ro removable; do
        echo "guest: $1 $fact $(cat "/sys/block/$1/$fact")"
    done
}
sum() { dd if="/dev/$1" bs=1M iflag=direct 2>/dev/null | sha256sum | cut -c1-64; }
for disk in xvda xvdb xvdc; do
    found $disk
    dmesg | grep "blkfront: $disk:"
    size=${size:-$(cat /sys/block/xvda/size)}
    echo "guest: $disk before $(sum $disk)"
    for mask in 1 2; do
        taskset $mask dd if=/dev/$disk of=/dev/null bs=4k count=16 iflag=direct 2>/dev/null || exit 2
    done
    dd if=/dev/$disk of=/part bs=1M skip=5 count=2 iflag=direct 2>/dev/null || exit 3
    dd if=/part of=/dev/$disk bs=1M oflag=direct conv=fsync 2>/dev/null || exit 4
    blkdiscard -o 3145728 -l 1048576 /dev/$disk 2>/dev/null
    echo "guest: $disk discard status $?"
    echo "guest: disk $(sum $disk)"
    echo "guest: $disk done"
done
for disk in xvdd xvde; do
    found $disk
    echo "guest: $disk before $(sum $disk)"
    dd if=/part of=/dev/$disk bs=4k count=1 oflag=direct 2>/dev/null
    echo "guest: $disk write status $?"
    echo "guest: disk $(sum $disk)"
    echo "guest: $disk done"
done
until [ "$(cat /sys/block/xvda/size)" != "$size" ]; do sleep 0.1; done
echo "guest: xvda has $(cat /sys/block/xvda/size) sectors"
dd if=/dev/xvda bs=1M skip=8 iflag=direct 2>/dev/null | sha256sum | cut -c1-64
