"""Integers of a split ring, in the byte order the queue has.

Addresses are host addresses that the caller has checked; no alignment is needed.  Where ``big``
is a literal, the choice costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.memory.native import (
    load_u16,
    load_u16_be,
    load_u32,
    load_u32_be,
    load_u64,
    load_u64_be,
    store_u16,
    store_u16_be,
    store_u32,
    store_u32_be,
)


@njit(cache=True)
def get_u16(address, big):  # type: ignore[no-untyped-def]
    """Load 16 bits as uint64."""
    if big:
        return np.uint64(load_u16_be(address))
    return np.uint64(load_u16(address))


@njit(cache=True)
def get_u32(address, big):  # type: ignore[no-untyped-def]
    """Load 32 bits as uint64."""
    if big:
        return np.uint64(load_u32_be(address))
    return np.uint64(load_u32(address))


@njit(cache=True)
def get_u64(address, big):  # type: ignore[no-untyped-def]
    """Load 64 bits."""
    if big:
        return load_u64_be(address)
    return load_u64(address)


@njit(cache=True)
def set_u16(address, value, big):  # type: ignore[no-untyped-def]
    """Store the low 16 bits of a uint64."""
    if big:
        store_u16_be(address, value)
    else:
        store_u16(address, value)


@njit(cache=True)
def set_u32(address, value, big):  # type: ignore[no-untyped-def]
    """Store the low 32 bits of a uint64."""
    if big:
        store_u32_be(address, value)
    else:
        store_u32(address, value)
