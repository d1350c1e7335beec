"""A PCI bus: functions by slot, configuration cycles, address decoding."""

from __future__ import annotations

from typing import Protocol

from devices.pci.bar import Bar
from devices.pci.constants import HEADER_MULTIFUNCTION, HEADER_TYPE
from devices.pci.function import PciFunction
from emu.chardev.config import ConfigError
from emu.memory.bus import MmioHandler

SLOTS, FUNCTIONS = 32, 8


class PciHost(Protocol):
    """The host bridge as its bus sees it.  vCPU thread."""

    def set_intx(self, devfn: int, pin: int, level: bool) -> None:
        """A function drives its interrupt pin (1 to 4)."""

    def send_msi(self, function: PciFunction, address: int, data: int) -> None:
        """A function sends a message signalled interrupt."""


class _Decoder:
    """The BARs that are decoded in one address space, found by address."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, MmioHandler]] = []

    def clear(self) -> None:
        self._ranges.clear()

    def add(self, address: int, bar: Bar) -> None:
        self._ranges.append((address, address + bar.size, bar.handler))

    def find(self, address: int, size: int) -> tuple[MmioHandler, int] | None:
        for start, end, handler in self._ranges:
            if start <= address and address + size <= end:
                return handler, address - start
        return None


class PciBus:
    """Up to 32 slots of 8 functions behind a host bridge.  vCPU thread, or before it starts.

    ``functions`` maps devfn (slot * 8 + function) to the function there, in that order.
    """

    def __init__(self, host: PciHost, name: str = "pci.0") -> None:
        self.host = host
        self.name = name
        self.functions: dict[int, PciFunction] = {}
        self._io = _Decoder()
        self._memory = _Decoder()

    def add(self, function: PciFunction, addr: str | None = None) -> None:
        """Plug a function in at ``addr``, "slot.function" in hexadecimal, or a free slot.

        :class:`ConfigError` when that cannot be.
        """
        devfn = self._free_devfn(function) if addr is None else _parse(function, addr)
        self._check(function, devfn)
        function.devfn = devfn
        function.bus = self
        self.functions[devfn] = function
        self.functions = dict(sorted(self.functions.items()))
        self.update_decoding()

    def _free_devfn(self, function: PciFunction) -> int:
        for devfn in range(0, SLOTS * FUNCTIONS, FUNCTIONS):
            if devfn not in self.functions:
                return devfn
        raise ConfigError(
            f"PCI: no slot/function available for {function.driver}, all in use or reserved"
        )

    def _check(self, function: PciFunction, devfn: int) -> None:
        slot, number = divmod(devfn, FUNCTIONS)
        if devfn in self.functions:
            raise ConfigError(
                f"PCI: slot {slot} function {number} not available for {function.driver},"
                f" in use by {self.functions[devfn].label}"
            )
        first = self.functions.get(slot * FUNCTIONS)
        if number and first is not None and not _is_multifunction(first):
            raise ConfigError(
                f"PCI: single function device can't be populated in function {slot:x}.{number:x}"
            )
        others = [other % FUNCTIONS for other in self.functions if other // FUNCTIONS == slot]
        if not number and others and not _is_multifunction(function):
            raise ConfigError(
                f"PCI: {slot:x}.0 indicates single function,"
                f" but {slot:x}.{others[0]:x} is already populated."
            )

    def config_read(self, devfn: int, offset: int, size: int) -> int:
        """A configuration read, little-endian; all ones where there is no function."""
        function = self.functions.get(devfn)
        return (1 << 8 * size) - 1 if function is None else function.config_read(offset, size)

    def config_write(self, devfn: int, offset: int, size: int, value: int) -> None:
        """A configuration write; nothing happens where there is no function."""
        function = self.functions.get(devfn)
        if function is not None:
            function.config_write(offset, size, value)

    def find_io(self, address: int, size: int) -> tuple[MmioHandler, int] | None:
        """Who decodes a whole access to an I/O address, and the offset in the BAR."""
        return self._io.find(address, size)

    def find_memory(self, address: int, size: int) -> tuple[MmioHandler, int] | None:
        """Who decodes a whole access to a memory address, and the offset in the BAR."""
        return self._memory.find(address, size)

    def update_decoding(self) -> None:
        """A command register or BAR has changed.  Of overlapping BARs the first wins."""
        self._io.clear()
        self._memory.clear()
        for function in self.functions.values():
            for bar in function.bars.values():
                address = function.bar_address(bar)
                if address is not None:
                    (self._io if bar.kind.is_io else self._memory).add(address, bar)

    def reset(self) -> None:
        """Reset every function."""
        for function in self.functions.values():
            function.reset()

    def close(self) -> None:
        """Release what the functions hold; no vCPU is running."""
        for function in self.functions.values():
            function.close()


def _parse(function: PciFunction, addr: str) -> int:
    slot, _, number = addr.partition(".")
    try:
        place = int(slot, 16), int(number or "0", 16)
    except ValueError:
        place = (-1, -1)
    if not (0 <= place[0] < SLOTS and 0 <= place[1] < FUNCTIONS):
        raise ConfigError(f"Property '{function.driver}.addr' doesn't take value '{addr}'")
    return place[0] * FUNCTIONS + place[1]


def _is_multifunction(function: PciFunction) -> bool:
    return bool(function.config[HEADER_TYPE] & HEADER_MULTIFUNCTION)
