"""Radix tree translation of a guest without hypervisor state (Power ISA v3.0B, book III, 5.7.10).

The process table and the trees lie in guest RAM and are big-endian; there is no
partition-scoped translation, since guest real memory is ours.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.isa import Spr
from emu.cpu.layout import ENV_SPR
from emu.cpu.mmu_hash import BAD_CONFIG, NO_EXECUTE, NO_PTE, OK, PROTECTION, SEGMENT
from emu.cpu.tlb import PAGE_EXEC, PAGE_READ, PAGE_WRITE, page_written
from emu.memory.native import load_u64, load_u64_be, store_u64_be

_VALID = np.uint64(1 << 63)
_LEAF = np.uint64(1 << 62)
_NLB = np.uint64(0x0FFFFFFFFFFFFF00)
_NLS = np.uint64(0x1F)
_PAGE_MASK = np.uint64(~0xFFF & ((1 << 64) - 1))
_RPN = np.uint64(0x01FFFFFFFFFFF000)
_R = np.uint64(0x100)
_C = np.uint64(0x80)
_ATT = np.uint64(0x30)
_ATT_NON_IDEMPOTENT = np.uint64(0x20)
_EAA_PRIV = np.uint64(8)
_EAA_READ = np.uint64(4)
_EAA_WRITE = np.uint64(2)
_EAA_EXEC = np.uint64(1)
_PRTB_ENTRY = np.uint64(16)
_DOUBLEWORD = np.uint64(8)
_ROOT_SIZE = np.uint64(0x1F)


@njit(cache=True)
def _process_entry(vcpu, partition, address):  # type: ignore[no-untyped-def]
    """Fault and first doubleword of the process table entry of an address's quadrant."""
    none = np.uint64(0)
    quadrant = address >> np.uint64(62)
    if quadrant == np.uint64(0):
        pid = load_u64(vcpu.env + np.uint64(ENV_SPR + 8 * Spr.PID)) & np.uint64(0xFFFFFFFF)
    elif quadrant == np.uint64(3):
        pid = none
    else:
        return SEGMENT, none
    offset = pid * _PRTB_ENTRY
    if offset >= partition.process_table_size:
        return NO_PTE, none
    where = partition.process_table + offset
    if where + _PRTB_ENTRY > partition.ram_size:
        return BAD_CONFIG, none
    return OK, load_u64_be(partition.ram + where)


@njit(cache=True)
def _walk(partition, entry, address):  # type: ignore[no-untyped-def]
    """(fault, guest real address of the leaf entry, leaf entry, log2 of the page size)."""
    none = np.uint64(0)
    bits = ((entry >> np.uint64(61)) & np.uint64(3)) << np.uint64(3) | (
        entry >> np.uint64(5)
    ) & np.uint64(7)
    left = bits + np.uint64(31)
    size = entry & _ROOT_SIZE
    base = entry & _NLB
    if left > np.uint64(62):
        return BAD_CONFIG, none, none, none
    offset = address & ((np.uint64(1) << np.uint64(62)) - np.uint64(1))
    if offset >> left:
        return SEGMENT, none, none, none
    for _ in range(8):
        if size == 0 or size > left or left - size < np.uint64(12):
            return BAD_CONFIG, none, none, none
        left -= size
        index = (offset >> left) & ((np.uint64(1) << size) - np.uint64(1))
        where = base + index * _DOUBLEWORD
        if where + _DOUBLEWORD > partition.ram_size:
            return BAD_CONFIG, none, none, none
        pte = load_u64_be(partition.ram + where)
        if not pte & _VALID:
            return NO_PTE, none, none, none
        if pte & _LEAF:
            return OK, where, pte, left
        size = pte & _NLS
        base = pte & _NLB
    return BAD_CONFIG, none, none, none


@njit(cache=True)
def _protection(vcpu, pte, user):  # type: ignore[no-untyped-def]
    """PAGE_* bits by access authority and key 0 (5.7.10.4)."""
    prot = 0
    if pte & _EAA_PRIV and user:
        return 0
    if pte & _EAA_READ:
        prot |= PAGE_READ
    if pte & _EAA_WRITE:
        prot |= PAGE_READ | PAGE_WRITE
    if pte & _EAA_EXEC and (pte & _ATT) != _ATT_NON_IDEMPOTENT:
        prot |= PAGE_EXEC
    forbidden = 0
    if not user and not pte & _EAA_PRIV:
        amr = load_u64(vcpu.env + np.uint64(ENV_SPR + 8 * Spr.AMR)) >> np.uint64(62)
        iamr = load_u64(vcpu.env + np.uint64(ENV_SPR + 8 * Spr.IAMR)) >> np.uint64(62)
        if amr & np.uint64(2):
            forbidden |= PAGE_WRITE
        if amr & np.uint64(1):
            forbidden |= PAGE_READ
        if iamr & np.uint64(1):
            forbidden |= PAGE_EXEC
    return prot & ~forbidden


@njit(cache=True)
def filled_with(real, prot, need):  # type: ignore[no-untyped-def]
    """A page's translation and the PAGE_* bit it was asked for, in one word."""
    return real & _PAGE_MASK | np.uint64(prot) | np.uint64(need) << np.uint64(3)


@njit(cache=True)
def still_maps(vcpu, partition, address, user, filled):  # type: ignore[no-untyped-def]
    """Whether the tables say of a page what they said (:func:`filled_with`), R and C included."""
    fault, entry = _process_entry(vcpu, partition, address)
    if fault != OK:
        return False
    fault, _where, pte, shift = _walk(partition, entry, address)
    if fault != OK or not pte & _R:
        return False
    prot = _protection(vcpu, pte, user)
    if not pte & _C:
        prot &= ~PAGE_WRITE
    need = np.int64((filled >> np.uint64(3)) & np.uint64(7))
    if not prot & need:
        return False
    within = (np.uint64(1) << shift) - np.uint64(1)
    real = ((pte & _RPN) & ~within) | (address & within)
    return filled_with(real, prot, need) == filled


@njit(cache=True)
def translate_radix(vcpu, partition, address, need, user, update):  # type: ignore[no-untyped-def]
    """Translate one effective address; same contract as ``translate_hash``."""
    none = np.uint64(0)
    fault, entry = _process_entry(vcpu, partition, address)
    if fault != OK:
        return fault, none, 0
    fault, where, pte, shift = _walk(partition, entry, address)
    if fault != OK:
        return fault, none, 0
    if need == PAGE_EXEC and (pte & _ATT) == _ATT_NON_IDEMPOTENT:
        return NO_EXECUTE, none, 0
    prot = _protection(vcpu, pte, user)
    if not prot & need:
        return PROTECTION, none, 0
    if update:
        wanted = pte | _R
        if need == PAGE_WRITE:
            wanted |= _C
        if wanted != pte:
            store_u64_be(partition.ram + where, wanted)
            page_written(partition, where >> np.uint64(12))
        if not wanted & _C:
            prot &= ~PAGE_WRITE
    within = (np.uint64(1) << shift) - np.uint64(1)
    return OK, ((pte & _RPN) & ~within) | (address & within), prot
