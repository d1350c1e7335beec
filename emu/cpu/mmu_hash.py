"""Hashed page table translation (Power ISA v3.0B, book III, 5.7.8 and 5.7.9).

The page table belongs to the machine (PAPR guests reach it by hypercalls) and lies in host
memory outside guest RAM; entries are big-endian, in the format of ISA 2.07 (segment size in
the first doubleword).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.isa import Spr
from emu.cpu.layout import ENV_SLB, ENV_SLB_ENTRIES, ENV_SLB_ENTRY_SIZE, ENV_SPR
from emu.cpu.tlb import PAGE_EXEC, PAGE_READ, PAGE_WRITE
from emu.memory.native import load_u64, load_u64_be, store_u8

HPTE_SIZE = 16
HPTES_PER_GROUP = 8
HPTE_V_VALID = np.uint64(1)
HPTE_V_SECONDARY = np.uint64(2)
HPTE_V_LARGE = np.uint64(4)
HPTE_R_PP0 = np.uint64(1 << 63)
HPTE_R_RPN = np.uint64(0x0FFFFFFFFFFFF000)
HPTE_R_R = np.uint64(0x100)
HPTE_R_C = np.uint64(0x80)
HPTE_R_G = np.uint64(0x08)
HPTE_R_N = np.uint64(0x04)
HPTE_R_PP = np.uint64(0x03)

_SLB_ESID_V = np.uint64(1 << 27)
_SLB_ESID_256M = np.uint64(~0xFFFFFFF & ((1 << 64) - 1))
_SLB_ESID_1T = np.uint64(~0xFFFFFFFFFF & ((1 << 64) - 1))
_SLB_VSID_B_1T = np.uint64(1 << 62)
_SLB_VSID_B = np.uint64(3 << 62)
_SLB_VSID_KS = np.uint64(0x800)
_SLB_VSID_KP = np.uint64(0x400)
_SLB_VSID_N = np.uint64(0x200)
_SLB_VSID_L = np.uint64(0x100)
_SLB_VSID_LP = np.uint64(0x30)
_SLB_VSID_PTEM = np.uint64(0x3FFFFFFFFFFFF000 | (3 << 62))
_HPTE_COMPARE = np.uint64(0xFFFFFFFFFFFFFF83)
_AVPN_LOW = np.uint64(0x7F)

# Translation faults; 0 is success
OK, NO_PTE, PROTECTION, NO_EXECUTE, SEGMENT, KEY, BAD_CONFIG = 0, 1, 2, 3, 4, 5, 6

# Page size encodings the device tree offers: (base shift, actual shift, LP value);
# a segment's base size 4K means L=0, the others L=1 with SLB LP 01 (64K), 00 (16M).
_PAGE_ENCODINGS = np.array(
    [(12, 16, 0x7), (12, 24, 0x38), (16, 16, 0x1), (16, 24, 0x8), (24, 24, 0x0), (34, 34, 0x3)],
    np.uint64,
)


@njit(cache=True)
def slb_lookup(env, address):  # type: ignore[no-untyped-def]
    """VSID doubleword of the segment that holds an effective address, and whether found."""
    esid_256m = (address & _SLB_ESID_256M) | _SLB_ESID_V
    esid_1t = (address & _SLB_ESID_1T) | _SLB_ESID_V
    entry = env + np.uint64(ENV_SLB)
    for _ in range(ENV_SLB_ENTRIES):
        esid = load_u64(entry)
        if esid & _SLB_ESID_V:
            vsid = load_u64(entry + np.uint64(8))
            if (vsid & _SLB_VSID_B) == _SLB_VSID_B_1T:
                if (esid & (_SLB_ESID_1T | _SLB_ESID_V)) == esid_1t:
                    return True, vsid
            elif (esid & (_SLB_ESID_256M | _SLB_ESID_V)) == esid_256m:
                return True, vsid
        entry += np.uint64(ENV_SLB_ENTRY_SIZE)
    return False, np.uint64(0)


@njit(cache=True)
def segment_page_shift(vsid):  # type: ignore[no-untyped-def]
    """Base page size of a segment, log2."""
    if not vsid & _SLB_VSID_L:
        return np.uint64(12)
    if (vsid & _SLB_VSID_LP) == np.uint64(0x10):
        return np.uint64(16)
    if (vsid & _SLB_VSID_LP) == np.uint64(0x20):
        return np.uint64(34)
    return np.uint64(24)


@njit(cache=True)
def hpte_page_shift(base_shift, pte0, pte1):  # type: ignore[no-untyped-def]
    """Actual page size (log2) of an entry in a segment of a base size; 0 if they disagree."""
    if not pte0 & HPTE_V_LARGE:
        return np.uint64(12) if base_shift == np.uint64(12) else np.uint64(0)
    for i in range(_PAGE_ENCODINGS.shape[0]):
        if _PAGE_ENCODINGS[i, 0] == base_shift:
            shift = _PAGE_ENCODINGS[i, 1]
            mask = ((np.uint64(1) << shift) - np.uint64(1)) & HPTE_R_RPN & np.uint64(0xFF000)
            if (pte1 & mask) == (_PAGE_ENCODINGS[i, 2] << np.uint64(12)):
                return shift
    return np.uint64(0)


@njit(cache=True)
def any_page_shift(pte0, pte1):  # type: ignore[no-untyped-def]
    """(base, actual) page size of an entry taken alone, log2; (0, 0) if its LP is unknown."""
    if not pte0 & HPTE_V_LARGE:
        return np.uint64(12), np.uint64(12)
    for i in range(_PAGE_ENCODINGS.shape[0]):
        shift = _PAGE_ENCODINGS[i, 1]
        mask = ((np.uint64(1) << shift) - np.uint64(1)) & HPTE_R_RPN & np.uint64(0xFF000)
        if (pte1 & mask) == (_PAGE_ENCODINGS[i, 2] << np.uint64(12)):
            return _PAGE_ENCODINGS[i, 0], shift
    return np.uint64(0), np.uint64(0)


@njit(cache=True)
def _search_group(table, group, want, base_shift):  # type: ignore[no-untyped-def]
    """Address of the matching entry in a group, or 0, and its page shift."""
    entry = table + group * np.uint64(HPTES_PER_GROUP * HPTE_SIZE)
    for _ in range(HPTES_PER_GROUP):
        pte0 = load_u64_be(entry)
        if not (pte0 ^ want) & _HPTE_COMPARE:
            shift = hpte_page_shift(base_shift, pte0, load_u64_be(entry + np.uint64(8)))
            if shift:
                return entry, shift
        entry += np.uint64(HPTE_SIZE)
    return np.uint64(0), np.uint64(0)


@njit(cache=True)
def _find_hpte(partition, vsid, address):  # type: ignore[no-untyped-def]
    base_shift = segment_page_shift(vsid)
    if (vsid & _SLB_VSID_B) == _SLB_VSID_B_1T:
        page = (address & np.uint64(0xFFFFFFFFFF)) >> base_shift
        number = (vsid & np.uint64(0x3FFFFFFFFF000000)) >> np.uint64(24)
        hashed = number ^ (number << np.uint64(25)) ^ page
    else:
        page = (address & np.uint64(0xFFFFFFF)) >> base_shift
        number = (vsid & np.uint64(0x3FFFFFFFFFFFF000)) >> np.uint64(12)
        hashed = number ^ page
    groups = (np.uint64(1) << np.uint64(partition.hpt_shift - np.uint32(7))) - np.uint64(1)
    offset = page << base_shift
    want = (vsid & _SLB_VSID_PTEM) | ((offset >> np.uint64(16)) & ~_AVPN_LOW) | HPTE_V_VALID
    entry, shift = _search_group(partition.hpt, hashed & groups, want, base_shift)
    if entry == 0:
        entry, shift = _search_group(
            partition.hpt, ~hashed & groups, want | HPTE_V_SECONDARY, base_shift
        )
    return entry, shift


@njit(cache=True)
def _protection(vsid, pte1, user):  # type: ignore[no-untyped-def]
    """PAGE_* bits of the PP bits and storage key (book III, 5.7.9.2 and figure 28)."""
    pp = (pte1 & HPTE_R_PP) | (np.uint64(4) if pte1 & HPTE_R_PP0 else np.uint64(0))
    key = vsid & (_SLB_VSID_KP if user else _SLB_VSID_KS)
    prot = 0
    if not key:
        if pp <= np.uint64(2):
            prot = PAGE_READ | PAGE_WRITE
        elif pp == np.uint64(3) or pp == np.uint64(6):
            prot = PAGE_READ
    elif pp == np.uint64(1) or pp == np.uint64(3):
        prot = PAGE_READ
    elif pp == np.uint64(2):
        prot = PAGE_READ | PAGE_WRITE
    if prot and not pte1 & (HPTE_R_N | HPTE_R_G) and not vsid & _SLB_VSID_N:
        prot |= PAGE_EXEC
    return prot


@njit(cache=True)
def _key_forbids(env, pte1):  # type: ignore[no-untyped-def]
    """PAGE_* bits that the virtual page class key takes away (book III, 5.7.9.1)."""
    key = ((pte1 >> np.uint64(60)) & np.uint64(3)) << np.uint64(3) | (
        pte1 >> np.uint64(9)
    ) & np.uint64(7)
    shift = np.uint64(2) * (np.uint64(31) - key)
    amr = load_u64(env + np.uint64(ENV_SPR + 8 * Spr.AMR)) >> shift
    iamr = load_u64(env + np.uint64(ENV_SPR + 8 * Spr.IAMR)) >> shift
    forbidden = 0
    if amr & np.uint64(2):
        forbidden |= PAGE_WRITE
    if amr & np.uint64(1):
        forbidden |= PAGE_READ
    if iamr & np.uint64(1):
        forbidden |= PAGE_EXEC
    return forbidden


@njit(cache=True)
def translate_hash(vcpu, partition, address, need, user, update):  # type: ignore[no-untyped-def]
    """Translate one effective address.

    ``need`` is one PAGE_* bit; ``update`` allows setting R and C.  Returns (fault, guest real
    address, PAGE_* bits the page may be mapped with now).  WRITE is left out while C is clear.
    """
    none = np.uint64(0)
    found, vsid = slb_lookup(vcpu.env, address)
    if not found:
        return SEGMENT, none, 0
    if need == PAGE_EXEC and vsid & _SLB_VSID_N:
        return NO_EXECUTE, none, 0
    if partition.hpt == 0:
        return NO_PTE, none, 0
    entry, shift = _find_hpte(partition, vsid, address)
    if entry == 0:
        return NO_PTE, none, 0
    pte1 = load_u64_be(entry + np.uint64(8))
    prot = _protection(vsid, pte1, user)
    forbidden = _key_forbids(vcpu.env, pte1)
    if not prot & need:
        if need == PAGE_EXEC and prot & PAGE_READ:
            return NO_EXECUTE, none, 0
        return PROTECTION, none, 0
    if forbidden & need:
        return KEY, none, 0
    prot &= ~forbidden
    if update:
        if not pte1 & HPTE_R_R:
            store_u8(entry + np.uint64(14), ((pte1 | HPTE_R_R) >> np.uint64(8)) & np.uint64(0xFF))
        if not pte1 & HPTE_R_C:
            if need == PAGE_WRITE:
                store_u8(entry + np.uint64(15), (pte1 | HPTE_R_C) & np.uint64(0xFF))
            else:
                prot &= ~PAGE_WRITE
    within = (np.uint64(1) << shift) - np.uint64(1)
    return OK, ((pte1 & HPTE_R_RPN) & ~within) | (address & within), prot
