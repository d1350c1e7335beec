"""Virtio: ring processor, device core, transports and devices (virtio 1.2 and legacy)."""

import emu  # noqa: F401  (points Numba to its cache before Numba is imported)
