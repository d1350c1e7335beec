"""What the device tree says about the processor, per model the emulated core is dressed as.

The core is Unicorn's (QEMU 5.0.1's POWER10 model). It lacks some facilities the real POWER8 and
POWER9 have; their bits are left out of `ibm,pa-features`, so that a guest which reads the property
does not use them. Bytes and bits: LoPAR, "PA Processor Binding", "CPU Node Properties",
`ibm,pa-features` (bit 0 is the most significant of its byte); those from 24 on, which ISA 3.0
brought, as Linux and QEMU use them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

TIMEBASE_FREQUENCY = 512_000_000
CLOCK_FREQUENCY = 1_000_000_000
SLB_SIZE = 32
CACHE_LINE_SIZE = 128
L1_CACHE_SIZE = 0x8000


class CpuModel(enum.Enum):
    """The processors the core can be dressed as; the values are `-cpu` names."""

    POWER8 = "power8"
    POWER9 = "power9"


class MmuMode(enum.Enum):
    """Which translation a guest is given: hashed page table, or radix tree (POWER9 only)."""

    HASH = "hash"
    RADIX = "radix"


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """One model's constants.

    `logical_pvr` is the architecture level (LoPAR, "Logical Processor Version Values"): ISA 2.07
    or 3.0.
    """

    pvr: int
    logical_pvr: int
    node_name: str
    pa_features: bytes
    radix: bool


# tlbie's AP field (Power ISA 3.1B, Book III, "TLB Management Instructions") in the top three bits,
# with log2 of the page size it stands for: 4 KiB, 64 KiB, 2 MiB, 1 GiB.
RADIX_AP_ENCODINGS = (0 << 29 | 12, 5 << 29 | 16, 1 << 29 | 21, 2 << 29 | 30)

# Base page size and SLB encoding, then its actual sizes with their PTE encodings: 4 KiB segments,
# and 64 KiB segments (SLB LP 0b01, L = 1). No page sizes mixed in a segment, no 16 MiB pages.
SEGMENT_PAGE_SIZES = (12, 0x000, 1, 12, 0, 16, 0x110, 1, 16, 1)

# log2 of the segment sizes, by their two-bit B field: 256 MiB and 1 TiB, the others reserved.
PROCESSOR_SEGMENT_SIZES = (28, 40, 0xFFFFFFFF, 0xFFFFFFFF)


def _pa_features(length: int, values: dict[int, int]) -> bytes:
    """One attribute descriptor: length, type 0, then `length` bytes with the given ones set."""
    body = bytearray(length)
    for index, value in values.items():
        body[index] = value
    return bytes((length, 0)) + bytes(body)


_ISA_207 = {
    # MMU, FPU, SLB, run latch, no-execute. Not DABR (0x04): data breakpoints never hit.
    0: 0xF2,
    # Cache-inhibited large pages, fri[nzpm], SPRG3, SLB 0, PP110. Not DABRX (0x08).
    1: 0x37,
    # Virtualized partition memory, PPR, data streams of versions 2.02, 2.05 and 2.06.
    2: 0xC7,
    # DSCR: load stream disable, depth attainment urgency.
    3: 0xC0,
    # Byte 4, strong access ordering: not kept by a translator on a weaker host.
    # Little-endian, CFAR, elemental barriers, lq/stq.
    5: 0xF0,
    # Data streams of version 2.07.
    6: 0x80,
    # Vector, vector-scalar (VSX), vector crypto.
    16: 0x80,
    18: 0x80,
    20: 0x80,
    # Byte 22, transactional memory: not emulated.
}

_ISA_300 = _ISA_207 | {
    # 64-bit feature set.
    26: 0x80,
    # Little-endian atomic accesses.
    32: 0x80,
    # Radix MMU.
    40: 0x80,
    # Vector integer, quad-precision, string, decimal float and decimal integer additions, SHA,
    # atomics, RNG.
    48: 0x80,
    50: 0x80,
    52: 0x80,
    54: 0x80,
    56: 0x80,
    58: 0x80,
    60: 0x80,
    62: 0x80,
    # Not set: 24 large decrementer (see `DeviceTreeSpec.decrementer_bits`), 28 and 42 performance
    # monitor, 30 multiple memory regions, 34 event-based branches, 36 SAO by SPR, 38 copy/paste,
    # 44 precise addresses from the performance monitor, 46 scv.
}

PA_FEATURE_LARGE_DECREMENTER = 24

CPU_FACTS = {
    CpuModel.POWER8: CpuFacts(
        0x004D0200, 0x0F000004, "PowerPC,POWER8", _pa_features(24, _ISA_207), radix=False
    ),
    CpuModel.POWER9: CpuFacts(
        0x004E1202, 0x0F000005, "PowerPC,POWER9", _pa_features(66, _ISA_300), radix=True
    ),
}


def pa_features(model: CpuModel, *, large_decrementer: bool) -> bytes:
    """The value of `ibm,pa-features` for a model; the large decrementer exists on POWER9 only."""
    value = bytearray(CPU_FACTS[model].pa_features)
    if large_decrementer:
        value[2 + PA_FEATURE_LARGE_DECREMENTER] = 0x80
    return bytes(value)
