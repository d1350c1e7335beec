"""Memory statistics of the balloon (virtio 1.2, 5.5.6.3)."""

from __future__ import annotations

import struct

from devices.virtio.queue import Element
from emu.memory.endian import GuestEndian

#: Values by name: bytes, or numbers of events.
Stats = dict[str, int]

#: QEMU's names of the tags 0, 1, ...; tags from 10 on are newer than virtio 1.2 (Linux 6.12).
NAMES = (
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
)
_MAX_ENTRIES = 64


class StatsError(Exception):
    """The guest gives no statistics."""


def parse_stats(element: Element, endian: GuestEndian) -> Stats:
    """Entries of tag u16 and value u64 in a byte order; unknown tags are left out."""
    entry = struct.Struct(f"{endian.struct}HQ")
    data = element.read(0, _MAX_ENTRIES * entry.size)
    whole = data[: len(data) // entry.size * entry.size]
    return {NAMES[tag]: value for tag, value in entry.iter_unpack(whole) if tag < len(NAMES)}
