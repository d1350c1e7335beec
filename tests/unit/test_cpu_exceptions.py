"""Synchronous interrupts: vector, SRR0, SRR1 and what else the handler reads."""

from __future__ import annotations

import pytest

from emu.cpu.isa import (
    LPCR_AIL,
    LPCR_ILE,
    LPCR_LPES0,
    MSR_BE,
    MSR_DR,
    MSR_EE,
    MSR_FP,
    MSR_IR,
    MSR_LE,
    MSR_ME,
    MSR_PR,
    MSR_RI,
    MSR_SE,
    MSR_SF,
    MSR_VEC,
    MSR_VSX,
    Spr,
)
from emu.cpu.record import ExitReason
from tests.support import asm
from tests.support.bare import CODE, H_DOUBLE, SCV_VECTOR, BareMachine, bare_machine
from tests.support.paging import KERNEL, enter_problem_state, map_all

BASE = MSR_SF | MSR_ME
H_PRIVILEGE = (1 << 64) - 3
FSCR_SCV = 1 << 12
PRIVILEGED, ILLEGAL, TRAPPED = 0x40000, 0x80000, 0x20000


def handler_msr(machine: BareMachine) -> int:
    """MSR inside the handler, where the run ended."""
    return machine.vcpu.msr


def test_system_call_returns_behind_itself(machine: BareMachine) -> None:
    machine.vcpu.msr = BASE | MSR_EE | MSR_RI
    taken = machine.interrupt(asm.NOP, asm.SC)
    assert (taken.vector, taken.srr0) == (0xC00, CODE + 8)
    assert taken.srr1 == BASE | MSR_EE | MSR_RI
    assert handler_msr(machine) == BASE


def test_hypercall_leaves_run_with_the_program_counter_behind_it(machine: BareMachine) -> None:
    machine.execute(asm.li(3, 0x42), asm.li(4, 7))
    assert (machine.vcpu.gpr(3), machine.vcpu.gpr(4)) == (0x42, 7)
    assert machine.vcpu.record["hypercalls"] == 1


def test_native_hypercall_returns_to_the_guest(machine: BareMachine) -> None:
    machine.execute(asm.li64(3, H_DOUBLE), asm.li(4, 21), asm.EXIT, asm.mr(5, 3), asm.li(3, 0))
    assert machine.vcpu.gpr(5) == 42


@pytest.mark.parametrize("radix", [False, True])
def test_hypercall_from_problem_state_is_refused(machine: BareMachine, radix: bool) -> None:
    enter_problem_state(machine, radix=radix)
    taken = machine.interrupt(asm.li(3, 0x42), asm.EXIT, asm.mr(5, 3), asm.SC)
    assert taken.vector == 0xC00
    assert machine.vcpu.gpr(5) == H_PRIVILEGE
    assert taken.srr1 == BASE | MSR_EE | MSR_PR | MSR_IR | MSR_DR


def test_illegal_instruction(machine: BareMachine) -> None:
    taken = machine.interrupt(asm.NOP, asm.ILLEGAL)
    assert (taken.vector, taken.srr0, taken.srr1) == (0x700, CODE + 4, BASE | ILLEGAL)


def test_privileged_instruction_in_problem_state(machine: BareMachine) -> None:
    enter_problem_state(machine)
    user = machine.vcpu.msr
    for code in (asm.mfmsr(3), asm.mtmsrd(3), asm.RFID, asm.mfspr(3, Spr.SRR0), asm.SLBIA):
        machine.vcpu.msr = user
        taken = machine.interrupt(code)
        assert (taken.vector, taken.srr0, taken.srr1) == (0x700, CODE, user | PRIVILEGED)


@pytest.mark.parametrize("code", [asm.TRAP, asm.twi(4, 0, 0)])
def test_trap(machine: BareMachine, code: int) -> None:
    taken = machine.interrupt(asm.li(0, 0), code)
    assert (taken.vector, taken.srr0, taken.srr1) == (0x700, CODE + 4, BASE | TRAPPED)


