"""A trace and a debugger on one guest, switched on and off in any order."""

from __future__ import annotations

import itertools

import pytest

from emu.cpu.debug import Access, VcpuDebug, Watchpoint
from emu.cpu.isa import MSR_DR, MSR_IR, MSR_ME, MSR_SF
from emu.cpu.record import ExitReason
from emu.trace.record import Item
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import map_all
from tests.support.traced import Traced

WATCHED, UNMAPPED = 0x40000, 0xF000000
STEPS = ("trace on", "trace off", "watch", "unwatch")


class Both:
    """What happens to a guest that stores to WATCHED and then faults."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine
        machine.tables = map_all(machine, radix=False)
        machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
        self.trace = Traced(machine)
        self.debug: VcpuDebug | None = None
        self.traced = self.watched = False

    def do(self, step: str) -> None:
        if step.startswith("trace"):
            self.traced = step == "trace on"
            self.trace.items(Item.MMU if self.traced else Item(0))
            return
        if self.debug is None:
            self.debug = VcpuDebug(self.machine.vcpu)
        self.watched = step == "watch"
        points = [Watchpoint(WATCHED, WATCHED + 7, Access.WRITE)] if self.watched else []
        self.debug.set_watchpoints(points)

    def check(self) -> None:
        machine, vcpu = self.machine, self.machine.vcpu
        vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
        machine.partition.flush_tlb()
        store = [asm.li64(4, WATCHED), asm.std(3, 4)]
        machine.load(CODE, store, asm.li64(4, UNMAPPED), asm.ld(3, 4))
        vcpu.pc = CODE
        reason = machine.run()
        assert (reason is ExitReason.DEBUG) == self.watched
        if self.watched:
            vcpu.pc = CODE + 24
            assert machine.run() is ExitReason.HYPERCALL
        assert vcpu.pc == 0x304  # the fault came through
        faults = [line for line in self.trace.lines() if line.startswith("mmu: load")]
        if not self.watched:
            assert len(faults) == int(self.traced)
        else:  # a debugger that came first may hide the fault from the trace
            assert len(faults) <= int(self.traced)

    def close(self) -> None:
        if self.debug is not None:
            self.debug.close()
        self.trace.close()


@pytest.mark.parametrize("steps", list(itertools.product(STEPS, repeat=4))[::3])
def test_any_order_of_trace_and_watchpoints(machine: BareMachine, steps: tuple[str, ...]) -> None:
    both = Both(machine)
    try:
        for step in steps:
            both.do(step)
            both.check()
    finally:
        both.close()
