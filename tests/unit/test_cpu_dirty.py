"""The dirty log: a byte per 4 KiB page of RAM."""

from __future__ import annotations

import numpy as np
import pytest

from emu.cpu.isa import MSR_DR, MSR_IR
from tests.support import asm
from tests.support.bare import BareMachine
from tests.support.paging import KERNEL, map_all

PAGE = 0x300000


def dirty_pages(machine: BareMachine) -> set[int]:
    """Addresses logged since the last call."""
    return {int(page) * 4096 for page in np.flatnonzero(machine.partition.clear_dirty())}


@pytest.fixture
def relocated(machine: BareMachine) -> BareMachine:
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    return machine


def run(machine: BareMachine, *code: asm.Code) -> set[int]:
    """Pages that code dirties, beyond loading it."""
    machine.load(0x10000, asm.li64(3, PAGE), *code)
    machine.vcpu.pc = 0x10000
    dirty_pages(machine)
    machine.run()
    return dirty_pages(machine)


def test_loads_and_code_dirty_nothing(machine: BareMachine) -> None:
    assert run(machine, asm.ld(4, 3), asm.lbz(4, 3, 0x7000)) == set()


@pytest.mark.parametrize(
    "store",
    [
        asm.stb(4, 3),
        asm.stw(4, 3, 0xFFC),
        asm.std(4, 3, 8),
        asm.dcbz(0, 3),
        [asm.ld(4, 3), asm.std(4, 3)],
        [asm.lwarx(4, 0, 3), asm.stwcx(4, 0, 3)],
    ],
)
def test_a_store_dirties_its_page(machine: BareMachine, store: asm.Code) -> None:
    assert run(machine, store) == {PAGE}


def test_a_store_across_a_border_dirties_both_pages(machine: BareMachine) -> None:
    assert run(machine, asm.std(4, 3, 0xFFC)) == {PAGE, PAGE + 0x1000}


def test_a_store_conditional_that_fails_may_dirty_nothing_else(machine: BareMachine) -> None:
    assert run(machine, asm.stwcx(4, 0, 3)) <= {PAGE}


def test_each_round_logs_again(machine: BareMachine) -> None:
    """The second store to a page hits a warm TLB entry; ``clear_dirty`` flushed it."""
    for _ in range(3):
        assert run(machine, asm.std(4, 3), asm.std(4, 3, 8)) == {PAGE}
    machine.load(0x10000, asm.li64(3, PAGE), asm.std(4, 3), asm.EXIT, asm.std(4, 3))
    machine.vcpu.pc = 0x10000
    machine.run()
    assert dirty_pages(machine) >= {PAGE}
    machine.run()
    assert dirty_pages(machine) == {PAGE}


def test_a_store_after_a_load_in_the_same_round_is_logged(machine: BareMachine) -> None:
    machine.load(0x10000, asm.li64(3, PAGE), asm.std(4, 3), asm.EXIT, asm.ld(5, 3), asm.std(5, 3))
    machine.vcpu.pc = 0x10000
    machine.run()
    dirty_pages(machine)
    machine.run()
    assert dirty_pages(machine) == {PAGE}


def test_stores_through_either_alias_log_the_real_page(relocated: BareMachine) -> None:
    alias = asm.li64(5, KERNEL + PAGE + 0x3000)
    assert run(relocated, alias, asm.std(4, 5), asm.std(4, 3)) == {PAGE, PAGE + 0x3000}


def test_dma_is_logged(machine: BareMachine) -> None:
    dirty_pages(machine)
    machine.partition.dma.write(PAGE + 0xFFF, b"ab")
    assert dirty_pages(machine) == {PAGE, PAGE + 0x1000}
    machine.partition.dma.fill(PAGE, 0x3000)
    assert dirty_pages(machine) == {PAGE, PAGE + 0x1000, PAGE + 0x2000}
    machine.partition.dma.write(PAGE, b"")
    machine.partition.dma.fill(PAGE, 0)
    assert dirty_pages(machine) == set()


def test_reference_bits_dirty_the_radix_tree(power9: BareMachine) -> None:
    tree = map_all(power9, radix=True)
    power9.vcpu.msr |= MSR_IR | MSR_DR
    leaves = run(power9, asm.ld(4, 3))
    assert len(leaves) == 1
    assert PAGE not in leaves
    assert tree is not None


def test_the_log_is_a_copy(machine: BareMachine) -> None:
    machine.partition.dma.write(PAGE, b"x")
    log = machine.partition.clear_dirty()
    machine.partition.dma.write(PAGE + 0x1000, b"x")
    assert log[PAGE >> 12] == 1
    assert log[(PAGE >> 12) + 1] == 0
