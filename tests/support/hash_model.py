"""Hash translation done slowly, field by field (Power ISA v3.0B, book III, 5.7.7 to 5.7.9).

Bits are numbered as in the ISA: 0 is the most significant of a doubleword.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.support.translate import EXECUTE, READ, WRITE, Answer

OK, NO_PTE, PROTECTION, NO_EXECUTE, SEGMENT, KEY = range(6)

# L||LP of the segment: base page size; then the page's LP by base and actual size
BASE_SHIFTS = {0b000: 12, 0b101: 16, 0b100: 24, 0b110: 34}
ENCODINGS = {
    12: [(16, "0111"), (24, "00111000")],
    16: [(16, "0001"), (24, "00001000")],
    24: [(24, "00000000")],
    34: [(34, "00000011")],
}


class Table(Protocol):
    """Entries of a hash page table, two doublewords each."""

    def __getitem__(self, key: tuple[int, int]) -> int: ...


@dataclass(frozen=True)
class Access:
    """An access and the registers it depends on."""

    ea: int
    need: int
    user: bool
    amr: int = 0
    iamr: int = 0


def bits(doubleword: int, first: int, last: int) -> int:
    """The field from bit ``first`` to bit ``last``."""
    return doubleword >> (63 - last) & (1 << (last - first + 1)) - 1


def find_segment(slb: Sequence[tuple[int, int]], ea: int) -> int | None:
    """Second doubleword of the SLB entry that holds an address."""
    for esid, vsid in slb:
        last = 23 if bits(vsid, 0, 1) == 1 else 35
        if bits(esid, 36, 36) and bits(esid, 0, last) == bits(ea, 0, last):
            return vsid
    return None


def actual_shift(base: int, first: int, second: int) -> int | None:
    """Page size of an entry, if it is one that segments of the base size may hold."""
    if not bits(first, 61, 61):
        return 12 if base == 12 else None
    for shift, encoding in ENCODINGS[base]:
        low = f"{bits(second, 44, 51):08b}"
        if low.endswith(encoding):
            return shift
    return None


def find_entry(table: Table, groups: int, vsid: int, ea: int) -> tuple[int, int] | None:
    """Index and page size of the entry that maps an address."""
    base = BASE_SHIFTS[bits(vsid, 55, 55) << 2 | bits(vsid, 58, 59)]
    terabyte = bits(vsid, 0, 1) == 1
    size = 40 if terabyte else 28
    number = bits(vsid, 2, 39 if terabyte else 51)
    page = (ea & (1 << size) - 1) >> base
    virtual = number << size | page << base
    hashed = number ^ page ^ (number << 25 if terabyte else 0)
    for secondary, value in ((0, hashed), (1, ~hashed)):
        group = value % groups
        for index in range(8 * group, 8 * group + 8):
            first, second = int(table[index, 0]), int(table[index, 1])
            same = (
                bits(first, 63, 63) == 1
                and bits(first, 62, 62) == secondary
                and bits(first, 0, 1) == bits(vsid, 0, 1)
                and bits(first, 2, 56) == virtual >> 23
            )
            shift = actual_shift(base, first, second)
            if same and shift is not None:
                return index, shift
    return None


# Figure 28: what PP allows when the storage key is 0 and 1
ALLOWED = {
    0: {0: "rw", 1: "rw", 2: "rw", 3: "r", 6: "r"},
    1: {1: "r", 2: "rw", 3: "r"},
}


def protection(vsid: int, second: int, user: bool) -> int:
    """PAGE_* bits of PP, the storage key, N and G."""
    key = bits(vsid, 53, 53) if user else bits(vsid, 52, 52)
    pp = bits(second, 0, 0) << 2 | bits(second, 62, 63)
    allowed = ALLOWED[key].get(pp, "")
    prot = (READ if "r" in allowed else 0) | (WRITE if "w" in allowed else 0)
    no_execute = bits(vsid, 54, 54) or bits(second, 61, 61) or bits(second, 60, 60)
    return prot | (EXECUTE if prot and not no_execute else 0)


def key_forbids(access: Access, second: int) -> int:
    """PAGE_* bits that the virtual page class key takes away."""
    key = bits(second, 2, 3) << 3 | bits(second, 52, 54)
    forbidden = 0
    if bits(access.amr, 2 * key, 2 * key):
        forbidden |= WRITE
    if bits(access.amr, 2 * key + 1, 2 * key + 1):
        forbidden |= READ
    if bits(access.iamr, 2 * key + 1, 2 * key + 1):
        forbidden |= EXECUTE
    return forbidden


def translate(
    slb: Sequence[tuple[int, int]], table: Table, groups: int, access: Access
) -> tuple[Answer, int | None]:
    """The answer of an access that may set R and C, and the index of the entry it used."""
    vsid = find_segment(slb, access.ea)
    if vsid is None:
        return Answer(SEGMENT), None
    if access.need == EXECUTE and bits(vsid, 54, 54):
        return Answer(NO_EXECUTE), None
    found = find_entry(table, groups, vsid, access.ea)
    if found is None:
        return Answer(NO_PTE), None
    index, shift = found
    second = int(table[index, 1])
    prot = protection(vsid, second, access.user)
    if not prot & access.need:
        readable = access.need == EXECUTE and prot & READ
        return Answer(NO_EXECUTE if readable else PROTECTION), None
    forbidden = key_forbids(access, second)
    if forbidden & access.need:
        return Answer(KEY), None
    prot &= ~forbidden
    if not bits(second, 56, 56) and access.need != WRITE:
        prot &= ~WRITE  # the first store must come back to set C
    frame = bits(second, 4, 51) << 12 >> shift << shift
    return Answer(OK, frame | access.ea & (1 << shift) - 1, prot), index
