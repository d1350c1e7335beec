"""A PCI function's configuration space: identity, write masks, BARs, capabilities, INTx."""

from __future__ import annotations

import pytest

from devices.pci.function import BarKind, PciFunction
from tests.support.pci import IO_BAR, MEM64_BAR, Bridge, Dummy, Registers

IO, MEMORY, MASTER, INTX_DISABLE = 1, 2, 4, 1 << 10
BAR0 = 0x10


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


@pytest.fixture
def dummy(bridge: Bridge) -> Dummy:
    function = Dummy()
    bridge.bus.add(function, "2")
    return function


def plain() -> PciFunction:
    return PciFunction("plain", vendor_id=1, device_id=2, class_code=3)


def test_identity_is_where_the_specification_puts_it(dummy: Dummy) -> None:
    assert dummy.config_read(0x00, 4) == 0x10F0_1AF4
    assert dummy.config_read(0x08, 4) == 0xFF0000_03
    assert dummy.config_read(0x2C, 4) == 0x5678_1234
    assert dummy.config_read(0x3D, 1) == 1


def test_identity_cannot_be_written(dummy: Dummy) -> None:
    before = bytes(dummy.config)
    for offset in (0x00, 0x08, 0x2C, 0x34):
        dummy.config_write(offset, 4, 0xFFFFFFFF)
    assert dummy.config == before


def test_command_has_the_bits_of_qemu(dummy: Dummy) -> None:
    dummy.config_write(4, 2, 0xFFFF)
    assert dummy.config_read(4, 2) == 0x0507
    assert dummy.config_read(6, 2) == 0x10  # status: capabilities, and nothing was written


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0x10, 4, 0xFFFFFFE1),  # 32 bytes of I/O
        (0x14, 4, 0xFFFFF000),  # MSI-X: 4 KiB
        (0x18, 4, 0xFFFFF000),
        (0x1C, 4, 0),  # not there
        (0x20, 4, 0xFFFFC00C),  # 16 KiB, 64 bits, prefetchable
        (0x24, 4, 0xFFFFFFFF),
        (0x30, 4, 0),  # no ROM
    ],
)
def test_bar_sizing(dummy: Dummy, offset: int, size: int, expected: int) -> None:
    dummy.config_write(offset, size, 0xFFFFFFFF)
    assert dummy.config_read(offset, size) == expected


