"""Translated accesses to real addresses where nothing is."""

from __future__ import annotations

import pytest

from emu.cpu.isa import (
    DSISR_MC_UE,
    MSR_DR,
    MSR_IR,
    MSR_ME,
    MSR_SF,
    SRR1_MC_IFETCH_UE,
    SRR1_MC_LOADSTORE,
    Spr,
)
from emu.cpu.record import ExitReason
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import KERNEL, SHIFT_4K, HashTable, RadixTree, Segment, map_all, set_slb

NOWHERE = 0x80_0000_0000
EA = 0xC0010000_00000000
RWX = 7
ON = MSR_SF | MSR_ME | MSR_IR | MSR_DR


@pytest.fixture(params=[False, True], ids=["hash", "radix"])
def guest(machine: BareMachine, request: pytest.FixtureRequest) -> BareMachine:
    """EA is mapped to a real address with neither RAM nor a device."""
    machine.tables = tables = map_all(machine, radix=request.param)
    if isinstance(tables, RadixTree):
        tree = RadixTree(machine, 0x3000000)
        tree.insert(0, 0, 30, RWX)
        tree.insert(EA, NOWHERE, 12, RWX)
        machine.partition.dma.write_u64_be(
            int(machine.partition.record["process_table"]), tree.process_entry
        )
    else:
        assert isinstance(tables, HashTable)
        segment = Segment(EA, 0x5555, SHIFT_4K)
        set_slb(machine.vcpu, 9, segment)
        tables.insert(segment, EA, NOWHERE)
    machine.vcpu.msr = ON
    machine.vcpu.set_gpr(10, EA + 0x18)
    return machine


@pytest.mark.parametrize("access", [asm.ld(5, 10), asm.std(5, 10)])
def test_data_access_gives_a_machine_check(guest: BareMachine, access: int) -> None:
    taken = guest.interrupt(asm.NOP, access)
    assert (taken.vector, taken.srr0, taken.dar) == (0x200, CODE + 4, EA + 0x18)
    assert taken.srr1 == ON | SRR1_MC_LOADSTORE
    assert taken.dsisr == DSISR_MC_UE
    assert guest.vcpu.msr == MSR_SF  # the handler runs with ME off


def test_fetch_gives_a_machine_check(guest: BareMachine) -> None:
    guest.vcpu.set_spr(Spr.DAR, 0x77)
    taken = guest.interrupt(asm.mtctr(10), asm.BCTR)
    assert (taken.vector, taken.srr0, taken.dar) == (0x200, EA + 0x18, 0x77)
    assert taken.srr1 == ON | SRR1_MC_IFETCH_UE
    assert taken.dsisr == 0


def test_after_the_handler_the_guest_goes_on(guest: BareMachine) -> None:
    guest.interrupt(asm.ld(5, 10))
    guest.vcpu.msr = ON
    guest.execute(asm.li64(10, KERNEL + 0x3000), asm.std(10, 10), asm.ld(5, 10))
    assert guest.vcpu.gpr(5) == KERNEL + 0x3000


@pytest.mark.parametrize("access", [asm.ld(5, 10), asm.std(5, 10)])
def test_without_me_the_cpu_checkstops(guest: BareMachine, access: int) -> None:
    guest.vcpu.msr = ON & ~MSR_ME
    guest.load(CODE, asm.NOP, access)
    guest.vcpu.pc = CODE
    assert guest.run() is ExitReason.CHECKSTOP
    assert int(guest.vcpu.record["exit_argument"]) == CODE + 4
    assert guest.vcpu.pc == CODE + 4


def test_a_prefetch_of_nowhere_is_nothing(guest: BareMachine) -> None:
    guest.execute(0x7C00022C | 10 << 11)  # dcbt 0, r10
