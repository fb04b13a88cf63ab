"""What both ends of a Xen paravirtual device share."""

__version__ = "0.1.0"
