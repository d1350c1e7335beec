"""Hash page table hypercalls: H_ENTER, H_REMOVE and the rest (LoPAPR 1.1, 14.5.4.1).

All native: a guest kernel makes tens of thousands of them while booting.  A page table entry
is named by its index; entries are two big-endian doublewords in host memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.layout import ENV_GPR, ENV_SLB, ENV_SLB_ENTRIES, ENV_SLB_ENTRY_SIZE
from emu.cpu.mmu import is_mmio
from emu.cpu.mmu_hash import (
    HPTE_R_C,
    HPTE_R_N,
    HPTE_R_PP,
    HPTE_R_PP0,
    HPTE_R_R,
    HPTE_R_RPN,
    HPTE_SIZE,
    HPTE_V_SECONDARY,
    HPTE_V_VALID,
    HPTES_PER_GROUP,
    any_page_shift,
)
from emu.cpu.record import vcpu_at
from emu.cpu.tlb import flush_range, flush_vcpu
from emu.memory.native import load_u64, load_u64_be, store_u64, store_u64_be
from machines.pseries import papr

_ALL = (1 << 64) - 1
SUCCESS = np.uint64(papr.H_SUCCESS)
PARAMETER = np.uint64(papr.H_PARAMETER & _ALL)
PTEG_FULL = np.uint64(papr.H_PTEG_FULL & _ALL)
NOT_FOUND = np.uint64(papr.H_NOT_FOUND & _ALL)

_EXACT = np.uint64(papr.H_EXACT)
_ANDCOND = np.uint64(papr.H_ANDCOND)
_AVPN = np.uint64(papr.H_AVPN)
_READ_4 = np.uint64(papr.H_READ_4)
_KEY = np.uint64(0x3000000000000E00)
_KEY_HIGH_OF_FLAGS = np.uint64(48)
_PROTECT_BITS = HPTE_R_PP0 | HPTE_R_PP | HPTE_R_N | _KEY
_WIMG = np.uint64(0x78)
_WIMG_M = np.uint64(0x10)
_WIMG_STRONG = np.uint64(0x70)  # strong access order: W, I and M
_WIMG_I = np.uint64(0x20)
_GROUP = np.uint64(HPTES_PER_GROUP)
_AVPN_MASK = np.uint64(~0x7F & _ALL)
_SEGMENT_1T = np.uint64(1 << 62)
_SEGMENT_B = np.uint64(3 << 62)
_SLB_VALID = np.uint64(1 << 27)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@njit(cache=True)
def argument(vcpu, number):  # type: ignore[no-untyped-def]
    """Hypercall argument: register r4 is number 0."""
    return load_u64(vcpu.env + np.uint64(ENV_GPR + 8 * (4 + number)))


@njit(cache=True)
def set_result(vcpu, number, value):  # type: ignore[no-untyped-def]
    """Hypercall result beside the return code: register r4 is number 0."""
    store_u64(vcpu.env + np.uint64(ENV_GPR + 8 * (4 + number)), value)


@njit(cache=True)
def entry_address(partition, index):  # type: ignore[no-untyped-def]
    """Host address of an entry, or 0 when the index lies outside the table."""
    if partition.hpt == 0:
        return _ZERO
    if index >= _ONE << np.uint64(partition.hpt_shift - np.uint32(4)):
        return _ZERO
    return partition.hpt + index * np.uint64(HPTE_SIZE)


@njit(cache=True)
def _segment_address(vcpu, pte0):  # type: ignore[no-untyped-def]
    """(found, effective base) of the SLB segment an entry's VSID belongs to on a vCPU."""
    shift = np.uint64(24) if (pte0 & _SEGMENT_B) == _SEGMENT_1T else np.uint64(12)
    wanted = (pte0 & np.uint64(0x3FFFFFFFFFFFFF80)) >> shift
    entry = vcpu.env + np.uint64(ENV_SLB)
    for _ in range(ENV_SLB_ENTRIES):
        esid = load_u64(entry)
        vsid = load_u64(entry + np.uint64(8))
        same_size = (vsid & _SEGMENT_B) == (pte0 & _SEGMENT_B)
        number = (vsid & np.uint64(0x3FFFFFFFFFFFF000)) >> shift
        if esid & _SLB_VALID and same_size and number == wanted:
            return True, esid & np.uint64(~0xFFFFFFF & _ALL)
        entry += np.uint64(ENV_SLB_ENTRY_SIZE)
    return False, _ZERO


