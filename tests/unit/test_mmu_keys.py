"""Storage keys: AMR and IAMR, for hash and radix translation."""

from __future__ import annotations

import pytest

from emu.cpu.isa import (
    DSISR_AMR,
    DSISR_ISSTORE,
    DSISR_PROTFAULT,
    MSR_DR,
    MSR_EE,
    MSR_IR,
    MSR_ME,
    MSR_PR,
    MSR_SF,
    SRR1_IAMR,
    SRR1_PROTFAULT,
    Spr,
)
from tests.support import asm
from tests.support.bare import BareMachine
from tests.support.paging import (
    EAA_PRIVILEGED,
    SHIFT_2M,
    SHIFT_4K,
    HashTable,
    Page,
    ProcessTable,
    RadixTree,
    Segment,
    map_all,
    set_slb,
)

ON = MSR_SF | MSR_ME | MSR_IR | MSR_DR
USER = ON | MSR_PR | MSR_EE
EA, REAL = 0x7_0000_0000_0000, 0x1000000
LOAD, STORE, JUMP = asm.ld(5, 10), asm.std(5, 10), [asm.mtctr(10), asm.BCTR]
M64 = (1 << 64) - 1


def key_bits(key: int, value: int) -> int:
    """A register with two bits set for one key and all clear for the others."""
    return value << 62 >> 2 * key


def hash_guest(machine: BareMachine, key: int) -> None:
    tables = map_all(machine, radix=False)
    assert isinstance(tables, HashTable)
    machine.tables = tables
    segment = Segment(EA, 0x1234567)
    set_slb(machine.vcpu, 11, segment)
    tables.insert(segment, EA, REAL, Page(key=key))
    machine.load(REAL, asm.SC)


def radix_guest(machine: BareMachine, bits: int = 7) -> None:
    tree = RadixTree(machine, 0x2000000)
    tree.insert(0, 0, SHIFT_2M, 7 | EAA_PRIVILEGED)  # key 0 must not stop our code
    tree.insert(EA, REAL, SHIFT_4K, bits)
    ProcessTable(machine, 0x3F00000).set(0, tree)
    machine.load(REAL, asm.SC)


def outcome(machine: BareMachine, access: asm.Code, msr: int = ON) -> tuple[int, int]:
    """Vector (0xC00: allowed), and the cause in DSISR or SRR1."""
    machine.vcpu.msr = msr
    machine.partition.dma.write(REAL, asm.assemble(asm.SC))
    taken = machine.interrupt(asm.li64(10, EA), access, asm.SC)
    if taken.vector == 0xC00:
        return 0xC00, 0
    return taken.vector, taken.dsisr if taken.vector == 0x300 else taken.srr1 & 0x783F0000


@pytest.mark.parametrize("key", [0, 1, 7, 8, 21, 31])
@pytest.mark.parametrize("msr", [ON, USER])
def test_hash_keys_bar_loads_stores_and_fetches(machine: BareMachine, key: int, msr: int) -> None:
    hash_guest(machine, key)
    vcpu = machine.vcpu
    for register, bits, access, fault in (
        (Spr.AMR, 1, LOAD, (0x300, DSISR_AMR)),
        (Spr.AMR, 2, STORE, (0x300, DSISR_AMR | DSISR_ISSTORE)),
        (Spr.IAMR, 1, JUMP, (0x400, SRR1_IAMR)),
    ):
        if key == 0 and register == Spr.IAMR:
            continue  # would bar the test's own code, whose pages have key 0
        vcpu.set_spr(register, M64 & ~key_bits(key, bits) & ~key_bits(0, 3))
        machine.partition.flush_tlb()
        assert outcome(machine, access, msr) == (0xC00, 0), "its bit is clear"
        vcpu.set_spr(register, key_bits(key, bits))
        machine.partition.flush_tlb()
        assert outcome(machine, access, msr) == fault
        vcpu.set_spr(register, 0)


def test_a_key_that_bars_stores_leaves_loads(machine: BareMachine) -> None:
    hash_guest(machine, 9)
    machine.vcpu.set_spr(Spr.AMR, key_bits(9, 2))
    assert outcome(machine, LOAD) == (0xC00, 0)
    assert outcome(machine, STORE) == (0x300, DSISR_AMR | DSISR_ISSTORE)
    assert outcome(machine, LOAD) == (0xC00, 0)


