"""MSI-X: table, masks and pending bits (PCI Local Bus 3.0, 6.8.2)."""

from __future__ import annotations

import struct

import pytest

from devices.pci.msix import Msix
from tests.support.pci import MSIX_BAR, VECTORS, Bridge, Dummy

ENABLE, MASK_ALL = 0x8000, 0x4000
MASTER = 4
ADDRESS = 0x400_0000_0000


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


@pytest.fixture
def dummy(bridge: Bridge) -> Dummy:
    """A function with all its vectors programmed and unmasked, MSI-X disabled."""
    function = Dummy()
    bridge.bus.add(function)
    function.config_write(4, 2, MASTER)
    for vector in range(VECTORS):
        program(function, vector, masked=False)
    return function


def program(function: Dummy, vector: int, *, masked: bool) -> None:
    table = function.bars[MSIX_BAR].handler
    table.mmio_write(16 * vector, struct.pack("<II", ADDRESS & 0xFFFFFFFF, ADDRESS >> 32))
    table.mmio_write(16 * vector + 8, struct.pack("<I", 0x1300 + vector))
    table.mmio_write(16 * vector + 12, struct.pack("<I", masked))


def pending(function: Dummy) -> int:
    table = function.bars[MSIX_BAR].handler
    return int.from_bytes(table.mmio_read(0x800, 4), "little")


def test_capability_describes_table_and_pending_bits(dummy: Dummy) -> None:
    capability = dummy.find_capability(0x11)
    control, table, pba = (
        dummy.config_read(capability + 2, 2),
        dummy.config_read(capability + 4, 4),
        dummy.config_read(capability + 8, 4),
    )
    assert (control, table, pba) == (VECTORS - 1, MSIX_BAR, 0x800 | MSIX_BAR)
    dummy.config_write(capability + 2, 2, 0x3FFF)
    assert dummy.config_read(capability + 2, 2) == VECTORS - 1


def test_vectors_are_masked_after_reset(dummy: Dummy) -> None:
    dummy.reset()
    table = dummy.bars[MSIX_BAR].handler
    for vector in range(VECTORS):
        entry = table.mmio_read(16 * vector, 4) + table.mmio_read(16 * vector + 12, 4)
        assert entry == bytes(4) + struct.pack("<I", 1)
    assert not dummy.msix_enabled


def test_nothing_is_sent_or_pending_while_disabled(bridge: Bridge, dummy: Dummy) -> None:
    dummy.msix_notify(0)
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    assert (bridge.messages, pending(dummy)) == ([], 0)


def test_message_of_the_vector_is_sent(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    dummy.msix_notify(2)
    dummy.msix_notify(VECTORS)
    dummy.msix_notify(-1)
    assert bridge.messages == [(ADDRESS, 0x1302)]


def test_masked_vector_waits_and_is_sent_once_when_unmasked(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    program(dummy, 1, masked=True)
    dummy.msix_notify(1)
    dummy.msix_notify(1)
    assert (bridge.messages, pending(dummy)) == ([], 2)
    program(dummy, 1, masked=False)
    assert (bridge.messages, pending(dummy)) == ([(ADDRESS, 0x1301)], 0)


def test_masked_function_waits_and_own_masks_still_count(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(dummy.msix_control, 2, ENABLE | MASK_ALL)
    assert dummy.msix_enabled
    program(dummy, 3, masked=True)
    dummy.msix_notify(0)
    dummy.msix_notify(3)
    assert (bridge.messages, pending(dummy)) == ([], 9)
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    assert (bridge.messages, pending(dummy)) == ([(ADDRESS, 0x1300)], 8)


def test_unmasking_sends_the_message_as_it_is_then(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    program(dummy, 1, masked=True)
    dummy.msix_notify(1)
    dummy.bars[MSIX_BAR].handler.mmio_write(16 + 8, struct.pack("<I", 0x1399))
    dummy.bars[MSIX_BAR].handler.mmio_write(16 + 12, bytes(4))
    assert bridge.messages == [(ADDRESS, 0x1399)]


def test_pending_bits_are_read_only(dummy: Dummy) -> None:
    dummy.bars[MSIX_BAR].handler.mmio_write(0x800, b"\xff" * 4)
    assert pending(dummy) == 0


def test_no_message_without_bus_mastering(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    dummy.config_write(4, 2, 0)
    dummy.msix_notify(0)
    assert bridge.messages == []


def test_reserved_bits_of_an_entry_stay_zero(dummy: Dummy) -> None:
    table = dummy.bars[MSIX_BAR].handler
    for offset in range(0, 16, 4):
        table.mmio_write(offset, b"\xff" * 4)
    entry = b"".join(table.mmio_read(offset, 4) for offset in range(0, 16, 4))
    assert entry == b"\xfc" + b"\xff" * 11 + b"\x01\0\0\0"


def test_platform_programs_and_unmasks(bridge: Bridge, dummy: Dummy) -> None:
    dummy.reset()
    dummy.config_write(4, 2, MASTER)
    dummy.config_write(dummy.msix_control, 2, ENABLE)
    assert dummy.msix is not None
    dummy.msix_notify(0)
    dummy.msix.set_message(0, ADDRESS, 0x1234)
    assert bridge.messages == [(ADDRESS, 0x1234)]
    dummy.msix.clear_message(0)
    assert dummy.msix.is_masked(0)


@pytest.mark.parametrize(
    ("vectors", "pba", "size"),
    [(1, 0x800, 0x1000), (128, 0x800, 0x1000), (129, 0x810, 0x1000), (2048, 0x8000, 0x10000)],
)
def test_bar_grows_with_the_table(vectors: int, pba: int, size: int) -> None:
    msix = Msix(vectors, lambda: 0, lambda address, data: None)
    assert (msix.pba_offset, msix.bar_size) == (pba, size)
    assert msix.mmio_read(pba + len(msix.pending) - 4, 4) == bytes(4)


@pytest.mark.parametrize(("vectors", "pba"), [(0, None), (2049, None), (4, 0x20), (4, 0x804)])
def test_impossible_tables_are_refused(vectors: int, pba: int | None) -> None:
    with pytest.raises(ValueError, match="MSI-X"):
        Msix(vectors, lambda: 0, lambda address, data: None, 0, pba)
