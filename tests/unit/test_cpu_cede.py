"""H_CEDE: sleeping until there is something to do."""

from __future__ import annotations

import ctypes
import threading
import time

import pytest
import unicorn.unicorn_py3.unicorn as binding

from emu.cpu.isa import IRQ_EXT, MSR_EE, MSR_ME, MSR_SF, Spr
from emu.cpu.record import ExitReason
from emu.cpu.turns import VPA_DISPATCH_COUNTER
from tests.support import asm
from tests.support.bare import CODE, H_CEDE, BareMachine, bare_machine
from tests.support.time import ManualClock

CEDE = [asm.li(3, H_CEDE), asm.EXIT]
MILLISECOND = 512_000
VPA = 0x5000


def external(machine: BareMachine, level: int) -> None:
    """Drive the external interrupt input, on the vCPU thread."""
    cs = ctypes.c_void_p(int(machine.vcpu.record["cs"]))
    binding.uclib.ppc_set_irq_ppc64(cs, IRQ_EXT, level)


def go_to_sleep(machine: BareMachine, decrementer: int = 0x7FFFFFFF) -> None:
    """Load code that sets the decrementer and cedes, then notes that it went on."""
    machine.partition.start_clock()
    setup = [asm.li64(4, decrementer), asm.mtspr(Spr.DEC, 4)]
    machine.load(CODE, setup, CEDE, asm.li(20, 1), asm.b(0))
    machine.vcpu.pc = CODE


def test_the_decrementer_wakes(machine: BareMachine) -> None:
    """Asleep, the vCPU thread waits by itself; no timer thread is needed."""
    go_to_sleep(machine, 10 * MILLISECOND)
    start = time.monotonic()
    taken = machine.run_to_interrupt()
    assert 0.009 < time.monotonic() - start < 2
    assert taken.vector == 0x900
    assert taken.srr0 == CODE + 32  # behind the hypercall
    assert taken.srr1 == MSR_SF | MSR_ME | MSR_EE
    assert not machine.vcpu.record["halted"]


def dispatches(machine: BareMachine) -> int:
    return machine.partition.dma.read_u32_be(VPA + VPA_DISPATCH_COUNTER)


def test_sleep_is_counted_in_the_vpa(machine: BareMachine) -> None:
    """PAPR 14.11.3.2: the dispatch counter is odd while the CPU is not dispatched."""
    machine.vcpu.record["vpa"] = VPA
    clock = ManualClock(machine.partition)
    go_to_sleep(machine, MILLISECOND)
    for _ in range(2):
        threading.Timer(0.01, machine.vcpu.kick).start()
        assert machine.run() is ExitReason.KICKED
        assert dispatches(machine) == 1
    clock.now += 2_000_000
    machine.run_to_interrupt()
    assert dispatches(machine) == 2


def test_a_cede_that_does_not_sleep_is_no_dispatch(machine: BareMachine) -> None:
    machine.vcpu.record["vpa"] = VPA
    go_to_sleep(machine, 0)
    machine.run_to_interrupt()
    assert dispatches(machine) == 0


def test_sleeping_needs_no_processor_time(machine: BareMachine) -> None:
    go_to_sleep(machine, 100 * MILLISECOND)
    before = time.thread_time()
    machine.run_to_interrupt()
    assert time.thread_time() - before < 0.05


def test_a_kick_leaves_run_and_sleep_goes_on(machine: BareMachine) -> None:
    clock = ManualClock(machine.partition)
    go_to_sleep(machine, MILLISECOND)
    for _ in range(3):
        threading.Timer(0.01, machine.vcpu.kick).start()
        assert machine.run() is ExitReason.KICKED
        assert machine.vcpu.record["halted"]
        assert machine.vcpu.gpr(20) == 0
    clock.now += 2_000_000
    assert machine.run_to_interrupt().vector == 0x900
    assert not machine.vcpu.record["halted"]


def test_a_device_wakes_by_a_kick_and_its_interrupt(machine: BareMachine) -> None:
    go_to_sleep(machine)
    threading.Timer(0.01, machine.vcpu.kick).start()
    assert machine.run() is ExitReason.KICKED
    external(machine, 1)
    taken = machine.run_to_interrupt()
    assert (taken.vector, taken.srr0) == (0x500, CODE + 32)


def test_a_pending_interrupt_ends_sleep_at_once(machine: BareMachine) -> None:
    machine.partition.start_clock()
    external(machine, 1)
    go_to_sleep(machine)
    assert machine.run_to_interrupt().vector == 0x500


def test_a_level_that_fell_is_not_delivered(machine: BareMachine) -> None:
    external(machine, 1)
    external(machine, 0)
    machine.vcpu.msr |= MSR_EE
    machine.execute(asm.NOP)


def test_the_external_interrupt_comes_before_the_decrementer(machine: BareMachine) -> None:
    machine.partition.start_clock()
    external(machine, 1)
    machine.vcpu.msr |= MSR_EE
    taken = machine.interrupt(asm.NOP)
    assert taken.vector == 0x500


def test_h_prod_before_ceding_is_remembered(machine: BareMachine) -> None:
    go_to_sleep(machine)
    machine.vcpu.record["prodded"] = 1
    machine.load(CODE, CEDE, asm.li(20, 1))
    assert machine.run() is ExitReason.HYPERCALL
    assert machine.vcpu.gpr(20) == 1
    assert machine.vcpu.gpr(3) == 0
    assert machine.vcpu.msr & MSR_EE
    assert not machine.vcpu.record["prodded"]


def test_a_system_reset_wakes_with_interrupts_off(machine: BareMachine) -> None:
    machine.vcpu.raise_system_reset()
    taken = machine.interrupt(asm.b(0))
    assert (taken.vector, taken.srr0) == (0x100, CODE)


@pytest.mark.parametrize("model", ["power8", "power9"])
def test_a_doorbell_reaches_its_sender(model: str) -> None:
    with bare_machine(model) as machine:
        send = [asm.li64(4, 0x28000000), asm.msgsndp(4)]
        machine.execute(send, asm.mr(5, 3))  # interrupts are off
        assert machine.vcpu.gpr(5) == 0
        machine.vcpu.msr |= MSR_EE
        taken = machine.interrupt(asm.NOP, asm.NOP, at=CODE + 0x1000)
        assert (taken.vector, taken.srr1) == (0xA00, MSR_SF | MSR_ME | MSR_EE)
        machine.vcpu.msr |= MSR_EE
        machine.execute(asm.NOP)  # delivery took it away


def test_only_directed_doorbells_are_sent(machine: BareMachine) -> None:
    machine.vcpu.msr |= MSR_EE
    machine.execute(asm.li64(4, 0x20000000), asm.msgsndp(4), asm.NOP)


def test_a_doorbell_waits_for_the_external_interrupt(machine: BareMachine) -> None:
    machine.execute(asm.li64(4, 0x28000000), asm.msgsndp(4))
    external(machine, 1)
    machine.vcpu.msr |= MSR_EE
    assert machine.interrupt(asm.NOP).vector == 0x500
    external(machine, 0)
    machine.vcpu.msr |= MSR_EE
    assert machine.interrupt(asm.NOP).vector == 0xA00
