# Sourced by dom0's and the guest's init: file systems, the environment, and this project in the venv.
export HOME=/root LANG=C.UTF-8 TERM="${TERM:-linux}"
PATH=/opt/xenpv/bin:/job/.testhost/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for directory in /usr/lib/xen-4.*/bin; do PATH=$PATH:$directory; done
export PATH

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/xen /run/xenstored /var/lib/xenstored /var/log/xen/console
chmod 1777 /tmp
# libxl's stock hot-plug scripts wait for ever where /dev/stdin is missing (locking.sh); devtmpfs does not make it.
ln -sf /proc/self/fd /dev/fd
for number_name in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${number_name%:*}" "/dev/${number_name#*:}"; done
ip link set lo up
hostname "$(cat /etc/hostname)"

# The project's wheel stands unpacked on the job's disk.
for packages in /opt/xenpv/lib/python3.*/site-packages; do echo /job/.testhost/site >"$packages/xenpv.pth"; done
ln -sf /job/.testhost/bin/xenpv /opt/xenpv/bin/xenpv
export XENPV_WHEELS=/opt/xenpv/wheels
cd /job || exit
