"""Interrupt delivery: the exception hook, asynchronous interrupts, and sleeping.

``on_exception`` is Unicorn's ``UC_HOOK_INTR``; it sees every synchronous exception with the
next instruction address already advanced by four.  ``exec_enter`` and ``exec_interrupt``
replace the class functions of the same names in Unicorn's CPU: the first runs whenever the CPU
loop is entered or broken, the second before an asynchronous interrupt is delivered.

Everything here runs on the vCPU thread, without the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import doorbell
from emu.cpu import external as ext
from emu.cpu.clock import clock_ns, decrementer_update, wait_readable
from emu.cpu.isa import (
    IRQ_EXT,
    IRQ_RESET,
    LPCR_AIL,
    LPCR_AIL_SHIFT,
    LPCR_ILE,
    MSR_DR,
    MSR_EE,
    MSR_IR,
    MSR_LE,
    MSR_ME,
    MSR_PR,
    MSR_RI,
    MSR_SF,
    Excp,
    Spr,
)
from emu.cpu.layout import (
    CS_ENV,
    CS_EXCEPTION_INDEX,
    CS_HALTED,
    ENV_CTR,
    ENV_ERROR_CODE,
    ENV_GPR,
    ENV_LOAD_INFO,
    ENV_LR,
    ENV_MSR,
    ENV_NIP,
    ENV_PENDING_INTERRUPTS,
    ENV_SPR,
)
from emu.cpu.mmu import fetch_instruction
from emu.cpu.record import ExitReason, Hcall, Kick, Step, partition_at, vcpu_at
from emu.cpu.turns import count_dispatch, limit_turn, spins, turn_is_over
from emu.memory.native import call_1, call_2, load_u32, load_u64, store_u32, store_u64

H_PRIVILEGE = np.uint64((1 << 64) - 3)  # PAPR 14.3, return codes
_GPR3 = ENV_GPR + 8 * 3
_SRR1 = ENV_SPR + 8 * Spr.SRR1
_DAR = ENV_SPR + 8 * Spr.DAR
_DSISR = ENV_SPR + 8 * Spr.DSISR
_LPCR = ENV_SPR + 8 * Spr.LPCR
_INVALID_INSTRUCTION = np.uint32(0x21)  # POWERPC_EXCP_INVAL | INVAL_INVAL
_PRIVILEGED_INSTRUCTION = np.uint64(0x31)  # POWERPC_EXCP_PRIV | PRIV_OPC
_EXCP_HLT = np.uint32(0x10001)
_EXCP_DEBUG = np.uint32(0x10002)  # a breakpoint, or the end of a step
_NO_EXCEPTION = np.uint64(0xFFFFFFFF)
_SCV_0 = np.uint32(0x44000001)
_RFSCV = np.uint32(0x4C0000A4)
_FSCR = ENV_SPR + 8 * Spr.FSCR
_FSCR_SCV, _FSCR_FACILITIES = np.uint64(1 << 12), np.uint64((1 << 56) - 1)
_FSCR_CAUSE_SCV = np.uint64(12 << 56)
_SCV_KEEPS = MSR_ME | MSR_EE | MSR_RI
_RFSCV_TAKES = ~0x783F0000 & ((1 << 64) - 1)
_AIL_3_SCV = np.uint64(0xC000000000003000)
_SCV = np.uint64(0x17000)

_DELIVERABLE = np.zeros(128, np.bool_)
for _cause in Excp:
    _DELIVERABLE[_cause] = True


@njit(cache=True)
def exit_run(vcpu, reason, argument):  # type: ignore[no-untyped-def]
    """Leave ``run()`` with a reason as soon as the current callback returns."""
    vcpu.exit_reason = reason
    vcpu.exit_argument = argument
    ext.uc_emu_stop(vcpu.uc)


@njit(cache=True)
def _finish_step(vcpu):  # type: ignore[no-untyped-def]
    """The vCPU has done what a debugger's step is: one instruction or one interrupt."""
    vcpu.step_done = 1
    if vcpu.exit_reason == np.uint32(0):
        exit_run(vcpu, np.uint32(ExitReason.DEBUG), np.uint64(0))


@njit(cache=True)
def set_external_interrupt(vcpu, level):  # type: ignore[no-untyped-def]
    """Drive the external interrupt input (level triggered)."""
    if vcpu.external_level != level:
        vcpu.external_level = level
        ext.ppc_set_irq(vcpu.cs, np.int32(IRQ_EXT), np.int32(level))
        limit_turn(partition_at(vcpu.partition))


