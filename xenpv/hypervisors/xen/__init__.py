"""Real Xen, through the kernel's /dev/xen."""
