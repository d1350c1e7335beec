"""Breakpoints, watchpoints and single steps of one vCPU: what a debugger needs of the CPU.

Nothing here exists for a guest without a debugger: :class:`VcpuDebug` is made when one comes.

* A *breakpoint* is an effective address in the translator's own list (``CPUState.breakpoints``):
  code translated afterwards ends there with ``EXCP_DEBUG``.  Guest memory is never patched.  When
  the list changes, only the blocks that hold a changed address are dropped.
* A *step* runs blocks of one instruction.  They are translated in a cluster of their own (part of
  the key of a block), so that going to and fro drops nothing.
* A *watchpoint* marks the TLB entries of its pages, which sends their accesses through the slow
  path to :func:`check_watchpoint`.  The guest stops before the access, as gdb expects of POWER.

Each ends ``run()`` with ``ExitReason.DEBUG`` and the next instruction in NIP.  Everything runs on
the vCPU thread.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import unicorn.unicorn_py3.unicorn as binding
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from emu.cpu import external as ext
from emu.cpu import layout
from emu.cpu.binding import JumpSlots
from emu.cpu.exceptions import exit_run, halt
from emu.cpu.external import UNICORN_LIBRARY
from emu.cpu.layout import CS_ENV, CS_EXCEPTION_INDEX, CS_TLB, ENV_LOAD_INFO
from emu.cpu.record import ExitReason, Step, vcpu_at
from emu.cpu.vcpu import Vcpu
from emu.memory.native import load_u16, load_u32, load_u64, record_pointer, store_u32, store_u64

MAX_BREAKPOINTS = 1024
MAX_WATCHPOINTS = 64

DEBUG_DTYPE = np.dtype(
    [
        ("fault_handler", "u8"),  # what watching_mmu_fault goes on to; 0: it is not in place
        ("hit", "u4"),  # index of the watchpoint that was hit, plus 1
        ("hit_access", "u4"),  # Access bits
        ("hit_address", "u8"),
        ("watch_count", "u4"),
        ("changed_count", "u4"),
        ("tcg", "u8"),  # TCGContext
        ("changed", "u8", (2 * MAX_BREAKPOINTS,)),  # breakpoints that came or went
        ("watch_first", "u8", (MAX_WATCHPOINTS,)),
        ("watch_last", "u8", (MAX_WATCHPOINTS,)),  # inclusive
        ("watch_access", "u4", (MAX_WATCHPOINTS,)),
    ],
    align=True,
)
# CPUBreakpoint: address, flags, and a QTAILQ entry
_BREAKPOINT = np.dtype(
    [("pc", "u8"), ("flags", "i4"), ("next", "u8"), ("previous", "u8")], align=True
)
_BP_GDB = 0x10
_SSTEP_ENABLE, _SSTEP_NOIRQ = 1, 2
_STEP_CLUSTER = 1
_CF_UNLINKED = np.uint32(0x50000)  # CF_INVALID, CF_NOCACHE
_TLB_WATCHPOINT = np.uint64(1 << 8)
_TLB_INVALID = np.uint64(1 << 11)
_PAGE_SIZE = np.uint64(4096)
_PAGE_MASK = np.uint64(~0xFFF & ((1 << 64) - 1))
_NO_EXCEPTION = np.uint64(0xFFFFFFFF)
_ALL_BLOCKS = np.uint64((1 << 64) - 1)
_uclib: Any = binding.uclib
_bound = False

debug_at = record_pointer(DEBUG_DTYPE)


class Access(enum.IntFlag):
    """Kinds of data access, as Unicorn numbers them (``BP_MEM_*``)."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Watchpoint:
    """Effective addresses ``first`` to ``last`` (inclusive) and the accesses that count."""

    first: int
    last: int
    access: Access


@dataclass(frozen=True)
class WatchHit:
    """The guest is about to make an access that a watchpoint is for."""

    watchpoint: Watchpoint
    address: int  # first byte of the access inside the watchpoint
    access: Access


