"""Watching a guest: instruction, interrupt and MMU traces, symbols, and the profile."""
