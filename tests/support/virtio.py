"""A host and a driver for tests of virtio devices: no transport, split rings, both byte orders.

A test makes a :class:`FakeHost`, a device on it and a :class:`MockDriver`; then ``setup()``,
``submit()``, ``host.run_posted()`` (or ``wait_used()`` for work of other threads) and ``used()``.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Sequence

from devices.virtio.constants import Feature, Status
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import VirtQueue
from emu.events import EventLoop
from emu.memory.dma import Dma
from emu.memory.endian import GuestEndian
from emu.memory.ram import GuestRam

RAM_SIZE = 4 << 20
_WRITTEN = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
_NEXT, _WRITE, _INDIRECT = 1, 2, 4

#: Every kind of driver: byte order of the guest, and features that make it legacy or modern.
KINDS = [
    (GuestEndian.BIG, 0),
    (GuestEndian.LITTLE, 0),
    (GuestEndian.BIG, Feature.VERSION_1.mask),
    (GuestEndian.LITTLE, Feature.VERSION_1.mask),
]
KIND_NAMES = ["legacy-be", "legacy-le", "modern-be", "modern-le"]


class FakeHost:
    """RAM, an event loop (not started), and posted work that the test runs.

    ``written`` are the ranges of RAM that were logged as written, by Python and native code.
    """

    def __init__(self, ram_size: int = RAM_SIZE) -> None:
        self.ram = GuestRam(ram_size)
        self.written: list[tuple[int, int]] = []
        self._native_written = _WRITTEN(self._written)
        native = ctypes.cast(self._native_written, ctypes.c_void_p).value
        self.dma = Dma(self.ram, lambda address, size: self._written(0, address, size), native or 0)
        self.loop = EventLoop()
        self.endian = GuestEndian.BIG
        self.posted: list[Callable[[], None]] = []

    def _written(self, context: int, address: int, size: int) -> None:
        self.written.append((address, size))

    def current_endian(self) -> GuestEndian:
        """The byte order of the guest's CPU."""
        return self.endian

    def post(self, work: Callable[[], None]) -> None:
        """Keep work for :meth:`run_posted`.  Any thread."""
        self.posted.append(work)

    def run_posted(self) -> int:
        """Run what was posted, also by what runs; returns how much that was."""
        count = 0
        while self.posted:
            self.posted.pop(0)()
            count += 1
        return count

    def run_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Run posted work until something is true; AssertionError after a time."""
        deadline = time.monotonic() + seconds
        while self.run_posted() or not condition():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.0005)


class FakeTransport:
    """Counts interrupts."""

    def __init__(self) -> None:
        self.queue_interrupts: list[int] = []
        self.config_interrupts = 0

    def notify_queue(self, index: int) -> None:
        """A used buffer notification."""
        self.queue_interrupts.append(index)

    def notify_config(self) -> None:
        """A configuration change notification."""
        self.config_interrupts += 1


class MockDriver:
    """The guest's driver of one device; ``features`` with VERSION_1 make it a modern one.

    ``endian`` is the byte order of the guest's CPU.  The device's host must be a
    :class:`FakeHost`.
    """

    def __init__(self, device: VirtioDevice, endian: GuestEndian, features: int = 0) -> None:
        assert isinstance(device.host, FakeHost)
        self.host = device.host
        self.device = device
        self.guest_endian = endian
        self.features = features
        self.modern = bool(features & Feature.VERSION_1.mask)
        self.endian = GuestEndian.LITTLE if self.modern else endian
        self.transport = FakeTransport()
        self.rings: list[Ring] = []
        self._free = 0x10000

    def setup(self) -> None:
        """Reset the device, negotiate, place all queues and set DRIVER_OK."""
        self.device.transport = self.transport
        self.host.endian = self.guest_endian
        self.device.set_status(0)
        status = Status.ACKNOWLEDGE | Status.DRIVER
        self.device.set_status(status)
        self.device.set_features(self.features, self.modern)
        if self.modern:
            status |= Status.FEATURES_OK
            self.device.set_status(status)
            assert self.device.status & Status.FEATURES_OK
        self._free = 0x10000
        self.rings = [Ring(self, queue) for queue in self.device.queues]
        self.device.set_status(status | Status.DRIVER_OK)

    def allocate(self, size: int, align: int = 16) -> int:
        """Guest RAM that nobody else uses until :meth:`setup`."""
        address = -(-self._free // align) * align
        self._free = address + size
        assert self._free <= self.host.ram.size, "test uses too much guest RAM"
        return address

    def pack(self, form: str, *values: int | bytes) -> bytes:
        """``struct.pack`` in the order the device expects."""
        return struct.pack(self.endian.struct + form, *values)

    def submit(
        self,
        queue: int,
        readable: Sequence[bytes] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
        notify: bool = True,
    ) -> int:
        """Make a chain of buffers available, and notify the device; returns its token."""
        token = self.rings[queue].add(readable, writable, indirect)
        if notify:
            self.device.notify(queue)
        return token

    def notify(self, queue: int) -> None:
        """Notify the device of what was submitted."""
        self.device.notify(queue)

    def used(self, queue: int) -> list[tuple[int, int, bytes]]:
        """(token, length in the used ring, all writable buffers) of chains that came back."""
        return self.rings[queue].take()

    def wait_used(self, queue: int, count: int = 1) -> list[tuple[int, int, bytes]]:
        """Run posted work until that many chains came back."""
        found: list[tuple[int, int, bytes]] = []

        def enough() -> bool:
            found.extend(self.used(queue))
            return len(found) >= count

        self.host.run_until(enough)
        return found

    def read_config(self, offset: int, form: str) -> int:
        """One field of the configuration space."""
        size = struct.calcsize("<" + form)
        data = self.device.config_read(offset, size, modern=self.modern)
        return int(struct.unpack(self.endian.struct + form, data)[0])

    def write_config(self, offset: int, form: str, value: int) -> None:
        """Write one field of the configuration space."""
        self.device.config_write(offset, self.pack(form, value), modern=self.modern)


class Ring:
    """The driver's side of one split virtqueue."""

    def __init__(self, driver: MockDriver, queue: VirtQueue) -> None:
        self.driver = driver
        self.queue = queue
        self.size = queue.size
        self.desc = driver.allocate(16 * self.size, 4096)
        self.avail = driver.allocate(6 + 2 * self.size)
        self.used = driver.allocate(6 + 8 * self.size)
        driver.host.ram.write(self.desc, bytes(self.used + 6 + 8 * self.size - self.desc))
        queue.place(self.desc, self.avail, self.used)
        driver.device.enable_queue(queue)
        self._free = list(range(self.size))
        self._chains: dict[int, tuple[int, list[int], list[tuple[int, int]]]] = {}
        self._tokens = 0
        self._added = self._seen = 0

    def add(self, readable: Sequence[bytes], writable: Sequence[int], indirect: bool) -> int:
        """Put a chain into the available ring; returns its token."""
        pieces = [(self._store_bytes(data), len(data), 0) for data in readable]
        room = [(self.driver.allocate(size), size) for size in writable]
        pieces += [(address, size, _WRITE) for address, size in room]
        need = 1 if indirect else len(pieces)
        assert need <= len(self._free), "ring is full"
        slots = [self._free.pop(0) for _ in range(need)]
        if indirect:
            table = self.driver.allocate(16 * len(pieces))
            self._chain(table, list(range(len(pieces))), pieces)
            self._descriptor(self.desc + 16 * slots[0], table, 16 * len(pieces), _INDIRECT, 0)
        else:
            self._chain(self.desc, slots, pieces)
        self._tokens += 1
        self._chains[slots[0]] = (self._tokens, slots, room)
        self._put(self.avail + 4 + 2 * (self._added % self.size), "H", slots[0])
        self._added += 1
        self._put(self.avail + 2, "H", self._added & 0xFFFF)
        return self._tokens

    def take(self) -> list[tuple[int, int, bytes]]:
        """Chains that came back since the last call."""
        result = []
        (index,) = self._get(self.used + 2, "H")
        while self._seen & 0xFFFF != index:
            head, length = self._get(self.used + 4 + 8 * (self._seen % self.size), "II")
            token, slots, room = self._chains.pop(head)
            ram = self.driver.host.ram
            result.append((token, length, b"".join(ram.read(*piece) for piece in room)))
            self._free += slots
            self._seen += 1
        return result

    def _store_bytes(self, data: bytes) -> int:
        address = self.driver.allocate(len(data))
        self.driver.host.ram.write(address, data)
        return address

    def _chain(self, table: int, slots: list[int], pieces: list[tuple[int, int, int]]) -> None:
        for position, (address, length, flags) in enumerate(pieces):
            more = position + 1 < len(pieces)
            following = slots[position + 1] if more else 0
            place = table + 16 * slots[position]
            self._descriptor(place, address, length, flags | (_NEXT if more else 0), following)

    def _descriptor(self, place: int, address: int, length: int, flags: int, more: int) -> None:
        self._put(place, "QIHH", address, length, flags, more)

    def _put(self, address: int, form: str, *values: int) -> None:
        self.driver.host.ram.write(address, self.driver.pack(form, *values))

    def _get(self, address: int, form: str) -> tuple[int, ...]:
        data = self.driver.host.ram.read(address, struct.calcsize("<" + form))
        return struct.unpack(self.driver.endian.struct + form, data)
