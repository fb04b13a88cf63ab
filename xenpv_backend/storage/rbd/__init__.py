"""rbd: images of a Ceph cluster."""

from .storage import RbdOptions, RbdStorage

__all__ = ["RbdOptions", "RbdStorage"]
