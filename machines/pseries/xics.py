"""XICS, the PAPR interrupt controller: presentation (ICP) and source (ICS) layers.

LoPAPR 1.1, 14.5.4.2 (hypercalls) and chapter 6 (interrupt controller); the priorities are those
of the PowerPC External Interrupt architecture: 0 is the most favoured, 0xff masks.

An interrupt is in one place at a time.  An ICP *presents* one (XISR) to its CPU; what it rejects
goes back to its source and *waits* there: an MSI as a pending bit, an LSI because its line is
asserted and it was not sent.  Waiting interrupts are offered again when an ICP gets room (EOI,
CPPR) or their source is unmasked.  A source whose ICP presents it takes no second MSI: the guest
has yet to accept the first.

Everything runs on the vCPU thread.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numba import njit, types

from emu.cpu.clock import timebase
from emu.cpu.exceptions import set_external_interrupt
from emu.cpu.partition import Partition
from emu.cpu.record import MAX_VCPUS, partition_at, vcpu_at
from emu.memory.native import record_pointer
from machines.pseries.hpt import PARAMETER, SUCCESS, set_result

IRQ_BASE = 0x1000
SOURCE_COUNT = 1024
IPI = 2
MASKED = 0xFF

# SOURCE_DTYPE.flags: the kind of a source; neither for one that does not exist
LSI = 1
MSI = 2
# SOURCE_DTYPE.status
ASSERTED = 1  # level of an LSI's line
SENT = 2  # an LSI is presented or in service
PENDING = 4  # an MSI waits

ICP_DTYPE = np.dtype(
    [
        ("xisr", "u4"),  # the interrupt presented, 0 for none
        ("cppr", "u1"),
        ("pending_priority", "u1"),  # of XISR; 0xff when there is none
        ("mfrr", "u1"),
    ],
    align=True,
)

SOURCE_DTYPE = np.dtype(
    [
        ("server", "u4"),
        ("priority", "u1"),
        ("saved_priority", "u1"),  # what ibm,int-on goes back to
        ("status", "u1"),
        ("flags", "u1"),
    ],
    align=True,
)

XICS_DTYPE = np.dtype(
    [
        ("partition", "u8"),  # PARTITION_DTYPE record; its vCPUs are the servers
        ("icps", "u8"),  # MAX_VCPUS ICP_DTYPE records
        ("sources", "u8"),  # SOURCE_COUNT SOURCE_DTYPE records, from IRQ_BASE on
        ("waiting", "u8", (SOURCE_COUNT // 64,)),  # bit per source that has something to send
    ],
    align=True,
)

xics_at = record_pointer(XICS_DTYPE)
icp_at = record_pointer(ICP_DTYPE)
source_at = record_pointer(SOURCE_DTYPE)

_ICP_SIZE = np.uint64(ICP_DTYPE.itemsize)
_SOURCE_SIZE = np.uint64(SOURCE_DTYPE.itemsize)
_BASE = np.uint64(IRQ_BASE)
_COUNT = np.uint64(SOURCE_COUNT)
_ONE = np.uint64(1)
_LSI, _MSI = np.uint8(LSI), np.uint8(MSI)
_ASSERTED, _SENT, _PENDING = np.uint8(ASSERTED), np.uint8(SENT), np.uint8(PENDING)
_NOT_ASSERTED, _NOT_SENT, _NOT_PENDING = (np.uint8(0xFF & ~bit) for bit in (1, 2, 4))
_IDLE = np.uint8(MASKED)
_BYTE = np.uint64(0xFF)
_XISR = np.uint64(0xFFFFFF)
_NO_IRQ = np.uint32(0)


@njit(cache=True)
def _icp(xics, server):  # type: ignore[no-untyped-def]
    return icp_at(xics.icps + np.uint64(server) * _ICP_SIZE)


@njit(cache=True)
def _source(xics, irq):  # type: ignore[no-untyped-def]
    return source_at(xics.sources + (np.uint64(irq) - _BASE) * _SOURCE_SIZE)


@njit(cache=True)
def _is_source(irq):  # type: ignore[no-untyped-def]
    # below IRQ_BASE the difference wraps around
    return np.uint64(irq) - _BASE < _COUNT


@njit(cache=True)
def _is_server(xics, server):  # type: ignore[no-untyped-def]
    return np.uint64(server) < np.uint64(partition_at(xics.partition).vcpu_count)


@njit(cache=True)
def _drive(xics, server, level):  # type: ignore[no-untyped-def]
    partition = partition_at(xics.partition)
    set_external_interrupt(vcpu_at(partition.vcpus[np.uint64(server)]), np.uint32(level))


@njit(cache=True)
def _waits(source):  # type: ignore[no-untyped-def]
    if source.flags & _LSI:
        return source.status & (_ASSERTED | _SENT) == _ASSERTED
    return source.status & _PENDING != 0


@njit(cache=True)
def _note_waiting(xics, irq):  # type: ignore[no-untyped-def]
    """Bring the bitmap of waiting sources up to date."""
    index = np.uint64(irq) - _BASE
    word, bit = index >> np.uint64(6), _ONE << (index & np.uint64(63))
    if _waits(_source(xics, irq)):
        xics.waiting[word] = xics.waiting[word] | bit
    else:
        xics.waiting[word] = xics.waiting[word] & ~bit


@njit(cache=True)
def _reject(xics, irq):  # type: ignore[no-untyped-def]
    """An ICP gives an interrupt back; an IPI needs nothing, MFRR remembers it."""
    if not _is_source(irq):
        return
    source = _source(xics, irq)
    if source.flags & _LSI:
        source.status &= _NOT_SENT
    elif source.flags & _MSI:
        source.status |= _PENDING
    _note_waiting(xics, irq)


@njit(cache=True)
def _present(xics, server, irq, priority):  # type: ignore[no-untyped-def]
    """Show an interrupt to a CPU unless a more favoured one stands in the way.

    Returns (whether it did, the interrupt this displaced or 0).
    """
    icp = _icp(xics, server)
    if priority >= icp.cppr or (icp.xisr != _NO_IRQ and icp.pending_priority <= priority):
        return False, _NO_IRQ
    displaced = icp.xisr
    icp.xisr = np.uint32(irq)
    icp.pending_priority = priority
    _reject(xics, displaced)
    _drive(xics, server, 1)
    return True, displaced


@njit(cache=True)
def _send(xics, irq):  # type: ignore[no-untyped-def]
    """Offer a waiting source to its server, and what that displaces to its own.

    The guest may have routed the displaced source elsewhere while it was presented.  This ends:
    each round makes some server's interrupt more favoured.
    """
    number = np.uint64(irq)
    while _is_source(number):
        source = _source(xics, number)
        if not _waits(source):
            return
        shown, displaced = _present(xics, source.server, number, source.priority)
        if not shown:
            return
        if source.flags & _LSI:
            source.status |= _SENT
        else:
            source.status &= _NOT_PENDING
        _note_waiting(xics, number)
        number = np.uint64(displaced)


@njit(cache=True)
def _send_ipi(xics, server):  # type: ignore[no-untyped-def]
    """Present the IPI that MFRR asks for, if any."""
    _shown, displaced = _present(xics, server, IPI, _icp(xics, server).mfrr)
    _send(xics, displaced)


@njit(cache=True)
def _resend(xics, server):  # type: ignore[no-untyped-def]
    """Offer everything that waits for a server."""
    _send_ipi(xics, server)
    for word in range(SOURCE_COUNT // 64):
        bits = xics.waiting[word]
        irq = _BASE + np.uint64(64 * word)
        while bits != 0:
            if bits & _ONE and _source(xics, irq).server == server:
                _send(xics, irq)
            bits >>= _ONE
            irq += _ONE


@njit(cache=True)
def icp_set_cppr(xics, server, cppr):  # type: ignore[no-untyped-def]
    """Set a server's priority (low byte): reject what it no longer admits, resend what waits."""
    icp = _icp(xics, server)
    icp.cppr = np.uint8(np.uint64(cppr) & _BYTE)
    rejected = _NO_IRQ
    if icp.xisr != _NO_IRQ and icp.pending_priority >= icp.cppr:
        rejected = icp.xisr
        icp.xisr = _NO_IRQ
        icp.pending_priority = _IDLE
        _drive(xics, server, 0)
        _reject(xics, rejected)
    if icp.xisr == _NO_IRQ:
        _resend(xics, np.uint32(server))
    _send(xics, rejected)  # its server may be another by now


