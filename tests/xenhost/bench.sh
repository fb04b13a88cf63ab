# fio in one guest with one vCPU, on disks of our backend, of the kernel's and of QEMU's, all three on the same ram disk of dom0:
# `xenpv bench --guest`. The table, and its JSON and picture in $XENPV_RESULTS. BENCH: its other arguments. By its name alone,
# not one of all.sh's: figures count only on a machine that does nothing else.
# shellcheck shell=bash
. ./host.sh
device=/dev/ram0
modprobe brd rd_nr=1 rd_size=65536
# Until it is full: a page that was never written costs nothing to read. Not through dom0's page cache: a direct write that meets a page
# there is another path in the kernel, for whoever writes by a file descriptor.
dd if=/dev/urandom of=$device bs=1M iflag=fullblock oflag=direct 2>/dev/null || true
guest_config bench guest_bench.sh 'memory = 512
tsc_mode = "native"'
cat >>/tmp/bench.cfg <<END
extra = "console=hvc0 $brief testhost.root=xvdy testhost.job=xvdz"
disk = ["$(kernel_disk /dev/vdd xvdy ro)", "$(kernel_disk /dev/vde xvdz ro)", "$(kernel_disk $device xvda)",
        "backendtype=qdisk,format=raw,vdev=xvdb,access=rw,target=$device"]
END
start_backend

scenario "xenpv bench --guest: ours, blkback and qdisk in one guest"
xl create -q -p /tmp/bench.cfg
xenpv block-attach bench $device,,xvdc
xl unpause bench
guest_says bench "xenpv: serving" 180
read -ra more <<<"${BENCH:---seconds 0.6 --runs 15}"
xenpv bench --guest bench --disk xvdc --disk xvda --disk xvdb --plot "$results/bench.svg" --json "${more[@]}" >"$results/bench.json"
python3 -c 'import json, sys; from xenpv_tools.bench import report; print(report.guest(json.load(sys.stdin)))' <"$results/bench.json"
xenstore-rm "/local/domain/$(xl domid bench)/data/xenpv-bench/ask"
guest_says bench "guest: exit 0" 60
until_true 60 gone bench || die "the guest does not end"
xenstore-rm /local/domain/0/device-model # empty: xl leaves it where QEMU ran
passed
stop_backend
