"""One guest CPU: a Unicorn instance dressed as POWER8 or POWER9."""

from __future__ import annotations

import ctypes
import os
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import unicorn
import unicorn.ppc_const as ppc
import unicorn.unicorn_py3.unicorn as binding

from emu.cpu import clock, codegen, exceptions, layout, mmu, opcodes, tlb, tlbie
from emu.cpu.binding import JumpSlots
from emu.cpu.errors import UnicornError
from emu.cpu.external import UNICORN_LIBRARY
from emu.cpu.isa import (
    LPCR_GTSE,
    LPCR_LPES0,
    MSR_LE,
    MSR_ME,
    MSR_SF,
    PVR_BY_MODEL,
    TIMEBASE_FREQUENCY,
    Spr,
)
from emu.cpu.kick import break_run_at
from emu.cpu.partition import Partition
from emu.cpu.probe import check_layout, symbol_address
from emu.cpu.record import VCPU_DTYPE, ExitReason, Kick
from emu.cpu.turns import own_code
from emu.memory.bus import MmioWindow
from emu.memory.endian import GuestEndian

# Bits a guest may set in MSR; HV, POW and transactional memory are not among them
_MSR_MASK_CLEAR = (1 << 60) | (1 << 18) | (7 << 32)
_TCG_BUFFER = 256 << 20
_UNUSED_TCG_BUFFER = 1 << 20
_HFSCR = 190

_uclib: Any = binding.uclib
_MMIO_READ = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p
)
_MMIO_WRITE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
)
_bound = False


def _bind_library() -> None:
    """Replace Unicorn's functions, once per process and before the first translation."""
    global _bound
    if _bound:
        return
    slots = JumpSlots(UNICORN_LIBRARY)
    slots.bind("check_exit_request_ppc64", tlb.check_exit_request.address)
    slots.bind("tb_invalidate_phys_page_fast_ppc64", tlb.tb_invalidate_phys_page_fast.address)
    slots.bind("tlb_protect_code_ppc64", tlb.tlb_protect_code.address)
    slots.bind("tlb_reset_dirty_by_vaddr_ppc64", tlb.tlb_reset_dirty_by_vaddr.address)
    slots.bind("tcg_gen_lookup_and_goto_ptr_ppc64", codegen.tcg_gen_lookup_and_goto_ptr.address)
    slots.bind("tcg_gen_callN_ppc64", codegen.tcg_gen_callN.address)
    slots.bind("tcg_gen_exit_tb_ppc64", codegen.tcg_gen_exit_tb.address)
    slots.bind("tb_flush_ppc64", codegen.tb_flush.address)
    slots.bind("raise_exception_err_ra_ppc64", exceptions.raise_exception_err_ra.address)
    slots.bind("tlb_flush_ppc64", tlb.tlb_flush.address)
    slots.bind("tlb_flush_all_cpus_synced_ppc64", tlbie.tlb_flush_all_cpus_synced.address)
    slots.bind("ppc_tlb_invalidate_one_ppc64", tlbie.ppc_tlb_invalidate_one.address)
    slots.bind("cpu_ppc_load_purr_ppc64", clock.read_timebase.address)
    slots.bind("cpu_ppc_load_vtb_ppc64", clock.read_timebase.address)
    slots.bind("cpu_ppc_load_hdecr_ppc64", clock.read_decrementer.address)
    slots.bind("cpu_ppc_store_hdecr_ppc64", clock.write_decrementer.address)
    _bound = True


def _code_of(handle: int) -> tuple[int, int]:
    """Where an instance's translator keeps its context, and which pages hold code."""
    context = ctypes.c_uint64.from_address(int(handle) + layout.UC_TCG_CTX)
    return context.value, ctypes.c_uint64.from_address(int(handle) + layout.UC_L1_MAP).value


def _take_code(handle: int, context: int, pages: int) -> None:
    """Make an instance use a translator's context, its own or another's.

    Nothing in translated code depends on the instance, so the vCPUs of a guest share the first
    one's; it belongs to the vCPU that runs (:func:`emu.cpu.turns.own_code`).
    """
    ctypes.c_uint64.from_address(handle + layout.UC_TCG_CTX).value = context
    ctypes.c_uint64.from_address(handle + layout.UC_L1_MAP).value = pages
    ctypes.c_uint64.from_address(context + layout.TCG_UC).value = handle


