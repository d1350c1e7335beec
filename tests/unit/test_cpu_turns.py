"""Several vCPUs on one thread: whose turn it is, and what they do to each other's state."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numba import njit, types

from emu.cpu.partition import Partition
from emu.cpu.record import NO_VCPU, ExitReason, Hcall, partition_at, vcpu_at
from emu.cpu.tlb import flush_all
from emu.cpu.turns import TURN_NS, VPA_DISPATCH_COUNTER, prod
from emu.cpu.vcpu import Vcpu
from machines.pseries import dispatch, papr
from machines.pseries.papr import HcallNumber
from machines.pseries.splpar import h_confer, h_prod
from tests.support import asm
from tests.support.bare import CODE, H_CEDE, BareMachine, bare_machine
from tests.support.time import ManualClock

LOW, VERY_LOW, MEDIUM = 0x7C210B78, 0x7FFFFB78, 0x7C421378  # or 1,1,1; or 31,31,31; or 2,2,2
CEDE = [asm.li(3, H_CEDE), asm.EXIT]
STAY = asm.b(0)
DATA = 0x40000
VPA = 0x50000


class Pair(BareMachine):
    """Two vCPUs; time stands still unless a test moves it."""

    def __init__(self, model: str = "power8") -> None:
        super().__init__(model)
        self.clock = ManualClock(self.partition)
        self.other = Vcpu(self.partition, 1, model)
        self.partition.start_clock()

    def start(self, vcpu: Vcpu, at: int, *code: asm.Code) -> None:
        """Give a vCPU code to run."""
        self.load(at, *code)
        vcpu.pc = at

    def turn(self) -> tuple[int, ExitReason]:
        """One turn: (index of the vCPU, why it ended); fails if it does not end."""
        vcpu = self.partition.next_turn()
        assert vcpu is not None
        timer = threading.Timer(20.0, vcpu.kick)
        timer.start()
        try:
            return vcpu.index, vcpu.run()
        finally:
            timer.cancel()
            self.partition.clear_kicks()


@pytest.fixture(params=["power8", "power9"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Both models take turns alike."""
    machine = Pair(request.param)
    yield machine
    machine.close()


@pytest.fixture
def real_time(pair: Pair) -> Pair:
    """Two vCPUs whose time runs, watched by the timer thread."""
    pair.partition.record["clock_read"] = Partition(pair.ram).record["clock_read"]
    pair.partition.timebase = 0
    pair.partition.ticker.start()
    return pair


def test_two_busy_vcpus_alternate(real_time: Pair) -> None:
    real_time.start(real_time.vcpu, CODE, STAY)
    real_time.start(real_time.other, CODE + 0x1000, STAY)
    turns = [real_time.turn() for _ in range(6)]
    assert turns == [(index, ExitReason.TURN_OVER) for index in (0, 1) * 3]


def test_a_vcpu_that_is_alone_runs_on(real_time: Pair) -> None:
    real_time.other.record["stopped"] = 1
    real_time.start(real_time.vcpu, CODE, STAY)
    threading.Timer(20 * TURN_NS / 1e9, real_time.vcpu.kick).start()
    assert real_time.turn() == (0, ExitReason.KICKED)


