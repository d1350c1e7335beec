"""``info tlb`` of a guest with a hash page table: the SLB and what its segments reach.

Formats: Power ISA v2.07B, book III-S, 5.7.6 (SLB) and 5.7.7 (page table); the high part of a
virtual address is in an entry, the rest follows from where the entry is (5.7.7.3).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.cpu.mmu_hash import hpte_page_shift, segment_page_shift
from emu.cpu.partition import Partition
from emu.cpu.registers import read_state
from emu.cpu.vcpu import Vcpu
from emu.monitor.inspect_mappings import Mapping, mapping_lines, page_size

_ESID_V = 1 << 27
_VSID_B_1T = 1 << 62
_V_VALID, _V_SECONDARY, _V_BOLTED = 1, 2, 0x10
_R_RPN = 0x0FFFFFFFFFFFF000
_AVPN = (1 << 62) - 1 & ~0x7F
_GROUP = 8
_MAX_ENTRIES = 1 << 17


@dataclass(frozen=True)
class Segment:
    """One valid entry of the SLB."""

    index: int
    esid: int  # doublewords as slbmte takes them
    vsid_word: int

    @property
    def terabyte(self) -> bool:
        """Whether it is of 1 TiB rather than 256 MiB."""
        return bool(self.vsid_word & _VSID_B_1T)

    @property
    def start(self) -> int:
        """First effective address."""
        return self.esid & ~((1 << (40 if self.terabyte else 28)) - 1)

    @property
    def vsid(self) -> int:
        """Virtual segment identifier."""
        return (self.vsid_word & (1 << 62) - 1) >> (24 if self.terabyte else 12)

    @property
    def base_shift(self) -> int:
        """Base page size, log2."""
        return int(segment_page_shift(np.uint64(self.vsid_word)))

    def line(self) -> str:
        """What ``info tlb`` says of it."""
        size = "1T" if self.terabyte else "256M"
        flags = [
            name
            for bit, name in ((0x800, "Ks"), (0x400, "Kp"), (0x200, "N"))
            if self.vsid_word & bit
        ]
        return (
            f"{self.index:2} {self.esid:016x} {self.vsid_word:016x} {size:>4} VSID {self.vsid:x}"
            f" base page {page_size(self.base_shift)} {' '.join(flags)}".rstrip()
        )


def segments(vcpu: Vcpu) -> list[Segment]:
    """The valid entries of the SLB.  vCPU thread."""
    slb = read_state(vcpu).slb
    return [Segment(i, esid, vsid) for i, (esid, vsid) in enumerate(slb) if esid & _ESID_V]


def _table(partition: Partition) -> npt.NDArray[Any]:
    """The page table as pairs of doublewords; empty without one."""
    record = partition.record
    if not record["hpt"]:
        return np.zeros((0, 2), np.uint64)
    size = 1 << int(record["hpt_shift"])
    memory = memoryview((ctypes.c_uint8 * size).from_address(int(record["hpt"])))
    words: npt.NDArray[Any] = np.frombuffer(memory, ">u8").reshape(-1, 2)
    return words


def _mappings(
    segment: Segment, table: npt.NDArray[Any], valid: npt.NDArray[Any]
) -> Iterator[Mapping]:
    """The valid entries that belong to a segment."""
    bits = 17 if segment.terabyte else 5  # of the offset, above 8 MiB, in an entry
    words = table[valid]
    avpn = (words[:, 0].astype(np.uint64) & np.uint64(_AVPN)) >> np.uint64(7)
    size = words[:, 0].astype(np.uint64) >> np.uint64(62)
    mine = (avpn >> np.uint64(bits) == segment.vsid) & (size == int(segment.terabyte))
    shift = segment.base_shift
    spread = segment.vsid ^ segment.vsid << 25 if segment.terabyte else segment.vsid
    for position, (v, r) in zip(valid[mine].tolist(), words[mine].tolist(), strict=True):
        actual = int(hpte_page_shift(np.uint64(shift), np.uint64(v), np.uint64(r)))
        if not actual:
            continue
        group = position // _GROUP
        group = ~group if v & _V_SECONDARY else group
        low = (group ^ spread) << shift & (1 << 23) - 1
        high = (v & _AVPN) >> 7 & (1 << bits) - 1
        within = (1 << actual) - 1
        offset = (high << 23 | low) & ~within
        yield Mapping(
            segment.start + offset, r & _R_RPN & ~within, 1 << actual, actual, _rights(v, r)
        )


def _rights(v: int, r: int) -> str:
    pp = r & 3 | (r >> 63) << 2
    flags = "".join(
        letter if r & bit else "-"
        for bit, letter in ((0x100, "R"), (0x80, "C"), (4, "N"), (8, "G"))
    )
    return f"pp={pp} {flags}{' bolted' if v & _V_BOLTED else ''}"


def info_tlb(vcpu: Vcpu) -> str:
    """SLB, then for each segment what the page table has, neighbours together.  vCPU thread."""
    table = _table(vcpu.partition)
    valid = np.flatnonzero(table[:, 0].astype(np.uint64) & np.uint64(_V_VALID))
    bolted = int(np.count_nonzero(table[valid, 0].astype(np.uint64) & np.uint64(_V_BOLTED)))
    slb = segments(vcpu)
    lines = [f"SLB: {len(slb)} entries", *(segment.line() for segment in slb)]
    lines.append(f"HPT: {len(valid)} of {len(table)} entries valid, {bolted} bolted")
    found: list[Mapping] = []
    for segment in slb:
        found += islice(_mappings(segment, table, valid), _MAX_ENTRIES - len(found))
    return "\n".join([*lines, *mapping_lines(found)])


def info_address(vcpu: Vcpu, address: int) -> str:
    """How one effective address is looked up.  vCPU thread."""
    for segment in segments(vcpu):
        if segment.start <= address < segment.start + (1 << (40 if segment.terabyte else 28)):
            break
    else:
        return f"{address:#018x}: no segment"
    lines = [segment.line()]
    table = _table(vcpu.partition)
    valid = np.flatnonzero(table[:, 0].astype(np.uint64) & np.uint64(_V_VALID))
    hits = [
        mapping
        for mapping in _mappings(segment, table, valid)
        if mapping.effective <= address < mapping.effective + mapping.size
    ]
    lines += mapping_lines(hits) or [f"{address:#018x}: no page table entry"]
    return "\n".join(lines)
