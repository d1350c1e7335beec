"""Guest RAM, DMA, device windows, and raw access from native code."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numba import njit

from emu.memory import native
from emu.memory.bus import MmioBus, MmioWindow
from emu.memory.dma import Dma, DmaError
from emu.memory.ram import GuestRam
from tests.support.bare import RAM_SIZE, BareMachine, bare_machine

SIZE = 1 << 20


class Nothing:
    """A device without registers."""

    def mmio_read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        pass


@pytest.fixture
def ram() -> GuestRam:
    return GuestRam(SIZE)


@pytest.fixture
def written() -> list[tuple[int, int]]:
    return []


@pytest.fixture
def dma(ram: GuestRam, written: list[tuple[int, int]]) -> Dma:
    return Dma(ram, lambda address, size: written.append((address, size)))


def test_ram_is_zeroed_and_holds_what_is_written(ram: GuestRam) -> None:
    assert ram.pages == SIZE // 4096
    assert ram.read(0, SIZE) == bytes(SIZE)
    ram.write(0x1234, b"power")
    assert ram.read(0x1233, 7) == b"\0power\0"
    assert ram.view[0x1234] == ord("p")


def test_ram_can_be_cleared(ram: GuestRam) -> None:
    ram.write(0, b"x" * SIZE)
    ram.clear()
    assert ram.read(0, SIZE) == bytes(SIZE)
    ram.write(5, b"y")
    assert ram.read(5, 1) == b"y"


@pytest.mark.parametrize("size", [0, -65536, 4096, 65537])
def test_ram_sizes_are_multiples_of_64k(size: int) -> None:
    with pytest.raises(ValueError, match="64 KiB"):
        GuestRam(size)


@pytest.mark.parametrize(
    ("address", "size", "inside"),
    [
        (0, SIZE, True),
        (SIZE, 0, True),
        (SIZE - 1, 1, True),
        (SIZE - 1, 2, False),
        (SIZE, 1, False),
        (-1, 1, False),
        (0, -1, False),
        (1 << 64, 1, False),
        ((1 << 64) - 1, 2, False),
    ],
)
def test_dma_stays_inside_ram(dma: Dma, address: int, size: int, inside: bool) -> None:
    if inside:
        assert dma.read(address, size) == bytes(size)
        dma.fill(address, size)
        return
    with pytest.raises(DmaError):
        dma.read(address, size)
    with pytest.raises(DmaError):
        dma.fill(address, size)
    if size > 0:
        with pytest.raises(DmaError):
            dma.write(address, bytes(size))


def test_every_dma_write_is_told(dma: Dma, written: list[tuple[int, int]]) -> None:
    dma.write(0x100, b"abc")
    dma.write(0x200, memoryview(b"de"))
    dma.fill(0x300, 16)
    dma.write_u32_be(0x400, 1)
    dma.write_u64_be(0x500, 2)
    dma.write(0x600, b"")
    dma.fill(0x700, 0)
    assert written == [(0x100, 3), (0x200, 2), (0x300, 16), (0x400, 4), (0x500, 8)]
    dma.read(0, 16)
    assert len(written) == 5


def test_a_refused_dma_write_changes_nothing(
    ram: GuestRam, dma: Dma, written: list[tuple[int, int]]
) -> None:
    with pytest.raises(DmaError):
        dma.write(SIZE - 2, b"xyz")
    assert ram.read(SIZE - 2, 2) == bytes(2)
    assert written == []


def test_platform_integers_are_big_endian(dma: Dma) -> None:
    dma.write_u32_be(0, 0x1_11223344)
    dma.write_u64_be(8, 0x1_1122334455667788)
    assert dma.read(0, 16) == bytes.fromhex("11223344 00000000 1122334455667788")
    assert dma.read_u32_be(0) == 0x11223344
    assert dma.read_u64_be(8) == 0x1122334455667788
    dma.fill(0, 4)
    assert dma.read_u32_be(0) == 0


def test_windows_are_found_by_whole_accesses() -> None:
    bus = MmioBus()
    low, high = MmioWindow(0x10000, 0x1000, Nothing()), MmioWindow(0x11000, 0x2000, Nothing())
    bus.add(low)
    bus.add(high)
    assert bus.find(0x10000, 4) == (low, 0)
    assert bus.find(0x12FFC, 4) == (high, 0x1FFC)
    assert bus.find(0x10FFE, 4) is None  # across two
    assert bus.find(0x12FFE, 4) is None
    assert bus.find(0xFFFF, 1) is None


@pytest.mark.parametrize(("base", "size"), [(0x10800, 0x1000), (0x10000, 0x800), (0x10000, 0)])
def test_windows_are_whole_pages(base: int, size: int) -> None:
    with pytest.raises(ValueError, match="page aligned"):
        MmioWindow(base, size, Nothing())


@pytest.mark.parametrize("base", [0x10000, 0x0F000, 0x11000])
def test_windows_do_not_overlap(base: int) -> None:
    bus = MmioBus()
    bus.add(MmioWindow(0x10000, 0x2000, Nothing(), "first"))
    with pytest.raises(ValueError, match="second overlaps first"):
        bus.add(MmioWindow(base, 0x2000, Nothing(), "second"))
    assert len(bus.windows) == 1


def test_windows_do_not_lie_in_ram(machine: BareMachine) -> None:
    with pytest.raises(ValueError, match="overlaps RAM"):
        machine.partition.add_mmio(MmioWindow(RAM_SIZE - 4096, 4096, Nothing()))
    machine.partition.add_mmio(MmioWindow(RAM_SIZE, 4096, Nothing()))


@pytest.fixture(scope="module")
def guest() -> Iterator[BareMachine]:
    with bare_machine() as machine:
        yield machine


def test_windows_are_limited(guest: BareMachine) -> None:
    windows = [MmioWindow((1 << 32) + number * 4096, 4096, Nothing()) for number in range(65)]
    for window in windows[:-1]:
        guest.partition.add_mmio(window)
    with pytest.raises(ValueError, match="at most 64"):
        guest.partition.add_mmio(windows[-1])


@njit
def round_trip(address: int, value: int) -> Any:
    """Every store with the load of its own kind."""
    a, v = np.uint64(address), np.uint64(value)
    native.store_u8(a, v)
    u8 = native.load_u8(a)
    native.store_u16(a + np.uint64(8), v)
    native.store_u32(a + np.uint64(16), v)
    native.store_u64(a + np.uint64(24), v)
    native.store_u16_be(a + np.uint64(32), v)
    native.store_u32_be(a + np.uint64(40), v)
    native.store_u64_be(a + np.uint64(48), v)
    native.fence()
    return (
        np.uint64(u8),
        np.uint64(native.load_u16(a + np.uint64(8))),
        np.uint64(native.load_u32(a + np.uint64(16))),
        native.load_u64(a + np.uint64(24)),
        np.uint64(native.load_u16_be(a + np.uint64(32))),
        np.uint64(native.load_u32_be(a + np.uint64(40))),
        native.load_u64_be(a + np.uint64(48)),
        native.mul_high_u64(v, v),
    )


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_native_accesses_have_width_and_order(offset: int) -> None:
    value = 0xF1E2D3C4B5A69788
    memory = np.zeros(64, np.uint8)
    got = round_trip(memory.ctypes.data + offset, value)
    widths = (8, 16, 32, 64, 16, 32, 64)
    assert list(got[:7]) == [value & ((1 << bits) - 1) for bits in widths]
    assert got[7] == value * value >> 64
    data = memory.tobytes()[offset:]
    assert data[0] == 0x88
    assert struct.unpack_from("<H", data, 8)[0] == 0x9788
    assert struct.unpack_from(">I", data, 40)[0] == 0xB5A69788
    assert struct.unpack_from(">Q", data, 48)[0] == value
