"""A small ring with its driver, for tests that break or watch one thing."""

from __future__ import annotations

from typing import Literal

import pytest

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    PACKED,
    RingError,
)
from emu.memory.ram import GuestRam
from tests.support.ring_driver import Areas, Buffer, Driver, PackedDriver, SplitDriver
from tests.support.ring_harness import GuardedRam, Ring
from tests.support.ring_model import (
    AVAIL,
    Returned,
    State,
)
from tests.support.ring_pair import Pair

SIZE = 8
RAM = 65536
DATA, TABLE = 0x8000, 0x4000
AREAS = Areas()
READ, ROOM = Buffer(DATA, 16), Buffer(DATA + 16, 16, True)

FORMATS = [0, BIG_ENDIAN, PACKED]
each_format = pytest.mark.parametrize("flags", FORMATS, ids=["split-le", "split-be", "packed"])


class SmallRing:
    """A driver and a device on one ring of eight entries."""

    def __init__(self, flags: int, size: int = SIZE, start: int = 0, ram: int = RAM) -> None:
        guest: GuestRam = GuardedRam(ram) if ram == RAM else GuestRam(ram)
        self.native = Ring(guest)
        self.flags = flags
        order: Literal["big", "little"] = "big" if flags & BIG_ENDIAN else "little"
        event_idx = bool(flags & EVENT_IDX)
        memory = guest.memory
        self.driver: Driver
        if flags & PACKED:
            self.driver = PackedDriver(memory, AREAS, size, event_idx, start)
        else:
            self.driver = SplitDriver(memory, AREAS, size, order, event_idx, start)
        state = State(AREAS.desc, AREAS.driver, AREAS.device, size, flags)
        state.last_avail = state.used_idx = state.signalled_used = start
        self.pair = Pair(self.native, state)

    def offer(self, *chains: list[Buffer]) -> list[int]:
        """Make chains available."""
        heads = [self.driver.add(chain) for chain in chains]
        self.driver.publish()
        return [head for head in heads if head is not None]

    def descriptor(self, index: int, **fields: int) -> None:
        """Change fields of a descriptor of the ring."""
        self.change(AREAS.desc + 16 * index, **fields)

    def change(self, place: int, **fields: int) -> None:
        """Change fields of a descriptor anywhere."""
        offsets = {"address": (0, 8), "length": (8, 4), "flags": (12, 2), "next": (14, 2)}
        if self.flags & PACKED:
            offsets |= {"id": (12, 2), "flags": (14, 2)}
        for name, value in fields.items():
            offset, width = offsets[name]
            self.driver.put(place + offset, width, value)

    def fails(self, error: RingError, before: int = 0) -> None:
        """The next pop gives ``before`` elements and the error, and the queue is dead then."""
        count = int(self.native.state.inuse)
        assert len(self.pair.pop()) == before
        assert self.native.error == error
        if before == 0:
            assert self.native.state.inuse == count
        assert self.pair.pop() == []
        assert not self.pair.has_work()
        assert not self.pair.set_notification(True)
        assert not self.pair.push([Returned(0, 0)])
        assert not self.native.log


def flags_of(ring: SmallRing, flags: int) -> int:
    """Descriptor flags that make it available, if the format has that."""
    return flags | (AVAIL if ring.flags & PACKED else 0)
