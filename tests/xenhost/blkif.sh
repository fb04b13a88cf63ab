# A stock guest's blkfront and our backend, feature by feature (docs/blkif.md): a disk with all that we offer, one of an old backend
# with 4 KiB sectors, one whose data is mapped; large reads and writes; a resize. What blkfront says in its log is what was agreed.
# shellcheck shell=bash
. ./host.sh
toml=/etc/xenpv/backend.toml
guest_config blkif guest_blkif.sh

# options LINES...: of every disk that is attached from now on.
options() {
    mkdir -p "$(dirname $toml)"
    printf '%s\n' 'engine = "threads"' "$@" >$toml
    [ -z "$backend" ] || kill -HUP "$backend"
}
# image NAME: 8 MiB, and what the guest shall read.
image() {
    head -c 8388608 /dev/urandom >"/tmp/$1.img"
    sha256sum <"/tmp/$1.img" | cut -c1-64 >"/tmp/$1.sha"
}
# agreed VDEV PATTERN: what blkfront says of that disk.
agreed() {
    awk -v disk="blkfront: $1:" -v wanted="$2" 'index($0, disk) { line = $0 } END { exit !index(line, wanted) }' "$(console blkif)" \
        || die "$1 is not '$2'"
}
fact() { said blkif "guest: $1 $2" || die "$1 is not '$2'"; }
# counter VDEV NAME: of the backend's queues of that disk.
counter() {
    xenpv block-list -v --json blkif >/tmp/list.json
    python3 - "$@" <<'END'
import json, sys
vdev, name = sys.argv[1:]
disk = next(disk for disk in json.load(open("/tmp/list.json")) if disk["vdev"] == vdev)
print(sum(queue[name] for queue in disk["backend"]["counters"]))
END
}
# worked VDEV: the guest read what was there, and wrote what it says.
worked() {
    guest_says blkif "guest: $1 done" 120
    said blkif "guest: $1 before $(cat "/tmp/$1.sha")" || die "$1 was not read right"
    image_is_right blkif "/tmp/$1.img"
}

for vdev in xvda xvdb xvdc; do image $vdev; done
options
start_backend
scenario "stock blkfront with indirect requests, an old peer with 4 KiB sectors, mapped data; a resize"
xl create -q -p /tmp/blkif.cfg
xenpv block-attach blkif /tmp/xvda.img,,xvda
xl unpause blkif
worked xvda
agreed xvda "flush diskcache: enabled"
agreed xvda "persistent grants: enabled"
agreed xvda "indirect descriptors: enabled"
[ "$(counter xvda indirect)" -ge 48 ] || die "$(counter xvda indirect) indirect requests are too few"

say "an old backend"
options 'max_indirect_segments = 0' 'persistent = false' 'flush = false' 'max_ring_page_order = 0' 'max_queues = 1' \
    'notify_flag = false' 'sector_size = 4096'
xenpv block-attach --wait 30 blkif /tmp/xvdb.img,,xvdb
worked xvdb
agreed xvdb "barrier: enabled"
agreed xvdb "persistent grants: disabled"
agreed xvdb "indirect descriptors: disabled"
fact xvdb "size 16384"
fact xvdb "queue/logical_block_size 4096"
[ "$(counter xvdb indirect)" = 0 ] || die "indirect requests that were not offered"
[ "$(counter xvdb refused)" = 0 ] || die "requests were refused"

say "mapped data, few standing mappings"
options 'data = "map"' 'max_persistent_grants = 20'
xenpv block-attach --wait 30 blkif /tmp/xvdc.img,,xvdc
worked xvdc
agreed xvdc "indirect descriptors: enabled"
[ "$(counter xvdc grants_persistent)" -le 20 ] || die "more than 20 grants stay mapped"

say "a resize"
[ "$(xenpv block-resize --json blkif xvda 12M | tr -dc 0-9,:a-z | grep -c bytes:12582912)" = 1 ] || die "it was not resized"
guest_says blkif "guest: xvda has 24576 sectors" 60
guest_ends blkif 60
passed
stop_backend
rm -f $toml
