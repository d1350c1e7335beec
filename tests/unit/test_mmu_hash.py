"""Hash translation as a guest sees it: pages, groups, R and C, protection, interrupts."""

from __future__ import annotations

import dataclasses

import pytest

from emu.cpu.isa import (
    DSISR_ISSTORE,
    DSISR_NOPTE,
    DSISR_PROTFAULT,
    MSR_DR,
    MSR_EE,
    MSR_IR,
    MSR_ME,
    MSR_PR,
    MSR_SF,
    SRR1_NOEXEC_GUARD,
    SRR1_NOPTE,
    SRR1_PROTFAULT,
)
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import (
    SHIFT_4K,
    SHIFT_16M,
    SHIFT_64K,
    HashTable,
    Page,
    Segment,
    map_all,
    set_slb,
)

EA = 0x7ABC_D000_0000
REAL = 0x2000000  # 16 MiB aligned
ON = MSR_SF | MSR_ME | MSR_IR | MSR_DR
USER = ON | MSR_PR | MSR_EE
CLEAN = Page(r=False, c=False)
LOAD, STORE, JUMP = asm.ld(5, 10), asm.std(5, 10), [asm.mtctr(10), asm.BCTR]
SIZES = [
    (SHIFT_4K, SHIFT_4K),
    (SHIFT_4K, SHIFT_64K),
    (SHIFT_4K, SHIFT_16M),
    (SHIFT_64K, SHIFT_64K),
    (SHIFT_64K, SHIFT_16M),
    (SHIFT_16M, SHIFT_16M),
]


