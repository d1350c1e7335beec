"""A PCI function and a host bridge for tests: they remember accesses and interrupts."""

from __future__ import annotations

from devices.pci.bus import PciBus
from devices.pci.function import BarKind, PciFunction

MSIX_BAR, IO_BAR, MEM32_BAR, MEM64_BAR = 1, 0, 2, 4
VECTORS = 4


class Registers:
    """A BAR's handler: bytes that can be written and read."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(range(256)) * -(-size // 256)

    def mmio_read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def mmio_write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


class Dummy(PciFunction):
    """A function with every kind of BAR and MSI-X; ``events`` are the hooks that ran."""

    def __init__(self, name: str = "dummy", *, pin: int = 1) -> None:
        super().__init__(
            name,
            vendor_id=0x1AF4,
            device_id=0x10F0,
            class_code=0xFF0000,
            revision=3,
            subsystem_vendor_id=0x1234,
            subsystem_id=0x5678,
            interrupt_pin=pin,
        )
        self.events: list[str] = []
        self.registers = {
            IO_BAR: Registers(0x20),
            MEM32_BAR: Registers(0x1000),
            MEM64_BAR: Registers(0x4000),
        }
        self.add_bar(IO_BAR, 0x20, BarKind.IO, self.registers[IO_BAR])
        self.enable_msix(VECTORS, MSIX_BAR)
        self.add_bar(MEM32_BAR, 0x1000, BarKind.MEM32, self.registers[MEM32_BAR])
        self.add_bar(MEM64_BAR, 0x4000, BarKind.MEM64_PREFETCH, self.registers[MEM64_BAR])
        self.vendor_capability = self.add_capability(9, bytes(range(14)), b"\0\0\xff" + bytes(11))

    def on_msix_toggled(self) -> None:
        self.events.append("msix")

    def on_reset(self) -> None:
        self.events.append("reset")

    @property
    def msix_control(self) -> int:
        """Offset of MSI-X message control."""
        return self.find_capability(0x11) + 2

    def find_capability(self, cap_id: int) -> int:
        """Offset of a capability, found as a driver finds it."""
        offset = self.config_read(0x34, 1)
        while self.config_read(offset, 1) != cap_id:
            offset = self.config_read(offset + 1, 1)
            assert offset
        return offset


class Bridge:
    """A host bridge that notes interrupts."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int, bool]] = []
        self.messages: list[tuple[int, int]] = []
        self.bus = PciBus(self)

    def set_intx(self, devfn: int, pin: int, level: bool) -> None:
        self.lines.append((devfn, pin, level))

    def send_msi(self, function: PciFunction, address: int, data: int) -> None:
        self.messages.append((address, data))
