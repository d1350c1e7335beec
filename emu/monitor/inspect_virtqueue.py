"""A virtqueue in guest RAM, read in its own byte order for the monitors.

The guest may have put anything there: every read is checked, every walk has an end.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from devices.virtio import records
from emu.memory.dma import Dma, DmaError
from emu.monitor.registry import QmpError

if TYPE_CHECKING:
    from devices.virtio.queue import VirtQueue

_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_AVAIL, _USED = 1 << 7, 1 << 15
_FLAG_NAMES = {_NEXT: "next", _WRITE: "write", _INDIRECT: "indirect"}
_PACKED_NAMES = {**_FLAG_NAMES, _AVAIL: "avail", _USED: "used"}
_DESCRIPTOR = 16
_MAX_DESCRIPTORS = 1024  # shown of one chain


class _Ring:
    """Numbers of a queue's rings; :class:`QmpError` where they lie outside RAM."""

    def __init__(self, dma: Dma, queue: VirtQueue) -> None:
        self._dma = dma
        record = queue.record
        self.flags = int(record["flags"])
        self.order = ">" if self.flags & records.BIG_ENDIAN else "<"
        self.desc, self.driver = int(record["desc"]), int(record["driver"])
        self.device, self.size = int(record["device"]), queue.size

    def numbers(self, address: int, form: str) -> tuple[int, ...]:
        """Integers at a guest real address."""
        form = self.order + form
        try:
            return struct.unpack(form, self._dma.read(address, struct.calcsize(form)))
        except DmaError as error:
            raise QmpError(f"the queue cannot be read: {error}") from error


def queue_element(dma: Dma, queue: VirtQueue, index: int | None) -> dict[str, Any]:
    """What ``x-query-virtio-queue-element`` answers, but for the name.  vCPU thread.

    ``index`` counts in the available ring (split) or the descriptor ring (packed); by default it
    is the element that the device takes next.
    """
    if not queue.enabled:
        raise QmpError(f"Invalid virtqueue: queue {queue.index} is not set up")
    ring = _Ring(dma, queue)
    if not ring.size:
        raise QmpError("the queue has no entries")
    position = int(queue.record["last_avail"]) if index is None else index
    if ring.flags & records.PACKED:
        return _packed_element(ring, position % ring.size)
    return _split_element(ring, position)


def _split_element(ring: _Ring, index: int) -> dict[str, Any]:
    avail_flags, avail_idx = ring.numbers(ring.driver, "HH")
    used_flags, used_idx = ring.numbers(ring.device, "HH")
    (head,) = ring.numbers(ring.driver + 4 + 2 * (index % ring.size), "H")
    return {
        "index": head,
        "descs": _chain(ring, head),
        "avail": {"flags": avail_flags, "idx": avail_idx, "ring": head},
        "used": {"flags": used_flags, "idx": used_idx},
    }


def _chain(ring: _Ring, head: int) -> list[dict[str, Any]]:
    """The descriptors from one on; those of an indirect table instead of its own."""
    table, size, index = ring.desc, ring.size, head
    if head >= size:
        return []
    result: list[dict[str, Any]] = []
    indirect = False
    while len(result) < _MAX_DESCRIPTORS:
        address, length, flags, following = ring.numbers(table + _DESCRIPTOR * index, "QIHH")
        if flags & _INDIRECT and not indirect:
            indirect, table, size, index = True, address, length // _DESCRIPTOR, 0
            if not size:
                break
            continue
        result.append({"addr": address, "len": length, "flags": _names(flags, _FLAG_NAMES)})
        if not flags & _NEXT or following >= size or len(result) >= size:
            break
        index = following
    return result


def _packed_element(ring: _Ring, index: int) -> dict[str, Any]:
    driver = ring.numbers(ring.driver, "HH")
    used = ring.numbers(ring.device, "HH")
    result: list[dict[str, Any]] = []
    at = index
    while len(result) < min(ring.size, _MAX_DESCRIPTORS):
        address, length, _buffer, flags = ring.numbers(ring.desc + _DESCRIPTOR * at, "QIHH")
        result.append({"addr": address, "len": length, "flags": _names(flags, _PACKED_NAMES)})
        if not flags & _NEXT:
            break
        at = (at + 1) % ring.size
    return {
        "index": index,
        "descs": result,
        "avail": {"flags": driver[1], "idx": driver[0], "ring": index},
        "used": {"flags": used[1], "idx": used[0]},
    }


def _names(flags: int, names: dict[int, str]) -> list[str]:
    return [name for bit, name in names.items() if flags & bit]
