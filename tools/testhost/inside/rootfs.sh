#!/bin/sh
# Makes the root file system of dom0 in $root, and beside it the hypervisor and the kernel. Run as root in namespaces of
# its own, so that every mount ends with it. A line that starts with "step " is for the user; all else is for the log.
#
# From the environment: suite, mirror, root, packages, requirements.
set -eu
: "$suite" "$mirror" "$root" "$packages" "$requirements"
here=$(dirname "$root")

step() { echo "step $*"; }

in_root() {
    HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@" </dev/null
}

# How this machine's apt and pip reach their registries: settings, certificates, names of hosts, local package folders.
copy_network_settings() {
    for path in /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs /usr/share/ca-certificates \
        /usr/local/share/ca-certificates; do
        [ -e "$path" ] || continue
        mkdir -p "$root$(dirname "$path")"
        rm -rf "$root$path"
        cp -a "$(readlink -f "$path")" "$root$path"
    done
    apt-config dump 2>/dev/null | grep '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Changelogs|CompressionTypes)' \
        >"$root/etc/apt/apt.conf.d/99host" || true
    # Folders that pip reads. An index (file:///DIR/simple) links to its neighbours, so DIR is what must be there.
    { pip config list 2>/dev/null || true; env | grep '^PIP_'; } | sed 's/^[^=]*=//; s/\\n/ /g' | tr -s " '\"" '[\n*]' |
        sed -n 's|^file://\(/.*[^/]\)/simple/*$|\1|p; s|^file://\(/.*\)|\1|p; /^\//p' | sort -u | while read -r folder; do
            [ -d "$folder" ] && [ ! -e "$root$folder" ] || continue
            mkdir -p "$root$folder"
            mount --bind "$folder" "$root$folder"
            echo "$folder" >>"$here/bound"
        done
}

# Nothing of this machine stays in what is kept.
forget_network_settings() {
    [ ! -e "$here/bound" ] || while read -r folder; do umount "$root$folder"; rmdir "$root$folder"; done <"$here/bound"
    rm -f "$here/bound"
    rm -rf "$root/etc/pip.conf" "$root/etc/apt/apt.conf.d/99host" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* \
        "$root/root/.cache"
    echo "127.0.0.1 localhost" >"$root/etc/hosts"
    echo testhost >"$root/etc/hostname"
    : >"$root/etc/resolv.conf"
}

step "Debian $suite from $(echo "$mirror" | sed 's|//[^/]*@|//|')"
debootstrap --variant=minbase "$suite" "$root" "$mirror"
mount -t proc proc "$root/proc"
copy_network_settings
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"  # nothing is started in here
chmod +x "$root/usr/sbin/policy-rc.d"

xen=$(in_root apt-cache search --names-only '^xen-hypervisor-4[.0-9]*-amd64$' |
    sed 's/^xen-hypervisor-\(4[.0-9]*\)-amd64.*/\1/' | sort -V | tail -n 1)
kernel=$(in_root apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
step "packages: Xen $xen, $kernel, and what dom0 needs"
# shellcheck disable=SC2086  # one word a package
in_root apt-get install -y -q --no-install-recommends $packages "xen-utils-$xen"
# Unpacked, not installed: no boot loader and no ramdisk of Debian's own is needed.
in_root sh -c "cd /var/tmp && apt-get download xen-hypervisor-$xen-amd64 $kernel"
for deb in "$root"/var/tmp/*.deb; do
    dpkg-deb -x "$deb" "$here/unpacked"
    rm "$deb"
done
gzip -dc "$here/unpacked/boot/xen-$xen-amd64.gz" >"$here/xen"
cp "$here"/unpacked/boot/vmlinuz-* "$here/vmlinuz"
mkdir -p "$root/usr/lib/modules" "$root/boot/testhost" "$root/job" "$root/results"
cp -a "$here"/unpacked/lib/modules/* "$root/usr/lib/modules/" 2>/dev/null ||
    cp -a "$here"/unpacked/usr/lib/modules/* "$root/usr/lib/modules/"
rm -rf "$here/unpacked"
release=$(ls "$root/usr/lib/modules")
in_root depmod "$release"
echo 'autoballoon="off"' >"$root/etc/xen/xl.conf"
echo "$release" >"$here/kernel-release"
echo "$xen" >"$here/xen-version"

step "Python packages as wheels"
in_root python3 -m venv /opt/xenpv
# shellcheck disable=SC2086  # one word a requirement
in_root /opt/xenpv/bin/pip wheel -q -w /opt/xenpv/wheels $requirements
in_root sh -c '/opt/xenpv/bin/pip install -q --no-index --no-deps /opt/xenpv/wheels/*.whl'

forget_network_settings
umount "$root/proc"
