#!/bin/bash
# dom0's time page alone: xenpv testhost run tests/xenhost/time.sh tests setup.cfg
cd /job || exit
python -m pytest -s -m xen -p no:cacheprovider tests/xenhost/test_xen_timepage.py || exit 1
xenpv time publish &
sleep 3
xenpv time doctor
kill $!
