"""The legacy interface of virtio-pci: registers in an I/O BAR (virtio 1.2, 4.1.4.10).

The header is little-endian for every driver; the device's configuration space, which follows it,
is in the byte order of the driver.  With MSI-X enabled the header has two more fields, so the
configuration space moves.
"""

from __future__ import annotations

import struct
from typing import Protocol

from devices.virtio.constants import Isr
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import VirtQueue
from emu.log import guest_error

HOST_FEATURES = 0
GUEST_FEATURES = 4
QUEUE_PFN = 8
QUEUE_NUM = 12
QUEUE_SEL = 14
QUEUE_NOTIFY = 16
STATUS = 18
ISR = 19
CONFIG_VECTOR = 20
QUEUE_VECTOR = 22
HEADER_SIZE = 20
HEADER_SIZE_MSIX = 24
QUEUE_ALIGN = 4096
_PAGE_SHIFT = 12
_HEADER = struct.Struct("<IIIHHHBBHH")


def legacy_areas(base: int, entries: int, align: int) -> tuple[int, int, int]:
    """Descriptor table, available and used ring of a legacy queue (virtio 1.2, 2.7.2).

    The used ring follows ``used_event`` at the next multiple of ``align`` (a power of two).
    """
    avail = base + 16 * entries
    used = (avail + 2 * (3 + entries) + align - 1) & ~(align - 1)
    return base, avail, used


class PciTransport(Protocol):
    """What both interfaces share of a virtio-pci function."""

    name: str
    device: VirtioDevice
    isr: Isr
    queue_sel: int
    config_vector: int
    queue_vectors: list[int]

    @property
    def msix_enabled(self) -> bool: ...

    def read_isr(self) -> int: ...

    def valid_vector(self, vector: int) -> int: ...

    def reset_device(self) -> None: ...

    def kick(self, index: int) -> None: ...


class LegacyRegisters:
    """Handler of the I/O BAR.  vCPU thread."""

    def __init__(self, transport: PciTransport) -> None:
        self._transport = transport

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Registers in their order on the bus; reading ISR clears it."""
        transport = self._transport
        header_size = HEADER_SIZE_MSIX if transport.msix_enabled else HEADER_SIZE
        if offset >= header_size:
            return transport.device.config_read(offset - header_size, size, modern=False)
        isr = transport.read_isr() if offset <= ISR < offset + size else 0
        return self._header(isr)[offset : offset + size].ljust(size, b"\0")

    def _header(self, isr: int) -> bytes:
        transport = self._transport
        device = transport.device
        queue = self._queue
        return _HEADER.pack(
            device.offered_features(False),
            device.features & 0xFFFFFFFF,
            (int(queue.record["desc"]) >> _PAGE_SHIFT) & 0xFFFFFFFF if queue is not None else 0,
            queue.size if queue is not None else 0,
            transport.queue_sel,
            0,
            int(device.status),
            isr,
            transport.config_vector,
            self._vector,
        )

    @property
    def _queue(self) -> VirtQueue | None:
        queues = self._transport.device.queues
        selected = self._transport.queue_sel
        return queues[selected] if selected < len(queues) else None

    @property
    def _vector(self) -> int:
        vectors = self._transport.queue_vectors
        selected = self._transport.queue_sel
        return vectors[selected] if selected < len(vectors) else 0xFFFF

    def mmio_write(self, offset: int, data: bytes) -> None:
        """A register, or the configuration space."""
        transport = self._transport
        device = transport.device
        header_size = HEADER_SIZE_MSIX if transport.msix_enabled else HEADER_SIZE
        if offset >= header_size:
            device.config_write(offset - header_size, data, modern=False)
            return
        value = int.from_bytes(data, "little")
        if offset == GUEST_FEATURES:
            device.set_features(value, modern=False)
        elif offset == QUEUE_PFN:
            self._place_queue(value)
        elif offset == QUEUE_SEL:
            transport.queue_sel = value & 0xFFFF
        elif offset == QUEUE_NOTIFY:
            transport.kick(value & 0xFFFF)
        elif offset == STATUS:
            self._write_status(value & 0xFF)
        elif offset == CONFIG_VECTOR:
            transport.config_vector = transport.valid_vector(value & 0xFFFF)
        elif offset == QUEUE_VECTOR:
            if transport.queue_sel < len(transport.queue_vectors):
                transport.queue_vectors[transport.queue_sel] = transport.valid_vector(
                    value & 0xFFFF
                )
        else:
            guest_error(transport.name, "write to legacy register %d", offset)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._transport.reset_device()
        else:
            self._transport.device.set_status(value)

    def _place_queue(self, pfn: int) -> None:
        """Page 0 means a reset of the whole device, as for QEMU's virtio-pci."""
        if pfn == 0:
            self._transport.reset_device()
            return
        queue = self._queue
        if queue is None:
            return
        if queue.enabled:
            guest_error(self._transport.name, "queue %d moved while in use", queue.index)
            return
        queue.place(*legacy_areas(pfn << _PAGE_SHIFT, queue.size, QUEUE_ALIGN))
        self._transport.device.enable_queue(queue)
