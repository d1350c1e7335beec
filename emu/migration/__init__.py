"""Saving, loading and moving a machine's state."""
