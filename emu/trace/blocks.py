"""Traces of blocks: ``in_asm``, ``exec`` and ``cpu``.

Blocks are traced when they are translated, and by a call that their translated code starts with.
The call exists only in blocks that were translated while ``exec`` or ``cpu`` was on and that
``-dfilter`` lets through.

The variants here serve the whole process, as Unicorn calls the functions through its linkage
table; they pass over vCPUs that are not traced (``Vcpu.trace`` is 0).
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit, types

from emu.cpu import codegen
from emu.cpu import external as ext
from emu.cpu.isa import MSR_IR, MSR_PR
from emu.cpu.layout import (
    CS_ENV,
    ENV_CRF,
    ENV_CTR,
    ENV_GPR,
    ENV_LOAD_INFO,
    ENV_LR,
    ENV_MSR,
    ENV_XER,
    TB_FLAGS,
    TB_PC,
    TB_SIZE,
    TCG_CPU_ENV,
    TCG_OP_ARGS,
    TCG_OP_LINK,
    TCG_OPS_LAST,
    TCG_UC,
    UC_CPU,
)
from emu.cpu.mmu import translate
from emu.cpu.mmu_hash import OK
from emu.cpu.record import partition_at, vcpu_at
from emu.cpu.tlb import PAGE_EXEC
from emu.memory.native import load_u16, load_u32, load_u64, store_u64
from emu.trace.record import CPU_WORDS, LITTLE_ENDIAN, Item, Kind, trace_at
from emu.trace.ring import begin_record, end_record, get_word, put_word, ring_at

_LE = np.uint32(1)  # MSR[LE] in a block's flags
_PAGE = np.uint64(4096)
_WORD, _EIGHT = np.uint64(4), np.uint64(8)
_IN_ASM, _EXEC, _CPU = np.uint32(Item.IN_ASM), np.uint32(Item.EXEC), np.uint32(Item.CPU)
_BLOCK_ITEMS = np.uint32(Item.EXEC | Item.CPU)

_plain_call = njit(codegen.tcg_gen_callN.__wrapped__)


@njit(cache=True)
def in_ranges(trace, address):  # type: ignore[no-untyped-def]
    """Whether ``-dfilter`` lets an effective address through."""
    for i in range(trace.range_count):
        if trace.range_first[i] <= address and address <= trace.range_last[i]:
            return True
    return trace.range_count == 0


@njit(cache=True)
def _code_address(vcpu, partition, address):  # type: ignore[no-untyped-def]
    """Host address of code that was fetched just now, 0 if that cannot be told."""
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
    if fault != OK or real + _WORD > partition.ram_size:
        return np.uint64(0)
    return partition.ram + real


@njit(cache=True)
def _record_block(vcpu, trace, block):  # type: ignore[no-untyped-def]
    """The bytes of a block, as they were when it was translated."""
    start = load_u64(block + np.uint64(TB_PC))
    size = np.uint64(load_u16(block + np.uint64(TB_SIZE)))
    little = load_u32(block + np.uint64(TB_FLAGS)) & _LE
    length = np.uint64(2) + (size + np.uint64(7)) // _EIGHT
    ring = ring_at(trace.ring)
    extra = size | (np.uint64(LITTLE_ENDIAN) if little else np.uint64(0))
    if not begin_record(ring, Kind.BLOCK, trace.index, length, extra):
        return
    put_word(ring, 1, start)
    partition = partition_at(vcpu.partition)
    host = np.uint64(0)
    offset = np.uint64(0)
    while offset < size:
        address = start + offset
        if offset == 0 or address % _PAGE == 0:
            host = _code_address(vcpu, partition, address)
        else:
            host += _WORD
        if offset % _EIGHT == 0:
            put_word(ring, np.uint64(2) + offset // _EIGHT, np.uint64(0))
        if host == 0:
            break
        word = np.uint64(load_u32(host))
        position = np.uint64(2) + offset // _EIGHT
        put_word(ring, position, get_word(ring, position) | word << (offset % _EIGHT * _EIGHT))
        offset += _WORD
    while offset < size:  # unreadable: zeros
        put_word(ring, np.uint64(2) + offset // _EIGHT, np.uint64(0))
        offset += _EIGHT
    end_record(ring, length)


@cfunc(types.void(types.uint64, types.uint64, types.int32), cache=True)
def gen_intermediate_code(cs: int, block: int, max_insns: int) -> None:
    """Replacement while ``in_asm``, ``exec`` or ``cpu`` is on: a block is translated."""
    address = load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO))
    if address == 0 or vcpu_at(address).trace == 0:
        ext.gen_intermediate_code(cs, block, max_insns)
        return
    vcpu = vcpu_at(address)
    trace = trace_at(vcpu.trace)
    trace.block = block
    ext.gen_intermediate_code(cs, block, max_insns)
    trace.block = 0
    if trace.items & _IN_ASM and in_ranges(trace, load_u64(block + np.uint64(TB_PC))):
        _record_block(vcpu, trace, block)


@njit(cache=True)
def _emit_block_call(s, trace):  # type: ignore[no-untyped-def]
    """Make the block call :func:`trace_block` with its address.

    The translator knows its own helpers only: the call is made for one with the same arguments,
    and its function is exchanged afterwards.
    """
    address = load_u64(trace.block + np.uint64(TB_PC))
    constant = s + ext.tcg_const_i64(s, np.int64(address))
    arguments = np.empty(2, np.uint64)
    arguments[0] = s + load_u64(s + np.uint64(TCG_CPU_ENV))
    arguments[1] = constant
    ext.tcg_gen_callN(
        s, trace.block_helper, np.uint64(0), np.int32(2), np.uint64(arguments.ctypes.data)
    )
    operation = load_u64(s + np.uint64(TCG_OPS_LAST)) - np.uint64(TCG_OP_LINK)
    function = operation + np.uint64(TCG_OP_ARGS + 2 * 8)
    if load_u64(function) == trace.block_helper:
        store_u64(function, trace.block_call)
    ext.tcg_temp_free_internal(s, constant)


@cfunc(types.void(types.uint64, types.uint64, types.uint64, types.int32, types.uint64), cache=True)
def tcg_gen_callN(s: int, function: int, result: int, count: int, arguments: int) -> None:
    """Replacement while ``exec`` or ``cpu`` is on: a block's first call is its exit check."""
    _plain_call(s, function, result, count, arguments)
    cs = load_u64(load_u64(s + np.uint64(TCG_UC)) + np.uint64(UC_CPU))
    address = load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO))
    if address == 0:
        return
    vcpu = vcpu_at(address)
    if vcpu.trace == 0 or function != vcpu.check_helper:
        return
    trace = trace_at(vcpu.trace)
    if (
        trace.block != 0
        and trace.items & _BLOCK_ITEMS
        and in_ranges(trace, load_u64(trace.block + np.uint64(TB_PC)))
    ):
        _emit_block_call(s, trace)


