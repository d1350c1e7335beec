"""Runs guest test images and tells their results: the command `ppc64emu-test`."""
