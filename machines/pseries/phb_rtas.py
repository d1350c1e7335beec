"""RTAS services of the PCI host bridge.

LoPAPR 1.1, chapter 7: "PCI Configuration Space Access", "MSI Support" and, in LoPAR 2.9, "DMA
Window Manipulation Calls".

Importing this module registers them.  Return codes are those QEMU's pseries gives: a
configuration cycle that cannot be made is a hardware error, a bridge or function that is not
there a parameter error otherwise.  Configuration cycles without a BUID reach nothing.
"""

from __future__ import annotations

from typing import Protocol, cast

from devices.pci.constants import CONFIG_SIZE
from devices.pci.function import PciFunction
from machines.pseries.phb import (
    BUID,
    DMA64_WINDOW_ADDRESS,
    DMA_LARGEST_WINDOW,
    DMA_PAGE_SHIFTS,
    MSI_TOTAL,
    Phb,
)
from machines.pseries.rtas import (
    HARDWARE_ERROR,
    PARAMETER_ERROR,
    SUCCESS,
    Call,
    RtasContext,
    service,
)

_ALL_ONES = 0xFFFFFFFF


class PciContext(RtasContext, Protocol):
    """What these services need of the machine."""

    @property
    def phb(self) -> Phb: ...


def _host_bridge(call: Call) -> Phb:
    return cast(PciContext, call.machine).phb


def _phb(call: Call, high: int, low: int) -> Phb | None:
    """The host bridge with a BUID."""
    return _host_bridge(call) if high << 32 | low == BUID else None


def _function(call: Call) -> tuple[Phb, PciFunction] | None:
    """The function that the first three inputs name: config_addr, BUID high and low."""
    address, high, low = call.inputs[:3]
    phb = _phb(call, high, low)
    function = None if phb is None else phb.bus.functions.get(address >> 8 & 0xFF)
    if phb is None or function is None or address >> 16 & 0xFF:
        return None
    return phb, function


def _register(address: int, size: int) -> int | None:
    """Offset in configuration space, with the bits of an extended one; None for a bad access."""
    offset = (address >> 20 & 0xF00) | (address & 0xFF)
    if size not in (1, 2, 4) or offset % size or offset >= CONFIG_SIZE:
        return None
    return offset


@service("read-pci-config", 2, 2)
def _read_pci_config(_call: Call) -> list[int]:
    """(config_addr, size): no bridge has BUID 0."""
    return [HARDWARE_ERROR, _ALL_ONES]


@service("write-pci-config", 3, 1)
def _write_pci_config(_call: Call) -> int:
    """(config_addr, size, value): no bridge has BUID 0."""
    return HARDWARE_ERROR


@service("ibm,read-pci-config", 4, 2)
def _ibm_read_pci_config(call: Call) -> list[int]:
    """(config_addr, BUID, size) to (status, value)."""
    found, size = _function(call), call.inputs[3]
    offset = _register(call.inputs[0], size)
    if found is None or offset is None:
        return [HARDWARE_ERROR, _ALL_ONES]
    return [SUCCESS, found[1].config_read(offset, size)]


@service("ibm,write-pci-config", 5, 1)
def _ibm_write_pci_config(call: Call) -> int:
    """(config_addr, BUID, size, value)."""
    found, (size, value) = _function(call), call.inputs[3:]
    offset = _register(call.inputs[0], size)
    if found is None or offset is None:
        return HARDWARE_ERROR
    found[1].config_write(offset, size, value)
    return SUCCESS


_EDGE = 1


@service("ibm,query-interrupt-source-number", 4, 3)
def _query_interrupt_source_number(call: Call) -> list[int]:
    """(config_addr, BUID, vector) to (status, XICS number, 1 for edge)."""
    found = _function(call)
    if found is None:
        return [PARAMETER_ERROR, 0, 0]
    phb, function = found
    block, vector = phb.msis.get(function.devfn), call.inputs[3]
    if block is None or vector >= block.count:
        return [HARDWARE_ERROR, 0, 0]
    return [SUCCESS, block.first + vector, _EDGE]


# Functions of ibm,change-msi, and the type of interrupt it reports
_QUERY, _CHANGE, _RESET, _CHANGE_MSI, _CHANGE_MSIX = range(5)
_TYPE_MSIX = 2


