"""Raw memory access and native calls for Numba code.

Every function here works on *host addresses* held as integers (``uint64``); the caller
guarantees that the address is valid.  Nothing checks bounds: guest addresses become host
addresses in exactly two places, :mod:`emu.memory.ram` and :mod:`emu.cpu.mmu`.

``_be`` accessors read and write big-endian values on a little-endian host; the plain ones use
the host's order.  All may be called from any thread; none needs the GIL.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if sys.byteorder != "little":
    raise ImportError("ppc64emu needs a little-endian host")

_U64 = ir.IntType(64)


def _make_load(bits: int, swap: bool) -> Any:
    def load(typingctx: Any, address: Any) -> Any:
        result = getattr(types, f"uint{max(bits, 8)}")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            value = builder.load(pointer, align=1)
            return builder.bswap(value) if swap else value

        return result(types.uint64), codegen

    load.__name__ = f"load_u{bits}{'_be' if swap else ''}"
    return intrinsic(load)


def _make_store(bits: int, swap: bool) -> Any:
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            narrow = builder.trunc(args[1], ir.IntType(bits)) if bits < 64 else args[1]
            builder.store(builder.bswap(narrow) if swap else narrow, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), codegen

    store.__name__ = f"store_u{bits}{'_be' if swap else ''}"
    return intrinsic(store)


load_u8 = _make_load(8, False)
load_u16 = _make_load(16, False)
load_u32 = _make_load(32, False)
load_u64 = _make_load(64, False)
load_u16_be = _make_load(16, True)
load_u32_be = _make_load(32, True)
load_u64_be = _make_load(64, True)
store_u8 = _make_store(8, False)
store_u16 = _make_store(16, False)
store_u32 = _make_store(32, False)
store_u64 = _make_store(64, False)
store_u16_be = _make_store(16, True)
store_u32_be = _make_store(32, True)
store_u64_be = _make_store(64, True)


@intrinsic
def fence(typingctx: Any) -> Any:
    """Full memory barrier (sequentially consistent)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_1(typingctx: Any, function: Any, a: Any) -> Any:
    """Call the native ``uint64 function(uint64)`` at an address."""
    return _native_call(1)


@intrinsic
def call_2(typingctx: Any, function: Any, a: Any, b: Any) -> Any:
    """Call the native ``uint64 function(uint64, uint64)`` at an address."""
    return _native_call(2)


@intrinsic
def call_3(typingctx: Any, function: Any, a: Any, b: Any, c: Any) -> Any:
    """Call the native ``uint64 function(uint64, uint64, uint64)`` at an address."""
    return _native_call(3)


@intrinsic
def call_4(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Call the native ``uint64 function(uint64, uint64, uint64, uint64)`` at an address."""
    return _native_call(4)


def _native_call(arity: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_type = ir.FunctionType(_U64, [_U64] * arity)
        function = builder.inttoptr(args[0], function_type.as_pointer())
        return builder.call(function, list(args[1:]))

    return types.uint64(*[types.uint64] * (arity + 1)), codegen


def record_pointer(dtype: np.dtype[Any]) -> Any:
    """Make the Numba function ``address -> record`` for one structure layout.

    The record is a view: reading and writing its fields goes to memory.  The address must
    stay valid while it is used.
    """
    from numba import from_dtype

    record_type = from_dtype(dtype)

    def view(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            target = context.get_value_type(record_type)
            return builder.inttoptr(args[0], target)

        return record_type(types.uint64), codegen

    return intrinsic(view)


@intrinsic
def mul_high_u64(typingctx: Any, a: Any, b: Any) -> Any:
    """Upper 64 bits of the 128-bit product."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), _U64)

    return types.uint64(types.uint64, types.uint64), codegen


__all__ = [name for name in dir() if not name.startswith("_")]
_ = cgutils
