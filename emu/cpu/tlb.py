"""Unicorn's software TLB: filling RAM pages directly, flushing, and following code changes.

The TLB is what generated code consults on every access: per MMU mode a direct-mapped table of
4 KiB entries plus eight victims.  Unicorn's own ``tlb_set_page`` goes through the memory API
and marks every fresh entry "not dirty", which sends the first store through a slow path; a
page of RAM needs neither, so it is entered here.  MMIO pages still use ``tlb_set_page``.

Rules (each entry is either executable or writable, never both):

* a store fill logs the page as dirty and drops code translated from it, then stores are free;
* a load fill of a writable page stays "not dirty" until its first store, unless the page is
  logged already and holds no translated code;
* when code is first translated from a page, every writable entry of it turns "not dirty".

Runs on the vCPU thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import external as ext
from emu.cpu.codegen import new_generation
from emu.cpu.isa import Spr
from emu.cpu.layout import (
    CS_ENV,
    CS_TLB,
    DESC_IOTLB,
    DESC_USED_ENTRIES,
    DESC_VICTIM_INDEX,
    DESC_VICTIM_IOTLB,
    DESC_VICTIM_TABLE,
    ENV_LOAD_INFO,
    ENV_SPR,
    FAST_MASK,
    FAST_TABLE,
    IOTLB_ENTRY_SIZE,
    TLB_DESC,
    TLB_DESC_SIZE,
    TLB_ENTRY_SIZE,
    TLB_FAST,
    TLB_FAST_SIZE,
    TLBE_ADDEND,
    TLBE_ADDR_CODE,
    TLBE_ADDR_READ,
    TLBE_ADDR_WRITE,
    TLBE_PADDR,
    UC_CPU,
    VICTIM_TLB_SIZE,
)
from emu.cpu.record import KEPT_PAGES, LATE_PAGES, NO_VCPU, USER_PAGES, partition_at, vcpu_at
from emu.memory.native import (
    call_2,
    load_u8,
    load_u16,
    load_u64,
    store_u8,
    store_u16,
    store_u64,
)

PAGE_SHIFT = 12
RELOCATED_MODES = 2  # MMU modes 0 (problem state) and 1 (privileged); 2 and 3 are real mode
PAGE_READ, PAGE_WRITE, PAGE_EXEC = 1, 2, 4
_PAGE_MASK = np.uint64(~0xFFF & ((1 << 64) - 1))
_NONE = np.uint64((1 << 64) - 1)
_NOTDIRTY = np.uint64(1 << 10)
_INVALID = np.uint64(1 << 11)
_ONE = np.uint64(1)
_PROBLEM_MODE, _PRIVILEGED_MODE = 1 << 0, 1 << 1
_PID = ENV_SPR + 8 * Spr.PID
_KERNEL_QUADRANT = np.uint64(3)
_KEEP_IN_USE, _KEEP_FETCHED = np.uint64(4), np.uint64(2)  # bits of a key, besides the mode
_KEEP_PROBES = 4


@njit(cache=True)
def _drop_code(partition, page):  # type: ignore[no-untyped-def]
    """Forget what was translated from a RAM page (page number)."""
    if not load_u8(partition.code_map + page):
        return
    store_u8(partition.code_map + page, np.uint64(0))
    for i in range(partition.vcpu_count):
        new_generation(vcpu_at(partition.vcpus[i]))
    start = page << np.uint64(PAGE_SHIFT)
    uc = vcpu_at(partition.vcpus[0]).uc
    ext.tb_invalidate_phys_range(uc, start, start + np.uint64(1 << PAGE_SHIFT))


@njit(cache=True)
def page_written(partition, page):  # type: ignore[no-untyped-def]
    """Log a RAM page (page number) as dirty and drop code translated from it."""
    store_u8(partition.dirty_map + page, _ONE)
    _drop_code(partition, page)


@njit(cache=True)
def ram_written(partition, address, size):  # type: ignore[no-untyped-def]
    """Same for every page of a guest real range that something but the CPU wrote."""
    if size == 0:
        return
    last = (address + size - _ONE) >> np.uint64(PAGE_SHIFT)
    page = address >> np.uint64(PAGE_SHIFT)
    while page <= last:
        page_written(partition, page)
        page += _ONE


@njit(types.void(types.uint64, types.uint64, types.uint64), cache=True)
def note_ram_written(partition_address, address, size):  # type: ignore[no-untyped-def]
    """:func:`ram_written` for callers in Python; the range lies in RAM, no vCPU is running."""
    ram_written(partition_at(partition_address), address, size)


@cfunc(types.uint64(types.uint64, types.uint64, types.uint64), cache=True)
def written_callback(partition_address, address, size):  # type: ignore[no-untyped-def]
    """:func:`ram_written` for native code of devices (``DMA_DTYPE.written``)."""
    ram_written(partition_at(partition_address), address, size)
    return np.uint64(0)


@njit(cache=True)
def _entry_matches(entry, page):  # type: ignore[no-untyped-def]
    mask = _PAGE_MASK | _INVALID
    return (
        (load_u64(entry + np.uint64(TLBE_ADDR_READ)) & mask) == page
        or (load_u64(entry + np.uint64(TLBE_ADDR_WRITE)) & mask) == page
        or (load_u64(entry + np.uint64(TLBE_ADDR_CODE)) & mask) == page
    )


@njit(cache=True)
def _entry_empty(entry):  # type: ignore[no-untyped-def]
    return (
        load_u64(entry + np.uint64(TLBE_ADDR_READ)) == _NONE
        and load_u64(entry + np.uint64(TLBE_ADDR_WRITE)) == _NONE
        and load_u64(entry + np.uint64(TLBE_ADDR_CODE)) == _NONE
    )


@njit(cache=True)
def _copy(target, source, size):  # type: ignore[no-untyped-def]
    for offset in range(0, size, 8):
        store_u64(target + np.uint64(offset), load_u64(source + np.uint64(offset)))


@njit(cache=True)
def _clear_entry(entry):  # type: ignore[no-untyped-def]
    for offset in range(0, TLB_ENTRY_SIZE, 8):
        store_u64(entry + np.uint64(offset), _NONE)


@njit(cache=True)
def _drop_victims(desc, page):  # type: ignore[no-untyped-def]
    victim = desc + np.uint64(DESC_VICTIM_TABLE)
    for _ in range(VICTIM_TLB_SIZE):
        if _entry_matches(victim, page):
            _clear_entry(victim)
            used = desc + np.uint64(DESC_USED_ENTRIES)
            store_u64(used, load_u64(used) - _ONE)
        victim += np.uint64(TLB_ENTRY_SIZE)


@njit(cache=True)
def _evict(desc, entry, iotlb):  # type: ignore[no-untyped-def]
    counter = desc + np.uint64(DESC_VICTIM_INDEX)
    index = load_u64(counter)
    store_u64(counter, index + _ONE)
    slot = index % np.uint64(VICTIM_TLB_SIZE)
    victim = desc + np.uint64(DESC_VICTIM_TABLE) + slot * np.uint64(TLB_ENTRY_SIZE)
    victim_io = desc + np.uint64(DESC_VICTIM_IOTLB) + slot * np.uint64(IOTLB_ENTRY_SIZE)
    _copy(victim, entry, TLB_ENTRY_SIZE)
    _copy(victim_io, iotlb, IOTLB_ENTRY_SIZE)
    used = desc + np.uint64(DESC_USED_ENTRIES)
    store_u64(used, load_u64(used) - _ONE)


@njit(cache=True)
def _write_tag(partition, page, address, prot, is_store):  # type: ignore[no-untyped-def]
    if not prot & PAGE_WRITE:
        return _NONE
    if is_store:
        page_written(partition, page)
        return address
    if load_u8(partition.dirty_map + page) and not load_u8(partition.code_map + page):
        return address
    return address | _NOTDIRTY


@njit(cache=True)
def fill_ram(vcpu, partition, address, real, prot, mmu_idx, is_store):  # type: ignore[no-untyped-def]
    """Enter one 4 KiB page of RAM.

    ``address`` is the effective address, ``real`` the guest real address (both anywhere in
    the page), ``prot`` a set of PAGE_* bits of which EXEC and WRITE exclude each other.
    """
    tlb = vcpu.cs + np.uint64(CS_TLB)
    mode = np.uint64(mmu_idx)
    desc = tlb + np.uint64(TLB_DESC) + mode * np.uint64(TLB_DESC_SIZE)
    fast = tlb + np.uint64(TLB_FAST) + mode * np.uint64(TLB_FAST_SIZE)
    address &= _PAGE_MASK
    real &= _PAGE_MASK
    index = (address >> np.uint64(PAGE_SHIFT)) & (
        load_u64(fast + np.uint64(FAST_MASK)) // np.uint64(TLB_ENTRY_SIZE)
    )
    entry = load_u64(fast + np.uint64(FAST_TABLE)) + index * np.uint64(TLB_ENTRY_SIZE)
    iotlb = load_u64(desc + np.uint64(DESC_IOTLB)) + index * np.uint64(IOTLB_ENTRY_SIZE)
    store_u16(tlb, np.uint64(load_u16(tlb)) | (_ONE << mode))
    _drop_victims(desc, address)
    if not _entry_matches(entry, address) and not _entry_empty(entry):
        _evict(desc, entry, iotlb)
    store_u64(iotlb, real - address)
    store_u64(iotlb + np.uint64(8), _ONE)
    page = real >> np.uint64(PAGE_SHIFT)
    write_tag = _write_tag(partition, page, address, prot, is_store)
    store_u64(entry + np.uint64(TLBE_ADDR_READ), address if prot & PAGE_READ else _NONE)
    store_u64(entry + np.uint64(TLBE_ADDR_WRITE), write_tag)
    store_u64(entry + np.uint64(TLBE_ADDR_CODE), address if prot & PAGE_EXEC else _NONE)
    store_u64(entry + np.uint64(TLBE_PADDR), real)
    store_u64(entry + np.uint64(TLBE_ADDEND), partition.ram + real - address)
    used = desc + np.uint64(DESC_USED_ENTRIES)
    store_u64(used, load_u64(used) + _ONE)


@njit(cache=True)
def has_no_turn(vcpu):  # type: ignore[no-untyped-def]
    """Whether a vCPU uses its TLB only after :func:`flush_late`."""
    current = partition_at(vcpu.partition).current
    return current != np.uint32(NO_VCPU) and current != vcpu.index


@njit(cache=True)
def flush_vcpu(vcpu):  # type: ignore[no-untyped-def]
    """Flush the whole TLB of one vCPU.

    Unicorn clears 32 KiB of cached block lookups even when the TLB is empty.  Linux's ways around
    errata of POWER9 are flushes right behind another; what was not filled since needs none.
    """
    if has_no_turn(vcpu):
        vcpu.late_flush = 1
        return
    if vcpu.flushed_fills == vcpu.mmu_fills:
        return
    vcpu.flushed_fills = vcpu.mmu_fills
    vcpu.user_page_count = 0
    if vcpu.kept_count != 0:
        for slot in range(KEPT_PAGES):
            vcpu.kept_key[slot] = 0
        vcpu.kept_count = 0
    new_generation(vcpu)
    ext.tlb_flush(vcpu.cs)


@njit(cache=True)
def _flush_page_late(vcpu, address, real, shift):  # type: ignore[no-untyped-def]
    """Keep the flush of a page for the vCPU's next turn."""
    count = vcpu.late_count
    if vcpu.late_flush != 0 or count == LATE_PAGES:
        vcpu.late_flush = 1
        return
    vcpu.late_address[count] = address
    vcpu.late_real[count] = real
    vcpu.late_shift[count] = shift
    vcpu.late_count = count + np.uint32(1)


