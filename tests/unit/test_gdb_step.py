"""A debugger's single step: one instruction or one interrupt, whatever the instruction does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import unicorn.unicorn_py3.unicorn as binding

from emu.cpu.debug import VcpuDebug
from emu.cpu.isa import IRQ_EXT, MSR_DR, MSR_EE, MSR_FP, MSR_IR, MSR_LE, MSR_ME, MSR_SF, Spr
from emu.cpu.record import ExitReason
from tests.support import asm
from tests.support.asm import Code
from tests.support.bare import CODE, H_CEDE, H_DOUBLE, SCV_VECTOR, BareMachine
from tests.support.paging import map_all

BASE = MSR_SF | MSR_ME
PRIORITY_HINT = 0x7FFFFB78  # or 31,31,31
LOW_PRIORITY_HINT = 0x7C210B78  # or 1,1,1


class Stepper:
    """A bare machine under a debugger."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine
        self.debug = VcpuDebug(machine.vcpu)

    def start(self, *code: Code, at: int = CODE) -> None:
        """Load code and go to its beginning."""
        self.machine.load(at, *code)
        self.machine.vcpu.pc = at

    def step(self, *, interrupts: bool = False) -> int:
        """One step; where it ends."""
        self.debug.begin_step(interrupts=interrupts)
        reason = self.machine.run()
        assert self.debug.stepped
        assert reason in (ExitReason.DEBUG, ExitReason.HYPERCALL)
        self.debug.end_step()
        return self.machine.vcpu.pc

    def steps(self, count: int) -> list[int]:
        """Several; where each ends."""
        return [self.step() for _ in range(count)]


@pytest.fixture
def stepper(machine: BareMachine) -> Iterator[Stepper]:
    """POWER8."""
    under = Stepper(machine)
    yield under
    under.debug.close()


@pytest.fixture
def stepper9(power9: BareMachine) -> Iterator[Stepper]:
    """POWER9."""
    under = Stepper(power9)
    yield under
    under.debug.close()


def external(machine: BareMachine, level: int) -> None:
    """Drive the external interrupt input."""
    cs = ctypes.c_void_p(int(machine.vcpu.record["cs"]))
    binding.uclib.ppc_set_irq_ppc64(cs, IRQ_EXT, level)


def test_one_instruction_at_a_time(stepper: Stepper) -> None:
    stepper.start(asm.li(3, 1), asm.li(4, 2), asm.add(5, 3, 4), asm.std(5, 0, 0x3000))
    vcpu = stepper.machine.vcpu
    assert stepper.step() == CODE + 4
    assert (vcpu.gpr(3), vcpu.gpr(4)) == (1, 0)
    assert stepper.steps(3) == [CODE + 8, CODE + 12, CODE + 16]
    assert stepper.machine.partition.dma.read_u64_be(0x3000) == 3


def test_branches(stepper: Stepper) -> None:
    target = CODE + 0x100
    stepper.start(asm.b(8), asm.NOP, asm.li64(3, target), asm.mtctr(3), asm.BCTR)
    assert stepper.step() == CODE + 8
    assert stepper.steps(7)[-1] == target


def test_a_loop_that_has_run_before_is_stepped_too(stepper: Stepper) -> None:
    """Blocks that are translated and chained already do not run through."""
    stepper.machine.execute(asm.li(4, 100), asm.mtctr(4), asm.addi(5, 5, 1), asm.bdnz(-4))
    stepper.machine.vcpu.pc = CODE
    there = stepper.steps(6)
    assert there == [CODE + 4, CODE + 8, CODE + 12, CODE + 8, CODE + 12, CODE + 8]
    assert stepper.machine.vcpu.gpr(5) == 102


def test_free_running_after_a_step_is_not_stepping(stepper: Stepper) -> None:
    stepper.start(asm.li(4, 100), asm.mtctr(4), asm.addi(5, 5, 1), asm.bdnz(-4))
    stepper.steps(3)
    assert stepper.machine.run() is ExitReason.HYPERCALL
    assert stepper.machine.vcpu.gpr(5) == 100


def test_a_page_boundary(stepper: Stepper) -> None:
    stepper.start(asm.NOP, asm.NOP, at=CODE + 0xFFC)
    assert stepper.steps(2) == [CODE + 0x1000, CODE + 0x1004]


