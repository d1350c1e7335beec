"""Mock drivers: the driver side of split and packed virtqueues in guest RAM.

They follow the specification to the letter; tests break their rings afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.support.ring_model import AVAIL, DESC, DISABLE, IS_INDIRECT, NEXT, USED, WRITE

TABLE_BYTES = 256
"""Room for the indirect table of one buffer."""


@dataclass(frozen=True)
class Buffer:
    """One descriptor."""

    address: int
    length: int
    writable: bool = False


@dataclass(frozen=True)
class Areas:
    """Where a ring is in guest RAM."""

    desc: int = 0x1000
    driver: int = 0x2000
    device: int = 0x3000
    tables: int = 0x4000


class Driver:
    """What both formats share.  Buffers are known by a number, see :meth:`add`."""

    def __init__(
        self,
        memory: memoryview,
        areas: Areas,
        size: int,
        order: Literal["big", "little"] = "little",
        event_idx: bool = False,
    ) -> None:
        self.memory = memory
        self.areas = areas
        self.size = size
        self.order = order
        self.event_idx = event_idx

    def get(self, address: int, size: int) -> int:
        """An integer of the ring."""
        return int.from_bytes(self.memory[address : address + size], self.order)

    def put(self, address: int, size: int, value: int) -> None:
        """Store an integer of the ring."""
        self.memory[address : address + size] = value.to_bytes(size, self.order)

    def add(self, buffers: Sequence[Buffer], direct: int | None = None) -> int | None:
        """Put a chain into the ring, all but the first ``direct`` buffers in a table.

        Returns its head (split) or buffer id (packed), None when there is no room.
        """
        raise NotImplementedError

    def publish(self) -> bool:
        """Make what was added available; whether the device wants a notification."""
        raise NotImplementedError

    def collect(self) -> list[tuple[int, int]]:
        """Take the used buffers: number, and bytes written."""
        raise NotImplementedError

    def want_interrupts(self, enable: bool) -> None:
        """Without EVENT_IDX: interrupts or not."""
        raise NotImplementedError

    def want_interrupt_after(self, buffers: int) -> None:
        """With EVENT_IDX: an interrupt when ``buffers`` + 1 more are used (descriptors)."""
        raise NotImplementedError


class SplitDriver(Driver):
    """Drives a split virtqueue whose indices start at ``start``."""

    def __init__(
        self,
        memory: memoryview,
        areas: Areas,
        size: int,
        order: Literal["big", "little"] = "little",
        event_idx: bool = False,
        start: int = 0,
    ) -> None:
        super().__init__(memory, areas, size, order, event_idx)
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}
        self._added = self._published = self._seen = start
        self.put(areas.driver + 2, 2, start)
        self.put(areas.device + 2, 2, start)
        if event_idx:
            self.put(areas.device + 4 + 8 * size, 2, start)

    def descriptor(self, place: int, buffer: Buffer, flags: int, following: int) -> None:
        """Write a descriptor."""
        self.put(place, 8, buffer.address)
        self.put(place + 8, 4, buffer.length)
        self.put(place + 12, 2, flags | (WRITE if buffer.writable else 0))
        self.put(place + 14, 2, following)

    def add(self, buffers: Sequence[Buffer], direct: int | None = None) -> int | None:
        """Put a chain into the ring."""
        direct = len(buffers) if direct is None else direct
        rest = buffers[direct:]
        need = direct + bool(rest)
        if need > len(self._free):
            return None
        chain = [self._free.pop(len(self._free) * 2 // 3) for _ in range(need)]
        for position, (index, buffer) in enumerate(zip(chain, buffers[:direct], strict=False)):
            more = position + 1 < need
            following = chain[position + 1] if more else 0xBEEF
            place = self.areas.desc + 16 * index
            self.descriptor(place, buffer, NEXT if more else 0, following)
        if rest:
            table = self._table(chain[0], rest)
            self.descriptor(self.areas.desc + 16 * chain[-1], table, IS_INDIRECT, 0xBEEF)
        self._chains[chain[0]] = chain
        self.put(self.areas.driver + 4 + 2 * (self._added % self.size), 2, chain[0])
        self._added = (self._added + 1) % 65536
        return chain[0]

    def _table(self, head: int, buffers: Sequence[Buffer]) -> Buffer:
        """An indirect table: the first descriptor is at its beginning, the others backwards."""
        table = self.areas.tables + TABLE_BYTES * head
        order = [0, *range(len(buffers) - 1, 0, -1)]
        for position, buffer in enumerate(buffers):
            more = position + 1 < len(buffers)
            following = order[position + 1] if more else 0xBEEF
            place = table + 16 * order[position]
            self.descriptor(place, buffer, NEXT if more else 0, following)
        # WRITE on the descriptor of a table means nothing.
        return Buffer(table, 16 * len(buffers), writable=head % 2 == 1)

    def publish(self) -> bool:
        """Make what was added available."""
        old, self._published = self._published, self._added
        self.put(self.areas.driver + 2, 2, self._added)
        if not self.event_idx:
            return not self.get(self.areas.device, 2) & 1
        event = self.get(self.areas.device + 4 + 8 * self.size, 2)
        return (event - old) % 65536 < (self._added - old) % 65536

    def collect(self) -> list[tuple[int, int]]:
        """Take the used buffers."""
        found = []
        while self._seen != self.get(self.areas.device + 2, 2):
            place = self.areas.device + 4 + 8 * (self._seen % self.size)
            head = self.get(place, 4)
            self._free += self._chains.pop(head)
            found.append((head, self.get(place + 4, 4)))
            self._seen = (self._seen + 1) % 65536
        return found

    def want_interrupts(self, enable: bool) -> None:
        """Without EVENT_IDX: interrupts or not."""
        self.put(self.areas.driver, 2, 0 if enable else 1)

    def want_interrupt_after(self, buffers: int) -> None:
        """With EVENT_IDX: an interrupt when ``buffers`` + 1 more are used."""
        place = self.areas.driver + 4 + 2 * self.size
        self.put(place, 2, (self.get(self.areas.device + 2, 2) + buffers) % 65536)


class PackedDriver(Driver):
    """Drives a packed virtqueue, beginning at a position and with a wrap counter."""

    def __init__(
        self,
        memory: memoryview,
        areas: Areas,
        size: int,
        event_idx: bool = False,
        start: int = 0,
        wrap: int = 1,
    ) -> None:
        super().__init__(memory, areas, size, "little", event_idx)
        self._next = self._used = start
        self._next_wrap = self._used_wrap = wrap
        self._room = size
        self._ids = [size - 1 - index for index in range(size)]
        self._lists: dict[int, int] = {}
        self._held: list[tuple[int, int]] = []
        self._published = 0
        for index in range(size):  # as the last lap has left them: used
            was = wrap if index < start else 1 - wrap
            self.put(areas.desc + 16 * index + 14, 2, (AVAIL | USED) * was)

    def add(self, buffers: Sequence[Buffer], direct: int | None = None) -> int | None:
        """Put a list into the ring; all in the ring, or (``direct`` 0) all in a table."""
        need = len(buffers) if direct != 0 else 1
        if need > self._room:
            return None
        number = self._ids.pop(len(self._ids) // 2)
        flags = 0
        if direct == 0:
            buffers = [self._table(number, buffers)]
            flags = IS_INDIRECT
        first = True
        for left, buffer in zip(range(need - 1, -1, -1), buffers, strict=True):
            # The id means nothing in any but the last descriptor.
            self._descriptor(buffer, 0xBEEF if left else number, flags | (NEXT * bool(left)), first)
            first = False
        self._lists[number] = need
        self._room -= need
        self._published += need
        return number

    def _descriptor(self, buffer: Buffer, number: int, flags: int, held: bool) -> None:
        place = self.areas.desc + 16 * self._next
        self.put(place, 8, buffer.address)
        self.put(place + 8, 4, buffer.length)
        self.put(place + 12, 2, number)
        flags |= WRITE if buffer.writable else 0
        flags |= AVAIL if self._next_wrap else USED
        if held:
            self._held.append((place + 14, flags))
        else:
            self.put(place + 14, 2, flags)
        self._next += 1
        if self._next == self.size:
            self._next = 0
            self._next_wrap ^= 1

    def _table(self, number: int, buffers: Sequence[Buffer]) -> Buffer:
        table = self.areas.tables + TABLE_BYTES * number
        for index, buffer in enumerate(buffers):
            place = table + 16 * index
            self.put(place, 8, buffer.address)
            self.put(place + 8, 4, buffer.length)
            # Everything but WRITE means nothing in a table.
            self.put(place + 12, 2, 0xDEAD)
            self.put(place + 14, 2, WRITE if buffer.writable else NEXT | IS_INDIRECT)
        return Buffer(table, 16 * len(buffers), writable=number % 2 == 1)

    def publish(self) -> bool:
        """Make what was added available; the lists appear from the last to the first."""
        count, self._published = self._published, 0
        for place, flags in reversed(self._held):
            self.put(place, 2, flags)
        self._held.clear()
        event, flags = self.get(self.areas.device, 2), self.get(self.areas.device + 2, 2)
        if flags != DESC:
            return flags != DISABLE
        wanted = event & 0x7FFF, event >> 15
        return wanted in self._before(self._next, self._next_wrap, count)

    def _before(self, position: int, wrap: int, count: int) -> list[tuple[int, int]]:
        """The ``count`` positions (and their wrap counter) before one."""
        found = []
        for _ in range(count):
            if position == 0:
                position, wrap = self.size, wrap ^ 1
            position -= 1
            found.append((position, wrap))
        return found

    def collect(self) -> list[tuple[int, int]]:
        """Take the used buffers."""
        found = []
        while self._room < self.size:
            place = self.areas.desc + 16 * self._used
            flags = self.get(place + 14, 2)
            if (flags & AVAIL != 0, flags & USED != 0) != (self._used_wrap == 1,) * 2:
                break
            number, written = self.get(place + 12, 2), self.get(place + 8, 4)
            found.append((number, written if flags & WRITE else 0))
            self._ids.append(number)
            self._skip(self._lists.pop(number))
        return found

    def _skip(self, count: int) -> None:
        self._room += count
        self._used += count
        if self._used >= self.size:
            self._used -= self.size
            self._used_wrap ^= 1

    def want_interrupts(self, enable: bool) -> None:
        """Without EVENT_IDX: interrupts or not."""
        self.put(self.areas.driver + 2, 2, 0 if enable else DISABLE)

    def want_interrupt_after(self, buffers: int) -> None:
        """With EVENT_IDX: an interrupt when ``buffers`` + 1 more descriptors are used."""
        position, wrap = self._used + buffers % self.size, self._used_wrap
        if position >= self.size:
            position, wrap = position - self.size, wrap ^ 1
        self.put(self.areas.driver, 2, position | wrap << 15)
        self.put(self.areas.driver + 2, 2, DESC)