@njit(types.void(types.uint64), cache=True)
def raise_system_reset(vcpu_address):  # type: ignore[no-untyped-def]
    """Make a system reset interrupt pending (vector 0x100, ignores MSR[EE])."""
    ext.ppc_set_irq(vcpu_at(vcpu_address).cs, np.int32(IRQ_RESET), np.int32(1))


@njit(types.void(types.uint64), cache=True, nogil=True)
def halt(vcpu_address):  # type: ignore[no-untyped-def]
    """Sleep until an interrupt is pending, H_PROD came, or another thread kicks.

    Leaves ``halted`` set when it was a kick: the next ``run()`` goes on sleeping.
    """
    vcpu = vcpu_at(vcpu_address)
    partition = partition_at(vcpu.partition)
    vcpu.halted = 1
    while vcpu.halted != 0:
        if np.int64(clock_ns(partition)) >= vcpu.deadline_ns:
            decrementer_update(vcpu, partition)
        if load_u32(vcpu.env + np.uint64(ENV_PENDING_INTERRUPTS)) != 0 or vcpu.prodded != 0:
            vcpu.halted = 0
            vcpu.prodded = 0
        elif vcpu.kick != 0:
            return
        else:
            count_dispatch(partition, vcpu.index, np.uint32(1))
            wait_readable(vcpu.partition, vcpu.wake_fd, vcpu.deadline_ns)
    count_dispatch(partition, vcpu.index, np.uint32(0))


@njit(cache=True)
def cede(vcpu_address):  # type: ignore[no-untyped-def]
    """H_CEDE: enable external interrupts and sleep (PAPR 14.11.1.4).

    Returns an ``Hcall``; of several vCPUs, each leaves its sleep to :mod:`emu.cpu.turns`.
    """
    vcpu = vcpu_at(vcpu_address)
    msr = vcpu.env + np.uint64(ENV_MSR)
    store_u64(msr, load_u64(msr) | np.uint64(MSR_EE))
    if vcpu.prodded != 0:
        vcpu.prodded = 0
        return np.uint64(Hcall.DONE)
    if partition_at(vcpu.partition).vcpu_count > 1:
        if load_u32(vcpu.env + np.uint64(ENV_PENDING_INTERRUPTS)) != 0:
            return np.uint64(Hcall.DONE)
        vcpu.halted = 1
        return np.uint64(Hcall.TURN_OVER)
    halt(vcpu_address)
    return np.uint64(Hcall.KICKED) if vcpu.halted != 0 else np.uint64(Hcall.DONE)


@njit(cache=True)
def _set_msr(vcpu, value):  # type: ignore[no-untyped-def]
    ext.hreg_store_msr(vcpu.env, value)


@njit(cache=True)
def _scv(vcpu, nip):  # type: ignore[no-untyped-def]
    """System call vectored, level 0 (Power ISA v3.0B, book III, 4.3.1 and 6.5.27)."""
    env = vcpu.env
    fscr = load_u64(env + np.uint64(_FSCR))
    if not fscr & _FSCR_SCV:
        store_u64(env + np.uint64(_FSCR), (fscr & _FSCR_FACILITIES) | _FSCR_CAUSE_SCV)
        store_u32(env + np.uint64(ENV_ERROR_CODE), np.uint64(0))
        store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), np.uint64(Excp.FU))
        ext.ppc_cpu_do_interrupt(vcpu.cs)
        return
    msr = load_u64(env + np.uint64(ENV_MSR))
    lpcr = load_u64(env + np.uint64(_LPCR))
    store_u64(env + np.uint64(ENV_LR), nip + np.uint64(4))
    store_u64(env + np.uint64(ENV_CTR), msr & np.uint64(_RFSCV_TAKES))
    new_msr = (msr & np.uint64(_SCV_KEEPS)) | np.uint64(MSR_SF)
    if lpcr & np.uint64(LPCR_ILE):
        new_msr |= np.uint64(MSR_LE)
    target = _SCV
    if (lpcr & np.uint64(LPCR_AIL)) == np.uint64(3 << LPCR_AIL_SHIFT):
        new_msr |= np.uint64(MSR_IR | MSR_DR)
        target = _AIL_3_SCV
    _set_msr(vcpu, new_msr)
    store_u64(env + np.uint64(ENV_NIP), target)


