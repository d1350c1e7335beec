"""The machine's clock: timebase, decrementer and the thread that watches its deadline.

The timebase counts 512 MHz ticks of a *clock source* (a native function giving nanoseconds;
:data:`monotonic_clock` unless replaced).  It stands still while the machine is stopped:
``tb = tb_at_epoch + (clock - clock_epoch_ns) * 0.512``, and stopping folds the elapsed part
into ``tb_at_epoch``.

The decrementer is level triggered (Power ISA v3.0B, book III, 6.5.11): it interrupts while its
sign bit is set, so what is stored is ``dec_expiry``, the timebase at which it turns negative.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import external as ext
from emu.cpu.isa import IRQ_DECR
from emu.cpu.kick import break_run
from emu.cpu.layout import ENV_LOAD_INFO, ENV_SPR
from emu.cpu.record import partition_at, vcpu_at
from emu.memory.native import call_1, fence, load_u64, store_u64

# 512 MHz: 64 ticks are 125 ns
_TICKS, _NANOSECONDS = np.uint64(64), np.uint64(125)
_CLOCK_MONOTONIC = 1
NO_DEADLINE = (1 << 63) - 1
_POLLIN = 1
_TICK_NS = np.int64(1_000_000)
_SPR_TBU = ENV_SPR + 8 * 269


@njit(types.uint64(), cache=True)
def host_monotonic_ns() -> Any:
    """Nanoseconds of CLOCK_MONOTONIC."""
    timespec = np.empty(2, np.int64)
    ext.clock_gettime(np.int32(_CLOCK_MONOTONIC), np.uint64(timespec.ctypes.data))
    return np.uint64(timespec[0] * 1_000_000_000 + timespec[1])


@cfunc(types.uint64(types.uint64), cache=True)
def monotonic_clock(_: int) -> Any:
    """Clock source: the host's monotonic clock."""
    return host_monotonic_ns()


@njit(cache=True)
def clock_ns(partition):  # type: ignore[no-untyped-def]
    """Nanoseconds of the partition's clock source."""
    return call_1(partition.clock_read, np.uint64(0))


@njit(types.uint64(types.uint64), cache=True)
def clock_ns_at(partition_address):  # type: ignore[no-untyped-def]
    """:func:`clock_ns` for callers in Python."""
    return clock_ns(partition_at(partition_address))


