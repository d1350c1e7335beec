"""Radix translation as a guest without hypervisor state sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.cpu.isa import (
    DSISR_ISSTORE,
    DSISR_NOPTE,
    DSISR_PROTFAULT,
    DSISR_R_BADCONFIG,
    MSR_DR,
    MSR_EE,
    MSR_IR,
    MSR_ME,
    MSR_PR,
    MSR_SF,
    SRR1_NOEXEC_GUARD,
    SRR1_NOPTE,
    SRR1_PROTFAULT,
    Spr,
)
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import (
    EAA_EXECUTE,
    EAA_PRIVILEGED,
    EAA_READ,
    EAA_WRITE,
    KERNEL,
    RADIX_C,
    RADIX_R,
    SHIFT_1G,
    SHIFT_2M,
    SHIFT_4K,
    SHIFT_64K,
    ProcessTable,
    RadixTree,
)

ON = MSR_SF | MSR_ME | MSR_IR | MSR_DR
USER = ON | MSR_PR | MSR_EE
RW, RX, RWX = EAA_READ | EAA_WRITE, EAA_READ | EAA_EXECUTE, 7
EA = 0x7_0000_0000_0000
REAL = 0x1000000
LOAD, STORE, JUMP = asm.ld(5, 10), asm.std(5, 10), [asm.mtctr(10), asm.BCTR]
NON_IDEMPOTENT, TOLERANT = 0x20, 0x30


class Guest:
    """POWER9 with the kernel (quadrant 3) in PID 0 and a process with PID 5."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine
        self.table = ProcessTable(machine, 0x3F00000)
        self.kernel = RadixTree(machine, 0x2000000)
        self.process = RadixTree(machine, 0x2800000)
        self.table.set(0, self.kernel)
        self.table.set(5, self.process)
        for tree in (self.kernel, self.process):
            tree.insert(0, 0, SHIFT_2M, RWX)  # code and vectors
        machine.vcpu.set_spr(Spr.PID, 5)
        machine.vcpu.msr = ON

    def touch(self, access: asm.Code, ea: int = EA) -> None:
        self.machine.execute(asm.li64(10, ea), access)

    def fault(self, access: asm.Code, ea: int = EA) -> tuple[int, int]:
        """Vector, and DSISR or the cause in SRR1."""
        taken = self.machine.interrupt(asm.li64(10, ea), access)
        if taken.vector in (0x300, 0x380):
            assert (taken.dar, taken.srr0) == (ea, CODE + 20)
            return taken.vector, taken.dsisr
        assert taken.srr0 == ea
        return taken.vector, taken.srr1 & 0x783F0000

    def pte(self, where: int) -> int:
        return self.machine.partition.dma.read_u64_be(where)


@pytest.fixture
def guest(power9: BareMachine) -> Guest:
    return Guest(power9)


@pytest.mark.parametrize("shift", [SHIFT_4K, SHIFT_2M, SHIFT_1G])
def test_pages_of_all_sizes(guest: Guest, shift: int) -> None:
    real = REAL if shift < SHIFT_1G else 0
    ea = EA + min(1 << shift, REAL * 2) - 0xEF8
    guest.process.insert(ea, real, shift, RW)
    where = real + (ea & (1 << shift) - 1)
    guest.machine.partition.dma.write_u64_be(where, 0xBEEF)
    guest.touch([LOAD, asm.std(10, 10, 8)], ea)
    assert guest.machine.vcpu.gpr(5) == 0xBEEF
    assert guest.machine.partition.dma.read_u64_be(where + 8) == ea


def test_pages_of_64k(guest: Guest) -> None:
    tree = RadixTree(guest.machine, 0x3000000, page_64k=True)
    guest.table.set(5, tree)
    tree.insert(0, 0, SHIFT_2M, RWX)
    tree.insert(EA, REAL, SHIFT_64K, RW)
    guest.machine.partition.dma.write_u64_be(REAL + 0xF000, 0x64)
    guest.touch(LOAD, EA + 0xF000)
    assert guest.machine.vcpu.gpr(5) == 0x64