@pytest.mark.parametrize(
    ("code", "vector", "bit"),
    [
        (asm.fadd(1, 2, 3), 0x800, MSR_FP),
        (asm.vadduwm(1, 2, 3), 0xF20, MSR_VEC),
        (asm.xxlxor(1, 2, 3), 0xF40, MSR_VSX),
    ],
)
def test_unavailable_facility(machine: BareMachine, code: int, vector: int, bit: int) -> None:
    taken = machine.interrupt(code)
    assert (taken.vector, taken.srr0, taken.srr1) == (vector, CODE, BASE)
    machine.vcpu.msr = BASE | bit
    machine.execute(code)


def test_facility_unavailable_names_the_facility(machine: BareMachine) -> None:
    enter_problem_state(machine)
    taken = machine.interrupt(asm.mfspr(3, Spr.TAR))
    assert (taken.vector, taken.srr0) == (0xF60, CODE)
    assert machine.vcpu.spr(Spr.FSCR) >> 56 == 8


@pytest.mark.parametrize("code", [asm.lwarx(5, 0, 4), asm.ldarx(5, 0, 4)])
def test_alignment_interrupt_gives_the_address(machine: BareMachine, code: int) -> None:
    machine.vcpu.set_spr(Spr.DSISR, 0x40000000)
    machine.vcpu.set_spr(Spr.DAR, 0x1234)
    taken = machine.interrupt(asm.li64(4, 0x3003), asm.li64(0, 0), code)
    assert (taken.vector, taken.srr0, taken.dar) == (0x600, CODE + 40, 0x3003)
    assert not taken.dsisr & 0x40000000


def test_single_step_stops_behind_each_instruction(machine: BareMachine) -> None:
    machine.vcpu.msr = BASE | MSR_SE
    taken = machine.interrupt(asm.li(3, 1), asm.li(3, 2))
    assert (taken.vector, taken.srr0, machine.vcpu.gpr(3)) == (0xD00, CODE + 4, 1)


def test_branch_trace_stops_at_the_target(machine: BareMachine) -> None:
    machine.vcpu.msr = BASE | MSR_BE
    taken = machine.interrupt(asm.li(3, 1), asm.b(8), asm.li(3, 2), asm.NOP)
    assert (taken.vector, taken.srr0, machine.vcpu.gpr(3)) == (0xD00, CODE + 12, 1)


@pytest.mark.parametrize("from_little", [False, True])
def test_interrupts_are_little_endian_as_lpcr_says(from_little: bool) -> None:
    with bare_machine(little=True) as machine:
        machine.vcpu.set_spr(Spr.LPCR, LPCR_LPES0 | LPCR_ILE)
        start = BASE | (MSR_LE if from_little else 0)
        machine.vcpu.msr = start
        taken = machine.interrupt(asm.ILLEGAL)
        assert (taken.vector, taken.srr1) == (0x700, start | ILLEGAL)
        assert handler_msr(machine) == BASE | MSR_LE


def test_interrupts_are_big_endian_by_default(machine: BareMachine) -> None:
    machine.vcpu.msr = BASE | MSR_LE
    assert machine.interrupt(asm.SC).vector == 0xC00
    assert handler_msr(machine) == BASE


@pytest.mark.parametrize("radix", [False, True])
def test_alternate_interrupt_location(machine: BareMachine, radix: bool) -> None:
    """AIL 3: relocation stays on and vectors lie at 0xC000000000004000."""
    enter_problem_state(machine, radix=radix)
    machine.install_vectors(offset=0x4000)
    machine.vcpu.set_spr(Spr.LPCR, LPCR_LPES0 | LPCR_AIL)
    taken = machine.interrupt(asm.SC)
    assert taken.vector == KERNEL + 0x4C00
    assert handler_msr(machine) == BASE | MSR_IR | MSR_DR


