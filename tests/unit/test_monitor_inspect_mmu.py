"""info tlb: what the tables map, found without the emulator's own translation."""

from __future__ import annotations

import random

import pytest

from emu.cpu.isa import MSR_DR, MSR_IR, MSR_ME, MSR_SF, Spr
from emu.cpu.mmu import debug_translate
from emu.monitor import inspect_hash, inspect_radix
from emu.monitor.inspect_mappings import MAX_LINES, Mapping, mapping_lines, merge, page_size
from tests.support.bare import BareMachine, bare_machine
from tests.support.paging import (
    KERNEL,
    SHIFT_1G,
    SHIFT_2M,
    SHIFT_4K,
    SHIFT_16M,
    SHIFT_64K,
    HashTable,
    Page,
    ProcessTable,
    RadixTree,
    Segment,
    set_slb,
)

ON = MSR_SF | MSR_ME | MSR_IR | MSR_DR
SEGMENTS = (
    Segment(0x10000000, 0x123456, SHIFT_4K),
    Segment(0x40000000, 0xABCDE, SHIFT_64K, kp=True),
    Segment(KERNEL, 0x2002, SHIFT_64K, terabyte=True),
    Segment(KERNEL | 5 << 40, 0x3003, SHIFT_4K, terabyte=True),
    Segment(KERNEL | 7 << 40, 0x4004, SHIFT_16M, terabyte=True),
)


