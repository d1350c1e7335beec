"""A guest without a machine: RAM, one vCPU, and hypercalls that come back to the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cfunc, types

from emu.cpu.exceptions import cede
from emu.cpu.isa import MSR_LE, Spr
from emu.cpu.partition import Partition
from emu.cpu.record import ExitReason, Hcall, vcpu_at
from emu.cpu.vcpu import Vcpu
from emu.memory.native import load_u64, store_u64
from emu.memory.ram import GuestRam
from tests.support.asm import EXIT, Code, assemble

RAM_SIZE = 64 << 20
H_CEDE = 0xE0
H_DOUBLE = 0xF001  # not PAPR's: r3 := 2 * r4, without leaving native code
# fmt: off
VECTORS = (
    0x100, 0x200, 0x300, 0x380, 0x400, 0x480, 0x500, 0x600, 0x700, 0x800,
    0x900, 0xA00, 0xC00, 0xD00, 0xE00, 0xE40, 0xF00, 0xF20, 0xF40, 0xF60,
)
# fmt: on
SCV_VECTOR = 0x17000
CODE = 0x10000
TIMEOUT = 20.0


@cfunc(types.uint64(types.uint64), cache=True)
def bare_hypercall(vcpu_address: int) -> Any:
    """H_CEDE and H_DOUBLE as a machine would do them; all else leaves ``run()``."""
    vcpu = vcpu_at(vcpu_address)
    number = load_u64(vcpu.env + np.uint64(24))
    if number == np.uint64(H_CEDE):
        store_u64(vcpu.env + np.uint64(24), np.uint64(0))
        return np.uint64(cede(vcpu_address))
    if number == np.uint64(H_DOUBLE):
        store_u64(vcpu.env + np.uint64(24), load_u64(vcpu.env + np.uint64(32)) * np.uint64(2))
        return np.uint64(Hcall.DONE)
    return np.uint64(Hcall.EXIT)


@dataclass(frozen=True)
class Interrupt:
    """What the guest's handler would find."""

    vector: int
    srr0: int
    srr1: int
    dar: int
    dsisr: int


class BareMachine:
    """RAM and one vCPU in real mode; every interrupt vector holds an exit.

    ``little`` fills the vectors with little-endian code.  The clock stands still until
    ``partition.start_clock()``.
    """

    def __init__(self, model: str = "power8", *, ram: int = RAM_SIZE, little: bool = False) -> None:
        self.tables: object = None  # keeps page tables outside guest RAM alive
        self.ram = GuestRam(ram)
        self.partition = Partition(self.ram)
        self.partition.record["hypercall"] = bare_hypercall.address
        self.vcpu = Vcpu(self.partition, 0, model)
        self.install_vectors(little=little)

    def install_vectors(self, *, little: bool = False, offset: int = 0) -> None:
        """Put an exit at every vector, in the given byte order."""
        code = assemble(EXIT, little=little)
        for vector in (*VECTORS, SCV_VECTOR):
            self.partition.dma.write(offset + vector, code)

    def load(self, address: int, *code: Code, little: bool | None = None) -> int:
        """Write code followed by an exit; returns the address after it."""
        if little is None:
            little = bool(self.vcpu.msr & MSR_LE)
        data = assemble(*code, EXIT, little=little)
        self.partition.dma.write(address, data)
        return address + len(data)

    def run(self) -> ExitReason:
        """Run until the guest leaves; fails if it does not."""
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self.vcpu.kick()

        timer = threading.Timer(TIMEOUT, stop)
        timer.start()
        try:
            reason = self.vcpu.run()
        finally:
            timer.cancel()
        assert not timed_out.is_set(), f"the guest hangs at {self.vcpu.pc:#x}"
        return reason

    def execute(self, *code: Code, at: int = CODE) -> None:
        """Run code to its end; an interrupt on the way fails the test."""
        end = self.load(at, *code)
        self.vcpu.pc = at
        reason = self.run()
        assert reason is ExitReason.HYPERCALL, reason
        assert self.vcpu.pc == end, f"ended at {self.vcpu.pc:#x} instead of {end:#x}"

    def interrupt(self, *code: Code, at: int = CODE) -> Interrupt:
        """Run code that ends in an interrupt, and tell which."""
        self.load(at, *code)
        self.vcpu.pc = at
        return self.run_to_interrupt()

    def run_to_interrupt(self) -> Interrupt:
        """Go on until an interrupt vector is entered."""
        reason = self.run()
        assert reason is ExitReason.HYPERCALL, reason
        spr = self.vcpu.spr
        return Interrupt(
            self.vcpu.pc - 4, spr(Spr.SRR0), spr(Spr.SRR1), spr(Spr.DAR), spr(Spr.DSISR)
        )

    def close(self) -> None:
        """Release everything."""
        self.partition.close()


@contextmanager
def bare_machine(
    model: str = "power8", *, ram: int = RAM_SIZE, little: bool = False
) -> Iterator[BareMachine]:
    """A :class:`BareMachine` for the length of a ``with`` block."""
    machine = BareMachine(model, ram=ram, little=little)
    try:
        yield machine
    finally:
        machine.close()
