"""How long requests took, and where: histograms of a disk's requests, per operation and per stage.

Both ends record in their core (core/latency.h) and off by default; who looks gets a `DiskLatency`:

    the backend's    read_disk(RUNDIR, domid, devid)     from RUN/backend/<domid>-<devid>-<queue>.latency, asking nobody
    the frontend's   Disk.latency()                      of its own requests

    latency = read_disk(run, 3, 51712)          None when nobody measures it (`xenpv backend run --profile`, or stamps)
    latency.resolution_ns                       what one step of the clock is; every figure of a histogram is in steps
    read = latency.operations["read"]           all of OPERATIONS are there, also those with nothing in them
    stored = read.stages["stored"]              a Histogram; the names are those of STAGES that this end knows
    stored.count, stored.total, stored.mean     the total is exact
    stored.quantile(0.99)                       (low, high) in steps, between which the time lies; None when it is empty
    latency.ns(high)                            nanoseconds of it
    latency - earlier                           what came since an earlier snapshot: live views
    latency + other                             of several queues or disks, if their clocks are the same
    latency.to_json()

docs/latency.md says what the stages are, and how the file is laid out.
"""

from .area import BACKEND_SUFFIX, decode, read_disk, read_file
from .disk import OPERATIONS, SPANS, STAGES, DiskLatency, OperationLatency
from .histogram import Bucket, Histogram

__all__ = ["BACKEND_SUFFIX", "OPERATIONS", "SPANS", "STAGES", "Bucket", "DiskLatency", "Histogram", "OperationLatency",
           "decode", "read_disk", "read_file"]
