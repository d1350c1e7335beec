"""TCE windows and the hypercalls on them (LoPAPR 1.1, chapter 14)."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.memory.dma import Dma, DmaError
from emu.memory.ram import GuestRam
from machines.pseries import hcalls, papr, tce_hcalls
from machines.pseries.hcalls import Reply
from machines.pseries.papr import HcallNumber
from machines.pseries.tce import MAX_ENTRIES, TceTable, TceTables

RAM_SIZE = 1 << 20
LIOBN, PAGES, BASE = 0x80000000, 64, 1 << 40
PAGE = 4096
LIST = 0x4000
MASK = (1 << 64) - 1
H_GET_TCE, H_PUT_TCE = HcallNumber.H_GET_TCE, HcallNumber.H_PUT_TCE
H_STUFF_TCE, H_PUT_TCE_INDIRECT = HcallNumber.H_STUFF_TCE, HcallNumber.H_PUT_TCE_INDIRECT
assert tce_hcalls  # registers the handlers


class Guest:
    """A machine as far as TCE hypercalls see it."""

    def __init__(self) -> None:
        self.tces = TceTables()
        self.table = self.tces.add(LIOBN)
        self.table.enable(12, BASE, PAGES)
        self.tces.add(LIOBN + 1)
        self.dma = Dma(GuestRam(RAM_SIZE), lambda address, size: None)

    def call(self, number: HcallNumber, *arguments: int) -> tuple[int, list[int]]:
        """Code and results; a DMA error is H_PARAMETER, as the dispatcher has it."""
        machine: Any = SimpleNamespace(tces=self.tces, dma=self.dma)
        vcpu: Any = None
        try:
            reply = hcalls.HANDLERS[number](machine, vcpu, [*arguments, *[0] * 9][:9])
        except DmaError:
            reply = papr.H_PARAMETER
        return (reply.code, reply.values) if isinstance(reply, Reply) else (reply, [])

    def entries(self) -> list[int]:
        return [int(entry) for entry in self.table.entries]


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_put_and_get(guest: Guest) -> None:
    assert guest.call(H_PUT_TCE, LIOBN, BASE + 3 * PAGE + 5, MASK) == (papr.H_SUCCESS, [])
    assert guest.call(H_GET_TCE, LIOBN, BASE + 3 * PAGE) == (papr.H_SUCCESS, [MASK])
    assert guest.entries() == [0] * 3 + [MASK] + [0] * (PAGES - 4)


@pytest.mark.parametrize(
    ("liobn", "address"),
    [
        (LIOBN, BASE - 1),
        (LIOBN, BASE + PAGES * PAGE),
        (LIOBN, 0),
        (LIOBN, MASK),
        (LIOBN + 1, BASE),  # there is no window
        (LIOBN + 2, BASE),
        (LIOBN | 1 << 32, BASE),
    ],
)
def test_outside_every_window(guest: Guest, liobn: int, address: int) -> None:
    assert guest.call(H_PUT_TCE, liobn, address, 3)[0] == papr.H_PARAMETER
    assert guest.call(H_GET_TCE, liobn, address) == (papr.H_PARAMETER, [])
    assert guest.call(H_STUFF_TCE, liobn, address, 3, 1)[0] == papr.H_PARAMETER
    assert guest.call(H_PUT_TCE_INDIRECT, liobn, address, LIST, 1)[0] == papr.H_PARAMETER
    assert guest.entries() == [0] * PAGES


def test_stuff_fills_a_range(guest: Guest) -> None:
    assert guest.call(H_STUFF_TCE, LIOBN, BASE + PAGE, 0x7003, 2)[0] == papr.H_SUCCESS
    assert guest.entries()[:4] == [0, 0x7003, 0x7003, 0]
    assert guest.call(H_STUFF_TCE, LIOBN, BASE, 0, PAGES)[0] == papr.H_SUCCESS
    assert guest.entries() == [0] * PAGES


@pytest.mark.parametrize("count", [PAGES, MASK, 1 << 63])
def test_range_that_ends_outside_changes_nothing(guest: Guest, count: int) -> None:
    assert guest.call(H_STUFF_TCE, LIOBN, BASE + PAGE, 3, count)[0] == papr.H_PARAMETER
    code, _ = guest.call(H_PUT_TCE_INDIRECT, LIOBN, BASE + PAGE, LIST, count)
    assert code == papr.H_PARAMETER
    assert guest.entries() == [0] * PAGES


def test_indirect_takes_a_big_endian_list(guest: Guest) -> None:
    guest.dma.write(LIST, struct.pack(">3Q", 0x1003, 0x2001, MASK))
    code, _ = guest.call(H_PUT_TCE_INDIRECT, LIOBN, BASE + 61 * PAGE, LIST, 3)
    assert code == papr.H_SUCCESS
    assert guest.entries()[60:] == [0, 0x1003, 0x2001, MASK]


@pytest.mark.parametrize("source", [LIST + 8, RAM_SIZE, MASK & ~0xFFF])
def test_indirect_refuses_bad_lists(guest: Guest, source: int) -> None:
    assert guest.call(H_PUT_TCE_INDIRECT, LIOBN, BASE, source, 1)[0] == papr.H_PARAMETER


def test_indirect_takes_512_at_most(guest: Guest) -> None:
    guest.table.enable(12, BASE, 1024)
    assert guest.call(H_PUT_TCE_INDIRECT, LIOBN, BASE, LIST, 512)[0] == papr.H_SUCCESS
    assert guest.call(H_PUT_TCE_INDIRECT, LIOBN, BASE, LIST, 513)[0] == papr.H_PARAMETER


WORDS = st.one_of(
    st.integers(0, MASK),
    st.sampled_from([0, 1, 512, 513, LIOBN, LIOBN + 1, BASE, LIST, RAM_SIZE - PAGE, MASK]),
    st.integers(0, PAGES).map(lambda page: BASE + page * PAGE),
    st.integers(0, PAGES + 1),
)


@given(
    number=st.sampled_from([H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT]),
    liobn=st.one_of(st.just(LIOBN), WORDS),
    arguments=st.lists(WORDS, min_size=3, max_size=3),
)
def test_random_arguments_give_a_defined_code(
    number: HcallNumber, liobn: int, arguments: list[int]
) -> None:
    guest = Guest()
    code, values = guest.call(number, liobn, *arguments)
    assert code in (papr.H_SUCCESS, papr.H_PARAMETER)
    assert len(guest.entries()) == PAGES
    assert len(values) == (number is H_GET_TCE and code == papr.H_SUCCESS)


def test_window_size_is_limited() -> None:
    table = TceTable(LIOBN)
    assert not table.enable(12, 0, MAX_ENTRIES + 1)
    assert not table.enable(12, 0, 0)
    assert not table.enabled
    assert table.enable(12, 0, MAX_ENTRIES)


def test_liobn_is_given_once(guest: Guest) -> None:
    with pytest.raises(ValueError, match="exists"):
        guest.tces.add(LIOBN)


def test_translation_joins_neighbours(guest: Guest) -> None:
    guest.table.entries[:5] = [0x10003, 0x11003, 0x12003, 0x40003, 0x13003]
    translate = guest.tces.translate
    assert translate(LIOBN, BASE + 0x10, 0x20, True) == [(0x10010, 0x20)]
    assert translate(LIOBN, BASE + 0xFF0, 0x2000, False) == [(0x10FF0, 0x2000)]
    assert translate(LIOBN, BASE + 0x10, 5 * PAGE - 0x20, False) == [
        (0x10010, 3 * PAGE - 0x10),
        (0x40000, PAGE),
        (0x13000, PAGE - 0x10),
    ]
    assert translate(LIOBN, BASE, 0, False) == []


def test_translation_of_large_pages() -> None:
    table = TceTable(LIOBN)
    table.enable(16, BASE, 4)
    table.entries[:] = [0x30000 | 0xFFF, 0x40003, 0x10003, 3]
    assert table.translate(BASE + 0xFFFF, 2, True) == [(0x3FFFF, 2)]
    assert table.translate(BASE + 0x2FFFF, 2, True) == [(0x1FFFF, 1), (0, 1)]


@pytest.mark.parametrize(
    ("address", "size", "write"),
    [
        (BASE, 1, True),  # may only be read
        (BASE + PAGE, 1, False),  # may only be written
        (BASE + PAGE - 1, 2, False),
        (BASE + 2 * PAGE, 1, False),
        (BASE - 1, 2, False),
        (BASE + PAGES * PAGE - 1, 2, False),
        (0, 1 << 64, False),
    ],
)
def test_translation_checks_every_page(guest: Guest, address: int, size: int, write: bool) -> None:
    guest.table.entries[:2] = [0x10001, 0x11002]
    guest.table.entries[-1] = 0x10003
    with pytest.raises(DmaError):
        guest.tces.translate(LIOBN, address, size, write)


def test_translation_without_a_window(guest: Guest) -> None:
    with pytest.raises(DmaError):
        guest.tces.translate(LIOBN + 1, BASE, 1, False)


@given(
    entries=st.lists(st.integers(0, MASK), min_size=8, max_size=8),
    address=st.integers(0, 9 * PAGE),
    size=st.integers(1, 9 * PAGE),
    write=st.booleans(),
)
def test_translation_agrees_with_a_walk_by_bytes(
    entries: list[int], address: int, size: int, write: bool
) -> None:
    table = TceTable(LIOBN)
    table.enable(12, 0, 8)
    table.entries[:] = entries
    expected = []
    for place in range(address, address + size):
        entry = entries[place >> 12] if place < 8 * PAGE else 0
        if not entry & (2 if write else 1):
            with pytest.raises(DmaError):
                table.translate(address, size, write)
            return
        expected.append((entry & ~0xFFF) | (place & 0xFFF))
    pieces = table.translate(address, size, write)
    assert [at + n for at, length in pieces for n in range(length)] == expected