def test_quadrants_belong_to_the_process_and_to_pid_0(guest: Guest) -> None:
    dma = guest.machine.partition.dma
    guest.process.insert(EA, REAL, SHIFT_4K, RW)
    guest.kernel.insert(EA, REAL + 0x1000, SHIFT_4K, RW)
    dma.write_u64_be(REAL, 5)
    dma.write_u64_be(REAL + 0x1000, 0x100)
    guest.touch(LOAD)
    assert guest.machine.vcpu.gpr(5) == 5
    guest.touch(LOAD, KERNEL + EA)
    assert guest.machine.vcpu.gpr(5) == 0x100
    guest.machine.vcpu.set_spr(Spr.PID, 0)
    guest.machine.partition.flush_tlb()
    guest.touch(LOAD)
    assert guest.machine.vcpu.gpr(5) == 0x100


@pytest.mark.parametrize("quadrant", [1, 2])
@pytest.mark.parametrize(("access", "vector"), [(LOAD, 0x380), (STORE, 0x380), (JUMP, 0x480)])
def test_the_middle_quadrants_are_the_hypervisors(
    guest: Guest, quadrant: int, access: asm.Code, vector: int
) -> None:
    guest.machine.vcpu.set_spr(Spr.DSISR, 0)
    assert guest.fault(access, quadrant << 62) == (vector, 0)


@pytest.mark.parametrize("ea", [1 << 52, 1 << 61, KERNEL + (1 << 52)])
def test_addresses_beyond_the_tree_are_segment_interrupts(guest: Guest, ea: int) -> None:
    guest.machine.vcpu.set_spr(Spr.DSISR, 0)
    assert guest.fault(LOAD, ea) == (0x380, 0)


@pytest.mark.parametrize(("access", "store"), [(LOAD, 0), (STORE, DSISR_ISSTORE)])
@pytest.mark.parametrize("ea", [EA, EA + (1 << 40), KERNEL + EA])
def test_no_entry(guest: Guest, access: int, store: int, ea: int) -> None:
    guest.process.insert(EA + 0x1000, REAL, SHIFT_4K, RW)
    assert guest.fault(access, ea) == (0x300, DSISR_NOPTE | store)


def test_no_entry_for_a_fetch(guest: Guest) -> None:
    assert guest.fault(JUMP) == (0x400, SRR1_NOPTE)


