#!/bin/bash
# Runs the tests marked `xen` in dom0: xenpv testhost run tests/xenhost/run.sh tests setup.cfg
# Files may be named in $XENPV_TESTS.
cd /job || exit
# shellcheck disable=SC2086  # one word a file
exec python -m pytest -m xen -p no:cacheprovider --durations=10 ${XENPV_TESTS:-tests/xenhost} "$@"
