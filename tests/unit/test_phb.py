"""The PCI host bridge: windows, interrupt lines, messages, DMA windows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emu.memory.dma import DmaError
from machines.pseries import xics_record
from machines.pseries.phb import (
    DMA64_WINDOW_ADDRESS,
    DMA_WINDOW_SIZE,
    IO_WINDOW,
    LSI_BASE,
    MEM32_WINDOW,
    MEM64_WINDOW,
    MSI_ADDRESS,
    MSI_TOTAL,
    Window,
)
from tests.support.pci import IO_BAR, MEM32_BAR, MEM64_BAR, VECTORS, Dummy
from tests.support.phb import PhbMachine

ENABLED = 7  # I/O, memory, bus master


@pytest.fixture(scope="module")
def shared() -> Iterator[PhbMachine]:
    machine = PhbMachine()
    yield machine
    machine.close()


@pytest.fixture
def machine(shared: PhbMachine) -> PhbMachine:
    shared.renew()
    return shared


def plug(machine: PhbMachine, addr: str | None = None, *, pin: int = 1) -> Dummy:
    function = Dummy(pin=pin)
    machine.phb.bus.add(function, addr)
    function.config_write(4, 2, ENABLED)
    return function


def test_windows_reach_the_bars(machine: PhbMachine) -> None:
    function = plug(machine)
    function.config_write(0x10, 4, 0xFFE0)
    function.config_write(0x18, 4, 0xFFFFF000)
    function.config_write(0x20, 4, 0x4000)
    function.config_write(0x24, 4, 0x2100)
    registers = function.registers
    assert machine.read(IO_WINDOW.address + 0xFFE4, 4) == bytes(registers[IO_BAR].data[4:8])
    machine.write(MEM32_WINDOW.address + 0x7FFFF010, b"\x11\x22\x33\x44")
    assert registers[MEM32_BAR].data[0x10:0x14] == b"\x11\x22\x33\x44"
    machine.write(MEM64_WINDOW.address + 0x4001, b"\x99")
    assert registers[MEM64_BAR].data[1] == 0x99


@pytest.mark.parametrize("window", [IO_WINDOW, MEM32_WINDOW, MEM64_WINDOW])
def test_nobody_answers_with_ones(machine: PhbMachine, window: Window) -> None:
    for offset in (0, window.size - 4):
        machine.write(window.address + offset, bytes(4))
        assert machine.read(window.address + offset, 4) == b"\xff" * 4


@pytest.mark.parametrize(
    ("addr", "pin", "line"), [("0", 1, 0), ("1", 1, 1), ("5", 1, 1), ("3", 4, 2), ("7.0", 2, 0)]
)
def test_pins_rotate_with_the_slot(machine: PhbMachine, addr: str, pin: int, line: int) -> None:
    function = plug(machine, addr, pin=pin)
    function.set_intx(True)
    assert [machine.source_status(LSI_BASE + n) & xics_record.ASSERTED for n in range(4)] == [
        int(n == line) for n in range(4)
    ]


def test_line_is_up_while_any_pin_is(machine: PhbMachine) -> None:
    first, second = plug(machine, "1"), plug(machine, "5")
    first.set_intx(True)
    second.set_intx(True)
    first.set_intx(False)
    assert machine.source_status(LSI_BASE + 1) & xics_record.ASSERTED
    second.set_intx(False)
    assert not machine.source_status(LSI_BASE + 1) & xics_record.ASSERTED


def test_messages_of_a_function_reach_their_sources(machine: PhbMachine) -> None:
    function = plug(machine)
    assert machine.phb.allocate_msis(function, 3)
    block = machine.phb.msis[function.devfn]
    function.config_write(function.msix_control, 2, 0x8000)
    function.msix_notify(1)
    statuses = [machine.source_status(block.first + n) for n in range(3)]
    assert statuses == [0, xics_record.PENDING, 0]


@pytest.mark.parametrize(
    ("address", "data"),
    [(MSI_ADDRESS, LSI_BASE), (MSI_ADDRESS, 0xFFFFFFFF), (MSI_ADDRESS + 4, 0), (0x1000, 0)],
)
def test_messages_the_platform_did_not_give_out_go_nowhere(
    machine: PhbMachine, address: int, data: int
) -> None:
    function = plug(machine)
    assert machine.phb.allocate_msis(function, 1)
    before = machine.xics.save_state()
    own = machine.phb.msis[function.devfn].first
    machine.phb.send_msi(function, address, data or own)
    assert machine.xics.save_state() == before


def test_sources_of_messages_come_back(machine: PhbMachine) -> None:
    function = plug(machine)
    before = dict(machine.xics.names)
    for _ in range(3):
        assert machine.phb.allocate_msis(function, VECTORS)
        assert len(machine.xics.names) == len(before) + VECTORS
    assert machine.phb.free_msis(function.devfn)
    assert not machine.phb.free_msis(function.devfn)
    assert machine.xics.names == before
    assert function.msix is not None
    assert function.msix.message(0) == (0, 0)


def test_more_vectors_than_the_function_has_are_refused(machine: PhbMachine) -> None:
    assert not machine.phb.allocate_msis(plug(machine), VECTORS + 1)


def test_no_more_messages_than_promised(machine: PhbMachine) -> None:
    given = 0
    functions = [plug(machine, f"{slot:x}") for slot in range(32)]
    for function in functions:
        assert function.msix is not None
        function.msix.vectors = 64
        function.msix.reset()
        given += 64 * machine.phb.allocate_msis(function, 64)
    assert given == MSI_TOTAL


def test_reset_frees_messages_and_windows(machine: PhbMachine) -> None:
    function = plug(machine)
    function.set_intx(True)
    machine.phb.allocate_msis(function, 2)
    machine.phb.dma_windows[0].entries[0] = 3
    machine.phb.dma_windows[1].enable(16, DMA64_WINDOW_ADDRESS, 16)
    machine.phb.reset()
    assert machine.phb.msis == {}
    assert not machine.source_status(LSI_BASE) & xics_record.ASSERTED
    assert not machine.phb.dma_windows[1].enabled
    assert machine.phb.dma_windows[0].size == DMA_WINDOW_SIZE
    assert machine.phb.dma_windows[0].entries[0] == 0
    assert function.events[-1] == "reset"


def test_restored_lines_fall_when_their_last_pin_does(machine: PhbMachine) -> None:
    first, second = plug(machine, "1"), plug(machine, "5")
    for function in (first, second):
        function.config[6] |= 8
    machine.xics.set_irq(LSI_BASE + 1, 1)
    machine.phb.restored()
    first.set_intx(False)
    assert machine.source_status(LSI_BASE + 1) & xics_record.ASSERTED
    second.set_intx(False)
    assert not machine.source_status(LSI_BASE + 1) & xics_record.ASSERTED


def test_dma_goes_through_the_window_of_its_address(machine: PhbMachine) -> None:
    first, second = machine.phb.dma_windows
    first.entries[1] = 0x5000 | 3
    second.enable(16, DMA64_WINDOW_ADDRESS, 2)
    second.entries[0] = 0x30000 | 1
    assert machine.phb.translate(0x1010, 16, True) == [(0x5010, 16)]
    assert machine.phb.translate(DMA64_WINDOW_ADDRESS + 4, 8, False) == [(0x30004, 8)]
    for address, write in ((DMA64_WINDOW_ADDRESS, True), (0, False), (1 << 40, False)):
        with pytest.raises(DmaError):
            machine.phb.translate(address, 1, write)
