#!/bin/bash
# The part of the suite that ./dev check runs: about ten minutes. All of it: ./dev xenhost.
#   xenpv testhost run tests/xenhost/everyday.sh tests setup.cfg
export XENPV_TESTS="tests/xenhost/test_smoke.py tests/xenhost/test_xen_contract.py tests/xenhost/test_xen_devices.py"
export XENPV_SCRIPTS="attach xl_create"
exec bash /job/tests/xenhost/suite.sh
