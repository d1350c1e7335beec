"""Random plays of a driver and a device on one ring, checked from the driver's side as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from devices.virtio.records import EVENT_IDX, INDIRECT, PACKED
from tests.support.ring_driver import Buffer, Driver
from tests.support.ring_model import Popped, Returned
from tests.support.ring_pair import Pair

_BUFFERS = 0x8000
_END = 0x10000
_LENGTHS = st.integers(1, 300) | st.just(_END - _BUFFERS)


@dataclass(frozen=True)
class Add:
    """The driver puts a chain into the ring."""

    readable: tuple[int, ...]
    writable: tuple[int, ...]
    direct: int
    publish: bool


@dataclass(frozen=True)
class Pop:
    """The device takes elements."""

    max_elements: int
    max_segments: int


@dataclass(frozen=True)
class Complete:
    """The device returns the elements at some places of those it has."""

    picks: tuple[int, ...]
    written: int


@dataclass(frozen=True)
class Collect:
    """The driver takes used buffers."""


@dataclass(frozen=True)
class Interrupts:
    """The driver wants interrupts: now or not, or after some more buffers."""

    after: int


@dataclass(frozen=True)
class Notify:
    """The device wants notifications or not."""

    enable: bool


_ADD = st.builds(
    Add,
    st.lists(_LENGTHS, max_size=5).map(tuple),
    st.lists(_LENGTHS, max_size=5).map(tuple),
    st.integers(0, 12),
    st.booleans(),
)
STEPS = st.lists(
    _ADD
    | _ADD
    | st.builds(Pop, st.integers(0, 4) | st.just(512), st.just(32768) | st.integers(10, 30))
    | st.builds(
        Complete, st.lists(st.integers(0, 63), max_size=8).map(tuple), st.integers(0, (1 << 32) - 1)
    )
    | st.builds(Collect)
    | st.builds(Interrupts, st.integers(0, 9))
    | st.builds(Notify, st.booleans()),
    max_size=40,
)


class Play:
    """A driver and the pair of devices on one ring."""

    def __init__(self, driver: Driver, pair: Pair) -> None:
        self.driver = driver
        self.pair = pair
        self._flags = pair.state.flags
        self._pending: list[Popped] = []
        self._available: deque[Popped] = deque()
        self._device_has: list[Popped] = []
        self._used: list[tuple[int, int]] = []
        self._notification = True

    def run(self, steps: Sequence[Any]) -> None:
        """Take the steps, then finish everything that is left."""
        for step in steps:
            getattr(self, f"_{type(step).__name__.lower()}")(step)
        self._publish()
        while self._available or self._device_has:
            self._pop(Pop(512, 32768))
            self._complete(Complete((0,) * len(self._device_has), 7))
        self._collect(Collect())
        assert self.pair.state.inuse == 0

    def _add(self, step: Add) -> None:
        buffers = [Buffer(self._place(n), n) for n in step.readable]
        buffers += [Buffer(self._place(n), n, True) for n in step.writable]
        if not buffers:
            return
        direct: int | None = min(step.direct, len(buffers))
        packed = bool(self._flags & PACKED)
        if not self._flags & INDIRECT or (packed and step.direct):
            direct = None
        number = self.driver.add(buffers, direct)
        if number is not None:
            pieces = [(buffer.address, buffer.length) for buffer in buffers]
            readable = len(step.readable)
            taken = len(buffers) if packed and direct is None else 1
            self._pending.append(
                Popped(number, taken, tuple(pieces[:readable]), tuple(pieces[readable:]))
            )
        if step.publish:
            self._publish()

    def _place(self, length: int) -> int:
        return _BUFFERS if length == _END - _BUFFERS else _END - length

    def _publish(self) -> None:
        idle = not self._available
        kick = self.driver.publish()
        if self._pending:
            if self._notification and idle:
                assert kick, "the device sleeps, and nobody wakes it up"
            if not self._notification and not self._flags & EVENT_IDX:
                assert not kick
        self._available += self._pending
        self._pending.clear()

    def _pop(self, step: Pop) -> None:
        assert self.pair.has_work() == bool(self._available)
        popped = self.pair.pop(step.max_elements, step.max_segments)
        assert not self.pair.ring.error
        assert popped == [self._available.popleft() for _ in popped]
        if step.max_elements and step.max_segments >= 32768:
            assert len(popped) == step.max_elements or not self._available
        self._device_has += popped

    def _complete(self, step: Complete) -> None:
        used = []
        for pick in step.picks[: len(self._device_has)]:
            element = self._device_has.pop(pick % len(self._device_has))
            used.append(Returned(element.head, step.written, element.descriptors))
        self.pair.push(used)
        self._used += [(entry.head, entry.written) for entry in used]

    def _collect(self, step: Collect) -> None:
        assert self.driver.collect() == self._used
        self._used.clear()

    def _interrupts(self, step: Interrupts) -> None:
        if self._flags & EVENT_IDX and step.after < 8:
            self.driver.want_interrupt_after(step.after)
        elif not self._flags & EVENT_IDX or self._flags & PACKED:
            self.driver.want_interrupts(step.after % 2 == 0)

    def _notify(self, step: Notify) -> None:
        self._notification = step.enable
        assert self.pair.set_notification(step.enable) == bool(self._available)