@njit(cache=True)
def _page_offset(partition, index, pte0, base_shift):  # type: ignore[no-untyped-def]
    """Byte offset of an entry's page in its segment, from AVPN and the entry's group."""
    group = index // _GROUP
    if pte0 & HPTE_V_SECONDARY:
        group = ~group
    large = (pte0 & _SEGMENT_B) == _SEGMENT_1T
    if large:
        vsid = (pte0 & np.uint64(0x3FFFFFFFFF000000)) >> np.uint64(24)
        vsid ^= vsid << np.uint64(25)
        known = (pte0 & np.uint64(0xFFFF80)) << np.uint64(16)
    else:
        vsid = (pte0 & np.uint64(0x3FFFFFFFFFFFF000)) >> np.uint64(12)
        known = (pte0 & np.uint64(0xF80)) << np.uint64(16)
    if base_shift >= np.uint64(23):
        return known
    groups = (_ONE << np.uint64(partition.hpt_shift - np.uint32(7))) - _ONE
    below = ((_ONE << (np.uint64(23) - base_shift)) - _ONE) & groups
    page = (group ^ vsid) & below
    return known | (page << base_shift)


@njit(cache=True)
def flush_entry(partition, index, pte0, pte1):  # type: ignore[no-untyped-def]
    """Flush what any vCPU's TLB holds of a page, given its old entry.

    The effective address follows from the segment's SLB entry; without one, everything goes.
    """
    base_shift, shift = any_page_shift(pte0, pte1)
    hashed_bits = partition.hpt_shift - np.uint32(7)
    for i in range(partition.vcpu_count):
        vcpu = vcpu_at(partition.vcpus[i])
        found, segment = _segment_address(vcpu, pte0)
        known = base_shift >= np.uint64(23) or np.uint64(23) - base_shift <= np.uint64(hashed_bits)
        if not found or base_shift == 0 or not known:
            flush_vcpu(vcpu)
        else:
            address = segment + _page_offset(partition, index, pte0, base_shift)
            flush_range(vcpu, partition, address, pte1 & HPTE_R_RPN, shift)


@njit(cache=True)
def _cacheability_fits(partition, real, size, pte1):  # type: ignore[no-untyped-def]
    """Whether WIMG suits what lies at a real address, RAM or a device."""
    wimg = pte1 & _WIMG
    if real + size <= partition.ram_size:
        return wimg in (_ZERO, _WIMG_M, _WIMG_STRONG)
    return is_mmio(partition, real) and (wimg & _WIMG_I) != 0


