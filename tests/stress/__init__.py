"""Tests that take longer than a few seconds: `./dev check` runs them."""
