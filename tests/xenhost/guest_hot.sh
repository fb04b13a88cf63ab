# In a guest: reads /dev/xvda again and again; writes a MiB of X to /dev/xvdb when that comes, and says when it goes.
# shellcheck shell=dash
until [ -b /dev/xvda ]; do sleep 0.1; done
(while dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null; do sleep 0.1; done; echo "guest: xvda failed") &
echo "guest: reading"
until [ -b /dev/xvdb ]; do sleep 0.1; done
dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\000' X | dd of=/dev/xvdb bs=64k oflag=direct 2>/dev/null && echo "guest: xvdb written"
while [ -b /dev/xvdb ]; do sleep 0.1; done
echo "guest: xvdb gone"
wait
