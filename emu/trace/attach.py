"""Putting the traced variants in place, and taking them out again.

With no item on, a vCPU has the functions it was made with and its blocks hold no call of ours.
Everything here runs on the vCPU thread, or while no vCPU runs.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from emu.config_trace import Range
from emu.cpu import codegen, layout, mmu, tlb, tlbie
from emu.cpu.binding import JumpSlots
from emu.cpu.errors import UnicornError
from emu.cpu.external import UNICORN_LIBRARY
from emu.cpu.probe import symbol_address
from emu.cpu.vcpu import Vcpu
from emu.trace import blocks, events, stacks
from emu.trace.record import TRACE_DTYPE, Item
from emu.trace.ring import Ring

# struct hook of Unicorn 2.1.4
_HOOK_CALLBACK, _HOOK_USER_DATA = 40, 48
_BLOCKS = Item.IN_ASM | Item.EXEC | Item.CPU
_BLOCK_HELPER = "helper_store_msr_ppc64"  # takes (env, 64 bits), returns nothing
_lock = threading.Lock()


@functools.cache
def _slots() -> JumpSlots:
    return JumpSlots(UNICORN_LIBRARY)


class SharedSlots:
    """Slots of the library's linkage table that are exchanged while anybody in the process wants.

    ``functions`` maps symbols to (traced, plain) addresses.
    """

    def __init__(self, functions: dict[str, tuple[int, int]]) -> None:
        self._functions = functions
        self._users: set[int] = set()

    def use(self, user: int, wanted: bool) -> None:
        """Start or end a user's interest."""
        with _lock:
            before = bool(self._users)
            (self._users.add if wanted else self._users.discard)(user)
            if bool(self._users) != before:
                for name, (traced, plain) in self._functions.items():
                    _slots().bind(name, traced if self._users else plain)


BLOCK_SLOTS = SharedSlots(
    {
        "gen_intermediate_code_ppc64": (
            blocks.gen_intermediate_code.address,
            symbol_address("gen_intermediate_code_ppc64"),
        ),
        "tcg_gen_callN_ppc64": (blocks.tcg_gen_callN.address, codegen.tcg_gen_callN.address),
    }
)
FLUSH_SLOTS = SharedSlots(
    {
        "tlb_flush_ppc64": (events.tlb_flush.address, tlb.tlb_flush.address),
        "ppc_tlb_invalidate_one_ppc64": (
            events.ppc_tlb_invalidate_one.address,
            tlbie.ppc_tlb_invalidate_one.address,
        ),
        "tlb_flush_all_cpus_synced_ppc64": (
            events.tlb_flush_all_cpus_synced.address,
            tlbie.tlb_flush_all_cpus_synced.address,
        ),
    }
)


class Detour:
    """A function pointer in memory that can lead through a function of ours first.

    ``field`` of ``record`` keeps where ours goes on to.
    """

    def __init__(self, where: int, ours: int, record: Any, field: str) -> None:
        self._pointer = ctypes.c_uint64.from_address(where)
        self._ours = ours
        self._record = record
        self._field = field
        self._placed = False

    def use(self, wanted: bool) -> None:
        """Lead through ours or not.

        When somebody has put a function of theirs before ours, ours stays and passes on.
        """
        if self._pointer.value == int(self._record[self._field]):
            self._placed = False  # somebody has put back what was there before ours
        if wanted and not self._placed:
            self._record[self._field] = self._pointer.value
            self._pointer.value = self._ours
            self._placed = True
        elif not wanted and self._placed and self._pointer.value == self._ours:
            self._pointer.value = int(self._record[self._field])
            self._placed = False


class VcpuTrace:
    """One vCPU's trace.  ``ring`` takes the log, ``samples`` the profile."""

    def __init__(self, vcpu: Vcpu, ring: Ring) -> None:
        self._vcpu = vcpu
        self._ring = ring
        self._array = np.zeros(1, TRACE_DTYPE)
        self.record: Any = self._array[0]
        self.record["ring"] = ring.address
        self.record["index"] = vcpu.index
        self.record["plain_mmu_fault"] = mmu.handle_mmu_fault.address
        self.record["block_call"] = blocks.trace_block.address
        self.record["block_helper"] = symbol_address(_BLOCK_HELPER)
        classes = int(vcpu.record["cs"]) + layout.CPU_CLASS
        self._fault = Detour(
            classes + layout.CLASS_HANDLE_MMU_FAULT,
            events.mmu_fault.address,
            self.record,
            "mmu_fault",
        )
        self._interrupt = Detour(
            classes + layout.CLASS_CPU_EXEC_INTERRUPT,
            events.exec_interrupt.address,
            self.record,
            "exec_interrupt",
        )
        self._exception = Detour(
            self._hook_callback(), events.on_exception.address, self.record, "exception"
        )
        self._enter = Detour(
            classes + layout.CLASS_CPU_EXEC_ENTER,
            stacks.exec_enter.address,
            self.record,
            "exec_enter",
        )
        hypercall = vcpu.partition.record.dtype.fields["hypercall"][1]
        self._hypercall = Detour(
            vcpu.partition.address + hypercall, events.hypercall.address, self.record, "hypercall"
        )
        vcpu.record["trace"] = self._array.ctypes.data

    def _hook_callback(self) -> int:
        """Where Unicorn's interrupt hook keeps its function."""
        hook = self._vcpu.interrupt_hook
        data = ctypes.c_uint64.from_address(hook + _HOOK_USER_DATA).value
        if data != self._vcpu.address:
            raise UnicornError("the Unicorn library's struct hook is unknown")
        return hook + _HOOK_CALLBACK

    @property
    def items(self) -> Item:
        """What is logged."""
        return Item(int(self.record["items"]))

    def set_items(self, items: Item, ranges: Sequence[Range]) -> None:
        """Log exactly these items; of blocks those that start in one of the ranges."""
        before = self.items & _BLOCKS
        record = self.record
        given = [
            (int(record["range_first"][i]), int(record["range_last"][i]))
            for i in range(int(record["range_count"]))
        ]
        record["items"] = items
        record["range_count"] = len(ranges)
        for index, (first, last) in enumerate(ranges):
            record["range_first"][index], record["range_last"][index] = first, last
        BLOCK_SLOTS.use(self._vcpu.address, bool(items & _BLOCKS))
        FLUSH_SLOTS.use(self._vcpu.address, Item.MMU in items)
        self._fault.use(Item.MMU in items)
        if self._vcpu.index == 0:  # the partition's, kept in the first one's record
            self._hypercall.use(bool(items & (Item.MMU | Item.IRQ)))
        self._interrupt.use(Item.INT in items)
        self._exception.use(Item.INT in items)
        if items & _BLOCKS != before or (before and list(ranges) != given):
            self._vcpu.flush_code()

    def profile(self, samples: Ring | None) -> None:
        """Take samples of the stack, or no more."""
        record = self.record
        record["samples"] = 0 if samples is None else samples.address
        record["taken"] = record["ticks"]
        self._enter.use(samples is not None)

    def close(self) -> None:
        """Take everything out; the vCPU is about to go."""
        self.set_items(Item(0), ())
        self.profile(None)
        self._vcpu.record["trace"] = 0
