"""A device behind a virtio-mmio transport, and the driver's accessors."""

from __future__ import annotations

from typing import ClassVar

import pytest

from devices.virtio.constants import Feature, VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import Register, VirtioMmioTransport
from devices.virtio.queue import VirtQueue
from emu.memory.endian import GuestEndian
from tests.support.ring_driver import Areas
from tests.support.virtio import FakeHost

RAM_SIZE = 1 << 20
QUEUE_SIZE = 64
LITTLE, BIG = GuestEndian.LITTLE, GuestEndian.BIG
CONFIG_VALUE = 0x11223344


both = pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "modern"])
orders = pytest.mark.parametrize("cpu", [LITTLE, BIG], ids=["le", "be"])


class Sink(VirtioDevice):
    """Takes what the driver gives and keeps it; one 32-bit field of configuration."""

    DEVICE_ID: ClassVar[VirtioId] = VirtioId.RNG

    def __init__(self, host: FakeHost, features: int = 0, queues: int = 2) -> None:
        super().__init__("sink", host, [QUEUE_SIZE] * queues, features)
        self.taken: list[bytes] = []
        self.written: list[tuple[int, bytes, GuestEndian]] = []
        self.queue_resets: list[int] = []

    def config_space(self, endian: GuestEndian) -> bytes:
        return CONFIG_VALUE.to_bytes(4, endian.order)

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        self.written.append((offset, data, endian))

    def handle_queue(self, queue: VirtQueue) -> None:
        while elements := queue.pop():
            self.taken += [element.read() for element in elements]
            self.push(queue, [(element, 0) for element in elements])

    def on_queue_reset(self, queue: VirtQueue) -> None:
        self.queue_resets.append(queue.index)


class Bench:
    """A device behind a transport, and the driver's accessors."""

    def __init__(self, *, legacy: bool, cpu: GuestEndian = LITTLE, features: int = 0) -> None:
        self.host = FakeHost(RAM_SIZE)
        self.device = Sink(self.host, features)
        self.irq: list[bool] = []
        self.transport = VirtioMmioTransport(
            "mmio", self.device, legacy=legacy, set_irq=self.irq.append
        )
        self.transport.reset()
        self.host.endian = cpu

    def read(self, register: int) -> int:
        return int.from_bytes(self.transport.mmio_read(register, 4), "little")

    def write(self, register: int, value: int) -> None:
        self.transport.mmio_write(register, value.to_bytes(4, "little"))

    def features(self, select: int) -> int:
        self.write(Register.DEVICE_FEATURES_SEL, select)
        return self.read(Register.DEVICE_FEATURES)

    def acknowledge(self, features: int) -> None:
        for word in range(1 if self.transport.legacy else 2):
            self.write(Register.DRIVER_FEATURES_SEL, word)
            self.write(Register.DRIVER_FEATURES, features >> 32 * word & 0xFFFFFFFF)

    def start(self, features: int = 0) -> None:
        """Reset, negotiate and go, as a driver of the right kind does."""
        self.write(Register.STATUS, 0)
        self.write(Register.STATUS, 3)
        if self.transport.legacy:
            self.acknowledge(features)
            self.write(Register.GUEST_PAGE_SIZE, 4096)
        else:
            self.acknowledge(features | Feature.VERSION_1.mask)
            self.write(Register.STATUS, 11)
            assert self.read(Register.STATUS) == 11

    def place(self, index: int, areas: Areas, size: int) -> None:
        """Modern set-up of a queue."""
        self.write(Register.QUEUE_SEL, index)
        self.write(Register.QUEUE_NUM, size)
        for register, address in (
            (Register.QUEUE_DESC_LOW, areas.desc),
            (Register.QUEUE_DRIVER_LOW, areas.driver),
            (Register.QUEUE_DEVICE_LOW, areas.device),
        ):
            self.write(register, address & 0xFFFFFFFF)
            self.write(register + 4, address >> 32)
        self.write(Register.QUEUE_READY, 1)