@njit(cache=True)
def icp_set_mfrr(xics, server, mfrr):  # type: ignore[no-untyped-def]
    """Request an IPI of a priority (low byte); 0xff requests none.

    An IPI that is presented already is not taken back.
    """
    icp = _icp(xics, server)
    icp.mfrr = np.uint8(np.uint64(mfrr) & _BYTE)
    _send_ipi(xics, server)


@njit(cache=True)
def icp_poll(xics, server):  # type: ignore[no-untyped-def]
    """(XIRR, MFRR) without accepting anything."""
    icp = _icp(xics, server)
    return (np.uint64(icp.cppr) << np.uint64(24)) | np.uint64(icp.xisr), np.uint64(icp.mfrr)


@njit(cache=True)
def icp_accept(xics, server):  # type: ignore[no-untyped-def]
    """Take the presented interrupt: returns XIRR (old CPPR, XISR), CPPR becomes its priority.

    Without one, XISR is 0 and CPPR stays.
    """
    icp = _icp(xics, server)
    xirr = (np.uint64(icp.cppr) << np.uint64(24)) | np.uint64(icp.xisr)
    if icp.xisr != _NO_IRQ:
        icp.cppr = icp.pending_priority
        icp.xisr = _NO_IRQ
        icp.pending_priority = _IDLE
        _drive(xics, server, 0)
    return xirr


