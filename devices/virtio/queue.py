"""A virtqueue as devices written in Python see it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from devices.virtio import records
from devices.virtio.records import MAX_QUEUE_SIZE, RingError
from emu.memory.dma import Dma

_BATCH = 256
_SEGMENTS = MAX_QUEUE_SIZE + 1


class Element:
    """One chain of buffers taken from a queue; return it with :meth:`VirtQueue.push`.

    ``readable`` and ``writable`` are (guest real address, length) pairs that lie in RAM.
    """

    __slots__ = ("_dma", "descriptors", "head", "readable", "writable")

    def __init__(
        self,
        dma: Dma,
        head: int,
        descriptors: int,
        readable: list[tuple[int, int]],
        writable: list[tuple[int, int]],
    ) -> None:
        self._dma = dma
        self.head = head
        self.descriptors = descriptors
        self.readable = readable
        self.writable = writable

    @property
    def readable_bytes(self) -> int:
        """Bytes the driver gives."""
        return sum(length for _, length in self.readable)

    @property
    def writable_bytes(self) -> int:
        """Room for what the device gives."""
        return sum(length for _, length in self.writable)

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """A copy of what the driver gives, from ``offset`` on; short where there is less."""
        return b"".join(self.readable_views(offset, size))

    def write(self, data: bytes | memoryview, offset: int = 0) -> int:
        """Copy into the driver's room from ``offset`` on; returns the bytes that fitted."""
        done = 0
        for address, length in _slice(self.writable, offset, len(data)):
            self._dma.write(address, data[done : done + length])
            done += length
        return done

    def readable_views(self, offset: int = 0, size: int | None = None) -> list[memoryview]:
        """Guest RAM for ``os.pwritev`` or ``sendmsg``: nothing is copied."""
        return [self._dma.view(*piece) for piece in _slice(self.readable, offset, size)]

    def writable_views(self, offset: int = 0, size: int | None = None) -> list[memoryview]:
        """Guest RAM for ``os.preadv``; call :meth:`written` on the vCPU thread afterwards."""
        return [self._dma.view(*piece) for piece in _slice(self.writable, offset, size)]

    def written(self, offset: int = 0, size: int | None = None) -> None:
        """Log what was stored through :meth:`writable_views`.  vCPU thread."""
        for address, length in _slice(self.writable, offset, size):
            self._dma.written(address, length)


def _slice(
    pieces: Sequence[tuple[int, int]], offset: int, size: int | None
) -> Iterator[tuple[int, int]]:
    left = size if size is not None else 1 << 63
    for address, length in pieces:
        if left <= 0:
            return
        if offset >= length:
            offset -= length
            continue
        take = min(length - offset, left)
        yield address + offset, take
        left -= take
        offset = 0


