# In a guest: whenever there is a /dev/xvdb, it writes blocks of X there, one by one from the start, until that fails, and
# says how many were written when the disk has gone.
echo "guest: up"
dd if=/dev/zero bs=16k count=1 2>/dev/null | tr '\000' X >/block
time=1
while :; do
    until [ -b /dev/xvdb ]; do sleep 0.1; done
    block=0
    while dd if=/block of=/dev/xvdb bs=16k seek=$block oflag=direct 2>/dev/null; do
        block=$((block + 1))
        [ $block -gt 1 ] && echo "guest: $time writes"
    done
    while [ -b /dev/xvdb ]; do sleep 0.1; done
    echo "guest: $time ended, $block blocks"
    time=$((time + 1))
done
