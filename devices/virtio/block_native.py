"""The fast path of virtio-blk: reads and writes that the host's page cache answers at once.

:func:`serve` takes requests from a queue, tries each plain read and write with ``preadv2`` and
``pwritev2`` straight between guest RAM and the host's page cache, and returns those that
succeeded to the driver.  RWF_NOWAIT makes the kernel refuse what would wait for the disk.  Many
file systems do not know it for writes: those then go into the page cache as long as that is far
from the point where it makes writers wait (``write_budget``, see :mod:`devices.block.dirty`).
Everything else - other types, errors, odd framing, what would wait - is left to Python.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit, types

from devices.block.image import MAX_PIECES
from devices.virtio import ring
from devices.virtio.block_request import HEADER_SIZE, RequestType
from devices.virtio.order import get_u32, get_u64
from devices.virtio.records import (
    BIG_ENDIAN,
    ELEMENT_DTYPE,
    SEGMENT_DTYPE,
    USED_DTYPE,
    element_at,
    queue_at,
    segment_at,
    used_at,
)
from emu.memory.dma import dma_at, dma_written
from emu.memory.native import load_u32, record_pointer, store_u8

BATCH = 256
MAX_SEGMENTS = ring.MAX_QUEUE_SIZE + 1
#: Bytes copied for one notification; the rest goes to workers while the guest runs.
MAX_COPY = 8 << 20

DISK_DTYPE = np.dtype(
    [
        ("capacity", "u8"),  # sectors of 512 bytes
        ("block_mask", "u8"),  # sectors of a logical block, minus one
        ("elements", "u8"),  # host addresses of scratch memory: BATCH ELEMENT_DTYPE,
        ("segments", "u8"),  # MAX_SEGMENTS SEGMENT_DTYPE,
        ("used", "u8"),  # BATCH USED_DTYPE,
        ("iovec", "u8"),  # MAX_PIECES SEGMENT_DTYPE, which is struct iovec
        ("fd", "i4"),  # of the image
        ("flags", "i4"),  # of preadv2 and pwritev2: RWF_NOWAIT
        ("read_nowait", "u1"),  # reads may be tried
        ("write_nowait", "u1"),  # writes may be tried
        ("write_budget", "i8"),  # bytes that plain writes may put into the page cache
        ("interrupt", "u1"),  # result: the driver wants an interrupt
    ],
    align=True,
)
disk_at = record_pointer(DISK_DTYPE)


class DiskRecord:
    """A DISK_DTYPE record with the scratch memory it refers to; ``address`` is for native code."""

    def __init__(self, fd: int, capacity: int, block_sectors: int) -> None:
        self.elements = np.zeros(BATCH, ELEMENT_DTYPE)
        self.segments = np.zeros(MAX_SEGMENTS, SEGMENT_DTYPE)
        self._used = np.zeros(BATCH, USED_DTYPE)
        self._iovec = np.zeros(MAX_PIECES, SEGMENT_DTYPE)
        self._array = np.zeros(1, DISK_DTYPE)
        self.address: int = self._array.ctypes.data
        self.record: Any = self._array[0]
        self.record["elements"] = self.elements.ctypes.data
        self.record["segments"] = self.segments.ctypes.data
        self.record["used"] = self._used.ctypes.data
        self.record["iovec"] = self._iovec.ctypes.data
        self.record["fd"] = fd
        self.record["flags"] = os.RWF_NOWAIT
        self.record["capacity"] = capacity
        self.record["block_mask"] = block_sectors - 1
        self.record["read_nowait"] = fd >= 0

    def left(self, count: int) -> Iterator[tuple[int, int, list[Any], list[Any]]]:
        """What :func:`serve` has left: head, descriptors, readable and writable segments."""
        for head, descriptors, readable, writable, first, _, _ in self.elements[:count].tolist():
            pieces = self.segments[first : first + readable + writable].tolist()
            yield head, descriptors, pieces[:readable], pieces[readable:]


_u64, _i64, _i32 = types.uint64, types.int64, types.int32
_preadv2 = types.ExternalFunction("preadv2", _i64(_i32, _u64, _i32, _i64, _i32))
_pwritev2 = types.ExternalFunction("pwritev2", _i64(_i32, _u64, _i32, _i64, _i32))
_errno_location = types.ExternalFunction("__errno_location", _u64())

_EOPNOTSUPP = np.uint64(errno.EOPNOTSUPP)
_HEADER = np.uint64(HEADER_SIZE)
_IN, _OUT = np.uint64(RequestType.IN), np.uint64(RequestType.OUT)
_SECTOR_SHIFT, _SECTOR_MASK = np.uint64(9), np.uint64(511)
_BIG_ENDIAN = np.uint32(BIG_ENDIAN)
_ZERO, _ONE, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)
_ELEMENT_SIZE = np.uint64(ELEMENT_DTYPE.itemsize)
_SEGMENT_SIZE = np.uint64(SEGMENT_DTYPE.itemsize)
_USED_SIZE = np.uint64(USED_DTYPE.itemsize)
_MAX_PIECES = np.int64(MAX_PIECES)
_MAX_COPY = np.int64(MAX_COPY)
_REFUSED = np.int64(-1)


@njit(cache=True)
def _keep(disk, index, element):  # type: ignore[no-untyped-def]
    """Move an element to the beginning of the scratch memory."""
    place = element_at(disk.elements + index * _ELEMENT_SIZE)
    place.head = element.head
    place.descriptors = element.descriptors
    place.readable = element.readable
    place.writable = element.writable
    place.first = element.first


@njit(cache=True)
def _return(disk, index, element):  # type: ignore[no-untyped-def]
    """Add an element to those that go back to the driver."""
    entry = used_at(disk.used + index * _USED_SIZE)
    entry.head = element.head
    entry.descriptors = element.descriptors
    entry.written = np.uint32(element.writable_bytes)


@njit(cache=True)
def _try(queue, disk, element, room):  # type: ignore[no-untyped-def]
    """Carry out one request of at most ``room`` bytes without waiting; the bytes copied, or -1."""
    if element.readable == 0 or element.writable == 0:
        return _REFUSED
    dma = dma_at(queue.dma)
    first = disk.segments + np.uint64(element.first) * _SEGMENT_SIZE
    behind = first + np.uint64(element.readable) * _SEGMENT_SIZE
    header = segment_at(first)
    if header.length < _HEADER:
        return _REFUSED
    big = queue.flags & _BIG_ENDIAN != 0
    type = get_u32(dma.ram + header.address, big)
    sector = get_u64(dma.ram + header.address + _EIGHT, big)
    if type == _IN and disk.read_nowait:
        size = element.writable_bytes - _ONE
        if size > room or not _in_range(disk, sector, size):
            return _REFUSED
        return _read(disk, dma, behind, element.writable, sector, size)
    if type == _OUT:
        size = element.readable_bytes - _HEADER
        if size > room or not _in_range(disk, sector, size):
            return _REFUSED
        if disk.write_nowait == 0 and disk.write_budget < np.int64(size):
            return _REFUSED
        return _write(disk, dma, first, element, sector, size)
    return _REFUSED


@njit(cache=True)
def _in_range(disk, sector, size):  # type: ignore[no-untyped-def]
    """Whether a request is one of whole blocks of the disk."""
    sectors = size >> _SECTOR_SHIFT
    return (
        size != _ZERO
        and size & _SECTOR_MASK == _ZERO
        and (sector | sectors) & disk.block_mask == _ZERO
        and sector <= disk.capacity
        and sectors <= disk.capacity - sector
    )


@njit(cache=True)
def _read(disk, dma, segments, count, sector, size):  # type: ignore[no-untyped-def]
    pieces = _gather(disk, dma, segments, count, _ZERO, size)
    if pieces < 0:
        return _REFUSED
    offset = np.int64(sector << _SECTOR_SHIFT)
    done = _preadv2(disk.fd, disk.iovec, np.int32(pieces), offset, disk.flags)
    if done < 0:
        if np.uint64(load_u32(_errno_location())) == _EOPNOTSUPP:
            disk.read_nowait = np.uint8(0)
        return _REFUSED
    if np.uint64(done) == size:
        _put_status(dma, segments, count)
    for index in range(np.uint64(count)):
        segment = segment_at(segments + np.uint64(index) * _SEGMENT_SIZE)
        dma_written(dma, segment.address, segment.length)
    # What came halfway is read again: the rest has to wait anyway.
    return np.int64(size) if np.uint64(done) == size else _REFUSED


@njit(cache=True)
def _write(disk, dma, first, element, sector, size):  # type: ignore[no-untyped-def]
    pieces = _gather(disk, dma, first, element.readable, _HEADER, size)
    if pieces < 0:
        return _REFUSED
    offset = np.int64(sector << _SECTOR_SHIFT)
    flags = disk.flags
    if disk.write_nowait == 0:
        flags = np.int32(0)
        disk.write_budget -= np.int64(size)
    done = _pwritev2(disk.fd, disk.iovec, np.int32(pieces), offset, flags)
    if done < 0 and np.uint64(load_u32(_errno_location())) == _EOPNOTSUPP:
        disk.write_nowait = np.uint8(0)
    if done < 0 or np.uint64(done) != size:
        return _REFUSED
    behind = first + np.uint64(element.readable) * _SEGMENT_SIZE
    place = _put_status(dma, behind, element.writable)
    dma_written(dma, place, _ONE)
    return np.int64(size)


@njit(cache=True)
def _put_status(dma, segments, count):  # type: ignore[no-untyped-def]
    """Store VIRTIO_BLK_S_OK into the last byte the driver gives; returns its address."""
    last = segment_at(segments + (np.uint64(count) - _ONE) * _SEGMENT_SIZE)
    place = last.address + last.length - _ONE
    store_u8(dma.ram + place, _ZERO)
    return place


@njit(cache=True)
def _gather(disk, dma, segments, count, skip, size):  # type: ignore[no-untyped-def]
    """Make the iovec of ``size`` bytes behind the first ``skip``; its length, or -1 if too long.

    Neighbours in guest RAM become one piece.
    """
    pieces = np.int64(0)
    end = _ZERO  # host address behind the last piece
    for index in range(np.uint64(count)):
        segment = segment_at(segments + np.uint64(index) * _SEGMENT_SIZE)
        if skip >= segment.length:
            skip -= segment.length
            continue
        start = dma.ram + segment.address + skip
        length = min(segment.length - skip, size)
        skip = _ZERO
        size -= length
        if length == _ZERO:
            break
        if pieces and start == end:
            piece = segment_at(disk.iovec + np.uint64(pieces - 1) * _SEGMENT_SIZE)
            piece.length += length
        else:
            if pieces == _MAX_PIECES:
                return _REFUSED
            piece = segment_at(disk.iovec + np.uint64(pieces) * _SEGMENT_SIZE)
            piece.address = start
            piece.length = length
            pieces += 1
        end = start + length
    return pieces


@njit(_i64(_u64, _u64), cache=True, nogil=True)
def serve(queue_address, disk_address):  # type: ignore[no-untyped-def]
    """Take requests until the queue is empty or some are left for Python; returns how many.

    Arguments are host addresses of QUEUE_DTYPE and DISK_DTYPE records.  What is left is at the
    beginning of ``elements``.  ``interrupt`` is set if the driver wants an interrupt for what
    was returned to it.  vCPU thread.
    """
    disk = disk_at(disk_address)
    queue = queue_at(queue_address)
    disk.interrupt = np.uint8(0)
    left = _ZERO
    copied = np.int64(0)
    while left == _ZERO:
        count = ring.pop(queue_address, disk.elements, BATCH, disk.segments, MAX_SEGMENTS)
        if count == 0:
            break
        done = _ZERO
        for index in range(np.uint64(count)):
            element = element_at(disk.elements + np.uint64(index) * _ELEMENT_SIZE)
            size = _try(queue, disk, element, np.uint64(_MAX_COPY - copied))
            if size < 0:
                _keep(disk, left, element)
                left += _ONE
            else:
                copied += size
                _return(disk, done, element)
                done += _ONE
        if done and ring.push(queue_address, disk.used, np.int64(done)):
            disk.interrupt = np.uint8(1)
    return np.int64(left)
