"""The emulated Xen: domains as plain processes of one Linux machine."""