def test_alternate_location_needs_relocation(machine: BareMachine) -> None:
    machine.vcpu.set_spr(Spr.LPCR, LPCR_LPES0 | LPCR_AIL)
    assert machine.interrupt(asm.SC).vector == 0xC00


@pytest.mark.parametrize("ail", [False, True])
def test_system_call_vectored_and_back(power9: BareMachine, ail: bool) -> None:
    enter_problem_state(power9, radix=True)
    vcpu = power9.vcpu
    vcpu.set_spr(Spr.FSCR, FSCR_SCV)
    vcpu.set_spr(Spr.LPCR, vcpu.spr(Spr.LPCR) | (LPCR_AIL if ail else 0))
    user = vcpu.msr
    power9.install_vectors(offset=0x4000)
    vector = KERNEL + 0x3000 if ail else SCV_VECTOR
    power9.load(vector & 0xFFFFF, asm.mfmsr(5), asm.mfspr(6, 8), asm.mfspr(7, 9), asm.RFSCV)
    taken = power9.interrupt(asm.SCV_0, asm.mfspr(8, 9), asm.SC)
    assert (taken.vector, taken.srr0, taken.srr1) == (
        (KERNEL + 0x4C00 if ail else 0xC00),
        CODE + 12,
        user,
    )
    relocation = MSR_IR | MSR_DR if ail else 0
    assert [vcpu.gpr(n) for n in (5, 6, 7)] == [BASE | MSR_EE | relocation, CODE + 4, user]


def test_scv_needs_its_facility(power9: BareMachine) -> None:
    enter_problem_state(power9, radix=True)
    taken = power9.interrupt(asm.SCV_0)
    assert (taken.vector, taken.srr0) == (0xF60, CODE)
    assert power9.vcpu.spr(Spr.FSCR) >> 56 == 12


def test_scv_and_rfscv_are_not_of_power8(machine: BareMachine) -> None:
    machine.vcpu.set_spr(Spr.FSCR, FSCR_SCV)
    for code in (asm.SCV_0, asm.RFSCV):
        taken = machine.interrupt(code)
        assert (taken.vector, taken.srr0, taken.srr1) == (0x700, CODE, BASE | ILLEGAL)


def test_rfscv_is_privileged(power9: BareMachine) -> None:
    enter_problem_state(power9, radix=True)
    taken = power9.interrupt(asm.RFSCV)
    assert taken.vector == 0x700
    assert taken.srr1 & (PRIVILEGED | ILLEGAL) == PRIVILEGED


def test_wait_goes_on(machine: BareMachine) -> None:
    loop = [asm.li64(4, 1000), asm.mtctr(4), asm.li(5, 0)]
    machine.execute(loop, asm.WAIT, asm.addi(5, 5, 1), asm.bdnz(-8))
    assert machine.vcpu.gpr(5) == 1000


def test_priority_hints_stay_inside_run(machine: BareMachine) -> None:
    """``or 31,31,31`` and its like."""
    hints = [asm.mr(n, n) for n in (31, 1, 6, 2, 5, 3, 7)]
    machine.execute(asm.li(5, 3), hints, asm.addi(5, 5, 1))
    assert machine.vcpu.gpr(5) == 4


def test_program_counter_zero_is_an_address(machine: BareMachine) -> None:
    machine.execute(asm.li(3, 5), at=0)
    assert machine.vcpu.gpr(3) == 5
    machine.load(CODE, asm.li(3, 0), asm.mtctr(3), asm.BCTR)
    machine.load(0, asm.li(4, 6))
    machine.vcpu.pc = CODE
    assert machine.run() is ExitReason.HYPERCALL
    assert machine.vcpu.gpr(4) == 6


def test_relocation_can_change_inside_a_run(machine: BareMachine) -> None:
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    machine.execute(asm.li64(3, 0x3000), asm.li64(4, KERNEL + 0x3000), asm.std(4, 3), asm.ld(5, 4))
    assert machine.vcpu.gpr(5) == KERNEL + 0x3000
