"""What a traced vCPU carries: one TRACE_DTYPE record, and the kinds of records in its ring."""

from __future__ import annotations

import enum

import numpy as np

from emu.memory.native import record_pointer
from emu.trace.filter import MAX_RANGES

TRACE_DTYPE = np.dtype(
    [
        ("ring", "u8"),  # RING_DTYPE record of the log
        ("items", "u4"),  # Item bits
        ("index", "u4"),  # the vCPU's number
        # The class functions and the hook that ours go on to
        ("mmu_fault", "u8"),
        ("plain_mmu_fault", "u8"),  # the MMU's own, for when mmu_fault leads back to ours
        ("in_mmu_fault", "u4"),
        ("exec_interrupt", "u8"),
        ("exec_enter", "u8"),
        ("exception", "u8"),
        ("hypercall", "u8"),  # the partition's; in the first vCPU's record only
        ("block", "u8"),  # TranslationBlock being translated
        ("block_call", "u8"),  # native code that traced blocks call, and what it stands in for
        ("block_helper", "u8"),
        # Ranges of effective addresses (-dfilter), last addresses inclusive; none: everything
        ("range_count", "u8"),
        ("range_first", "u8", (MAX_RANGES,)),
        ("range_last", "u8", (MAX_RANGES,)),
        # The profile: ticks of the timer, and how many of them are in samples
        ("samples", "u8"),  # RING_DTYPE record
        ("ticks", "u8"),  # the timer thread's
        ("taken", "u8"),
    ],
    align=True,
)
trace_at = record_pointer(TRACE_DTYPE)


class Item(enum.IntFlag):
    """What a vCPU's compiled code writes to the log (``-d``)."""

    IN_ASM = 1
    EXEC = 2
    CPU = 4
    INT = 8
    MMU = 16
    IRQ = 32


class Kind(enum.IntEnum):
    """Records of the log's ring; the words that follow the header."""

    # effective address; bytes as in memory, in whole words.  extra: instruction bytes, and
    # LITTLE_ENDIAN
    BLOCK = 1
    # effective address.  extra: the block's flags
    EXEC = 2
    # NIP, MSR, LR, CTR, XER, CR, 32 GPRs
    CPU = 3
    # NIP and MSR before, NIP and MSR after, DAR, DSISR, r0, r3 to r6.  extra: the cause
    INTERRUPT = 4
    # effective address, DSISR or SRR1 bits.  extra: cause, access << 8, MMU mode << 16
    FAULT = 5
    # address or RB, PID.  extra: Flush
    FLUSH = 6
    # r3 (code), r4 to r7 as given, r4 afterwards.  extra: the call's number
    HCALL = 7


class Flush(enum.IntEnum):
    """Why translations were dropped."""

    TLBIE = 1  # tlbie or tlbiel; the word is RB
    SYNC = 2  # ptesync or the like after tlbie
    ALL = 3  # a register (PID, LPCR, ...) or the SLB changed


LITTLE_ENDIAN = 1 << 31  # in BLOCK's extra
ASYNCHRONOUS = 1 << 31  # in INTERRUPT's extra
INTERRUPT_WORDS = 12
CPU_WORDS = 39
