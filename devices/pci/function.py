"""A PCI function with a type 0 header (PCI Local Bus 3.0, chapter 6).

The configuration space is an array of bytes with a mask of what software may write: sizing a
BAR, and read-only registers, need nothing more.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from devices.pci import constants as pci
from devices.pci.bar import Bar, BarKind
from devices.pci.constants import CapabilityId, Command, Status
from devices.pci.msix import Msix
from emu.memory.bus import MmioHandler

if TYPE_CHECKING:
    from devices.pci.bus import PciBus

__all__ = ["Bar", "BarKind", "PciFunction"]

_MSIX_CONTROL_MASK = pci.MSIX_ENABLE | pci.MSIX_MASK_ALL


class PciFunction:
    """One function; ``config``, ``msix.table`` and ``msix.pending`` are its PCI state.

    ``class_code`` has 24 bits: class, subclass, programming interface.  ``interrupt_pin`` is 1 to
    4 for INTA# to INTD#, 0 for none.  ``driver`` is the kind of device, for messages and the
    device tree.  vCPU thread, or before it starts.  Nothing that a guest does raises.
    """

    def __init__(
        self,
        name: str,
        *,
        vendor_id: int,
        device_id: int,
        class_code: int,
        revision: int = 0,
        subsystem_vendor_id: int = 0,
        subsystem_id: int = 0,
        interrupt_pin: int = 1,
    ) -> None:
        self.name = name
        self.driver = name
        self.devfn = -1
        self.bus: PciBus | None = None
        self.bars: dict[int, Bar] = {}
        self.msix: Msix | None = None
        self.intx_level = False
        self._driven = False
        self._msix_control = 0  # offset
        self._next_capability = pci.HEADER_END
        self.config = bytearray(pci.CONFIG_SIZE)
        self.write_mask = bytearray(pci.CONFIG_SIZE)
        struct.pack_into("<HH", self.config, pci.VENDOR_ID, vendor_id, device_id)
        self.config[pci.REVISION_ID] = revision
        self.config[pci.CLASS_CODE : pci.CLASS_CODE + 3] = class_code.to_bytes(3, "little")
        subsystem = (subsystem_vendor_id, subsystem_id)
        struct.pack_into("<HH", self.config, pci.SUBSYSTEM_VENDOR_ID, *subsystem)
        self.config[pci.INTERRUPT_PIN] = interrupt_pin
        struct.pack_into("<H", self.write_mask, pci.COMMAND, pci.COMMAND_WRITABLE)
        self.write_mask[pci.CACHE_LINE_SIZE] = self.write_mask[pci.INTERRUPT_LINE] = 0xFF

    @property
    def label(self) -> str:
        """For messages, as QEMU names devices: the driver, and the id if it has one."""
        return self.name if self.name.startswith(self.driver) else f"{self.driver},id={self.name}"

    # Building

    def add_bar(self, index: int, size: int, kind: BarKind, handler: MmioHandler) -> None:
        """Add a BAR of ``size`` bytes, a power of two; ``ValueError`` if it is in the way."""
        bar = Bar(index, size, kind, handler)
        taken = {number for other in self.bars.values() for number in other.registers}
        if not taken.isdisjoint(bar.registers) or not 0 <= index <= pci.BAR_COUNT - len(
            bar.registers
        ):
            raise ValueError(f"{self.name}: no room for BAR {index}")
        self.bars[index] = bar
        end = bar.offset + bar.register_bytes
        self.config[bar.offset : end] = bar.kind.value.to_bytes(bar.register_bytes, "little")
        mask = bar.address_mask.to_bytes(bar.register_bytes, "little")
        self.write_mask[bar.offset : end] = mask
        self._decoding_changed()

    def add_capability(self, cap_id: int, body: bytes, write_mask: bytes | None = None) -> int:
        """Put a capability in front of the list; returns its offset.

        ``body`` is what follows id and next pointer; ``write_mask``, of the same length, has the
        bits software may change, which are 0 after a reset.  ``ValueError`` when it does not fit.
        """
        offset = self._next_capability
        end = offset + 2 + len(body)
        if end > pci.CONFIG_SIZE:
            raise ValueError(f"{self.name}: no room for capability {cap_id:#x}")
        if write_mask is not None and len(write_mask) != len(body):
            raise ValueError(f"{self.name}: write mask of capability {cap_id:#x} does not fit")
        self.config[offset] = cap_id
        self.config[offset + 1] = self.config[pci.CAPABILITIES_POINTER]
        self.config[offset + 2 : end] = body
        self.write_mask[offset + 2 : end] = write_mask or bytes(len(body))
        self.config[pci.CAPABILITIES_POINTER] = offset
        self.config[pci.STATUS] |= Status.CAPABILITIES
        self._next_capability = (end + 3) & ~3
        return offset

    def enable_msix(
        self, vectors: int, bar: int, table_offset: int = 0, pba_offset: int | None = None
    ) -> None:
        """Give the function MSI-X, with table and pending bits in a 32-bit BAR of its own.

        The pending bits are in the middle of 4 KiB, or follow a longer table.
        """
        msix = Msix(vectors, self._read_msix_control, self._send_msi, table_offset, pba_offset)
        body = struct.pack("<HII", vectors - 1, table_offset | bar, msix.pba_offset | bar)
        mask = struct.pack("<HII", _MSIX_CONTROL_MASK, 0, 0)
        self._msix_control = self.add_capability(CapabilityId.MSIX, body, mask) + 2
        self.msix = msix
        self.add_bar(bar, msix.bar_size, BarKind.MEM32, msix)

    # Configuration cycles

    def config_read(self, offset: int, size: int) -> int:
        """``size`` bytes (1, 2 or 4), little-endian; beyond the end, all ones."""
        self.on_config_read(offset, size)
        data = bytes(self.config[offset : offset + size])
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Change the bits that are writable; other bits, and what lies beyond the end, stay."""
        command, control = self.command, self._read_msix_control()
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        for position, byte in enumerate(data[: max(pci.CONFIG_SIZE - offset, 0)], offset):
            mask = self.write_mask[position]
            self.config[position] = (self.config[position] & ~mask) | (byte & mask)
        if command != self.command or (offset < pci.BAR_END and offset + size > pci.BAR_0):
            self._decoding_changed()
        self._drive_intx()
        if control != self._read_msix_control():
            self._msix_control_changed(control)
        self.on_config_write(offset, size)

    def on_config_read(self, offset: int, size: int) -> None:
        """Before a read of configuration space; may update ``config``."""

    def on_config_write(self, offset: int, size: int) -> None:
        """After a write to configuration space."""

    @property
    def command(self) -> int:
        """The command register."""
        return self.config[pci.COMMAND] | self.config[pci.COMMAND + 1] << 8

    @property
    def bus_master(self) -> bool:
        """Whether the function may access memory and send messages."""
        return bool(self.command & Command.MASTER)

    # Address decoding

    def bar_address(self, bar: Bar) -> int | None:
        """Where a BAR is decoded now (I/O or memory address); None while decoding is off.

        0 is an address like others, as in QEMU's pseries.
        """
        if not self.command & (Command.IO if bar.kind.is_io else Command.MEMORY):
            return None
        data = self.config[bar.offset : bar.offset + bar.register_bytes]
        return int.from_bytes(data, "little") & bar.address_mask

    def _decoding_changed(self) -> None:
        if self.bus is not None:
            self.bus.update_decoding()

    # Interrupts

    @property
    def msix_enabled(self) -> bool:
        """MSI-X Enable; a function that is masked meanwhile counts as enabled."""
        return self.msix is not None and self.msix.enabled

    def msix_notify(self, vector: int) -> None:
        """Send a vector's message, or make it pending while masked."""
        if self.msix is not None:
            self.msix.notify(vector)

    def on_msix_toggled(self) -> None:
        """After MSI-X Enable has changed."""

    def set_intx(self, level: bool) -> None:
        """What the function asks for on its interrupt pin; Interrupt Status shows it (6.2.3)."""
        self.intx_level = level
        if level:
            self.config[pci.STATUS] |= Status.INTERRUPT
        else:
            self.config[pci.STATUS] &= ~Status.INTERRUPT & 0xFF
        self._drive_intx()

    @property
    def interrupt_pin(self) -> int:
        """1 to 4 for INTA# to INTD#, 0 for none."""
        return self.config[pci.INTERRUPT_PIN]

    @property
    def intx_line(self) -> bool:
        """Level of the pin: not with INTx disabled, nor with MSI-X enabled (6.8.2)."""
        disabled = self.command & Command.INTX_DISABLE or self.msix_enabled
        return self.intx_level and not disabled

    def _drive_intx(self) -> None:
        line = self.intx_line
        if line != self._driven:
            self._driven = line
            if self.bus is not None and self.interrupt_pin:
                self.bus.host.set_intx(self.devfn, self.interrupt_pin, line)

    def _read_msix_control(self) -> int:
        at = self._msix_control
        return self.config[at] | self.config[at + 1] << 8 if at else 0

    def _msix_control_changed(self, before: int) -> None:
        if self.msix is None:
            return
        self.msix.deliver_pending()
        if (before ^ self._read_msix_control()) & pci.MSIX_ENABLE:
            self.on_msix_toggled()

    def _send_msi(self, address: int, data: int) -> None:
        """A message is a memory write: none from a function that may not master the bus."""
        if self.bus is not None and self.bus_master:
            self.bus.host.send_msi(self, address, data)

    # Life

    def reset(self) -> None:
        """Whatever software may change is 0, MSI-X as after power-on; then :meth:`on_reset`."""
        for position, mask in enumerate(self.write_mask):
            self.config[position] &= ~mask & 0xFF
        if self.msix is not None:
            self.msix.reset()
        self.set_intx(False)
        self._decoding_changed()
        self.on_reset()

    def on_reset(self) -> None:
        """After the reset of the configuration space."""

    def restored(self) -> None:
        """``config`` has been loaded: derived state follows it, without telling the bridge."""
        self.intx_level = bool(self.config[pci.STATUS] & Status.INTERRUPT)
        self._driven = self.intx_line
        self._decoding_changed()

    def close(self) -> None:
        """Release host resources; no vCPU is running."""
