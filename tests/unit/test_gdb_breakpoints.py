"""Breakpoints and watchpoints in the CPU: they stop where they should, and leave no trace."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest

from emu.cpu import layout
from emu.cpu.debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS, Access, VcpuDebug, WatchHit, Watchpoint
from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE, MSR_VEC
from emu.cpu.record import ExitReason
from emu.cpu.tlb import flush_partition
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import HashTable, Segment, map_all, set_slb

DATA = 0x3000
READ, WRITE = Access.READ, Access.WRITE
BOTH = Access.READ | Access.WRITE


@pytest.fixture
def debug(machine: BareMachine) -> Iterator[VcpuDebug]:
    """A debugger's hold on the bare machine's vCPU."""
    held = VcpuDebug(machine.vcpu)
    yield held
    held.close()


def step(machine: BareMachine, debug: VcpuDebug) -> None:
    """One instruction."""
    debug.begin_step(interrupts=False)
    machine.run()
    assert debug.stepped
    debug.end_step()


def load(machine: BareMachine, *code: asm.Code) -> None:
    """Code at CODE, and the program counter there."""
    machine.load(CODE, *code)
    machine.vcpu.pc = CODE


def test_a_breakpoint_stops_before_its_instruction(machine: BareMachine, debug: VcpuDebug) -> None:
    load(machine, asm.li(3, 1), asm.li(4, 2), asm.li(5, 3))
    debug.set_breakpoints({CODE + 4})
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.pc == CODE + 4
    assert debug.at_breakpoint
    assert (machine.vcpu.gpr(3), machine.vcpu.gpr(4)) == (1, 0)


def test_it_stops_again_until_it_is_stepped_over(machine: BareMachine, debug: VcpuDebug) -> None:
    load(machine, asm.li(3, 1), asm.li(4, 2))
    debug.set_breakpoints({CODE + 4})
    for _ in range(3):
        assert machine.run() is ExitReason.DEBUG
    step(machine, debug)
    assert machine.run() is ExitReason.HYPERCALL


def test_a_hot_loop_stops_and_goes_on(machine: BareMachine, debug: VcpuDebug) -> None:
    """The loop's blocks are translated, chained and cached when the breakpoint comes."""
    load(machine, asm.li64(4, 1 << 40), asm.mtctr(4), asm.addi(5, 5, 1), asm.bdnz(-4))
    threading.Timer(0.05, machine.vcpu.kick).start()
    assert machine.run() is ExitReason.KICKED
    debug.set_breakpoints({CODE + 28})
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.pc == CODE + 28
    count = machine.vcpu.gpr(5)
    step(machine, debug)
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.gpr(5) == count + 1
    debug.set_breakpoints(())
    threading.Timer(0.05, machine.vcpu.kick).start()
    assert machine.run() is ExitReason.KICKED


def test_a_loop_of_indirect_branches_stops(machine: BareMachine, debug: VcpuDebug) -> None:
    """The cache of lookups forgets blocks that a breakpoint has replaced."""
    first, second = CODE + 40, CODE + 52
    load(
        machine,
        *(asm.li64(3, first), asm.li64(4, second)),
        *(asm.addi(5, 5, 1), asm.mtctr(4), asm.BCTR),
        *(asm.addi(6, 6, 1), asm.mtctr(3), asm.BCTR),
    )
    threading.Timer(0.05, machine.vcpu.kick).start()
    assert machine.run() is ExitReason.KICKED
    other = second if machine.vcpu.pc == first else first
    debug.set_breakpoints({other + 4})
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.pc == other + 4


def test_removing_one_of_two(machine: BareMachine, debug: VcpuDebug) -> None:
    load(machine, asm.li(3, 1), asm.li(4, 2), asm.li(5, 3))
    debug.set_breakpoints({CODE, CODE + 8})
    assert machine.run() is ExitReason.DEBUG
    debug.set_breakpoints({CODE + 8})
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.pc == CODE + 8


