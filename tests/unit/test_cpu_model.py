"""Unicorn's core dressed as POWER8 or POWER9 without hypervisor state."""

from __future__ import annotations

import pytest

from emu.cpu.isa import (
    LPCR_LPES0,
    MSR_EE,
    MSR_HV,
    MSR_LE,
    MSR_ME,
    MSR_POW,
    MSR_PR,
    MSR_SF,
    PVR_BY_MODEL,
    Spr,
)
from emu.cpu.record import ExitReason
from tests.support import asm
from tests.support.bare import CODE, BareMachine, bare_machine

MSR_TM = 7 << 32  # TM and both TS bits
PRIVILEGED, ILLEGAL = 0x40000, 0x80000  # SRR1 of a program interrupt


@pytest.mark.parametrize("model", ["power8", "power9"])
def test_the_guest_reads_the_version_of_its_model(model: str) -> None:
    with bare_machine(model) as machine:
        machine.execute(asm.mfspr(3, Spr.PVR), asm.mfspr(4, Spr.PIR))
        assert machine.vcpu.gpr(3) == PVR_BY_MODEL[model]
        assert machine.vcpu.gpr(4) == 0


def test_two_machines_live_in_one_process(machine: BareMachine, power9: BareMachine) -> None:
    """The bindings are process-wide; each call finds its own vCPU."""
    for guest, value in ((machine, 3), (power9, 4)):
        guest.execute(asm.li(3, value), asm.std(3, 0, 0x2000))
    assert machine.partition.dma.read_u64_be(0x2000) == 3
    assert power9.partition.dma.read_u64_be(0x2000) == 4


def test_a_machine_after_a_closed_one_works() -> None:
    for value in (1, 2, 3):
        with bare_machine() as guest:
            guest.execute(asm.li(3, value))
            assert guest.vcpu.gpr(3) == value


def test_reset_is_64_bit_big_endian_real_mode(machine: BareMachine) -> None:
    assert machine.vcpu.msr == MSR_SF | MSR_ME
    assert machine.vcpu.spr(Spr.LPCR) & LPCR_LPES0


@pytest.mark.parametrize("bits", [MSR_HV, MSR_POW, MSR_TM, 1 << 62 | 1 << 16])
def test_mtmsrd_cannot_set_bits_a_guest_does_not_have(machine: BareMachine, bits: int) -> None:
    wanted = MSR_SF | MSR_ME | bits
    machine.execute(asm.li64(3, wanted), asm.mtmsrd(3), asm.mfmsr(4))
    assert machine.vcpu.gpr(4) == MSR_SF | MSR_ME


@pytest.mark.parametrize("bits", [MSR_HV, MSR_POW, MSR_TM])
def test_rfid_cannot_set_bits_a_guest_does_not_have(machine: BareMachine, bits: int) -> None:
    target = CODE + 0x100
    machine.load(target, asm.mfmsr(4))
    machine.load(
        CODE,
        asm.li64(3, target),
        asm.mtspr(Spr.SRR0, 3),
        asm.li64(3, MSR_SF | MSR_ME | bits),
        asm.mtspr(Spr.SRR1, 3),
        asm.RFID,
    )
    machine.vcpu.pc = CODE
    assert machine.run() is ExitReason.HYPERCALL
    assert machine.vcpu.gpr(4) == MSR_SF | MSR_ME


def test_python_cannot_set_hypervisor_state_either(machine: BareMachine) -> None:
    machine.vcpu.msr = MSR_SF | MSR_HV
    assert machine.vcpu.msr == MSR_SF


@pytest.mark.parametrize("spr", [Spr.LPCR, Spr.HSRR0, Spr.HDEC, 304])
def test_hypervisor_registers_are_out_of_reach(machine: BareMachine, spr: int) -> None:
    for code in (asm.mfspr(3, spr), asm.mtspr(spr, 3)):
        taken = machine.interrupt(code)
        assert taken.vector == 0x700
        assert taken.srr1 & PRIVILEGED
        assert taken.srr0 == CODE


@pytest.mark.parametrize(
    "word", [0x4C000224, 0x4C000324, 0x4C000364, 0x4C0003A4, 0x4C0003E4, 0x4C0002E4, 0x00000200]
)
def test_power_saving_and_hypervisor_instructions_are_program_interrupts(
    power9: BareMachine, word: int
) -> None:
    """hrfid, doze, nap, sleep, rvwinkle, stop and attn."""
    taken = power9.interrupt(word)
    assert taken.vector == 0x700
    assert taken.srr1 & (PRIVILEGED | ILLEGAL)


def test_tlbie_is_legal_where_the_guest_manages_translations(
    machine: BareMachine, power9: BareMachine
) -> None:
    """LPCR[GTSE] before the first translation: on POWER9 only."""
    power9.execute(asm.li(3, 0), asm.tlbie(3, 3, r=1), asm.PTESYNC)
    assert machine.interrupt(asm.li(3, 0), asm.tlbie(3, 3)).vector == 0x700


def test_decimal_floating_point_is_illegal(machine: BareMachine) -> None:
    """Unicorn's helpers for it are those of the 32-bit CPU and would corrupt the process."""
    machine.vcpu.msr |= 1 << 13
    before = machine.vcpu._peek64(71400)  # callback of SPR 943, where they would write
    for opcode in (59, 63):
        for xo in (2, 3, 35, 67, 514, 546, 642, 834, 194, 675):
            taken = machine.interrupt(opcode << 26 | 2 << 21 | 4 << 16 | 6 << 11 | xo << 1)
            machine.vcpu.msr |= 1 << 13
            assert (taken.vector, taken.srr1 & ILLEGAL) == (0x700, ILLEGAL), (opcode, xo)
    assert machine.vcpu._peek64(71400) == before


def test_problem_state_implies_translation_and_interrupts(machine: BareMachine) -> None:
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_PR
    assert machine.vcpu.msr & (MSR_EE | 0x30) == MSR_EE | 0x30


def test_guest_endian_is_that_of_the_running_code(machine: BareMachine) -> None:
    orders = [str(machine.vcpu.guest_endian.order)]
    machine.vcpu.msr |= MSR_LE
    orders.append(machine.vcpu.guest_endian.order)
    assert orders == ["big", "little"]
    machine.execute(asm.li(3, 9))
    assert machine.vcpu.gpr(3) == 9
