"""RTAS services of the PCI host bridge, with the status codes QEMU's pseries answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from machines.pseries.phb import (
    BUID,
    DMA64_WINDOW_ADDRESS,
    DMA_LARGEST_WINDOW,
    LIOBN,
    MSI_ADDRESS,
)
from machines.pseries.rtas import HARDWARE_ERROR, PARAMETER_ERROR, SUCCESS
from tests.support.pci import VECTORS, Dummy
from tests.support.phb import PhbMachine

SLOT = 5 << 3
ONES = 0xFFFFFFFF
READ, WRITE = "ibm,read-pci-config", "ibm,write-pci-config"
QUERY_SOURCE, CHANGE_MSI = "ibm,query-interrupt-source-number", "ibm,change-msi"
QUERY, CHANGE, RESET, CHANGE_MSI_FN, CHANGE_MSIX_FN, CHANGE_32MSI, CHANGE_32MSIX = range(7)


@pytest.fixture(scope="module")
def shared() -> Iterator[PhbMachine]:
    machine = PhbMachine()
    yield machine
    machine.close()


@pytest.fixture
def machine(shared: PhbMachine) -> PhbMachine:
    shared.renew()
    shared.phb.bus.add(Dummy(), "5")
    return shared


def function(machine: PhbMachine) -> Dummy:
    found = machine.phb.bus.functions[SLOT]
    assert isinstance(found, Dummy)
    return found


@pytest.mark.parametrize(("register", "size", "value"), [(0, 4, 0x10F01AF4), (2, 2, 0x10F0)])
def test_config_read(machine: PhbMachine, register: int, size: int, value: int) -> None:
    assert machine.pci(READ, SLOT, size, register=register, outputs=2) == (SUCCESS, value)


def test_config_write(machine: PhbMachine) -> None:
    assert machine.pci(WRITE, SLOT, 2, 0xFFFF, register=4, outputs=1) == (SUCCESS,)
    assert machine.pci(READ, SLOT, 2, register=4, outputs=2) == (SUCCESS, 0x507)


@pytest.mark.parametrize(
    ("devfn", "register", "size"),
    [
        (7 << 3, 0, 4),  # nobody there
        (SLOT | 1, 0, 4),
        (SLOT, 1, 4),  # not aligned
        (SLOT, 0, 3),
        (SLOT, 0, 0),
        (SLOT, 0, 8),
        (SLOT, 1 << 28, 4),  # extended configuration space
        (SLOT | 1 << 8, 0, 4),  # bus 1
    ],
)
def test_config_cycle_that_cannot_be(
    machine: PhbMachine, devfn: int, register: int, size: int
) -> None:
    answer = machine.pci(READ, devfn, size, register=register, outputs=2)
    assert answer == (HARDWARE_ERROR, ONES)
    answer = machine.pci(WRITE, devfn, size, ONES, register=register, outputs=1)
    assert answer == (HARDWARE_ERROR,)


def test_config_cycle_to_another_bridge(machine: PhbMachine) -> None:
    address = SLOT << 8
    assert machine.call(READ, address, 0, 1, 4, outputs=2) == (HARDWARE_ERROR, ONES)
    assert machine.call(WRITE, address, 0, 1, 4, 0, outputs=1) == (HARDWARE_ERROR,)
    assert machine.call("read-pci-config", address, 4, outputs=2) == (HARDWARE_ERROR, ONES)
    assert machine.call("write-pci-config", address, 4, 0, outputs=1) == (HARDWARE_ERROR,)


def table(machine: PhbMachine) -> list[tuple[int, int, int]]:
    msix = function(machine).msix
    assert msix is not None
    return list(struct.iter_unpack("<QII", bytes(msix.table)))


@pytest.mark.parametrize("action", [CHANGE, CHANGE_MSIX_FN])
def test_change_msi_programs_the_table(machine: PhbMachine, action: int) -> None:
    assert machine.pci(CHANGE_MSI, SLOT, action, 3, 7, outputs=4) == (SUCCESS, 3, 8, 2)
    block = machine.phb.msis[SLOT]
    assert table(machine)[:3] == [(MSI_ADDRESS, block.first + n, 0) for n in range(3)]
    assert table(machine)[3] == (0, 0, 1)
    answer = machine.pci(QUERY_SOURCE, SLOT, 2, outputs=3)
    assert answer == (SUCCESS, block.first + 2, 1)
    assert machine.pci(QUERY_SOURCE, SLOT, 3, outputs=3)[0] == HARDWARE_ERROR


def test_change_msi_with_three_outputs(machine: PhbMachine) -> None:
    assert machine.pci(CHANGE_MSI, SLOT, CHANGE, 1, 1, outputs=3) == (SUCCESS, 1, 2)
    assert machine.pci(CHANGE_MSI, SLOT, CHANGE, 1, 1, outputs=2) == (PARAMETER_ERROR, 0)


def test_change_msi_answers_what_is_possible(machine: PhbMachine) -> None:
    answer = machine.pci(CHANGE_MSI, SLOT, CHANGE_MSIX_FN, 99, 1, outputs=4)
    assert answer == (SUCCESS, VECTORS, 2, 2)
    assert machine.phb.msis == {}


def test_change_msi_replaces_what_was_there(machine: PhbMachine) -> None:
    names = len(machine.xics.names)
    for count in (4, 1, 2):
        machine.pci(CHANGE_MSI, SLOT, CHANGE_MSIX_FN, count, 1, outputs=4)
        assert len(machine.xics.names) == names + count
    assert table(machine)[2:] == [(0, 0, 1)] * 2


@pytest.mark.parametrize(("action", "count"), [(CHANGE, 0), (CHANGE_MSIX_FN, 0), (RESET, 5)])
def test_change_msi_releases(machine: PhbMachine, action: int, count: int) -> None:
    machine.pci(CHANGE_MSI, SLOT, CHANGE_MSIX_FN, 2, 1, outputs=4)
    answer = machine.pci(CHANGE_MSI, SLOT, action, count, 1, outputs=3)
    assert answer[:2] == (SUCCESS, 0)
    assert machine.phb.msis == {}
    assert table(machine)[0] == (0, 0, 1)
    answer = machine.pci(CHANGE_MSI, SLOT, action, count, 1, outputs=3)
    assert answer[0] == PARAMETER_ERROR


def test_change_msi_query(machine: PhbMachine) -> None:
    assert machine.pci(CHANGE_MSI, SLOT, QUERY, 0, 1, outputs=3) == (SUCCESS, 0, 2)
    machine.pci(CHANGE_MSI, SLOT, CHANGE_MSIX_FN, 2, 1, outputs=4)
    assert machine.pci(CHANGE_MSI, SLOT, QUERY, 0, 1, outputs=3) == (SUCCESS, 2, 2)


@pytest.mark.parametrize("action", [CHANGE_MSI_FN, CHANGE_32MSI, CHANGE_32MSIX, 7, ONES])
def test_change_msi_refuses_what_it_cannot(machine: PhbMachine, action: int) -> None:
    assert machine.pci(CHANGE_MSI, SLOT, action, 1, 1, outputs=4)[0] == PARAMETER_ERROR


@pytest.mark.parametrize("devfn", [7 << 3, SLOT | 1 << 8])
def test_interrupts_of_nobody(machine: PhbMachine, devfn: int) -> None:
    assert machine.pci(QUERY_SOURCE, devfn, 0, outputs=3)[0] == PARAMETER_ERROR
    answer = machine.pci(CHANGE_MSI, devfn, CHANGE_MSIX_FN, 1, 1, outputs=4)
    assert answer[0] == PARAMETER_ERROR


def test_no_messages_means_no_source(machine: PhbMachine) -> None:
    assert machine.pci(QUERY_SOURCE, SLOT, 0, outputs=3)[0] == HARDWARE_ERROR


PAGES = 0x107
QUERY_DMA, CREATE_DMA = "ibm,query-pe-dma-window", "ibm,create-pe-dma-window"
REMOVE_DMA, RESET_DMA = "ibm,remove-pe-dma-window", "ibm,reset-pe-dma-window"
HIGH64 = DMA64_WINDOW_ADDRESS >> 32


def test_query_dma_window(machine: PhbMachine) -> None:
    short = machine.pci(QUERY_DMA, SLOT, outputs=5)
    assert short == (SUCCESS, 1, DMA_LARGEST_WINDOW, PAGES, 0)
    long = machine.pci(QUERY_DMA, SLOT, outputs=6)
    assert long == (SUCCESS, 1, 0, DMA_LARGEST_WINDOW, PAGES, 0)


def test_dma_windows_come_and_go(machine: PhbMachine) -> None:
    created = machine.pci(CREATE_DMA, SLOT, 16, 29, outputs=4)
    assert created == (SUCCESS, LIOBN + 1, HIGH64, 0)
    assert machine.phb.dma_windows[1].size == 1 << 29
    assert machine.pci(QUERY_DMA, SLOT, outputs=5)[1] == 0
    assert machine.pci(CREATE_DMA, SLOT, 16, 29, outputs=4)[0] == HARDWARE_ERROR
    assert machine.call(REMOVE_DMA, LIOBN + 1, outputs=1) == (SUCCESS,)
    assert machine.call(REMOVE_DMA, LIOBN + 1, outputs=1) == (PARAMETER_ERROR,)
    assert machine.call(REMOVE_DMA, LIOBN, outputs=1) == (SUCCESS,)
    assert machine.pci(QUERY_DMA, SLOT, outputs=5)[1] == 2
    assert machine.pci(CREATE_DMA, SLOT, 12, 31, outputs=4) == (SUCCESS, LIOBN, 0, 0)
    assert machine.pci(CREATE_DMA, SLOT, 24, 34, outputs=4) == (SUCCESS, LIOBN + 1, HIGH64, 0)
    assert machine.pci(RESET_DMA, SLOT, outputs=1) == (SUCCESS,)
    assert machine.pci(QUERY_DMA, SLOT, outputs=5)[1] == 1


def test_windows_never_share_addresses(machine: PhbMachine) -> None:
    machine.pci(CREATE_DMA, SLOT, 16, 29, outputs=4)
    machine.call(REMOVE_DMA, LIOBN, outputs=1)
    assert machine.pci(CREATE_DMA, SLOT, 16, 29, outputs=4) == (SUCCESS, LIOBN, 0, 0)


@pytest.mark.parametrize(
    ("page", "window", "status"),
    [
        (13, 29, PARAMETER_ERROR),
        (24, 20, PARAMETER_ERROR),
        (0, 29, PARAMETER_ERROR),
        (ONES, ONES, PARAMETER_ERROR),
        (12, 63, HARDWARE_ERROR),
        (12, ONES, HARDWARE_ERROR),
        (12, 35, HARDWARE_ERROR),
        (12, 34, SUCCESS),
    ],
)
def test_create_impossible_dma_window(
    machine: PhbMachine, page: int, window: int, status: int
) -> None:
    assert machine.pci(CREATE_DMA, SLOT, page, window, outputs=4)[0] == status


@pytest.mark.parametrize(("name", "outputs"), [(QUERY_DMA, 5), (CREATE_DMA, 4), (RESET_DMA, 1)])
def test_dma_windows_of_another_bridge(machine: PhbMachine, name: str, outputs: int) -> None:
    extra = (12, 29) if name == CREATE_DMA else ()
    answer = machine.call(name, 0, BUID >> 32, 1, *extra, outputs=outputs)
    assert answer[0] == PARAMETER_ERROR
