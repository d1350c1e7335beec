"""Base address registers (PCI Local Bus 3.0, 6.2.5)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from devices.pci.constants import BAR_0
from emu.memory.bus import MmioHandler

_MIN_IO, _MIN_MEMORY = 4, 16


class BarKind(enum.Enum):
    """What a BAR decodes; the value is its read-only low bits."""

    IO = 0b0001
    MEM32 = 0b0000
    MEM64 = 0b0100
    MEM64_PREFETCH = 0b1100
    MEM32_PREFETCH = 0b1000

    @property
    def is_io(self) -> bool:
        """Whether it decodes I/O addresses."""
        return self is BarKind.IO

    @property
    def is_64bit(self) -> bool:
        """Whether it takes two registers."""
        return self in (BarKind.MEM64, BarKind.MEM64_PREFETCH)


@dataclass(frozen=True)
class Bar:
    """One BAR: ``size`` in bytes, a power of two; ``handler`` gets offsets into it.

    ``ValueError`` for a size that cannot be.
    """

    index: int
    size: int
    kind: BarKind
    handler: MmioHandler

    def __post_init__(self) -> None:
        smallest = _MIN_IO if self.kind.is_io else _MIN_MEMORY
        limit = 1 << (64 if self.kind.is_64bit else 32)
        if self.size & (self.size - 1) or not smallest <= self.size < limit:
            raise ValueError(f"BAR {self.index}: impossible size {self.size:#x}")

    @property
    def offset(self) -> int:
        """Of its (first) register in configuration space."""
        return BAR_0 + 4 * self.index

    @property
    def registers(self) -> range:
        """The numbers of its registers."""
        return range(self.index, self.index + (2 if self.kind.is_64bit else 1))

    @property
    def register_bytes(self) -> int:
        """Bytes of its registers."""
        return 4 * len(self.registers)

    @property
    def address_mask(self) -> int:
        """The bits software may change: sizing finds the size by them (6.2.5.1)."""
        return ~(self.size - 1) & ((1 << 8 * self.register_bytes) - 1)
