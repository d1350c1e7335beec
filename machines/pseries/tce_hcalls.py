"""TCE hypercalls (LoPAPR 1.1, chapter 14): entries of DMA windows.

A range that is not wholly in its window changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emu.cpu.vcpu import Vcpu
from machines.pseries import papr
from machines.pseries.hcalls import Reply, hypercall
from machines.pseries.papr import HcallNumber
from machines.pseries.tce import TceTable

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

MAX_INDIRECT = 512
_PAGE = 4096


def _find(
    machine: PseriesMachine, liobn: int, address: int, count: int
) -> tuple[TceTable, int] | None:
    """The window and the first of ``count`` entries, from those for ``address`` on."""
    table = machine.tces.find(liobn)
    index = None if table is None else table.index(address, count)
    return None if table is None or index is None else (table, index)


@hypercall(HcallNumber.H_GET_TCE)
def _get_tce(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int | Reply:
    """H_GET_TCE(liobn, ioba): r4 = entry."""
    found = _find(machine, args[0], args[1], 1)
    if found is None:
        return papr.H_PARAMETER
    table, index = found
    return Reply(papr.H_SUCCESS, [int(table.entries[index])])


@hypercall(HcallNumber.H_PUT_TCE)
def _put_tce(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """H_PUT_TCE(liobn, ioba, tce)."""
    found = _find(machine, args[0], args[1], 1)
    if found is None:
        return papr.H_PARAMETER
    table, index = found
    table.entries[index] = args[2]
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_STUFF_TCE)
def _stuff_tce(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """H_STUFF_TCE(liobn, ioba, tce, count): the same entry for every page."""
    found = _find(machine, args[0], args[1], args[3])
    if found is None:
        return papr.H_PARAMETER
    table, index = found
    table.entries[index : index + args[3]] = args[2]
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_PUT_TCE_INDIRECT)
def _put_tce_indirect(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """H_PUT_TCE_INDIRECT(liobn, ioba, list, count): entries, big-endian, from a page of RAM."""
    liobn, address, source, count = args[:4]
    found = _find(machine, liobn, address, count)
    if found is None or source % _PAGE or count > MAX_INDIRECT:
        return papr.H_PARAMETER
    table, index = found
    entries = np.frombuffer(machine.dma.read(source, 8 * count), ">u8")
    table.entries[index : index + count] = entries
    return papr.H_SUCCESS
