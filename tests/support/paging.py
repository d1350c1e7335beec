"""Page tables for tests: hash page tables with SLB entries, and radix trees.

Written from Power ISA v3.0B, book III, 5.7, without looking at the emulator's own code, so that
each checks the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.cpu import layout
from emu.cpu.isa import MSR_DR, MSR_EE, MSR_IR, MSR_PR
from emu.cpu.vcpu import Vcpu
from tests.support.bare import BareMachine

SHIFT_4K, SHIFT_64K, SHIFT_2M, SHIFT_16M, SHIFT_1G, SHIFT_16G = 12, 16, 21, 24, 30, 34

# Figures 20 and 22: L||LP of a segment's base page size; LP of a page, by base and actual size
SEGMENT_L_LP = {SHIFT_4K: 0b000, SHIFT_64K: 0b101, SHIFT_16M: 0b100, SHIFT_16G: 0b110}
PAGE_LP = {
    (SHIFT_4K, SHIFT_64K): 0b0111,
    (SHIFT_4K, SHIFT_16M): 0b00111000,
    (SHIFT_64K, SHIFT_64K): 0b0001,
    (SHIFT_64K, SHIFT_16M): 0b00001000,
    (SHIFT_16M, SHIFT_16M): 0b00000000,
    (SHIFT_16G, SHIFT_16G): 0b00000011,
}


@dataclass(frozen=True)
class Segment:
    """One SLB entry: where a segment lies, its virtual segment and its attributes."""

    ea: int
    vsid: int
    base_shift: int = SHIFT_4K
    terabyte: bool = False
    ks: bool = False
    kp: bool = False
    n: bool = False

    @property
    def size_shift(self) -> int:
        """log2 of the segment's size."""
        return 40 if self.terabyte else 28

    @property
    def esid_word(self) -> int:
        """First doubleword of the SLB entry, valid."""
        return self.ea >> self.size_shift << self.size_shift | 1 << 27

    @property
    def vsid_word(self) -> int:
        """Second doubleword of the SLB entry."""
        l_lp = SEGMENT_L_LP[self.base_shift]
        return (
            self.terabyte << 62
            | self.vsid << (24 if self.terabyte else 12)
            | self.ks << 11
            | self.kp << 10
            | self.n << 9
            | l_lp >> 2 << 8
            | (l_lp & 3) << 4
        )


def set_slb(vcpu: Vcpu, index: int, segment: Segment) -> None:
    """Make an SLB entry."""
    where = layout.ENV_SLB + index * layout.ENV_SLB_ENTRY_SIZE
    vcpu._poke64(where, segment.esid_word)
    vcpu._poke64(where + 8, segment.vsid_word)


@dataclass(frozen=True)
class Page:
    """Attributes of a hash page table entry."""

    pp: int = 0b010  # PP0 is the high bit
    key: int = 0
    g: bool = False
    n: bool = False
    r: bool = True
    c: bool = True


class HashTable:
    """A hash page table in host memory, used by a machine's partition."""

    def __init__(self, machine: BareMachine, shift: int = 18) -> None:
        self.shift = shift
        self.bytes: npt.NDArray[np.uint8] = np.zeros(1 << shift, np.uint8)
        self.words = self.bytes.view(">u8").reshape(-1, 2)
        machine.partition.record["hpt"] = self.bytes.ctypes.data
        machine.partition.record["hpt_shift"] = shift

    def group(self, segment: Segment, ea: int, *, secondary: bool = False) -> int:
        """Number of the entry group that a page hashes to."""
        page = (ea & (1 << segment.size_shift) - 1) >> segment.base_shift
        hashed = segment.vsid ^ page
        if segment.terabyte:
            hashed ^= segment.vsid << 25
        if secondary:
            hashed = ~hashed
        return hashed & ((1 << (self.shift - 7)) - 1)

    def insert(
        self,
        segment: Segment,
        ea: int,
        real: int,
        page: Page | None = None,
        *,
        actual_shift: int | None = None,
        secondary: bool = False,
        slot: int | None = None,
    ) -> int:
        """Enter a page in the first free slot of its group; returns the entry's index."""
        page = page or Page()
        shift = actual_shift or segment.base_shift
        group = self.group(segment, ea, secondary=secondary)
        if slot is None:
            slot = next(i for i in range(8) if not self.words[8 * group + i, 0] & 1)
        index = 8 * group + slot
        self.words[index] = hpte(segment, ea, real, page, shift, secondary)
        return index

    def r_and_c(self, index: int) -> tuple[bool, bool]:
        """The reference and change bits of an entry."""
        word = int(self.words[index, 1])
        return bool(word & 0x100), bool(word & 0x80)