def ranges(text: str) -> list[tuple[int, int, int]]:
    """(first, last, real) of the lines that are mappings."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[1] == "->":
            first, last = (int(word, 16) for word in words[0].split("-"))
            found.append((first, last, int(words[2], 16)))
    return found


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("secondary", [False, True])
def test_a_page_is_found_whatever_its_place_in_the_hash_table(
    machine: BareMachine, segment: Segment, secondary: bool
) -> None:
    table = HashTable(machine)
    set_slb(machine.vcpu, 3, segment)
    machine.vcpu.msr = ON
    rng = random.Random(7)
    wanted = {}
    for _ in range(40):
        offset = rng.randrange(1 << segment.size_shift) >> segment.base_shift << segment.base_shift
        real = rng.randrange(64 << 20) >> segment.base_shift << segment.base_shift
        table.insert(segment, segment.ea + offset, real, secondary=secondary)
        wanted[segment.ea + offset] = real
    found = ranges(inspect_hash.info_tlb(machine.vcpu))
    for effective, real in wanted.items():
        assert any(
            first <= effective <= last and at + effective - first == real
            for first, last, at in found
        )
        good, by_cpu = debug_translate(machine.vcpu.address, effective)
        assert (good, by_cpu) == (1, real)
        text = inspect_hash.info_address(machine.vcpu, effective + 5)
        assert any(first <= effective + 5 <= last for first, last, _ in ranges(text))


def test_the_slb_and_bolted_entries_are_told(machine: BareMachine) -> None:
    table = HashTable(machine)
    for index, segment in enumerate(SEGMENTS):
        set_slb(machine.vcpu, index, segment)
    entry = table.insert(SEGMENTS[1], SEGMENTS[1].ea, 0x10000, Page(pp=3, c=False))
    table.words[entry, 0] |= 0x10
    text = inspect_hash.info_tlb(machine.vcpu)
    assert "SLB: 5 entries" in text
    assert " 1 0000000048000000 00000000abcde510 256M VSID abcde base page 64K Kp" in text
    assert "HPT: 1 of 16384 entries valid, 1 bolted" in text
    line = "0000000040000000-000000004000ffff -> 000000010000  64K pp=3 R--- bolted"
    assert line in text.splitlines()


def test_addresses_without_segment_or_entry(machine: BareMachine) -> None:
    HashTable(machine)
    set_slb(machine.vcpu, 0, SEGMENTS[0])
    assert "no segment" in inspect_hash.info_address(machine.vcpu, KERNEL)
    assert "no page table entry" in inspect_hash.info_address(machine.vcpu, SEGMENTS[0].ea)


def test_a_guest_without_tables(machine: BareMachine) -> None:
    assert "SLB: 0 entries" in inspect_hash.info_tlb(machine.vcpu)


def test_a_table_full_of_anything_is_survived(machine: BareMachine) -> None:
    table = HashTable(machine)
    rng = random.Random(3)
    for index, segment in enumerate(SEGMENTS):
        set_slb(machine.vcpu, index, segment)
    table.bytes[:] = bytearray(rng.randbytes(len(table.bytes)))
    assert len(inspect_hash.info_tlb(machine.vcpu).splitlines()) < MAX_LINES + 20
    inspect_hash.info_address(machine.vcpu, SEGMENTS[0].ea + 0x1234)


class Radix:
    """A kernel and process 5."""

    def __init__(self, machine: BareMachine) -> None:
        table = ProcessTable(machine, 0x3F00000)
        self.kernel = RadixTree(machine, 0x2000000)
        self.process = RadixTree(machine, 0x2800000)
        table.set(0, self.kernel)
        table.set(5, self.process)
        machine.vcpu.set_spr(Spr.PID, 5)
        machine.vcpu.msr = ON


def test_radix_trees_of_kernel_and_process(power9: BareMachine) -> None:
    guest = Radix(power9)
    guest.kernel.insert(KERNEL, 0, SHIFT_1G, 0x8 | 7 | 0x180)
    guest.process.insert(0x10000000, 0x200000, SHIFT_2M, 5)
    guest.process.insert(0x10200000, 0x400000, SHIFT_2M, 5)
    guest.process.insert(0x7FFF0000, 0x9000, SHIFT_4K, 6 | 0x100)
    text = inspect_radix.info_tlb(power9.vcpu).splitlines()
    assert text[0].startswith("process 5: root 0x")
    assert text[1:3] == [
        "0000000010000000-00000000103fffff -> 000000200000   2M -R-X --",
        "000000007fff0000-000000007fff0fff -> 000000009000   4K -RW- r-",
    ]
    assert text[3].startswith("kernel: root 0x")
    assert text[4] == "c000000000000000-c00000003fffffff -> 000000000000   1G PRWX rc"
    assert len(text) == 5


def test_the_walk_for_one_address(power9: BareMachine) -> None:
    guest = Radix(power9)
    guest.process.insert(0x7FFF0000, 0x9000, SHIFT_4K, 6)
    text = inspect_radix.info_address(power9.vcpu, 0x7FFF0123).splitlines()
    assert len(text) == 5
    assert text[-1].endswith("page 4K -RW- -- -> 0x9123")
    assert inspect_radix.info_address(power9.vcpu, 0x123).splitlines()[-1].endswith("invalid")
    assert "not in a quadrant" in inspect_radix.info_address(power9.vcpu, 1 << 62)
    assert "beyond" in inspect_radix.info_address(power9.vcpu, 1 << 60)
    power9.vcpu.set_spr(Spr.PID, 1 << 20)
    assert "no process table entry" in inspect_radix.info_address(power9.vcpu, 0)
    assert "no process table entry" in inspect_radix.info_tlb(power9.vcpu)


def test_trees_of_anything_are_survived_in_bounded_time() -> None:
    rng = random.Random(11)
    with bare_machine("power9") as machine:
        guest = Radix(machine)
        for _ in range(20):
            for tree in (guest.kernel, guest.process):
                for _ in range(50):
                    entry = rng.getrandbits(64) & ~0x1F | rng.choice([0, 1, 5, 9, 31])
                    target = rng.choice([tree.root, rng.randrange(64 << 20) & ~0xFFF])
                    entry = entry & (3 << 62 | 0x1F) | target
                    where = tree.root + 8 * rng.randrange(1 << 13)
                    machine.partition.dma.write_u64_be(where, entry)
            assert len(inspect_radix.info_tlb(machine.vcpu).splitlines()) < 2 * MAX_LINES + 10
            for _ in range(20):
                inspect_radix.info_address(machine.vcpu, rng.randrange(1 << 52))


def test_a_tree_that_is_its_own_child_is_cut_off(power9: BareMachine) -> None:
    guest = Radix(power9)
    for index in range(1 << 13):
        entry = 1 << 63 | guest.process.root | 1
        power9.partition.dma.write_u64_be(guest.process.root + 8 * index, entry)
    text = inspect_radix.info_tlb(power9.vcpu)
    assert "entries looked at" in text


def test_neighbours_become_one_line() -> None:
    pages = [Mapping(n << 12, (n + 4) << 12, 1 << 12, 12, "rw") for n in (3, 1, 2, 5)]
    merged = merge(pages)
    assert [(m.effective, m.real, m.size) for m in merged] == [
        (0x1000, 0x5000, 0x3000),
        (0x5000, 0x9000, 0x1000),
    ]
    many = [Mapping(n << 13, 0, 1 << 12, 12, "rw") for n in range(MAX_LINES + 3)]
    lines = mapping_lines(many)
    assert lines[-1] == "... 3 more"
    assert len(lines) == MAX_LINES + 1
    assert [page_size(shift) for shift in (12, 16, 21, 24, 30, 34)] == [
        "4K", "64K", "2M", "16M", "1G", "16G",
    ]  # fmt: skip