class Guest:
    """A relocated guest with one segment of its own at EA."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine
        tables = map_all(machine, radix=False)
        assert isinstance(tables, HashTable)
        self.table = machine.tables = tables
        self.segment = Segment(EA, 0x1234567)
        self.use(self.segment)
        machine.vcpu.msr = ON

    def use(self, segment: Segment) -> None:
        self.segment = segment
        set_slb(self.machine.vcpu, 11, segment)
        self.machine.partition.flush_tlb()

    def page(self, page: Page = CLEAN) -> int:
        return self.table.insert(self.segment, EA, REAL, page)

    def touch(self, access: asm.Code, ea: int = EA) -> None:
        self.machine.execute(asm.li64(10, ea), access)

    def fault(self, access: asm.Code, ea: int = EA) -> tuple[int, int]:
        """Vector, and DSISR or the cause in SRR1."""
        taken = self.machine.interrupt(asm.li64(10, ea), access)
        if taken.vector in (0x300, 0x380):
            assert taken.dar == ea
            assert taken.srr0 == CODE + 20
            return taken.vector, taken.dsisr
        assert taken.srr0 == ea
        return taken.vector, taken.srr1 & 0x783F0000


@pytest.fixture
def guest(machine: BareMachine) -> Guest:
    return Guest(machine)


@pytest.mark.parametrize("terabyte", [False, True])
@pytest.mark.parametrize("secondary", [False, True])
@pytest.mark.parametrize(("base", "actual"), SIZES)
def test_pages_of_all_sizes(
    guest: Guest, base: int, actual: int, terabyte: bool, secondary: bool
) -> None:
    guest.use(Segment(EA, 0x1234567, base, terabyte))
    offset = (1 << actual) - 0x1000 + 0x128
    ea = EA + offset
    guest.table.insert(guest.segment, ea, REAL, actual_shift=actual, secondary=secondary)
    guest.machine.partition.dma.write_u64_be(REAL + offset, 0xFEED)
    guest.touch([LOAD, asm.std(10, 10, 8)], ea)
    assert guest.machine.vcpu.gpr(5) == 0xFEED
    assert guest.machine.partition.dma.read_u64_be(REAL + offset + 8) == ea


def test_a_segment_of_4k_pages_mixes_sizes(guest: Guest) -> None:
    guest.table.insert(guest.segment, EA, REAL)
    guest.table.insert(guest.segment, EA + 0x10000, REAL + 0x10000, actual_shift=SHIFT_64K)
    guest.touch([LOAD, asm.d_form(15, 10, 10, 1), asm.ld(6, 10)])  # addis: 64 KiB further
    assert guest.machine.vcpu.gpr(10) == EA + 0x10000


def test_a_large_page_in_a_segment_of_another_base_size_does_not_match(guest: Guest) -> None:
    wrong = dataclasses.replace(guest.segment, base_shift=SHIFT_64K)
    guest.table.insert(wrong, EA, REAL)
    assert guest.fault(LOAD) == (0x300, DSISR_NOPTE)


def test_the_slot_in_the_group_does_not_matter(guest: Guest) -> None:
    for slot in range(8):
        guest.table.words[8 * guest.table.group(guest.segment, EA) + slot - 1] = 0
        guest.table.insert(guest.segment, EA, REAL, slot=slot)
        guest.machine.partition.flush_tlb()
        guest.touch(LOAD)


@pytest.mark.parametrize(
    ("access", "r", "c"), [(LOAD, True, False), (STORE, True, True)], ids=["load", "store"]
)
def test_an_access_sets_reference_and_change(
    guest: Guest, access: asm.Code, r: bool, c: bool
) -> None:
    index = guest.page()
    guest.touch(access)
    assert guest.table.r_and_c(index) == (r, c)


def test_a_fetch_sets_reference_only(guest: Guest) -> None:
    index = guest.page()
    guest.machine.load(REAL, asm.NOP)
    guest.machine.load(CODE, asm.li64(10, EA), JUMP)
    guest.machine.vcpu.pc = CODE
    guest.machine.run()
    assert guest.machine.vcpu.pc == EA + 8
    assert guest.table.r_and_c(index) == (True, False)


def test_the_first_store_after_a_load_sets_change(guest: Guest) -> None:
    index = guest.page()
    guest.touch([LOAD, LOAD])
    assert guest.table.r_and_c(index) == (True, False)
    guest.touch([LOAD, STORE])
    assert guest.table.r_and_c(index) == (True, True)


def test_cleared_bits_are_set_again_after_a_flush(guest: Guest) -> None:
    index = guest.page()
    guest.touch(STORE)
    guest.table.words[index, 1] = int(guest.table.words[index, 1]) & ~0x180
    guest.machine.partition.flush_tlb()
    guest.touch(LOAD)
    assert guest.table.r_and_c(index) == (True, False)


@pytest.mark.parametrize(("access", "store"), [(LOAD, 0), (STORE, DSISR_ISSTORE)])
def test_a_refused_access_sets_neither(guest: Guest, access: int, store: int) -> None:
    index = guest.page(dataclasses.replace(CLEAN, pp=0b101))
    assert guest.fault(access) == (0x300, DSISR_PROTFAULT | store)
    assert guest.table.r_and_c(index) == (False, False)


@pytest.mark.parametrize(("access", "store"), [(LOAD, 0), (STORE, DSISR_ISSTORE)])
def test_no_entry_is_a_data_storage_interrupt(guest: Guest, access: int, store: int) -> None:
    assert guest.fault(access) == (0x300, DSISR_NOPTE | store)


def test_no_entry_for_a_fetch(guest: Guest) -> None:
    assert guest.fault(JUMP) == (0x400, SRR1_NOPTE)


@pytest.mark.parametrize("access", [LOAD, STORE])
def test_no_segment_is_a_data_segment_interrupt(guest: Guest, access: int) -> None:
    guest.machine.vcpu.set_spr(18, 0x1234)
    vector, dsisr = guest.fault(access, EA + (1 << 40))
    assert (vector, dsisr) == (0x380, 0x1234)  # DSISR is left alone


def test_no_segment_for_a_fetch(guest: Guest) -> None:
    assert guest.fault(JUMP, EA + (1 << 28)) == (0x480, 0)


# Figure 28: (PP, storage key) -> loads, stores
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(
    ("pp", "key", "allowed"),
    [
        *((0b000, 0, "rw"), (0b001, 0, "rw"), (0b010, 0, "rw"), (0b011, 0, "r"), (0b110, 0, "r")),
        *((0b000, 1, ""), (0b001, 1, "r"), (0b010, 1, "rw"), (0b011, 1, "r"), (0b110, 1, "")),
    ],
)
def test_page_protection(guest: Guest, user: bool, pp: int, key: int, allowed: str) -> None:
    """The storage key is Kp in problem state and Ks otherwise; the other one is its opposite."""
    ks, kp = (not key, bool(key)) if user else (bool(key), not key)
    guest.use(dataclasses.replace(guest.segment, ks=ks, kp=kp))
    guest.page(Page(pp=pp))
    mode = USER if user else ON
    for access, letter, store in ((LOAD, "r", 0), (STORE, "w", DSISR_ISSTORE)):
        guest.machine.vcpu.msr = mode
        if letter not in allowed:
            assert guest.fault(access) == (0x300, DSISR_PROTFAULT | store)
            continue
        taken = guest.machine.interrupt(asm.li64(10, EA), access, asm.SC)
        assert taken.vector == 0xC00


@pytest.mark.parametrize("page", [Page(n=True), Page(g=True)], ids=["N", "G"])
def test_no_execute_and_guarded_pages(guest: Guest, page: Page) -> None:
    guest.page(page)
    guest.touch(LOAD)
    assert guest.fault(JUMP) == (0x400, SRR1_NOEXEC_GUARD)


def test_no_execute_segments(guest: Guest) -> None:
    guest.use(dataclasses.replace(guest.segment, n=True))
    guest.page()
    guest.touch(LOAD)
    assert guest.fault(JUMP) == (0x400, SRR1_NOEXEC_GUARD)


def test_a_fetch_needs_what_a_load_needs(guest: Guest) -> None:
    guest.page(Page(pp=0b101))
    assert guest.fault(JUMP) == (0x400, SRR1_PROTFAULT)


def test_a_page_that_was_read_may_not_be_fetched_from_unless_executable(guest: Guest) -> None:
    """Loads and fetches share a TLB entry; permissions are those of the kind of access."""
    index = guest.page(Page())
    guest.touch(LOAD)
    guest.table.words[index, 1] = int(guest.table.words[index, 1]) | 4
    guest.machine.partition.flush_tlb()
    guest.touch(LOAD)
    assert guest.fault(JUMP)[0] == 0x400


def test_an_access_across_two_pages_faults_on_the_second(guest: Guest) -> None:
    guest.page()
    taken = guest.machine.interrupt(asm.li64(10, EA + 0xFFC), STORE)
    assert (taken.vector, taken.dar) == (0x300, EA + 0x1000)
    assert guest.machine.partition.dma.read(REAL + 0xFFC, 4) == bytes(4)


def test_slbmte_makes_segments(guest: Guest) -> None:
    other = Segment(EA + (1 << 28), 0x42424, SHIFT_64K, kp=True)
    guest.table.insert(other, other.ea, REAL)
    esid, vsid = asm.li64(7, other.esid_word | 20), asm.li64(8, other.vsid_word)
    guest.touch([esid, vsid, asm.slbmte(8, 7), asm.ISYNC, LOAD], other.ea)
    guest.machine.execute(asm.li(9, 20), asm.slbmfee(3, 9), asm.slbmfev(4, 9))
    assert guest.machine.vcpu.gpr(3) == other.esid_word
    assert guest.machine.vcpu.gpr(4) == other.vsid_word


def test_without_a_table_there_is_no_entry(guest: Guest) -> None:
    guest.machine.load(CODE, asm.li64(10, EA), LOAD)
    guest.machine.partition.record["hpt"] = 0
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
    assert guest.fault(LOAD) == (0x300, DSISR_NOPTE)
