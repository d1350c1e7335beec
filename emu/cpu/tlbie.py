"""tlbie and tlbiel of radix guests (Power ISA v3.0B, book III, 5.9.3.3).

Linux invalidates all of PID 0 twice whenever it changes its own text, 85,000 times in a boot of
Debian's kernel, and needs about twenty of the dropped pages again at once.  An invalidation
promises that no translation is used that the page tables do not have any more, so what they still
have may stay: pages entered since the last flush of everything are remembered
(``tlb.note_fill``) and looked up again, and only those that differ go.

Runs on the vCPU thread.
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit, types

from emu.cpu.layout import CS_ENV, ENV_LOAD_INFO, ENV_TLB_NEED_FLUSH
from emu.cpu.mmu_radix import still_maps
from emu.cpu.record import KEPT_PAGES, partition_at, vcpu_at
from emu.cpu.tlb import flush_all, flush_radix_page, flush_vcpu, has_no_turn
from emu.memory.native import load_u32, load_u64, store_u32

_PAGE_MASK = np.uint64(~0xFFF & ((1 << 64) - 1))
_AP_4K, _AP_64K = np.uint64(0), np.uint64(5)
_SET_MASK = np.uint64(0xFFF)
_NEED_LOCAL_FLUSH = np.uint64(1)


@njit(cache=True)
def _flush_changed(vcpu, partition):  # type: ignore[no-untyped-def]
    """Drop what the page tables do not have any more."""
    if vcpu.kept_count > KEPT_PAGES or has_no_turn(vcpu):
        flush_vcpu(vcpu)
        return
    for slot in range(KEPT_PAGES):
        key = vcpu.kept_key[slot]
        if key == 0:
            continue
        address = key & _PAGE_MASK
        user = key & np.uint64(1) == 0
        if not still_maps(vcpu, partition, address, user, vcpu.kept_value[slot]):
            flush_radix_page(vcpu, address, np.uint64(12))
            vcpu.kept_key[slot] = 0


@cfunc(types.void(types.uint64, types.uint64), cache=True)
def ppc_tlb_invalidate_one(env: int, rb: int) -> None:
    """Replacement: tlbie and tlbiel.

    Of a radix guest's invalidations of one page only that page goes, for any process, on every
    vCPU and at once; what covers more (RB's IS field) covers everything.  Other guests' are left
    to the next synchronising instruction, as Unicorn does.

    A guest that invalidates more than a page with tlbiel has to do so set by set (Linux: 128
    times).  Here all entries are of set 0, and the other sets are empty.  To tlbie those bits of
    RB mean nothing, and Unicorn does not say which one it is: if it was tlbie, the ptesync
    behind it drops everything.
    """
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    if partition.radix == 0:
        pending = env + np.uint64(ENV_TLB_NEED_FLUSH)
        store_u32(pending, np.uint64(load_u32(pending)) | _NEED_LOCAL_FLUSH)
        return
    size = (rb >> np.uint64(5)) & np.uint64(7)
    page = (rb >> np.uint64(10)) & np.uint64(3) == 0
    if not page and (rb >> np.uint64(12)) & _SET_MASK:
        vcpu.other_sets = 1
        return
    for i in range(partition.vcpu_count):
        other = vcpu_at(partition.vcpus[i])
        if page and size == _AP_4K:
            flush_radix_page(other, rb & _PAGE_MASK, np.uint64(12))
        elif page and size == _AP_64K:
            flush_radix_page(other, rb >> np.uint64(16) << np.uint64(16), np.uint64(16))
        else:
            _flush_changed(other, partition)


@cfunc(types.void(types.uint64), cache=True)
def tlb_flush_all_cpus_synced(cs: int) -> None:
    """Replacement: ptesync after tlbie; most of a radix guest's invalidations are done already."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    partition = partition_at(vcpu.partition)
    if partition.radix == 0 or vcpu.other_sets != 0:
        vcpu.other_sets = 0
        flush_all(partition)
