"""Timebase and decrementer."""

from __future__ import annotations

import time

import pytest

from emu.cpu.isa import IRQ_DECR, MSR_EE, MSR_ME, MSR_SF, Spr
from emu.cpu.record import ExitReason
from emu.cpu.registers import read_state
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.time import ManualClock

DEC_PENDING = 1 << IRQ_DECR
READ_TIMES = [asm.mfspr(3, Spr.TB), asm.mfspr(4, Spr.DEC)]


@pytest.fixture
def clock(machine: BareMachine) -> ManualClock:
    manual = ManualClock(machine.partition)
    machine.partition.timebase = 0
    machine.partition.start_clock()
    return manual


def pending(machine: BareMachine) -> int:
    return read_state(machine.vcpu).pending


def test_the_timebase_counts_512_per_microsecond(machine: BareMachine, clock: ManualClock) -> None:
    for microseconds in (0, 1, 1000, 3_600_000_000):
        clock.now = 1_000_000_000 + 1000 * microseconds
        machine.execute(READ_TIMES)
        assert machine.vcpu.gpr(3) == 512 * microseconds == machine.partition.timebase


def test_the_timebase_follows_the_host_clock(machine: BareMachine) -> None:
    machine.partition.start_clock()
    around = []
    for _ in range(2):
        before = time.monotonic_ns()
        machine.execute(READ_TIMES)
        around.append((before, machine.vcpu.gpr(3), time.monotonic_ns()))
        time.sleep(0.05)
    (before_1, first, after_1), (before_2, second, after_2) = around
    shortest, longest = before_2 - after_1, after_2 - before_1
    assert shortest * 0.512 - 1 <= second - first <= longest * 0.512 + 1


def test_the_timebase_never_goes_back(machine: BareMachine) -> None:
    machine.partition.start_clock()
    loop = [asm.mfspr(4, Spr.TB), asm.cmpd(4, 3), asm.blt(16), asm.mr(3, 4), asm.bdnz(-16)]
    setup = [asm.mfspr(3, Spr.TB), asm.li64(5, 100_000), asm.mtctr(5), asm.li(6, 1)]
    machine.execute(setup, loop, asm.b(8), asm.li(6, 0))
    assert machine.vcpu.gpr(6) == 1


def test_the_timebase_stands_still_while_stopped(machine: BareMachine, clock: ManualClock) -> None:
    clock.ticks(6400)
    machine.partition.stop_clock()
    assert machine.partition.timebase == 6400
    clock.ticks(64_000)
    assert machine.partition.timebase == 6400
    machine.partition.start_clock()
    clock.ticks(64)
    machine.execute(READ_TIMES)
    assert machine.vcpu.gpr(3) == 6464


def test_starting_and_stopping_twice_changes_nothing(
    machine: BareMachine, clock: ManualClock
) -> None:
    clock.ticks(64)
    machine.partition.start_clock()
    clock.ticks(64)
    machine.partition.stop_clock()
    clock.ticks(64)
    machine.partition.stop_clock()
    assert machine.partition.timebase == 128


@pytest.mark.parametrize("running", [False, True])
def test_the_timebase_can_be_set(machine: BareMachine, clock: ManualClock, running: bool) -> None:
    if not running:
        machine.partition.stop_clock()
    clock.ticks(6400)
    machine.partition.timebase = 1 << 50
    machine.partition.start_clock()
    clock.ticks(64)
    machine.execute(READ_TIMES)
    assert machine.vcpu.gpr(3) == (1 << 50) + 64


def test_the_upper_half_is_that_of_the_last_reading(
    machine: BareMachine, clock: ManualClock
) -> None:
    """Unicorn has no callback for TBU: it follows reads of TB, as 32-bit code interleaves them."""
    machine.partition.timebase = 0x123_FFFF_FFC0
    machine.execute(asm.mfspr(3, Spr.TB), asm.mfspr(4, Spr.TBU))
    assert machine.vcpu.gpr(4) == 0x123
    clock.ticks(64)
    machine.execute(asm.mfspr(3, Spr.TB), asm.mfspr(4, Spr.TBU))
    assert (machine.vcpu.gpr(3) & 0xFFFFFFFF, machine.vcpu.gpr(4)) == (0, 0x124)


def test_processor_and_virtual_timebase_count_alike(
    machine: BareMachine, clock: ManualClock
) -> None:
    clock.ticks(6400)
    machine.execute(
        *(asm.mfspr(3 + n, spr) for n, spr in enumerate((Spr.TB, Spr.PURR, Spr.SPURR, Spr.VTB)))
    )
    assert [machine.vcpu.gpr(n) for n in (3, 4, 5, 6)] == [6400] * 4


def test_the_decrementer_counts_down(machine: BareMachine, clock: ManualClock) -> None:
    machine.execute(asm.li64(4, 100_000), asm.mtspr(Spr.DEC, 4), READ_TIMES)
    assert machine.vcpu.gpr(4) == 100_000
    clock.ticks(64_000)
    machine.execute(READ_TIMES)
    assert machine.vcpu.gpr(4) == 36_000
    clock.ticks(64_000)
    machine.execute(READ_TIMES)
    assert machine.vcpu.gpr(4) == -28_000 & 0xFFFFFFFF


