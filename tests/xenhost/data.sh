# What `data = "copy"` and `data = "map"` cost with a stock guest (docs/blkif.md, Copied or mapped): four disks in dom0's memory, each
# setting with persistent grants and without, fio in the guest, in turns. It measures and decides nothing; about five minutes:
#   xenpv testhost run --time-limit 900 tests/xenhost/data.sh tests/xenhost/*.sh
# shellcheck shell=bash
. ./host.sh
toml=/etc/xenpv/backend.toml
images=/dev/shm/data
settings=(copy:true copy:false map:true map:false)
vdevs=(xvda xvdb xvdc xvdd)
guest_config data guest_data.sh "memory = 512
extra = \"console=hvc0 $brief testhost.root=xvdy testhost.job=xvdz\"
disk = [\"$(kernel_disk /dev/vdd xvdy ro)\", \"$(kernel_disk /dev/vde xvdz ro)\"]"

mkdir -p /etc/xenpv $images
start_backend
scenario "fio in a guest, data copied and mapped, persistent grants on and off"
xl create -q /tmp/data.cfg
guest_says data "guest: up" 120
for number in 0 1 2 3; do
    vdev=${vdevs[$number]}
    data=${settings[$number]%:*} persistent=${settings[$number]#*:}
    head -c 134217728 /dev/urandom >"$images/$vdev.img"
    printf '%s\n' "data = \"$data\"" "persistent = $persistent" >$toml
    kill -HUP "$backend"
    xenpv block-attach --wait 60 data "$images/$vdev.img,,$vdev"
done
guest_ends data 600
grep -a '^guest: run' "$(console data)" | tr -d '\r' >"$results/data.runs"
python3 - "$results/data.runs" <<'END'
import os, statistics, sys
disks = {"xvda": "copy, persistent", "xvdb": "copy", "xvdc": "map, persistent", "xvdd": "map"}
runs = {}
for line in open(sys.argv[1]):
    case, disk, iops, speed, p50 = line.split()[2:]
    runs.setdefault(case, {}).setdefault(disk, []).append((float(iops), float(speed) / (1 << 20), float(p50)))
print(f"load average {os.getloadavg()[0]:.1f}; medians of {len(runs['randread-4k-qd32']['xvda'])} runs, lowest and highest IOPS")
for case, found in runs.items():
    for disk, name in disks.items():
        iops, speed, p50 = zip(*found[disk])
        print(f"{case:<18} {name:<17} {statistics.median(iops):8,.0f} IOPS {statistics.median(speed):8.1f} MiB/s "
              f"p50 {statistics.median(p50):8,.0f} us   {min(iops):,.0f} to {max(iops):,.0f}")
END
passed
stop_backend
rm -rf $toml $images