@njit(cache=True)
def icp_eoi(xics, server, xirr):  # type: ignore[no-untyped-def]
    """End of interrupt: CPPR from XIRR's top byte; an LSI still asserted is sent again."""
    irq = np.uint64(xirr) & _XISR
    if _is_source(irq):
        source = _source(xics, irq)
        if source.flags & _LSI:
            source.status &= _NOT_SENT
            _note_waiting(xics, irq)
            _send(xics, irq)  # its server may be another by now
    icp_set_cppr(xics, server, np.uint64(xirr) >> np.uint64(24))


@njit(cache=True)
def ics_set_level(xics, irq, level):  # type: ignore[no-untyped-def]
    """Drive the line of an LSI; other numbers are ignored."""
    if not _is_source(irq):
        return
    source = _source(xics, irq)
    if not source.flags & _LSI:
        return
    if level != 0:
        source.status |= _ASSERTED
    else:
        source.status &= _NOT_ASSERTED
    _note_waiting(xics, irq)
    _send(xics, irq)


@njit(cache=True)
def ics_pulse(xics, irq):  # type: ignore[no-untyped-def]
    """An MSI arrives; other numbers are ignored."""
    if not _is_source(irq):
        return
    source = _source(xics, irq)
    if not source.flags & _MSI or _icp(xics, source.server).xisr == np.uint32(irq):
        return
    source.status |= _PENDING
    _note_waiting(xics, irq)
    _send(xics, irq)


@njit(cache=True)
def ics_write_xive(xics, irq, server, priority, saved):  # type: ignore[no-untyped-def]
    """Route a source; priorities are low bytes.  False for an unknown source or server."""
    if not _is_source(irq) or not _is_server(xics, server):
        return False
    source = _source(xics, irq)
    source.server = np.uint32(server)
    source.priority = np.uint8(np.uint64(priority) & _BYTE)
    source.saved_priority = np.uint8(np.uint64(saved) & _BYTE)
    _send(xics, irq)
    return True


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
    if not _is_server(xics, server):
        return PARAMETER
    icp_set_mfrr(xics, server, mfrr)
    return SUCCESS