@pytest.mark.parametrize(
    ("register", "bits", "access", "fault"),
    [
        (Spr.AMR, 1, LOAD, (0x300, DSISR_PROTFAULT)),
        (Spr.AMR, 2, STORE, (0x300, DSISR_PROTFAULT | DSISR_ISSTORE)),
        (Spr.IAMR, 1, JUMP, (0x400, SRR1_PROTFAULT)),
    ],
)
def test_radix_key_0_bars_the_kernel_from_user_pages(
    power9: BareMachine, register: int, bits: int, access: asm.Code, fault: tuple[int, int]
) -> None:
    """A violation is a protection fault, not a key fault: radix pages have no keys."""
    radix_guest(power9)
    power9.vcpu.set_spr(register, key_bits(0, bits))
    assert outcome(power9, access) == fault
    power9.vcpu.set_spr(register, M64 ^ key_bits(0, bits))
    power9.partition.flush_tlb()
    assert outcome(power9, access) == (0xC00, 0)


def test_radix_key_0_does_not_bar_the_kernel_from_its_own_pages(power9: BareMachine) -> None:
    radix_guest(power9, 7 | EAA_PRIVILEGED)
    power9.vcpu.set_spr(Spr.AMR, M64)
    power9.vcpu.set_spr(Spr.IAMR, M64)
    for access in (LOAD, STORE, JUMP):
        assert outcome(power9, access) == (0xC00, 0)


def test_radix_key_0_does_not_bar_users(power9: BareMachine) -> None:
    radix_guest(power9)
    tree = RadixTree(power9, 0x2800000)
    tree.insert(0, 0, SHIFT_2M, 7)
    tree.insert(EA, REAL, SHIFT_4K, 7)
    ProcessTable(power9, 0x3F00000).set(0, tree)
    power9.vcpu.set_spr(Spr.AMR, M64)
    power9.vcpu.set_spr(Spr.IAMR, M64)
    for access in (LOAD, STORE, JUMP):
        assert outcome(power9, access, USER) == (0xC00, 0)


AMR_SHUT = key_bits(0, 3)
KUAP = pytest.mark.parametrize("access", [LOAD, STORE], ids=["load", "store"])


def set_amr(value: int) -> list[asm.Code]:
    return [asm.li64(6, value), asm.mtspr(Spr.AMR, 6), asm.ISYNC]


@KUAP
def test_opening_the_amr_takes_effect_at_once(power9: BareMachine, access: int) -> None:
    radix_guest(power9)
    power9.vcpu.set_spr(Spr.AMR, AMR_SHUT)
    assert outcome(power9, access)[0] == 0x300
    assert outcome(power9, [set_amr(0), access]) == (0xC00, 0)


@KUAP
def test_shutting_the_amr_takes_effect_with_the_next_flush(
    power9: BareMachine, access: int
) -> None:
    """AMR and IAMR writes do not flush the TLB, nor do they in QEMU.

    Guaranteed: an access that AMR allows never faults for an older AMR, and one that it bars
    faults unless its page was used while it was allowed and nothing flushed the page since (any
    ``tlbie`` of it, PID or SLB change, hypercall on its entry).  So keys may be enforced late, as
    guests that shut the AMR after each access of their own see no difference; code that relies on
    an access being *refused* must flush.  A page that only loads used is still barred for
    stores, since a page is entered as writable only by a store, or a load that AMR let write.
    """
    radix_guest(power9)
    used = [access, set_amr(AMR_SHUT), access]
    assert outcome(power9, used) == (0xC00, 0)
    flush = [asm.li64(4, EA), asm.li(7, 0), asm.tlbie(4, 7, 0, 1, 1), asm.PTESYNC]
    assert outcome(power9, [set_amr(0), access, set_amr(AMR_SHUT), flush, access])[0] == 0x300


def test_a_page_never_used_is_barred_at_once(power9: BareMachine) -> None:
    radix_guest(power9)
    assert outcome(power9, [set_amr(0), set_amr(AMR_SHUT), LOAD])[0] == 0x300


def test_a_page_entered_read_only_stays_barred_for_stores(power9: BareMachine) -> None:
    radix_guest(power9)
    no_stores = set_amr(key_bits(0, 2))
    assert outcome(power9, [no_stores, LOAD, STORE])[0] == 0x300


def test_opening_after_a_read_only_entry_allows_stores(power9: BareMachine) -> None:
    radix_guest(power9)
    assert outcome(power9, [set_amr(key_bits(0, 2)), LOAD, set_amr(0), STORE]) == (0xC00, 0)