@njit(cache=True)
def _record_registers(vcpu, trace, address):  # type: ignore[no-untyped-def]
    ring, env = ring_at(trace.ring), vcpu.env
    if not begin_record(ring, Kind.CPU, trace.index, CPU_WORDS, 0):
        return
    put_word(ring, 1, address)
    put_word(ring, 2, load_u64(env + np.uint64(ENV_MSR)))
    put_word(ring, 3, load_u64(env + np.uint64(ENV_LR)))
    put_word(ring, 4, load_u64(env + np.uint64(ENV_CTR)))
    put_word(ring, 5, load_u64(env + np.uint64(ENV_XER)))
    fields = np.uint64(0)
    for i in range(8):
        field = load_u32(env + np.uint64(ENV_CRF + 4 * i)) & np.uint32(15)
        fields = fields << np.uint64(4) | np.uint64(field)
    put_word(ring, 6, fields)
    for i in range(32):
        put_word(ring, 7 + i, load_u64(env + np.uint64(ENV_GPR + 8 * i)))
    end_record(ring, CPU_WORDS)


@cfunc(types.void(types.uint64, types.uint64), cache=True)
def trace_block(env: int, address: int) -> None:
    """Called by translated code at the start of a traced block."""
    vcpu = vcpu_at(load_u64(env + np.uint64(ENV_LOAD_INFO)))
    if vcpu.trace == 0:
        return
    trace = trace_at(vcpu.trace)
    if trace.items & _EXEC:
        ring = ring_at(trace.ring)
        if begin_record(ring, Kind.EXEC, trace.index, 2, 0):
            put_word(ring, 1, address)
            end_record(ring, 2)
    if trace.items & _CPU:
        _record_registers(vcpu, trace, address)