def test_a_process_beyond_the_table_has_no_entry(guest: Guest) -> None:
    guest.machine.vcpu.set_spr(Spr.PID, 4096 // 16)
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
    assert guest.fault(LOAD) == (0x300, DSISR_NOPTE)


@pytest.mark.parametrize(
    ("access", "r", "c"), [(LOAD, True, False), (STORE, True, True)], ids=["load", "store"]
)
def test_an_access_sets_reference_and_change(guest: Guest, access: int, r: bool, c: bool) -> None:
    where = guest.process.insert(EA, REAL, SHIFT_4K, RW)
    guest.touch(access)
    assert guest.pte(where) & 0x180 == r * RADIX_R | c * RADIX_C


def test_the_first_store_after_a_load_sets_change(guest: Guest) -> None:
    where = guest.process.insert(EA, REAL, SHIFT_4K, RW)
    guest.touch([LOAD, LOAD])
    assert guest.pte(where) & 0x180 == RADIX_R
    guest.touch([LOAD, STORE])
    assert guest.pte(where) & 0x180 == RADIX_R | RADIX_C


def test_a_fetch_sets_reference_only(guest: Guest) -> None:
    where = guest.process.insert(EA, REAL, SHIFT_4K, RWX)
    guest.machine.load(REAL, asm.NOP)
    guest.machine.load(CODE, asm.li64(10, EA), JUMP)
    guest.machine.vcpu.pc = CODE
    guest.machine.run()
    assert guest.machine.vcpu.pc == EA + 8
    assert guest.pte(where) & 0x180 == RADIX_R


def test_a_refused_access_sets_neither(guest: Guest) -> None:
    where = guest.process.insert(EA, REAL, SHIFT_4K, EAA_READ)
    assert guest.fault(STORE) == (0x300, DSISR_PROTFAULT | DSISR_ISSTORE)
    assert guest.pte(where) & 0x180 == 0


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("privileged", [0, EAA_PRIVILEGED])
@pytest.mark.parametrize(
    ("authority", "allowed"),
    [(EAA_READ, "r"), (EAA_WRITE, "rw"), (RW, "rw"), (EAA_EXECUTE, "x"), (RX, "rx"), (0, "")],
)
def test_encoded_access_authority(
    guest: Guest, user: bool, privileged: int, authority: int, allowed: str
) -> None:
    guest.process.insert(EA, REAL, SHIFT_4K, authority | privileged)
    guest.machine.load(REAL, asm.SC)
    if user and privileged:
        allowed = ""
    faults: dict[str, tuple[asm.Code, tuple[int, int]]] = {
        "r": (LOAD, (0x300, DSISR_PROTFAULT)),
        "w": (STORE, (0x300, DSISR_PROTFAULT | DSISR_ISSTORE)),
        "x": (JUMP, (0x400, SRR1_PROTFAULT)),
    }
    for letter, (access, fault) in faults.items():
        guest.machine.vcpu.msr = USER if user else ON
        if letter in allowed:
            taken = guest.machine.interrupt(asm.li64(10, EA), access, asm.SC)
            assert taken.vector == 0xC00, letter
        else:
            assert guest.fault(access) == fault, letter
        guest.machine.partition.dma.write(REAL, asm.assemble(asm.SC))


def test_non_idempotent_storage_is_not_executed(guest: Guest) -> None:
    guest.process.insert(EA, REAL, SHIFT_4K, RWX | NON_IDEMPOTENT)
    guest.touch(LOAD)
    assert guest.fault(JUMP) == (0x400, SRR1_NOEXEC_GUARD)


def test_tolerant_storage_is(guest: Guest) -> None:
    guest.process.insert(EA, REAL, SHIFT_4K, RWX | TOLERANT)
    guest.machine.load(REAL, asm.SC)
    assert guest.machine.interrupt(asm.li64(10, EA), JUMP).vector == 0xC00


def root(size: int) -> Callable[[Guest], int]:
    return lambda guest: guest.process.process_entry & ~0x1F | size


@pytest.mark.parametrize(
    "entry",
    [
        root(0),
        root(31),
        lambda guest: 0,
        lambda guest: 2 << 61 | 5 << 5 | 1 << 40 | 13,  # a root outside RAM
        lambda guest: 2 << 61 | 5 << 5 | 0x0FFFFFFFFFFFFF00 | 13,
    ],
    ids=["size 0", "size 31", "zero", "far root", "farthest root"],
)
@pytest.mark.parametrize("access", [LOAD, STORE])
def test_a_bad_process_entry_is_a_bad_configuration(
    guest: Guest, entry: Callable[[Guest], int], access: int
) -> None:
    guest.machine.partition.dma.write_u64_be(guest.table.base + 16 * 5, entry(guest))
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
    store = DSISR_ISSTORE if access == STORE else 0
    assert guest.fault(access, EA & 0xFFF) == (0x300, DSISR_R_BADCONFIG | store)


def test_a_bad_configuration_for_a_fetch(guest: Guest) -> None:
    guest.machine.partition.dma.write_u64_be(guest.table.base + 16 * 5, 0)
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR
    guest.machine.partition.flush_tlb()
    guest.machine.vcpu.pc = CODE
    taken = guest.machine.run_to_interrupt()
    assert (taken.vector, taken.srr0) == (0x400, CODE)
    assert taken.srr1 & 0x783F0000 == DSISR_R_BADCONFIG


@pytest.mark.parametrize("link", [1 << 63, 1 << 63 | 31, 1 << 63 | 1 << 50 | 9])
def test_a_bad_directory_is_a_bad_configuration(guest: Guest, link: int) -> None:
    index = (EA >> 39) & 0x1FFF
    guest.machine.partition.dma.write_u64_be(guest.process.root + 8 * index, link)
    assert guest.fault(LOAD) == (0x300, DSISR_R_BADCONFIG)


def test_a_directory_that_loops_ends(guest: Guest) -> None:
    """Each level of one bit points to itself; eight levels are the most."""
    where = 0x3800000
    for slot in (0, 8):
        guest.machine.partition.dma.write_u64_be(where + slot, 1 << 63 | where | 1)
    guest.machine.partition.dma.write_u64_be(
        guest.table.base + 16 * 5, 2 << 61 | 5 << 5 | where | 1
    )
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
    assert guest.fault(LOAD) == (0x300, DSISR_R_BADCONFIG)


def test_a_process_table_outside_ram_is_a_bad_configuration(guest: Guest) -> None:
    guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
    for base in (guest.machine.ram.size - 8, 1 << 50):
        guest.machine.partition.record["process_table"] = base
        guest.machine.vcpu.msr = MSR_SF | MSR_ME | MSR_DR
        assert guest.fault(LOAD, KERNEL) == (0x300, DSISR_R_BADCONFIG)
