# The backend ends under a guest's file system and is started again, several times: the guest sees pauses and no error.
# shellcheck shell=bash
. ./host.sh
fresh_image 32M /tmp/a.img
guest_config busy guest_busy.sh 'disk = ["/tmp/a.img,raw,xvda,w"]'
start_backend

rounds() { grep -ac "guest: round" "$(console busy)"; }
more_rounds() { [ "$(rounds)" -gt "$1" ]; }
# goes_on COMMAND: the backend ends by it, and the next one serves the guest.
goes_on() {
    say "$1, after $(rounds) rounds"
    "$1"
    key_is "$node/state" 4 || die "the state is not 4 any more"
    seen=$(rounds)
    start_backend
    until_true 60 more_rounds $((seen + 1)) || die "the guest does not go on"
}

scenario "kill -9 three times, then SIGTERM, under a file system with four writers"
xenpv create /tmp/busy.cfg
node=/local/domain/0/backend/vbd/$(xenpv domid busy)/51712
guest_says busy "guest: round 1 " 120
for end in kill_backend kill_backend kill_backend stop_backend; do goes_on $end; done
xenpv block-list -v busy
guest_ends busy 120
fsck_is_clean /tmp/a.img
image_is_right busy /tmp/a.img

scenario "no backend runs: detach says so, -f takes the disk; a guest is destroyed; the next backend finds nothing"
fresh_image 16M /tmp/b.img
guest_config alone guest_hot.sh 'disk = ["/tmp/a.img,raw,xvda,w", "/tmp/b.img,raw,xvdb,w"]'
xenpv create /tmp/alone.cfg
guest_says alone "guest: xvdb written" 120
kill_backend
if xenpv block-detach alone xvdb 2>/tmp/error; then die "a disk without a backend was detached"; fi
cat /tmp/error
grep -q "is it running" /tmp/error || die "the error does not say that no backend runs"
[ "$(wc -l </tmp/error)" = 1 ] || die "the error has several lines"
xenpv block-detach -f alone xvdb
guest_says alone "guest: xvdb gone" 60
xl destroy alone || say "xl complains that nobody closed xvda, and takes it"
gone alone || die "the domain is left"
start_backend
passed
stop_backend