class VirtQueue:
    """One virtqueue; transports set it up, the device takes and returns elements.

    ``record`` is a QUEUE_DTYPE record.  vCPU thread only.
    """

    def __init__(self, dma: Dma, index: int, max_size: int) -> None:
        # Loading compiled code takes a while: not at the start of a machine without devices.
        from devices.virtio import ring

        self.index = index
        self._ring: Any = ring
        self._dma = dma
        self._array = np.zeros(1, records.QUEUE_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data
        self.record["dma"] = dma.address
        self.record["max_size"] = max_size
        self.reset()

    def reset(self) -> None:
        """As after a device reset: disabled, at its largest size, indices zero."""
        record = self.record
        for name in ("desc", "driver", "device", "enabled", "flags", "error", "inuse"):
            record[name] = 0
        for name in ("last_avail", "used_idx", "signalled_used", "signalled_valid"):
            record[name] = 0
        record["size"] = record["max_size"]
        record["avail_wrap"] = record["used_wrap"] = record["notification"] = 1

    def release_gil(self, release: bool) -> None:
        """Let other threads use Python during calls: guest RAM may have to be waited for."""
        from devices.virtio import ring, ring_nogil

        self._ring = ring_nogil if release else ring

    @property
    def size(self) -> int:
        """Number of entries now."""
        return int(self.record["size"])

    @size.setter
    def size(self, entries: int) -> None:
        self.record["size"] = entries

    @property
    def max_size(self) -> int:
        """Largest number of entries."""
        return int(self.record["max_size"])

    @property
    def enabled(self) -> bool:
        """Whether the driver has set it up."""
        return bool(self.record["enabled"])

    @property
    def error(self) -> RingError:
        """What is wrong with the ring."""
        return RingError(int(self.record["error"]))

    def place(self, desc: int, driver: int, device: int) -> None:
        """Guest real addresses of the three areas (virtio 1.2, 2.6)."""
        mask = (1 << 64) - 1
        self.record["desc"] = desc & mask
        self.record["driver"] = driver & mask
        self.record["device"] = device & mask

    def set_flags(self, flags: int) -> None:
        """Ring format: flags of ``devices.virtio.records``."""
        self.record["flags"] = flags

    def enable(self) -> None:
        """Start at the beginning of the rings."""
        self.record["enabled"] = 1

    def describe(self) -> str:
        """Size, format, byte order and places, for logs and monitors."""
        record = self.record
        flags = int(record["flags"])
        kind = "packed" if flags & records.PACKED else "split"
        order = "big" if flags & records.BIG_ENDIAN else "little"
        places = (int(record[name]) for name in ("desc", "driver", "device"))
        return f"{self.size} entries, {kind}, {order}-endian, at " + ", ".join(map(hex, places))

    def has_work(self) -> bool:
        """Whether the driver has made something available."""
        return bool(self._ring.has_work(self.address))

    def set_notification(self, enable: bool) -> bool:
        """Want notifications or not; returns whether there is work waiting right now."""
        return bool(self._ring.set_notification(self.address, int(enable)))

    def pop(self, limit: int = _BATCH) -> list[Element]:
        """Take up to ``limit`` elements in the driver's order; check :attr:`error` after it."""
        scratch = _per_thread.scratch
        count = int(
            self._ring.pop(
                self.address,
                scratch.elements_address,
                min(limit, _BATCH),
                scratch.segments_address,
                _SEGMENTS,
            )
        )
        return [self._element(scratch, index) for index in range(count)]

    def _element(self, scratch: _Scratch, index: int) -> Element:
        head, descriptors, readable, writable, first, _, _ = scratch.elements[index].item()
        pieces = scratch.segments[first : first + readable + writable].tolist()
        return Element(self._dma, head, descriptors, pieces[:readable], pieces[readable:])

    def push(self, used: Sequence[tuple[Element, int]]) -> bool:
        """Return elements with the bytes written to each; True if the driver wants an interrupt."""
        if not used:
            return False
        scratch = _per_thread.scratch
        wants = 0
        for start in range(0, len(used), _BATCH):
            piece = used[start : start + _BATCH]
            for index, (element, written) in enumerate(piece):
                scratch.used[index] = (written, element.head, element.descriptors)
            wants |= self._ring.push(self.address, scratch.used_address, len(piece))
        return bool(wants)

    def in_flight(self) -> int:
        """Ring entries between the two positions: taken, and not returned yet."""
        record = self.record
        taken, returned = int(record["last_avail"]), int(record["used_idx"])
        if not int(record["flags"]) & records.PACKED:
            return (taken - returned) & 0xFFFF
        wrapped = (int(record["avail_wrap"]) ^ int(record["used_wrap"])) & 1
        return taken - returned + wrapped * self.size

    def rewind(self, elements: Sequence[Element]) -> None:
        """Give back elements unused: the ones taken last, in any order.

        The driver does not notice; :meth:`pop` finds them again.
        """
        count = sum(element.descriptors for element in elements)
        record = self.record
        position = int(record["last_avail"]) - count
        if int(record["flags"]) & records.PACKED and position < 0:
            position += self.size
            record["avail_wrap"] ^= 1
        record["last_avail"] = position & 0xFFFF
        record["inuse"] -= count


class _Scratch:
    """Where :func:`ring.pop` puts a batch, for all queues of a thread."""

    def __init__(self) -> None:
        self.elements = np.zeros(_BATCH, records.ELEMENT_DTYPE)
        self.segments = np.zeros(_SEGMENTS, records.SEGMENT_DTYPE)
        self.used = np.zeros(_BATCH, records.USED_DTYPE)
        # asking NumPy for an address costs as much as a small batch
        self.elements_address: int = self.elements.ctypes.data
        self.segments_address: int = self.segments.ctypes.data
        self.used_address: int = self.used.ctypes.data


class _PerThread(threading.local):
    """Machines in one process have a vCPU thread each, and Python may go over from one to the
    other after any call.
    """

    def __init__(self) -> None:
        self.scratch = _Scratch()


_per_thread = _PerThread()
