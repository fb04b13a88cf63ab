# In a guest: the bundle on /dev/xvda, as partitions by the kernel, and by the extractor that dom0 put in at EXTRACTOR.
# shellcheck shell=dash
disk=/dev/xvda
tries=0
until [ -b $disk ] || [ $tries = 300 ]; do tries=$((tries + 1)); sleep 0.1; done
cat >/xenpv-extract <<'END_OF_EXTRACTOR'
EXTRACTOR
END_OF_EXTRACTOR
for partition in /sys/block/xvda/xvda*; do
    echo "guest: $(sed -n s/PARTNAME=//p "$partition/uevent") $(($(cat "$partition/size") * 512)) $(sed -n s/PARTUUID=//p "$partition/uevent")"
done
sh /xenpv-extract id $disk | sed 's/^/guest: id /'
sh /xenpv-extract check $disk | sed 's/^/guest: check /'
sh /xenpv-extract extract -d /out $disk kernel root >/dev/null || exit 1
sha256sum /out/kernel /out/root | sed 's/^/guest: sum /'
