"""Radix translation done slowly, field by field (Power ISA v3.0B, book III, 5.7.10).

Bits are numbered as in the ISA: 0 is the most significant of a doubleword.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.hash_model import Access, bits
from tests.support.translate import EXECUTE, READ, WRITE, Answer

OK, NO_PTE, PROTECTION, NO_EXECUTE, SEGMENT, _KEY, BAD_CONFIG = range(7)
ReadDoubleword = Callable[[int], int]


@dataclass(frozen=True)
class Space:
    """Where a guest's tables lie; ``read`` gives the big-endian doubleword at a real address."""

    read: ReadDoubleword
    ram_size: int
    process_table: int
    process_table_size: int


class _FaultError(Exception):
    """Translation ends."""

    def __init__(self, number: int) -> None:
        self.number = number


def _process_entry(space: Space, access: Access, pid: int) -> int:
    quadrant = bits(access.ea, 0, 1)
    if quadrant in (1, 2):
        raise _FaultError(SEGMENT)
    offset = 16 * (pid if quadrant == 0 else 0)
    if offset >= space.process_table_size:
        raise _FaultError(NO_PTE)
    if space.process_table + offset + 16 > space.ram_size:
        raise _FaultError(BAD_CONFIG)
    return space.read(space.process_table + offset)


def _walk(space: Space, entry: int, ea: int) -> tuple[int, int, int]:
    """(address of the leaf, leaf, log2 of the page size)."""
    width = (bits(entry, 1, 2) << 3 | bits(entry, 56, 58)) + 31
    if width > 62:
        raise _FaultError(BAD_CONFIG)
    offset = bits(ea, 2, 63)
    if offset >= 1 << width:
        raise _FaultError(SEGMENT)
    table, size, left = bits(entry, 4, 55) << 8, bits(entry, 59, 63), width
    while True:
        if size == 0 or left - size < 12:
            raise _FaultError(BAD_CONFIG)
        left -= size
        where = table + 8 * (offset >> left & (1 << size) - 1)
        if where + 8 > space.ram_size:
            raise _FaultError(BAD_CONFIG)
        pte = space.read(where)
        if not bits(pte, 0, 0):
            raise _FaultError(NO_PTE)
        if bits(pte, 1, 1):
            return where, pte, left
        table, size = bits(pte, 4, 55) << 8, bits(pte, 59, 63)


def _protection(access: Access, pte: int) -> int:
    privileged = bits(pte, 60, 60)
    if privileged and access.user:
        return 0
    prot = READ if bits(pte, 61, 61) else 0
    prot |= READ | WRITE if bits(pte, 62, 62) else 0
    prot |= EXECUTE if bits(pte, 63, 63) else 0
    if bits(pte, 58, 59) == 0b10:  # non-idempotent I/O
        prot &= ~EXECUTE
    if not privileged and not access.user:  # key 0
        prot &= ~(WRITE if bits(access.amr, 0, 0) else 0)
        prot &= ~(READ if bits(access.amr, 1, 1) else 0)
        prot &= ~(EXECUTE if bits(access.iamr, 1, 1) else 0)
    return prot


def translate(space: Space, access: Access, pid: int) -> tuple[Answer, tuple[int, int] | None]:
    """The answer of an access that may set R and C, and (address, value) of the leaf after it."""
    try:
        where, pte, shift = _walk(space, _process_entry(space, access, pid), access.ea)
    except _FaultError as fault:
        return Answer(fault.number), None
    if access.need == EXECUTE and bits(pte, 58, 59) == 0b10:
        return Answer(NO_EXECUTE), None
    prot = _protection(access, pte)
    if not prot & access.need:
        return Answer(PROTECTION), None
    pte |= 0x100 | (0x80 if access.need == WRITE else 0)
    if not pte & 0x80:
        prot &= ~WRITE  # the first store must come back to set C
    frame = bits(pte, 7, 51) << 12 >> shift << shift
    return Answer(OK, frame | access.ea & (1 << shift) - 1, prot), (where, pte)
