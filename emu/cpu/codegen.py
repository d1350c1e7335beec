"""Better generated code: finding the next block, and noticing requests to stop.

Unicorn's translator calls a C helper at the start of every block (is there a request to stop?)
and at every indirect branch (which block is next?); in branchy guest code the two take up to
half of the time.  Both are emitted here instead:

* the check is one load and one branch to the block's exit, as QEMU itself does it;
* the lookup calls :func:`lookup_block`, which has a larger and denser cache than Unicorn's: one
  entry is 32 bytes and answers with the code's address at once.

An entry counts while its generation is the vCPU's; whatever drops translations or translated
code starts a new generation (:func:`new_generation`).

``s`` is Unicorn's ``TCGContext``; temporaries are ``TCGTemp`` addresses, and a ``TCGv`` is a
temporary's distance from ``s``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import external as ext
from emu.cpu.layout import (
    CS_CLUSTER_INDEX,
    CS_ENV,
    CS_ICOUNT_DECR,
    CS_TB_JMP_CACHE,
    ENV_HFLAGS,
    ENV_LOAD_INFO,
    ENV_NIP,
    TB_CFLAGS,
    TB_CODE,
    TB_FLAGS,
    TB_JMP_CACHE_SIZE,
    TB_PC,
    TCG_CPU_ENV,
    TCG_EPILOGUE,
    TCG_OP_ARGS,
    TCG_OP_LINK,
    TCG_OPS_LAST,
    TCG_UC,
    UC_CPU,
    UC_TCG_CTX,
)
from emu.cpu.record import partition_at, vcpu_at
from emu.memory.native import load_u32, load_u64, store_u8, store_u32, store_u64

LOOKUP_ENTRIES = 1 << 14
LOOKUP_ENTRY = np.dtype(
    [("pc", "u8"), ("flags", "u4"), ("generation", "u4"), ("code", "u8"), ("unused", "u8")]
)
_ENTRY_SIZE = np.uint64(LOOKUP_ENTRY.itemsize)
_INDEX_MASK = np.uint64(LOOKUP_ENTRIES - 1)

# TCG opcodes, types, conditions and exit numbers (tcg-opc.h, tcg.h)
OP_SET_LABEL, OP_LD_I32, OP_GOTO_PTR = 1, 13, 132
_TYPE_I32, _TYPE_I64 = 0, 1
_COND_LT = 2
_EXIT_REQUESTED = 3
_CF_INVALID = np.uint32(0x40000)
_CF_HASH_MASK = np.uint32(0xFF0AFFFF)


@njit(cache=True)
def new_generation(vcpu):  # type: ignore[no-untyped-def]
    """Forget every cached lookup of a vCPU."""
    vcpu.generation += np.uint32(1)


@njit(cache=True)
def _vcpu_of(s):  # type: ignore[no-untyped-def]
    cs = load_u64(load_u64(s + np.uint64(TCG_UC)) + np.uint64(UC_CPU))
    return vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))


@njit(cache=True)
def _jump_cache_slot(cs, pc):  # type: ignore[no-untyped-def]
    """Where Unicorn's own cache of blocks keeps an address."""
    mixed = pc ^ (pc >> np.uint64(6))
    index = ((mixed >> np.uint64(6)) & np.uint64(0xFC0)) | (mixed & np.uint64(0x3F))
    return cs + np.uint64(CS_TB_JMP_CACHE) + index * np.uint64(8)


@njit(cache=True)
def _find_block(vcpu, pc, flags):  # type: ignore[no-untyped-def]
    """Address of the TranslationBlock for the CPU's state, 0 if it is not translated yet."""
    cluster = load_u32(vcpu.cs + np.uint64(CS_CLUSTER_INDEX)) << np.uint32(24)
    slot = _jump_cache_slot(vcpu.cs, pc)
    block = load_u64(slot)
    if (
        block != 0
        and load_u64(block + np.uint64(TB_PC)) == pc
        and load_u32(block + np.uint64(TB_FLAGS)) == flags
        and load_u32(block + np.uint64(TB_CFLAGS)) & (_CF_HASH_MASK | _CF_INVALID) == cluster
    ):
        return block
    block = ext.tb_htable_lookup(vcpu.cs, pc, np.uint64(0), flags, cluster)
    if block != 0:
        store_u64(slot, block)
    return block


