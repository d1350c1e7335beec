"""Traces of interrupts and of the MMU: ``int``, ``mmu``, and hypercalls for ``mmu`` and ``irq``.

Each variant is in place only while its item is on.  It goes on to the function that was there
before and writes a record to the vCPU's ring.  Those for TLB flushes serve the whole process, as
Unicorn calls them through its linkage table; they pass over vCPUs that are not traced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import tlb, tlbie
from emu.cpu.isa import Excp, Spr
from emu.cpu.layout import (
    CS_ENV,
    CS_EXCEPTION_INDEX,
    ENV_ERROR_CODE,
    ENV_GPR,
    ENV_LOAD_INFO,
    ENV_MSR,
    ENV_NIP,
    ENV_SPR,
)
from emu.cpu.mmu import FETCH
from emu.cpu.record import ExitReason, Hcall, partition_at, vcpu_at
from emu.memory.native import call_1, call_2, call_3, call_4, load_u32, load_u64
from emu.trace.record import ASYNCHRONOUS, INTERRUPT_WORDS, Flush, Item, Kind, trace_at
from emu.trace.ring import begin_record, end_record, put_word, ring_at
from machines.pseries.papr import HcallNumber

_WORD = np.uint64(4)
_DAR = ENV_SPR + 8 * Spr.DAR
_DSISR = ENV_SPR + 8 * Spr.DSISR
_PID = ENV_SPR + 8 * Spr.PID
_SRR0 = ENV_SPR + 8 * Spr.SRR0
_INT, _MMU, _IRQ = np.uint32(Item.INT), np.uint32(Item.MMU), np.uint32(Item.IRQ)
_PROGRAM, _FACILITY_UNAVAILABLE = np.uint64(0x700), np.uint64(0xF60)
_SCV, _AIL_3_SCV = np.uint64(0x17000), np.uint64(0xC000000000003000)
_HASH_CALLS = (
    *(np.uint64(HcallNumber.H_REMOVE), np.uint64(HcallNumber.H_ENTER)),
    *(np.uint64(HcallNumber.H_PROTECT), np.uint64(HcallNumber.H_BULK_REMOVE)),
    *(np.uint64(HcallNumber.H_CLEAR_MOD), np.uint64(HcallNumber.H_CLEAR_REF)),
)
_INTERRUPT_CALLS = (
    *(np.uint64(HcallNumber.H_EOI), np.uint64(HcallNumber.H_CPPR), np.uint64(HcallNumber.H_IPI)),
    *(np.uint64(HcallNumber.H_XIRR), np.uint64(HcallNumber.H_XIRR_X)),
)

# Bodies of functions that a vCPU without a trace gets unchanged
_plain_flush = njit(tlb.tlb_flush.__wrapped__)
_plain_invalidate = njit(tlbie.ppc_tlb_invalidate_one.__wrapped__)
_plain_sync = njit(tlbie.tlb_flush_all_cpus_synced.__wrapped__)


@njit(cache=True)
def _record_interrupt(vcpu, trace, cause, nip, msr):  # type: ignore[no-untyped-def]
    """An interrupt was delivered; ``nip`` and ``msr`` are from before."""
    ring, env = ring_at(trace.ring), vcpu.env
    if not begin_record(ring, Kind.INTERRUPT, trace.index, INTERRUPT_WORDS, cause):
        return
    put_word(ring, 1, nip)
    put_word(ring, 2, msr)
    put_word(ring, 3, load_u64(env + np.uint64(ENV_NIP)))
    put_word(ring, 4, load_u64(env + np.uint64(ENV_MSR)))
    put_word(ring, 5, load_u64(env + np.uint64(_DAR)))
    put_word(ring, 6, load_u64(env + np.uint64(_DSISR)))
    put_word(ring, 7, load_u64(env + np.uint64(ENV_GPR)))
    for i in range(4):
        put_word(ring, 8 + i, load_u64(env + np.uint64(ENV_GPR + 8 * (3 + i))))
    end_record(ring, INTERRUPT_WORDS)


@njit(cache=True)
def _was_delivered(vcpu, cause, nip):  # type: ignore[no-untyped-def]
    """Whether the exception hook entered a vector: not for what it emulates, nor a checkstop."""
    if cause != np.uint32(Excp.HV_EMU):
        return vcpu.exit_reason != np.uint32(ExitReason.CHECKSTOP)
    after = load_u64(vcpu.env + np.uint64(ENV_NIP))
    if after in (_SCV, _AIL_3_SCV):
        return True
    vector = after & np.uint64(0xFFF)
    if vector != _PROGRAM and vector != _FACILITY_UNAVAILABLE:
        return False
    return load_u64(vcpu.env + np.uint64(_SRR0)) == nip


@cfunc(types.void(types.uint64, types.uint32, types.uint64), cache=True)
def on_exception(uc: int, cause: int, vcpu_address: int) -> None:
    """``UC_HOOK_INTR`` while ``int`` is on; hypercalls are not interrupts of the guest."""
    vcpu = vcpu_at(vcpu_address)
    trace = trace_at(vcpu.trace)
    env = vcpu.env
    error = load_u32(env + np.uint64(ENV_ERROR_CODE))
    hypercall = cause == np.uint32(Excp.SYSCALL) and error == np.uint32(1)
    nip = load_u64(env + np.uint64(ENV_NIP)) - _WORD
    msr = load_u64(env + np.uint64(ENV_MSR))
    call_3(trace.exception, uc, np.uint64(cause), vcpu_address)
    if not hypercall and trace.items & _INT and _was_delivered(vcpu, cause, nip):
        _record_interrupt(vcpu, trace, np.uint64(cause), nip, msr)


@cfunc(types.uint8(types.uint64, types.int32), cache=True)
def exec_interrupt(cs: int, request: int) -> Any:
    """``cpu_exec_interrupt`` while ``int`` is on."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    trace = trace_at(vcpu.trace)
    nip = load_u64(vcpu.env + np.uint64(ENV_NIP))
    msr = load_u64(vcpu.env + np.uint64(ENV_MSR))
    answer = call_2(trace.exec_interrupt, cs, np.uint64(request))
    if trace.items & _INT and (
        load_u64(vcpu.env + np.uint64(ENV_NIP)) != nip
        or load_u64(vcpu.env + np.uint64(ENV_MSR)) != msr
    ):
        _record_interrupt(vcpu, trace, np.uint64(ASYNCHRONOUS), nip, msr)
    return np.uint8(answer & np.uint64(0xFF))


