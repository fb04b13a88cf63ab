# In a guest: /dev/xvda is slower in its first half. Three writers are there and one in the second half, each with a place of
# its own, write another pattern every round, and read it back; eight rounds.
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
    "$1" "$half" 24 &
    parts="$parts $!"
    for part in $parts; do wait "$part" || exit "$2"; done
}
check() { [ "$(get "$1" "$2" | sha256sum)" = "$(pattern "$1" "$2" | sha256sum)" ]; }
round=0
while [ $round -lt 8 ]; do
    each put 1
    each check 2
    round=$((round + 1))
    echo "guest: round $round done"
done
echo "guest: disk $(sha256sum <$disk | cut -c1-64)"