@njit(cache=True)
def flush_all(partition):  # type: ignore[no-untyped-def]
    """Flush the TLB of every vCPU."""
    for i in range(partition.vcpu_count):
        flush_vcpu(vcpu_at(partition.vcpus[i]))


@njit(cache=True)
def _flush_data_page(vcpu, address):  # type: ignore[no-untyped-def]
    """Drop one 4 KiB page from the two relocated modes; no code was translated from it."""
    tlb = vcpu.cs + np.uint64(CS_TLB)
    for mode in range(RELOCATED_MODES):
        desc = tlb + np.uint64(TLB_DESC + mode * TLB_DESC_SIZE)
        fast = tlb + np.uint64(TLB_FAST + mode * TLB_FAST_SIZE)
        index = (address >> np.uint64(PAGE_SHIFT)) & (
            load_u64(fast + np.uint64(FAST_MASK)) // np.uint64(TLB_ENTRY_SIZE)
        )
        entry = load_u64(fast + np.uint64(FAST_TABLE)) + index * np.uint64(TLB_ENTRY_SIZE)
        if _entry_matches(entry, address):
            _clear_entry(entry)
            used = desc + np.uint64(DESC_USED_ENTRIES)
            store_u64(used, load_u64(used) - _ONE)
        _drop_victims(desc, address)


