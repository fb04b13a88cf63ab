"""The disk's side: a block backend in user space."""