def test_the_decrementer_stands_still_while_stopped(
    machine: BareMachine, clock: ManualClock
) -> None:
    machine.execute(asm.li64(4, 100_000), asm.mtspr(Spr.DEC, 4))
    machine.partition.stop_clock()
    clock.ticks(64_000_000)
    machine.partition.start_clock()
    machine.execute(READ_TIMES)
    assert machine.vcpu.gpr(4) == 100_000


def test_the_decrementer_interrupts_when_it_turns_negative(
    machine: BareMachine, clock: ManualClock
) -> None:
    machine.vcpu.msr |= MSR_EE
    machine.execute(asm.li64(4, 63), asm.mtspr(Spr.DEC, 4))
    clock.now += 124
    machine.execute(asm.NOP)
    clock.now += 126  # 0x3f ticks to zero, one more to minus one
    taken = machine.interrupt(asm.b(0))
    assert (taken.vector, taken.srr0) == (0x900, CODE)
    assert taken.srr1 == MSR_SF | MSR_ME | MSR_EE
    assert machine.vcpu.msr == MSR_SF | MSR_ME


def test_the_interrupt_stays_until_the_decrementer_is_positive(
    machine: BareMachine, clock: ManualClock
) -> None:
    machine.execute(asm.li(4, 0), asm.mtspr(Spr.DEC, 4))
    clock.ticks(640)
    for _ in range(3):
        machine.vcpu.msr |= MSR_EE
        assert machine.interrupt(asm.b(0)).vector == 0x900
    assert pending(machine) == DEC_PENDING
    machine.execute(asm.li64(4, 1_000_000), asm.mtspr(Spr.DEC, 4))
    assert pending(machine) == 0
    machine.vcpu.msr |= MSR_EE
    machine.execute(asm.NOP, asm.NOP)


def test_the_interrupt_waits_for_msr_ee(machine: BareMachine, clock: ManualClock) -> None:
    machine.execute(asm.li(4, 0), asm.mtspr(Spr.DEC, 4))
    clock.ticks(640)
    machine.execute(asm.NOP)
    assert pending(machine) == DEC_PENDING
    enable = [asm.li64(3, MSR_SF | MSR_ME | MSR_EE), asm.mtmsrd(3)]
    assert machine.interrupt(enable, asm.b(0)).vector == 0x900


@pytest.mark.parametrize("value", [0x80000000, 0xFFFFFFFF])
def test_a_negative_value_interrupts_at_once(
    machine: BareMachine, clock: ManualClock, value: int
) -> None:
    machine.vcpu.msr |= MSR_EE
    taken = machine.interrupt(asm.li64(4, value), asm.mtspr(Spr.DEC, 4), asm.b(0))
    assert taken.vector == 0x900


def test_only_the_low_word_of_the_value_counts(machine: BareMachine, clock: ManualClock) -> None:
    machine.vcpu.msr |= MSR_EE
    machine.execute(asm.li64(4, 0xFFFFFFFF_00001000), asm.mtspr(Spr.DEC, 4), READ_TIMES)
    assert machine.vcpu.gpr(4) == 0x1000
    assert pending(machine) == 0


def test_a_stopped_clock_raises_nothing(machine: BareMachine, clock: ManualClock) -> None:
    machine.execute(asm.li64(4, 640), asm.mtspr(Spr.DEC, 4))
    machine.partition.stop_clock()
    clock.ticks(64_000)
    machine.load(CODE, asm.NOP)
    machine.vcpu.pc = CODE
    machine.vcpu.kick()
    assert machine.run() is ExitReason.KICKED
    assert pending(machine) == 0


@pytest.mark.parametrize("ticks", [10_000, 512_000])
def test_a_running_guest_is_interrupted_on_time_and_never_early(
    machine: BareMachine, ticks: int
) -> None:
    """The timer thread breaks an endless loop; 512,000 ticks are a millisecond."""
    machine.partition.ticker.start()
    machine.partition.start_clock()
    machine.load(0x900, asm.mfspr(6, Spr.TB))
    for _ in range(5):
        machine.vcpu.msr |= MSR_EE
        start = [asm.mfspr(5, Spr.TB), asm.li64(4, ticks), asm.mtspr(Spr.DEC, 4)]
        machine.load(CODE, start, asm.b(0))
        machine.vcpu.pc = CODE
        assert machine.run() is ExitReason.HYPERCALL
        assert machine.vcpu.pc == 0x908
        waited = machine.vcpu.gpr(6) - machine.vcpu.gpr(5)
        assert ticks < waited < ticks + 100 * 512_000


def test_an_earlier_deadline_wakes_the_timer(machine: BareMachine) -> None:
    machine.partition.ticker.start()
    machine.partition.start_clock()
    machine.execute(asm.li64(4, 0x7FFFFFFF), asm.mtspr(Spr.DEC, 4))
    time.sleep(0.01)
    machine.vcpu.msr |= MSR_EE
    start = time.monotonic()
    taken = machine.interrupt(asm.li64(4, 512_000), asm.mtspr(Spr.DEC, 4), asm.b(0))
    assert taken.vector == 0x900
    assert time.monotonic() - start < 1