def test_system_call_ends_at_the_vector(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE | MSR_EE
    stepper.start(asm.SC)
    assert stepper.step() == 0xC00
    assert stepper.machine.vcpu.spr(Spr.SRR0) == CODE + 4


def test_system_call_vectored_and_its_return(stepper9: Stepper) -> None:
    stepper9.machine.vcpu.set_spr(Spr.FSCR, 1 << 12)
    stepper9.start(asm.SCV_0, asm.NOP)
    stepper9.machine.partition.dma.write(SCV_VECTOR, asm.assemble(asm.RFSCV))
    assert stepper9.steps(3) == [SCV_VECTOR, CODE + 4, CODE + 8]


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        (asm.TRAP, 0x700),
        (asm.ILLEGAL, 0x700),
        (asm.fadd(1, 2, 3), 0x800),
        (asm.vadduwm(1, 2, 3), 0xF20),
    ],
)
def test_program_and_unavailable_interrupts(stepper: Stepper, code: int, vector: int) -> None:
    stepper.start(code)
    assert stepper.step() == vector
    assert stepper.machine.vcpu.spr(Spr.SRR0) == CODE


def test_a_storage_interrupt(stepper: Stepper) -> None:
    machine = stepper.machine
    machine.tables = map_all(machine, radix=False)
    stepper.start(asm.li64(3, 0xD << 60), asm.ld(4, 3))
    machine.vcpu.msr |= MSR_IR | MSR_DR
    assert stepper.steps(6)[-1] == 0x380  # no SLB entry
    assert machine.vcpu.spr(Spr.SRR0) == CODE + 20


def test_an_instruction_storage_interrupt(stepper: Stepper) -> None:
    machine = stepper.machine
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.pc = 0xD << 60
    machine.vcpu.msr |= MSR_IR | MSR_DR
    assert stepper.step() == 0x480


def test_native_hypercall(stepper: Stepper) -> None:
    stepper.start(asm.EXIT)
    stepper.machine.vcpu.set_gpr(3, H_DOUBLE)
    stepper.machine.vcpu.set_gpr(4, 21)
    assert stepper.step() == CODE + 4
    assert stepper.machine.vcpu.gpr(3) == 42


def test_hypercall_that_leaves_run_is_a_step(stepper: Stepper) -> None:
    stepper.start(asm.EXIT, asm.li(3, 5))
    stepper.debug.begin_step(interrupts=False)
    assert stepper.machine.run() is ExitReason.HYPERCALL
    assert stepper.debug.stepped
    stepper.debug.end_step()
    assert stepper.step() == CODE + 8


def test_cede_does_not_sleep_in_a_step(stepper: Stepper) -> None:
    stepper.start(asm.li(3, H_CEDE), asm.EXIT, asm.li(20, 1))
    assert stepper.steps(3) == [CODE + 4, CODE + 8, CODE + 12]
    assert stepper.machine.vcpu.gpr(20) == 1
    assert not stepper.machine.vcpu.record["prodded"]


def test_a_prod_that_came_before_a_step_is_kept(stepper: Stepper) -> None:
    stepper.machine.vcpu.record["prodded"] = 1
    stepper.start(asm.NOP)
    stepper.step()
    assert stepper.machine.vcpu.record["prodded"]


def test_a_sleeping_cpu_wakes_for_a_step(stepper: Stepper) -> None:
    stepper.start(asm.li(20, 1))
    stepper.machine.vcpu.record["halted"] = 1
    assert stepper.step() == CODE + 4
    assert stepper.machine.vcpu.gpr(20) == 1


def test_a_sleeping_cpu_that_goes_to_sleep_again(stepper: Stepper) -> None:
    stepper.start(asm.EXIT)
    stepper.machine.vcpu.set_gpr(3, H_CEDE)
    stepper.machine.vcpu.record["halted"] = 1
    assert stepper.step() == CODE + 4


@pytest.mark.parametrize("hint", [PRIORITY_HINT, LOW_PRIORITY_HINT, asm.WAIT])
def test_hints_that_break_the_cpu_loop(stepper: Stepper, hint: int) -> None:
    stepper.start(hint, asm.li(5, 1), asm.li(6, 1))
    assert stepper.step() == CODE + 4
    assert stepper.machine.vcpu.gpr(5) == 0