def test_the_guest_reads_its_own_code(machine: BareMachine, debug: VcpuDebug) -> None:
    load(machine, asm.lwz(5, 3), asm.NOP)
    machine.vcpu.set_gpr(3, CODE + 4)
    debug.set_breakpoints({CODE + 4})
    machine.run()
    assert machine.vcpu.gpr(5) == asm.NOP
    assert machine.partition.dma.read(CODE + 4, 4) == asm.assemble(asm.NOP)


def test_code_written_over_a_breakpoint_still_stops(machine: BareMachine, debug: VcpuDebug) -> None:
    debug.set_breakpoints({CODE + 4})
    load(machine, asm.li(3, 1), asm.li(4, 2))
    assert machine.run() is ExitReason.DEBUG
    load(machine, asm.li(3, 5), asm.li(4, 6))
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.gpr(3) == 5
    step(machine, debug)
    assert machine.vcpu.gpr(4) == 6


@pytest.mark.parametrize("little", [False, True])
def test_both_byte_orders(machine: BareMachine, debug: VcpuDebug, little: bool) -> None:
    machine.vcpu.msr |= MSR_LE if little else 0
    load(machine, asm.li(3, 1), asm.li(4, 2))
    debug.set_breakpoints({CODE + 4})
    assert machine.run() is ExitReason.DEBUG
    assert machine.vcpu.pc == CODE + 4


def test_the_address_is_effective_and_follows_the_mapping(
    machine: BareMachine, debug: VcpuDebug
) -> None:
    """The same breakpoint stops in whatever page is mapped there, and nowhere else."""
    ea, first, second = 0x10_0000, 0x20_0000, 0x30_0000
    table, segment = HashTable(machine), Segment(0, 0x123)
    machine.tables = table
    set_slb(machine.vcpu, 0, segment)
    for real, value in ((first, 1), (second, 2)):
        machine.load(real, asm.li(3, value), asm.li(4, value))
    entry = table.insert(segment, ea, first)
    debug.set_breakpoints({ea + 4})
    for real, value in ((first, 1), (second, 2)):
        table.words[entry] = 0, 0
        table.insert(segment, ea, real, slot=entry % 8)
        flush_partition(machine.partition.address)
        machine.vcpu.msr |= MSR_IR | MSR_DR
        machine.vcpu.pc = ea
        assert machine.run() is ExitReason.DEBUG
        assert machine.vcpu.gpr(3) == value
    machine.vcpu.msr &= ~(MSR_IR | MSR_DR)
    machine.vcpu.pc = first
    assert machine.run() is ExitReason.HYPERCALL  # the same code at another address


def test_without_a_debugger_all_is_as_before(machine: BareMachine) -> None:
    load(machine, asm.li(3, 1), asm.stw(3, 3, DATA - 1), asm.li(4, 2))
    held = VcpuDebug(machine.vcpu)
    held.set_breakpoints({CODE + 4})
    held.set_watchpoints([Watchpoint(DATA, DATA + 3, BOTH)])
    assert machine.run() is ExitReason.DEBUG
    held.close()
    assert machine.run() is ExitReason.HYPERCALL
    assert machine.vcpu.gpr(4) == 2
    again = VcpuDebug(machine.vcpu)
    again.set_watchpoints([Watchpoint(DATA, DATA, WRITE)])
    machine.vcpu.pc = CODE
    assert machine.run() is ExitReason.DEBUG
    again.close()


def test_another_fault_handler_before_ours_stays(machine: BareMachine) -> None:
    """Tracing puts its own there, too; whoever goes first, no access is lost."""
    where = ctypes.c_uint64.from_address(
        int(machine.vcpu.record["cs"]) + layout.CPU_CLASS + layout.CLASS_HANDLE_MMU_FAULT
    )
    original, calls = where.value, []
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int32, ctypes.c_int32
    )

    def count(cs: int, address: int, access: int, mmu_idx: int) -> int:
        calls.append(address)
        return int(following(cs, address, access, mmu_idx))

    load(machine, asm.li(3, DATA), asm.stw(3, 3))
    watchpoint = Watchpoint(DATA, DATA, WRITE)
    for _ in range(2):
        held = VcpuDebug(machine.vcpu)
        held.set_watchpoints([watchpoint])
        following, theirs = kind(where.value), kind(count)
        where.value = ctypes.cast(theirs, ctypes.c_void_p).value or 0
        machine.vcpu.pc = CODE
        assert machine.run() is ExitReason.DEBUG
        held.close()
        assert machine.run() is ExitReason.HYPERCALL
        where.value = ctypes.cast(following, ctypes.c_void_p).value or 0
    assert calls
    held = VcpuDebug(machine.vcpu)
    held.set_watchpoints([watchpoint])
    held.close()
    assert where.value == original


