# In a guest: writes a MiB to /dev/xvda and reads it back, round after round; meanwhile a MiB of X to /dev/xvdb when that comes.
# shellcheck shell=dash
until [ -b /dev/xvda ]; do sleep 0.1; done
(
    round=1
    while :; do
        dd if=/dev/urandom of=/data bs=64k count=16 2>/dev/null
        dd if=/data of=/dev/xvda bs=64k oflag=direct 2>/dev/null || break
        [ "$(dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | sha256sum)" = "$(sha256sum </data)" ] || break
        echo "guest: round $round done"
        round=$((round + 1))
    done
    echo "guest: xvda failed in round $round"
) &
until [ -b /dev/xvdb ]; do sleep 0.1; done
dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\000' X | dd of=/dev/xvdb bs=64k oflag=direct 2>/dev/null && echo "guest: xvdb written"
while [ -b /dev/xvdb ]; do sleep 0.1; done
echo "guest: xvdb gone"
wait
