"""Breaking into a running CPU leaves the guest's work as it was."""

from __future__ import annotations

import threading
import time
from typing import Literal

import pytest

from emu.cpu.isa import MSR_DR, MSR_EE, MSR_FP, MSR_IR, MSR_LE, MSR_ME, MSR_SF
from emu.cpu.record import ExitReason
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import map_all
from tests.support.time import Kicker

LIST = 0x200000
NODES = 512
ROUNDS = 400_000
M64 = (1 << 64) - 1


def write_list(machine: BareMachine) -> tuple[list[int], list[int]]:
    """A ring of nodes: address of the next, value.  Returns both by node."""
    following = [(number * 37 + 11) % NODES for number in range(NODES)]
    values = [number * 0x9E3779B97F4A7C15 & M64 for number in range(NODES)]
    order: Literal["little", "big"] = "little" if machine.vcpu.msr & MSR_LE else "big"
    for number in range(NODES):
        node = LIST + 16 * following[number]
        data = node.to_bytes(8, order) + values[number].to_bytes(8, order)
        machine.partition.dma.write(LIST + 16 * number, data)
    return following, values


def expected(following: list[int], values: list[int], rounds: int) -> int:
    node, total = 0, 0
    for _ in range(rounds):
        node = following[node]
        total = total + values[node] & M64
        total = (total << 7 | total >> 57) & M64
        total ^= LIST + 16 * node
        values[node] = total
    return total


def work(rounds: int) -> asm.Code:
    """Chase the ring with ``ld r3,0(r3)``, sum, rotate, and store back: nothing idempotent."""
    loop = [
        asm.ld(3, 3),
        asm.ld(5, 3, 8),
        asm.add(6, 6, 5),
        asm.rotldi(6, 6, 7),
        asm.xor(6, 6, 3),
        asm.std(6, 3, 8),
        asm.bdnz(-24),
    ]
    return [asm.li64(3, LIST), asm.li(6, 0), asm.li64(7, rounds), asm.mtctr(7), loop]


def run_kicked(machine: BareMachine, *code: asm.Code) -> int:
    """Run code to its end under kicks; returns how often it was broken off."""
    end = machine.load(CODE, *code)
    machine.vcpu.pc = CODE
    stops = 0
    with Kicker(machine.vcpu):
        while machine.run() is ExitReason.KICKED:
            stops += 1
    assert machine.vcpu.pc == end
    return stops


@pytest.mark.parametrize("little", [False, True])
@pytest.mark.parametrize("relocated", [False, True])
def test_kicks_do_not_disturb_loads_and_stores(
    machine: BareMachine, little: bool, relocated: bool
) -> None:
    machine.vcpu.msr |= MSR_LE if little else 0
    if relocated:
        machine.tables = map_all(machine, radix=False)
        machine.vcpu.msr |= MSR_IR | MSR_DR
    stops = 0
    for _ in range(20):  # on a busy host the kicking thread may come too late
        following, values = write_list(machine)
        stops += run_kicked(machine, work(ROUNDS))
        assert machine.vcpu.gpr(6) == expected(following, values, ROUNDS)
        if stops:
            break
    assert stops > 0


def test_a_masked_floating_point_exception_survives_kicks(machine: BareMachine) -> None:
    """Unicorn leaves its cause behind; a break of the loop must not deliver or repeat it."""
    machine.vcpu.msr |= MSR_FP
    machine.partition.dma.write_u64_be(0x3000, 0x80)  # FPSCR: VE
    count = 3_000_000
    setup = [asm.li64(3, 0x3000), asm.lfd(1, 3), asm.mtfsf(1)]
    loop = [asm.addi(5, 5, 1), asm.bdnz(-4)]
    invalid = asm.mtfsb1(7)  # VXSNAN, which FPSCR enables and MSR does not
    stops = 0
    for _ in range(20):  # on a busy host the kicking thread may come too late
        start = [setup, asm.li(5, 0), invalid, asm.li64(4, count), asm.mtctr(4)]
        stops += run_kicked(machine, start, loop)
        assert machine.vcpu.gpr(5) == count
        if stops:
            break
    assert stops > 0


@pytest.mark.parametrize("enabled", [0, MSR_EE])
def test_an_endless_loop_can_be_stopped(machine: BareMachine, enabled: int) -> None:
    machine.vcpu.msr |= enabled
    machine.load(CODE, asm.b(0))
    machine.vcpu.pc = CODE
    timer = threading.Timer(0.02, machine.vcpu.kick)
    start = time.monotonic()
    timer.start()
    assert machine.run() is ExitReason.KICKED
    assert time.monotonic() - start < 2
    assert machine.vcpu.pc == CODE


def test_an_endless_loop_of_indirect_branches_can_be_stopped(machine: BareMachine) -> None:
    machine.load(CODE, asm.li64(3, CODE + 24), asm.mtctr(3), asm.BCTR)
    machine.vcpu.pc = CODE
    threading.Timer(0.02, machine.vcpu.kick).start()
    assert machine.run() is ExitReason.KICKED
    assert machine.vcpu.pc == CODE + 24


def test_a_kick_before_the_run_is_not_lost(machine: BareMachine) -> None:
    machine.load(CODE, asm.li(3, 1))
    machine.vcpu.pc = CODE
    machine.vcpu.kick()
    machine.vcpu.kick()
    assert machine.run() is ExitReason.KICKED
    assert (machine.vcpu.pc, machine.vcpu.gpr(3)) == (CODE, 0)
    assert machine.run() is ExitReason.HYPERCALL
    assert machine.vcpu.gpr(3) == 1


def test_a_kick_during_a_hypercall_is_not_lost(machine: BareMachine) -> None:
    machine.load(CODE, asm.li(3, 1))
    machine.vcpu.pc = CODE
    assert machine.run() is ExitReason.HYPERCALL
    machine.vcpu.kick()
    machine.load(CODE + 12, asm.li(3, 2))
    assert machine.run() is ExitReason.KICKED
    assert machine.vcpu.gpr(3) == 1


def test_stopping_keeps_the_machine_state(machine: BareMachine) -> None:
    machine.load(CODE, asm.b(0))
    machine.vcpu.pc = CODE
    for _ in range(200):
        machine.vcpu.kick()
        assert machine.run() is ExitReason.KICKED
    assert machine.vcpu.msr == MSR_SF | MSR_ME
    assert machine.vcpu.pc == CODE
