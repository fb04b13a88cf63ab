#!/bin/bash
# Runs the tests marked `xen` in dom0: xenpv testhost run tests/xenhost/run.sh tests setup.cfg
cd /job || exit
exec python -m pytest -m xen -p no:cacheprovider --durations=10 tests/xenhost "$@"
