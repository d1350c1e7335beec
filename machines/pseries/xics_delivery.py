"""XICS: how an interrupt goes from its source to a CPU and back.

An interrupt is in one place at a time.  An ICP *presents* one (XISR) to its CPU; what it rejects
goes back to its source and *waits* there: an MSI as a pending bit, an LSI because its line is
asserted and it was not sent.  Waiting interrupts are offered again when an ICP gets room (EOI,
CPPR) or their source is unmasked.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from emu.cpu.exceptions import set_external_interrupt
from emu.cpu.record import partition_at, vcpu_at
from machines.pseries.xics_record import (
    ASSERTED,
    IPI,
    IRQ_BASE,
    LSI,
    MSI,
    NO_IRQ,
    PENDING,
    SENT,
    SOURCE_COUNT,
    icp_of,
    is_source,
    source_of,
    xics_at,
)

_BASE = np.uint64(IRQ_BASE)
_ONE = np.uint64(1)
_LSI, _MSI = np.uint8(LSI), np.uint8(MSI)
_ASSERTED, _SENT, _PENDING = np.uint8(ASSERTED), np.uint8(SENT), np.uint8(PENDING)
_NOT_SENT, _NOT_PENDING = np.uint8(0xFF & ~SENT), np.uint8(0xFF & ~PENDING)


@njit(cache=True)
def drive(xics, server, level):  # type: ignore[no-untyped-def]
    """Level of a CPU's external interrupt input."""
    partition = partition_at(xics.partition)
    set_external_interrupt(vcpu_at(partition.vcpus[np.uint64(server)]), np.uint32(level))


@njit(cache=True)
def waits(source):  # type: ignore[no-untyped-def]
    """Whether a source has something to send."""
    if source.flags & _LSI:
        return source.status & (_ASSERTED | _SENT) == _ASSERTED
    return source.status & _PENDING != 0


@njit(cache=True)
def note_waiting(xics, irq):  # type: ignore[no-untyped-def]
    """Bring the bitmap of waiting sources up to date."""
    index = np.uint64(irq) - _BASE
    word, bit = index >> np.uint64(6), _ONE << (index & np.uint64(63))
    if waits(source_of(xics, irq)):
        xics.waiting[word] = xics.waiting[word] | bit
    else:
        xics.waiting[word] = xics.waiting[word] & ~bit


@njit(cache=True)
def reject(xics, irq):  # type: ignore[no-untyped-def]
    """An ICP gives an interrupt back; an IPI needs nothing, MFRR remembers it."""
    if not is_source(irq):
        return
    source = source_of(xics, irq)
    if source.flags & _LSI:
        source.status &= _NOT_SENT
    elif source.flags & _MSI:
        source.status |= _PENDING
    note_waiting(xics, irq)


@njit(cache=True)
def present(xics, server, irq, priority):  # type: ignore[no-untyped-def]
    """Show an interrupt to a CPU unless a more favoured one stands in the way.

    Returns (whether it did, the interrupt this displaced or 0).
    """
    icp = icp_of(xics, server)
    if priority >= icp.cppr or (icp.xisr != NO_IRQ and icp.pending_priority <= priority):
        return False, NO_IRQ
    displaced = icp.xisr
    icp.xisr = np.uint32(irq)
    icp.pending_priority = priority
    reject(xics, displaced)
    drive(xics, server, 1)
    return True, displaced


@njit(cache=True)
def send(xics, irq):  # type: ignore[no-untyped-def]
    """Offer a waiting source to its server, and what that displaces to its own.

    The guest may have routed the displaced source elsewhere while it was presented.  This ends:
    each round makes some server's interrupt more favoured.
    """
    number = np.uint64(irq)
    while is_source(number):
        source = source_of(xics, number)
        if not waits(source):
            return
        shown, displaced = present(xics, source.server, number, source.priority)
        if not shown:
            return
        if source.flags & _LSI:
            source.status |= _SENT
        else:
            source.status &= _NOT_PENDING
        note_waiting(xics, number)
        number = np.uint64(displaced)


@njit(cache=True)
def send_ipi(xics, server):  # type: ignore[no-untyped-def]
    """Present the IPI that MFRR asks for, if any."""
    _shown, displaced = present(xics, server, IPI, icp_of(xics, server).mfrr)
    send(xics, displaced)


@njit(cache=True)
def resend(xics, server):  # type: ignore[no-untyped-def]
    """Offer everything that waits for a server."""
    send_ipi(xics, server)
    for word in range(SOURCE_COUNT // 64):
        bits = xics.waiting[word]
        irq = _BASE + np.uint64(64 * word)
        while bits != 0:
            if bits & _ONE and source_of(xics, irq).server == server:
                send(xics, irq)
            bits >>= _ONE
            irq += _ONE


@njit(types.void(types.uint64), cache=True)
def refresh_at(xics_address):  # type: ignore[no-untyped-def]
    """Make everything derived agree with the ICPs and sources, and send what can be sent."""
    xics = xics_at(xics_address)
    for index in range(SOURCE_COUNT):
        note_waiting(xics, _BASE + np.uint64(index))
    for server in range(partition_at(xics.partition).vcpu_count):
        icp = icp_of(xics, server)
        drive(xics, server, 1 if icp.xisr != NO_IRQ else 0)
        if icp.xisr == NO_IRQ:
            resend(xics, np.uint32(server))
