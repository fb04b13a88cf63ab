# A stock blkfront and our backend, feature by feature (docs/blkif.md): a disk with all that we offer, on two rings of 16 pages;
# one of an old backend with 4 KiB sectors; one whose data is mapped; large reads and writes, discards; a drive, which is read-only,
# and a removable disk; a resize. What blkfront says in its log is what was agreed; what went over the rings, our backend counts.
# shellcheck shell=bash
. ./host.sh
toml=/etc/xenpv/backend.toml
# blkfront's memory for a ring of 16 pages with persistent grants: 512 requests of 33 pages, 66 MiB.
guest_config blkif guest_blkif.sh "vcpus = 2
memory = 384
extra = \"console=hvc0 $brief xen_blkfront.max_ring_page_order=4\""

# options LINES...: of every disk that is attached from now on.
options() {
    mkdir -p "$(dirname $toml)"
    printf '%s\n' 'engine = "threads"' "$@" >$toml
    [ -z "$backend" ] || kill -HUP "$backend"
}
# image NAME BYTES: and what the guest shall read.
image() {
    head -c "$2" /dev/urandom >"/tmp/$1.img"
    sha256sum <"/tmp/$1.img" | cut -c1-64 >"/tmp/$1.sha"
}
kib() { echo $(($(stat -c %b "/tmp/$1.img") / 2)); }
# agreed VDEV PATTERN: what blkfront says of that disk.
agreed() {
    awk -v disk="blkfront: $1:" -v wanted="$2" 'index($0, disk) { line = $0 } END { exit !index(line, wanted) }' "$(console blkif)" \
        || die "$1 is not '$2'"
}
facts() { local vdev=$1 fact; shift; for fact in "$@"; do said blkif "guest: $vdev $fact" || die "$vdev is not '$fact'"; done; }
frontend_key() { key "/local/domain/$domid/device/vbd/$1"; }
# backend_says VDEV CLAIM...: what holds of a disk. `about` is what our backend says of it, `of(NAME)` a counter of each of its
# queues, `done(OPERATION)` the requests that were answered.
backend_says() {
    xenpv block-list -v --json blkif >/tmp/list.json
    python3 - "$@" <<'END' || die "our backend says otherwise of $1"
import json, sys
vdev, *claims = sys.argv[1:]
about = next(disk for disk in json.load(open("/tmp/list.json")) if disk["vdev"] == vdev)["backend"]
of = lambda name: [queue[name] for queue in about["counters"]]
done = lambda operation: [requests[operation] for requests in of("requests")]
wrong = [claim for claim in claims if not eval(claim)]
for claim in wrong:
    print(f"{vdev}: not so: {claim}")
if wrong:
    sys.exit(str(about))
END
}
# worked VDEV: the guest read what was there, and wrote what it says.
worked() {
    guest_says blkif "guest: $1 done" 120
    said blkif "guest: $1 before $(cat "/tmp/$1.sha")" || die "$1 was not read right"
    image_is_right blkif "/tmp/$1.img"
}

for vdev in xvda xvdb xvdc; do image $vdev 8388608; done
for vdev in xvdd xvde; do image $vdev 262144; done
options 'persistent = true'
start_backend
# The directory of dom0's own disks may stay when they are gone: it is there before, and after.
xenstore-exists /local/domain/0/device/vbd || xenstore-write /local/domain/0/device/vbd ""
scenario "stock blkfront with all we offer, an old peer with 4 KiB sectors, mapped data; drives; a resize"
full=$(kib xvda)
xl create -q -p /tmp/blkif.cfg
domid=$(xl domid blkif)
xenpv block-attach blkif /tmp/xvda.img,,xvda
xl unpause blkif
worked xvda
agreed xvda "flush diskcache: enabled"
agreed xvda "persistent grants: enabled"
agreed xvda "indirect descriptors: enabled"
facts xvda "discard status 0" "ro 0" "removable 0"
[ "$(frontend_key 51712/multi-queue-num-queues) $(frontend_key 51712/ring-page-order)" = "2 4" ] || die "not two rings of 16 pages"
[ -n "$(frontend_key 51712/queue-1/ring-ref15)" ] || die "the second ring has no 16 pages"
backend_says xvda 'about["queues"] == 2 and about["ring_entries"] == 512' 'min(done("read")) >= 16' 'sum(of("indirect")) >= 48' \
    'sum(done("flush")) >= 1 and sum(done("write_barrier")) == 0' 'sum(done("discard")) >= 1' \
    'sum(of("bytes_discarded")) == 1 << 20' 'sum(of("grants_persistent")) > 0' 'sum(of("refused")) == 0'
[ "$(kib xvda)" -le $((full - 1024)) ] || die "the image has no hole: $(kib xvda) KiB of $full"

say "an old backend"
options 'max_indirect_segments = 0' 'persistent = false' 'flush = false' 'max_ring_page_order = 0' 'max_queues = 1' \
    'notify_flag = false' 'sector_size = 4096' 'discard = false'
