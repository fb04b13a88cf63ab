# Every script of this folder in one boot: `xenpv testhost run tests/xenhost/all.sh tests/xenhost/*.sh`. Scripts may be named
# in $XENPV_SCRIPTS. One line a scenario at the end; the status is 1 if one failed.
# shellcheck shell=bash
export XENPV_SUMMARY=${XENPV_RESULTS:-/tmp}/summary
: >"$XENPV_SUMMARY"
status=0
for script in ${XENPV_SCRIPTS:-attach commands blkif xl_create xl_tap root kill inflight bundle storage monitor}; do
    bash "./$script.sh" || status=1
done
echo "==== every scenario"
cat "$XENPV_SUMMARY"
! grep -q '^FAIL' "$XENPV_SUMMARY" && exit $status
