"""The native ring processor behind plain Python values, with guarded RAM and a write log."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from devices.virtio import records, ring
from emu.memory.dma import Dma
from emu.memory.ram import GuestRam
from tests.support.ring_model import Popped, Returned, State

_GUARD = 1 << 20
_PROT_NONE = 0
_WRITTEN = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
_STATE = [field.name for field in fields(State)]
_MAX_ELEMENTS = 512
_SLACK = 16


class GuardedRam(GuestRam):
    """Guest RAM between two mebibytes that nobody can touch: a stray access is a crash."""

    def __init__(self, size: int = 65536) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size + 2 * _GUARD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(self._map, np.uint8)
        self.view = whole[_GUARD : _GUARD + size]
        self.address = int(self.view.ctypes.data)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start in (self.address - _GUARD, self.address + size):
            if protect(start, _GUARD, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    @property
    def memory(self) -> memoryview:
        """All of RAM."""
        return memoryview(self._map)[_GUARD : _GUARD + self.size]

    def clear(self) -> None:
        """Make every byte zero again."""
        self.view[:] = 0


class Ring:
    """One queue record in front of guest RAM; results come back as the model gives them."""

    def __init__(self, ram: GuestRam) -> None:
        self.ram = ram
        self.log: list[tuple[int, int]] = []
        self.on_write: Callable[[int, int], None] | None = None
        self._callback = _WRITTEN(self._written)
        native = ctypes.cast(self._callback, ctypes.c_void_p).value
        self.dma = Dma(ram, lambda address, size: None, native or 0)
        self._queue = np.zeros(1, records.QUEUE_DTYPE)
        self.record: Any = self._queue[0]
        self._elements = np.zeros(_MAX_ELEMENTS + _SLACK, records.ELEMENT_DTYPE)
        self._segments = np.zeros(records.MAX_QUEUE_SIZE + _SLACK, records.SEGMENT_DTYPE)

    def _written(self, context: int, address: int, size: int) -> int:
        self.log.append((address, size))
        if self.on_write is not None:
            self.on_write(address, size)
        return 0

    @property
    def address(self) -> int:
        """Host address of the record."""
        return int(self._queue.ctypes.data)

    def load(self, state: State) -> None:
        """Make the record what ``state`` says, and the queue enabled."""
        self.record["dma"] = self.dma.address
        self.record["max_size"] = records.MAX_QUEUE_SIZE
        self.record["enabled"] = 1
        for name in _STATE:
            self.record[name] = getattr(state, name)

    @property
    def state(self) -> State:
        """The record now."""
        return State(**{name: int(self.record[name]) for name in _STATE})

    @property
    def error(self) -> ring.RingError:
        """Why the queue is broken."""
        return ring.RingError(int(self.record["error"]))

    def pop(
        self, max_elements: int = _MAX_ELEMENTS, max_segments: int = records.MAX_QUEUE_SIZE
    ) -> list[Popped]:
        """See :func:`devices.virtio.ring.pop`; asserts that the records fit together."""
        self._elements[:_SLACK]["head"] = 0xAAAA
        count = ring.pop(
            self.address,
            self._elements.ctypes.data,
            max_elements,
            self._segments.ctypes.data,
            max_segments,
        )
        assert 0 <= count <= max_elements
        first = 0
        found = []
        for element in self._elements[:count]:
            assert element["first"] == first
            found.append(self._popped(element))
            first += int(element["readable"]) + int(element["writable"])
        assert first <= max_segments
        return found

    def _popped(self, element: Any) -> Popped:
        head, descriptors, readable, writable, first, to_read, to_write = element.item()
        pieces = self._segments[first : first + readable + writable].tolist()
        assert sum(length for _, length in pieces[:readable]) == to_read
        assert sum(length for _, length in pieces[readable:]) == to_write
        return Popped(head, descriptors, tuple(pieces[:readable]), tuple(pieces[readable:]))

    def push(self, used: Sequence[Returned]) -> bool:
        """See :func:`devices.virtio.ring.push`."""
        entries = np.array(
            [(entry.written, entry.head, entry.descriptors) for entry in used], records.USED_DTYPE
        )
        result = ring.push(self.address, entries.ctypes.data, len(entries))
        assert result in (0, 1)
        return bool(result)

    def has_work(self) -> bool:
        """See :func:`devices.virtio.ring.has_work`."""
        return bool(ring.has_work(self.address))

    def set_notification(self, enable: bool) -> bool:
        """See :func:`devices.virtio.ring.set_notification`."""
        return bool(ring.set_notification(self.address, int(enable)))
