# A guest whose root file system is a disk of ours: booted twice by stock xl, read and written, checked from dom0; then
# Debian itself, the copy of dom0's root, by `xenpv create`.
# shellcheck shell=bash
. ./host.sh
xenpv host install
start_backend

# The disk: busybox and an init. The ramdisk: the drivers and the way to the disk.
tree=$(mktemp -d)
mkdir -p "$tree"/{bin,sbin,dev,proc,sys}
cp /bin/busybox "$tree/bin/"
busybox --list | while read -r name; do [ "$name" = busybox ] || ln -sf busybox "$tree/bin/$name"; done
install -m 755 guest_root.sh "$tree/sbin/init"
mke2fs -q -F -t ext4 -b 4096 -d "$tree" /tmp/root.img 48M
rm -rf "$tree"
install -D -m 755 guest_root_init.sh /tmp/ramdisk/init

scenario "xl create, twice: a guest boots from our disk as its root and writes there"
guest_config root guest_root.sh 'disk = ["script=block-xenpv,vdev=xvda,target=/tmp/root.img"]'
{ cat /boot/testhost/guest-ramdisk; cd /tmp/ramdisk && echo init | busybox cpio -o -H newc 2>/dev/null; } >/tmp/root.ramdisk
for boot in 1 2; do
    rm -f "$(console root)"
    xl create -q /tmp/root.cfg
    guest_ends root 120
    said root "guest: root /dev/xvda ext4" || die "the root is not the disk"
    said root "guest: boot $boot" || die "boot $((boot - 1)) was not kept"
    fsck_is_clean /tmp/root.img
    for file in /bin/busybox /random; do
        said root "guest: sum $(debugfs -R "cat $file" /tmp/root.img 2>/dev/null | sha256sum | cut -c1-64)  $file" ||
            die "$file is not what the guest read"
    done
done

scenario "xenpv create: Debian boots from our disk"
echo 'python3 -c "import xenpv; print(\"guest: python with\", xenpv.__name__)"' >/tmp/debian.sh
guest_config debian /tmp/debian.sh 'disk = ["/dev/vdd,raw,xvdy,r", "/dev/vde,raw,xvdz,r"]'
sed -i 's/^memory.*/memory = 512/; s/^extra = "/&testhost.root=xvdy testhost.job=xvdz /' /tmp/debian.cfg
xenpv create /tmp/debian.cfg
xenpv block-list debian
guest_ends debian 180
said debian "guest: python with xenpv" || die "Python does not run there"
passed
stop_backend
xenpv host uninstall
