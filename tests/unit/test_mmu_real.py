"""Real mode: addresses are real, and end at the real mode area."""

from __future__ import annotations

import pytest

from emu.cpu.isa import DSISR_ISSTORE, DSISR_PROTFAULT, MSR_DR, MSR_IR, MSR_ME, MSR_SF
from tests.support import asm
from tests.support.bare import CODE, RAM_SIZE, BareMachine
from tests.support.paging import KERNEL, map_all

RMA = 32 << 20
SRR1_PROTECTION = 0x08000000
REAL = MSR_SF | MSR_ME


@pytest.fixture
def limited(machine: BareMachine) -> BareMachine:
    machine.partition.record["rma_size"] = RMA
    return machine


def test_real_addresses_are_ram(machine: BareMachine) -> None:
    last = RAM_SIZE - 8
    machine.execute(asm.li64(3, last), asm.std(3, 3), asm.ld(4, 3))
    assert machine.vcpu.gpr(4) == last == machine.partition.dma.read_u64_be(last)


@pytest.mark.parametrize("top", [0xF, 0x8, 0xC])
def test_the_top_four_bits_are_ignored(machine: BareMachine, top: int) -> None:
    machine.partition.dma.write_u64_be(0x3000, 42)
    machine.execute(asm.li64(3, top << 60 | 0x3000), asm.ld(4, 3))
    assert machine.vcpu.gpr(4) == 42


def test_the_bits_below_are_not(machine: BareMachine) -> None:
    taken = machine.interrupt(asm.li64(3, 0x0100_0000_0000_3000), asm.ld(4, 3))
    assert (taken.vector, taken.dar) == (0x200, 0x0100_0000_0000_3000)


def test_code_where_nothing_is(machine: BareMachine) -> None:
    taken = machine.interrupt(asm.li64(3, RAM_SIZE), asm.mtctr(3), asm.BCTR)
    assert (taken.vector, taken.srr0) == (0x200, RAM_SIZE)


@pytest.mark.parametrize(
    ("access", "dsisr"),
    [(asm.ld(4, 3), DSISR_PROTFAULT), (asm.std(4, 3), DSISR_PROTFAULT | DSISR_ISSTORE)],
)
@pytest.mark.parametrize("address", [RMA, RAM_SIZE, 1 << 50])
def test_data_beyond_the_area(limited: BareMachine, access: int, dsisr: int, address: int) -> None:
    taken = limited.interrupt(asm.li64(3, address), access)
    assert (taken.vector, taken.srr0, taken.srr1) == (0x300, CODE + 20, REAL)
    assert (taken.dar, taken.dsisr) == (address, dsisr)


def test_the_last_doubleword_of_the_area(limited: BareMachine) -> None:
    limited.execute(asm.li64(3, RMA - 8), asm.std(3, 3))
    taken = limited.interrupt(asm.li64(3, RMA - 4), asm.std(3, 3))
    assert (taken.vector, taken.dar) == (0x300, RMA)
    assert limited.partition.dma.read_u64_be(RMA - 8) == RMA - 8  # all or nothing


def test_code_beyond_the_area(limited: BareMachine) -> None:
    taken = limited.interrupt(asm.li64(3, RMA), asm.mtctr(3), asm.BCTR)
    assert (taken.vector, taken.srr0) == (0x400, RMA)
    assert taken.srr1 == REAL | SRR1_PROTECTION


def test_the_area_does_not_limit_relocated_accesses(limited: BareMachine) -> None:
    limited.tables = map_all(limited, radix=False)
    limited.vcpu.msr |= MSR_IR | MSR_DR
    limited.execute(asm.li64(3, KERNEL + RMA), asm.std(3, 3))
    assert limited.partition.dma.read_u64_be(RMA) == KERNEL + RMA


@pytest.mark.parametrize("data", [False, True])
def test_instructions_and_data_relocate_separately(machine: BareMachine, data: bool) -> None:
    """MSR[IR] and MSR[DR]: one of the two in real mode."""
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr |= MSR_DR if data else MSR_IR
    machine.partition.dma.write_u64_be(0x3000, 1)
    base = KERNEL + 0x3000 if data else 0x3000
    machine.execute(asm.li64(3, base), asm.ld(4, 3))
    assert machine.vcpu.gpr(4) == 1
