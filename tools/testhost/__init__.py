"""A real Xen host in QEMU, without hardware virtualisation: built from Debian packages, booted for one script."""