@njit(cache=True)
def flush_range(vcpu, partition, address, real, shift):  # type: ignore[no-untyped-def]
    """Flush one guest page of ``1 << shift`` bytes from one vCPU's TLB.

    ``real`` is the guest real address the page had.  Unicorn's own flush of a page also clears
    its lookup cache of translated blocks, which only pages with code need.
    """
    if shift > np.uint64(16):
        flush_vcpu(vcpu)
        return
    if has_no_turn(vcpu):
        _flush_page_late(vcpu, address, real, shift)
        return
    address = address >> shift << shift
    real = real >> shift << shift
    for _ in range(np.int64(1) << np.int64(shift - np.uint64(PAGE_SHIFT))):
        page = real >> np.uint64(PAGE_SHIFT)
        if real >= partition.ram_size or load_u8(partition.code_map + page):
            new_generation(vcpu)
            ext.tlb_flush_page(vcpu.cs, address)
        else:
            _flush_data_page(vcpu, address)
        address += np.uint64(1 << PAGE_SHIFT)
        real += np.uint64(1 << PAGE_SHIFT)


@njit(types.void(types.uint64), cache=True)
def flush_partition(partition_address):  # type: ignore[no-untyped-def]
    """:func:`flush_all` for callers in Python; no vCPU is running."""
    flush_all(partition_at(partition_address))


