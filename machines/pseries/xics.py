"""XICS, the PAPR interrupt controller, as devices, RTAS and migration see it.

LoPAPR 1.1, 14.5.4.2 (hypercalls) and chapter 6 (interrupt controller).  The two layers are in
:mod:`machines.pseries.xics_presentation` and :mod:`machines.pseries.xics_source`, the way between
them in :mod:`machines.pseries.xics_delivery`.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from emu.cpu.partition import Partition
from emu.cpu.record import MAX_VCPUS
from emu.log import log
from machines.pseries.xics_delivery import refresh_at
from machines.pseries.xics_record import (
    ASSERTED,
    ICP_DTYPE,
    IRQ_BASE,
    LSI,
    MASKED,
    MSI,
    SOURCE_COUNT,
    SOURCE_DTYPE,
    XICS_DTYPE,
)
from machines.pseries.xics_source import set_irq_at, write_xive_at

_irq_log = log("irq")


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
            if _irq_log.enabled:
                _irq_log("source %#x (%s): %d", irq, self.names.get(irq, "none"), level)
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
        if _irq_log.enabled:
            _irq_log("source %#x: server %d, priority %#x", irq, server, priority)
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

        Sources that do not exist here yet are created.  Nothing is sent before :meth:`resume`.
        """
        self._check_state(state)
        for icp, (xirr, pending_priority, mfrr) in zip(self._icps, state["servers"], strict=False):
            icp["cppr"], icp["xisr"] = xirr >> 24, xirr & 0xFFFFFF
            icp["pending_priority"], icp["mfrr"] = pending_priority, mfrr
        for irq, fields in state["sources"].items():
            self.names.setdefault(irq, "restored")
            self._sources[irq - IRQ_BASE] = fields

    def resume(self) -> None:
        """A loaded state goes into effect: CPUs' inputs, and what can be sent."""
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
