"""The guest's side: a block frontend in user space."""
