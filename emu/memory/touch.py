"""Waiting for pages without the GIL."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from emu.memory.native import load_u8

_PAGE = np.uint64(4096)


@njit(types.uint64(types.uint64, types.uint64), cache=True, nogil=True)
def touch(address, size):  # type: ignore[no-untyped-def]
    """Read a byte of each page of a range (host address): returns when all are there."""
    total = np.uint64(0)
    place = address
    while place < address + size:
        total += np.uint64(load_u8(place))
        place = (place // _PAGE + np.uint64(1)) * _PAGE
    return total
