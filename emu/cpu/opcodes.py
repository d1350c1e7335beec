"""Unicorn's opcode tables: which instructions a CPU has.

A table entry points to a handler or, with bit 0 set, to a table for the next field of the
instruction.
"""

from __future__ import annotations

import ctypes

from emu.cpu.layout import CPU_OPCODES

_DECIMAL = ((59, 2), (59, 3), (63, 2), (63, 3))  # primary opcode, bits 26 to 30
_INVALID_OPCODE = 0
_INDIRECT = 1


def remove_decimal(cs: int) -> None:
    """Make decimal floating point an illegal instruction.  Before the first translation.

    The library's decimal helpers (``dfp_helper.c``) exist once, compiled for the 32-bit
    ``CPUPPCState``: for a 64-bit CPU they take something else for the FPSCR and overwrite the
    callbacks of SPR 943, so that a later ``mfspr`` jumps to an address the guest chose.
    """
    invalid = _word(cs + CPU_OPCODES + 8 * _INVALID_OPCODE).value
    for primary, secondary in _DECIMAL:
        table = _word(cs + CPU_OPCODES + 8 * primary).value & ~_INDIRECT
        _word(table + 8 * secondary).value = invalid


def _word(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)
