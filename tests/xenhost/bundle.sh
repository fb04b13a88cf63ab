# A bundle on stock kernels: dom0's partition scan of a loop device, and two stock guests at once with the same bundle as
# their read-only disk: partitions, ids, and every image by the shell extractor.
# shellcheck shell=bash
. ./host.sh
mkdir -p /tmp/bundle
# A part of it: what a guest extracts must fit into its memory.
head -c 5000000 /boot/testhost/kernel >/tmp/bundle/kernel
head -c 3000001 /dev/urandom >/tmp/bundle/root
: >/tmp/bundle/nothing
bundle=/tmp/bundle/guest.xpb

scenario "a bundle on stock kernels: the partition scan, the extractor, two guests at once"
xenpv bundle create $bundle /tmp/bundle/kernel /tmp/bundle/root /tmp/bundle/nothing --cmdline "console=hvc0"
xenpv bundle verify $bundle
id=$(xenpv bundle ls $bundle --json | sed -n 's/^  "id": "\(.*\)",/\1/p')
[ -n "$id" ] || die "no id"

say "the partition scan of dom0's kernel"
loop=$(losetup --find --show --partscan --read-only $bundle)
until_true 10 [ -b "${loop}p2" ] || die "no partitions on $loop"
[ "$(head -c 3000001 "${loop}p2" | sha256sum)" = "$(sha256sum </tmp/bundle/root)" ] || die "the second partition is not the image"
shows "PTUUID=\"$id\" PTTYPE=\"gpt\"" blkid -p "$loop" || die "blkid: $(blkid -p "$loop")"
shows 'PART_ENTRY_NAME="kernel"' blkid -p "${loop}p1" || die "blkid: $(blkid -p "${loop}p1")"

say "the extractor in dom0's shells"
xenpv bundle script >/tmp/bundle/xenpv-extract
for shell in "busybox sh" dash "bash --posix"; do
    [ "$($shell /tmp/bundle/xenpv-extract check $bundle | grep -c ': ok$')" = 3 ] || die "$shell"
done

say "two stock guests at once"
sed -e '/^EXTRACTOR$/r /tmp/bundle/xenpv-extract' -e '/^EXTRACTOR$/d' guest_bundle.sh >/tmp/bundle/run.sh
for guest in one two; do
    guest_config $guest /tmp/bundle/run.sh "disk = [\"$(kernel_disk "$loop" xvda ro)\"]"
    xl create -q /tmp/$guest.cfg
done
for guest in one two; do
    guest_says $guest "guest: exit" 180
    grep -a "guest:" "$(console $guest)"
    said $guest "guest: exit 0" || die "the script failed"
    said $guest "guest: id $id" || die "another id"
    for name in kernel root nothing; do said $guest "guest: check $name: ok" || die "$name is not right"; done
    for name in kernel root; do
        said $guest "guest: sum $(sha256sum </tmp/bundle/$name | cut -c1-64)" || die "$name was not extracted"
        said $guest "guest: $name [0-9]* [0-9a-f-]*" || die "no partition $name"
    done
    no_guest_errors $guest
    until_true 60 gone $guest || die "guest $guest does not end"
done
losetup --detach "$loop"
passed