@njit(cache=True)
def _rfscv(vcpu):  # type: ignore[no-untyped-def]
    """Return from system call vectored (Power ISA v3.0B, book III, 4.3.1)."""
    env = vcpu.env
    target = load_u64(env + np.uint64(ENV_LR)) & ~np.uint64(3)
    _set_msr(vcpu, load_u64(env + np.uint64(ENV_CTR)) & np.uint64(_RFSCV_TAKES))
    store_u64(env + np.uint64(ENV_NIP), target)


@njit(cache=True)
def _emulate(vcpu, nip):  # type: ignore[no-untyped-def]
    """Execute what Unicorn's core lacks or does wrong; false when it is illegal."""
    word = fetch_instruction(vcpu, nip)
    if doorbell.is_msgsndp(word):
        return doorbell.send(vcpu, word, nip)
    if vcpu.pvr >> np.uint32(16) != np.uint32(0x4E):
        return False
    if word == _SCV_0:
        _scv(vcpu, nip)
        return True
    if word == _RFSCV:
        if load_u64(vcpu.env + np.uint64(ENV_MSR)) & np.uint64(MSR_PR):
            store_u32(vcpu.env + np.uint64(ENV_ERROR_CODE), _PRIVILEGED_INSTRUCTION)
            return False
        _rfscv(vcpu)
        return True
    return False


@njit(cache=True)
def _sanitise(vcpu, cause):  # type: ignore[no-untyped-def]
    """A cause and error code that Unicorn's delivery code accepts for a guest.

    Anything it would abort the process for (hypervisor causes, unknown program checks)
    becomes an illegal instruction.
    """
    error = vcpu.env + np.uint64(ENV_ERROR_CODE)
    if cause >= np.uint32(128) or not _DELIVERABLE[cause]:
        store_u32(error, np.uint64(_INVALID_INSTRUCTION))
        return np.uint32(Excp.PROGRAM)
    if cause == np.uint32(Excp.PROGRAM) or cause == np.uint32(Excp.HV_EMU):
        kind = (load_u32(error) & ~np.uint32(0xF)) >> np.uint32(4)
        if kind < np.uint32(1) or kind > np.uint32(4):
            store_u32(error, np.uint64(_INVALID_INSTRUCTION))
    return cause


@njit(cache=True)
def _serve_exception(vcpu, vcpu_address, cause):  # type: ignore[no-untyped-def]
    env = vcpu.env
    vcpu.exceptions += np.uint64(1)
    if cause == np.uint32(Excp.SYSCALL) and load_u32(env + np.uint64(ENV_ERROR_CODE)) == np.uint32(
        1
    ):
        vcpu.hypercalls += np.uint64(1)
        if load_u64(env + np.uint64(ENV_MSR)) & np.uint64(MSR_PR):
            store_u64(env + np.uint64(_GPR3), H_PRIVILEGE)
            return
        partition = partition_at(vcpu.partition)
        answer = call_1(partition.hypercall, vcpu_address)
        if answer == np.uint64(Hcall.EXIT):
            exit_run(vcpu, np.uint32(ExitReason.HYPERCALL), np.uint64(0))
        elif answer == np.uint64(Hcall.KICKED):
            exit_run(vcpu, np.uint32(ExitReason.KICKED), np.uint64(0))
        elif answer == np.uint64(Hcall.TURN_OVER):
            exit_run(vcpu, np.uint32(ExitReason.TURN_OVER), np.uint64(0))
        return
    nip = load_u64(env + np.uint64(ENV_NIP)) - np.uint64(4)
    store_u64(env + np.uint64(ENV_NIP), nip)
    cause = _sanitise(vcpu, cause)
    if cause == np.uint32(Excp.HV_EMU) and _emulate(vcpu, nip):
        return
    enabled = load_u64(env + np.uint64(ENV_MSR)) & np.uint64(MSR_ME)
    if cause == np.uint32(Excp.MCHECK) and not enabled:
        exit_run(vcpu, np.uint32(ExitReason.CHECKSTOP), nip)
        return
    error = np.uint64(load_u32(env + np.uint64(ENV_ERROR_CODE)))
    store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), np.uint64(cause))
    ext.ppc_cpu_do_interrupt(vcpu.cs)
    if cause == np.uint32(Excp.MCHECK):
        srr1 = env + np.uint64(_SRR1)
        store_u64(srr1, load_u64(srr1) | error)


