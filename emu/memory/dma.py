"""Access to guest RAM by anything that is not the CPU."""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.memory.ram import GuestRam


class DmaError(Exception):
    """A guest real range does not lie in RAM."""


class Dma:
    """The only way devices, hypercalls and loaders touch RAM from Python.

    Every access is checked against the bounds of RAM (:class:`DmaError`); every write is
    followed by ``written(address, size)``, which logs dirty pages and drops translated code.
    Runs on the vCPU thread, or while no vCPU runs.
    """

    def __init__(self, ram: GuestRam, written: Callable[[int, int], None]) -> None:
        self._ram = ram
        self._written = written

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return self._ram.size

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a guest real address."""
        self._check(address, size)
        return self._ram.read(address, size)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy bytes to a guest real address."""
        self._check(address, len(data))
        if len(data):
            self._ram.write(address, data)
            self._written(address, len(data))

    def fill(self, address: int, size: int) -> None:
        """Zero bytes at a guest real address."""
        self._check(address, size)
        if size:
            self._ram.view[address : address + size] = 0
            self._written(address, size)

    def read_u32_be(self, address: int) -> int:
        """Big-endian 32-bit integer."""
        return int(struct.unpack(">I", self.read(address, 4))[0])

    def read_u64_be(self, address: int) -> int:
        """Big-endian 64-bit integer."""
        return int(struct.unpack(">Q", self.read(address, 8))[0])

    def write_u32_be(self, address: int, value: int) -> None:
        """Big-endian 32-bit integer; excess bits are dropped."""
        self.write(address, struct.pack(">I", value & 0xFFFFFFFF))

    def write_u64_be(self, address: int, value: int) -> None:
        """Big-endian 64-bit integer; excess bits are dropped."""
        self.write(address, struct.pack(">Q", value & 0xFFFFFFFFFFFFFFFF))

    def _check(self, address: int, size: int) -> None:
        if not self._ram.contains(address, size):
            raise DmaError(f"{size} bytes at {address:#x} are outside RAM")
