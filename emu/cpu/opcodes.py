"""Unicorn's opcode tables: which instructions a CPU has.

A table entry points to a handler or, with bit 0 set, to a table for the next field of the
instruction.
"""

from __future__ import annotations

import ctypes

from emu.cpu.layout import CPU_OPCODES

# Primary opcode, bits 26 to 30 and, where the table goes on, bits 21 to 25
_DECIMAL = ((59, 2), (59, 3), (63, 2), (63, 3))
_MSGSNDP = (31, 14, 4)
_INVALID_OPCODE = 0
_INDIRECT = 1


def remove_unsafe(cs: int) -> None:
    """Make illegal what would corrupt this process.  Before the first translation.

    The library's decimal floating point helpers (``dfp_helper.c``) exist once, compiled for the
    32-bit ``CPUPPCState``: for a 64-bit CPU they take something else for the FPSCR and overwrite
    the callbacks of SPR 943, so that a later ``mfspr`` jumps to an address the guest chose.
    ``msgsndp`` sets a bit of r3 instead of an interrupt request, and its interrupt aborts the
    process; :mod:`emu.cpu.doorbell` emulates it.
    """
    invalid = _word(cs + CPU_OPCODES + 8 * _INVALID_OPCODE).value
    for primary, *fields in (*_DECIMAL, _MSGSNDP):
        entry = _word(cs + CPU_OPCODES + 8 * primary)
        for field in fields:
            entry = _word((entry.value & ~_INDIRECT) + 8 * field)
        entry.value = invalid


def _word(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)
