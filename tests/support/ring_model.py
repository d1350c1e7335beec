"""A slow, obviously right device side of a virtqueue, over a copy of guest RAM.

``SplitModel`` and ``PackedModel`` do in plain Python what ``devices.virtio.ring`` does natively:
same results, same errors, the same bytes written.  A read outside the copy is an
``AssertionError``: then the model is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    MAX_QUEUE_SIZE,
    PACKED,
    RingError,
)

NEXT, WRITE, IS_INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
ENABLE, DISABLE, DESC = 0, 1, 2

Segment = tuple[int, int]
"""Guest real address and length of a buffer."""


@dataclass(frozen=True)
class Popped:
    """An element as :func:`devices.virtio.ring.pop` gives it."""

    head: int
    descriptors: int
    readable: tuple[Segment, ...]
    writable: tuple[Segment, ...]


@dataclass(frozen=True)
class Returned:
    """A used entry as :func:`devices.virtio.ring.push` takes it."""

    head: int
    written: int
    descriptors: int = 1


@dataclass
class State:
    """The fields of a QUEUE_DTYPE record that the ring code reads or changes."""

    desc: int
    driver: int
    device: int
    size: int
    flags: int
    error: int = 0
    inuse: int = 0
    last_avail: int = 0
    used_idx: int = 0
    signalled_used: int = 0
    signalled_valid: int = 0
    notification: int = 1
    avail_wrap: int = 1
    used_wrap: int = 1


class BadRingError(Exception):
    """The ring is bad, and why."""

    def __init__(self, error: RingError) -> None:
        super().__init__(error.name)
        self.error = error


class NoRoomError(Exception):
    """The segments of an element do not fit any more."""


class Model:
    """What both ring formats share."""

    def __init__(self, memory: bytearray, state: State) -> None:
        self.memory = memory
        self.state = state

    def pop(self, max_elements: int, max_segments: int) -> list[Popped]:
        """See :func:`devices.virtio.ring.pop`."""
        popped: list[Popped] = []
        if self.state.error:
            return popped
        room = max_segments
        try:
            self.check_areas()
            while len(popped) < max_elements and self.is_available():
                element = self.take(room, room == max_segments)
                room -= len(element.readable) + len(element.writable)
                popped.append(element)
        except BadRingError as bad:
            self.state.error = bad.error
        except NoRoomError:
            pass
        if popped and self.state.flags & EVENT_IDX and self.state.notification:
            self.publish_event()
        return popped

    def has_work(self) -> bool:
        """See :func:`devices.virtio.ring.has_work`."""
        if self.state.error:
            return False
        try:
            self.check_areas()
            return self.is_waiting()
        except BadRingError as bad:
            self.state.error = bad.error
            return False

    def set_notification(self, enable: bool) -> bool:
        """See :func:`devices.virtio.ring.set_notification`."""
        if self.state.error:
            return False
        self.state.notification = int(enable)
        try:
            self.check_areas()
        except BadRingError as bad:
            self.state.error = bad.error
            return False
        self.publish_notification()
        return self.is_waiting()

    def collect(self, buffers: Iterator[tuple[int, int, int]], room: int, alone: bool) -> Popped:
        """Check the buffers of a chain one after the other."""
        readable: list[Segment] = []
        writable: list[Segment] = []
        total = 0
        for address, length, flags in buffers:
            if length == 0:
                raise BadRingError(RingError.ZERO_LENGTH)
            if address + length > len(self.memory):
                raise BadRingError(RingError.ADDRESS_OUTSIDE_RAM)
            if writable and not flags & WRITE:
                raise BadRingError(RingError.READABLE_AFTER_WRITABLE)
            total += length
            if total > 1 << 32:
                raise BadRingError(RingError.CHAIN_TOO_BIG)
            if len(readable) + len(writable) == room:
                raise BadRingError(RingError.CHAIN_TOO_LONG) if alone else NoRoomError
            (writable if flags & WRITE else readable).append((address, length))
        return Popped(0, 0, tuple(readable), tuple(writable))

    def check_table(self, address: int, length: int) -> None:
        """Check an indirect table."""
        if length == 0:
            raise BadRingError(RingError.EMPTY_CHAIN)
        if length % 16:
            raise BadRingError(RingError.BAD_INDIRECT)
        if address + length > len(self.memory):
            raise BadRingError(RingError.ADDRESS_OUTSIDE_RAM)

    def get(self, address: int, size: int) -> int:
        """An integer of the ring."""
        assert 0 <= address <= len(self.memory) - size
        return int.from_bytes(self.memory[address : address + size], self._order)

    def put(self, address: int, size: int, value: int) -> None:
        """Store an integer of the ring."""
        assert 0 <= address <= len(self.memory) - size
        self.memory[address : address + size] = value.to_bytes(size, self._order)

    @property
    def _order(self) -> Literal["big", "little"]:
        big = self.state.flags & BIG_ENDIAN and not self.state.flags & PACKED
        return "big" if big else "little"

    def in_ram(self, address: int, size: int) -> None:
        """Raise if a part of the ring is outside RAM."""
        if address + size > len(self.memory):
            raise BadRingError(RingError.RING_OUTSIDE_RAM)

    def push(self, used: Sequence[Returned]) -> bool:
        """See :func:`devices.virtio.ring.push`."""
        raise NotImplementedError

    def check_areas(self) -> None:
        """Raise unless the ring can be used at all."""
        if not 0 < self.state.size <= MAX_QUEUE_SIZE:
            raise BadRingError(RingError.RING_OUTSIDE_RAM)

    def is_waiting(self) -> bool:
        """Whether the driver has made something available."""
        raise NotImplementedError

    def is_available(self) -> bool:
        """The same, but raises when it has made too much available."""
        return self.is_waiting()

    def take(self, room: int, alone: bool) -> Popped:
        """Take the next element."""
        raise NotImplementedError

    def publish_event(self) -> None:
        """Ask for a notification of the next one."""
        raise NotImplementedError

    def publish_notification(self) -> None:
        """Ask for notifications or not."""
        raise NotImplementedError


def passes(event: int, old: int, new: int) -> bool:
    """Whether ``event`` is among the 16-bit indices old, old + 1 ... new - 1."""
    return (event - old) % 65536 < (new - old) % 65536
