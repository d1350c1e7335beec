"""virtio-mmio: a virtio device behind a block of registers (virtio 1.2, 4.2).

Version 1 is the legacy interface (4.2.4), version 2 the modern one.  Control registers are 32
bits and little-endian for every driver; the configuration space at 0x100 has the driver's byte
order in version 1 and is little-endian in version 2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from devices.virtio.constants import Isr
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio_queue import LegacyQueues, ModernQueues
from emu.log import guest_error

MAGIC: Final = 0x74726976  # "virt"
VENDOR: Final = 0x554D4551  # "QEMU", as guests know it
LEGACY_VERSION, MODERN_VERSION = 1, 2
REGISTERS_SIZE = 0x200  # of the window a device tree describes
_UINT32 = 0xFFFFFFFF


class Register(enum.IntEnum):
    """Offsets of the control registers (virtio 1.2, 4.2.2 and 4.2.4)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    GUEST_PAGE_SIZE = 0x028  # legacy
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_ALIGN = 0x03C  # legacy
    QUEUE_PFN = 0x040  # legacy
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class EmptyMmioSlot:
    """A slot without a device: drivers read device id 0 and leave it alone (4.2.2.2)."""

    def __init__(self, *, legacy: bool = True) -> None:
        self._registers: dict[int, int] = {
            Register.MAGIC_VALUE: MAGIC,
            Register.VERSION: LEGACY_VERSION if legacy else MODERN_VERSION,
            Register.VENDOR_ID: VENDOR,
        }

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Magic, version and vendor; zeros elsewhere."""
        value = self._registers.get(offset, 0) if size == 4 else 0
        return value.to_bytes(size, "little")

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Nothing is there."""


