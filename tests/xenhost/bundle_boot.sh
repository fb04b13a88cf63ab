# Guests that boot from a boot bundle: Debian's kernel, a ramdisk and a root file system in one file, which stock guests get by
# plain `xl create` as their only disk, two at once; each reaches a shell on the packed root, and finds every image right.
# shellcheck shell=bash disable=SC2016  # what guests are to expand
. ./host.sh
mkdir -p /tmp/boot
bundle=/tmp/boot/guest.xpb

# The root: busybox, the extractor, an init that ends in a shell; dirt behind it so that it has no round size.
tree=$(mktemp -d)
mkdir -p "$tree"/{bin,sbin,dev,proc,sys,tmp}
cp /bin/busybox "$tree/bin/"
busybox --list | while read -r name; do [ "$name" = busybox ] || ln -sf busybox "$tree/bin/$name"; done
install -m 755 guest_boot.sh "$tree/sbin/init"
xenpv bundle script >/tmp/boot/xenpv-extract
xenpv bundle script root >/tmp/boot/xenpv-root
install -m 755 /tmp/boot/xenpv-extract "$tree/bin/xenpv-extract"
mke2fs -q -F -t ext4 -b 4096 -d "$tree" /tmp/boot/root.img 24M
rm -rf "$tree"
# The ramdisk: drivers, and the way to the root.
install -D -m 755 guest_boot_init.sh /tmp/boot/ramdisk/init
install -D -m 755 -t /tmp/boot/ramdisk/bin /tmp/boot/xenpv-extract /tmp/boot/xenpv-root
loop=$(find "/usr/lib/modules/$(uname -r)" -name 'loop.ko*')
python3 -c 'import lzma, sys; name = sys.argv[1]
sys.stdout.buffer.write((lzma.open if name.endswith(".xz") else open)(name, "rb").read())' "$loop" >/tmp/boot/ramdisk/loop.ko
{ cat /boot/testhost/guest-ramdisk; (cd /tmp/boot/ramdisk && find . | busybox cpio -o -H newc 2>/dev/null); } >/tmp/boot/initrd
cp /boot/testhost/kernel /tmp/boot/vmlinuz