@intrinsic
def _call_fault_handler(  # type: ignore[no-untyped-def]
    typingctx, function, cs, address, access, mmu_idx
):
    """Call the class function ``handle_mmu_fault`` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, half = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(half, [word, word, half, half]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), list(args[1:]))

    u64, i32 = types.uint64, types.int32
    return i32(u64, u64, u64, i32, i32), codegen


@njit(cache=True)
def _flag_page(vcpu, debug, address, mmu_idx):  # type: ignore[no-untyped-def]
    """Mark the TLB entry of an effective address if a watchpoint reaches into its page."""
    page = address & _PAGE_MASK
    end = page + (_PAGE_SIZE - np.uint64(1))
    watched = False
    for i in range(debug.watch_count):
        watched |= debug.watch_first[i] <= end and debug.watch_last[i] >= page
    if not watched:
        return
    fast = vcpu.cs + np.uint64(CS_TLB + layout.TLB_FAST)
    fast += np.uint64(mmu_idx) * np.uint64(layout.TLB_FAST_SIZE)
    size = np.uint64(layout.TLB_ENTRY_SIZE)
    index = (address >> np.uint64(12)) & (load_u64(fast + np.uint64(layout.FAST_MASK)) // size)
    entry = load_u64(fast + np.uint64(layout.FAST_TABLE)) + index * size
    for offset in (layout.TLBE_ADDR_READ, layout.TLBE_ADDR_WRITE):
        tag = load_u64(entry + np.uint64(offset))
        if tag & (_PAGE_MASK | _TLB_INVALID) == page:
            store_u64(entry + np.uint64(offset), tag | _TLB_WATCHPOINT)


@cfunc(types.int32(types.uint64, types.uint64, types.int32, types.int32), cache=True)
def watching_mmu_fault(cs: int, address: int, access: int, mmu_idx: int) -> Any:
    """Class function ``handle_mmu_fault`` while there are watchpoints."""
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    debug = debug_at(vcpu.debug)
    result = _call_fault_handler(debug.fault_handler, cs, address, access, mmu_idx)
    if result == 0:
        _flag_page(vcpu, debug, address, mmu_idx)
    return result


@cfunc(
    types.void(types.uint64, types.uint64, types.uint64, types.uint32, types.int32, types.uint64),
    cache=True,
)
def check_watchpoint(
    cs: int, address: int, size: int, attributes: int, access: int, retaddr: int
) -> None:
    """Replacement for Unicorn's empty function: an access to a page with a watchpoint.

    On a hit it does not return: the CPU loop leaves with the accessing instruction in NIP.
    """
    vcpu = vcpu_at(load_u64(cs + np.uint64(CS_ENV + ENV_LOAD_INFO)))
    if vcpu.debug == 0 or vcpu.exit_reason != np.uint32(0):
        return
    debug = debug_at(vcpu.debug)
    last = address + (size - np.uint64(1))
    for i in range(debug.watch_count):
        if (
            debug.watch_access[i] & np.uint32(access)
            and address <= debug.watch_last[i]
            and last >= debug.watch_first[i]
        ):
            debug.hit = np.uint32(i + 1)
            debug.hit_access = np.uint32(access)
            debug.hit_address = max(address, debug.watch_first[i])
            store_u32(cs + np.uint64(CS_EXCEPTION_INDEX), _NO_EXCEPTION)
            exit_run(vcpu, np.uint32(ExitReason.DEBUG), np.uint64(0))
            ext.cpu_loop_exit_restore(cs, retaddr)


@cfunc(types.int32(types.uint64, types.uint64, types.uint64), cache=True)
def drop_block(_key: int, block: int, debug_address: int) -> Any:
    """Visit one translated block: drop it if it holds an address in ``changed``."""
    debug = debug_at(debug_address)
    if load_u32(block + np.uint64(layout.TB_CFLAGS)) & _CF_UNLINKED:
        return np.int32(0)
    start = load_u64(block + np.uint64(layout.TB_PC))
    size = np.uint64(load_u16(block + np.uint64(layout.TB_SIZE)))
    for i in range(debug.changed_count):
        if debug.changed[i] - start < size:
            ext.tb_phys_invalidate(debug.tcg, block, _ALL_BLOCKS)
            break
    return np.int32(0)


def _bind_library() -> None:
    """Give Unicorn a function that checks watchpoints; once per process."""
    global _bound
    if not _bound:
        slots = JumpSlots(UNICORN_LIBRARY)
        slots.bind("cpu_check_watchpoint_ppc64", check_watchpoint.address)
        _bound = True


class VcpuDebug:
    """A debugger's hold on one vCPU, one at a time; :meth:`close` takes it off again.

    Raises :class:`emu.cpu.errors.UnicornError` on an unknown Unicorn build.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        _bind_library()
        self._vcpu = vcpu
        self._cs = int(vcpu.record["cs"])
        # One for the vCPU's life: others may have put functions of theirs before ours.
        kept = vcpu.uc.__dict__
        self._array: npt.NDArray[Any] = kept.setdefault("_debug", np.zeros(1, DEBUG_DTYPE))
        self.record: Any = self._array[0]
        self._watchpoints: tuple[Watchpoint, ...] = ()
        self._breakpoints: frozenset[int] = frozenset()
        self._nodes: npt.NDArray[Any] = np.zeros(0, _BREAKPOINT)
        self._prodded = 0
        self._cluster = self._u32(layout.CS_CLUSTER_INDEX).value
        self.record["tcg"] = ctypes.c_uint64.from_address(
            int(vcpu.record["uc"]) + layout.UC_TCG_CTX
        ).value
        vcpu.record["debug"] = self._array.ctypes.data

    @property
    def _fault_handler(self) -> ctypes.c_uint64:
        where = self._cs + layout.CPU_CLASS + layout.CLASS_HANDLE_MMU_FAULT
        return ctypes.c_uint64.from_address(where)

    def _u32(self, offset: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self._cs + offset)

    def set_breakpoints(self, addresses: Collection[int]) -> None:
        """Stop before the instructions at these effective addresses, MAX_BREAKPOINTS at most."""
        wanted = frozenset(addresses)
        if len(wanted) > MAX_BREAKPOINTS:
            raise ValueError(f"at most {MAX_BREAKPOINTS} breakpoints")
        changed = sorted(wanted ^ self._breakpoints)
        if not changed:
            return
        self._breakpoints = wanted
        self._link(sorted(wanted))
        self.record["changed"][: len(changed)] = changed
        self.record["changed_count"] = len(changed)
        _uclib.tcg_tb_foreach_ppc64(
            ctypes.c_void_p(int(self.record["tcg"])),
            ctypes.c_void_p(drop_block.address),
            ctypes.c_void_p(self._array.ctypes.data),
        )
        self._vcpu.record["generation"] += 1  # lookups know addresses of dropped blocks

    def _link(self, addresses: Sequence[int]) -> None:
        """Make these the list in ``CPUState.breakpoints``."""
        nodes = np.zeros(len(addresses), _BREAKPOINT)
        start, size = nodes.ctypes.data, _BREAKPOINT.itemsize
        for index, address in enumerate(addresses):
            node = nodes[index]
            node["pc"], node["flags"] = address, _BP_GDB
            node["next"] = start + (index + 1) * size if index + 1 < len(addresses) else 0
        head = ctypes.c_uint64.from_address(self._cs + layout.CS_BREAKPOINTS)
        head.value = start if len(addresses) else 0
        self._nodes = nodes  # the old ones were in use until here

    def set_watchpoints(self, watchpoints: Sequence[Watchpoint]) -> None:
        """Stop before accesses to these; MAX_WATCHPOINTS at most."""
        wanted = tuple(watchpoints)
        if len(wanted) > MAX_WATCHPOINTS:
            raise ValueError(f"at most {MAX_WATCHPOINTS} watchpoints")
        if wanted == self._watchpoints:
            return
        self._watchpoints = wanted
        record = self.record
        for index, watchpoint in enumerate(wanted):
            record["watch_first"][index] = watchpoint.first
            record["watch_last"][index] = watchpoint.last
            record["watch_access"][index] = watchpoint.access
        record["watch_count"] = len(wanted)
        self._watch_faults(bool(wanted))
        self._vcpu.record["generation"] += 1
        _uclib.tlb_flush_ppc64(ctypes.c_void_p(self._cs))

    def _watch_faults(self, wanted: bool) -> None:
        """Put our fault handler in place, or take it out unless another one is before it."""
        where, ours = self._fault_handler, watching_mmu_fault.address
        if wanted and not self.record["fault_handler"]:
            self.record["fault_handler"] = where.value
            where.value = ours
        elif not wanted and where.value == ours:
            where.value = int(self.record["fault_handler"])
            self.record["fault_handler"] = 0

    def begin_step(self, *, interrupts: bool) -> None:
        """Let the next ``run()`` end after one instruction, or after delivering an interrupt.

        A vCPU that sleeps in H_CEDE wakes up, and one that executes it does not sleep: a step
        has an end.
        """
        record = self._vcpu.record
        self._prodded = int(record["prodded"])
        record["prodded"] = 1
        if record["halted"]:
            halt(self._vcpu.address)  # returns at once, and awake
            record["prodded"] = 1
        record["step_done"] = 0
        record["step"] = Step.ON if interrupts else Step.ON | Step.NO_INTERRUPTS
        self._u32(layout.CS_CLUSTER_INDEX).value = self._cluster ^ _STEP_CLUSTER
        flags = _SSTEP_ENABLE if interrupts else _SSTEP_ENABLE | _SSTEP_NOIRQ
        self._u32(layout.CS_SINGLESTEP).value = flags

    def end_step(self) -> None:
        """Run freely from now on."""
        record = self._vcpu.record
        if record["step"]:
            record["step"] = record["step_done"] = 0
            record["prodded"] = int(record["prodded"]) & self._prodded
            self._u32(layout.CS_CLUSTER_INDEX).value = self._cluster
            self._u32(layout.CS_SINGLESTEP).value = 0

    @property
    def stepped(self) -> bool:
        """Whether the step that was begun is done."""
        return bool(self._vcpu.record["step_done"])

    def take_hit(self) -> WatchHit | None:
        """The watchpoint that was hit, once."""
        record = self.record
        index, record["hit"] = int(record["hit"]), 0
        if not 0 < index <= len(self._watchpoints):
            return None
        access = Access(int(record["hit_access"]))
        return WatchHit(self._watchpoints[index - 1], int(record["hit_address"]), access)

    @property
    def at_breakpoint(self) -> bool:
        """Whether the next instruction has a breakpoint."""
        return self._vcpu.pc in self._breakpoints

    def close(self) -> None:
        """Remove everything; the vCPU runs as without a debugger."""
        self.end_step()
        self.set_watchpoints(())
        self.set_breakpoints(())
        self.record["hit"] = 0
