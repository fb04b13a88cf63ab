# The backend is killed under a guest's I/O and started again, several times: the guest sees pauses and no error.
. ./host.sh
truncate -s 32M /tmp/a.img
guest_config busy guest_busy.sh 'disk = ["/tmp/a.img,raw,xvda,w"]'
start_backend
xenpv create /tmp/busy.cfg
domid=$(xenpv domid busy)
node=/local/domain/0/backend/vbd/$domid/51712
guest_says busy "guest: round 1 " 120
rounds() { grep -ac "guest: round" "$(console busy)"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }
for turn in 1 2 3; do
    say "kill $turn, after $(rounds) rounds"
    kill -9 "$backend"
    wait "$backend" || true
    key_is $node/state 4 || die "the state is not 4 any more"
    seen=$(rounds)
    start_backend
    until_true 60 more_rounds $((seen + 1)) || die "the guest does not go on"
done
say "SIGTERM and start"
stop_backend
seen=$(rounds)
start_backend
until_true 60 more_rounds $((seen + 1)) || die "the guest does not go on"
xenpv block-list -v busy
guest_says busy "guest: exit" 120
said busy "guest: exit 0" || die "the guest saw an error"
no_guest_errors busy
until_true 60 gone busy || die "the guest does not end"
e2fsck -fn /tmp/a.img
said busy "guest: disk $(sha256sum </tmp/a.img | cut -c1-64)" || die "the image differs"
grep -c adopted "$results/backend.log"
until_true 20 nodes_gone || die "nodes are left"
stop_backend
nothing_left
say "passed"