@njit(cache=True)
def h_ipoll(vcpu, partition, machine, server):  # type: ignore[no-untyped-def]
    """H_IPOLL(server): r4 = XIRR, r5 = MFRR."""
    xics = xics_at(machine.xics)
    if not _is_server(xics, server):
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


@njit(types.void(types.uint64), cache=True)
def refresh_at(xics_address):  # type: ignore[no-untyped-def]
    """Make everything derived agree with the ICPs and sources, and send what can be sent."""
    xics = xics_at(xics_address)
    for index in range(SOURCE_COUNT):
        _note_waiting(xics, _BASE + np.uint64(index))
    for server in range(partition_at(xics.partition).vcpu_count):
        icp = _icp(xics, server)
        _drive(xics, server, 1 if icp.xisr != _NO_IRQ else 0)
        if icp.xisr == _NO_IRQ:
            _resend(xics, np.uint32(server))


class XicsState(TypedDict):
    """What a migration carries; both lists hold plain numbers."""

    #: (XIRR, pending priority, MFRR) of each server
    servers: list[tuple[int, int, int]]
    #: interrupt number: (server, priority, saved priority, status, flags)
    sources: dict[int, tuple[int, int, int, int, int]]


class Xics:
    """The interrupt controller of a partition, whose vCPUs exist already.

    All methods run on the vCPU thread, or while no vCPU runs.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._icps = np.zeros(MAX_VCPUS, ICP_DTYPE)
        self._sources = np.zeros(SOURCE_COUNT, SOURCE_DTYPE)
        self._array = np.zeros(1, XICS_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data
        self.names: dict[int, str] = {}
        self.record["partition"] = partition.address
        self.record["icps"] = self._icps.ctypes.data
        self.record["sources"] = self._sources.ctypes.data
        self.reset()

    def reset(self) -> None:
        """Mask every source and forget what was sent; LSI lines keep their level."""
        self._icps["xisr"] = self._icps["cppr"] = 0
        self._icps["pending_priority"] = self._icps["mfrr"] = MASKED
        self._sources["server"] = 0
        self._sources["priority"] = self._sources["saved_priority"] = MASKED
        self._sources["status"] &= ASSERTED
        refresh_at(self.address)

    def claim(self, irq: int, *, lsi: bool, name: str) -> int:
        """Create the source with this number; ``ValueError`` if it is taken or impossible."""
        if not self.is_source(irq):
            raise ValueError(f"{name}: no interrupt source {irq:#x}")
        if irq in self.names:
            raise ValueError(f"{name}: interrupt {irq:#x} belongs to {self.names[irq]}")
        self.names[irq] = name
        source = self._sources[irq - IRQ_BASE]
        source["flags"] = LSI if lsi else MSI
        source["status"] = 0
        return irq

    def allocate(self, count: int, *, lsi: bool, name: str, alignment: int = 1) -> int:
        """Create ``count`` consecutive sources; returns the first number.

        Its distance from ``IRQ_BASE`` is a multiple of ``alignment``.  ``ValueError`` when
        there are not so many left.
        """
        for first in range(IRQ_BASE, IRQ_BASE + SOURCE_COUNT - count + 1, alignment):
            block = range(first, first + count)
            if not any(irq in self.names for irq in block):
                for irq in block:
                    self.claim(irq, lsi=lsi, name=name)
                return first
        raise ValueError(f"{name}: no {count} free interrupts")

    def free(self, first: int, count: int = 1) -> None:
        """Remove sources; one that is presented just now still reaches the guest."""
        for irq in range(first, first + count):
            del self.names[irq]
            self._sources[irq - IRQ_BASE] = (0, MASKED, MASKED, 0, 0)
        refresh_at(self.address)

    def set_irq(self, irq: int, level: int) -> None:
        """Drive an LSI's line, or send an MSI (``level`` 1).  Unknown numbers are ignored."""
        if self.is_source(irq):
            set_irq_at(self.address, irq, level)

    def is_source(self, irq: int) -> bool:
        """Whether a number can be a source's."""
        return IRQ_BASE <= irq < IRQ_BASE + SOURCE_COUNT

    def get_xive(self, irq: int) -> tuple[int, int] | None:
        """(server, priority) of a source; None for an unknown one."""
        if not self.is_source(irq):
            return None
        source = self._sources[irq - IRQ_BASE]
        return int(source["server"]), int(source["priority"])

    def set_xive(self, irq: int, server: int, priority: int) -> bool:
        """Route a source; False for an unknown source, server or priority."""
        return priority <= MASKED and self._write_xive(irq, server, priority, priority)

    def int_off(self, irq: int) -> bool:
        """Mask a source, keeping its priority for :meth:`int_on`; False for an unknown one."""
        xive = self.get_xive(irq)
        if xive is None or xive[1] == MASKED:
            return xive is not None  # masked twice: the priority saved first counts
        return self._write_xive(irq, xive[0], MASKED, xive[1])

    def int_on(self, irq: int) -> bool:
        """Give a source its saved priority; False for an unknown one."""
        xive = self.get_xive(irq)
        if xive is None:
            return False
        saved = int(self._sources[irq - IRQ_BASE]["saved_priority"])
        return self._write_xive(irq, xive[0], saved, saved)

    def _write_xive(self, irq: int, server: int, priority: int, saved: int) -> bool:
        return bool(write_xive_at(self.address, irq, server, priority, saved))

    def save_state(self) -> XicsState:
        """Everything the guest can see, in plain numbers."""
        servers = [
            (icp["cppr"].item() << 24 | icp["xisr"].item(), *icp.item()[2:4])
            for icp in self._icps[: len(self._partition.vcpus)]
        ]
        sources = {irq: self._sources[irq - IRQ_BASE].item() for irq in sorted(self.names)}
        return {"servers": servers, "sources": sources}

    def load_state(self, state: XicsState) -> None:
        """Take over a saved state; ``ValueError`` if this machine cannot have it.

        Sources that do not exist here yet are created.
        """
        self._check_state(state)
        for icp, (xirr, pending_priority, mfrr) in zip(self._icps, state["servers"], strict=False):
            icp["cppr"], icp["xisr"] = xirr >> 24, xirr & 0xFFFFFF
            icp["pending_priority"], icp["mfrr"] = pending_priority, mfrr
        for irq, fields in state["sources"].items():
            self.names.setdefault(irq, "restored")
            self._sources[irq - IRQ_BASE] = fields
        refresh_at(self.address)

    def _check_state(self, state: XicsState) -> None:
        servers = len(self._partition.vcpus)
        if len(state["servers"]) != servers:
            raise ValueError(f"xics: state of {len(state['servers'])} servers, not {servers}")
        for xirr, pending_priority, mfrr in state["servers"]:
            if not (0 <= xirr < 1 << 32 and 0 <= pending_priority <= 0xFF and 0 <= mfrr <= 0xFF):
                raise ValueError(f"xics: impossible XIRR {xirr:#x}")
        missing = self.names.keys() - state["sources"].keys()
        if missing:
            raise ValueError(f"xics: no state of interrupt {min(missing):#x}")
        for irq, (server, *others) in state["sources"].items():
            here = int(self._sources[irq - IRQ_BASE]["flags"]) if irq in self.names else others[3]
            if (
                not self.is_source(irq)
                or not 0 <= server < servers
                or not all(0 <= value <= 0xFF for value in others)
                or others[3] != here
                or others[3] not in (LSI, MSI)
            ):
                raise ValueError(f"xics: impossible state of interrupt {irq:#x}")
