# In a guest with fio: the cases of data.sh on each of its four disks, in turns, one line a run: "guest: run CASE DISK IOPS BYTES/S P50-US".
# shellcheck shell=bash
disks=(xvda xvdb xvdc xvdd)
for disk in "${disks[@]}"; do until [ -b "/dev/$disk" ]; do sleep 0.1; done; done
# job ROUND CASE RW BLOCK DEPTH: all disks one after the other, each round beginning with another.
job() {
    printf '%s\n' '[global]' 'ioengine=io_uring' 'direct=1' 'thread=1' 'time_based=1' 'ramp_time=1' 'runtime=3' "rw=$3" "bs=$4" \
        "iodepth=$5" 'size=100%' 'norandommap=1' 'randrepeat=1'
    local turn
    for turn in 0 1 2 3; do
        local disk=${disks[$((($1 + turn) % 4))]}
        printf '%s\n' "[$2-$disk]" "filename=/dev/$disk" 'stonewall'
    done
}
for round in 0 1 2; do
    while read -r name rw block depth; do
        job $round "$name" "$rw" "$block" "$depth" >/tmp/job.fio
        fio --eta=never --output-format=json --output=/tmp/out.json /tmp/job.fio </dev/null || exit 2
        python3 - <<'END' || exit 3
import json
text = open("/tmp/out.json").read()
for job in json.loads(text[text.index("{"):])["jobs"]:  # fio's notes may stand before it
    assert not job["error"], job["error"]
    side = max(job["read"], job["write"], key=lambda side: side["total_ios"])
    case, disk = job["jobname"].rsplit("-", 1)
    print("guest: run", case, disk, f'{side["iops"]:.1f} {side["bw_bytes"]} {side["clat_ns"]["percentile"]["50.000000"] / 1000:.0f}')
END
    done <<'CASES'
randread-4k-qd32 randread 4k 32
randwrite-4k-qd32 randwrite 4k 32
read-64k-qd8 read 64k 8
read-256k-qd8 read 256k 8
CASES
done