def test_there_are_limits(debug: VcpuDebug) -> None:
    debug.set_breakpoints(range(0, 4 * MAX_BREAKPOINTS, 4))
    debug.set_breakpoints(range(4096, 4096 + 4 * MAX_BREAKPOINTS, 4))
    with pytest.raises(ValueError, match="breakpoints"):
        debug.set_breakpoints(range(0, 4 * MAX_BREAKPOINTS + 4, 4))
    with pytest.raises(ValueError, match="watchpoints"):
        debug.set_watchpoints([Watchpoint(0, 0, WRITE)] * (MAX_WATCHPOINTS + 1))


def hit(machine: BareMachine, debug: VcpuDebug) -> WatchHit | None:
    """Run to the end or to a watchpoint."""
    reason = machine.run()
    found = debug.take_hit()
    assert (found is not None) == (reason is ExitReason.DEBUG)
    return found


ACCESSES = [
    (asm.lbz(5, 3), READ, 0),
    (asm.lhz(5, 3), READ, 0),
    (asm.lwz(5, 3), READ, 0),
    (asm.ld(5, 3), READ, 0),
    (asm.stb(5, 3), WRITE, 0),
    (asm.sth(5, 3), WRITE, 0),
    (asm.stw(5, 3), WRITE, 0),
    (asm.std(5, 3), WRITE, 0),
    (asm.stwbrx(5, 0, 3), WRITE, 0),
    (asm.lwarx(5, 0, 3), READ, 0),
    (asm.dcbz(0, 3), WRITE, 0),
    (asm.x_form(31, 1, 0, 3, 231), WRITE, 0),  # stvx
    (asm.x_form(31, 1, 0, 3, 103), READ, 0),  # lvx
    (asm.d_form(47, 31, 3, 0), WRITE, 0),  # stmw
]


@pytest.mark.parametrize(("code", "access", "offset"), ACCESSES)
@pytest.mark.parametrize("wanted", [READ, WRITE, BOTH])
def test_an_access_stops_before_it_is_done(
    machine: BareMachine, debug: VcpuDebug, code: int, access: Access, offset: int, wanted: Access
) -> None:
    machine.vcpu.msr |= MSR_VEC
    machine.partition.dma.write(DATA, b"\xaa" * 16)
    watchpoint = Watchpoint(DATA, DATA, wanted)
    debug.set_watchpoints([watchpoint])
    load(machine, asm.li(3, DATA), asm.li(5, 7), code, asm.li(6, 1))
    found = hit(machine, debug)
    if access & wanted:
        assert found == WatchHit(watchpoint, DATA, access)
        assert (machine.vcpu.pc, machine.vcpu.gpr(5)) == (CODE + 8, 7)
        assert machine.partition.dma.read(DATA, 16) == b"\xaa" * 16
    else:
        assert found is None
        assert machine.vcpu.gpr(6) == 1


def test_the_access_is_done_when_the_watchpoint_is_stepped_over(
    machine: BareMachine, debug: VcpuDebug
) -> None:
    watchpoint = Watchpoint(DATA, DATA + 7, WRITE)
    load(machine, asm.li(3, DATA), asm.li(5, 7), asm.std(5, 3), asm.std(5, 3, 8))
    debug.set_watchpoints([watchpoint])
    assert hit(machine, debug) is not None
    debug.set_watchpoints(())
    step(machine, debug)
    assert machine.partition.dma.read_u64_be(DATA) == 7
    debug.set_watchpoints([watchpoint])
    assert hit(machine, debug) is None
    assert machine.partition.dma.read_u64_be(DATA + 8) == 7


