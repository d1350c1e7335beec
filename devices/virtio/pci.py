"""virtio-pci: a PCI function around a virtio device (virtio 1.2, 4.1), with QEMU's identities.

A transitional function shows both interfaces: the legacy one in an I/O BAR, the modern one in a
memory BAR; what a driver uses decides.  BAR 0 is legacy, 1 MSI-X, 4 modern, as in QEMU.
"""

from __future__ import annotations

import struct

from devices.pci.function import BarKind, PciFunction
from devices.virtio.constants import VENDOR_QUMRANET, Isr, Status, VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.pci_legacy import HEADER_SIZE_MSIX, LegacyRegisters
from devices.virtio.pci_modern import (
    COMMON_OFFSET,
    COMMON_SIZE,
    DEVICE_OFFSET,
    ISR_OFFSET,
    NOTIFY_MULTIPLIER,
    NOTIFY_OFFSET,
    REGION_SIZE,
    ModernRegisters,
)
from emu.log import guest_error

NO_VECTOR = 0xFFFF
MODERN_DEVICE_ID = 0x1040
_CAP_VENDOR = 9
_CFG_COMMON, _CFG_NOTIFY, _CFG_ISR, _CFG_DEVICE, _CFG_PCI = 1, 2, 3, 4, 5
_LEGACY_BAR, _MSIX_BAR, _MODERN_BAR = 0, 1, 4
_SUBSYSTEM_MODERN = 0x1100

#: Transitional PCI device ids (virtio 1.2, 4.1.2.1)
TRANSITIONAL_IDS = {
    VirtioId.NET: 0x1000,
    VirtioId.BLOCK: 0x1001,
    VirtioId.BALLOON: 0x1002,
    VirtioId.CONSOLE: 0x1003,
    VirtioId.SCSI: 0x1004,
    VirtioId.RNG: 0x1005,
    VirtioId.NINE_P: 0x1009,
}
#: PCI class codes, as QEMU's devices have them
CLASS_CODES = {
    VirtioId.NET: 0x020000,
    VirtioId.BLOCK: 0x010000,
    VirtioId.BALLOON: 0x00FF00,
    VirtioId.CONSOLE: 0x078000,
    VirtioId.SCSI: 0x010000,
    VirtioId.RNG: 0x00FF00,
    VirtioId.NINE_P: 0x000200,
}