def hpte(
    segment: Segment, ea: int, real: int, page: Page, shift: int, secondary: bool
) -> tuple[int, int]:
    """The two doublewords of a page table entry (ISA 2.07 format: B in the first)."""
    offset = ea & (1 << segment.size_shift) - 1
    offset = offset >> segment.base_shift << segment.base_shift
    virtual = segment.vsid << segment.size_shift | offset
    large = shift > SHIFT_4K
    first = segment.terabyte << 62 | virtual >> 23 << 7 | large << 2 | secondary << 1 | 1
    second = real >> shift << shift
    if large:
        second |= PAGE_LP[segment.base_shift, shift] << 12
    second |= page.pp >> 2 << 63 | page.key >> 3 << 60 | (page.key & 7) << 9
    second |= page.r << 8 | page.c << 7 | page.g << 3 | page.n << 2 | page.pp & 3
    return first, second


EAA_PRIVILEGED, EAA_READ, EAA_WRITE, EAA_EXECUTE = 8, 4, 2, 1
RADIX_R, RADIX_C = 0x100, 0x80
RADIX_LEVELS = (13, 9, 9, 9)  # bits of a 52-bit address: 1 GiB, 2 MiB and 4 KiB leaves
_VALID, _LEAF = 1 << 63, 1 << 62


class RadixTree:
    """A radix tree in guest RAM, growing upwards from an address.

    Leaves lie at 4 KiB, 2 MiB or 1 GiB; ``page_64k`` makes the last level 5 bits wide.
    """

    def __init__(self, machine: BareMachine, base: int, *, page_64k: bool = False) -> None:
        self._dma = machine.partition.dma
        self._levels = (13, 9, 9, 5) if page_64k else RADIX_LEVELS
        self._free = base
        self.root = self._table(self._levels[0])

    def _table(self, bits: int) -> int:
        size = max(4096, 8 << bits)
        where = (self._free + size - 1) // size * size
        self._free = where + size
        self._dma.write(where, bytes(8 << bits))
        return where

    @property
    def process_entry(self) -> int:
        """First doubleword of the process table entry: address width, root and its size."""
        rts = 52 - 31
        return rts >> 3 << 61 | (rts & 7) << 5 | self.root | self._levels[0]

    def insert(self, ea: int, real: int, shift: int, bits: int) -> int:
        """Map a page (``bits``: EAA, ATT, R, C); returns its entry's guest real address."""
        table, left = self.root, 52
        for level, size in enumerate(self._levels):
            left -= size
            where = table + 8 * ((ea & (1 << 52) - 1) >> left & (1 << size) - 1)
            if left == shift:
                self._dma.write_u64_be(where, _VALID | _LEAF | real >> shift << shift | bits)
                return where
            entry = self._dma.read_u64_be(where)
            if not entry & _VALID:
                below = self._levels[level + 1]
                entry = _VALID | self._table(below) | below
                self._dma.write_u64_be(where, entry)
            table = entry & 0x0FFFFFFFFFFFFF00
        raise ValueError(f"no level has pages of {1 << shift} bytes")


class ProcessTable:
    """The process table of a radix guest, and the switch to radix translation."""

    def __init__(self, machine: BareMachine, base: int, size: int = 4096) -> None:
        self._dma = machine.partition.dma
        self.base = base
        record = machine.partition.record
        record["radix"] = 1
        record["process_table"], record["process_table_size"] = base, size
        self._dma.write(base, bytes(size))

    def set(self, pid: int, tree: RadixTree) -> None:
        """Give a process a tree."""
        self._dma.write_u64_be(self.base + 16 * pid, tree.process_entry)


KERNEL = 0xC000000000000000
_TREE, _TABLE = 0x2000000, 0x2800000  # where map_all keeps a radix guest's tables


def map_all(machine: BareMachine, *, radix: bool) -> HashTable | RadixTree:
    """Map all of RAM at 0 and at ``KERNEL``, readable, writable and executable by anyone."""
    if radix:
        tree = RadixTree(machine, _TREE)
        tree.insert(0, 0, SHIFT_1G, EAA_READ | EAA_WRITE | EAA_EXECUTE)
        ProcessTable(machine, _TABLE).set(0, tree)
        return tree
    table = HashTable(machine)
    for index, (ea, vsid) in enumerate(((0, 0x1001), (KERNEL, 0x2002))):
        segment = Segment(ea, vsid, SHIFT_16M)
        set_slb(machine.vcpu, index, segment)
        for real in range(0, machine.ram.size, 1 << SHIFT_16M):
            table.insert(segment, ea + real, real)
    return table


def enter_problem_state(machine: BareMachine, *, radix: bool = False) -> None:
    """Map everything and make the CPU run what follows as a user's program."""
    machine.tables = map_all(machine, radix=radix)
    machine.vcpu.msr = machine.vcpu.msr | MSR_IR | MSR_DR | MSR_EE | MSR_PR
