"""The modern interface of virtio-pci: structures in a memory BAR (virtio 1.2, 4.1.4).

Everything is little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from devices.virtio.constants import Feature
from devices.virtio.pci_legacy import PciTransport
from devices.virtio.queue import VirtQueue
from emu.log import guest_error

# Offsets in the common configuration structure (4.1.4.3)
DEVICE_FEATURE_SELECT = 0
DEVICE_FEATURE = 4
DRIVER_FEATURE_SELECT = 8
DRIVER_FEATURE = 12
CONFIG_MSIX_VECTOR = 16
NUM_QUEUES = 18
DEVICE_STATUS = 20
CONFIG_GENERATION = 21
QUEUE_SELECT = 22
QUEUE_SIZE = 24
QUEUE_MSIX_VECTOR = 26
QUEUE_ENABLE = 28
QUEUE_NOTIFY_OFF = 30
QUEUE_DESC = 32
QUEUE_DRIVER = 40
QUEUE_DEVICE = 48
QUEUE_NOTIFY_DATA = 56
QUEUE_RESET = 58
COMMON_SIZE = 60
_COMMON = struct.Struct("<IIIIHHBBHHHHHQQQHH")

# Where the structures are in the BAR, as in QEMU's
COMMON_OFFSET = 0x0000
ISR_OFFSET = 0x1000
DEVICE_OFFSET = 0x2000
NOTIFY_OFFSET = 0x3000
REGION_SIZE = 0x1000
NOTIFY_MULTIPLIER = 4


@dataclass
class QueueAreas:
    """Addresses the driver has written for a queue that is not enabled yet."""

    desc: int = 0
    driver: int = 0
    device: int = 0


class ModernRegisters:
    """Handler of the memory BAR.  vCPU thread."""

    def __init__(self, transport: PciTransport) -> None:
        self._transport = transport
        self.device_feature_select = 0
        self.driver_feature_select = 0
        self.driver_features = 0
        self.areas: list[QueueAreas] = []
        self.reset()

    def reset(self) -> None:
        """Forget what the driver has selected and written."""
        self.device_feature_select = self.driver_feature_select = self.driver_features = 0
        self.areas = [QueueAreas() for _ in self._transport.device.queues]

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Bytes as on the bus; zeros where there is nothing."""
        region, at = divmod(offset, REGION_SIZE)
        if region * REGION_SIZE == COMMON_OFFSET:
            return self._common()[at : at + size].ljust(size, b"\0")
        if region * REGION_SIZE == ISR_OFFSET:
            isr = self._transport.read_isr() if at == 0 else 0
            return bytes([isr]).ljust(size, b"\0")
        if region * REGION_SIZE == DEVICE_OFFSET:
            return self._transport.device.config_read(at, size, modern=True)
        return bytes(size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """A register, the configuration space, or a notification."""
        region, at = divmod(offset, REGION_SIZE)
        if region * REGION_SIZE == COMMON_OFFSET:
            self._write_common(at, data)
        elif region * REGION_SIZE == DEVICE_OFFSET:
            self._transport.device.config_write(at, data, modern=True)
        elif offset >= NOTIFY_OFFSET:
            self._transport.kick((offset - NOTIFY_OFFSET) // NOTIFY_MULTIPLIER)

    @property
    def _queue(self) -> VirtQueue | None:
        queues = self._transport.device.queues
        selected = self._transport.queue_sel
        return queues[selected] if selected < len(queues) else None

    def _common(self) -> bytes:
        transport = self._transport
        device = transport.device
        queue = self._queue
        areas = self.areas[queue.index] if queue is not None else QueueAreas()
        return _COMMON.pack(
            self.device_feature_select,
            _half(device.offered_features(True), self.device_feature_select),
            self.driver_feature_select,
            _half(self.driver_features, self.driver_feature_select),
            transport.config_vector,
            len(device.queues),
            int(device.status),
            device.config_generation & 0xFF,
            transport.queue_sel,
            queue.size if queue is not None else 0,
            transport.queue_vectors[queue.index] if queue is not None else 0xFFFF,
            int(queue.enabled) if queue is not None else 0,
            queue.index if queue is not None else 0,
            areas.desc,
            areas.driver,
            areas.device,
            0,
            0,
        )

    def _write_common(self, offset: int, data: bytes) -> None:
        transport = self._transport
        value = int.from_bytes(data, "little")
        if offset == DEVICE_FEATURE_SELECT:
            self.device_feature_select = value
        elif offset == DRIVER_FEATURE_SELECT:
            self.driver_feature_select = value
        elif offset == DRIVER_FEATURE:
            self._write_features(value)
        elif offset == CONFIG_MSIX_VECTOR:
            transport.config_vector = transport.valid_vector(value & 0xFFFF)
        elif offset == DEVICE_STATUS:
            if value & 0xFF == 0:
                transport.reset_device()
            else:
                transport.device.set_status(value)
        elif offset == QUEUE_SELECT:
            transport.queue_sel = value & 0xFFFF
        else:
            self._write_queue(offset, value, len(data))

    def _write_features(self, value: int) -> None:
        if self.driver_feature_select > 1:
            if value:
                guest_error(self._transport.name, "features above bit 63 acknowledged")
            return
        shift = 32 * self.driver_feature_select
        self.driver_features = self.driver_features & ~(0xFFFFFFFF << shift) | value << shift
        self._transport.device.set_features(self.driver_features, modern=True)

    def _write_queue(self, offset: int, value: int, size: int) -> None:
        transport = self._transport
        queue = self._queue
        if queue is None:
            guest_error(
                transport.name, "queue %d selected, which is not there", transport.queue_sel
            )
        elif offset == QUEUE_MSIX_VECTOR:
            transport.queue_vectors[queue.index] = transport.valid_vector(value & 0xFFFF)
        elif offset == QUEUE_ENABLE:
            self._enable(queue, value)
        elif offset == QUEUE_RESET:
            self._reset_queue(queue, value)
        elif queue.enabled:
            guest_error(transport.name, "queue %d changed while in use", queue.index)
        elif offset == QUEUE_SIZE:
            self._resize(queue, value & 0xFFFF)
        elif QUEUE_DESC <= offset < QUEUE_NOTIFY_DATA and offset % 4 == 0 and size == 4:
            self._write_area(queue, offset, value)
        else:
            guest_error(transport.name, "write of %d bytes to register %d", size, offset)

    def _write_area(self, queue: VirtQueue, offset: int, value: int) -> None:
        name = ("desc", "driver", "device")[(offset - QUEUE_DESC) // 8]
        areas = self.areas[queue.index]
        shift = 32 * (offset // 4 % 2)
        old = getattr(areas, name)
        setattr(areas, name, old & ~(0xFFFFFFFF << shift) | value << shift)

    def _resize(self, queue: VirtQueue, entries: int) -> None:
        split = not self._transport.device.has_feature(Feature.RING_PACKED)
        if not 0 < entries <= queue.max_size or (split and entries & (entries - 1)):
            guest_error(self._transport.name, "queue size %d is not possible", entries)
            return
        queue.size = entries

    def _enable(self, queue: VirtQueue, value: int) -> None:
        if value != 1 or queue.enabled:
            guest_error(self._transport.name, "queue_enable %d written", value)
            return
        areas = self.areas[queue.index]
        queue.place(areas.desc, areas.driver, areas.device)
        self._transport.device.enable_queue(queue)

    def _reset_queue(self, queue: VirtQueue, value: int) -> None:
        device = self._transport.device
        if value != 1 or not device.has_feature(Feature.RING_RESET):
            guest_error(self._transport.name, "queue_reset %d written", value)
            return
        device.reset_queue(queue)
        self.areas[queue.index] = QueueAreas()


def _half(features: int, select: int) -> int:
    return features >> (32 * select) & 0xFFFFFFFF if select < 2 else 0
