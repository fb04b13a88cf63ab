# In a guest: a file system under four writers, each round checked, twelve of them.
# shellcheck shell=dash
disk=/dev/xvda
until [ -b $disk ]; do sleep 0.1; done
mkfs.ext4 -q -F -b 4096 $disk || exit 1
mkdir -p /mnt
mount -t ext4 $disk /mnt || exit 2
dd if=/dev/urandom of=/source bs=64k count=32 2>/dev/null
want=$(sha256sum </source)
round=1
while [ $round -le 12 ]; do
    writers=
    for number in 1 2 3 4; do
        dd if=/source of=/mnt/$number bs=64k oflag=direct 2>/dev/null &
        writers="$writers $!"
    done
    for writer in $writers; do wait "$writer" || exit 3; done
    for number in 1 2 3 4; do
        [ "$(dd if=/mnt/$number bs=64k iflag=direct 2>/dev/null | sha256sum)" = "$want" ] || exit 4
    done
    echo "guest: round $round done"
    round=$((round + 1))
done
umount /mnt || exit 5
e2fsck -fn $disk || exit 6
echo "guest: disk $(sha256sum <$disk | cut -c1-64)"