@cfunc(types.int32(types.uint64, types.uint64, types.int32, types.int32), cache=True)
def mmu_fault(cs: int, address: int, access: int, mmu_idx: int) -> Any:
    """``handle_mmu_fault`` while ``mmu`` is on: what becomes an interrupt is recorded."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    trace = trace_at(vcpu.trace)
    again = trace.in_mmu_fault != 0  # a debugger's variant that was put before ours leads back here
    function = trace.plain_mmu_fault if again else trace.mmu_fault
    trace.in_mmu_fault = 1
    answer = call_4(function, cs, address, np.uint64(access), np.uint64(mmu_idx))
    result = np.int32(answer & np.uint64(0xFFFFFFFF))
    trace.in_mmu_fault = np.uint32(again)
    if result != 0 and not again and trace.items & _MMU:
        ring = ring_at(trace.ring)
        cause = np.uint64(load_u32(cs + np.uint64(CS_EXCEPTION_INDEX)))
        extra = cause | np.uint64(access) << np.uint64(8) | np.uint64(mmu_idx) << np.uint64(16)
        if begin_record(ring, Kind.FAULT, trace.index, 3, extra):
            status = np.uint64(load_u32(vcpu.env + np.uint64(ENV_ERROR_CODE)))
            if access != FETCH:
                status = load_u64(vcpu.env + np.uint64(_DSISR))
            put_word(ring, 1, address)
            put_word(ring, 2, status)
            end_record(ring, 3)
    return result


@njit(cache=True)
def _record_flush(env, why, word):  # type: ignore[no-untyped-def]
    address = load_u64(env + np.uint64(ENV_LOAD_INFO))
    if address == 0:
        return
    vcpu = vcpu_at(address)
    if vcpu.trace == 0 or not trace_at(vcpu.trace).items & _MMU:
        return
    trace = trace_at(vcpu.trace)
    ring = ring_at(trace.ring)
    if begin_record(ring, Kind.FLUSH, trace.index, 3, why):
        put_word(ring, 1, word)
        put_word(ring, 2, load_u64(env + np.uint64(_PID)))
        end_record(ring, 3)


@cfunc(types.void(types.uint64), cache=True)
def tlb_flush(cs: int) -> None:
    """Replacement while ``mmu`` is on."""
    _record_flush(cs + np.uint64(CS_ENV), Flush.ALL, np.uint64(0))
    _plain_flush(cs)


@cfunc(types.void(types.uint64, types.uint64), cache=True)
def ppc_tlb_invalidate_one(env: int, rb: int) -> None:
    """Replacement while ``mmu`` is on: tlbie and tlbiel."""
    _record_flush(env, Flush.TLBIE, rb)
    _plain_invalidate(env, rb)


@cfunc(types.void(types.uint64), cache=True)
def tlb_flush_all_cpus_synced(cs: int) -> None:
    """Replacement while ``mmu`` is on: what ends a sequence of tlbie."""
    _record_flush(cs + np.uint64(CS_ENV), Flush.SYNC, np.uint64(0))
    _plain_sync(cs)


@njit(cache=True)
def _item_of(number):  # type: ignore[no-untyped-def]
    """The item that shows a hypercall, besides ``hcall``."""
    if number in _HASH_CALLS:
        return _MMU
    if number in _INTERRUPT_CALLS:
        return _IRQ
    return np.uint32(0)


@cfunc(types.uint64(types.uint64), cache=True)
def hypercall(address: int) -> Any:
    """A pseries partition's hypercall function while ``mmu`` or ``irq`` is on."""
    vcpu = vcpu_at(address)
    trace = trace_at(vcpu.trace)
    first = trace_at(vcpu_at(partition_at(vcpu.partition).vcpus[0]).trace)
    gpr = vcpu.env + np.uint64(ENV_GPR)
    number = load_u64(gpr + np.uint64(24))
    if not trace.items & _item_of(number):
        return call_1(first.hypercall, address)
    r4, r5 = load_u64(gpr + np.uint64(32)), load_u64(gpr + np.uint64(40))
    r6, r7 = load_u64(gpr + np.uint64(48)), load_u64(gpr + np.uint64(56))
    answer = call_1(first.hypercall, address)
    if answer == np.uint64(Hcall.DONE):
        ring = ring_at(trace.ring)
        if begin_record(ring, Kind.HCALL, trace.index, 7, number):
            put_word(ring, 1, load_u64(gpr + np.uint64(24)))
            put_word(ring, 2, r4)
            put_word(ring, 3, r5)
            put_word(ring, 4, r6)
            put_word(ring, 5, r7)
            put_word(ring, 6, load_u64(gpr + np.uint64(32)))
            end_record(ring, 7)
    return answer
