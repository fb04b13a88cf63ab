# In a guest: three writers in /dev/xvda's first half, each with a place of its own, write another pattern every round, and
# read it back; ten rounds. A fourth does the same in the second half, in rounds of its own, until they are through: it goes on
# while the first half answers nothing.
# shellcheck shell=dash
disk=/dev/xvda
until [ -b $disk ]; do sleep 0.1; done
dd if=/dev/urandom of=/source bs=64k count=16 2>/dev/null
half=$(($(cat /sys/block/xvda/size) / 2 / 32)) # in blocks of 16 KiB
# put PLACE BLOCKS, get PLACE BLOCKS: that many blocks of the round's pattern, from block PLACE on.
put() { dd if=/source of=$disk bs=16k skip=$((round + $1 % 8)) seek="$1" count="$2" oflag=direct 2>/dev/null; }
get() { dd if=$disk bs=16k skip="$1" count="$2" iflag=direct 2>/dev/null; }
pattern() { dd if=/source bs=16k skip=$((round + $1 % 8)) count="$2" 2>/dev/null; }
each() {
    parts=
    for place in 0 11 22; do
        "$1" $place 6 &
        parts="$parts $!"
    done
    for part in $parts; do wait "$part" || exit "$2"; done
}
check() { [ "$(get "$1" "$2" | sha256sum)" = "$(pattern "$1" "$2" | sha256sum)" ]; }
(
    round=0
    until [ -e /through ]; do
        put "$half" 8 || exit 3
        check "$half" 8 || exit 4
        round=$(((round + 1) % 8))
    done
) &
other=$!
round=0
while [ $round -lt 10 ]; do
    each put 1
    each check 2
    round=$((round + 1))
    echo "guest: round $round done"
done
: >/through
wait $other || exit
echo "guest: disk $(sha256sum <$disk | cut -c1-64)"
