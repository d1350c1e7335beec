"""Several vCPUs take turns on the one vCPU thread.

A turn ends when the vCPU cedes, confers, spins (a priority hint of a low priority), stops, or
when its time is over and another one is ready.  A machine with one vCPU has no turns: it
sleeps inside ``run()``, and of this module only its dispatch counter concerns it.

While a vCPU has its turn, the dispatch counter in its VPA is even, otherwise odd (PAPR 14.11.3.2):
a guest that waits for a lock sees from it that the holder does not run, and confers.

Everything runs on the vCPU thread; the timer thread reads ``turn_end_ns`` (:mod:`emu.cpu.clock`).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from emu.cpu.clock import NO_DEADLINE, clock_ns, decrementer_update, eventfd_signal, wait_readable
from emu.cpu.isa import Spr
from emu.cpu.layout import ENV_PENDING_INTERRUPTS, ENV_SPR, TCG_UC, UC_TCG_CTX
from emu.cpu.record import NO_VCPU, partition_at, vcpu_at
from emu.cpu.tlb import flush_late, page_written
from emu.memory.native import load_u32, load_u32_be, load_u64, store_u32_be, store_u64

TURN_NS = 1_000_000
VPA_DISPATCH_COUNTER = 0x100
_PPR = ENV_SPR + 8 * Spr.PPR
_PRIORITY_SHIFT, _PRIORITY_MASK = np.uint64(50), np.uint64(7)
_VERY_LOW, _LOW = np.uint64(1), np.uint64(2)
_NONE = np.uint32(NO_VCPU)
_PAGE_SHIFT = np.uint64(12)


@njit(cache=True)
def is_ready(vcpu, now):  # type: ignore[no-untyped-def]
    """Whether a vCPU could run: started, and not asleep or about to be woken."""
    if vcpu.stopped != 0:
        return False
    return (
        vcpu.halted == 0
        or vcpu.prodded != 0
        or vcpu.deadline_ns <= now
        or load_u32(vcpu.env + np.uint64(ENV_PENDING_INTERRUPTS)) != 0
    )


@njit(cache=True)
def other_is_ready(vcpu, partition):  # type: ignore[no-untyped-def]
    """Whether some other vCPU waits for a turn."""
    now = np.int64(clock_ns(partition))
    for i in range(partition.vcpu_count):
        if np.uint32(i) != vcpu.index and is_ready(vcpu_at(partition.vcpus[i]), now):
            return True
    return False


@njit(cache=True)
def spins(vcpu, partition):  # type: ignore[no-untyped-def]
    """Whether a vCPU that has lowered its priority keeps another from running."""
    if partition.vcpu_count < 2:
        return False
    priority = (load_u64(vcpu.env + np.uint64(_PPR)) >> _PRIORITY_SHIFT) & _PRIORITY_MASK
    return _VERY_LOW <= priority <= _LOW and other_is_ready(vcpu, partition)


@njit(cache=True)
def turn_is_over(vcpu, partition, now):  # type: ignore[no-untyped-def]
    """Whether a running vCPU has to give way; otherwise its turn goes on."""
    if partition.vcpu_count < 2 or now < partition.turn_end_ns:
        return False
    if other_is_ready(vcpu, partition):
        return True
    partition.turn_end_ns = NO_DEADLINE
    return False


@njit(cache=True)
def limit_turn(partition):  # type: ignore[no-untyped-def]
    """Some vCPU has become ready: the current turn, if it had no end, gets one."""
    if partition.vcpu_count < 2 or partition.turn_end_ns != NO_DEADLINE:
        return
    partition.turn_end_ns = np.int64(clock_ns(partition)) + TURN_NS
    if partition.turn_end_ns < partition.watched_ns:
        eventfd_signal(vcpu_at(partition.vcpus[0]).ticker_fd)


@njit(cache=True)
def prod(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_PROD: wake a vCPU, or let its next H_CEDE return at once."""
    vcpu.prodded = 1
    limit_turn(partition)


@njit(cache=True)
def count_dispatch(partition, index, odd):  # type: ignore[no-untyped-def]
    """Make the dispatch counter of a vCPU's VPA even (it has its turn) or odd."""
    area = vcpu_at(partition.vcpus[index]).vpa
    if area == 0:
        return
    address = area + np.uint64(VPA_DISPATCH_COUNTER)
    count = load_u32_be(partition.ram + address)
    if count & np.uint32(1) != odd:
        store_u32_be(partition.ram + address, np.uint64(count) + np.uint64(1))
        page_written(partition, address >> _PAGE_SHIFT)


@njit(cache=True)
def _enter(partition, index):  # type: ignore[no-untyped-def]
    """Give the turn to a vCPU, or to nobody."""
    previous = partition.current
    if previous == index:
        return
    for i in range(partition.vcpu_count):
        if previous == _NONE or previous == np.uint32(i):
            count_dispatch(partition, i, np.uint32(1))
    if index != _NONE:
        count_dispatch(partition, index, np.uint32(0))
    partition.current = index


@njit(cache=True)
def _choose(partition, now):  # type: ignore[no-untyped-def]
    """Index of the vCPU to run: the favoured one if it is ready, else the next in order."""
    favoured = partition.favoured
    partition.favoured = _NONE
    count = np.uint32(partition.vcpu_count)
    if favoured < count and is_ready(vcpu_at(partition.vcpus[favoured]), now):
        return favoured
    last = partition.last_turn if partition.last_turn < count else count - np.uint32(1)
    for step in range(count):
        index = np.uint32((last + np.uint32(1) + np.uint32(step)) % count)
        if is_ready(vcpu_at(partition.vcpus[index]), now):
            return index
    return _NONE


@njit(cache=True)
def _wake(vcpu, partition, now):  # type: ignore[no-untyped-def]
    if vcpu.deadline_ns <= now:
        decrementer_update(vcpu, partition)
    if vcpu.halted != 0:
        vcpu.halted = 0
        vcpu.prodded = 0


@njit(types.void(types.uint64), cache=True)
def own_code(vcpu_address):  # type: ignore[no-untyped-def]
    """Make the translator's context, which all vCPUs share, belong to this one."""
    vcpu = vcpu_at(vcpu_address)
    context = load_u64(vcpu.uc + np.uint64(UC_TCG_CTX))
    store_u64(context + np.uint64(TCG_UC), vcpu.uc)


@njit(types.int64(types.uint64), cache=True, nogil=True)
def next_turn(partition_address):  # type: ignore[no-untyped-def]
    """Index of the vCPU whose turn it is now; sleeps while none is ready.

    Returns -1 when another thread kicked meanwhile.  Releases the GIL.
    """
    partition = partition_at(partition_address)
    first = vcpu_at(partition.vcpus[0])
    while True:
        now = np.int64(clock_ns(partition))
        index = _choose(partition, now)
        if index != _NONE:
            break
        _enter(partition, _NONE)
        deadline = np.int64(NO_DEADLINE)
        for i in range(partition.vcpu_count):
            vcpu = vcpu_at(partition.vcpus[i])
            if vcpu.stopped == 0:
                deadline = min(deadline, vcpu.deadline_ns)
        if first.kick != 0:
            return np.int64(-1)
        wait_readable(partition_address, first.wake_fd, deadline)
    vcpu = vcpu_at(partition.vcpus[index])
    _wake(vcpu, partition, now)
    _enter(partition, index)
    flush_late(vcpu, partition)
    partition.last_turn = index
    partition.turn_end_ns = NO_DEADLINE
    if other_is_ready(vcpu, partition):
        limit_turn(partition)
    return np.int64(index)
