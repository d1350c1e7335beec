"""A host and a driver for the small virtio devices: no transport, split rings in both orders."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import TracebackType

from devices.virtio.constants import Feature, Status
from devices.virtio.device import VirtioDevice
from emu.events import EventLoop
from emu.memory.dma import Dma
from emu.memory.endian import GuestEndian
from emu.memory.ram import GuestRam

RAM_SIZE = 4 << 20
_F_NEXT, _F_WRITE = 1, 2

#: Every kind of driver: (byte order of the guest, modern)
KINDS = [
    (GuestEndian.BIG, False),
    (GuestEndian.LITTLE, False),
    (GuestEndian.BIG, True),
    (GuestEndian.LITTLE, True),
]
KIND_NAMES = ["legacy-be", "legacy-le", "modern-be", "modern-le"]


class MockHost:
    """RAM, an event loop, and a list of posted work that the test runs."""

    def __init__(self) -> None:
        self.ram = GuestRam(RAM_SIZE)
        self.writes: list[tuple[int, int]] = []
        self.dma = Dma(self.ram, lambda address, size: self.writes.append((address, size)))
        self.loop = EventLoop()
        self.endian = GuestEndian.BIG
        self.posted: list[Callable[[], None]] = []

    def current_endian(self) -> GuestEndian:
        return self.endian

    def post(self, work: Callable[[], None]) -> None:
        self.posted.append(work)

    def run(self) -> int:
        """Run what was posted, also by what runs; returns how much that was."""
        count = 0
        while self.posted:
            self.posted.pop(0)()
            count += 1
        return count

    def __enter__(self) -> MockHost:
        self.loop.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.loop.stop()


class MockTransport:
    """Counts interrupts."""

    def __init__(self) -> None:
        self.queue_interrupts: list[int] = []
        self.config_interrupts = 0

    def notify_queue(self, index: int) -> None:
        self.queue_interrupts.append(index)

    def notify_config(self) -> None:
        self.config_interrupts += 1


class MockDriver:
    """Resets a device, negotiates, and places all its queues in RAM from 64 KiB on."""

    def __init__(
        self,
        host: MockHost,
        device: VirtioDevice,
        endian: GuestEndian,
        modern: bool,
        features: int = 0,
    ) -> None:
        self.host, self.device, self.modern = host, device, modern
        self.transport = MockTransport()
        device.transport = self.transport
        self.endian = GuestEndian.LITTLE if modern else endian
        self.order = self.endian.struct
        self._free = 64 * 1024
        host.endian = endian
        device.set_status(0)
        device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
        device.set_features(features | (Feature.VERSION_1.mask if modern else 0), modern)
        ready = Status.ACKNOWLEDGE | Status.DRIVER
        if modern:
            ready |= Status.FEATURES_OK
            device.set_status(ready)
        self.queues = [MockQueue(self, index) for index in range(len(device.queues))]
        device.set_status(ready | Status.DRIVER_OK)

    def allocate(self, size: int, align: int = 16) -> int:
        address = -(-self._free // align) * align
        self._free = address + size
        assert self._free <= RAM_SIZE
        return address

    def read_config(self, offset: int, size: int) -> bytes:
        return self.device.config_read(offset, size, modern=self.modern)

    def write_config(self, offset: int, data: bytes) -> None:
        self.device.config_write(offset, data, modern=self.modern)


class MockQueue:
    """The driver's side of one split ring; descriptors are used once."""

    def __init__(self, driver: MockDriver, index: int) -> None:
        self.driver = driver
        self.index = index
        self.queue = driver.device.queues[index]
        self.size = self.queue.size
        self.desc = driver.allocate(16 * self.size)
        self.avail = driver.allocate(6 + 2 * self.size)
        self.used = driver.allocate(6 + 8 * self.size)
        driver.host.ram.write(self.desc, bytes(self.used + 6 + 8 * self.size - self.desc))
        self.queue.place(self.desc, self.avail, self.used)
        driver.device.enable_queue(self.queue)
        self._next = 0
        self._available = 0
        self._seen = 0
        self.buffers: dict[int, tuple[int, int]] = {}  # head: first writable buffer

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.driver.order + form, *values)

    def _store(self, address: int, form: str, *values: int) -> None:
        self.driver.host.ram.write(address, self.pack(form, *values))

    def _load(self, address: int, form: str) -> tuple[int, ...]:
        data = self.driver.host.ram.read(address, struct.calcsize("<" + form))
        return struct.unpack(self.driver.order + form, data)

    def add(self, readable: bytes = b"", writable: int = 0, address: int | None = None) -> int:
        """Make a chain available, without a notification; returns its head."""
        pieces: list[tuple[int, int, int]] = []
        if readable:
            place = self.driver.allocate(len(readable))
            self.driver.host.ram.write(place, readable)
            pieces.append((place, len(readable), 0))
        if writable:
            place = self.driver.allocate(writable) if address is None else address
            pieces.append((place, writable, _F_WRITE))
        head = self._next % self.size
        if writable:
            self.buffers[head] = (place, writable)
        for position, (place, length, flags) in enumerate(pieces):
            last = position == len(pieces) - 1
            slot = self._next % self.size
            self._store(
                self.desc + 16 * slot,
                "QIHH",
                place,
                length,
                flags | (0 if last else _F_NEXT),
                0 if last else (slot + 1) % self.size,
            )
            self._next += 1
        self._store(self.avail + 4 + 2 * (self._available % self.size), "H", head)
        self._available += 1
        self._store(self.avail + 2, "H", self._available & 0xFFFF)
        return head

    def kick(self) -> None:
        self.driver.device.notify(self.index)

    def send(self, readable: bytes = b"", writable: int = 0, address: int | None = None) -> int:
        """Make a chain available and notify."""
        head = self.add(readable, writable, address)
        self.kick()
        return head

    def waiting(self) -> int:
        """Number of chains returned and not taken yet."""
        (index,) = self._load(self.used + 2, "H")
        return (index - self._seen) & 0xFFFF

    def take(self, limit: int = 1 << 16) -> list[tuple[int, int]]:
        """(head, bytes written) of the chains returned since the last call, oldest first."""
        result = []
        for _ in range(min(self.waiting(), limit)):
            head, written = self._load(self.used + 4 + 8 * (self._seen % self.size), "II")
            result.append((head, written))
            self._seen += 1
        return result

    def data(self, limit: int = 1 << 16) -> list[bytes]:
        """What was written into the chains returned since the last call, oldest first."""
        return [
            self.driver.host.ram.read(self.buffers[head][0], written)
            for head, written in self.take(limit)
        ]
