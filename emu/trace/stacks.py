"""Samples of what a vCPU executes: the timer's side and the vCPU's side, both compiled.

The timer thread counts a tick and breaks the CPU loop, as the decrementer's does; the vCPU thread
comes by :func:`exec_enter` at the start of the next block, where all registers are in memory,
walks the stack and writes a sample that stands for the ticks since the last one.  Time in calls
that the emulator serves (hypercalls, RTAS, device registers) counts for the guest's code that
made them.
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import external as ext
from emu.cpu.isa import MSR_DR, MSR_LE, MSR_PR, MSR_SF, Spr
from emu.cpu.kick import break_run
from emu.cpu.layout import (
    CS_ENV,
    ENV_GPR,
    ENV_LOAD_INFO,
    ENV_LR,
    ENV_MSR,
    ENV_NIP,
    ENV_SPR,
)
from emu.cpu.mmu import translate
from emu.cpu.mmu_hash import OK
from emu.cpu.record import NO_VCPU, partition_at, vcpu_at
from emu.cpu.tlb import PAGE_READ
from emu.memory.native import call_1, load_u32, load_u32_be, load_u64, load_u64_be, record_pointer
from emu.trace.record import trace_at
from emu.trace.ring import begin_record, end_record, put_word, ring_at

MAX_FRAMES = 64
SAMPLE = 1  # kind: NIP, MSR, LR, PID, return addresses from the innermost; extra: ticks
_FIXED_WORDS = 5  # header, NIP, MSR, LR, PID
_MAX_WEIGHT = np.uint64((1 << 32) - 1)
_POLLIN = 1
_PID = ENV_SPR + 8 * Spr.PID
_STACK = ENV_GPR + 8 * 1

PROFILE_DTYPE = np.dtype(
    [
        ("partition", "u8"),
        ("period_ns", "i8"),
        ("stop_fd", "i4"),  # eventfd that ends :func:`run_timer`
        ("paused", "u4"),  # the guest stands still: no ticks
        ("ticks", "u8"),
        ("idle", "u8"),  # of them, with every vCPU asleep
    ],
    align=True,
)
profile_at = record_pointer(PROFILE_DTYPE)


@njit(cache=True)
def _read_stack(vcpu, partition, address, msr):  # type: ignore[no-untyped-def]
    """(true, pointer-sized word) at an aligned effective address in the guest's own order.

    Nothing in the guest changes; false when it is not mapped or not in RAM.
    """
    none = np.uint64(0)
    size = np.uint64(8) if msr & np.uint64(MSR_SF) else np.uint64(4)
    if address & (size - np.uint64(1)):
        return False, none
    fault, real, _prot = translate(
        vcpu,
        partition,
        address,
        PAGE_READ,
        (msr & np.uint64(MSR_DR)) == 0,
        (msr & np.uint64(MSR_PR)) != 0,
        False,
    )
    if fault != OK or real + size > partition.ram_size:
        return False, none
    host = partition.ram + real
    if msr & np.uint64(MSR_LE):
        return True, load_u64(host) if msr & np.uint64(MSR_SF) else np.uint64(load_u32(host))
    return True, load_u64_be(host) if msr & np.uint64(MSR_SF) else np.uint64(load_u32_be(host))


@njit(cache=True)
def walk_stack(vcpu, partition, frames):  # type: ignore[no-untyped-def]
    """Follow the back chain; put return addresses into ``frames`` and return their number.

    ELF ABIs of 64-bit PowerPC: the word at the stack pointer is the caller's, and the caller's
    frame holds the return address two words further (32-bit: one word).  Both may be anything.
    """
    env = vcpu.env
    msr = load_u64(env + np.uint64(ENV_MSR))
    wide = (msr & np.uint64(MSR_SF)) != 0
    mask = np.uint64((1 << 64) - 1) if wide else np.uint64((1 << 32) - 1)
    link = np.uint64(16) if wide else np.uint64(4)
    stack = load_u64(env + np.uint64(_STACK)) & mask
    count = 0
    while count < frames.shape[0]:
        good, caller = _read_stack(vcpu, partition, stack, msr)
        if not good or caller == 0 or caller == stack:
            break
        good, address = _read_stack(vcpu, partition, (caller + link) & mask, msr)
        if not good:
            break
        frames[count] = address
        count += 1
        stack = caller
    return count


@njit(cache=True)
def _take_sample(vcpu, trace, weight):  # type: ignore[no-untyped-def]
    frames = np.empty(MAX_FRAMES, np.uint64)
    count = walk_stack(vcpu, partition_at(vcpu.partition), frames)
    ring, env = ring_at(trace.samples), vcpu.env
    length = np.uint64(_FIXED_WORDS + count)
    if not begin_record(ring, SAMPLE, trace.index, length, weight):
        return
    put_word(ring, 1, load_u64(env + np.uint64(ENV_NIP)))
    put_word(ring, 2, load_u64(env + np.uint64(ENV_MSR)))
    put_word(ring, 3, load_u64(env + np.uint64(ENV_LR)))
    put_word(ring, 4, load_u64(env + np.uint64(_PID)))
    for i in range(count):
        put_word(ring, _FIXED_WORDS + i, frames[i])
    end_record(ring, length)


@cfunc(types.void(types.uint64), cache=True)
def exec_enter(cs: int) -> None:
    """``cpu_exec_enter`` while there is a profile."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    trace = trace_at(vcpu.trace)
    ticks = trace.ticks
    if ticks != trace.taken:
        weight = min(ticks - trace.taken, _MAX_WEIGHT)
        trace.taken = ticks
        if trace.samples != 0:
            _take_sample(vcpu, trace, weight)
    call_1(trace.exec_enter, cs)


@njit(cache=True)
def _tick(profile):  # type: ignore[no-untyped-def]
    partition = partition_at(profile.partition)
    profile.ticks += np.uint64(1)
    index = np.uint32(0)
    if partition.vcpu_count > 1:
        index = partition.current
    if index < np.uint32(partition.vcpu_count) and index != np.uint32(NO_VCPU):
        vcpu = vcpu_at(partition.vcpus[index])
        if vcpu.halted == 0 and vcpu.stopped == 0 and vcpu.trace != 0:
            trace_at(vcpu.trace).ticks += np.uint64(1)
            break_run(vcpu)
            return
    profile.idle += np.uint64(1)


@njit(types.uint64(types.uint64, types.int64), cache=True, nogil=True)
def run_timer(profile_address, count):  # type: ignore[no-untyped-def]
    """Tick ``count`` times; 1 when ``stop_fd`` was signalled meanwhile.  Without the GIL."""
    profile = profile_at(profile_address)
    pollfd = np.zeros(2, np.int32)
    timespec = np.zeros(2, np.int64)
    for _ in range(count):
        pollfd[0] = profile.stop_fd
        pollfd[1] = _POLLIN
        timespec[0] = profile.period_ns // 1_000_000_000
        timespec[1] = profile.period_ns % 1_000_000_000
        ready = ext.ppoll(
            np.uint64(pollfd.ctypes.data),
            np.uint64(1),
            np.uint64(timespec.ctypes.data),
            np.uint64(0),
        )
        if ready > 0:
            return np.uint64(1)
        if profile.paused == 0:
            _tick(profile)
    return np.uint64(0)
