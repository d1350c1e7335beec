"""Layouts shared by the ring processor's Numba code and its callers in Python."""

from __future__ import annotations

import enum

import numpy as np

from emu.memory.native import record_pointer

MAX_QUEUE_SIZE = 32768

# QUEUE_DTYPE.flags
BIG_ENDIAN = 1  # order of every ring field; never with PACKED
EVENT_IDX = 2
INDIRECT = 4
PACKED = 8
IN_ORDER = 16
NOTIFY_ON_EMPTY = 32  # legacy: interrupt when the available ring runs empty, whatever is asked

QUEUE_DTYPE = np.dtype(
    [
        ("dma", "u8"),  # host address of a DMA_DTYPE record
        ("desc", "u8"),  # guest real: descriptor table, or descriptor ring
        ("driver", "u8"),  # available ring, or driver event suppression
        ("device", "u8"),  # used ring, or device event suppression
        ("size", "u4"),  # entries now
        ("max_size", "u4"),
        ("enabled", "u4"),
        ("flags", "u4"),
        ("error", "u4"),  # RingError
        ("inuse", "u4"),  # taken and not returned yet: elements (split), descriptors (packed)
        ("last_avail", "u2"),  # split: free running; packed: position
        ("used_idx", "u2"),  # likewise
        ("signalled_used", "u2"),  # used_idx at the last interrupt
        ("signalled_valid", "u1"),
        ("notification", "u1"),  # the device wants notifications
        ("avail_wrap", "u1"),  # packed: wrap counters, 1 after reset
        ("used_wrap", "u1"),
    ],
    align=True,
)

ELEMENT_DTYPE = np.dtype(
    [
        ("head", "u2"),  # descriptor index, or buffer id (packed)
        ("descriptors", "u2"),  # ring entries it takes (packed); 1 for split
        ("readable", "u4"),  # number of segments the device reads; they come first
        ("writable", "u4"),  # number of segments it writes
        ("first", "u4"),  # index of its first segment
        ("readable_bytes", "u8"),
        ("writable_bytes", "u8"),
    ],
    align=True,
)

SEGMENT_DTYPE = np.dtype([("address", "u8"), ("length", "u8")], align=True)  # guest real, in RAM

USED_DTYPE = np.dtype(
    [
        ("written", "u4"),  # bytes the device wrote
        ("head", "u2"),
        ("descriptors", "u2"),  # from the element
    ],
    align=True,
)


class RingError(enum.IntEnum):
    """Why a queue is broken (``QUEUE_DTYPE.error``)."""

    NONE = 0
    RING_OUTSIDE_RAM = 1  # one of the three areas; or size or positions make no ring at all
    AVAIL_JUMP = 2  # more entries available and in use than the queue has (virtio 1.2, 2.7.13)
    HEAD_OUT_OF_RANGE = 3
    NEXT_OUT_OF_RANGE = 4
    CHAIN_TOO_LONG = 5  # a loop, or more descriptors than the queue size (2.7.5.3.1)
    CHAIN_TOO_BIG = 6  # more than 4 GiB in all (2.7.5.2)
    ADDRESS_OUTSIDE_RAM = 7
    ZERO_LENGTH = 8
    READABLE_AFTER_WRITABLE = 9  # 2.7.4.2, 2.8.17
    BAD_INDIRECT = 10  # nested, chained (2.7.5.3.1, 2.8.19), or of a bad size
    INDIRECT_NOT_NEGOTIATED = 11
    EMPTY_CHAIN = 12  # an indirect table without entries


queue_at = record_pointer(QUEUE_DTYPE)
element_at = record_pointer(ELEMENT_DTYPE)
segment_at = record_pointer(SEGMENT_DTYPE)
used_at = record_pointer(USED_DTYPE)
