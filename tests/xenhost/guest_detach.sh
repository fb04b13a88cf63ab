# In a guest: whenever there is a /dev/xvdb, it writes blocks of X there, one by one from the start, until that fails, and
# says how many were written when the disk has gone.
# shellcheck shell=dash
echo "guest: up"
dd if=/dev/zero bs=16k count=1 2>/dev/null | tr '\000' X >/block
put() { dd if=/block of=/dev/xvdb bs=16k seek="$1" oflag=direct 2>/error; }
time=1
while :; do
    # The node of a disk is there a little before the disk can be opened.
    until [ -b /dev/xvdb ] && put 0; do sleep 0.1; done
    block=1
    echo "guest: $time writes"
    while put $block; do block=$((block + 1)); done
    echo "guest: $time failed, $(tail -n 1 /error)"
    while [ -b /dev/xvdb ]; do sleep 0.1; done
    echo "guest: $time ended, $block blocks"
    time=$((time + 1))
done