class VirtioMmioTransport:
    """Registers of one device, as an ``MmioHandler``, and its ``Transport``.  vCPU thread.

    ``set_irq(level)`` drives its interrupt line, which is level triggered.  Nothing that a guest
    reads or writes raises an exception.
    """

    def __init__(
        self, name: str, device: VirtioDevice, *, legacy: bool, set_irq: Callable[[bool], None]
    ) -> None:
        self.name = name
        self.device = device
        self.legacy = legacy
        self.isr = Isr(0)
        self.queues = LegacyQueues(name, device) if legacy else ModernQueues(name, device)
        self.device_features_sel = 0
        self.driver_features_sel = 0
        self.driver_features = 0
        self._set_irq = set_irq
        self._level = False
        self._readers = self._common_readers() | self.queues.readers()
        self._writers = self._common_writers() | self.queues.writers()
        device.transport = self

    def _common_readers(self) -> dict[int, Callable[[], int]]:
        version = LEGACY_VERSION if self.legacy else MODERN_VERSION
        readers: dict[int, Callable[[], int]] = {
            Register.MAGIC_VALUE: lambda: MAGIC,
            Register.VERSION: lambda: version,
            Register.DEVICE_ID: lambda: int(self.device.DEVICE_ID),
            Register.VENDOR_ID: lambda: VENDOR,
            Register.DEVICE_FEATURES: self._read_features,
            Register.INTERRUPT_STATUS: lambda: int(self.isr),
            Register.STATUS: lambda: int(self.device.status),
        }
        if not self.legacy:
            readers[Register.CONFIG_GENERATION] = lambda: self.device.config_generation
            for register in (
                Register.SHM_LEN_LOW,
                Register.SHM_LEN_HIGH,
                Register.SHM_BASE_LOW,
                Register.SHM_BASE_HIGH,
            ):
                readers[register] = lambda: _UINT32  # no shared memory (4.2.2.1)
        return readers

    def _common_writers(self) -> dict[int, Callable[[int], None]]:
        writers: dict[int, Callable[[int], None]] = {
            Register.DEVICE_FEATURES_SEL: self._select_device_features,
            Register.DRIVER_FEATURES_SEL: self._select_driver_features,
            Register.DRIVER_FEATURES: self._write_features,
            Register.QUEUE_NOTIFY: self.device.notify,
            Register.INTERRUPT_ACK: self._acknowledge,
            Register.STATUS: self._write_status,
        }
        if self.legacy:
            writers[Register.QUEUE_PFN] = self._write_pfn
        else:
            writers[Register.SHM_SEL] = lambda value: None
        return writers

    # What the bus calls

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Bytes as on the bus; zeros where nothing can be read."""
        if offset >= Register.CONFIG:
            return self.device.config_read(offset - Register.CONFIG, size, modern=not self.legacy)
        reader = self._readers.get(offset)
        if size != 4 or reader is None:
            guest_error(self.name, "read of %d bytes from register %#05x", size, offset)
            return bytes(size)
        return (reader() & _UINT32).to_bytes(4, "little")

    def mmio_write(self, offset: int, data: bytes) -> None:
        """A register or the configuration space; what cannot be written is ignored."""
        if offset >= Register.CONFIG:
            self.device.config_write(offset - Register.CONFIG, data, modern=not self.legacy)
            return
        writer = self._writers.get(offset)
        if len(data) != 4 or writer is None:
            guest_error(self.name, "write of %d bytes to register %#05x", len(data), offset)
            return
        writer(int.from_bytes(data, "little"))

    # Features and status

    def _select_device_features(self, value: int) -> None:
        self.device_features_sel = value

    def _select_driver_features(self, value: int) -> None:
        self.driver_features_sel = value

    def _read_features(self) -> int:
        words = 1 if self.legacy else 2
        if self.device_features_sel >= words:
            return 0
        offered = self.device.offered_features(not self.legacy)
        return offered >> (32 * self.device_features_sel)

    def _write_features(self, value: int) -> None:
        words = 1 if self.legacy else 2
        if self.driver_features_sel >= words:
            if value:
                guest_error(self.name, "driver acknowledges features above bit %d", words * 32 - 1)
            return
        shift = 32 * self.driver_features_sel
        self.driver_features = self.driver_features & ~(_UINT32 << shift) | value << shift
        self.device.set_features(self.driver_features, modern=not self.legacy)

    def _write_status(self, value: int) -> None:
        if value & 0xFF == 0:
            self.reset_device()
        else:
            self.device.set_status(value)

    def _write_pfn(self, pfn: int) -> None:
        """Page 0 resets the whole device, as it does QEMU's."""
        if pfn == 0:
            self.reset_device()
        elif isinstance(self.queues, LegacyQueues):
            self.queues.place(pfn)

    def reset_device(self) -> None:
        """Reset by the driver.

        GuestPageSize stays: Linux writes it once, before its first reset of the device.
        """
        self.device.reset()
        self.device_features_sel = self.driver_features_sel = self.driver_features = 0
        self.queues.reset()
        self.isr = Isr(0)
        self._update_irq()

    def reset(self) -> None:
        """Reset of the machine; no CPU is being served."""
        self.reset_device()
        if isinstance(self.queues, LegacyQueues):
            self.queues.page_size = 1

    # Interrupts

    def notify_queue(self, index: int) -> None:
        """Used buffer notification."""
        self.isr |= Isr.QUEUE
        self._update_irq()

    def notify_config(self) -> None:
        """Configuration change notification."""
        self.isr |= Isr.CONFIG
        self._update_irq()

    def _acknowledge(self, value: int) -> None:
        self.isr &= ~Isr(value & (Isr.QUEUE | Isr.CONFIG))
        self._update_irq()

    def _update_irq(self) -> None:
        level = bool(self.isr)
        if level != self._level:
            self._level = level
            self._set_irq(level)

    def restored(self) -> None:
        """State has been loaded; the interrupt controller's has the line's level in it."""
        self._level = bool(self.isr)

    def close(self) -> None:
        """Release the device's host resources; no vCPU is running."""
        self.device.close()
