"""Checking that a Unicorn instance has the layout that :mod:`emu.cpu.layout` states.

Each probe changes something through Unicorn's public interface or an exported function and
looks for the effect at the stated place.  Memory is read through ``/proc/self/mem``, so that a
wrong guess is an error, not a fault.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import unicorn.ppc_const as ppc
import unicorn.unicorn_py3.unicorn as binding

from emu.cpu import layout
from emu.cpu.errors import UnicornError
from emu.cpu.isa import Spr

_UNICORN_PVR = 0x00800100
_SENTINEL = 0x5EED_0000_C0DE_0000


class _Memory:
    """This process's memory; reading an unmapped address gives OSError."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address < 1 << 63:
            raise OSError
        data = os.pread(self._descriptor, size, address)
        if len(data) != size:
            raise OSError
        return data

    def u64(self, address: int) -> int:
        return int(struct.unpack("=Q", self.read(address, 8))[0])

    def u32(self, address: int) -> int:
        return int(struct.unpack("=I", self.read(address, 4))[0])

    def close(self) -> None:
        os.close(self._descriptor)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnicornError(
            f"Unicorn {binding.__dict__.get('__version__', '')} has an unknown layout ({what}); "
            "ppc64emu needs the unicorn 2.1.4 package"
        )


def check_layout(uc: Any) -> tuple[int, int, int]:
    """Verify the layout on a fresh instance and return (uc_struct, CPUState, CPUPPCState).

    Raises :class:`UnicornError` naming the probe that disagreed.
    """
    memory = _Memory()
    try:
        return _check(uc, memory)
    except OSError:
        _require(False, "pointer probe")
        raise
    finally:
        memory.close()


def _check(uc: Any, memory: _Memory) -> tuple[int, int, int]:
    handle = int(uc._uch.value)
    cs = memory.u64(handle + layout.UC_CPU)
    env = memory.u64(cs + layout.CS_ENV_PTR)
    _require(env == cs + layout.CS_ENV, "CPUPPCState inside PowerPCCPU")
    _check_registers(uc, memory, env)
    _check_status(uc, memory, env)
    _check_sprs(memory, env)
    _require(memory.u64(cs + layout.CS_UC) == handle, "CPUState.uc")
    _require(memory.u64(cs + layout.CS_CLASS) == cs + layout.CPU_CLASS, "CPU class copy")
    _require(memory.u64(env + layout.ENV_UC) == handle, "CPUPPCState.uc")
    pages = memory.u32(handle + layout.UC_V_L1_SIZE)
    _require(pages in {1 << n for n in range(4, 15)}, "v_l1_size")
    _require(not any(memory.read(memory.u64(handle + layout.UC_L1_MAP), 8 * pages)), "l1_map")
    context = memory.u64(handle + layout.UC_TCG_CTX)
    _require(memory.u64(context + layout.TCG_UC) == handle, "TCGContext.uc")
    mapping = memory.u64(handle + layout.UC_MEMORY_MAPPING)
    _require(mapping == symbol_address("find_memory_mapping_ppc64"), "memory_mapping")
    _check_pending(memory, cs, env)
    _check_class(memory, cs)
    icount = memory.u64(cs + layout.CS_ICOUNT_DECR_PTR)
    _require(cs < icount < env, "icount_decr")
    breakpoints = cs + layout.CS_BREAKPOINTS  # an empty list refers to itself
    _require(memory.u64(breakpoints) == 0, "breakpoints")
    _require(memory.u64(breakpoints + 8) == breakpoints, "breakpoints")
    opcodes = struct.unpack("=64Q", memory.read(cs + layout.CPU_OPCODES, 512))
    _require(len({opcodes[n] for n in (0, 1, 5, 6)}) == 1, "unused opcodes")
    _require(all(opcodes[n] & 3 == 1 for n in (4, 19, 31, 59, 63)), "opcode tables")
    mask = memory.u64(cs + layout.CS_TLB + layout.TLB_FAST)
    _require(mask & 0x3F == 0 and (mask >> 6) + 1 in {1 << n for n in range(4, 23)}, "TLB")
    return handle, cs, env