@njit(cache=True)
def note_user_page(vcpu, address):  # type: ignore[no-untyped-def]
    """Remember that the privileged mode's TLB now holds a page of the current process."""
    count = vcpu.user_page_count
    if count < USER_PAGES:
        vcpu.user_pages[count] = address & _PAGE_MASK
    if count <= USER_PAGES:
        vcpu.user_page_count = count + 1


@njit(cache=True)
def note_fill(vcpu, address, value, mode, fetched):  # type: ignore[no-untyped-def]
    """Remember what a page of a radix guest was entered with, for :mod:`emu.cpu.tlbie`.

    A small hash table by page, mode, and whether it is code; ``value`` may be anything.
    """
    key = (address & _PAGE_MASK) | _KEEP_IN_USE | np.uint64(mode)
    if fetched:
        key |= _KEEP_FETCHED
    page = address >> np.uint64(PAGE_SHIFT)
    start = page ^ (page >> np.uint64(6)) ^ (key & np.uint64(7)) << np.uint64(3)
    for probe in range(_KEEP_PROBES):
        slot = (start + np.uint64(probe)) & np.uint64(KEPT_PAGES - 1)
        old = vcpu.kept_key[slot]
        if old == 0:
            vcpu.kept_count += np.uint32(1)
        if old == 0 or old == key:
            vcpu.kept_key[slot] = key
            vcpu.kept_value[slot] = value
            return
    vcpu.kept_count = np.uint32(KEPT_PAGES + 1)


@njit(cache=True)
def note_unknown_fill(vcpu):  # type: ignore[no-untyped-def]
    """A page was entered that is not remembered."""
    vcpu.kept_count = np.uint32(KEPT_PAGES + 1)


@njit(cache=True)
def _flush_process(vcpu):  # type: ignore[no-untyped-def]
    """Drop what belongs to the process that was current; the kernel's pages stay."""
    if vcpu.user_page_count > USER_PAGES:
        ext.tlb_flush_by_mmuidx(vcpu.cs, np.uint16(_PROBLEM_MODE | _PRIVILEGED_MODE))
    else:
        for i in range(vcpu.user_page_count):
            _flush_data_page(vcpu, vcpu.user_pages[i])
        ext.tlb_flush_by_mmuidx(vcpu.cs, np.uint16(_PROBLEM_MODE))
    new_generation(vcpu)
    vcpu.user_page_count = 0
    for slot in range(KEPT_PAGES):
        if vcpu.kept_key[slot] >> np.uint64(62) != _KERNEL_QUADRANT:
            vcpu.kept_key[slot] = 0


