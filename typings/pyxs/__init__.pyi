"""pyxs 0.4.1, as far as xenpv uses it."""