def _check_registers(uc: Any, memory: _Memory, env: int) -> None:
    for number in range(32):
        uc.reg_write(ppc.UC_PPC_REG_0 + number, _SENTINEL + number)
    values = struct.unpack("=32Q", memory.read(env + layout.ENV_GPR, 256))
    _require(values == tuple(_SENTINEL + n for n in range(32)), "GPR")
    uc.reg_write(ppc.UC_PPC_REG_LR, _SENTINEL + 1)
    uc.reg_write(ppc.UC_PPC_REG_CTR, _SENTINEL + 2)
    uc.reg_write(ppc.UC_PPC_REG_PC, _SENTINEL + 4)
    uc.reg_write(ppc.UC_PPC_REG_FPR0, _SENTINEL + 5)
    _require(memory.u64(env + layout.ENV_LR) == _SENTINEL + 1, "LR")
    _require(memory.u64(env + layout.ENV_CTR) == _SENTINEL + 2, "CTR")
    _require(memory.u64(env + layout.ENV_NIP) == _SENTINEL + 4, "NIP")
    _require(memory.u64(env + layout.ENV_VSR + 8) == _SENTINEL + 5, "VSR")
    _require(memory.u64(env + layout.ENV_MSR) == uc.reg_read(ppc.UC_PPC_REG_MSR), "MSR")
    for number in range(32):
        uc.reg_write(ppc.UC_PPC_REG_0 + number, 0)
    for register in (ppc.UC_PPC_REG_LR, ppc.UC_PPC_REG_CTR, ppc.UC_PPC_REG_PC, ppc.UC_PPC_REG_FPR0):
        uc.reg_write(register, 0)


def _check_status(uc: Any, memory: _Memory, env: int) -> None:
    uc.reg_write(ppc.UC_PPC_REG_CR, 0x12345678)
    uc.reg_write(ppc.UC_PPC_REG_XER, 0x7F)
    uc.reg_write(ppc.UC_PPC_REG_FPSCR, 0x3)
    fields = struct.unpack("=8I", memory.read(env + layout.ENV_CRF, 32))
    _require(fields == tuple(range(1, 9)), "CR")
    _require(memory.u64(env + layout.ENV_XER) == 0x7F, "XER")
    _require(memory.u64(env + layout.ENV_FPSCR) == 0x3, "FPSCR")
    for register in (ppc.UC_PPC_REG_CR, ppc.UC_PPC_REG_XER, ppc.UC_PPC_REG_FPSCR):
        uc.reg_write(register, 0)


def _check_sprs(memory: _Memory, env: int) -> None:
    """Unicorn's own PVR (POWER10 1.0), its initial value and its name."""
    pvr = env + layout.ENV_SPR_CB + layout.ENV_SPR_CB_SIZE * Spr.PVR
    _require(memory.u64(env + layout.ENV_SPR + 8 * Spr.PVR) == _UNICORN_PVR, "SPR")
    _require(memory.u64(pvr + layout.SPR_CB_DEFAULT) == _UNICORN_PVR, "SPR callbacks")
    name = memory.u64(pvr + layout.SPR_CB_NAME)
    _require(memory.read(name, 4) == b"PVR\0", "SPR names")


def _check_pending(memory: _Memory, cs: int, env: int) -> None:
    set_irq = binding.uclib.ppc_set_irq_ppc64
    for level, expected in ((1, 1 << 5), (0, 0)):
        set_irq(_pointer(cs), 5, level)
        found = memory.u32(env + layout.ENV_PENDING_INTERRUPTS)
        _require(found == expected, "pending_interrupts")


def _check_class(memory: _Memory, cs: int) -> None:
    exports = {
        layout.CLASS_DO_UNALIGNED_ACCESS: "ppc_cpu_do_unaligned_access_ppc64",
        layout.CLASS_CPU_EXEC_INTERRUPT: "ppc_cpu_exec_interrupt_ppc64",
        layout.CLASS_HANDLE_MMU_FAULT: "ppc64_v3_handle_mmu_fault",
    }
    for offset, name in exports.items():
        found = memory.u64(cs + layout.CPU_CLASS + offset)
        _require(found == symbol_address(name), f"class function {name}")


def symbol_address(name: str) -> int:
    """Address of a function that the Unicorn library exports."""
    import ctypes

    try:
        function = getattr(binding.uclib, name)
    except AttributeError:
        raise UnicornError(f"the Unicorn library does not export {name}") from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _pointer(address: int) -> Any:
    import ctypes

    return ctypes.c_void_p(address)
