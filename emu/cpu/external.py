"""Functions of Unicorn and libc that Numba code calls by symbol name.

Loading the library permanently makes its symbols visible to LLVM's linker, so compiled code
that calls them can be cached on disk and reused by another process.
"""

from __future__ import annotations

from pathlib import Path

import llvmlite.binding as llvm
import unicorn.unicorn_py3.unicorn as _binding
from numba import types

UNICORN_LIBRARY = Path(_binding.uclib._name)

llvm.load_library_permanently(str(UNICORN_LIBRARY))


def _function(name: str, result: types.Type, *args: types.Type) -> types.ExternalFunction:
    return types.ExternalFunction(name, result(*args))


_u64, _i64, _i32, _void = types.uint64, types.int64, types.int32, types.void

uc_emu_stop = _function("uc_emu_stop", _i32, _u64)
tlb_set_page = _function("tlb_set_page_ppc64", _void, _u64, _u64, _u64, _i32, _i32, _u64)
tlb_flush = _function("tlb_flush_ppc64", _void, _u64)
tlb_flush_page = _function("tlb_flush_page_ppc64", _void, _u64, _u64)
tlb_flush_by_mmuidx = _function("tlb_flush_by_mmuidx_ppc64", _void, _u64, types.uint16)
tb_flush_jmp_cache = _function("tb_flush_jmp_cache_ppc64", _void, _u64, _u64)
tlb_reset_dirty = _function("tlb_reset_dirty_ppc64", _void, _u64, _u64, _u64)
tb_invalidate_phys_range = _function("tb_invalidate_phys_range_ppc64", _void, _u64, _u64, _u64)
ppc_cpu_do_interrupt = _function("ppc_cpu_do_interrupt_ppc64", _void, _u64)
tb_htable_lookup = _function(
    "tb_htable_lookup_ppc64", _u64, _u64, _u64, _u64, types.uint32, types.uint32
)
tb_flush = _function("tb_flush_ppc64", _void, _u64)
tb_phys_invalidate = _function("tb_phys_invalidate_ppc64", _void, _u64, _u64, _u64)
gen_intermediate_code = _function("gen_intermediate_code_ppc64", _void, _u64, _u64, _i32)
tcg_const_i64 = _function("tcg_const_i64_ppc64", _u64, _u64, _i64)
tcg_gen_callN = _function("tcg_gen_callN_ppc64", _void, _u64, _u64, _u64, _i32, _u64)
tcg_gen_exit_tb = _function("tcg_gen_exit_tb_ppc64", _void, _u64, _u64, types.uint32)
tcg_gen_op1 = _function("tcg_gen_op1_ppc64", _void, _u64, _i32, _u64)
tcg_gen_op3 = _function("tcg_gen_op3_ppc64", _void, _u64, _i32, _u64, _u64, _u64)
tcg_gen_brcondi_i32 = _function("tcg_gen_brcondi_i32_ppc64", _void, _u64, _i32, _u64, _i32, _u64)
tcg_temp_new_internal = _function("tcg_temp_new_internal_ppc64", _u64, _u64, _i32, types.uint8)
tcg_temp_free_internal = _function("tcg_temp_free_internal_ppc64", _void, _u64, _u64)
gen_new_label = _function("gen_new_label_ppc64", _u64, _u64)
cpu_loop_exit = _function("cpu_loop_exit_ppc64", _void, _u64)
cpu_loop_exit_restore = _function("cpu_loop_exit_restore_ppc64", _void, _u64, _u64)
ppc_cpu_do_unaligned_access = _function(
    "ppc_cpu_do_unaligned_access_ppc64", _void, _u64, _u64, _i32, _i32, _u64
)
ppc_set_irq = _function("ppc_set_irq_ppc64", _void, _u64, _i32, _i32)
hreg_store_msr = _function("helper_store_msr_ppc64", _void, _u64, _u64)

clock_gettime = _function("clock_gettime", _i32, _i32, _u64)
ppoll = _function("ppoll", _i32, _u64, _u64, _u64, _u64)
libc_read = _function("read", _i64, _i32, _u64, _u64)
libc_write = _function("write", _i64, _i32, _u64, _u64)
