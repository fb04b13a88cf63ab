# What ends while requests are in flight, out of order: the storage takes 0.1 s a request, and its first half answers nothing
# while it is held. The backend is killed or told to end and comes back; a disk is taken away; a guest is destroyed.
# shellcheck shell=bash
. ./host.sh
modprobe dm-delay
export DM_DISABLE_UDEV=1 # udevd does not run here: dmsetup makes the node itself
xenpv host install
fresh_image 32M /tmp/a.img
loop=$(losetup -f --show /tmp/a.img)
dmsetup create first --table "0 32768 delay $loop 0 100"
printf '0 32768 linear /dev/mapper/first 0\n32768 32768 delay %s 32768 100\n' "$loop" | dmsetup create uneven
disk=/dev/mapper/uneven
start_backend

# hold, release: requests to the first half wait in between; those of a dead process too, and with them its lock of the image.
hold() { dmsetup suspend --nolockfs first; }
release() { dmsetup resume first; }
on_failure() { release || true; }

# overtaken DOMID DEVID: how many requests are unanswered though a later one is answered, by the queues' journals
# (xenpv/core/journal.h).
overtaken() {
    python3 - "$XENPV_RUNDIR/backend/$1-$2"-*.journal <<'END'
import struct, sys
total = 0
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    entries = struct.unpack_from("<I", data, 12)[0]
    answers = [struct.unpack_from("<III", data, 64 + 128 * entries + 16 * number) for number in range(entries)]
    answered = {request for response, request, slot in answers if (response, request, slot) != (0, 0, 0)}
    taken = [struct.unpack_from("<II", data, 64 + 128 * slot + 112) for slot in range(entries)]
    total += sum(index not in answered and any(later > index for later in answered) for index, valid in taken if valid)
print(total)
END
}
some_overtaken() { [ "$(overtaken "$domid" 51712)" -gt 0 ]; }
# hold_some: from now on requests are unanswered that were overtaken, until release.
hold_some() {
    hold
    until_true 60 some_overtaken || die "nothing is out of order"
}
# end_backend: SIGTERM, and then the storage goes on.
end_backend() {
    kill "$backend"
    release
    wait "$backend" || die "the backend ended with status $?"
    backend=
}
rounds() { grep -ac "guest: round" "$(console uneven)"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }

scenario "kill -9 and SIGTERM with requests in flight out of order: the guest sees a pause and no error"
guest_config uneven guest_uneven.sh "disk = [\"$disk,raw,xvda,w\"]"
xenpv create /tmp/uneven.cfg
domid=$(xenpv domid uneven)
guest_says uneven "guest: round 1 " 120
for end in kill_backend end_backend kill_backend; do
    hold_some
    seen=$(rounds)
    $end
    left=$(overtaken "$domid" 51712)
    say "$end after $seen rounds: $left requests overtaken and not answered"
    case $end in
        kill_backend) [ "$left" -gt 0 ] || die "requests were answered that the storage held" ;;
        *) [ "$left" = 0 ] || die "SIGTERM left requests unanswered" ;;
    esac
    key_is "/local/domain/0/backend/vbd/$domid/51712/state" 4 || die "the state is not 4 any more"
    start_backend
    release
    until_true 60 more_rounds "$seen" || die "the guest does not go on"
done
guest_ends uneven 180
image_is_right uneven /tmp/a.img

scenario "a guest is destroyed with requests in flight out of order"
rm -f "$(console uneven)"
xl create -q /tmp/uneven.cfg 'disk = ["script=block-xenpv,vdev=xvda,target=/dev/mapper/uneven"]'
domid=$(xl domid uneven)
guest_says uneven "guest: round 1 " 120
hold_some
xl destroy uneven &
destroying=$!
until_true 20 key_is "/local/domain/0/backend/vbd/$domid/51712/online" 0 || die "xl does not take the disk"
release
wait $destroying || die "xl destroy fails"

scenario "a disk is detached under I/O: it ends for the guest as with the kernel's backend, and what was written stands"
guest_config detach guest_detach.sh
xl create -q /tmp/detach.cfg
domid=$(xl domid detach)
guest_says detach "guest: up" 120
time=0
# detached_by TOOL SPEC: the disk is attached with that tool, written by the guest, and taken away.
detached_by() {
    time=$((time + 1))
    dd if=/dev/zero of=/tmp/a.img bs=1M count=32 conv=notrunc status=none
    "$1" block-attach detach "$2"
    guest_says detach "guest: $time writes" 120
    "$1" block-detach detach xvdb
    guest_says detach "guest: $time ended" 120
    blocks=$(sed -n "s/.*guest: $time ended, \([0-9]*\) blocks.*/\1/p" "$(console detach)")
    say "$1 $2: $blocks blocks were written"
    found=$(tr -d '\000' </tmp/a.img | wc -c)
    [ "$found" -ge $((blocks * 16384)) ] || die "only $found bytes of $blocks blocks are on the image"
}
detached_by xl "$(kernel_disk "$disk" xvdb)"
detached_by xl "script=block-xenpv,vdev=xvdb,target=$disk"
detached_by xenpv "$disk,,xvdb"
xl destroy detach
passed

stop_backend
dmsetup remove uneven first
losetup -d "$loop"
xenpv host uninstall
