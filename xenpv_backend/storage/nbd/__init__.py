"""NBD: disks of other storage engines, through libnbd."""

from .options import SCHEMES, NbdOptions, read_options
from .storage import NbdStorage

__all__ = ["NbdOptions", "NbdStorage", "SCHEMES", "read_options"]