@pytest.mark.parametrize(
    ("first", "size", "stops"),
    [(-1, 1, False), (0, 1, True), (3, 1, True), (4, 1, False), (-4, 5, True), (4, 100, False)],
)
def test_the_range_counts_byte_by_byte(
    machine: BareMachine, debug: VcpuDebug, first: int, size: int, stops: bool
) -> None:
    start = DATA + 0x100 + first
    debug.set_watchpoints([Watchpoint(start, start + size - 1, WRITE)])
    load(machine, asm.li(3, DATA), asm.stw(5, 3, 0x100))
    found = hit(machine, debug)
    assert (found is not None) is stops
    if found is not None:
        assert found.address == max(start, DATA + 0x100)


def test_a_store_across_a_page_boundary(machine: BareMachine, debug: VcpuDebug) -> None:
    edge = 0x5000
    debug.set_watchpoints([Watchpoint(edge, edge, WRITE)])
    load(machine, asm.li(3, edge), asm.std(5, 3, -4))
    assert hit(machine, debug) == WatchHit(Watchpoint(edge, edge, WRITE), edge, WRITE)


def test_a_page_that_is_in_the_tlb_already(machine: BareMachine, debug: VcpuDebug) -> None:
    machine.execute(asm.li(3, DATA), asm.std(5, 3), asm.ld(6, 3))
    debug.set_watchpoints([Watchpoint(DATA, DATA, WRITE)])
    machine.vcpu.pc = CODE
    assert hit(machine, debug) is not None


def test_a_page_that_was_fetched_from(machine: BareMachine, debug: VcpuDebug) -> None:
    """An executable entry of the TLB serves loads as well."""
    load(machine, asm.li64(3, CODE), asm.lwz(5, 3))
    debug.set_watchpoints([Watchpoint(CODE, CODE, READ)])
    assert hit(machine, debug) is not None


@pytest.mark.parametrize("radix", [False, True])
def test_translated_addresses(radix: bool) -> None:
    from tests.support.bare import bare_machine

    with bare_machine("power9" if radix else "power8") as machine:
        debug = VcpuDebug(machine.vcpu)
        machine.tables = map_all(machine, radix=radix)
        load(machine, asm.li64(3, DATA), asm.std(5, 3))
        machine.vcpu.msr |= MSR_IR | MSR_DR
        debug.set_watchpoints([Watchpoint(DATA, DATA + 7, WRITE)])
        assert hit(machine, debug) is not None
        debug.close()


def test_the_dirty_log_still_sees_stores(machine: BareMachine, debug: VcpuDebug) -> None:
    debug.set_watchpoints([Watchpoint(DATA + 0x800, DATA + 0x800, WRITE)])
    machine.partition.clear_dirty()
    machine.execute(asm.li(3, DATA), asm.std(5, 3))
    assert machine.partition.dirty_map[DATA >> 12]


def test_code_in_a_watched_page_follows_stores(machine: BareMachine, debug: VcpuDebug) -> None:
    """Stores of the guest to its own code drop translations, watched or not."""
    debug.set_watchpoints([Watchpoint(CODE + 0xF00, CODE + 0xF00, WRITE)])
    store: list[asm.Code] = [asm.li64(3, CODE + 0x200), asm.li64(4, asm.li(7, 9)), asm.stw(4, 3)]
    for value in (1, 9):
        machine.load(CODE + 0x200, asm.li(7, 1), asm.li(8, value))
        machine.vcpu.pc = CODE + 0x200
        machine.run()
    assert machine.vcpu.gpr(7) == 1
    machine.execute(*store, asm.PTESYNC, asm.ISYNC, at=CODE + 0x400)
    machine.vcpu.pc = CODE + 0x200
    machine.run()
    assert machine.vcpu.gpr(7) == 9
