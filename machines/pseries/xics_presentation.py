"""XICS presentation layer (ICP): its operations and their hypercalls (LoPAPR 1.1, 14.5.4.2)."""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.clock import timebase
from machines.pseries.hpt import PARAMETER, SUCCESS, set_result
from machines.pseries.xics_delivery import drive, note_waiting, reject, resend, send, send_ipi
from machines.pseries.xics_record import (
    LSI,
    MASKED,
    NO_IRQ,
    SENT,
    icp_of,
    is_server,
    is_source,
    source_of,
    xics_at,
)

_LSI = np.uint8(LSI)
_NOT_SENT = np.uint8(0xFF & ~SENT)
_IDLE = np.uint8(MASKED)
_BYTE = np.uint64(0xFF)
_XISR = np.uint64(0xFFFFFF)


@njit(cache=True)
def icp_set_cppr(xics, server, cppr):  # type: ignore[no-untyped-def]
    """Set a server's priority (low byte): reject what it no longer admits, resend what waits."""
    icp = icp_of(xics, server)
    icp.cppr = np.uint8(np.uint64(cppr) & _BYTE)
    rejected = NO_IRQ
    if icp.xisr != NO_IRQ and icp.pending_priority >= icp.cppr:
        rejected = icp.xisr
        icp.xisr = NO_IRQ
        icp.pending_priority = _IDLE
        drive(xics, server, 0)
        reject(xics, rejected)
    if icp.xisr == NO_IRQ:
        resend(xics, np.uint32(server))
    send(xics, rejected)  # its server may be another by now


@njit(cache=True)
def icp_set_mfrr(xics, server, mfrr):  # type: ignore[no-untyped-def]
    """Request an IPI of a priority (low byte); 0xff requests none.

    An IPI that is presented already is not taken back.
    """
    icp = icp_of(xics, server)
    icp.mfrr = np.uint8(np.uint64(mfrr) & _BYTE)
    send_ipi(xics, server)


@njit(cache=True)
def icp_poll(xics, server):  # type: ignore[no-untyped-def]
    """(XIRR, MFRR) without accepting anything."""
    icp = icp_of(xics, server)
    return (np.uint64(icp.cppr) << np.uint64(24)) | np.uint64(icp.xisr), np.uint64(icp.mfrr)


@njit(cache=True)
def icp_accept(xics, server):  # type: ignore[no-untyped-def]
    """Take the presented interrupt: returns XIRR (old CPPR, XISR), CPPR becomes its priority.

    Without one, XISR is 0 and CPPR stays.
    """
    icp = icp_of(xics, server)
    xirr = (np.uint64(icp.cppr) << np.uint64(24)) | np.uint64(icp.xisr)
    if icp.xisr != NO_IRQ:
        icp.cppr = icp.pending_priority
        icp.xisr = NO_IRQ
        icp.pending_priority = _IDLE
        drive(xics, server, 0)
    return xirr


@njit(cache=True)
def icp_eoi(xics, server, xirr):  # type: ignore[no-untyped-def]
    """End of interrupt: CPPR from XIRR's top byte; an LSI still asserted is sent again."""
    irq = np.uint64(xirr) & _XISR
    if is_source(irq):
        source = source_of(xics, irq)
        if source.flags & _LSI:
            source.status &= _NOT_SENT
            note_waiting(xics, irq)
            send(xics, irq)  # its server may be another by now
    icp_set_cppr(xics, server, np.uint64(xirr) >> np.uint64(24))


@njit(cache=True)
def h_cppr(vcpu, partition, machine, cppr):  # type: ignore[no-untyped-def]
    """H_CPPR(cppr)."""
    icp_set_cppr(xics_at(machine.xics), vcpu.index, cppr)
    return SUCCESS


@njit(cache=True)
def h_eoi(vcpu, partition, machine, xirr):  # type: ignore[no-untyped-def]
    """H_EOI(xirr)."""
    icp_eoi(xics_at(machine.xics), vcpu.index, xirr & np.uint64(0xFFFFFFFF))
    return SUCCESS


@njit(cache=True)
def h_ipi(vcpu, partition, machine, server, mfrr):  # type: ignore[no-untyped-def]
    """H_IPI(server, mfrr)."""
    xics = xics_at(machine.xics)
    if not is_server(xics, server):
        return PARAMETER
    icp_set_mfrr(xics, server, mfrr)
    return SUCCESS


@njit(cache=True)
def h_ipoll(vcpu, partition, machine, server):  # type: ignore[no-untyped-def]
    """H_IPOLL(server): r4 = XIRR, r5 = MFRR."""
    xics = xics_at(machine.xics)
    if not is_server(xics, server):
        return PARAMETER
    xirr, mfrr = icp_poll(xics, server)
    set_result(vcpu, 0, xirr)
    set_result(vcpu, 1, mfrr)
    return SUCCESS


@njit(cache=True)
def h_xirr(vcpu, partition, machine):  # type: ignore[no-untyped-def]
    """H_XIRR: r4 = XIRR of the interrupt accepted."""
    set_result(vcpu, 0, icp_accept(xics_at(machine.xics), vcpu.index))
    return SUCCESS


@njit(cache=True)
def h_xirr_x(vcpu, partition, machine):  # type: ignore[no-untyped-def]
    """H_XIRR_X: as H_XIRR; r5 = timebase at which the interrupt was accepted."""
    set_result(vcpu, 0, icp_accept(xics_at(machine.xics), vcpu.index))
    set_result(vcpu, 1, timebase(partition))
    return SUCCESS
