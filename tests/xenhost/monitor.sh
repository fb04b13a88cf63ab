# A stock guest's disk as `xenpv top`, `record`, `plot` and `exporter` show it, also while the backend is killed and comes back.
# The pictures are in $XENPV_RESULTS. What a backend leaves in its run directory is host.sh's to count.
# shellcheck shell=bash
. ./host.sh
fresh_image 24M /tmp/a.img
sed 's/ -le 12 / -le 1000000 /' guest_busy.sh >/tmp/endless.sh
guest_config busy /tmp/endless.sh
mkdir -p /etc/xenpv
echo 'profile = "auto"' >/etc/xenpv/backend.toml
start_backend

# requests_of FILE: what the first vbd of a line of `xenpv top --json` did: operations a second, and the end of service's p99.
requests_of() {
    python3 -c 'import json, sys
vbd = json.loads(open(sys.argv[1]).readline())["vbds"][0]
rate = vbd["reads_per_second"] + vbd["writes_per_second"]
print(int(rate > 0), int((vbd["service_p99_ns"] or [0, 0])[1] > 0), vbd["name"], vbd["vdev"])' "$1"
}

scenario "a stock guest's disk in xenpv top"
xl create -q -p /tmp/busy.cfg
xenpv block-attach busy /tmp/a.img,,xvda
xl unpause busy
guest_says busy "guest: round 1 done" 200
xenpv top --batch -n 2 -i 3 | tee "$results/top.txt"
xenpv top -n 1 -i 5 --json >"$results/top.json"
[ "$(requests_of "$results/top.json")" = "1 1 busy xvda" ] || die "top shows no requests: $(cat "$results/top.json")"
(sleep 8; printf q) | TERM=xterm script -qec "xenpv top -i 1" "$results/top.screen" >/dev/null
shows $'\033\\[?1049l' cat "$results/top.screen" || die "top does not give the terminal back"
shows xvda cat "$results/top.screen" || die "top on a terminal shows no disk"

xenpv record busy xvda -o "$results/busy.rec" -i 0.5 --seconds 25 &
recorder=$!
sleep 8
kill_backend
sleep 4
start_backend
wait $recorder || die "the recorder ended with status $?"
xenpv plot "$results/busy.rec"
xenpv plot "$results/busy.rec" -o "$results/busy.html"
shows "service: fetch to response" cat "$results/busy.rec.svg" || die "the picture has no service times"
shows "no backend" cat "$results/busy.rec.svg" || die "the picture does not show that the backend was away"

if python3 -c 'import prometheus_client' 2>/dev/null; then
    xenpv exporter --once >"$results/metrics"
    shows 'xenpv_vbd_service_seconds_count' cat "$results/metrics" || die "no histogram for Prometheus"
else
    shows "pip install 'xenpv\[exporter\]'" sh -c 'xenpv exporter --once 2>&1 || true' || die "it does not say what is missing"
fi
no_guest_errors busy
! said busy "guest: exit" || die "the guest failed"
xl destroy busy
passed
stop_backend
rm /etc/xenpv/backend.toml
