# Every script of this folder in one boot, each on a host without guests and backend: `xenpv testhost run tests/xenhost/all.sh
# tests/xenhost/*.sh`. Scripts may be named in $XENPV_SCRIPTS.
failed=
for script in ${XENPV_SCRIPTS:-attach commands xl_create kill}; do
    echo "==== $script"
    bash "./$script.sh" || failed="$failed $script"
    for domid in $(xl list | awk 'NR > 1 && $2 > 0 { print $2 }'); do xl destroy "$domid"; done
done
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
