"""One page of registers shared by several small devices."""

from __future__ import annotations

from dataclasses import dataclass

from emu.log import guest_error
from emu.memory.bus import MmioHandler


@dataclass(frozen=True)
class Registers:
    """A device's part of the page: offset and size in bytes."""

    offset: int
    size: int
    handler: MmioHandler


class RegisterPage:
    """An ``MmioHandler`` that hands accesses on; between devices zeros are read.  vCPU thread."""

    def __init__(self, name: str, *parts: Registers) -> None:
        self._name = name
        self._parts = parts

    def _find(self, offset: int, size: int) -> Registers | None:
        for part in self._parts:
            if part.offset <= offset and offset + size <= part.offset + part.size:
                return part
        guest_error(self._name, "access of %d bytes at %#x, where nothing is", size, offset)
        return None

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Bytes as on the bus."""
        part = self._find(offset, size)
        return bytes(size) if part is None else part.handler.mmio_read(offset - part.offset, size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Bytes as on the bus."""
        part = self._find(offset, len(data))
        if part is not None:
            part.handler.mmio_write(offset - part.offset, data)
