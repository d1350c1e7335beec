"""After tlbie a radix guest sees what its page tables say, and keeps what they still say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from emu.cpu.isa import MSR_DR, MSR_IR
from emu.cpu.record import KEPT_PAGES
from tests.support import asm
from tests.support.bare import BareMachine
from tests.support.paging import (
    EAA_EXECUTE,
    EAA_READ,
    EAA_WRITE,
    KERNEL,
    RADIX_C,
    RADIX_R,
    ProcessTable,
    RadixTree,
)

USER_EA, KERNEL_EA = 0x10000000000, KERNEL + 0x10000000000
REAL = 0x400000  # of physical page 0; page n returns n
PAGES, FRAMES = 96, 24
RWX = EAA_READ | EAA_WRITE | EAA_EXECUTE
FLUSH = [asm.li64(4, 1 << 10), asm.li(5, 0), asm.tlbie(4, 5, 2, 1, 1), asm.PTESYNC]


class Guest:
    """A radix guest with pages of code in both halves of the address space, and their model."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine
        self.tree = RadixTree(machine, 0x2000000)
        for real in range(0, 0x400000, 0x200000):
            self.tree.insert(real, real, 21, RWX | RADIX_R | RADIX_C)
        table = ProcessTable(machine, 0x2F00000)
        table.set(0, self.tree)
        machine.vcpu.msr |= MSR_IR | MSR_DR
        for frame in range(FRAMES):
            machine.load(REAL + 0x1000 * frame, asm.li(3, frame), asm.BLR)
        self.frames = [0] * PAGES
        self.entries = [self.map(page, page % FRAMES, RWX) for page in range(PAGES)]

    def address(self, page: int) -> int:
        return (KERNEL_EA if page % 2 else USER_EA) + 0x1000 * page

    def map(self, page: int, frame: int, bits: int) -> int:
        self.frames[page] = frame
        return self.tree.insert(self.address(page), REAL + 0x1000 * frame, 12, bits)

    def entry(self, page: int) -> int:
        return self.machine.partition.dma.read_u64_be(self.entries[page])

    def call(self, page: int) -> int:
        """Run the page; the number of the physical page that ran."""
        code: list[Any] = [asm.li64(9, self.address(page)), asm.mtctr(9), asm.BCTR | 1]
        self.machine.execute(*code)
        return self.machine.vcpu.gpr(3)

    def load(self, page: int) -> int:
        """The same by reading it."""
        self.machine.execute(asm.li64(9, self.address(page)), asm.lwz(7, 9))
        return self.machine.vcpu.gpr(7) & 0xFFFF

    def store(self, page: int) -> None:
        """Write behind the code of a page."""
        self.machine.execute(asm.li64(9, self.address(page) + 64), asm.stw(5, 9))

    def fills(self) -> int:
        return int(self.machine.vcpu.record["mmu_fills"])


@pytest.fixture
def guest(power9: BareMachine) -> Guest:
    return Guest(power9)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_used_is_what_the_tables_say(guest: Guest, seed: int) -> None:
    chance = random.Random(seed)
    span = chance.choice((8, KEPT_PAGES // 2, PAGES))
    for _ in range(60):
        for page in chance.sample(range(span), chance.randrange(4)):
            guest.map(page, chance.randrange(FRAMES), RWX | chance.choice((0, RADIX_R | RADIX_C)))
        guest.machine.execute(FLUSH)
        for page in chance.choices(range(span), k=12):
            use: Any = chance.choice((guest.call, guest.load))
            assert use(page) == guest.frames[page]
            assert guest.entry(page) & RADIX_R
        page = chance.randrange(span)
        guest.store(page)
        assert guest.entry(page) & RADIX_C


def test_unchanged_pages_stay(guest: Guest) -> None:
    pages = range(8)
    for page in pages:
        guest.call(page)
        guest.load(page)
    guest.machine.execute(FLUSH)
    before = guest.fills()
    guest.machine.execute(FLUSH)
    assert guest.fills() == before
    for page in pages:
        guest.load(page)
    assert guest.fills() == before
    guest.map(3, 9, RWX | RADIX_R)
    guest.machine.execute(FLUSH)
    assert [guest.load(page) for page in pages] == [0, 1, 2, 9, 4, 5, 6, 7]
    assert guest.fills() == before + 1


@pytest.mark.parametrize("bit", [RADIX_R, RADIX_C], ids=["R", "C"])
def test_cleared_bits_are_set_again(guest: Guest, bit: int) -> None:
    guest.store(2)
    assert guest.entry(2) & bit
    guest.machine.partition.dma.write_u64_be(guest.entries[2], guest.entry(2) & ~bit)
    guest.machine.execute(FLUSH)
    guest.store(2)
    assert guest.entry(2) & bit


def test_a_page_that_became_read_only_faults(guest: Guest) -> None:
    guest.store(2)
    guest.map(2, 2, RWX & ~EAA_WRITE | RADIX_R | RADIX_C)
    guest.machine.execute(FLUSH)
    code: list[Any] = [asm.li64(9, guest.address(2)), asm.stw(5, 9)]
    assert guest.machine.interrupt(*code).vector == 0x300


def test_a_process_that_got_another_tree(guest: Guest) -> None:
    machine = guest.machine
    assert guest.call(1) == 1
    other = RadixTree(machine, 0x3000000)
    for real in range(0, 0x400000, 0x200000):
        other.insert(real, real, 21, RWX)
    other.insert(guest.address(1), REAL + 0x5000, 12, RWX | RADIX_R | RADIX_C)
    machine.partition.dma.write_u64_be(0x2F00000, other.process_entry)
    machine.execute(FLUSH)
    assert guest.call(1) == 5