def test_a_vcpu_that_wakes_gets_a_turn(real_time: Pair) -> None:
    """Its decrementer runs out while the other has no reason to stop."""
    real_time.start(
        real_time.other, CODE, asm.li64(4, 3 * TURN_NS // 2), asm.mtspr(22, 4), CEDE, asm.EXIT
    )
    real_time.start(real_time.vcpu, CODE + 0x1000, CEDE, STAY)
    assert real_time.turn() == (0, ExitReason.TURN_OVER)  # ceded
    assert real_time.turn() == (1, ExitReason.TURN_OVER)  # ceded
    real_time.vcpu.record["prodded"] = 1
    assert real_time.turn() == (0, ExitReason.TURN_OVER)  # interrupted for the other
    turns = [real_time.turn()]
    while turns[-1][1] is ExitReason.TURN_OVER:  # a turn may be short on a busy host
        turns.append(real_time.turn())
    assert turns[-1] == (1, ExitReason.HYPERCALL)
    assert real_time.other.pc == 0x900 + 4


def test_all_asleep_a_kick_gives_no_turn(pair: Pair) -> None:
    for vcpu in (pair.vcpu, pair.other):
        vcpu.record["halted"] = 1
    threading.Timer(0.02, pair.vcpu.kick).start()
    assert pair.partition.next_turn() is None
    assert int(pair.partition.record["current"]) == NO_VCPU


@pytest.mark.parametrize("hint", [LOW, VERY_LOW])
def test_a_spinning_vcpu_gives_way(pair: Pair, hint: int) -> None:
    """No time passes: only the hint can end these turns."""
    pair.start(pair.vcpu, CODE, hint, MEDIUM, asm.b(-8))
    pair.start(pair.other, CODE + 0x1000, hint, MEDIUM, asm.b(-8))
    assert [pair.turn() for _ in range(4)] == [(i, ExitReason.TURN_OVER) for i in (0, 1, 0, 1)]


def test_a_spinning_vcpu_that_is_alone_spins(pair: Pair) -> None:
    pair.other.record["halted"] = 1
    pair.start(pair.vcpu, CODE, [LOW, MEDIUM] * 100, asm.EXIT)
    assert pair.turn() == (0, ExitReason.HYPERCALL)


def test_a_normal_priority_is_no_hint(pair: Pair) -> None:
    pair.start(pair.vcpu, CODE, [MEDIUM] * 100, asm.EXIT)
    pair.start(pair.other, CODE + 0x1000, STAY)
    assert pair.turn() == (0, ExitReason.HYPERCALL)


def dispatch_counts(pair: Pair) -> list[int]:
    """Of both VPAs."""
    areas = (VPA, VPA + 0x400)
    return [pair.partition.dma.read_u32_be(area + VPA_DISPATCH_COUNTER) for area in areas]


def test_the_dispatch_counter_is_even_for_who_has_the_turn(pair: Pair) -> None:
    for number, vcpu in enumerate((pair.vcpu, pair.other)):
        pair.start(vcpu, CODE + 0x1000 * number, LOW, MEDIUM, asm.b(-8))
        vcpu.record["vpa"] = VPA + 0x400 * number
    seen = []
    for _ in range(4):
        pair.turn()
        seen.append(dispatch_counts(pair))
    assert [[count % 2 for count in counts] for counts in seen] == [[0, 1], [1, 0]] * 2
    assert seen[-1] > seen[0]


def test_the_dispatch_counter_is_odd_for_who_sleeps(pair: Pair) -> None:
    pair.vcpu.record["vpa"] = VPA
    pair.other.record["halted"] = 1
    pair.start(pair.vcpu, CODE, CEDE, STAY)
    assert pair.turn() == (0, ExitReason.TURN_OVER)
    threading.Timer(0.02, pair.vcpu.kick).start()
    assert pair.partition.next_turn() is None
    assert dispatch_counts(pair)[0] % 2 == 1


@njit(types.uint64(types.uint64, types.uint64, types.uint64))
def confer(vcpu_address, target, count):  # type: ignore[no-untyped-def]
    """The hypercall as the dispatcher makes it."""
    vcpu = vcpu_at(vcpu_address)
    return h_confer(vcpu, partition_at(vcpu.partition), target, count)


@njit(types.void(types.uint64))
def wake_by_prod(vcpu_address):  # type: ignore[no-untyped-def]
    """H_PROD of a vCPU."""
    vcpu = vcpu_at(vcpu_address)
    prod(vcpu, partition_at(vcpu.partition))


@njit(types.uint64(types.uint64, types.uint64))
def call_prod(partition_address, target):  # type: ignore[no-untyped-def]
    """The hypercall as the dispatcher makes it."""
    return h_prod(partition_at(partition_address), target)


@njit(types.void(types.uint64))
def flush_everything(partition_address):  # type: ignore[no-untyped-def]
    """What a vCPU's tlbie does to all."""
    flush_all(partition_at(partition_address))


@pytest.fixture
def three(pair: Pair) -> list[Vcpu]:
    """Three vCPUs, the first of which has the turn."""
    third = Vcpu(pair.partition, 2, pair.vcpu.model)
    vcpus = [pair.vcpu, pair.other, third]
    for number, vcpu in enumerate(vcpus):
        pair.start(vcpu, CODE + 0x1000 * number, STAY)
        vcpu.record["vpa"] = VPA + 0x400 * number
    assert pair.partition.next_turn() is pair.vcpu
    return vcpus


def test_confer_gives_the_turn_to_a_preempted_vcpu(three: list[Vcpu]) -> None:
    partition = three[0].partition
    count = partition.dma.read_u32_be(VPA + 0x800 + VPA_DISPATCH_COUNTER)
    assert count % 2 == 1
    assert confer(three[0].address, 2, count) == Hcall.TURN_OVER
    assert three[0].gpr(3) == papr.H_SUCCESS
    assert partition.next_turn() is three[2]


@pytest.mark.parametrize("stale", [-2, -1, 1, 2])
def test_confer_to_one_that_has_run_since_is_nothing(three: list[Vcpu], stale: int) -> None:
    count = three[0].partition.dma.read_u32_be(VPA + 0x800 + VPA_DISPATCH_COUNTER)
    assert confer(three[0].address, 2, (count + stale) % (1 << 32)) == Hcall.DONE
    assert three[0].gpr(3) == papr.H_SUCCESS
    assert int(three[0].partition.record["favoured"]) == NO_VCPU


def test_confer_to_anybody_ends_the_turn(three: list[Vcpu]) -> None:
    assert confer(three[0].address, (1 << 64) - 1, 0) == Hcall.TURN_OVER
    assert three[0].partition.next_turn() is three[1]


def test_confer_and_prod_refuse_unknown_vcpus(three: list[Vcpu]) -> None:
    assert confer(three[0].address, 3, 0) == Hcall.DONE
    assert three[0].gpr(3) == papr.H_PARAMETER % (1 << 64)
    assert call_prod(three[0].partition.address, 3) == papr.H_PARAMETER % (1 << 64)


def test_prod_wakes_a_sleeping_vcpu(three: list[Vcpu]) -> None:
    three[1].record["halted"] = three[2].record["halted"] = 1
    wake_by_prod(three[2].address)
    assert three[0].partition.next_turn() is three[2]
    assert not three[2].record["halted"]


def test_a_stopped_vcpu_is_not_woken(three: list[Vcpu]) -> None:
    three[1].record["stopped"] = 1
    wake_by_prod(three[1].address)
    assert [three[0].partition.next_turn() for _ in range(3)] == [three[2], three[0], three[2]]


def test_code_that_one_vcpu_changes_is_new_for_the_other(pair: Pair) -> None:
    """Both run the same code from one cache; a store of either drops it for both."""
    routine = CODE + 0x8000
    pair.load(routine, asm.li(20, 1), asm.EXIT)
    patch = asm.li64(5, asm.li(20, 2)), asm.li64(6, routine), asm.stw(5, 6)
    for vcpu in (pair.vcpu, pair.other):
        vcpu.pc = routine
        assert vcpu.run() is ExitReason.HYPERCALL
        assert vcpu.gpr(20) == 1
    pair.start(pair.other, CODE, *patch)
    assert pair.other.run() is ExitReason.HYPERCALL
    for vcpu in (pair.vcpu, pair.other):
        vcpu.pc = routine
        assert vcpu.run() is ExitReason.HYPERCALL
        assert vcpu.gpr(20) == 2


def test_translations_are_shared(pair: Pair) -> None:
    """What one vCPU has translated, the other runs without translating it again."""
    pair.load(CODE, asm.li(20, 1), asm.EXIT)
    pair.vcpu.pc = CODE
    pair.vcpu.run()
    pair.partition.code_map[:] = 0  # a new translation would set it
    pair.other.pc = CODE
    pair.other.run()
    assert pair.other.gpr(20) == 1
    assert not pair.partition.code_map.any()


def test_a_full_code_buffer_is_emptied_for_all(pair: Pair) -> None:
    for vcpu in (pair.vcpu, pair.other) * 2:
        pair.load(CODE, asm.li(20, vcpu.index + 1), asm.EXIT)
        vcpu.pc = CODE
        vcpu.run()
        vcpu.flush_code()
        for again in (pair.vcpu, pair.other):
            again.pc = CODE
            again.run()
            assert again.gpr(20) == vcpu.index + 1


def test_instances_can_be_closed_in_any_order() -> None:
    """Each gives back its own translator first."""
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        with bare_machine() as machine:
            vcpus = [machine.vcpu, *(Vcpu(machine.partition, i, "power8") for i in (1, 2))]
            for vcpu in vcpus:
                machine.load(CODE, asm.li(20, vcpu.index))
                vcpu.pc = CODE
                vcpu.run()
            machine.partition.ticker.close()
            for index in order:
                vcpus[index].close()
            machine.partition.vcpus.clear()
            machine.partition.close = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    pass


def _load_data(pair: Pair, vcpu: Vcpu) -> int:
    """MMU fills that a load of DATA takes."""
    before = int(vcpu.record["mmu_fills"])
    pair.start(vcpu, CODE, asm.li64(4, DATA), asm.lwz(5, 4))
    vcpu.run()
    return int(vcpu.record["mmu_fills"]) - before


def _take_turn(pair: Pair, vcpu: Vcpu) -> None:
    while pair.partition.next_turn() is not vcpu:
        pass


def test_a_flush_reaches_the_others_at_their_next_turn(pair: Pair) -> None:
    _take_turn(pair, pair.other)
    _load_data(pair, pair.other)
    assert _load_data(pair, pair.other) == 0
    _take_turn(pair, pair.vcpu)
    flush_everything(pair.partition.address)
    assert pair.other.record["late_flush"]
    _take_turn(pair, pair.other)
    assert not pair.other.record["late_flush"]
    assert _load_data(pair, pair.other) > 0


def test_hypercalls_of_the_machine_take_turns(pair: Pair) -> None:
    """H_CEDE, H_CONFER and H_PROD are served by the dispatcher, and end the turn."""
    machine = np.zeros(256, np.uint8)
    pair.partition.record["machine"] = machine.ctypes.data
    pair.partition.record["hypercall"] = dispatch.hypercall.address

    def hypercall(number: HcallNumber, *args: int) -> list[asm.Code]:
        registers = enumerate((number, *args), start=3)
        return [*(asm.li64(register, value) for register, value in registers), asm.EXIT]

    pair.start(pair.other, CODE, hypercall(HcallNumber.H_CEDE), STAY)
    pair.start(
        pair.vcpu,
        CODE + 0x1000,
        hypercall(HcallNumber.H_CONFER, (1 << 64) - 1, 0),
        hypercall(HcallNumber.H_PROD, 1),
        hypercall(HcallNumber.H_CONFER, (1 << 64) - 1, 0),
        STAY,
    )
    assert pair.turn() == (0, ExitReason.TURN_OVER)
    assert pair.turn() == (1, ExitReason.TURN_OVER)
    assert pair.other.record["halted"]
    assert pair.turn() == (0, ExitReason.TURN_OVER)
    assert pair.partition.next_turn() is pair.other


def test_more_than_the_most_vcpus_are_refused(pair: Pair) -> None:
    from emu.config_machine import MACHINES
    from emu.cpu.record import MAX_VCPUS

    assert MACHINES["pseries"].max_cpus == MAX_VCPUS
    for index in range(2, MAX_VCPUS):
        Vcpu(pair.partition, index, pair.vcpu.model)
    with pytest.raises(ValueError, match="at most"):
        Vcpu(pair.partition, MAX_VCPUS, pair.vcpu.model)
