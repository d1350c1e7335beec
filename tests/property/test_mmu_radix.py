"""Radix translation agrees with a slow model on random trees and addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from emu.cpu.isa import Spr
from tests.support.bare import BareMachine, bare_machine
from tests.support.hash_model import Access
from tests.support.radix_model import OK, Space, translate
from tests.support.translate import EXECUTE, READ, WRITE, ask

RAM = 1 << 20
PROCESS_TABLE, TABLES, ROOM = 0x1000, 0x20000, 0x70000
U64 = st.integers(0, (1 << 64) - 1)
SPARSE = st.builds(lambda a, b: a & b, U64, U64) | st.just(0) | U64
RARELY = st.sampled_from([False] * 7 + [True])


class Tree:
    """A random tree grown along one address."""

    def __init__(self, guest: BareMachine, draw: Callable[..., Any], base: int) -> None:
        self._dma = guest.partition.dma
        self._draw = draw
        self._free = base
        width = draw(st.sampled_from([52, 52, 40, 31, 62]) | st.integers(31, 62))
        self.offset = draw(st.integers(0, (1 << width) - 1))
        size, table = self._level(width)
        rts = width - 31
        self.entry = rts >> 3 << 61 | (rts & 7) << 5 | table | size
        if draw(RARELY):
            self.entry = draw(U64)
        self._grow(table, size, width)

    def _level(self, left: int) -> tuple[int, int]:
        """Size and place of the next table."""
        size = min(self._draw(st.integers(1, 13)), left - 12) if left > 12 else 1
        table = self._free
        self._free += max(256, 8 << size)
        if self._draw(RARELY):
            return self._draw(st.integers(0, 31)), self._draw(st.integers(0, 1 << 52)) << 8
        return size, table

    def _grow(self, table: int, size: int, left: int) -> None:
        while 0 < size <= left and left - size >= 12:
            left -= size
            where = table + 8 * (self.offset >> left & (1 << size) - 1)
            if where + 8 > RAM:
                return
            if left < 13 or self._draw(st.integers(0, 3)) == 0:
                self._dma.write_u64_be(where, self._leaf(left))
                return
            size, table = self._level(left)
            entry = 1 << 63 | table | size
            self._dma.write_u64_be(where, 0 if self._draw(RARELY) else entry)

    def _leaf(self, shift: int) -> int:
        valid = 0 if self._draw(RARELY) else 1 << 63
        real = self._draw(st.integers(0, (1 << 57) - 1)) >> shift << shift & 0x01FFFFFFFFFFF000
        authority = self._draw(st.integers(0, 15))
        attributes = self._draw(st.sampled_from([0, 0x20, 0x30]))
        used = self._draw(st.sampled_from([0, 0x100, 0x180]))
        return int(valid | 1 << 62 | real | authority | attributes | used)


@pytest.fixture(scope="module")
def guest() -> Iterator[BareMachine]:
    with bare_machine("power9", ram=RAM) as machine:
        machine.partition.record["radix"] = 1
        yield machine


@given(data=st.data())
def test_radix_translation_is_that_of_the_model(guest: BareMachine, data: st.DataObject) -> None:
    dma, record = guest.partition.dma, guest.partition.record
    dma.fill(PROCESS_TABLE, 0x1000)
    dma.fill(TABLES, 2 * ROOM)
    pid = data.draw(st.integers(1, 255))
    trees = [Tree(guest, data.draw, TABLES), Tree(guest, data.draw, TABLES + ROOM)]
    dma.write_u64_be(PROCESS_TABLE, trees[0].entry)
    dma.write_u64_be(PROCESS_TABLE + 16 * pid, trees[1].entry)
    base = data.draw(st.sampled_from([PROCESS_TABLE] * 5 + [RAM - 16, RAM - 8]))
    size = data.draw(st.sampled_from([0x1000] * 5 + [16 * pid, 16]))
    record["process_table"], record["process_table_size"] = base, size
    guest.vcpu.set_spr(Spr.PID, pid)
    space = Space(dma.read_u64_be, RAM, base, size)
    for _ in range(6):
        quadrant = data.draw(st.sampled_from([0, 0, 3, 3, 1, 2]))
        offset = trees[quadrant == 0].offset ^ data.draw(st.sampled_from([0, 1, 0xFFF, 1 << 40]))
        access = Access(
            quadrant << 62 | offset & (1 << 62) - 1,
            data.draw(st.sampled_from([READ, WRITE, EXECUTE])),
            data.draw(st.booleans()),
            data.draw(SPARSE),
            data.draw(SPARSE),
        )
        check(guest, space, access, pid)


def check(guest: BareMachine, space: Space, access: Access, pid: int) -> None:
    """One access in the emulator and in the model; and what it left in the tree."""
    guest.vcpu.set_spr(Spr.AMR, access.amr)
    guest.vcpu.set_spr(Spr.IAMR, access.iamr)
    before = guest.ram.view.copy()
    expected, leaf = translate(space, access, pid)
    event(f"fault {expected.fault}")
    looked = ask(guest, access.ea, access.need, user=access.user, update=False)
    assert (looked.fault, looked.real) == (expected.fault, expected.real)
    assert np.array_equal(guest.ram.view, before)
    assert ask(guest, access.ea, access.need, user=access.user) == expected
    if expected.fault == OK:
        assert leaf is not None
        where, value = leaf
        before[where : where + 8] = np.frombuffer(value.to_bytes(8, "big"), np.uint8)
    assert np.array_equal(guest.ram.view, before)
