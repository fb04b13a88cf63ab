#!/bin/bash
# The whole suite in one boot of dom0: the tests marked `xen` (run.sh), then the scripts (all.sh), and what passed.
#   xenpv testhost run tests/xenhost/suite.sh tests setup.cfg
# Exit status 0: nothing failed, and both have passed something.
set -u
results=${XENPV_RESULTS:-/tmp}
cd /job/tests/xenhost || exit 1

bash run.sh 2>&1 | tee "$results/tests.log"
tests_status=${PIPESTATUS[0]}
bash all.sh 2>&1 | tee "$results/scripts.log"
scripts_status=${PIPESTATUS[0]}

# tests/conftest.py's summary of the tests; the scripts' own lines, up to where all.sh repeats them.
counts=$(grep -oE '^passed [0-9]+, failed [0-9]+, not run [0-9]+' "$results/tests.log" | tail -n 1)
read -r _ passed _ failed _ _ not_run <<<"$(tr -d , <<<"${counts:-passed 0, failed 0, not run 0}")"
sed -i '/^==== every scenario/,$d' "$results/scripts.log"
scripts_passed=$(grep -cE '^(pass  |== passed$)' "$results/scripts.log")
scripts_failed=$(grep -c '^FAIL  ' "$results/scripts.log")
# A status that the counts do not explain, or nothing at all, is a failure too.
[ "$tests_status" = 0 ] && [ "$passed" -gt 0 ] || [ "$failed" -gt 0 ] || failed=1
[ "$scripts_status" = 0 ] && [ "$scripts_passed" -gt 0 ] || [ "$scripts_failed" -gt 0 ] || scripts_failed=1

echo "==== Xen $(xl info xen_version), Linux $(uname -r), $(python -V)"
echo "tests:     passed $passed, failed $failed, not run $not_run (exit status $tests_status)"
echo "scenarios: passed $scripts_passed, failed $scripts_failed (exit status $scripts_status)"
grep -hE '^FAIL(ED)?\b' "$results/tests.log" "$results/scripts.log"
echo "passed $((passed + scripts_passed)), failed $((failed + scripts_failed)), not run $not_run"
[ $((failed + scripts_failed)) = 0 ]
