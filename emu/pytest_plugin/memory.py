"""A guest's memory for tests: by guest real or by effective address, in either byte order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

from emu.memory.dma import DmaError
from emu.pytest_plugin.recipe import ENDIANS

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu
    from emu.pytest_plugin.guest import GuestMachine

_PAGE = 4096  # the smallest page of either MMU
_ADDRESS_SPACE = 1 << 64
_LONGEST_STRING = 1 << 20


class AddressError(LookupError):
    """An address that is not mapped, or not in RAM."""


class GuestMemory(ABC):
    """Memory of a machine; the guest stands still during each call. Any thread.

    Integers are unsigned, of `size` bytes. `order` is "be" or "le" ("big" and "little" too); by
    default it is that of the CPU at that time (MSR[LE]). AddressError for what is no memory.
    """

    def __init__(self, machine: GuestMachine) -> None:
        self._machine = machine

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes."""
        data: bytes = self._machine.on_vcpu(lambda: self._read(address, size))
        return data

    def write(self, address: int, data: bytes) -> None:
        """Store bytes; all or, if a part of the range is no memory, none."""
        self._machine.on_vcpu(lambda: self._write(address, bytes(data)))

    def read_int(self, address: int, size: int = 8, order: str | None = None) -> int:
        """An integer."""

        def work() -> int:
            return int.from_bytes(self._read(address, size), self._order(order))

        value: int = self._machine.on_vcpu(work)
        return value

    def write_int(self, address: int, value: int, size: int = 8, order: str | None = None) -> None:
        """Store an integer; OverflowError if it does not fit."""

        def work() -> None:
            self._write(address, value.to_bytes(size, self._order(order)))

        self._machine.on_vcpu(work)

    def read_string(self, address: int) -> str:
        """The UTF-8 text up to the next NUL."""

        def work() -> bytes:
            data = bytearray()
            while len(data) < _LONGEST_STRING:
                at = address + len(data)
                piece = self._read(at, _PAGE - at % _PAGE)
                data += piece
                if b"\0" in piece:
                    return bytes(data[: data.index(0)])
            raise AddressError(f"no NUL within {_LONGEST_STRING} bytes at {address:#x}")

        text: bytes = self._machine.on_vcpu(work)
        return text.decode("utf-8", "replace")

    def _order(self, order: str | None) -> Literal["big", "little"]:
        if order is None:
            return self._vcpu.guest_endian.order
        if order not in ENDIANS:
            raise ValueError(f"byte order {order!r} (known: be, le, big, little)")
        return cast(Literal["big", "little"], ENDIANS[order])

    @property
    def _vcpu(self) -> Vcpu:
        return self._machine.vcpu(0)

    def _read(self, address: int, size: int) -> bytes:
        dma = self._machine.partition.dma
        pieces = list(self._pieces(address, size))
        try:
            return b"".join(dma.read(real, length) for real, length in pieces)
        except DmaError as error:
            raise AddressError(str(error)) from None

    def _write(self, address: int, data: bytes) -> None:
        dma = self._machine.partition.dma
        pieces = list(self._pieces(address, len(data)))
        for real, length in pieces:
            if real + length > dma.size:
                raise AddressError(f"{length} bytes at {real:#x} are outside RAM")
        done = 0
        for real, length in pieces:
            dma.write(real, data[done : done + length])
            done += length

    @abstractmethod
    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """(guest real address, length) of the parts of a range."""


class RealMemory(GuestMemory):
    """By guest real address: RAM from 0 on."""

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        if address < 0 or size < 0:
            raise AddressError(f"{size} bytes at {address:#x}: no such range")
        yield address, size


class VirtualMemory(GuestMemory):
    """By effective address, as loads and stores of a CPU see it now (privileged, no side effect).

    The MMU of the CPU translates if MSR[DR] is set; then the kernel's addresses and those of the
    current process are there.
    """

    def __init__(self, machine: GuestMachine, cpu: int = 0) -> None:
        super().__init__(machine)
        self._cpu = cpu

    @property
    def _vcpu(self) -> Vcpu:
        return self._machine.vcpu(self._cpu)

    def translate(self, address: int) -> int:
        """The guest real address of an effective address."""
        real: int = self._machine.on_vcpu(lambda: self._translate(address))
        return real

    def _translate(self, address: int) -> int:
        from emu.cpu.mmu import debug_translate

        if not 0 <= address < _ADDRESS_SPACE:
            raise AddressError(f"{address:#x} is no 64-bit address")
        mapped, real = debug_translate(self._vcpu.address, address)
        if not mapped:
            raise AddressError(f"effective address {address:#x} is not mapped")
        return int(real)

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        if size < 0:
            raise AddressError(f"{size} bytes at {address:#x}: no such range")
        end = address + size
        while address < end:
            length = min(_PAGE - address % _PAGE, end - address)
            yield self._translate(address), length
            address += length
