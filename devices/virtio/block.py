"""Virtio block device (virtio 1.2, 5.2), as QEMU 7.2 shows it to its driver.

A request takes one of three ways.  Reads and writes that the host's page cache answers at once
are done natively during the notification (:mod:`devices.virtio.block_native`).  What needs no
disk, errors above all, is answered here.  Everything else goes to worker threads, which hand
results back to the vCPU thread in batches.

Header fields have the order of the rings.  The ranges of discard and write zeroes are
little-endian for every driver: the structure says so (5.2.6), Linux drivers do so, and only
QEMU reads them in a legacy guest's order.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence

from devices.block.dirty import write_headroom
from devices.block.image import SECTOR, Image
from devices.host import DeviceHost
from devices.virtio import block_native as native
from devices.virtio.block_flight import Flight
from devices.virtio.block_options import (
    CONFIG_WRITEBACK,
    MAX_REQUEST_SECTORS,
    BlockFeature,
    BlockOptions,
)
from devices.virtio.block_request import (
    BARRIER,
    FLAG_UNMAP,
    HEADER_SIZE,
    ID_SIZE,
    RANGE_SIZE,
    BlockStatus,
    Request,
    RequestType,
)
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import Element, VirtQueue
from emu.log import guest_error
from emu.memory.endian import GuestEndian
from emu.migration.fields import flag

_RANGE = struct.Struct("<QII")
#: A large write is waited for as long as a copy of it takes at this rate (bytes per second):
#: where the host cannot write without waiting, that is what it costs when the disk is not in the
#: way, and no interrupt has to wake the guest.
_COPY_RATE = 2.5e9
#: Plain writes into the page cache: so much before the host's state is looked at again.
_MAX_BUDGET = 64 << 20
_BUDGET_SECONDS = 0.005
_WAIT_BYTES = 128 * 1024
_WAIT_SECONDS = 0.002


class VirtioBlock(VirtioDevice):
    """A disk; takes over ``image``.

    ``write_cache`` tells whether writes are complete before they are on stable storage, which
    the driver may change.  vCPU thread.
    """

    DEVICE_ID = VirtioId.BLOCK
    STATE = (flag("write_cache"),)

    def __init__(self, name: str, host: DeviceHost, options: BlockOptions, image: Image) -> None:
        wanted = options.write_cache
        self._initial_cache = image.write_back if wanted is None else wanted
        features = options.features(read_only=image.read_only, write_back=self._initial_cache)
        super().__init__(name, host, [options.queue_size] * options.queues, features)
        self.options = options
        self.image = image
        self.flight = Flight(image, name, self._announce)
        self._serial = os.fsencode(options.serial)[:ID_SIZE]
        self._closed = False
        self._budget_due = 0.0
        self._copying = 0  # bytes of this notification for which _is_copy() holds
        blocks = options.block_size // SECTOR
        self._disk = native.DiskRecord(image.nowait_fd, image.size // SECTOR, blocks)
        self.record = self._disk.record
        self.write_cache = self._initial_cache

    # Configuration space

    @property
    def write_cache(self) -> bool:
        """Whether writes are complete before they are on stable storage."""
        return self._write_cache

    @write_cache.setter
    def write_cache(self, on: bool) -> None:
        self._write_cache = on
        nowait = on and self.record["fd"] >= 0 and not self.image.read_only
        self.record["write_nowait"] = nowait
        self._plain_writes = nowait
        self.record["write_budget"] = 0

    def config_space(self, endian: GuestEndian) -> bytes:
        """See :meth:`BlockOptions.config_space`."""
        return self.options.config_space(endian, self.image.size, self.write_cache)

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        """``writeback`` can be written if CONFIG_WCE was negotiated (5.2.5)."""
        place = CONFIG_WRITEBACK - offset
        if not 0 <= place < len(data) or not self.has_feature(BlockFeature.CONFIG_WCE):
            guest_error(self.name, "write to read-only configuration space")
            return
        self.write_cache = bool(data[place])

    def resize(self, size: int) -> None:
        """Change the size of image and disk (bytes, whole sectors) and tell the driver.

        Raises ``OSError`` if the image cannot have that size, ``ValueError`` for odd sizes.
        """
        if size < 0 or size % SECTOR:
            raise ValueError(f"size {size} is not a multiple of {SECTOR}")
        self.drain()
        self.image.resize(size)
        self.record["capacity"] = size // SECTOR
        self.config_changed()

    def on_driver_ok(self) -> None:
        """A driver that can neither flush nor switch the cache gets none (5.2.5.2)."""
        if not self.has_feature(BlockFeature.CONFIG_WCE):
            self.write_cache = self.has_feature(BlockFeature.FLUSH)

    # Requests

    def handle_queue(self, queue: VirtQueue) -> None:
        """Carry out what the driver has made available, or start it."""
        finished: list[tuple[Element, int]] = []
        interrupt = False
        self._copying = 0
        while left := native.serve(queue.address, self._disk.address):
            self._allow_writes()
            interrupt |= bool(self.record["interrupt"])
            for chain in self._disk.left(left):
                element = Element(self.host.dma, *chain)
                if self._start(queue, element):
                    finished.append((element, element.writable_bytes))
        interrupt |= bool(self.record["interrupt"])
        if finished:
            interrupt |= queue.push(finished)
        if interrupt and self.transport is not None:
            self.transport.notify_queue(queue.index)
        if self._copying >= _WAIT_BYTES:
            seconds = min(self._copying / _COPY_RATE, _WAIT_SECONDS)
            self._finish(self.flight.wait(seconds))

    def _allow_writes(self) -> None:
        """Renew what plain writes may put into the page cache, now and then."""
        now = time.monotonic()
        if self._plain_writes and now >= self._budget_due:
            self._budget_due = now + _BUDGET_SECONDS
            self.record["write_budget"] = min(write_headroom() // 2, _MAX_BUDGET)

    def _start(self, queue: VirtQueue, element: Element) -> bool:
        """Begin a request; True if it is done already."""
        if self.broken:
            return False
        header = element.read(0, HEADER_SIZE)
        if len(header) < HEADER_SIZE or not element.writable:
            self.fail("request without header or status")
            return False
        number, _, sector = struct.unpack(self.endian.struct + "IIQ", header)
        number &= ~BARRIER
        result: Request | BlockStatus
        # Bit 0 says that a request writes; as in QEMU it does not matter for these types.
        if number in (RequestType.IN, RequestType.OUT):
            result = self._read_or_write(queue, element, RequestType(number), sector)
        elif number & ~1 == RequestType.FLUSH:
            result = Request(queue, element, RequestType.FLUSH)
        elif number & ~1 == RequestType.GET_ID:
            result = self._get_id(element)
        elif number in (RequestType.DISCARD, RequestType.WRITE_ZEROES):
            result = self._discard_or_zero(queue, element, RequestType(number))
        else:
            result = BlockStatus.UNSUPP
        if isinstance(result, BlockStatus):
            _set_status(element, result)
            return True
        if self._is_copy(result):
            self._copying += result.size
        self.flight.submit(result)
        return False

    def _read_or_write(
        self, queue: VirtQueue, element: Element, type: RequestType, sector: int
    ) -> Request | BlockStatus:
        if type is RequestType.IN:
            size = element.writable_bytes - 1
            pieces, skip = element.writable, 0
        else:
            size = element.readable_bytes - HEADER_SIZE
            pieces, skip = element.readable, HEADER_SIZE
        if not self._in_range(sector, size) or (type is RequestType.OUT and self.image.read_only):
            return BlockStatus.IOERR
        if size == 0:
            return BlockStatus.OK
        return Request(
            queue,
            element,
            type,
            sector * SECTOR,
            size,
            self._views(pieces, skip, size),
            durable=not self.write_cache,
        )

    def _views(self, pieces: Sequence[tuple[int, int]], skip: int, size: int) -> list[memoryview]:
        """Guest RAM of ``size`` bytes behind the first ``skip``; neighbours become one view."""
        views: list[memoryview] = []
        start = end = 0
        for address, length in pieces:
            if skip >= length:
                skip -= length
                continue
            address, length, skip = address + skip, min(length - skip, size), 0
            size -= length
            if length and address != end:
                if end > start:
                    views.append(self.host.dma.view(start, end - start))
                start = address
            if length:
                end = address + length
        views.append(self.host.dma.view(start, end - start))
        return views

    def _in_range(self, sector: int, size: int) -> bool:
        """Whether a range is one of whole blocks of the disk."""
        sectors = size // SECTOR
        return (
            size % self.options.block_size == 0
            and sector & int(self.record["block_mask"]) == 0
            and sectors <= MAX_REQUEST_SECTORS
            and sector + sectors <= self.image.size // SECTOR
        )

    def _get_id(self, element: Element) -> BlockStatus:
        """The serial number, with a zero byte where there is room (5.2.6.1)."""
        room = min(element.writable_bytes - 1, ID_SIZE)
        element.write((self._serial + b"\0")[:room])
        return BlockStatus.OK

    def _discard_or_zero(
        self, queue: VirtQueue, element: Element, type: RequestType
    ) -> Request | BlockStatus:
        data = element.read(HEADER_SIZE)
        discard = type is RequestType.DISCARD
        options = self.options
        offered = options.discard if discard else options.write_zeroes
        if not offered or len(data) != RANGE_SIZE:  # one range: max_discard_seg is 1
            return BlockStatus.UNSUPP
        sector, sectors, flags = _RANGE.unpack(data)
        limit = options.max_discard_sectors if discard else options.max_write_zeroes_sectors
        if flags & ~(0 if discard else FLAG_UNMAP):
            return BlockStatus.UNSUPP
        size = sectors * SECTOR
        if sectors > limit or not self._in_range(sector, size) or self.image.read_only:
            return BlockStatus.IOERR
        return Request(
            queue,
            element,
            type,
            sector * SECTOR,
            size,
            durable=not self.write_cache,
            unmap=bool(flags & FLAG_UNMAP),
        )

    # Requests that take time

    def _announce(self) -> None:
        """There are results.  A worker's thread."""
        self.host.post(self._collect)

    def _collect(self) -> None:
        self._finish(self.flight.collect())

    def _is_copy(self, request: Request) -> bool:
        """Whether a worker has a request only because the host cannot say what has to wait."""
        if request.durable or self.record["fd"] < 0:
            return False
        if request.type is RequestType.IN:
            return not self.record["read_nowait"]
        return request.type is RequestType.OUT and not self.record["write_nowait"]

    def _finish(self, requests: Sequence[Request]) -> None:
        """Return requests to the driver: one push for each queue."""
        by_queue: dict[VirtQueue, list[tuple[Element, int]]] = {}
        for request in requests:
            element = request.element
            _set_status(element, BlockStatus.IOERR if request.error else BlockStatus.OK)
            by_queue.setdefault(request.queue, []).append((element, element.writable_bytes))
        for queue, used in by_queue.items():
            self.push(queue, used)

    def drain(self) -> None:
        """Wait until every request is done and returned; the vCPU does not run meanwhile."""
        self._finish(self.flight.wait_all())

    def claim_host(self) -> None:
        """Lock the image."""
        self.image.claim()

    def release_host(self) -> None:
        """Write out what others may read past the page cache, and unlock the image."""
        if not self.image.read_only:
            self.image.flush()
        self.image.release()

    def quiesce(self) -> None:
        """Nothing is on its way behind this."""
        self.drain()

    def on_reset(self) -> None:
        """Wait for requests, whose memory the guest may use anew, and forget them."""
        self.flight.wait_all()
        self.write_cache = self._initial_cache

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """Complete what is in flight."""
        self.drain()

    def close(self) -> None:
        """Complete what is in flight, without telling the driver, and close the image."""
        if not self._closed:
            self._closed = True
            self.flight.wait_all()
            self.flight.close()
            self.record["fd"] = -1
            self.record["read_nowait"] = self.record["write_nowait"] = 0
            self._plain_writes = False
            self.record["write_budget"] = 0
            self.image.close()


def _set_status(element: Element, status: BlockStatus) -> None:
    """Store the status: the last byte the driver gives (5.2.6)."""
    element.write(bytes((status,)), element.writable_bytes - 1)