# boot_config NAME DISK [LINES]: no kernel, no ramdisk: all of it comes from the disk.
boot_config() {
    cat >"/tmp/boot/$1.cfg" <<END
name = "$1"
memory = 192
vcpus = 1
on_crash = "destroy"
disk = ["$2"]
${3:-}
END
    rm -f "/var/log/xen/console/guest-$1.log"
}
# types NAME COMMAND: into the guest's console.
types() { echo "$2" >"$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty")"; }
# boots NAME FILESYSTEM: to a shell on the packed root; every image is right there.
boots() {
    guest_says "$1" "guest: ready" 300
    grep -a "guest:" "$(console "$1")"
    said "$1" "guest: root $2" || die "$1: another root than $2"
    types "$1" 'echo guest: shell $((6 * 7))'
    guest_says "$1" "guest: shell 42" 60
}
images_are_right() {
    types "$1" 'xenpv-extract check /dev/xvda | sed "s/^/guest: check /"; echo guest: checked $((6 * 7))'
    guest_says "$1" "guest: checked 42" 240
    for image in kernel ramdisk root; do said "$1" "guest: check $image: ok" || die "$1: $image is not right"; done
}
ends() {
    types "$1" "poweroff -f"
    until_true 60 gone "$1" || die "guest $1 does not end"
    no_guest_errors "$1"
}
boot_failed() { cat /var/log/xen/bootloader.*.log; tail -n 5 /tmp/boot/*.err; }
create() {
    xl create -q "/tmp/boot/$1.cfg" 2>"/tmp/boot/$1.err" || { boot_failed; die "xl create $1"; }
    # libxl has removed what it was handed.
    [ -z "$(find /var/lib/xen /run/xen /var/run/xen -name 'bootloader*' -o -name 'xenpv-*' 2>/dev/null)" ] ||
        die "left: $(find /var/lib/xen /run/xen -name 'bootloader*' -o -name 'xenpv-*')"
}

xenpv host install
say "one file from Debian's kernel, a ramdisk and a root"
xenpv bundle create $bundle kernel=/tmp/boot/vmlinuz ramdisk=/tmp/boot/initrd root=/tmp/boot/root.img --cmdline "console=hvc0 $brief"
id=$(xenpv bundle ls $bundle --json | sed -n 's/^  "id": "\(.*\)",/\1/p')
[ -n "$id" ] || die "no id"

scenario "two stock guests at once by plain xl create: the root as it is, and under an overlay"
boot_config one "$bundle,raw,xvda,r" 'bootloader = "xenpv-bootloader"'
boot_config two "$bundle,raw,xvda,r" 'bootloader = "/usr/local/sbin/xenpv-bootloader"
extra = "xenpv.root=overlay"'
create one
create two
boots one "ext4 ro"
boots two "overlay rw"
for guest in one two; do
    images_are_right $guest
    said $guest "xenpv-root: root of the bundle $id" || die "$guest: another bundle"
    ends $guest
done
passed

start_backend
scenario "script=block-xenpv: the boot loader reads dom0's own xvd from our backend; two guests, one copied to RAM"
boot_config ours "script=block-xenpv,vdev=xvda,access=ro,target=$bundle" 'bootloader = "xenpv-bootloader"'
boot_config ram "script=block-xenpv,vdev=xvda,access=ro,target=$bundle" 'bootloader = "xenpv-bootloader"
extra = "xenpv.root=ram"'
create ours
create ram
[ ! -b /dev/xvda ] || die "dom0's own disk is left"
[ "$(key "/local/domain/0/backend/vbd/$(xl domid ours)/51712/xenpv-bundle")" = "$id" ] || die "the id is not in the store"
boots ours "ext4 ro"
boots ram "tmpfs rw"
for guest in ours ram; do
    images_are_right $guest
    said $guest "xenpv-root: /dev/xvda: xenstore has its id" || die "$guest did not look at xenstore"
done
# Who runs from RAM needs the disk no more.
xl block-detach ram xvda
types ram 'ls /dev/xvda; echo guest: still $(sha256sum </sbin/init | cut -c1-64)'
guest_says ram "guest: still $(sha256sum <guest_boot.sh | cut -c1-64)" 60
ends ours
ends ram

scenario "xenpv create: the first disk is a bundle, and nothing else says what boots"
boot_config create "$bundle,raw,xvda,r" 'extra = "quiet xenpv.root=overlay"'
xenpv create /tmp/boot/create.cfg
[ -z "$(find /tmp -maxdepth 1 -name 'xenpv-boot-*')" ] || die "copies are left"
boots create "overlay rw"
images_are_right create
ends create

scenario "a damaged kernel is not booted, and a disk that holds another bundle is not used"
cp $bundle /tmp/boot/damaged.xpb
printf X | dd of=/tmp/boot/damaged.xpb bs=1 seek=$((1048576 + 5000)) conv=notrunc status=none
boot_config damaged "/tmp/boot/damaged.xpb,raw,xvda,r" 'bootloader = "xenpv-bootloader"'
! xl create -q /tmp/boot/damaged.cfg 2>/tmp/boot/damaged.err || die "a damaged kernel was booted"
cat /tmp/boot/damaged.err
grep -hq "kernel is damaged" /var/log/xen/bootloader.*.log || die "the boot loader's log does not say why"
xenpv bundle create /tmp/boot/other.xpb root=/tmp/boot/root.img --cmdline "other"
boot_config other "script=block-xenpv,vdev=xvda,access=ro,target=/tmp/boot/other.xpb" "kernel = \"/tmp/boot/vmlinuz\"
ramdisk = \"/tmp/boot/initrd\"
extra = \"console=hvc0 $brief xenpv.bundle=$id\""
xl create -q /tmp/boot/other.cfg
guest_says other "no disk holds the bundle $id" 180
guest_says other "guest: no root" 30
until_true 60 gone other || die "it does not end"
passed
stop_backend

scenario "the ramdisk form: a guest without a disk"
xenpv bundle ramdisk $bundle /tmp/boot/with-root
boot_config diskless "" "kernel = \"/tmp/boot/vmlinuz\"
ramdisk = \"/tmp/boot/with-root\"
extra = \"console=hvc0 $brief xenpv.root=overlay xenpv.bundle=$id\""
sed -i '/^disk/d' /tmp/boot/diskless.cfg
create diskless
boots diskless "overlay rw"
ends diskless
passed
xenpv host uninstall
say "passed"