def test_bar_is_decoded_where_it_is_and_only_while_enabled(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(BAR0, 4, 0x1040)
    dummy.config_write(0x20, 4, 0x8000_0000)
    dummy.config_write(0x24, 4, 0x21)
    assert bridge.bus.find_io(0x1040, 4) is None
    dummy.config_write(4, 2, IO)
    assert bridge.bus.find_io(0x105C, 4) == (dummy.registers[IO_BAR], 0x1C)
    assert bridge.bus.find_io(0x105D, 4) is None  # would reach beyond the BAR
    assert bridge.bus.find_memory(0x21_8000_0000, 1) is None
    dummy.config_write(4, 2, MEMORY)
    assert bridge.bus.find_memory(0x21_8000_3FFF, 1) == (dummy.registers[MEM64_BAR], 0x3FFF)
    assert bridge.bus.find_io(0x1040, 4) is None
    dummy.config_write(0x26, 2, 1)  # a part of a register moves the BAR, too
    assert bridge.bus.find_memory(0x10021_8000_0000, 1) == (dummy.registers[MEM64_BAR], 0)


def test_byte_writes_add_up(dummy: Dummy) -> None:
    for index, byte in enumerate((0x12, 0x34, 0x56, 0x80)):
        dummy.config_write(0x18 + index, 1, byte)
    assert dummy.config_read(0x18, 4) == 0x80563000


def test_capability_list_is_well_formed(dummy: Dummy) -> None:
    assert dummy.find_capability(0x11) == 0x40
    vendor = dummy.find_capability(9)
    assert vendor % 4 == 0
    dummy.config_write(vendor, 4, 0xFFFFFFFF)
    dummy.config_write(vendor + 4, 1, 0xAA)
    expected = bytes((9, 0x40, 0, 1, 0xAA)) + bytes(range(3, 14))
    assert dummy.config[vendor : vendor + 16] == expected


@pytest.mark.parametrize(("offset", "size"), [(0x100, 4), (0xFFE, 2), (0xFE, 4)])
def test_beyond_the_end_reads_ones(dummy: Dummy, offset: int, size: int) -> None:
    dummy.config_write(offset, size, 0)
    inside = max(0, min(size, 256 - offset))
    assert dummy.config_read(offset, size) >> 8 * inside == (1 << 8 * (size - inside)) - 1
    assert len(dummy.config) == 256


def test_intx_reaches_the_bridge_once_per_change(bridge: Bridge, dummy: Dummy) -> None:
    dummy.set_intx(True)
    dummy.set_intx(True)
    assert dummy.config_read(6, 2) & 8
    dummy.set_intx(False)
    assert bridge.lines == [(0x10, 1, True), (0x10, 1, False)]
    assert not dummy.config_read(6, 2) & 8


def test_interrupt_disable_holds_the_line_but_not_the_status(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(4, 2, INTX_DISABLE)
    dummy.set_intx(True)
    assert bridge.lines == []
    assert dummy.config_read(6, 2) & 8
    dummy.config_write(4, 2, 0)
    dummy.config_write(4, 2, INTX_DISABLE)
    assert bridge.lines == [(0x10, 1, True), (0x10, 1, False)]


def test_msix_takes_the_place_of_intx(bridge: Bridge, dummy: Dummy) -> None:
    dummy.set_intx(True)
    dummy.config_write(dummy.msix_control, 2, 0x8000)
    assert bridge.lines[-1] == (0x10, 1, False)
    dummy.config_write(dummy.msix_control, 2, 0)
    assert bridge.lines[-1] == (0x10, 1, True)
    assert dummy.events == ["msix", "msix"]


def test_function_without_a_pin_never_drives_one(bridge: Bridge) -> None:
    function = Dummy(pin=0)
    bridge.bus.add(function)
    function.set_intx(True)
    assert bridge.lines == []


def test_reset_returns_to_power_on(bridge: Bridge, dummy: Dummy) -> None:
    before = bytes(dummy.config)
    for offset in range(0, 256, 4):
        dummy.config_write(offset, 4, 0xFFFFFFFF)
    dummy.config_write(4, 2, IO | MEMORY | MASTER)
    dummy.set_intx(True)
    dummy.reset()
    restored = bytearray(before)
    restored[dummy.vendor_capability + 4] = 0  # what software may change is 0
    assert dummy.config == restored
    assert not any(level for _, _, level in bridge.lines[-1:])
    assert bridge.bus.find_io(0xFFE0, 1) is None
    assert dummy.events[-1] == "reset"


def test_restored_state_takes_effect_without_events(bridge: Bridge, dummy: Dummy) -> None:
    dummy.config_write(BAR0, 4, 0x2000)
    dummy.config_write(4, 2, IO)
    dummy.set_intx(True)
    other = Bridge()
    copy = Dummy()
    other.bus.add(copy, "2")
    copy.config[:] = dummy.config
    copy.restored()
    assert other.bus.find_io(0x2000, 4) == (copy.registers[IO_BAR], 0)
    assert other.lines == []
    copy.set_intx(False)
    assert other.lines == [(0x10, 1, False)]


@pytest.mark.parametrize(
    ("index", "size", "kind"),
    [
        (0, 24, BarKind.IO),
        (0, 2, BarKind.IO),
        (0, 8, BarKind.MEM32),
        (0, 1 << 32, BarKind.MEM32),
        (5, 4096, BarKind.MEM64),
        (6, 4096, BarKind.MEM32),
        (-1, 4096, BarKind.MEM32),
        (2, 4096, BarKind.MEM32),  # the upper half of the one before
    ],
)
def test_impossible_bars_are_refused(index: int, size: int, kind: BarKind) -> None:
    function = plain()
    function.add_bar(1, 4096, BarKind.MEM64, Registers(4096))
    with pytest.raises(ValueError, match="BAR"):
        function.add_bar(index, size, kind, Registers(16))


def test_too_many_capabilities_are_refused() -> None:
    function = plain()
    function.add_capability(9, bytes(0xBE))
    with pytest.raises(ValueError, match="no room"):
        function.add_capability(9, b"")
