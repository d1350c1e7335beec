"""Paired benchmarks against QEMU's TCG: ``make bench``."""
