"""From descriptors to segments: what both ring formats share.

Everything here runs in Numba code on the vCPU thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from devices.virtio.records import (
    ELEMENT_DTYPE,
    MAX_QUEUE_SIZE,
    SEGMENT_DTYPE,
    RingError,
    element_at,
    segment_at,
)
from emu.memory.dma import dma_contains

# Descriptor flags (virtio 1.2, 2.7.5 and 2.8.3 to 2.8.7)
DESC_F_NEXT = np.uint64(1)
DESC_F_WRITE = np.uint64(2)
DESC_F_INDIRECT = np.uint64(4)
DESC_SIZE = np.uint64(16)

# What the functions below return: one of these, or a RingError
OK = np.int64(RingError.NONE)
NO_ROOM = np.int64(-1)

MAX_CHAIN = np.uint64(MAX_QUEUE_SIZE)
_MAX_BYTES = np.uint64(1 << 32)
_ELEMENT_SIZE = np.uint64(ELEMENT_DTYPE.itemsize)
_SEGMENT_SIZE = np.uint64(SEGMENT_DTYPE.itemsize)

_ADDRESS_OUTSIDE_RAM = np.int64(RingError.ADDRESS_OUTSIDE_RAM)
_ZERO_LENGTH = np.int64(RingError.ZERO_LENGTH)
_READABLE_AFTER_WRITABLE = np.int64(RingError.READABLE_AFTER_WRITABLE)
_CHAIN_TOO_BIG = np.int64(RingError.CHAIN_TOO_BIG)
_CHAIN_TOO_LONG = np.int64(RingError.CHAIN_TOO_LONG)
_EMPTY_CHAIN = np.int64(RingError.EMPTY_CHAIN)
_BAD_INDIRECT = np.int64(RingError.BAD_INDIRECT)


@njit(cache=True)
def start_element(elements, index, first_segment):  # type: ignore[no-untyped-def]
    """The element ``index`` of a batch, without segments yet."""
    element = element_at(elements + index * _ELEMENT_SIZE)
    element.readable = np.uint32(0)
    element.writable = np.uint32(0)
    element.readable_bytes = np.uint64(0)
    element.writable_bytes = np.uint64(0)
    element.first = np.uint32(first_segment)
    return element


@njit(cache=True)
def next_segment(element):  # type: ignore[no-untyped-def]
    """Index of the first segment behind an element's."""
    return np.uint64(element.first) + np.uint64(element.readable) + np.uint64(element.writable)


@njit(cache=True)
def add_segment(dma, element, segments, max_segments, address, length, flags):  # type: ignore[no-untyped-def]
    """Check one descriptor's buffer and append it to an element; OK, NO_ROOM or a RingError.

    NO_ROOM for the first element of a batch would make the queue hang; a chain that long is
    CHAIN_TOO_LONG.
    """
    if length == np.uint64(0):
        return _ZERO_LENGTH
    if not dma_contains(dma, address, length):
        return _ADDRESS_OUTSIDE_RAM
    if flags & DESC_F_WRITE == np.uint64(0) and element.writable != 0:
        return _READABLE_AFTER_WRITABLE
    if element.readable_bytes + element.writable_bytes + length > _MAX_BYTES:
        return _CHAIN_TOO_BIG
    place = next_segment(element)
    if place >= max_segments:
        return NO_ROOM if element.first != 0 else _CHAIN_TOO_LONG
    segment = segment_at(segments + place * _SEGMENT_SIZE)
    segment.address = address
    segment.length = length
    if flags & DESC_F_WRITE:
        element.writable = np.uint32(element.writable + np.uint32(1))
        element.writable_bytes += length
    else:
        element.readable = np.uint32(element.readable + np.uint32(1))
        element.readable_bytes += length
    return OK


@njit(cache=True)
def check_table(dma, address, length):  # type: ignore[no-untyped-def]
    """Whether an indirect table can be walked: OK or a RingError."""
    if length == np.uint64(0):
        return _EMPTY_CHAIN
    if length % DESC_SIZE:
        return _BAD_INDIRECT
    if not dma_contains(dma, address, length):
        return _ADDRESS_OUTSIDE_RAM
    return OK


@njit(cache=True)
def need_event(event, new, old):  # type: ignore[no-untyped-def]
    """Whether moving a 16-bit index from ``old`` to ``new`` passes ``event`` (2.7.7)."""
    return np.uint16(new - event - np.uint64(1)) < np.uint16(new - old)