@cfunc(types.void(types.uint64, types.uint32, types.uint64), cache=True)
def on_exception(uc: int, cause: int, vcpu_address: int) -> None:
    """``UC_HOOK_INTR`` with the vCPU record's address as user data."""
    vcpu = vcpu_at(vcpu_address)
    _serve_exception(vcpu, vcpu_address, cause)
    if vcpu.step != np.uint32(0):
        _finish_step(vcpu)


@cfunc(types.void(types.uint64, types.uint32, types.uint32, types.uint64), cache=True)
def raise_exception_err_ra(env: int, cause: int, error: int, retaddr: int) -> None:
    """Replacement: priority hints and ``wait`` do not leave ``run()``.

    For them (``or 31,31,31`` and its like) Unicorn ends ``uc_emu_start``, and Linux executes one
    in every interrupt handler.  Only a vCPU that spins while another could run gives way.
    Like the original, this never returns: it jumps to the top of the CPU loop.
    """
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    if cause == _EXCP_HLT:
        store_u32(vcpu.cs + np.uint64(CS_HALTED), np.uint64(0))
        store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), _NO_EXCEPTION)
        if vcpu.step != np.uint32(0):
            _finish_step(vcpu)
        elif spins(vcpu, partition_at(vcpu.partition)) and vcpu.exit_reason == np.uint32(0):
            exit_run(vcpu, np.uint32(ExitReason.TURN_OVER), np.uint64(0))
        ext.cpu_loop_exit(vcpu.cs)
    elif cause == _EXCP_DEBUG:
        store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), _NO_EXCEPTION)
        if vcpu.step != np.uint32(0):
            vcpu.step_done = 1
        if vcpu.exit_reason == np.uint32(0):
            exit_run(vcpu, np.uint32(ExitReason.DEBUG), np.uint64(0))
        ext.cpu_loop_exit_restore(vcpu.cs, retaddr)
    else:
        store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), np.uint64(cause))
        store_u32(env + np.uint64(ENV_ERROR_CODE), np.uint64(error))
        ext.cpu_loop_exit_restore(vcpu.cs, retaddr)


@cfunc(types.void(types.uint64, types.uint64, types.int32, types.int32, types.uint64), cache=True)
def unaligned_access(cs: int, address: int, access: int, mmu_idx: int, retaddr: int) -> None:
    """Class function ``do_unaligned_access``: Unicorn's own sets no DAR and adds to DSISR."""
    env = cs + np.uint64(CS_ENV)
    store_u64(env + np.uint64(_DAR), address)
    store_u64(env + np.uint64(_DSISR), np.uint64(0))
    ext.ppc_cpu_do_unaligned_access(cs, address, access, mmu_idx, retaddr)


@cfunc(types.void(types.uint64), cache=True)
def exec_enter(cs: int) -> None:
    """``cpu_exec_enter``: runs when the CPU loop is entered or was broken."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    now = np.int64(clock_ns(partition))
    if now >= vcpu.deadline_ns:
        decrementer_update(vcpu, partition)
    if vcpu.exit_reason != np.uint32(0):
        return
    if vcpu.kick & np.uint32(Kick.STOP):
        exit_run(vcpu, np.uint32(ExitReason.KICKED), np.uint64(0))
    elif turn_is_over(vcpu, partition, now):
        exit_run(vcpu, np.uint32(ExitReason.TURN_OVER), np.uint64(0))


@cfunc(types.uint8(types.uint64, types.int32), cache=True)
def exec_interrupt(cs: int, request: int) -> Any:
    """``cpu_exec_interrupt``: no interrupt slips in between a request to leave and leaving."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    if vcpu.exit_reason != np.uint32(0) or vcpu.step & np.uint32(Step.NO_INTERRUPTS):
        return np.uint8(0)
    nip = load_u64(vcpu.env + np.uint64(ENV_NIP))
    msr = load_u64(vcpu.env + np.uint64(ENV_MSR))
    answer = np.uint8(1)
    if doorbell.is_next(vcpu):
        doorbell.deliver(vcpu)
    else:
        answer = np.uint8(call_2(vcpu.exec_interrupt, cs, np.uint64(request)) & np.uint64(0xFF))
    if vcpu.step != np.uint32(0) and (
        load_u64(vcpu.env + np.uint64(ENV_NIP)) != nip
        or load_u64(vcpu.env + np.uint64(ENV_MSR)) != msr
    ):
        _finish_step(vcpu)
    return answer
