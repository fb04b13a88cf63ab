"""A xenstored without input or output: it takes bytes and gives bytes, on the real wire format.

Source: docs/misc/xenstore.txt and io/xs_wire.h of Xen; where they leave something open, the behaviour of C xenstored.
"""

from .connection import Connection
from .daemon import Xenstored
from .quotas import Quotas

__all__ = ["Connection", "Quotas", "Xenstored"]