class VirtioPciFunction(PciFunction):
    """A virtio device on a PCI bus.  vCPU thread.

    At least one of the two interfaces is there.  ``vectors`` is the number of MSI-X vectors;
    0 leaves INTx only.
    """

    def __init__(
        self,
        name: str,
        device: VirtioDevice,
        *,
        legacy: bool = True,
        modern: bool = True,
        vectors: int = 2,
    ) -> None:
        if not legacy and not modern:
            raise ValueError("device cannot work as neither modern nor legacy mode is enabled")
        identity = device.DEVICE_ID
        super().__init__(
            name,
            vendor_id=VENDOR_QUMRANET,
            device_id=TRANSITIONAL_IDS[identity] if legacy else MODERN_DEVICE_ID + identity,
            class_code=CLASS_CODES[identity],
            revision=0 if legacy else 1,
            subsystem_vendor_id=VENDOR_QUMRANET,
            subsystem_id=identity if legacy else _SUBSYSTEM_MODERN,
        )
        self.device = device
        self.isr = Isr(0)
        self.queue_sel = 0
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * len(device.queues)
        self.vectors = vectors
        self.modern = ModernRegisters(self) if modern else None
        if vectors:
            self.enable_msix(vectors, _MSIX_BAR)
        if legacy:
            size = HEADER_SIZE_MSIX + len(device.config_space(device.latched_endian))
            self.add_bar(_LEGACY_BAR, _power_of_two(size), BarKind.IO, LegacyRegisters(self))
        if self.modern is not None:
            self._add_modern(self.modern)
        device.transport = self

    def _add_modern(self, registers: ModernRegisters) -> None:
        notify_size = max(REGION_SIZE, NOTIFY_MULTIPLIER * len(self.device.queues))
        size = _power_of_two(NOTIFY_OFFSET + notify_size)
        self.add_bar(_MODERN_BAR, size, BarKind.MEM64_PREFETCH, registers)
        config_size = len(self.device.config_space(self.device.latched_endian))
        multiplier = struct.pack("<I", NOTIFY_MULTIPLIER)
        for kind, offset, length, extra in (
            (_CFG_COMMON, COMMON_OFFSET, COMMON_SIZE, b""),
            (_CFG_ISR, ISR_OFFSET, 1, b""),
            (_CFG_DEVICE, DEVICE_OFFSET, config_size, b""),
            (_CFG_NOTIFY, NOTIFY_OFFSET, notify_size, multiplier),
        ):
            if length:
                self.add_capability(_CAP_VENDOR, _capability(kind, offset, length, extra))
        # Access to the BAR through configuration cycles (4.1.4.9): bar, offset, length, data.
        self._access = self.add_capability(
            _CAP_VENDOR,
            _capability(_CFG_PCI, 0, 0, bytes(4)),
            b"\0\0\xff\0\0\0" + b"\xff" * 12,
        )

    # What both interfaces use (PciTransport)

    def read_isr(self) -> int:
        """Interrupt status; reading clears it and takes INTx back."""
        value, self.isr = self.isr, Isr(0)
        self.set_intx(False)
        return int(value)

    def valid_vector(self, vector: int) -> int:
        """The vector, or NO_VECTOR for one that the function has not."""
        return vector if vector < self.vectors else NO_VECTOR

    def kick(self, index: int) -> None:
        """The driver has notified a queue; without bus mastering a modern device is deaf."""
        if self.bus_master or not self.device.modern:
            self.device.notify(index)

    def reset_device(self) -> None:
        """Reset by the driver: everything but PCI configuration."""
        self.device.reset()
        self.isr = Isr(0)
        self.queue_sel = 0
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * len(self.device.queues)
        if self.modern is not None:
            self.modern.reset()
        self.set_intx(False)

    # What the device uses (Transport)

    def notify_queue(self, index: int) -> None:
        """Used buffer notification."""
        self._interrupt(Isr.QUEUE, self.queue_vectors[index])

    def notify_config(self) -> None:
        """Configuration change notification."""
        self._interrupt(Isr.CONFIG, self.config_vector)

    def _interrupt(self, cause: Isr, vector: int) -> None:
        self.isr |= cause
        if not self.msix_enabled:
            self.set_intx(True)
        elif vector != NO_VECTOR:
            self.msix_notify(vector)

    # PCI

    def on_reset(self) -> None:
        """Reset of the bus or the machine."""
        self.reset_device()

    def on_config_read(self, offset: int, size: int) -> None:
        """A read of the access capability's data reads the BAR first (4.1.4.9.1)."""
        data = self._access_data
        if data is not None and offset < data + 4 and data < offset + size:
            target = self._access_target()
            if target is not None:
                handler, at, length = target
                self.config[data : data + length] = handler.mmio_read(at, length)

    def on_config_write(self, offset: int, size: int) -> None:
        """A write to the access capability's data is written to the BAR."""
        data = self._access_data
        if data is not None and offset < data + 4 and data < offset + size:
            target = self._access_target()
            if target is not None:
                handler, at, length = target
                handler.mmio_write(at, bytes(self.config[data : data + length]))

    @property
    def _access_data(self) -> int | None:
        return self._access + 16 if self.modern is not None else None

    def _access_target(self) -> tuple[ModernRegisters, int, int] | None:
        bar = self.config[self._access + 4]
        offset, length = struct.unpack_from("<II", self.config, self._access + 8)
        end = NOTIFY_OFFSET + REGION_SIZE
        if self.modern is None or bar != _MODERN_BAR or length not in (1, 2, 4):
            guest_error(self.name, "access to BAR %d, %d bytes, by capability", bar, length)
            return None
        if offset % length or offset + length > end:
            return None
        return self.modern, offset, length

    def close(self) -> None:
        """Release the device's host resources."""
        self.device.status = Status(0)
        self.device.close()


def _capability(kind: int, offset: int, length: int, extra: bytes) -> bytes:
    """Body of a ``virtio_pci_cap``, behind id and next (4.1.4)."""
    return struct.pack("<BBBBxxII", 16 + len(extra), kind, _bar(kind), 0, offset, length) + extra


def _bar(kind: int) -> int:
    return 0 if kind == _CFG_PCI else _MODERN_BAR


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
