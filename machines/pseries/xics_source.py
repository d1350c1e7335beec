"""XICS source layer (ICS): lines, messages and routing (LoPAPR 1.1, chapter 6).

A source whose ICP presents it takes no second MSI: the guest has yet to accept the first.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from machines.pseries.xics_delivery import note_waiting, send
from machines.pseries.xics_record import (
    ASSERTED,
    LSI,
    MSI,
    PENDING,
    icp_of,
    is_server,
    is_source,
    source_of,
    xics_at,
)

_LSI, _MSI = np.uint8(LSI), np.uint8(MSI)
_ASSERTED, _PENDING = np.uint8(ASSERTED), np.uint8(PENDING)
_NOT_ASSERTED = np.uint8(0xFF & ~ASSERTED)
_BYTE = np.uint64(0xFF)


@njit(cache=True)
def ics_set_level(xics, irq, level):  # type: ignore[no-untyped-def]
    """Drive the line of an LSI; other numbers are ignored."""
    if not is_source(irq):
        return
    source = source_of(xics, irq)
    if not source.flags & _LSI:
        return
    if level != 0:
        source.status |= _ASSERTED
    else:
        source.status &= _NOT_ASSERTED
    note_waiting(xics, irq)
    send(xics, irq)


@njit(cache=True)
def ics_pulse(xics, irq):  # type: ignore[no-untyped-def]
    """An MSI arrives; other numbers are ignored."""
    if not is_source(irq):
        return
    source = source_of(xics, irq)
    if not source.flags & _MSI or icp_of(xics, source.server).xisr == np.uint32(irq):
        return
    source.status |= _PENDING
    note_waiting(xics, irq)
    send(xics, irq)


@njit(cache=True)
def ics_write_xive(xics, irq, server, priority, saved):  # type: ignore[no-untyped-def]
    """Route a source; priorities are low bytes.  False for an unknown source or server."""
    if not is_source(irq) or not is_server(xics, server):
        return False
    source = source_of(xics, irq)
    source.server = np.uint32(server)
    source.priority = np.uint8(np.uint64(priority) & _BYTE)
    source.saved_priority = np.uint8(np.uint64(saved) & _BYTE)
    send(xics, irq)
    return True


@njit(types.void(types.uint64, types.uint64, types.uint64), cache=True)
def set_irq_at(xics_address, irq, level):  # type: ignore[no-untyped-def]
    """Level of an LSI, or an MSI for each call with a level other than 0."""
    xics = xics_at(xics_address)
    if level != 0:
        ics_pulse(xics, irq)
    ics_set_level(xics, irq, level)


@njit(types.boolean(*[types.uint64] * 5), cache=True)
def write_xive_at(xics_address, irq, server, priority, saved):  # type: ignore[no-untyped-def]
    """:func:`ics_write_xive` for callers in Python."""
    return ics_write_xive(xics_at(xics_address), irq, server, priority, saved)