xenpv block-attach --wait 30 blkif /tmp/xvdb.img,,xvdb
worked xvdb
agreed xvdb "barrier: enabled"
agreed xvdb "persistent grants: disabled"
agreed xvdb "indirect descriptors: disabled"
facts xvdb "size 16384" "queue/logical_block_size 4096" "queue/discard_max_bytes 0" "discard status 1"
[ -n "$(frontend_key 51728/ring-ref)" ] || die "not the one ring of an old frontend"
backend_says xvdb 'about["queues"] == 1 and about["ring_entries"] == 32' 'sum(of("indirect")) == 0' \
    'sum(done("write_barrier")) >= 1 and sum(done("flush")) == 0' 'sum(done("discard")) == 0' 'sum(of("refused")) == 0'

say "mapped data, few standing mappings, two rings of two pages"
options 'data = "map"' 'max_persistent_grants = 20' 'max_ring_page_order = 1'
full=$(kib xvdc)
xenpv block-attach --wait 30 blkif /tmp/xvdc.img,,xvdc
worked xvdc
agreed xvdc "indirect descriptors: enabled"
facts xvdc "discard status 0"
backend_says xvdc 'about["queues"] == 2 and about["ring_entries"] == 64' 'min(done("read")) >= 16' 'max(of("grants_persistent")) <= 20' \
    'sum(of("bytes_discarded")) == 1 << 20' 'sum(of("refused")) == 0'
[ "$(kib xvdc)" -le $((full - 1024)) ] || die "the image has no hole: $(kib xvdc) KiB of $full"

say "a drive, which is read-only, and a removable disk"
options 'max_ring_page_order = 0' 'max_queues = 1'
xenpv block-attach --wait 30 blkif /tmp/xvdd.img,,xvdd,,cdrom
# Neither xl nor we have a word for a removable disk that is no drive; other toolstacks write the backend's key.
xl pause blkif
xenpv block-attach blkif /tmp/xvde.img,,xvde
xenstore-write "/local/domain/0/backend/vbd/$domid/51776/removable" 1
xl unpause blkif
for vdev in xvdd xvde; do worked $vdev; done
facts xvdd "ro 1" "removable 1" "write status 1"
facts xvde "ro 0" "removable 1" "write status 0"
[ "$(sha256sum </tmp/xvdd.img | cut -c1-64)" = "$(cat /tmp/xvdd.sha)" ] || die "the drive's image was changed"

say "a resize"
[ "$(xenpv block-resize --json blkif xvda 12M | tr -dc 0-9,:a-z | grep -c bytes:12582912)" = 1 ] || die "it was not resized"
guest_says blkif "guest: xvda has 24576 sectors" 60
guest_ends blkif 60

say "a drive is one (CDROM_GET_CAPABILITY), for dom0's own blkfront: a tiny guest has no program for this"
is_drive() { python3 -c 'import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK), 0x5331)' "$1"; }
xenpv block-attach --wait 30 0 /tmp/xvdd.img,,xvdd,,cdrom
until_true 20 [ -b /dev/xvdd ]
is_drive /dev/xvdd || die "the drive is none"
! is_drive /dev/vda 2>/dev/null || die "dom0's own disk is a drive too"
[ "$(sha256sum </dev/xvdd | cut -c1-64)" = "$(cat /tmp/xvdd.sha)" ] || die "dom0 read the drive wrong"
xenpv block-detach 0 xvdd

# No device here has a secure discard but a disk of our own storage in memory: dom0's blkfront makes a block device of it.
say "secure discards: a stock blkfront's; of a block device below us; our frontend's, of xen-blkback"
options 'max_ring_page_order = 0' 'max_queues = 1'
secure() { until_true 20 grep -q "discard sector=$1 bytes=1048576 secure status=0" /tmp/secure.log || die "no secure discard: $2"; }
xenpv block-attach --wait 30 0 vdev=xvdb,target=log,file=/tmp/secure.log:memory:8388608
until_true 20 [ -b /dev/xvdb ]
blkdiscard --secure -o 1048576 -l 1048576 /dev/xvdb
secure 2048 "blkfront's"
xenpv block-attach --wait 30 0 /dev/xvdb,,xvdc
until_true 20 [ -b /dev/xvdc ]
blkdiscard --secure -o 2097152 -l 1048576 /dev/xvdc
secure 4096 "of the device below us"
xenpv block-detach 0 xvdc
# libxl remembers each disk that dom0 ever had: with one of QEMU's among them it attaches no other before a QEMU runs.
model=/local/domain/0/image/device-model-pid
xenstore-exists ${model%/*} || unmodel=${model%/*}
xenstore-write $model 1
xl block-attach 0 "script=$PWD/block_kernel.sh,vdev=xvdc,access=w,target=/dev/xvdb"
xenstore-rm "${unmodel:-$model}"
until_true 20 [ -b /dev/xvdc ]
python3 - <<'END'
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk
with open_domain("xen:") as domain, Disk.open(domain, "xvdc", take=True, timeout=60) as disk:
    disk.discard(3 << 20, 1 << 20, secure=True)
END
secure 6144 "of xen-blkback's"
xl block-detach 0 xvdc
until_true 20 [ ! -b /dev/xvdc ]
xenpv block-detach 0 xvdb
rm -f /tmp/secure.log
passed
stop_backend
# For those that come after as it was before; libxl takes an empty one away when it detaches a disk.
[ -n "$(xenstore-list /local/domain/0/device/vbd)" ] || xenstore-rm /local/domain/0/device
rm -f $toml