def test_mtmsrd_into_little_endian_and_back(stepper: Stepper) -> None:
    vcpu = stepper.machine.vcpu
    stepper.start(asm.mtmsrd(3))
    vcpu.set_gpr(3, BASE | MSR_LE)
    little = [asm.li(5, 1), asm.mtmsrd(4)]
    stepper.machine.partition.dma.write(CODE + 4, asm.assemble(*little, little=True))
    stepper.machine.partition.dma.write(CODE + 12, asm.assemble(asm.li(6, 1)))
    vcpu.set_gpr(4, BASE)
    assert stepper.step() == CODE + 4
    assert vcpu.msr & MSR_LE
    assert stepper.steps(3) == [CODE + 8, CODE + 12, CODE + 16]
    assert (vcpu.gpr(5), vcpu.gpr(6), vcpu.msr & MSR_LE) == (1, 1, 0)


def test_rfid_into_little_endian(stepper: Stepper) -> None:
    vcpu = stepper.machine.vcpu
    vcpu.set_spr(Spr.SRR0, CODE + 0x100)
    vcpu.set_spr(Spr.SRR1, BASE | MSR_LE)
    stepper.start(asm.RFID)
    stepper.machine.partition.dma.write(CODE + 0x100, asm.assemble(asm.li(5, 1), little=True))
    assert stepper.steps(2) == [CODE + 0x100, CODE + 0x104]
    assert vcpu.gpr(5) == 1


def test_store_conditional_succeeds_when_stepped(stepper: Stepper) -> None:
    vcpu = stepper.machine.vcpu
    stepper.start(asm.lwarx(5, 0, 3), asm.addi(5, 5, 1), asm.stwcx(5, 0, 3))
    vcpu.set_gpr(3, 0x3000)
    stepper.steps(3)
    assert stepper.machine.partition.dma.read(0x3000, 4) == b"\0\0\0\1"


def test_a_pending_interrupt_is_left_alone(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE | MSR_EE
    stepper.start(asm.li(5, 1), asm.li(6, 1))
    external(stepper.machine, 1)
    assert stepper.steps(2) == [CODE + 4, CODE + 8]
    assert stepper.machine.run_to_interrupt().vector == 0x500


def test_a_pending_interrupt_is_a_step_when_wanted(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE | MSR_EE
    stepper.start(asm.li(5, 1))
    external(stepper.machine, 1)
    assert stepper.step(interrupts=True) == 0x500
    assert stepper.machine.vcpu.gpr(5) == 0
    assert stepper.machine.vcpu.spr(Spr.SRR0) == CODE


def test_a_masked_interrupt_is_no_step(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE
    stepper.start(asm.li(5, 1))
    external(stepper.machine, 1)
    assert stepper.step(interrupts=True) == CODE + 4
    assert stepper.machine.vcpu.gpr(5) == 1


def test_an_interrupt_that_mtmsrd_lets_in_is_a_step_of_its_own(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE
    stepper.start(asm.mtmsrd(3), asm.li(5, 1))
    stepper.machine.vcpu.set_gpr(3, BASE | MSR_EE)
    external(stepper.machine, 1)
    assert stepper.step(interrupts=True) == CODE + 4
    assert stepper.step(interrupts=True) == 0x500


def test_code_that_changes_is_stepped_as_it_is(stepper: Stepper) -> None:
    for value in (1, 2):
        stepper.start(asm.li(5, value))
        stepper.step()
        assert stepper.machine.vcpu.gpr(5) == value


def test_floating_point_and_the_facility_stay_available(stepper: Stepper) -> None:
    stepper.machine.vcpu.msr = BASE | MSR_FP
    stepper.machine.partition.dma.write_u64_be(0x3000, 0x4000000000000000)
    stepper.start(asm.lfd(1, 3), asm.fadd(2, 1, 1))
    stepper.machine.vcpu.set_gpr(3, 0x3000)
    assert stepper.steps(2) == [CODE + 4, CODE + 8]


def test_a_kick_does_not_count_as_a_step(stepper: Stepper) -> None:
    stepper.start(asm.li(5, 1))
    stepper.machine.vcpu.kick()
    stepper.debug.begin_step(interrupts=False)
    assert stepper.machine.run() is ExitReason.KICKED
    assert not stepper.debug.stepped
    assert stepper.machine.run() is ExitReason.DEBUG
    assert stepper.debug.stepped
    assert stepper.machine.vcpu.gpr(5) == 1
