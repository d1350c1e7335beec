"""The MMU fault handler: every TLB miss of a guest comes here.

Real mode, hash and radix translation share one contract, ``translate``; this module turns its
answer into a TLB entry or into an interrupt with the right DSISR/SRR1 (Power ISA v3.0B,
book III, 6.5.3 to 6.5.6).  The page is filled *write-xor-execute*, so that stores never need
the slow path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import external as ext
from emu.cpu.isa import (
    DSISR_AMR,
    DSISR_ISSTORE,
    DSISR_MC_UE,
    DSISR_NOPTE,
    DSISR_PROTFAULT,
    DSISR_R_BADCONFIG,
    MSR_DR,
    MSR_IR,
    MSR_LE,
    MSR_PR,
    SRR1_IAMR,
    SRR1_MC_IFETCH_UE,
    SRR1_MC_LOADSTORE,
    SRR1_NOEXEC_GUARD,
    SRR1_NOPTE,
    SRR1_PROTFAULT,
    Excp,
    Spr,
)
from emu.cpu.layout import (
    CS_ENV,
    CS_EXCEPTION_INDEX,
    ENV_ERROR_CODE,
    ENV_LOAD_INFO,
    ENV_MSR,
    ENV_SPR,
)
from emu.cpu.mmu_hash import (
    BAD_CONFIG,
    KEY,
    NO_EXECUTE,
    NO_PTE,
    OK,
    PROTECTION,
    SEGMENT,
    translate_hash,
)
from emu.cpu.mmu_radix import filled_with, translate_radix
from emu.cpu.record import partition_at, vcpu_at
from emu.cpu.tlb import (
    PAGE_EXEC,
    PAGE_READ,
    PAGE_WRITE,
    RELOCATED_MODES,
    fill_ram,
    note_fill,
    note_unknown_fill,
    note_user_page,
)
from emu.memory.native import load_u32, load_u32_be, load_u64, store_u32, store_u64

LOAD, STORE, FETCH = 0, 1, 2
_PRIVILEGED = 1  # MMU mode: relocated, not problem state
NOWHERE = 7  # a real address with neither RAM nor a device; or code in a device
_REAL_MODE_MASK = np.uint64((1 << 60) - 1)
_PAGE_SIZE = np.uint64(4096)
_NEED = np.array([PAGE_READ, PAGE_WRITE, PAGE_EXEC], np.int64)
_DAR = ENV_SPR + 8 * Spr.DAR
_DSISR = ENV_SPR + 8 * Spr.DSISR


@njit(cache=True)
def is_mmio(partition, real):  # type: ignore[no-untyped-def]
    """Whether a guest real address lies in a device window."""
    for i in range(partition.mmio_count):
        if partition.mmio_base[i] <= real and real < partition.mmio_end[i]:
            return True
    return False


@njit(cache=True)
def translate(vcpu, partition, address, need, real_mode, user, update):  # type: ignore[no-untyped-def]
    """(fault, guest real address, PAGE_* bits) of an effective address.

    ``need`` is one PAGE_* bit.  With ``update`` the reference and change bits are set as for
    an access; without, nothing changes (debuggers, hypercalls).
    """
    if real_mode:
        real = address & _REAL_MODE_MASK
        limited = partition.rma_size < partition.ram_size
        if limited and real >= partition.rma_size and not is_mmio(partition, real):
            return PROTECTION, real, 0
        return OK, real, PAGE_READ | PAGE_WRITE | PAGE_EXEC
    if partition.radix:
        return translate_radix(vcpu, partition, address, need, user, update)
    return translate_hash(vcpu, partition, address, need, user, update)


@njit(cache=True)
def _raise(vcpu, cause, error):  # type: ignore[no-untyped-def]
    store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), np.uint64(cause))
    store_u32(vcpu.env + np.uint64(ENV_ERROR_CODE), np.uint64(error))
    return np.int32(1)


@njit(cache=True)
def _instruction_fault(vcpu, fault):  # type: ignore[no-untyped-def]
    if fault == SEGMENT:
        return _raise(vcpu, Excp.ISEG, 0)
    if fault == NO_PTE:
        return _raise(vcpu, Excp.ISI, SRR1_NOPTE)
    if fault == NO_EXECUTE:
        return _raise(vcpu, Excp.ISI, SRR1_NOEXEC_GUARD)
    if fault == KEY:
        return _raise(vcpu, Excp.ISI, SRR1_IAMR)
    if fault == BAD_CONFIG:
        return _raise(vcpu, Excp.ISI, DSISR_R_BADCONFIG)
    if fault == NOWHERE:
        store_u64(vcpu.env + np.uint64(_DSISR), np.uint64(0))
        return _raise(vcpu, Excp.MCHECK, SRR1_MC_IFETCH_UE)
    return _raise(vcpu, Excp.ISI, SRR1_PROTFAULT)


@njit(cache=True)
def _data_fault(vcpu, fault, address, access):  # type: ignore[no-untyped-def]
    store_u64(vcpu.env + np.uint64(_DAR), address)
    if fault == SEGMENT:
        return _raise(vcpu, Excp.DSEG, 0)
    dsisr = np.uint64(DSISR_PROTFAULT)
    if fault == NO_PTE:
        dsisr = np.uint64(DSISR_NOPTE)
    elif fault == KEY:
        dsisr = np.uint64(DSISR_AMR)
    elif fault == BAD_CONFIG:
        dsisr = np.uint64(DSISR_R_BADCONFIG)
    elif fault == NOWHERE:
        store_u64(vcpu.env + np.uint64(_DSISR), np.uint64(DSISR_MC_UE))
        return _raise(vcpu, Excp.MCHECK, SRR1_MC_LOADSTORE)
    if access == STORE:
        dsisr |= np.uint64(DSISR_ISSTORE)
    store_u64(vcpu.env + np.uint64(_DSISR), dsisr)
    return _raise(vcpu, Excp.DSI, 0)


@njit(cache=True)
def _note_radix_fill(vcpu, address, real, prot, access, mode, in_ram):  # type: ignore[no-untyped-def]
    """Remember what a process switch and tlbie must know of a page."""
    if not in_ram:
        note_unknown_fill(vcpu)
        return
    filled = filled_with(real, prot, _NEED[access])
    note_fill(vcpu, address, filled, mode, access == FETCH)
    if mode == _PRIVILEGED and address >> np.uint64(62) == 0:
        note_user_page(vcpu, address)


@cfunc(types.int32(types.uint64, types.uint64, types.int32, types.int32), cache=True)
def handle_mmu_fault(cs: int, address: int, access: int, mmu_idx: int) -> Any:
    """Class function ``handle_mmu_fault``: 0 when the TLB has the page now, 1 to interrupt.

    ``mmu_idx`` bit 0 is clear for problem state, bit 1 set for real mode.
    """
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    vcpu.mmu_fills += np.uint64(1)
    fault, real, prot = translate(
        vcpu, partition, address, _NEED[access], (mmu_idx & 2) != 0, (mmu_idx & 1) == 0, True
    )
    in_ram = real < partition.ram_size
    if fault == OK and not in_ram and (access == FETCH or not is_mmio(partition, real)):
        fault = NOWHERE
    if fault != OK:
        if access == FETCH:
            return _instruction_fault(vcpu, fault)
        return _data_fault(vcpu, fault, address, access)
    if partition.radix and mmu_idx < RELOCATED_MODES:
        _note_radix_fill(vcpu, address, real, prot, access, mmu_idx, in_ram)
    if access == FETCH:
        prot &= PAGE_READ | PAGE_EXEC
    else:
        prot &= PAGE_READ | PAGE_WRITE
    if in_ram:
        fill_ram(vcpu, partition, address, real, prot, mmu_idx, access == STORE)
    else:
        page = ~(_PAGE_SIZE - np.uint64(1))
        ext.tlb_set_page(
            cs, address & page, real & page, np.int32(prot), np.int32(mmu_idx), _PAGE_SIZE
        )
    return np.int32(0)


@njit(cache=True)
def fetch_instruction(vcpu, address):  # type: ignore[no-untyped-def]
    """The instruction word at an effective address in the CPU's state; 0 if unreadable."""
    partition = partition_at(vcpu.partition)
    msr = load_u64(vcpu.env + np.uint64(ENV_MSR))
    fault, real, _prot = translate(
        vcpu,
        partition,
        address,
        PAGE_EXEC,
        (msr & np.uint64(MSR_IR)) == 0,
        (msr & np.uint64(MSR_PR)) != 0,
        False,
    )
    if fault != OK or real + np.uint64(4) > partition.ram_size:
        return np.uint32(0)
    if msr & np.uint64(MSR_LE):
        return load_u32(partition.ram + real)
    return load_u32_be(partition.ram + real)


@njit(types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), cache=True)
def debug_translate(vcpu_address, address):  # type: ignore[no-untyped-def]
    """(1, guest real address) for an address in the CPU's current state, else (0, 0).

    What privileged or problem state may read or execute counts; there is no side effect.  The
    vCPU is not running.
    """
    vcpu = vcpu_at(vcpu_address)
    partition = partition_at(vcpu.partition)
    msr = load_u64(vcpu.env + np.uint64(ENV_MSR))
    real_data = (msr & np.uint64(MSR_DR)) == 0
    real_code = (msr & np.uint64(MSR_IR)) == 0
    for user in (False, True):
        for need in (PAGE_READ, PAGE_EXEC):
            real_mode = real_data if need == PAGE_READ else real_code
            fault, real, _prot = translate(vcpu, partition, address, need, real_mode, user, False)
            if fault == OK:
                return np.uint64(1), real
    return np.uint64(0), np.uint64(0)
