"""Hash translation agrees with a slow model on random tables, segments and addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from emu.cpu.isa import Spr
from tests.support.bare import BareMachine, bare_machine
from tests.support.hash_model import OK, Access, translate
from tests.support.paging import (
    PAGE_LP,
    SEGMENT_L_LP,
    SHIFT_4K,
    HashTable,
    Page,
    Segment,
    set_slb,
)
from tests.support.translate import EXECUTE, READ, WRITE, ask

MAX_SEGMENTS = 4
U64 = st.integers(0, (1 << 64) - 1)
PAGES = st.builds(
    Page, st.integers(0, 7), st.integers(0, 31), *(st.booleans() for _ in ("g", "n", "r", "c"))
)
# Registers with few bits set let most accesses through
SPARSE = st.builds(lambda a, b: a & b, U64, U64) | st.just(0) | U64


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """A segment at one of few addresses, so that 256M and 1T segments overlap and meet."""
    terabyte = draw(st.booleans())
    ea = draw(st.sampled_from([0, 0x10000000, 0xC000000000000000, 0xD00001F0F0000000]))
    return Segment(
        ea,
        draw(st.integers(0, (1 << (38 if terabyte else 50)) - 1)),
        draw(st.sampled_from(sorted(SEGMENT_L_LP))),
        terabyte,
        *(draw(st.booleans()) for _ in ("ks", "kp", "n")),
    )


@st.composite
def offsets(draw: st.DrawFn) -> int:
    """An offset in a segment, mostly near its start."""
    if draw(st.booleans()):
        return draw(st.integers(0, (1 << 20) - 1))
    return draw(st.integers(0, (1 << 40) - 1))


@st.composite
def tables(
    draw: st.DrawFn, table: HashTable, known: list[Segment], targets: list[int]
) -> list[int]:
    """Fill a table with pages of known segments; returns entries' indices."""
    made = []
    for _ in range(draw(st.integers(0, 10))):
        segment = draw(st.sampled_from(known))
        ea = draw(st.sampled_from(targets))
        sizes = [actual for base, actual in PAGE_LP if base == segment.base_shift]
        sizes += [SHIFT_4K] if segment.base_shift == SHIFT_4K else []
        secondary = draw(st.booleans())
        slot = draw(st.integers(0, 7))
        real = draw(st.integers(0, (1 << 60) - 1))
        shift = draw(st.sampled_from(sizes))
        index = table.insert(
            segment, ea, real, draw(PAGES), actual_shift=shift, secondary=secondary, slot=slot
        )
        damage = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 4, 0x80, 1 << 62]))
        table.words[index, 0] = int(table.words[index, 0]) ^ damage
        table.words[index, 1] = int(table.words[index, 1]) ^ draw(st.sampled_from([0, 0, 0x1000]))
        made.append(index)
    return made


@pytest.fixture(scope="module")
def guest() -> Iterator[BareMachine]:
    with bare_machine() as machine:
        yield machine


@given(data=st.data())
def test_hash_translation_is_that_of_the_model(guest: BareMachine, data: st.DataObject) -> None:
    guest.vcpu.reset_state()
    table = HashTable(guest)
    guest.tables = table
    known = data.draw(st.lists(segments(), min_size=1, max_size=MAX_SEGMENTS))
    for index, segment in enumerate(known):
        set_slb(guest.vcpu, index, segment)
    slb = [(segment.esid_word, segment.vsid_word) for segment in known]
    targets = [
        data.draw(st.sampled_from(known)).ea + data.draw(offsets())
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    data.draw(tables(table, known, targets))
    for _ in range(6):
        access = Access(
            data.draw(st.sampled_from(targets)) ^ data.draw(st.integers(0, 0xFFFF)),
            data.draw(st.sampled_from([READ, WRITE, EXECUTE])),
            data.draw(st.booleans()),
            data.draw(SPARSE),
            data.draw(SPARSE),
        )
        check(guest, table, slb, access)


def check(guest: BareMachine, table: HashTable, slb: list[tuple[int, int]], access: Access) -> None:
    """One access in the emulator and in the model; and what it left in the table."""
    guest.vcpu.set_spr(Spr.AMR, access.amr)
    guest.vcpu.set_spr(Spr.IAMR, access.iamr)
    before = table.words.copy()
    expected, index = translate(slb, table.words, 1 << (table.shift - 7), access)
    event(f"fault {expected.fault}")
    looked = ask(guest, access.ea, access.need, user=access.user, update=False)
    assert (table.words == before).all()
    assert (looked.fault, looked.real) == (expected.fault, expected.real)
    assert ask(guest, access.ea, access.need, user=access.user) == expected
    if expected.fault == OK:
        assert index is not None
        before[index, 1] |= 0x100 | (0x80 if access.need == WRITE else 0)
    assert (table.words == before).all()