class Vcpu:
    """A vCPU of a partition.

    The thread that calls :meth:`run` owns it; other threads may only call :meth:`kick`.
    ``model`` is ``"power8"`` or ``"power9"``.  Raises :class:`UnicornError` on an unknown
    Unicorn build.
    """

    def __init__(self, partition: Partition, index: int, model: str) -> None:
        self.partition = partition
        self.index = index
        self.model = model
        self._callbacks: list[Any] = []
        self._failure: BaseException | None = None
        #: Told of ``ExitReason.DEBUG``, on the vCPU thread, before :meth:`run` returns.
        self.on_debug: Callable[[Vcpu], None] | None = None
        self._array = np.zeros(1, VCPU_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data
        self._lookup_table = np.zeros(codegen.LOOKUP_ENTRIES, codegen.LOOKUP_ENTRY)
        self.uc = unicorn.Uc(
            unicorn.UC_ARCH_PPC, unicorn.UC_MODE_PPC64 | unicorn.UC_MODE_BIG_ENDIAN
        )
        first = not partition.vcpus
        self.uc.ctl_set_tcg_buffer_size(_TCG_BUFFER if first else _UNUSED_TCG_BUFFER)
        # Unicorn calls our functions while it closes, whenever that is.
        self.uc.__dict__["_kept"] = (self._array, self._lookup_table, partition)
        self._map_ram()
        handle, cs, env = check_layout(self.uc)
        self._handle, self._cs, self._env = handle, cs, env
        self._give_back_code = weakref.finalize(self.uc, _take_code, handle, *_code_of(handle))
        if not first:
            _take_code(handle, *_code_of(partition.vcpus[0].record["uc"]))
        self._fill_record()
        _bind_library()
        self._dress()
        for window in partition.bus.windows:
            self.map_mmio(window)
        partition.add_vcpu(self)

    def _map_ram(self) -> None:
        ram = self.partition.ram
        self.uc.mem_map_ptr(0, ram.size, unicorn.UC_PROT_ALL, ctypes.c_void_p(ram.address))
        self.uc.ctl_exits_enabled(True)

    def _fill_record(self) -> None:
        record = self.record
        record["uc"], record["cs"], record["env"] = self._handle, self._cs, self._env
        record["partition"] = self.partition.address
        record["index"] = self.index
        record["pvr"] = PVR_BY_MODEL[self.model]
        record["lookup_table"] = self._lookup_table.ctypes.data
        record["lookup_block"] = codegen.lookup_block.address
        record["lookup_helper"] = symbol_address("helper_lookup_tb_ptr_ppc64")
        record["check_helper"] = symbol_address("helper_check_exit_request_ppc64")
        record["generation"] = 1
        record["wake_fd"] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        record["ticker_fd"] = self.partition.ticker.descriptor
        record["deadline_ns"] = clock.NO_DEADLINE
        record["dec_expiry"] = 1 << 62
        record["exec_interrupt"] = symbol_address("ppc_cpu_exec_interrupt_ppc64")
        self._poke64(layout.ENV_LOAD_INFO, self.address)

    def _dress(self) -> None:
        """Give Unicorn's POWER10 the identity and hooks of our CPU."""
        mask = self._peek64(layout.ENV_MSR_MASK)
        self._poke64(layout.ENV_MSR_MASK, mask & ~_MSR_MASK_CLEAR)
        opcodes.remove_unsafe(self._cs)
        self._poke_class(layout.CLASS_HANDLE_MMU_FAULT, mmu.handle_mmu_fault.address)
        self._poke_class(layout.CLASS_DO_UNALIGNED_ACCESS, exceptions.unaligned_access.address)
        self._poke_class(layout.CLASS_CPU_EXEC_ENTER, exceptions.exec_enter.address)
        self._poke_class(layout.CLASS_CPU_EXEC_INTERRUPT, exceptions.exec_interrupt.address)
        self._replace_memory_mapping()
        _uclib.cpu_ppc_tb_init_ppc64(ctypes.c_void_p(self._env), TIMEBASE_FREQUENCY)
        self._route_time_registers()
        hook = ctypes.c_size_t()
        error = _uclib.uc_hook_add(
            self.uc._uch,
            ctypes.byref(hook),
            unicorn.UC_HOOK_INTR,
            ctypes.c_void_p(exceptions.on_exception.address),
            ctypes.c_void_p(self.address),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if error:
            raise UnicornError(f"uc_hook_add failed: {error}")
        self.interrupt_hook = int(hook.value)  # address of Unicorn's struct hook
        self.reset_state()

    def _replace_memory_mapping(self) -> None:
        name = "find_memory_mapping_ppc64"
        find = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)(
            symbol_address(name)
        )
        self.record["memory_mapping"] = symbol_address(name)
        self.record["ram_region"] = find(self._handle, 0)
        where = self._handle + layout.UC_MEMORY_MAPPING
        ctypes.c_uint64.from_address(where).value = tlb.memory_mapping.address

    def _route_time_registers(self) -> None:
        """TB reads as PURR does, DEC as HDEC: those callbacks reach our clock."""
        callbacks = layout.ENV_SPR_CB
        size = layout.ENV_SPR_CB_SIZE
        purr = self._peek64(callbacks + Spr.PURR * size + layout.SPR_CB_OEA_READ)
        hdec = callbacks + Spr.HDEC * size
        hdec_read = self._peek64(hdec + layout.SPR_CB_HEA_READ)
        hdec_write = self._peek64(hdec + layout.SPR_CB_HEA_WRITE)
        for spr in (Spr.TB, Spr.TBL_WRITE):
            at = callbacks + spr * size
            if spr is Spr.TB:
                self._poke64(at + layout.SPR_CB_UEA_READ, purr)
            self._poke64(at + layout.SPR_CB_OEA_READ, purr)
            self._poke64(at + layout.SPR_CB_HEA_READ, purr)
        at = callbacks + Spr.DEC * size
        for read in (layout.SPR_CB_OEA_READ, layout.SPR_CB_HEA_READ):
            self._poke64(at + read, hdec_read)
        for write in (layout.SPR_CB_OEA_WRITE, layout.SPR_CB_HEA_WRITE):
            self._poke64(at + write, hdec_write)

    def reset_state(self) -> None:
        """Architected state as at power-on: 64-bit big-endian, real mode, interrupts off."""
        for offset in range(0, 512, 8):
            self._poke64(layout.ENV_GPR + offset, 0)
        ctypes.memset(self._env + layout.ENV_SLB, 0, 64 * layout.ENV_SLB_ENTRY_SIZE)
        self._poke64(layout.ENV_RESERVE_ADDR, (1 << 64) - 1)
        self.set_spr(Spr.PVR, PVR_BY_MODEL[self.model])
        self.set_spr(Spr.PIR, self.index)
        lpcr = LPCR_LPES0 | (LPCR_GTSE if self.model == "power9" else 0)
        self.set_spr(Spr.LPCR, lpcr)
        for spr in (Spr.AMR, Spr.IAMR, Spr.UAMOR, Spr.FSCR, Spr.PID, Spr.DAR, Spr.DSISR):
            self.set_spr(spr, 0)
        self.set_spr(Spr.AMOR, (1 << 64) - 1)
        self.set_spr(_HFSCR, (1 << 56) - 1)
        self._poke64(layout.ENV_MSR, 0)
        self.msr = MSR_SF | MSR_ME
        record = self.record
        for name in ("halted", "prodded", "external_level", "dec_raised", "vpa", "slb_shadow"):
            record[name] = 0
        record["dtl"] = record["dtl_size"] = record["stopped"] = 0
        record["pid"] = record["user_page_count"] = 0
        for line in range(20):
            _uclib.ppc_set_irq_ppc64(ctypes.c_void_p(self._cs), line, 0)
        record["dec_expiry"] = self.partition.timebase + (1 << 31) - 1
        self.record["generation"] += 1
        _uclib.tlb_flush_ppc64(ctypes.c_void_p(self._cs))

    def map_mmio(self, window: MmioWindow) -> None:
        """Route a window's accesses to its handler."""
        handler = window.handler

        def read(_uc: int, offset: int, size: int, _user: int) -> int:
            try:
                return int.from_bytes(handler.mmio_read(offset, size), "big")
            except BaseException as error:
                self._fail(error)
                return (1 << (8 * size)) - 1

        def write(_uc: int, offset: int, size: int, value: int, _user: int) -> None:
            try:
                handler.mmio_write(offset, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big"))
            except BaseException as error:
                self._fail(error)

        callbacks = (_MMIO_READ(read), _MMIO_WRITE(write))
        self._callbacks.extend(callbacks)
        error = _uclib.uc_mmio_map(
            self.uc._uch,
            ctypes.c_uint64(window.base),
            ctypes.c_size_t(window.size),
            callbacks[0],
            None,
            callbacks[1],
            None,
        )
        if error:
            raise UnicornError(f"uc_mmio_map failed: {error}")

    def _fail(self, error: BaseException) -> None:
        """Keep a callback's exception for :meth:`run` to raise."""
        if self._failure is None:
            self._failure = error
            traceback.clear_frames(error.__traceback__)
        self.kick()

    def run(self) -> ExitReason:
        """Run the guest until something needs attention; releases the GIL.

        Returns why.  ``KICKED`` leaves the kick flag cleared.  Raises :class:`UnicornError`
        when Unicorn stopped by itself, and what an MMIO handler raised.
        """
        record = self.record
        if len(self.partition.vcpus) > 1:
            own_code(self.address)
        while True:
            record["exit_reason"] = ExitReason.NONE
            if record["halted"]:
                exceptions.halt(self.address)
                if record["halted"]:
                    return self._leave(ExitReason.KICKED)
            nip = ctypes.c_uint64(self.pc)
            error = _uclib.uc_emu_start(
                self.uc._uch, nip, ctypes.c_uint64(0), ctypes.c_uint64(0), ctypes.c_size_t(0)
            )
            reason = ExitReason(int(record["exit_reason"]))
            if reason is not ExitReason.NONE:
                return self._leave(reason)
            if error:
                raise UnicornError(f"Unicorn stopped with error {error} at {self.pc:#x}")

    def _leave(self, reason: ExitReason) -> ExitReason:
        if reason is ExitReason.KICKED:
            self.record["kick"] = 0
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if reason is ExitReason.DEBUG and self.on_debug is not None:
            self.on_debug(self)
        return reason

    def kick(self) -> None:
        """Make :meth:`run` return ``KICKED`` soon.  Any thread."""
        self.record["kick"] = Kick.STOP
        break_run_at(self.address)
        os.eventfd_write(int(self.record["wake_fd"]), 1)

    def raise_system_reset(self) -> None:
        """Make a system reset interrupt pending."""
        exceptions.raise_system_reset(self.address)

    def flush_code(self) -> None:
        """Forget all translated code and the TLB; the vCPU is not running."""
        self.partition.code_map[:] = 0
        self.record["generation"] += 1
        self.uc.ctl_flush_tb()
        self.record["generation"] += 1
        _uclib.tlb_flush_ppc64(ctypes.c_void_p(self._cs))

    def refresh_decrementer(self) -> None:
        """Make the decrementer's interrupt and deadline agree with the timebase."""
        clock.refresh_decrementer(self.address)

    @property
    def guest_endian(self) -> GuestEndian:
        """Byte order of what the CPU executes now: MSR[LE]."""
        return GuestEndian.LITTLE if self.msr & MSR_LE else GuestEndian.BIG

    @property
    def pc(self) -> int:
        """Address of the next instruction."""
        return self._peek64(layout.ENV_NIP)

    @pc.setter
    def pc(self, value: int) -> None:
        self._poke64(layout.ENV_NIP, value)

    @property
    def msr(self) -> int:
        """Machine state register."""
        return self._peek64(layout.ENV_MSR)

    @msr.setter
    def msr(self, value: int) -> None:
        self.uc.reg_write(ppc.UC_PPC_REG_MSR, value)

    def gpr(self, number: int) -> int:
        """General purpose register."""
        return self._peek64(layout.ENV_GPR + 8 * number)

    def set_gpr(self, number: int, value: int) -> None:
        """Set a general purpose register (64 bits)."""
        self._poke64(layout.ENV_GPR + 8 * number, value & (1 << 64) - 1)

    def spr(self, number: int) -> int:
        """Special purpose register as stored (not TB, DEC, LR, CTR, XER)."""
        return self._peek64(layout.ENV_SPR + 8 * number)

    def set_spr(self, number: int, value: int) -> None:
        """Store a special purpose register (not TB, DEC, LR, CTR, XER)."""
        self._poke64(layout.ENV_SPR + 8 * number, value & (1 << 64) - 1)

    @property
    def env(self) -> int:
        """Host address of Unicorn's CPUPPCState."""
        return self._env

    def _peek64(self, offset: int) -> int:
        return ctypes.c_uint64.from_address(self._env + offset).value

    def _poke64(self, offset: int, value: int) -> None:
        ctypes.c_uint64.from_address(self._env + offset).value = value

    def _poke_class(self, offset: int, function: int) -> None:
        where = self._cs + layout.CPU_CLASS + offset
        ctypes.c_uint64.from_address(where).value = function

    def close(self) -> None:
        """Release the instance; it is not running."""
        self._give_back_code()
        self._poke64(layout.ENV_LOAD_INFO, 0)
        where = self._handle + layout.UC_MEMORY_MAPPING
        ctypes.c_uint64.from_address(where).value = int(self.record["memory_mapping"])
        os.close(int(self.record["wake_fd"]))
        self._callbacks.clear()
        del self.uc
