"""Structure layouts shared by Python and Numba: one vCPU, and the partition the vCPUs share.

Both are numpy record dtypes.  Addresses are *host* addresses (``u8``) unless a name says
otherwise.  The vCPU thread owns every field; other threads may only set bits in
``Vcpu.kick`` (through :meth:`emu.cpu.vcpu.Vcpu.kick`).
"""

from __future__ import annotations

import enum

import numpy as np

from emu.memory.native import record_pointer

MAX_VCPUS = 16
NO_VCPU = (1 << 32) - 1
MAX_MMIO_WINDOWS = 64
USER_PAGES = 64
KEPT_PAGES = 64  # a power of two
LATE_PAGES = 16

VCPU_DTYPE = np.dtype(
    [
        ("uc", "u8"),  # uc_struct
        ("cs", "u8"),  # CPUState
        ("env", "u8"),  # CPUPPCState
        ("partition", "u8"),  # PARTITION_DTYPE record
        ("index", "u4"),
        ("pvr", "u4"),
        ("kick", "u4"),  # Kick bits, set by any thread
        ("exit_reason", "u4"),  # ExitReason
        ("exit_argument", "u8"),
        ("halted", "u4"),  # in H_CEDE
        ("prodded", "u4"),  # H_PROD seen while running
        ("external_level", "u4"),  # level of the external interrupt input
        ("dec_raised", "u4"),
        ("dec_expiry", "u8"),  # timebase at which the decrementer turns negative
        ("wake_fd", "i4"),  # eventfd that ends a native sleep
        ("ticker_fd", "i4"),  # eventfd that makes the timer thread look again
        ("deadline_ns", "i8"),  # clock time of the next decrementer interrupt
        ("exec_interrupt", "u8"),  # Unicorn's own cpu_exec_interrupt
        ("memory_mapping", "u8"),  # Unicorn's own function of that name
        ("ram_region", "u8"),  # Unicorn's MemoryRegion of guest RAM
        ("lookup_table", "u8"),  # LOOKUP_ENTRY records, see emu.cpu.codegen
        ("lookup_block", "u8"),  # native code emitted calls, and what it replaces
        ("lookup_helper", "u8"),
        ("check_helper", "u8"),
        ("exit_label", "u8"),  # TCGLabel of the block being translated
        ("generation", "u4"),
        ("vpa", "u8"),  # guest real address of the registered VPA, or 0
        ("slb_shadow", "u8"),
        ("dtl", "u8"),
        ("dtl_size", "u8"),
        ("exceptions", "u8"),  # statistics
        ("hypercalls", "u8"),
        ("mmu_fills", "u8"),
        ("flushed_fills", "u8"),  # mmu_fills at the last flush of everything
        ("pid", "u8"),  # PID whose translations the TLB holds (radix)
        # Quadrant 0 pages in the TLB of the privileged mode (radix), see emu.cpu.tlb
        ("user_pages", "u8", (USER_PAGES,)),
        ("user_page_count", "u4"),
        ("stopped", "u4"),  # not started (RTAS start-cpu) or stopped itself
        ("debug", "u8"),  # DEBUG_DTYPE record of emu.cpu.debug once there was a debugger, or 0
        ("step", "u4"),  # Step bits
        ("step_done", "u4"),
        ("trace", "u8"),  # TRACE_DTYPE record of emu.trace.record while it is traced, or 0
        # For tlbie of a radix guest, see emu.cpu.tlbie
        ("other_sets", "u4"),  # tlbie or tlbiel of another set than the first
        ("kept_count", "u4"),  # entries ever used below; more than there are: some are missing
        ("kept_key", "u8", (KEPT_PAGES,)),
        ("kept_value", "u8", (KEPT_PAGES,)),
        # TLB flushes that wait for its next turn, see emu.cpu.tlb
        ("late_flush", "u4"),  # everything
        ("late_count", "u4"),
        ("late_address", "u8", (LATE_PAGES,)),
        ("late_real", "u8", (LATE_PAGES,)),
        ("late_shift", "u8", (LATE_PAGES,)),
    ],
    align=True,
)

PARTITION_DTYPE = np.dtype(
    [
        ("ram", "u8"),  # host address of guest real address 0
        ("ram_size", "u8"),
        ("rma_size", "u8"),
        ("dirty_map", "u8"),  # byte per 4 KiB page: written since the byte was cleared
        ("code_map", "u8"),  # byte per 4 KiB page: code was translated from it
        ("hpt", "u8"),  # hash page table, 0 when the guest uses radix
        ("hpt_shift", "u4"),  # log2 of its size in bytes
        ("radix", "u4"),
        ("process_table", "u8"),  # guest real address (radix)
        ("process_table_size", "u8"),  # bytes
        ("clock_read", "u8"),  # native uint64 clock(uint64): nanoseconds
        ("clock_epoch_ns", "i8"),
        ("tb_at_epoch", "u8"),
        ("hypercall", "u8"),  # native uint64 hypercall(vcpu)
        ("machine", "u8"),  # the machine's own record
        ("vcpu_count", "u4"),
        ("mmio_count", "u4"),
        # Turns of several vCPUs on the one thread, see emu.cpu.turns
        ("current", "u4"),  # index of the vCPU whose turn it is, or NO_VCPU
        ("last_turn", "u4"),  # index of the vCPU that had the latest turn
        ("favoured", "u4"),  # index of the vCPU that was given a turn, or NO_VCPU
        ("turn_end_ns", "i8"),  # clock time at which another ready vCPU takes over
        ("watched_ns", "i8"),  # clock time at which the timer thread looks again
        ("vcpus", "u8", (MAX_VCPUS,)),
        ("mmio_base", "u8", (MAX_MMIO_WINDOWS,)),
        ("mmio_end", "u8", (MAX_MMIO_WINDOWS,)),  # exclusive
    ],
    align=True,
)

vcpu_at = record_pointer(VCPU_DTYPE)
partition_at = record_pointer(PARTITION_DTYPE)


class Kick(enum.IntEnum):
    """Requests of other threads to a vCPU."""

    STOP = 1  # leave run() with ExitReason.KICKED


class Step(enum.IntEnum):
    """How a vCPU runs while a debugger steps it; 0 without."""

    ON = 1  # leave run() with ExitReason.DEBUG after an instruction or an interrupt
    NO_INTERRUPTS = 2  # asynchronous ones stay pending


class ExitReason(enum.IntEnum):
    """Why :meth:`emu.cpu.vcpu.Vcpu.run` returned, in the manner of KVM_RUN."""

    NONE = 0
    HYPERCALL = 1  # number in r3; put the result into r3 and run again
    KICKED = 2  # another thread asked
    CHECKSTOP = 3  # machine check with MSR[ME] = 0
    ERROR = 4  # Unicorn stopped without a reason of ours
    TURN_OVER = 5  # another vCPU's turn: this one ceded, conferred, spins, or had its time
    DEBUG = 6  # a breakpoint, a watchpoint, or the end of a step (emu.cpu.debug)


class Hcall(enum.IntEnum):
    """Answers of the native hypercall function."""

    DONE = 0  # r3 is set
    EXIT = 1  # leave run() with ExitReason.HYPERCALL
    KICKED = 2  # r3 is set; leave run() with ExitReason.KICKED (sleep goes on afterwards)
    TURN_OVER = 3  # r3 is set; leave run() with ExitReason.TURN_OVER