@njit(cache=True)
def h_enter(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_ENTER(flags, index, entry): r4 gets the index used."""
    flags, index = argument(vcpu, 0), argument(vcpu, 1)
    pte0, pte1 = argument(vcpu, 2), argument(vcpu, 3)
    _base_shift, shift = any_page_shift(pte0, pte1)
    if shift == 0:
        return PARAMETER
    size = _ONE << shift
    real = pte1 & HPTE_R_RPN & ~(size - _ONE)
    if not _cacheability_fits(partition, real, size, pte1):
        return PARAMETER
    address = entry_address(partition, index)
    if address == 0:
        return PARAMETER
    if flags & _EXACT:
        if load_u64_be(address) & HPTE_V_VALID:
            return PTEG_FULL
    else:
        index &= ~(_GROUP - _ONE)
        address = entry_address(partition, index)
        slot = 0
        while slot < HPTES_PER_GROUP and load_u64_be(address) & HPTE_V_VALID:
            address += np.uint64(HPTE_SIZE)
            slot += 1
        if slot == HPTES_PER_GROUP:
            return PTEG_FULL
        index += np.uint64(slot)
    store_u64_be(address + np.uint64(8), pte1)
    store_u64_be(address, pte0 | HPTE_V_VALID)
    set_result(vcpu, 0, index)
    return SUCCESS


@njit(cache=True)
def _refused(pte0, flags, avpn):  # type: ignore[no-untyped-def]
    """Whether an entry is absent or fails the AVPN or ANDCOND condition."""
    if not pte0 & HPTE_V_VALID:
        return True
    if flags & _AVPN and (pte0 & _AVPN_MASK) != avpn:
        return True
    return (flags & _ANDCOND) != 0 and (pte0 & avpn) != 0


@njit(cache=True)
def _remove(partition, index, flags, avpn):  # type: ignore[no-untyped-def]
    """(return code, old doublewords) of removing one entry."""
    address = entry_address(partition, index)
    if address == 0:
        return PARAMETER, _ZERO, _ZERO
    pte0, pte1 = load_u64_be(address), load_u64_be(address + np.uint64(8))
    if _refused(pte0, flags, avpn):
        return NOT_FOUND, pte0, pte1
    store_u64_be(address, _ZERO)
    store_u64_be(address + np.uint64(8), _ZERO)
    if pte1 & HPTE_R_R:
        flush_entry(partition, index, pte0, pte1)
    return SUCCESS, pte0, pte1


@njit(cache=True)
def h_remove(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_REMOVE(flags, index, avpn): r4, r5 get the old entry."""
    code, pte0, pte1 = _remove(partition, argument(vcpu, 1), argument(vcpu, 0), argument(vcpu, 2))
    if code != PARAMETER:
        set_result(vcpu, 0, pte0)
        set_result(vcpu, 1, pte1)
    return code


@njit(cache=True)
def h_bulk_remove(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_BULK_REMOVE: up to four (control word, AVPN) pairs in r4 to r11."""
    result = SUCCESS
    for i in range(papr.H_BULK_REMOVE_MAX_BATCH):
        word, avpn = argument(vcpu, 2 * i), argument(vcpu, 2 * i + 1)
        kind = word & np.uint64(papr.H_BULK_REMOVE_TYPE)
        if kind == np.uint64(papr.H_BULK_REMOVE_END):
            break
        word &= np.uint64(papr.H_BULK_REMOVE_PTEX | papr.H_BULK_REMOVE_FLAGS)
        answer = np.uint64(papr.H_BULK_REMOVE_RESPONSE)
        conditions = np.uint64(papr.H_BULK_REMOVE_ANDCOND | papr.H_BULK_REMOVE_AVPN)
        if kind != np.uint64(papr.H_BULK_REMOVE_REQUEST) or word & conditions == conditions:
            set_result(vcpu, 2 * i, word | answer | np.uint64(papr.H_BULK_REMOVE_PARM))
            return PARAMETER
        flags = _ZERO
        if word & np.uint64(papr.H_BULK_REMOVE_ANDCOND):
            flags |= _ANDCOND
        if word & np.uint64(papr.H_BULK_REMOVE_AVPN):
            flags |= _AVPN
        index = word & np.uint64(papr.H_BULK_REMOVE_PTEX)
        code, _pte0, pte1 = _remove(partition, index, flags, avpn)
        if code == SUCCESS:
            answer |= (pte1 & (HPTE_R_R | HPTE_R_C)) << np.uint64(51)
        elif code == NOT_FOUND:
            answer |= np.uint64(papr.H_BULK_REMOVE_NOT_FOUND)
        else:
            answer |= np.uint64(papr.H_BULK_REMOVE_PARM)
            result = PARAMETER
        set_result(vcpu, 2 * i, word | answer)
        if result == PARAMETER:
            break
    return result


@njit(cache=True)
def h_protect(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_PROTECT(flags, index, avpn): new pp, N and key bits from the flags."""
    flags, index, avpn = argument(vcpu, 0), argument(vcpu, 1), argument(vcpu, 2)
    address = entry_address(partition, index)
    if address == 0:
        return PARAMETER
    pte0, pte1 = load_u64_be(address), load_u64_be(address + np.uint64(8))
    if not pte0 & HPTE_V_VALID or (flags & _AVPN and (pte0 & _AVPN_MASK) != avpn):
        return NOT_FOUND
    changed = pte1 & ~_PROTECT_BITS
    changed |= (flags << np.uint64(55)) & HPTE_R_PP0
    changed |= (flags << _KEY_HIGH_OF_FLAGS) & np.uint64(0x3000000000000000)
    changed |= flags & np.uint64(0xE07)
    store_u64_be(address + np.uint64(8), changed)
    if pte1 & HPTE_R_R:
        flush_entry(partition, index, pte0, pte1)
    return SUCCESS


@njit(cache=True)
def h_read(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_READ(flags, index): r4.. get the entry, or the aligned group of four."""
    flags, index = argument(vcpu, 0), argument(vcpu, 1)
    count = 1
    if flags & _READ_4:
        index &= ~np.uint64(3)
        count = 4
    if entry_address(partition, index) == 0:
        return PARAMETER
    for i in range(count):
        address = entry_address(partition, index + np.uint64(i))
        set_result(vcpu, 2 * i, load_u64_be(address))
        set_result(vcpu, 2 * i + 1, load_u64_be(address + np.uint64(8)))
    return SUCCESS


@njit(cache=True)
def _clear_bit(vcpu, partition, bit):  # type: ignore[no-untyped-def]
    index = argument(vcpu, 1)
    address = entry_address(partition, index)
    if address == 0:
        return PARAMETER
    pte0, pte1 = load_u64_be(address), load_u64_be(address + np.uint64(8))
    if not pte0 & HPTE_V_VALID:
        return NOT_FOUND
    if pte1 & bit:
        store_u64_be(address + np.uint64(8), pte1 & ~bit)
        flush_entry(partition, index, pte0, pte1)
    set_result(vcpu, 0, pte1)
    return SUCCESS


@njit(cache=True)
def h_clear_mod(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_CLEAR_MOD(flags, index): clear C; r4 gets the old second doubleword."""
    return _clear_bit(vcpu, partition, HPTE_R_C)


@njit(cache=True)
def h_clear_ref(vcpu, partition):  # type: ignore[no-untyped-def]
    """H_CLEAR_REF(flags, index): clear R; r4 gets the old second doubleword."""
    return _clear_bit(vcpu, partition, HPTE_R_R)