@service("ibm,change-msi", 6, 4, (6, 3))
def _change_msi(call: Call) -> list[int]:
    """(config_addr, BUID, function, count, sequence) to (status, count, next sequence, type).

    Functions have MSI-X and no MSI.  The message address needs 64 bits, so requests for 32-bit
    messages (functions 5 and 6) are refused.  Asking for more than the function or the platform
    has changes nothing and answers the possible number.
    """
    action, count, sequence = call.inputs[3:]
    found = _function(call)
    if found is None or action not in (_QUERY, _CHANGE, _RESET, _CHANGE_MSIX):
        return [PARAMETER_ERROR, 0, 0, 0]
    phb, function = found
    block = phb.msis.get(function.devfn)
    if action == _QUERY:
        return [SUCCESS, block.count if block else 0, sequence + 1, _TYPE_MSIX]
    if action == _RESET or count == 0:
        released = phb.free_msis(function.devfn)
        return [SUCCESS if released else PARAMETER_ERROR, 0, sequence + 1, _TYPE_MSIX]
    return _set_msix(phb, function, count, sequence)


def _set_msix(phb: Phb, function: PciFunction, count: int, sequence: int) -> list[int]:
    if function.msix is None:
        return [PARAMETER_ERROR, 0, 0, 0]
    possible = min(function.msix.vectors, MSI_TOTAL)
    if count <= possible and not phb.allocate_msis(function, count):
        return [HARDWARE_ERROR, 0, 0, 0]
    return [SUCCESS, min(count, possible), sequence + 1, _TYPE_MSIX]


# Page sizes in the answer of ibm,query-pe-dma-window, by log2
_PAGE_SIZE_BITS = {12: 0x01, 16: 0x02, 24: 0x04, 21: 0x100}
_PAGE_SIZES = sum(_PAGE_SIZE_BITS[shift] for shift in DMA_PAGE_SHIFTS)


@service("ibm,query-pe-dma-window", 3, 5, (3, 6))
def _query_pe_dma_window(call: Call) -> list[int]:
    """(config_addr, BUID) to (status, free windows, largest in entries, page sizes, migration).

    With six outputs the largest window takes two.
    """
    phb = _phb(call, *call.inputs[1:])
    if phb is None:
        return [PARAMETER_ERROR]
    free = sum(not window.enabled for window in phb.dma_windows)
    largest = [DMA_LARGEST_WINDOW] if call.outputs == 5 else [0, DMA_LARGEST_WINDOW]
    return [SUCCESS, free, *largest, _PAGE_SIZES, 0]


@service("ibm,create-pe-dma-window", 5, 4)
def _create_pe_dma_window(call: Call) -> list[int]:
    """(config_addr, BUID, log2 of page, log2 of window) to (status, LIOBN, bus address)."""
    page_shift, window_shift = call.inputs[3:]
    phb = _phb(call, *call.inputs[1:3])
    if phb is None or page_shift not in DMA_PAGE_SHIFTS or window_shift < page_shift:
        return [PARAMETER_ERROR, 0, 0, 0]
    free = next((window for window in phb.dma_windows if not window.enabled), None)
    entries = 1 << min(window_shift - page_shift, 63)
    taken = {window.bus_offset for window in phb.dma_windows if window.enabled}
    address = DMA64_WINDOW_ADDRESS if taken and DMA64_WINDOW_ADDRESS not in taken else 0
    if free is None or not free.enable(page_shift, address, entries):
        return [HARDWARE_ERROR, 0, 0, 0]
    return [SUCCESS, free.liobn, address >> 32, address & _ALL_ONES]


@service("ibm,remove-pe-dma-window", 1, 1)
def _remove_pe_dma_window(call: Call) -> int:
    """(LIOBN)."""
    for window in _host_bridge(call).dma_windows:
        if window.liobn == call.inputs[0] and window.enabled:
            window.disable()
            return SUCCESS
    return PARAMETER_ERROR


@service("ibm,reset-pe-dma-window", 3, 1)
def _reset_pe_dma_window(call: Call) -> int:
    """(config_addr, BUID): the default window alone, empty."""
    phb = _phb(call, *call.inputs[1:])
    if phb is None:
        return PARAMETER_ERROR
    phb.reset_dma()
    return SUCCESS
