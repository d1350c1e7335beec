"""Memory-mapped I/O windows of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class MmioHandler(Protocol):
    """A device's registers; both run on the vCPU thread.

    Data is what the guest put on the bus, byte for byte, whatever its endianness: a register
    that is little-endian by specification is ``int.from_bytes(data, "little")``.  Sizes are
    1, 2 or 4; the CPU splits 8-byte accesses into two of 4, ascending.
    """

    def mmio_read(self, offset: int, size: int) -> bytes:
        """The ``size`` bytes at ``offset``."""

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Store bytes at ``offset``."""


@dataclass(frozen=True)
class MmioWindow:
    """A 4 KiB-aligned range of guest real addresses and the device behind it."""

    base: int
    size: int
    handler: MmioHandler
    name: str = "mmio"

    def __post_init__(self) -> None:
        if self.base % 4096 or self.size % 4096 or self.size <= 0:
            raise ValueError(f"MMIO window {self.name} is not page aligned")


class MmioBus:
    """The windows of one machine, found by address (H_LOGICAL_CI_LOAD and STORE)."""

    def __init__(self) -> None:
        self.windows: list[MmioWindow] = []

    def add(self, window: MmioWindow) -> None:
        """Register a window; raises ``ValueError`` when it overlaps another."""
        for other in self.windows:
            if window.base < other.base + other.size and other.base < window.base + window.size:
                raise ValueError(f"MMIO window {window.name} overlaps {other.name}")
        self.windows.append(window)

    def find(self, address: int, size: int) -> tuple[MmioWindow, int] | None:
        """The window that holds a whole access, and the offset in it."""
        for window in self.windows:
            if window.base <= address and address + size <= window.base + window.size:
                return window, address - window.base
        return None
