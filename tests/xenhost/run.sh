#!/bin/bash
# Runs the tests marked `xen` in dom0: xenpv testhost run tests/xenhost/run.sh tests setup.cfg
cd /job || exit
exec python -m pytest -m xen -p no:cacheprovider --durations=25 tests/xenhost/test_xen_guest_disk.py tests/xenhost/test_xen_commands.py tests/xenhost/test_xen_disk.py tests/xenhost "$@"