@cfunc(types.uint64(types.uint64), cache=True)
def lookup_block(env: int) -> Any:
    """Code to run next: the block at NIP, or the epilogue that returns to the CPU loop.

    Called by generated code; may jump out of it with an instruction storage interrupt.
    """
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    pc = load_u64(env + np.uint64(ENV_NIP))
    flags = load_u32(env + np.uint64(ENV_HFLAGS))
    index = ((pc >> np.uint64(2)) ^ (pc >> np.uint64(16))) & _INDEX_MASK
    entry = vcpu.lookup_table + index * _ENTRY_SIZE
    if (
        load_u64(entry) == pc
        and load_u32(entry + np.uint64(8)) == flags
        and load_u32(entry + np.uint64(12)) == vcpu.generation
    ):
        return load_u64(entry + np.uint64(16))
    block = _find_block(vcpu, pc, flags)
    if block == 0:
        return load_u64(load_u64(vcpu.uc + np.uint64(UC_TCG_CTX)) + np.uint64(TCG_EPILOGUE))
    code = load_u64(block + np.uint64(TB_CODE))
    store_u64(entry, pc)
    store_u32(entry + np.uint64(8), np.uint64(flags))
    store_u32(entry + np.uint64(12), np.uint64(vcpu.generation))
    store_u64(entry + np.uint64(16), code)
    return code


@cfunc(types.void(types.uint64), cache=True)
def tcg_gen_lookup_and_goto_ptr(s: int) -> None:
    """Replacement: as Unicorn's, with the helper's address exchanged for our function's."""
    vcpu = _vcpu_of(s)
    pointer = ext.tcg_temp_new_internal(s, np.int32(_TYPE_I64), np.uint8(0))
    arguments = np.empty(1, np.uint64)
    arguments[0] = s + load_u64(s + np.uint64(TCG_CPU_ENV))
    ext.tcg_gen_callN(s, vcpu.lookup_helper, pointer, np.int32(1), np.uint64(arguments.ctypes.data))
    # The call is the last operation; its arguments are the result, the input, the function.
    operation = load_u64(s + np.uint64(TCG_OPS_LAST)) - np.uint64(TCG_OP_LINK)
    function = operation + np.uint64(TCG_OP_ARGS + 2 * 8)
    if load_u64(function) == vcpu.lookup_helper:
        store_u64(function, vcpu.lookup_block)
    ext.tcg_gen_op1(s, np.int32(OP_GOTO_PTR), pointer)
    ext.tcg_temp_free_internal(s, pointer)


@njit(cache=True)
def _emit_exit_check(s, vcpu):  # type: ignore[no-untyped-def]
    """Branch to the block's end when the CPU's exit counter is negative."""
    env = s + load_u64(s + np.uint64(TCG_CPU_ENV))
    counter = ext.tcg_temp_new_internal(s, np.int32(_TYPE_I32), np.uint8(0))
    offset = np.uint64(np.int64(CS_ICOUNT_DECR - CS_ENV))
    ext.tcg_gen_op3(s, np.int32(OP_LD_I32), counter, env, offset)
    vcpu.exit_label = ext.gen_new_label(s)
    ext.tcg_gen_brcondi_i32(s, np.int32(_COND_LT), counter - s, np.int32(0), vcpu.exit_label)
    ext.tcg_temp_free_internal(s, counter)


@cfunc(types.void(types.uint64, types.uint64, types.uint64, types.int32, types.uint64), cache=True)
def tcg_gen_callN(s: int, function: int, result: int, count: int, arguments: int) -> None:
    """Replacement: a block's check for requests becomes inline code, other calls stay."""
    vcpu = _vcpu_of(s)
    if function == vcpu.check_helper:
        _emit_exit_check(s, vcpu)
    else:
        ext.tcg_gen_callN(s, function, result, count, arguments)


@cfunc(types.void(types.uint64, types.uint64, types.uint32), cache=True)
def tcg_gen_exit_tb(s: int, block: int, number: int) -> None:
    """Replacement: the exit at a block's end is where its check branches to."""
    vcpu = _vcpu_of(s)
    if number == np.uint32(_EXIT_REQUESTED) and vcpu.exit_label != 0:
        store_u8(vcpu.exit_label, np.uint64(1))  # TCGLabel.present
        ext.tcg_gen_op1(s, np.int32(OP_SET_LABEL), vcpu.exit_label)
        vcpu.exit_label = 0
    ext.tcg_gen_exit_tb(s, block, number)


@cfunc(types.void(types.uint64), cache=True)
def tb_flush(cs: int) -> None:
    """Replacement: the code buffer is full and starts again, for every vCPU."""
    address = load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO))
    if address != 0:
        partition = partition_at(vcpu_at(address).partition)
        for i in range(partition.vcpu_count):
            vcpu = vcpu_at(partition.vcpus[i])
            new_generation(vcpu)
            for offset in range(0, TB_JMP_CACHE_SIZE, 8):
                store_u64(vcpu.cs + np.uint64(CS_TB_JMP_CACHE + offset), np.uint64(0))
    ext.tb_flush(cs)
