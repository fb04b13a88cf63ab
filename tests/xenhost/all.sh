# Every script of this folder in one boot: `xenpv testhost run tests/xenhost/all.sh tests/xenhost/*.sh`. Scripts may be named
# in $XENPV_SCRIPTS. With $XENPV_SHORT those that take minutes are left out, and said to be. One line a scenario at the end; the
# status is 1 if one failed.
# shellcheck shell=bash
export XENPV_SUMMARY=${XENPV_RESULTS:-/tmp}/summary
: >"$XENPV_SUMMARY"
status=0
long="kill storage bundle_boot"
if [ -n "${XENPV_SHORT:-}" ]; then
    echo "-- left to ./dev xenhost: $long"
    long=
fi
for script in ${XENPV_SCRIPTS:-attach commands blkif xl_create xl_tap root inflight bundle monitor $long}; do
    began=$SECONDS
    bash "./$script.sh" || status=1
    echo "-- $script.sh took $((SECONDS - began)) s"
done
echo "==== every scenario"
cat "$XENPV_SUMMARY"
failed=$(grep -c '^FAIL  ' "$XENPV_SUMMARY")
[ $status = 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "passed $(grep -c '^pass  ' "$XENPV_SUMMARY"), failed $failed, not run 0"
[ "$failed" = 0 ]