@njit(cache=True)
def timebase(partition):  # type: ignore[no-untyped-def]
    """Timebase in ticks; the partition is running."""
    elapsed = np.uint64(clock_ns(partition) - np.uint64(partition.clock_epoch_ns))
    return partition.tb_at_epoch + np.uint64(elapsed * _TICKS // _NANOSECONDS)


@njit(cache=True)
def clock_at_timebase(partition, ticks):  # type: ignore[no-untyped-def]
    """First clock nanosecond (int64) at which the timebase has reached ``ticks``."""
    ahead = np.int64(ticks - partition.tb_at_epoch)
    limit = np.int64(1) << np.int64(55)
    if ahead > limit:
        ahead = limit
    if ahead < -limit:
        ahead = -limit
    return partition.clock_epoch_ns + ahead * np.int64(125) // np.int64(64) + np.int64(2)


@njit(cache=True)
def decrementer_update(vcpu, partition):  # type: ignore[no-untyped-def]
    """Make the decrementer's interrupt level and deadline agree with the timebase."""
    left = np.int64(vcpu.dec_expiry - timebase(partition))
    if left <= 0:
        vcpu.deadline_ns = NO_DEADLINE
        if vcpu.dec_raised == 0:
            vcpu.dec_raised = 1
            ext.ppc_set_irq(vcpu.cs, np.int32(IRQ_DECR), np.int32(1))
    else:
        if vcpu.dec_raised != 0:
            vcpu.dec_raised = 0
            ext.ppc_set_irq(vcpu.cs, np.int32(IRQ_DECR), np.int32(0))
        vcpu.deadline_ns = clock_at_timebase(partition, vcpu.dec_expiry)


@njit(types.void(types.uint64), cache=True)
def refresh_decrementer(vcpu_address):  # type: ignore[no-untyped-def]
    """:func:`decrementer_update` for callers in Python; the vCPU is not running."""
    vcpu = vcpu_at(vcpu_address)
    decrementer_update(vcpu, partition_at(vcpu.partition))


@njit(cache=True)
def eventfd_signal(descriptor):  # type: ignore[no-untyped-def]
    """Add one to an eventfd."""
    one = np.ones(1, np.uint64)
    ext.libc_write(descriptor, np.uint64(one.ctypes.data), np.uint64(8))


@cfunc(types.uint64(types.uint64), cache=True)
def read_timebase(env: int) -> Any:
    """``cpu_ppc_load_purr``: TB, PURR and SPURR reads.  Keeps TBU in step."""
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    ticks = timebase(partition_at(vcpu.partition))
    store_u64(env + np.uint64(_SPR_TBU), ticks >> np.uint64(32))
    return ticks


@cfunc(types.uint64(types.uint64), cache=True)
def read_decrementer(env: int) -> Any:
    """``cpu_ppc_load_hdecr``: DEC reads, 32 bits with zeros above (LPCR[LD] is never set)."""
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    left = vcpu.dec_expiry - timebase(partition_at(vcpu.partition)) - np.uint64(1)
    return left & np.uint64(0xFFFFFFFF)


@cfunc(types.void(types.uint64, types.uint64), cache=True)
def write_decrementer(env: int, value: int) -> None:
    """``cpu_ppc_store_hdecr``: DEC writes; the value's low 32 bits count, signed."""
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    ticks = np.int64(np.int32(value & np.uint64(0xFFFFFFFF)))
    previous = vcpu.deadline_ns
    vcpu.dec_expiry = timebase(partition) + np.uint64(ticks) + np.uint64(1)
    decrementer_update(vcpu, partition)
    if vcpu.deadline_ns < previous:
        eventfd_signal(vcpu.ticker_fd)


@njit(types.uint64(types.uint64, types.int32, types.int64), cache=True, nogil=True)
def wait_readable(partition_address, descriptor, deadline):  # type: ignore[no-untyped-def]
    """Sleep until the eventfd is signalled (and drain it) or the clock reaches ``deadline``.

    Returns 1 when the descriptor was readable.  Runs without the GIL.
    """
    partition = partition_at(partition_address)
    timespec = np.zeros(2, np.int64)
    left = deadline - np.int64(clock_ns(partition))
    if left < 0:
        left = np.int64(0)
    if left > np.int64(3_600_000_000_000):
        left = np.int64(3_600_000_000_000)
    timespec[0] = left // 1_000_000_000
    timespec[1] = left % 1_000_000_000
    pollfd = np.zeros(2, np.int32)
    pollfd[0] = descriptor
    pollfd[1] = _POLLIN
    ready = ext.ppoll(
        np.uint64(pollfd.ctypes.data),
        np.uint64(1),
        np.uint64(timespec.ctypes.data),
        np.uint64(0),
    )
    if ready > 0:
        drained = np.empty(1, np.uint64)
        ext.libc_read(descriptor, np.uint64(drained.ctypes.data), np.uint64(8))
        return np.uint64(1)
    return np.uint64(0)


@njit(cache=True)
def _expire_turn(partition, now):  # type: ignore[no-untyped-def]
    """Interrupt the current vCPU at the end of its turn, or when another must wake."""
    current = partition.current
    if current >= np.uint32(partition.vcpu_count):
        return np.int64(NO_DEADLINE)
    for i in range(partition.vcpu_count):
        vcpu = vcpu_at(partition.vcpus[i])
        if vcpu.halted != 0 and vcpu.stopped == 0 and vcpu.deadline_ns <= now:
            partition.turn_end_ns = now
    if partition.turn_end_ns > now:
        return partition.turn_end_ns
    break_run(vcpu_at(partition.vcpus[current]))
    return now + _TICK_NS


@njit(types.int64(types.uint64), cache=True, nogil=True)
def expire_deadlines(partition_address):  # type: ignore[no-untyped-def]
    """Interrupt the run of the vCPU whose deadline has passed; return the next deadline.

    Of several vCPUs, the current one is interrupted for the others, too.
    """
    partition = partition_at(partition_address)
    now = np.int64(clock_ns(partition))
    following = np.int64(NO_DEADLINE)
    if partition.vcpu_count > 1:
        following = _expire_turn(partition, now)
    for i in range(partition.vcpu_count):
        vcpu = vcpu_at(partition.vcpus[i])
        deadline = vcpu.deadline_ns
        if vcpu.stopped != 0:
            continue
        if deadline <= now:
            break_run(vcpu)
            following = min(following, now + _TICK_NS)
        else:
            following = min(following, deadline)
    partition.watched_ns = following
    fence()
    if now < partition.turn_end_ns < following:  # set meanwhile, with the old time in view
        return partition.turn_end_ns
    return following


class Ticker:
    """Thread that makes running vCPUs look at their decrementer when its deadline passes.

    Only flags are set from here; the vCPU thread raises the interrupt.  Sleeping and waking
    happen without the GIL.
    """

    def __init__(self, partition_address: int) -> None:
        self._partition = partition_address
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Begin watching; the partition's vCPUs are all registered."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the deadlines again."""
        os.eventfd_write(self.descriptor, 1)

    def _run(self) -> None:
        while not self._closing:
            following = expire_deadlines(self._partition)
            wait_readable(self._partition, self.descriptor, following)

    def close(self) -> None:
        """Stop the thread; call before the partition's memory goes away."""
        self._closing = True
        os.eventfd_write(self.descriptor, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self.descriptor)