@cfunc(types.void(types.uint64), cache=True)
def tlb_flush(cs: int) -> None:
    """Replacement, called by Unicorn's helpers: a write of PID drops one process only."""
    address = load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO))
    if address == 0:  # an instance that is being created has no record yet
        ext.tlb_flush(cs)
        return
    vcpu = vcpu_at(address)
    pid = load_u64(vcpu.env + np.uint64(_PID))
    if partition_at(vcpu.partition).radix != 0 and pid != vcpu.pid:
        vcpu.pid = pid
        _flush_process(vcpu)
    else:
        flush_vcpu(vcpu)


@njit(cache=True)
def flush_radix_page(vcpu, address, shift):  # type: ignore[no-untyped-def]
    """Flush one page of a radix guest, whatever process it is of; 4 or 64 KiB."""
    if has_no_turn(vcpu):
        _flush_page_late(vcpu, address, _NONE, shift)
        return
    for i in range(np.int64(1) << np.int64(shift - np.uint64(PAGE_SHIFT))):
        page = address + (np.uint64(i) << np.uint64(PAGE_SHIFT))
        _flush_data_page(vcpu, page)
        ext.tb_flush_jmp_cache(vcpu.cs, page)
    new_generation(vcpu)


@njit(cache=True)
def flush_late(vcpu, partition):  # type: ignore[no-untyped-def]
    """Do the flushes that came while others had the turn; the vCPU has it now."""
    if vcpu.late_flush != 0:
        flush_vcpu(vcpu)
    else:
        for i in range(vcpu.late_count):
            if vcpu.late_real[i] == _NONE:
                flush_radix_page(vcpu, vcpu.late_address[i], vcpu.late_shift[i])
            else:
                flush_range(
                    vcpu, partition, vcpu.late_address[i], vcpu.late_real[i], vcpu.late_shift[i]
                )
    vcpu.late_flush = vcpu.late_count = 0


@cfunc(types.void(types.uint64, types.uint64, types.uint64, types.int32, types.uint64), cache=True)
def tb_invalidate_phys_page_fast(uc: int, pages: int, ram: int, size: int, retaddr: int) -> None:
    """Replacement: a store hit a page marked "not dirty".  ``ram`` is the RAM offset."""
    cs = load_u64(uc + np.uint64(UC_CPU))
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    page_written(partition_at(vcpu.partition), ram >> np.uint64(PAGE_SHIFT))


@cfunc(types.void(types.uint64, types.uint64), cache=True)
def tlb_protect_code(uc: int, ram: int) -> None:
    """Replacement: code is translated from a page for the first time (RAM offset)."""
    cs = load_u64(uc + np.uint64(UC_CPU))
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    start = ram & _PAGE_MASK
    page = start >> np.uint64(PAGE_SHIFT)
    protected = load_u8(partition.code_map + page)
    store_u8(partition.code_map + page, _ONE)
    if protected:
        return
    for i in range(partition.vcpu_count):
        other = vcpu_at(partition.vcpus[i])
        if other.late_flush == 0:
            ext.tlb_reset_dirty(other.cs, partition.ram + start, np.uint64(1 << PAGE_SHIFT))


@cfunc(types.uint64(types.uint64, types.uint64), cache=True)
def memory_mapping(uc: int, address: int) -> Any:
    """Replacement in ``uc_struct``: the MemoryRegion at a guest real address.

    Every access that leaves the fast path asks; nearly all are to RAM.
    """
    cs = load_u64(uc + np.uint64(UC_CPU))
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    if address < partition_at(vcpu.partition).ram_size:
        return vcpu.ram_region
    return call_2(vcpu.memory_mapping, uc, address)


@cfunc(types.void(types.uint64), cache=True)
def check_exit_request(tcg_ctx: int) -> None:
    """Replacement: no exit check after each memory access; stops happen at block starts."""


@cfunc(types.void(types.uint64, types.uint64, types.uint64), cache=True)
def tlb_reset_dirty_by_vaddr(cs: int, start: int, size: int) -> None:
    """Replacement: nothing, as :func:`tlb_protect_code` does the work once per page."""
