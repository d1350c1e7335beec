"""Access to guest RAM by anything that is not the CPU."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from emu.memory.native import call_3, record_pointer
from emu.memory.ram import GuestRam

DMA_DTYPE = np.dtype(
    [
        ("ram", "u8"),  # host address of guest real address 0
        ("ram_size", "u8"),
        ("written", "u8"),  # native uint64 written(context, address, size), or 0
        ("context", "u8"),
    ],
    align=True,
)
dma_at = record_pointer(DMA_DTYPE)


@njit(cache=True)
def dma_contains(dma, address, size):  # type: ignore[no-untyped-def]
    """Whether a guest real range (unsigned) lies in RAM."""
    return size <= dma.ram_size and address <= dma.ram_size - size


@njit(cache=True)
def dma_written(dma, address, size):  # type: ignore[no-untyped-def]
    """Log a range in RAM that native code has written."""
    if dma.written != np.uint64(0):
        call_3(dma.written, dma.context, address, size)


class DmaError(Exception):
    """A guest real range does not lie in RAM."""


class Dma:
    """The only way devices, hypercalls and loaders touch RAM from Python.

    Every access is checked against the bounds of RAM (:class:`DmaError`); every write is
    followed by ``written(address, size)``, which logs dirty pages and drops translated code.
    Runs on the vCPU thread, or while no vCPU runs.
    """

    def __init__(
        self,
        ram: GuestRam,
        written: Callable[[int, int], None],
        native_written: int = 0,
        native_context: int = 0,
    ) -> None:
        self._ram = ram
        self._written = written
        self._memory = ram.memory
        self._array = np.zeros(1, DMA_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data  # for native code
        self.record["ram"] = ram.address
        self.record["ram_size"] = ram.size
        self.record["written"] = native_written
        self.record["context"] = native_context

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return self._ram.size

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a guest real address."""
        self._check(address, size)
        if self._ram.touch is not None:
            self._ram.wait_for(address, size)
        return self._ram.read(address, size)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy bytes to a guest real address."""
        self._check(address, len(data))
        if len(data):
            if self._ram.touch is not None:
                self._ram.wait_for(address, len(data))
            self._ram.write(address, data)
            self._written(address, len(data))

    def view(self, address: int, size: int) -> memoryview:
        """RAM itself, writable, for host I/O; call :meth:`written` after writing to it."""
        self._check(address, size)
        if self._ram.touch is not None:
            self._ram.wait_for(address, size)
        return self._memory[address : address + size]

    def written(self, address: int, size: int) -> None:
        """Log a range that was written through :meth:`view`.  vCPU thread."""
        self._check(address, size)
        if size:
            self._written(address, size)

    def fill(self, address: int, size: int) -> None:
        """Zero bytes at a guest real address."""
        self._check(address, size)
        if size:
            self._ram.wait_for(address, size)
            self._ram.view[address : address + size] = 0
            self._written(address, size)

    def discard(self, address: int, size: int) -> int:
        """Give the whole host pages of a range back to the host, zeroing them; returns bytes."""
        self._check(address, size)
        start, given = self._ram.discard(address, size)
        if given:
            self._written(start, given)
        return given

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
