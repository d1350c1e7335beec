"""Translated code follows memory and mappings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from emu.cpu.isa import MSR_DR, MSR_IR, Spr
from emu.cpu.record import ExitReason
from emu.cpu.registers import read_state, write_state
from emu.cpu.vcpu import Vcpu
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import (
    KERNEL,
    SHIFT_4K,
    HashTable,
    ProcessTable,
    RadixTree,
    Segment,
    map_all,
    set_slb,
)

FUNCTION = CODE + 0x800  # on the same page
FAR = 0x300000
RWX = 7


def function(value: int) -> list[int]:
    return [asm.li(3, value), asm.BLR]


def call(address: int) -> list[asm.Code]:
    """Call through CTR, as cached lookups of blocks see it."""
    return [asm.li64(9, address), asm.mtctr(9), asm.BCTR | 1]


def patch(address: int, value: int) -> list[asm.Code]:
    return [asm.li64(8, address), asm.li64(7, asm.li(3, value)), asm.stw(7, 8), asm.ISYNC]


@pytest.mark.parametrize("address", [FUNCTION, FAR])
def test_a_store_changes_code(machine: BareMachine, address: int) -> None:
    machine.load(address, function(1))
    machine.execute(
        [call(address), asm.mr(20, 3), patch(address, 2), call(address), asm.mr(21, 3)],
        [patch(address, 3), call(address), asm.mr(22, 3)],
    )
    assert [machine.vcpu.gpr(n) for n in (20, 21, 22)] == [1, 2, 3]


def test_code_and_stores_on_one_page_alternate(machine: BareMachine) -> None:
    """Write-xor-execute fills ping-pong without losing a change."""
    machine.load(FUNCTION, function(0))
    count = 500
    loop: list[asm.Code] = [
        asm.addi(10, 10, 1),
        asm.d_form(24, 10, 7, 0),  # ori r7, r10, 0
        asm.add(7, 7, 11),
        asm.stw(7, 8),
        asm.mtctr(9),
        asm.BCTR | 1,
        asm.add(12, 12, 3),
        asm.cmpd(10, 13),
        asm.bne(-32),
    ]
    machine.execute(
        [asm.li64(8, FUNCTION), asm.li64(9, FUNCTION), asm.li(10, 0), asm.li64(11, asm.li(3, 0))],
        [asm.li(12, 0), asm.li(13, count)],
        loop,
    )
    assert machine.vcpu.gpr(12) == count * (count + 1) // 2


def test_a_store_to_the_second_page_changes_code_across_the_border(machine: BareMachine) -> None:
    border = FAR + 0x1000
    machine.load(border - 4, asm.li(4, 7), function(1))
    machine.execute(call(border - 4), asm.mr(20, 3), patch(border, 2), call(border - 4))
    assert (machine.vcpu.gpr(20), machine.vcpu.gpr(3), machine.vcpu.gpr(4)) == (1, 2, 7)


@pytest.mark.parametrize("radix", [False, True])
def test_a_store_through_an_alias_changes_code(machine: BareMachine, radix: bool) -> None:
    machine.tables = map_all(machine, radix=radix)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    machine.load(FAR, function(1))
    alias = KERNEL + FAR
    machine.execute(
        [asm.li64(8, alias), asm.lwz(5, 8), asm.stw(5, 8)],  # the alias is writable already
        [call(FAR), asm.mr(20, 3), patch(alias, 2), call(FAR), asm.mr(21, 3)],
        [patch(alias, 3), call(FAR), asm.mr(22, 3)],
    )
    assert [machine.vcpu.gpr(n) for n in (20, 21, 22)] == [1, 2, 3]


def test_dma_changes_code(machine: BareMachine) -> None:
    for value in (1, 2, 3):
        machine.partition.dma.write(FAR, asm.assemble(function(value)))
        machine.execute(call(FAR))
        assert machine.vcpu.gpr(3) == value
    machine.partition.dma.fill(FAR, 4096)
    assert machine.interrupt(call(FAR)).vector == 0x700


def test_another_vcpu_changes_code(machine: BareMachine) -> None:
    other = Vcpu(machine.partition, 1, "power8")
    machine.load(FAR, function(1))
    machine.execute(call(FAR))
    assert machine.vcpu.gpr(3) == 1
    machine.load(CODE + 0x4000, patch(FAR, 2))
    other.pc = CODE + 0x4000
    assert other.run() is ExitReason.HYPERCALL
    machine.execute(call(FAR))
    assert machine.vcpu.gpr(3) == 2


def test_forgetting_all_code_is_harmless(machine: BareMachine) -> None:
    machine.load(FAR, function(1))
    machine.execute(call(FAR))
    machine.ram.write(FAR, asm.assemble(function(2)))  # behind the emulator's back
    machine.vcpu.flush_code()
    machine.execute(call(FAR))
    assert machine.vcpu.gpr(3) == 2


OLD, NEW = 0x400000, 0x500000
EA = 0x10000000000  # what is remapped from OLD to NEW


def expect_remapped(machine: BareMachine, remap: asm.Code, change: Callable[[], None]) -> None:
    """Run at EA, let Python change the tables and the guest flush, and run at EA again."""
    machine.load(OLD, function(1))
    machine.load(NEW, function(2))
    machine.execute(call(EA), asm.mr(20, 3))
    change()
    machine.execute(remap, call(EA), asm.mr(21, 3))
    assert [machine.vcpu.gpr(n) for n in (20, 21)] == [1, 2]


def relocate_hash(machine: BareMachine) -> tuple[HashTable, Segment, int]:
    table = map_all(machine, radix=False)
    assert isinstance(table, HashTable)
    machine.tables = table
    segment = Segment(EA, 0x7777, SHIFT_4K)
    set_slb(machine.vcpu, 5, segment)
    index = table.insert(segment, EA, OLD)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    return table, segment, index


def test_another_hash_entry_takes_effect_with_a_flush(machine: BareMachine) -> None:
    table, segment, index = relocate_hash(machine)

    def change() -> None:
        table.words[index] = 0
        table.insert(segment, EA, NEW)
        machine.partition.flush_tlb()

    expect_remapped(machine, [], change)


def test_another_segment_takes_effect_with_slbie(machine: BareMachine) -> None:
    table, segment, _ = relocate_hash(machine)
    other = dataclasses.replace(segment, vsid=0x8888)
    table.insert(other, EA, NEW)
    remap = [
        [asm.li64(4, EA), asm.slbie(4), asm.ISYNC],
        [asm.li64(4, other.vsid_word), asm.li64(5, other.esid_word | 5), asm.slbmte(4, 5)],
        asm.ISYNC,
    ]
    expect_remapped(machine, remap, lambda: None)


def test_slbia_forgets_all_but_the_first_segment(machine: BareMachine) -> None:
    relocate_hash(machine)
    machine.load(OLD, function(1))
    machine.execute(call(EA))
    assert machine.interrupt(asm.SLBIA, asm.ISYNC, call(EA)).vector == 0x480


def relocate_radix(machine: BareMachine) -> tuple[RadixTree, ProcessTable]:
    tree = RadixTree(machine, 0x2000000)
    for real in range(0, 0x800000, 0x200000):
        tree.insert(real, real, 21, RWX)
        tree.insert(KERNEL + real, real, 21, RWX)
    tree.insert(EA, OLD, 12, RWX)
    table = ProcessTable(machine, 0x2F00000)
    table.set(0, tree)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    return tree, table


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("everything", [False, True])
def test_another_radix_entry_takes_effect_with_tlbie(
    power9: BareMachine, local: bool, everything: bool
) -> None:
    tree, _ = relocate_radix(power9)
    rb = 1 << 10 if everything else EA  # IS: all of a process, or one 4 KiB page
    flush = asm.tlbiel if local else asm.tlbie
    remap = [asm.li64(4, rb), asm.li(5, 0), flush(4, 5, 0, 1, 1), asm.PTESYNC]
    expect_remapped(power9, remap, lambda: void(tree.insert(EA, NEW, 12, RWX)))


def test_tlbie_knows_no_sets(power9: BareMachine) -> None:
    tree, _ = relocate_radix(power9)
    rb = 1 << 10 | 5 << 12  # with tlbiel, the entries of set 5
    remap = [asm.li64(4, rb), asm.li(5, 0), asm.tlbie(4, 5, 0, 1, 1), asm.PTESYNC]
    expect_remapped(power9, remap, lambda: void(tree.insert(EA, NEW, 12, RWX)))


def test_tlbiel_of_set_after_set_flushes_once(power9: BareMachine) -> None:
    """Every entry is of set 0, in whatever order a guest goes through the sets."""
    tree, _ = relocate_radix(power9)

    def flush(number: int) -> list[Any]:
        return [asm.li64(4, 1 << 10 | number << 12), asm.li(5, 0), asm.tlbiel(4, 5, 0, 1, 1)]

    remap = [*flush(3), *flush(0), *flush(2), *flush(1), asm.PTESYNC]
    expect_remapped(power9, remap, lambda: void(tree.insert(EA, NEW, 12, RWX)))
    tree.insert(EA, OLD, 12, RWX)
    power9.execute(*flush(3), *flush(2), asm.PTESYNC, call(EA))
    assert power9.vcpu.gpr(3) == 2
    power9.execute(*flush(0), asm.PTESYNC, call(EA))
    assert power9.vcpu.gpr(3) == 1


def test_another_process_takes_effect_with_its_pid(power9: BareMachine) -> None:
    _, table = relocate_radix(power9)
    second = RadixTree(power9, 0x3000000)
    for real in range(0, 0x800000, 0x200000):
        second.insert(real, real, 21, RWX)
    second.insert(EA, NEW, 12, RWX)
    table.set(9, second)
    expect_remapped(power9, [asm.li(4, 9), asm.mtspr(Spr.PID, 4), asm.ISYNC], lambda: None)


def test_a_written_state_takes_effect_on_mappings(power9: BareMachine) -> None:
    _, table = relocate_radix(power9)
    second = RadixTree(power9, 0x3000000)
    for real in range(0, 0x800000, 0x200000):
        second.insert(real, real, 21, RWX)
    second.insert(EA, NEW, 12, RWX)
    table.set(9, second)

    def change() -> None:
        state = read_state(power9.vcpu)
        sprs = dict(state.sprs) | {"PID": 9}
        write_state(power9.vcpu, dataclasses.replace(state, sprs=sprs))

    expect_remapped(power9, [], change)


def void(_: object) -> None:
    """Drop a result."""
