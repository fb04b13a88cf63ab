"""Measuring: xenpv against raw I/O and its peers, in one run, and notifications with the flag and without.

    cases.py           what is measured
    load.py            the load of one case through the public Disk: the demo's guests run it too
    histogram.py       latencies, log-linear
    cpu.py             CPU time of this process and of others
    machine.py         versions, and what else the machine was busy with
    files.py           the file that everybody reads and writes
    fio.py nbdkit.py   running the peers and reading what they say
    systems.py         one class a system: raw, nbdkit
    xenpv_system.py    the third: the emulated Xen, a backend process, a load process
    guest.py           that load process
    compare.py         alternating runs and their medians
    notifications.py   notifications per 1,000 requests
    profiling.py       what it costs to measure requests
    totals.py          stamps held against a clock outside
    report.py          the same as JSON and as a table
"""
