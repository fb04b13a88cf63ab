"""Measuring: xenpv against raw I/O and its peers, in one run; notifications with the flag and without; many vbds;
backends of a Xen host, from inside a guest.

    cases.py           what is measured
    load.py            the load of one case through the public Disk: the demo's guests run it too
    histogram.py       latencies, log-linear
    cpu.py             CPU time of this process and of others
    machine.py         versions, and what else the machine was busy with
    files.py           the file that everybody reads and writes
    fio.py             running fio and reading what it says
    nbd_server.py      running an NBD server: nbdkit.py, qemu.py say how each is started
    systems.py         one class a peer: raw, nbdkit, qemu-storage-daemon
    own_xen.py         an emulated Xen with a backend process, and the processes that load it
    xenpv_system.py    the system `xenpv` on one, with one load process
    child.py           those two processes
    compare.py         alternating runs and their medians
    notifications.py   notifications per 1,000 requests
    profiling.py       what it costs to measure requests
    totals.py          stamps held against a clock outside
    many.py            many vbds of one backend: many_system.py runs them, loads.py is their load processes
    guest_compare.py   backends beside each other on a real Xen host, fio in a guest: guest_disks.py finds the disks,
                       guest_line.py asks the guest, guest_agent.py answers there
    process.py         memory and wake-ups of a process
    report.py          the answers as tables
    plot.py            the comparison as a picture
"""
